//! The tools that look after a store, over stores in every state, and beside one that runs.

#![allow(unreachable_pub, reason = "a test is a crate of its own")]

mod backup;
mod chance;
mod dump;
mod history;
mod repair;
mod support;
mod verify;
