//! Operations: one at a time within a scope, whoever asks, and nobody kept in the dark.

#![allow(unreachable_pub, reason = "its modules share what they need")]

#[path = "../common/mod.rs"]
mod common;
mod bounds;
mod crash;
mod expiry;
mod leasing;
mod model;
mod steps;
mod support;
mod waiting;
