//! Snapshots: written beside running writers, exact together with the log, never needed alone.

#![allow(unreachable_pub, reason = "its modules share what they need")]

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod fuzzy;
mod history;
mod keeping;
mod support;
mod watched;
