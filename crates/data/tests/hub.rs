//! Sources that are far, on a stand-in for the Hub: every case ends in the right bytes or in a clear error, never in a bad
//! file.

mod server;

mod cache;
mod faults;
pub(crate) mod fixture;
mod kill;
mod lines;
mod one;
mod python;
mod web;
mod whole;
