//! The HTTP contract, through the router in process.

// Helpers of tests fail the test that calls them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod client;
mod clients;
mod conditions;
mod documents;
mod hostile;
mod pages;
mod problems;
