//! PTX text to words, numbers' digits, strings and punctuation, each with its line. Comments vanish here.

/// One token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// A name, a mnemonic with its modifiers, a directive or a number.
    Word(&'a str),
    /// The inside of a quoted string.
    Text(&'a str),
    /// Any other character.
    Mark(char),
}

/// A token and the 1-based line it starts on.
pub(crate) type Located<'a> = (Token<'a>, u32);

fn in_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

/// Splits `text`; the error is a line and what is wrong there.
pub(crate) fn tokens(text: &str) -> Result<Vec<Located<'_>>, (u32, String)> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1u32);
    let mut out = Vec::new();
    while at < bytes.len() {
        let c = bytes[at];
        if c == b'\n' {
            line += 1;
            at += 1;
        } else if c.is_ascii_whitespace() || c == 0 {
            at += 1;
        } else if bytes[at..].starts_with(b"//") {
            while at < bytes.len() && bytes[at] != b'\n' {
                at += 1;
            }
        } else if bytes[at..].starts_with(b"/*") {
            let from = line;
            at += 2;
            while !bytes[at..].starts_with(b"*/") {
                if at >= bytes.len() {
                    return Err((from, "a comment without an end".into()));
                }
                line += u32::from(bytes[at] == b'\n');
                at += 1;
            }
            at += 2;
        } else if c == b'"' {
            let from = at + 1;
            let Some(length) = bytes[from..].iter().position(|&c| c == b'"' || c == b'\n') else {
                return Err((line, "a string without an end".into()));
            };
            if bytes[from + length] == b'\n' {
                return Err((line, "a string without an end".into()));
            }
            out.push((Token::Text(&text[from..from + length]), line));
            at = from + length + 1;
        } else if in_word(c) {
            let from = at;
            while at < bytes.len() {
                if in_word(bytes[at]) {
                    at += 1;
                } else if bytes[at..].starts_with(b"::")
                    && bytes.get(at + 2).is_some_and(|&c| c.is_ascii_alphanumeric())
                {
                    at += 2; // shared::cta
                } else {
                    break;
                }
            }
            out.push((Token::Word(&text[from..at]), line));
        } else if c.is_ascii_graphic() {
            out.push((Token::Mark(c as char), line));
            at += 1;
        } else {
            return Err((line, format!("byte {c:#04x} is not PTX")));
        }
    }
    Ok(out)
}
