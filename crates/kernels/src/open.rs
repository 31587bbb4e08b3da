//! Opening a device by name: "cpu", "reference", "cuda", "cuda:1", "emulated".

use std::fmt;
use std::str::FromStr;

use crate::cpu::Cpu;
#[cfg(any(feature = "emulator", feature = "nvidia"))]
use crate::cuda::Cuda;
use crate::reference::Reference;
use crate::{Device, Error, Result};

/// Which device to open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DeviceKind {
    /// All cores, in f32.
    Cpu,
    /// One thread, in f64: the definition.
    Reference,
    /// The CUDA device with this ordinal.
    Cuda(u32),
    /// The CUDA device's kernels, executed and checked on the host: slow, for finding out what a kernel does.
    Emulated,
}

impl FromStr for DeviceKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let ordinal = |n: &str| n.parse().ok().map(Self::Cuda);
        let kind = match name {
            "cpu" => Some(Self::Cpu),
            "reference" => Some(Self::Reference),
            "cuda" => Some(Self::Cuda(0)),
            "emulated" => Some(Self::Emulated),
            _ => name.strip_prefix("cuda:").and_then(ordinal),
        };
        kind.ok_or_else(|| Error::Unavailable {
            what: format!("no device is called `{name}`"),
            hint: "use cpu, reference, cuda, cuda:N or emulated".into(),
        })
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Reference => write!(f, "reference"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Emulated => write!(f, "emulated"),
        }
    }
}

/// Opens a device. `threads` is how many the `cpu` device uses, 0 for one per core; others have no use for it.
///
/// # Errors
/// [`Error::Unavailable`], with a hint, when this build or machine lacks the device.
pub fn open(kind: DeviceKind, threads: usize) -> Result<Box<dyn Device>> {
    match kind {
        DeviceKind::Cpu => Ok(Box::new(Cpu::new(threads)?)),
        DeviceKind::Reference => Ok(Box::new(Reference::new())),
        #[cfg(feature = "emulator")]
        DeviceKind::Emulated => Ok(Box::new(Cuda::emulated()?)),
        #[cfg(feature = "nvidia")]
        DeviceKind::Cuda(ordinal) => Ok(Box::new(Cuda::open(ordinal)?)),
        #[cfg(not(all(feature = "emulator", feature = "nvidia")))]
        kind => Err(left_out(kind)),
    }
}

/// The error for a device that this build was made without.
#[cfg(not(all(feature = "emulator", feature = "nvidia")))]
fn left_out(kind: DeviceKind) -> Error {
    let feature = if kind == DeviceKind::Emulated { "emulator" } else { "nvidia" };
    Error::Unavailable {
        what: format!("this build has no device `{kind}`"),
        hint: format!("build farthing-kernels with its feature `{feature}`"),
    }
}

#[cfg(test)]
mod tests {
    use farthing_base::Hint;

    use super::{DeviceKind, open};

    #[test]
    fn names_parse_and_print() {
        for (name, kind) in [
            ("cpu", DeviceKind::Cpu),
            ("reference", DeviceKind::Reference),
            ("cuda:0", DeviceKind::Cuda(0)),
            ("cuda:7", DeviceKind::Cuda(7)),
            ("emulated", DeviceKind::Emulated),
        ] {
            assert_eq!(name.parse::<DeviceKind>().unwrap(), kind);
            assert_eq!(kind.to_string(), name);
        }
        assert_eq!("cuda".parse::<DeviceKind>().unwrap(), DeviceKind::Cuda(0));
    }

    #[test]
    fn unknown_names_say_what_there_is() {
        for name in ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let message = name.parse::<DeviceKind>().unwrap_err().with_hint();
            assert!(message.contains(&format!("`{name}`")), "{message}");
            assert!(
                message.ends_with("hint: use cpu, reference, cuda, cuda:N or emulated"),
                "{message}"
            );
        }
    }

    #[test]
    fn cuda_opens_or_says_what_is_missing() {
        match open(DeviceKind::Cuda(7), 0) {
            Ok(dev) => assert_eq!(dev.name(), "cuda:7"),
            Err(error) => {
                let message = error.with_hint();
                assert!(message.starts_with("cuda:7 cannot be opened: "), "{message}");
                assert!(message.contains("\nhint: "), "{message}");
            }
        }
        assert_eq!(open(DeviceKind::Reference, 0).unwrap().name(), "reference");
    }
}
