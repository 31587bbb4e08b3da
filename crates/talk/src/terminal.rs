//! Makes a model's text safe to show on a terminal: letters and line breaks pass, control sequences that the terminal would obey do not.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with control characters written out (`\u{1b}`), line breaks and tabs excepted: those of C0 and C1, and those that turn the direction of writing, so that
/// what is read is what is there.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn obeyed(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() && !matches!(c, '\n' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        assert!(matches!(visible("über\n\tzwölf 🦀"), Cow::Borrowed(_)));
        assert_eq!(visible("\x1b[2Jx\r\x07"), "\\u{1b}[2Jx\\u{d}\\u{7}");
        assert_eq!(visible("\u{9b}31m\u{7f}\u{0}"), "\\u{9b}31m\\u{7f}\\u{0}");
        assert_eq!(visible("a\u{202e}b"), "a\\u{202e}b");
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let text = c.to_string();
            let shown = visible(&text);
            let left = shown.chars().filter(|c| c.is_control() && !matches!(c, '\n' | '\t'));
            assert_eq!(left.count(), 0, "{c:?}");
        }
    }
}
