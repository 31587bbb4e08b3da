//! What several ranks tell each other: [`Comm`], one seam for sums of gradients, weights and a few bytes, with [`One`], [`Threads`] and [`Planned`] behind it.
#![doc = include_str!("../README.md")]

mod comm;
mod error;
mod group;
mod one;
mod planned;
mod sum;
mod threads;

pub use comm::Comm;
pub use error::{Error, Result};
pub use one::One;
pub use planned::{Planned, Sent};
pub use threads::Threads;
