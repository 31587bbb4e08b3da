#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("farthing-fuzz-manifest-{}", std::process::id()));
    farthing_data_fuzz::manifest_folder(&dir);
    dir
});

fuzz_target!(|input: &[u8]| farthing_data_fuzz::manifest(input, &DIR));
