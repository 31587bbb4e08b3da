//! Sources that are far, on a stand-in for the Hub: every case ends in the right bytes or in a clear error, never in a bad
//! file.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

#[path = "hub/server.rs"]
mod server;

#[path = "hub/cache.rs"]
mod cache;
#[path = "hub/faults.rs"]
mod faults;
#[path = "hub/fixture.rs"]
mod fixture;
#[path = "hub/kill.rs"]
mod kill;
#[path = "hub/python.rs"]
mod python;
#[path = "hub/web.rs"]
mod web;
#[path = "hub/whole.rs"]
mod whole;
