//! "Did you mean …?": finds the known name that is closest to a mistyped one.

/// The known name nearest to a given one, if no more than a third of its letters (one, of a short name) were added, dropped, replaced
/// or swapped with a neighbour. Of names equally near, the first in the alphabet.
///
/// # Source
/// The rule of cargo and rustc.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = given.chars().count().max(3) / 3;
    let near = known.into_iter().map(|name| (strsim::damerau_levenshtein(given, name), name)).min();
    near.filter(|(distance, _)| *distance <= most).map(|(_, name)| name)
}

/// The question itself: "did you mean `x`?".
pub fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(given, known).map(|name| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let names = ["main", "refs/convert/parquet", "v1.0", "depth", "lr"];
        for (given, meant) in [
            ("mian", Some("main")),
            ("detph", Some("depth")),
            ("dept", Some("depth")),
            ("lrr", Some("lr")),
            ("ref/convert/paquet", Some("refs/convert/parquet")),
            ("something", None),
            ("width", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, names), meant, "{given}");
        }
        assert_eq!(nearest("ab", ["ac", "aa"]), Some("aa"));
        assert_eq!(did_you_mean("mian", names).as_deref(), Some("did you mean `main`?"));
        assert_eq!(nearest("main", []), None);
    }
}
