//! The `cpu` device: f32 on all cores.
