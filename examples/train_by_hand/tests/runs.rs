//! Both programs run, learn, and leave a model.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::process::Command;

#[test]
fn both_programs_learn_and_leave_a_model() {
    for program in [env!("CARGO_BIN_EXE_train-by-hand"), env!("CARGO_BIN_EXE_own_optimizer")] {
        let dir = tempfile::tempdir().unwrap();
        let ran = Command::new(program).arg(dir.path()).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let said = String::from_utf8(ran.stdout).unwrap();
        let losses: Vec<f64> =
            said.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(losses.len(), 60, "{said}");
        assert!(losses[59] < losses[0] - 0.5, "{said}");
        assert!(dir.path().join("model.safetensors").exists());
    }
}
