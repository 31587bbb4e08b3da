//! Pipelines of typed, cached stages, and the runner binary.
