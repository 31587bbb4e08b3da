//! The GPT: configuration, parameters, forward, backward, generation, checkpoints.
