//! Parquet text to packed, memory-mapped training rows.
