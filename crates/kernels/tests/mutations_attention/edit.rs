//! One change to a kernel's text, and what becomes of it.

/// The `nth` (from 0) instruction of the kernel with this opcode whose last operand is that (any, if empty) becomes `to`, where {0}, {1}, …
/// are its operands.
pub(crate) struct Edit(
    pub(crate) &'static str,
    pub(crate) &'static str,
    pub(crate) usize,
    pub(crate) &'static str,
);

/// Edits that make one mistake.
pub(crate) struct Mutation {
    pub(crate) kernel: &'static str,
    pub(crate) what: &'static str,
    pub(crate) edits: &'static [Edit],
    pub(crate) outcome: &'static str,
}

pub(crate) const fn m(
    kernel: &'static str,
    what: &'static str,
    edits: &'static [Edit],
    outcome: &'static str,
) -> Mutation {
    Mutation { kernel, what, edits, outcome }
}

pub(crate) const IN_FLIGHT: &str = "used in flight";
pub(crate) const RACE: &str = "data race";
pub(crate) const BOUNDS: &str = "out of bounds";
pub(crate) const UNWRITTEN: &str = "uninitialised";
pub(crate) const WRONG: &str = "wrong result";
pub(crate) const BYTES: &str = "other bytes than stated";
pub(crate) const BANKS: &str = "bank conflicts";

/// The module's text with one edit to the kernel.
pub(crate) fn edited(kernel: &str, text: &str, &Edit(opcode, tail, nth, to): &Edit) -> String {
    let mut inside = false;
    let mut seen = 0;
    let lines = text.lines().map(|line| {
        if line.contains(".entry ") {
            inside = line.contains(&format!(".entry {kernel}("));
        }
        let (op, operands) =
            line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        let operands: Vec<&str> = operands.trim().trim_end_matches(';').split(", ").collect();
        let last = operands.last().copied().unwrap_or_default();
        let found = inside
            && op.trim_end_matches(';') == opcode
            && if tail.is_empty() { true } else { last == tail };
        seen += usize::from(found);
        if !found || seen != nth + 1 {
            return line.to_owned();
        }
        // A shuffle's first operand is `value|predicate`.
        let first = |operand: &str| operand.split('|').next().unwrap_or_default().to_owned();
        operands.iter().enumerate().fold(to.to_owned(), |to, (i, operand)| {
            to.replace(&format!("{{{i}}}"), &first(operand))
        })
    });
    let text: String = lines.map(|line| line + "\n").collect();
    assert!(seen > nth, "{kernel} has {seen} of {opcode} … {tail}, not {nth}");
    text
}
