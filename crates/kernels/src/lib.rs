//! Tensors and every operation of a training step, on each device.
