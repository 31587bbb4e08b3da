//! Every schedule at every step of runs of 30, 500 and 16,704 steps, against what nanochat's own functions give.

use std::path::Path;

use farthing_base::tensors::TensorFile;
use farthing_optim::OptimPreset;

/// Two settings of one libm give equal bits; another library's `cos` may differ in its last place, 2⁻⁵³ near 1.
const LAST_PLACE: f64 = 1.0 / (1u64 << 52) as f64;

fn numbers(file: &TensorFile, name: &str) -> Vec<f64> {
    let bytes = file.bytes(name).unwrap();
    bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_step_is_nanochats() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schedules.safetensors");
    let file = TensorFile::open(&path).unwrap();
    println!("{}", file.metadata("origin").unwrap());
    for (setting, preset) in
        [("january", OptimPreset::January2026), ("july", OptimPreset::July2026)]
    {
        let schedule = preset.schedule();
        for n in [30, 500, 16_704] {
            let of = |what: &str| numbers(&file, &format!("{setting}.{n}.{what}"));
            // nanochat's functions give the weight decay itself: the setting's, times the factor.
            let decay = of("weight_decay_at_0")[0];
            let ours: [(&str, Vec<f64>); 3] = [
                ("lr", (0..n).map(|t| schedule.at(t, n).lr).collect()),
                ("momentum", (0..n).map(|t| schedule.at(t, n).momentum).collect()),
                ("weight_decay", (0..n).map(|t| decay * schedule.at(t, n).weight_decay).collect()),
            ];
            for (what, ours) in ours {
                let theirs = of(what);
                assert_eq!(theirs.len() as u64, n);
                let differ = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
                let largest =
                    ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                println!(
                    "{setting:<8} N = {n:>6}  {what:<13} {differ:>5} of {n:>6} steps differ, by {largest:.1e} at most"
                );
                assert!(largest <= LAST_PLACE, "{setting} {n} {what}: {largest:e}");
                assert!(what == "weight_decay" || differ == 0, "{setting} {n} {what}: {differ}");
            }
        }
    }
}
