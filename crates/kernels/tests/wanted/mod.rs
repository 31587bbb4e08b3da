//! Which devices a run of the tests is about: all that are present, or those that `FARTHING_TEST_DEVICES` names ("cuda:0,emulated"), which
//! then have to be there.

use farthing_kernels::DeviceKind;

/// What to do about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Nothing: others were named.
    No,
    /// Test it, or say why it is skipped.
    IfPresent,
    /// Test it, or fail.
    Required,
}

pub(crate) fn wanted(kind: DeviceKind) -> Wanted {
    let Ok(names) = std::env::var("FARTHING_TEST_DEVICES") else { return Wanted::IfPresent };
    let named = names.split(',').any(|name| {
        name.trim().parse::<DeviceKind>().unwrap_or_else(|e| panic!("FARTHING_TEST_DEVICES: {e}"))
            == kind
    });
    if named { Wanted::Required } else { Wanted::No }
}
