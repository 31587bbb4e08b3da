//! Stop strings: a text ends where one appears. Neither the string nor the beginning of what might become one is given out.

/// Looks for stop strings in a text that comes in pieces.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    stops: Vec<String>,
    held: String,
}

impl Stops {
    /// Empty strings stop nothing.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new() }
    }

    /// Adds a piece; gives what can be given out, and whether the text ends there.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let ends = self.held.char_indices().map(|(at, _)| at);
        let may_become = |at: &usize| {
            let tail = &self.held[*at..];
            self.stops.iter().any(|stop| stop.starts_with(tail))
        };
        let keep = ends.into_iter().find(may_become).unwrap_or(self.held.len());
        let held = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, held), false)
    }

    /// The end of the text: what was held back is part of it.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_may_become_a_stop_is_held_back() {
        let mut stops = Stops::new(["END".to_owned(), "\n\n".to_owned(), String::new()]);
        assert_eq!(stops.push("the E"), ("the ".to_owned(), false));
        assert_eq!(stops.push("N"), (String::new(), false));
        assert_eq!(stops.push("E\n"), ("ENE".to_owned(), false));
        assert_eq!(stops.push("x ENDED"), ("\nx ".to_owned(), true));
        assert_eq!(stops.push("a\nE"), ("a\n".to_owned(), false));
        assert_eq!(stops.finish(), "E");
        assert_eq!(Stops::default().push("all"), ("all".to_owned(), false));
    }

    proptest! {
        #[test]
        fn however_a_text_is_cut_it_ends_before_the_first_stop(
            pieces in prop::collection::vec("[abé]{0,3}", 0..12),
            stops in prop::collection::vec("[abé]{1,3}", 0..3),
        ) {
            let whole = pieces.concat();
            let (mut looks, mut out, mut hit) = (Stops::new(stops.clone()), String::new(), false);
            for piece in &pieces {
                let (text, end) = looks.push(piece);
                out.push_str(&text);
                hit = end;
                if end {
                    break;
                }
            }
            if !hit {
                out.push_str(&looks.finish());
            }
            // The text up to the end of the first stop that is complete, and of those that are by then the one that begins first.
            let mut complete = (0..=whole.len()).filter(|end| whole.is_char_boundary(*end));
            let first = |end: usize| stops.iter().filter_map(|s| whole[..end].find(s.as_str())).min();
            let expected = complete.find_map(first);
            // A piece may complete a stop that begins earlier than one that is complete before.
            match expected {
                None => prop_assert_eq!((out, hit), (whole, false)),
                Some(at) => {
                    prop_assert!(hit);
                    prop_assert!(out.len() <= at && whole.starts_with(&out));
                    prop_assert!(stops.iter().any(|s| whole[out.len()..].starts_with(s.as_str())));
                }
            }
        }
    }
}
