//! Arbitrary text made harmless: samples are whatever a model wrote.

/// Text for HTML, inside an element or a quoted attribute.
pub(crate) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(visible(c)),
        }
    }
    out
}

/// Text for Markdown inside a line: a cell, a heading, an emphasis. Line breaks become spaces.
pub(crate) fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let text = text.trim();
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        // Inside a word an underscore is itself.
        let in_word = before.is_alphanumeric() && rest.peek().is_some_and(|c| c.is_alphanumeric());
        if "\\`*[]<>#|~&$!".contains(c) || c == '_' && !in_word {
            out.push('\\');
        }
        out.push(if c == '\n' || c == '\r' { ' ' } else { visible(c) });
        before = c;
    }
    out
}

/// Text that begins a line of Markdown: what would make it a list, a table or a heading is escaped too.
pub(in crate::stages) fn markdown_line(text: &str) -> String {
    let line = markdown(text);
    let body = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = line.len() - body.len();
    let begins_a_block = if digits == 0 {
        body.starts_with(['-', '+', '=', ':'])
    } else {
        body.starts_with(['.', ')'])
    };
    if begins_a_block { format!("{}\\{body}", &line[..digits]) } else { line }
}

/// Control characters show as a replacement character.
fn visible(c: char) -> char {
    if c.is_control() && c != '\n' && c != '\t' { '\u{FFFD}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_has_no_markup_left() {
        let shown = html("<script>alert(\"a\" & 'b')</script>\u{0}");
        assert_eq!(
            shown,
            "&lt;script&gt;alert(&quot;a&quot; &amp; &#39;b&#39;)&lt;/script&gt;\u{FFFD}"
        );
    }

    #[test]
    fn markdown_has_no_markup_left() {
        assert_eq!(
            markdown("# a *b* [c](d) <e> `f` | g"),
            "\\# a \\*b\\* \\[c\\](d) \\<e\\> \\`f\\` \\| g"
        );
        assert_eq!(markdown("_a_ b_c __"), "\\_a\\_ b_c \\_\\_");
        assert_eq!(markdown("  a\nb "), "a b");
        assert_eq!(markdown_line("- a - b"), "\\- a - b");
        assert_eq!(markdown_line("12. a. 3"), "12\\. a. 3");
        assert_eq!(markdown_line("1945"), "1945");
    }
}
