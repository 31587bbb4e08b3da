//! Optimizers over slabs of equal shapes: AdamW, Muon with NorMuon, schedules, groups.
