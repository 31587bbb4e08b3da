//! Any bytes: parsing and decoding give a module or an error.
//!
//! `mkdir -p corpus/parse && cp ../tests/kernels/*.ptx corpus/parse/ && cargo +nightly fuzz run parse`
#![no_main]

use libfuzzer_sys::fuzz_target;
use ptx_emulator::Module;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(module) = Module::parse(text) {
        let names: Vec<String> = module.kernels().map(str::to_owned).collect();
        for name in names {
            if let Err(e) = module.kernel(&name) {
                assert!(!e.to_string().is_empty());
            }
        }
    }
});
