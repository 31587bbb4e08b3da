//! What a process says while it runs.

use std::io::Read;
use std::process::Child;

/// Reads a process's standard error up to the end of the line that has this in it. What follows is left to whoever
/// reads the rest.
pub(crate) fn read_to_line(child: &mut Child, wanted: &str) {
    let stderr = child.stderr.as_mut().unwrap();
    let (mut said, mut line) = (Vec::new(), Vec::new());
    let mut byte = [0];
    // Byte by byte, so that none is taken from the next reader.
    while stderr.read(&mut byte).unwrap() > 0 {
        line.push(byte[0]);
        if byte[0] == b'\n' {
            if String::from_utf8_lossy(&line).contains(wanted) {
                return;
            }
            said.append(&mut line);
        }
    }
    panic!("no line with `{wanted}` in:\n{}", String::from_utf8_lossy(&said));
}
