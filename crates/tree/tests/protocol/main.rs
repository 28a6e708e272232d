//! Tests of the whole protocol: several nodes on a virtual network, and the documentation that must agree with them.

mod docs;
mod model;
mod net;
mod scripts;
