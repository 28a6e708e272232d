//! The store from outside: semantics rule by rule, random commands against a naive model, watches, snapshots, damage.

mod damage;
mod harness;
mod model;
mod pieces;
mod power_loss;
mod random;
mod random_watches;
mod semantics;
mod snapshots;
mod threads;
mod watches;
