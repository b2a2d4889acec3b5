//! The change feed (G9): complete and in order, or it says that it is not.

#![allow(unreachable_pub, reason = "its modules share what they need")]

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod gaps;
mod order;
mod past;
mod support;
mod waiting;
