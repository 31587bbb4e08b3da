//! The `reference` device: plain f64 loops, the definition of every operation.
