//! The product as its user meets it: the real binary on a pipeline of seconds, from raw text to a report.
//! The framework around the stages has its own tests in `tests/runner`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bundle;
mod cache;
mod chat;
mod continued;
mod damage;
mod eval;
mod export;
mod faults;
mod fuzz;
mod guide;
mod harness;
mod hostile;
mod hub;
mod kill;
mod lying_models;
mod others_store;
mod own_text;
mod processes;
mod ranks;
mod report;
mod resume;
mod secrets;
#[path = "../../../data/tests/hub/server.rs"]
mod server;
mod stderr;
mod talk;
mod truth;
mod variants;
