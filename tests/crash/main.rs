//! Nothing is lost: crashes at every call of recorded runs, and disks that fail at every call.

#![allow(unreachable_pub, reason = "the modules of a test are its own")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../proof/mod.rs"]
mod proof;

mod campaign;
mod faults;
mod history;
mod life;
mod mutants;
mod unsynced;
mod watching;
mod whole;
