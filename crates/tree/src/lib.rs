//! The listener-tree protocol.
#![no_std]
extern crate alloc;
