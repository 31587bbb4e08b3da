//! The README's Python, run as it stands there.

use crate::common;

use common::packed;
use farthing_data::Rows;
use std::process::Command;

#[test]
fn the_lines_in_the_readme_read_a_packed_folder() {
    let python = std::env::var("FARTHING_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import numpy, safetensors"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!(
            "skipped: {python} with numpy and safetensors is not there; FARTHING_PYTHON names another"
        );
        return;
    }
    let readme = include_str!("../README.md");
    let (_, snippet) = readme.split_once("```python\n").unwrap();
    let (snippet, _) = snippet.split_once("```").unwrap();
    let p = packed();
    let dir = p.dir.path().join("rows");
    let output = Command::new(&python).args(["-c", snippet]).arg(&dir).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    let rows = Rows::open(&dir).unwrap();
    let sum: u64 = (0..rows.len()).flat_map(|i| rows.row(i).unwrap().to_vec()).map(u64::from).sum();
    let want = format!("{} {} uint16 {sum}", rows.len(), rows.row_tokens() - 1);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), want);
}
