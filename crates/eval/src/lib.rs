//! Bits per byte and CORE.
