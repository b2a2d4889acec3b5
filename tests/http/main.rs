//! The HTTP contract, through the router in process.

mod changes;
mod client;
mod clients;
#[path = "../common/mod.rs"]
mod common;
mod conditions;
mod console;
mod dialects;
mod documents;
mod embed;
mod hostile;
mod idempotency;
mod leases;
mod many;
mod metrics;
mod once;
mod openapi;
mod operations;
mod pages;
mod patches;
mod problems;
mod resource;
mod settings;
mod tokens;
