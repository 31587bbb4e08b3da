//! The two sets of PTX: one for every GPU from Ampere on, one for Hopper's own instructions.

/// A folder of `ptx/`, with what its files are compiled and assembled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// `cu/*.cu`: runs on compute capability 8.0 and everything newer.
    Sm80,
    /// `cu/sm90a/*.cu`: wgmma and TMA, which no other architecture has.
    Sm90a,
}

impl Set {
    /// The folder's name in `ptx/`.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Sm80 => "sm80",
            Self::Sm90a => "sm90a",
        }
    }

    /// nvcc's `-arch`.
    pub(crate) fn compute(self) -> &'static str {
        match self {
            Self::Sm80 => "compute_80",
            Self::Sm90a => "compute_90a",
        }
    }

    /// The PTX version that the code is declared to be. nvcc writes its own newest, which asks for a driver as new; what the code needs is far
    /// older: 7.8 belongs to CUDA 11.8 (driver 520), 8.0 to CUDA 12.0 (driver 525).
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::Sm80 => "7.8",
            Self::Sm90a => "8.0",
        }
    }

    /// What it is assembled for, to see that it can be and at which price.
    pub(crate) fn architectures(self) -> &'static [&'static str] {
        match self {
            Self::Sm80 => &["sm_80", "sm_90a", "sm_100", "sm_120"],
            Self::Sm90a => &["sm_90a"],
        }
    }
}
