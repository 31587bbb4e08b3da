//! Text files that people write and edit: UTF-8, and in words what else a file is.

/// The text of a file; else what is wrong with it, with a hint.
pub(crate) fn text(bytes: Vec<u8>) -> Result<String, String> {
    let error = match String::from_utf8(bytes) {
        // UTF-16 without a mark at its start is UTF-8 to the letter, if it has nothing but ASCII.
        Ok(text) => match zeros(text.as_bytes()) {
            Some(encoding) => return Err(wide(encoding)),
            None => return Ok(text),
        },
        Err(error) => error,
    };
    let at = error.utf8_error().valid_up_to();
    let bytes = error.into_bytes();
    let marks: [(&[u8], &str); 4] = [
        (&[0xFF, 0xFE, 0, 0], "UTF-32"),
        (&[0, 0, 0xFE, 0xFF], "UTF-32"),
        (&[0xFF, 0xFE], "UTF-16"),
        (&[0xFE, 0xFF], "UTF-16"),
    ];
    let marked = marks.iter().find(|(mark, _)| bytes.starts_with(mark)).map(|(_, name)| *name);
    if let Some(encoding) = marked.or_else(|| zeros(&bytes)) {
        return Err(wide(encoding));
    }
    let before = String::from_utf8_lossy(&bytes[..at]);
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.rsplit('\n').next().map_or(0, |start| start.chars().count());
    Err(format!(
        "it is not UTF-8: line {line}, column {column} has the byte 0x{:02X}\n\
         hint: save it as UTF-8; if it is Latin-1, `iconv -f LATIN1 -t UTF-8 OLD > NEW` does that",
        bytes[at]
    ))
}

/// The encoding in which every second or fourth byte of plain text is 0.
fn zeros(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(64)];
    let zeros = start.split(|&b| b == 0).count() - 1;
    match zeros * 4 / start.len().max(1) {
        3.. => Some("UTF-32"),
        _ if zeros * 3 > start.len() => Some("UTF-16"),
        _ => None,
    }
}

fn wide(encoding: &str) -> String {
    format!(
        "it is encoded as {encoding}, expected UTF-8\n\
         hint: save it as UTF-8; PowerShell's `>` writes UTF-16, `| Set-Content -Encoding utf8 FILE` does not, \
         and `iconv -f {encoding} -t UTF-8 OLD > NEW` makes the one of the other"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_encodings_are_named() {
        let written = "[pipeline]\nname = \"é\"\n";
        assert_eq!(text(written.into()).as_deref(), Ok(written));
        let low: Vec<u8> = written.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let high: Vec<u8> = written.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let ascii: Vec<u8> = "[pipeline]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let long: Vec<u8> = written.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        let mark = |mark: &[u8], rest: &[u8]| [mark, rest].concat();
        for (bytes, name) in [
            (mark(&[0xFF, 0xFE], &low), "UTF-16"),
            (mark(&[0xFE, 0xFF], &high), "UTF-16"),
            (low, "UTF-16"),
            (high, "UTF-16"),
            (ascii, "UTF-16"),
            (mark(&[0xFF, 0xFE, 0, 0], &long), "UTF-32"),
            (long, "UTF-32"),
        ] {
            let fault = text(bytes).unwrap_err();
            assert!(fault.contains(&format!("encoded as {name}")), "{fault}");
            assert!(fault.contains("\nhint: save it as UTF-8"), "{fault}");
        }
        let latin: Vec<u8> = written.chars().map(|c| c as u8).collect();
        let fault = text(latin).unwrap_err();
        assert!(fault.contains("line 2, column 9 has the byte 0xE9"), "{fault}");
    }
}
