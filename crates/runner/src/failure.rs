//! How an error reads on the screen: the message, its causes, and the hints of all of them at the end.

/// The lines of an error, hints last, without repeating a cause that its message already quotes.
pub(crate) fn lines(error: &anyhow::Error) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut hints: Vec<String> = Vec::new();
    for (depth, cause) in error.chain().enumerate() {
        let text = cause.to_string();
        let (hinted, said): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.trim_start().starts_with("hint: "));
        let said = said.join("\n");
        if !lines.iter().any(|line| line.contains(&said)) {
            let prefix = if depth == 0 { "" } else { "caused by: " };
            lines.extend(format!("{prefix}{said}").lines().map(str::to_owned));
        }
        for hint in hinted {
            let hint = hint.trim_start().to_owned();
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
    }
    lines.extend(hints);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_and_hints_come_last() {
        let error = anyhow::anyhow!("row 812 is short\nhint: delete the shard")
            .context("reading shard 3")
            .context("reading shard 3 failed: row 812 is short");
        assert_eq!(
            lines(&error),
            ["reading shard 3 failed: row 812 is short", "hint: delete the shard"]
        );
    }
}
