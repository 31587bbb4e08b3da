//! Bytes to text as they come: a character is given out when it is whole.

/// Bytes that have yet to become a character.
#[derive(Clone, Debug, Default)]
pub struct Utf8 {
    held: Vec<u8>,
}

impl Utf8 {
    /// Adds bytes; gives the characters that are whole by now. What can be no character is U+FFFD, as in [`String::from_utf8_lossy`].
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut out = String::new();
        let mut rest = self.held.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (whole, after) = rest.split_at(e.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(whole));
                    rest = after;
                    let Some(wrong) = e.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[wrong..];
                }
            }
        }
        self.held = rest.to_vec();
        out
    }

    /// The end: what is held back will not become whole.
    pub fn finish(&mut self) -> &'static str {
        let cut = !self.held.is_empty();
        self.held.clear();
        if cut { "\u{fffd}" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_comes_when_it_is_whole() {
        let mut utf8 = Utf8::default();
        let bytes = "a€🦀".as_bytes();
        let given: Vec<String> = bytes.iter().map(|b| utf8.push(&[*b])).collect();
        assert_eq!(given, ["a", "", "", "€", "", "", "", "🦀"]);
        assert_eq!(utf8.finish(), "");
        assert_eq!(utf8.push(&[0xe2, 0x82]), "");
        assert_eq!(utf8.push(b"x"), "\u{fffd}x");
        assert_eq!(utf8.push(&[0xf0]), "");
        assert_eq!((utf8.finish(), utf8.finish()), ("\u{fffd}", ""));
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut_the_text_is_that_of_all(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80u8..0xc0, 0xe0u8..0xf5], 0..40),
            cuts in prop::collection::vec(0usize..6, 0..20),
        ) {
            let (mut utf8, mut out, mut at) = (Utf8::default(), String::new(), 0);
            for cut in cuts.into_iter().chain([bytes.len()]) {
                let end = bytes.len().min(at + cut);
                out.push_str(&utf8.push(&bytes[at..end]));
                at = end;
            }
            out.push_str(utf8.finish());
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}
