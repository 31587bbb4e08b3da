//! Shape checks, one per operation, shared by all devices.
