//! Communication between the ranks of a training: sums of gradients, weights, and a few bytes now and then. [`Comm`] is the trait; [`One`], [`Threads`] and [`PlannedComm`] are its simplest
//! implementations.
#![doc = include_str!("../README.md")]

mod comm;
mod error;
mod group;
mod job;
mod launch;
#[cfg(unix)]
mod mpi;
#[cfg(feature = "nvidia")]
mod nccl;
mod one;
mod peers;
mod pending;
mod planned;
mod sum;
mod threads;

pub use comm::{Comm, Control};
pub use error::{Error, Result};
pub use job::{Engine, Job, SECRET};
pub use launch::{Launch, Launcher};
#[cfg(unix)]
pub use mpi::{Mpi, MpiWorld};
#[cfg(feature = "nvidia")]
pub use nccl::Nccl;
pub use one::One;
pub use peers::{About, Patience, Peers, Secret};
pub use pending::Pending;
pub use planned::{PlannedComm, Sent};
pub use threads::Threads;
