//! Splits a glob into parts, one for each folder on the way: a search lists only folders in which something can match.

use globset::{GlobBuilder, GlobMatcher};

/// What one folder on the way, or the file at its end, is called.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    /// Just so.
    Name(String),
    /// What this matches; the flag tells whether it begins with a dot and so means hidden names, too.
    Some(GlobMatcher, bool),
    /// `**`: any number of folders.
    Any,
    /// At the end alone: every file that is parquet by its name.
    Parquet,
}

/// One of the paths that a glob with `{a,b}` stands for.
#[derive(Debug, Clone)]
pub(crate) struct Alternative {
    /// As it would be written.
    pub(crate) text: String,
    pub(crate) absolute: bool,
    pub(crate) parts: Vec<Part>,
    /// What its last part ends with, if that is an extension without wildcards.
    pub(crate) extension: Option<String>,
}

/// Characters that make a path a glob.
const WILD: [char; 4] = ['*', '?', '[', '{'];

/// Whether a path is a glob.
pub(crate) fn is_glob(text: &str) -> bool {
    text.contains(WILD)
}

/// The same text as a glob that matches it alone.
pub(crate) fn escaped(c: char) -> String {
    if WILD.contains(&c) || "]}\\".contains(c) { format!("[{c}]") } else { c.to_string() }
}

/// The paths that a glob stands for.
///
/// # Errors
/// In words, why it cannot be read.
pub(crate) fn parse(glob: &str) -> Result<Vec<Alternative>, String> {
    let glob = if cfg!(windows) { glob.replace('\\', "/") } else { glob.to_owned() };
    let mut texts = vec![];
    braces(&glob, &mut texts)?;
    texts.into_iter().map(alternative).collect()
}

fn alternative(text: String) -> Result<Alternative, String> {
    let mut parts = vec![];
    for part in text.split('/').filter(|part| !part.is_empty()) {
        let plain = !part.contains(WILD) && !part.contains(['\\', ']', '}']);
        parts.push(if part == "**" {
            Part::Any
        } else if plain {
            Part::Name(part.to_owned())
        } else {
            let glob = GlobBuilder::new(part).literal_separator(true).build();
            let glob = glob.map_err(|e| e.kind().to_string())?;
            Part::Some(glob.compile_matcher(), part.starts_with('.'))
        });
    }
    if matches!(parts.last(), Some(Part::Any)) {
        parts.push(Part::Parquet);
    }
    let extension = text.rsplit_once('.').map(|(_, extension)| extension.to_owned());
    let extension = extension.filter(|e| !e.is_empty() && !e.contains(WILD) && !e.contains('/'));
    Ok(Alternative { absolute: text.starts_with('/'), parts, extension, text })
}

/// Writes out the first `{a,b}`, and in what comes of that the next.
fn braces(glob: &str, out: &mut Vec<String>) -> Result<(), String> {
    /// Many alternatives are a slip of the keyboard, and take memory.
    const MOST: usize = 10_000;
    let (mut open, mut depth, mut cuts) = (None, 0, vec![]);
    let mut chars = glob.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if !cfg!(windows) => drop(chars.next()),
            // Between brackets braces are themselves; a bracket that is first there, too.
            '[' => {
                let inner = &glob[at + 1..];
                let negated = usize::from(inner.starts_with(['!', '^']));
                let first = negated + usize::from(inner[negated..].starts_with(']'));
                if let Some(end) = inner[first..].find(']') {
                    let end = at + 1 + first + end;
                    while chars.offset() <= end && chars.next().is_some() {}
                }
            }
            '{' => {
                depth += 1;
                open = open.or(Some(at));
            }
            ',' if depth == 1 => cuts.push(at),
            '}' if depth == 1 => {
                let start = open.unwrap_or_default();
                cuts.push(at);
                let mut from = start + 1;
                for cut in cuts {
                    let one = format!("{}{}{}", &glob[..start], &glob[from..cut], &glob[at + 1..]);
                    braces(&one, out)?;
                    from = cut + 1;
                }
                return Ok(());
            }
            '}' if depth > 1 => depth -= 1,
            _ => {}
        }
    }
    if depth > 0 {
        return Err("a `{` is not closed".into());
    }
    if out.len() == MOST {
        return Err(format!("it stands for more than {MOST} paths"));
    }
    out.push(glob.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(glob: &str) -> Vec<String> {
        parse(glob).unwrap().into_iter().map(|alternative| alternative.text).collect()
    }

    #[test]
    fn braces_are_written_out() {
        assert_eq!(texts("a/{b,c/d}/*.parquet"), ["a/b/*.parquet", "a/c/d/*.parquet"]);
        assert_eq!(texts("{a,b{c,d}}x{,y}"), ["ax", "axy", "bcx", "bcxy", "bdx", "bdxy"]);
        assert_eq!(texts("[{]a,b[}]"), ["[{]a,b[}]"]);
        assert_eq!(texts("[]{]x"), ["[]{]x"]);
        assert_eq!(texts("plain"), ["plain"]);
        for wrong in ["a{b", "a[b", "{a,{b}", "a[z-a]", "{a,b}{a,b".repeat(3).as_str()] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse(&"{a,b}".repeat(40)).unwrap_err().contains("more than 10000"));
    }

    #[test]
    fn parts_and_extensions() {
        let one = |glob: &str| parse(glob).unwrap().remove(0);
        let glob = one("/data/**/*.pq");
        assert!(glob.absolute && glob.extension.as_deref() == Some("pq"));
        assert!(
            matches!(&glob.parts[..], [Part::Name(n), Part::Any, Part::Some(..)] if n == "data")
        );
        assert!(matches!(one("a/**").parts[..], [Part::Name(_), Part::Any, Part::Parquet]));
        assert_eq!(one("a.b/*").extension, None);
        assert_eq!(one("a/*.par*").extension, None);
        let name: String = "a[1]{*}".chars().map(escaped).collect();
        let Part::Some(glob, _) = &one(&name).parts[0] else { panic!("{name}") };
        assert!(glob.is_match("a[1]{*}") && !glob.is_match("a1{*}"));
    }
}
