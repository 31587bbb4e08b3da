//! `Traced`: a wrapper that records what any device did.
