//! The store from outside: random commands against a naive model.

#[allow(dead_code)]
mod harness;
mod model;
mod random;
