//! The HTTP contract, through the router in process.

mod client;
mod clients;
mod conditions;
mod documents;
mod hostile;
mod idempotency;
mod many;
mod pages;
mod patches;
mod problems;
