//! The stages of a run and what reads what, drawn: as SVG, once from left to right for a wide page and once from top to bottom for a phone, and as a Mermaid
//! diagram for Markdown. The variants of a matrix are one box.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::Lineage;
use crate::progress::format::duration;
use crate::stages::report::escape::html as esc;

/// Pixels: a box's height, what is between boxes of one rank, and between ranks.
const HEIGHT: usize = 42;
const BESIDE: usize = 14;
const BETWEEN: usize = 34;
/// A letter's width, and the most letters of a name.
const LETTER: usize = 7;
const MOST_LETTERS: usize = 20;

/// A box.
struct Node {
    name: String,
    /// Stages that it stands for.
    stages: usize,
    seconds: f64,
    failed: bool,
    /// Boxes that it reads.
    reads: BTreeSet<usize>,
    /// How many boxes are before it on the longest way.
    rank: usize,
}

impl Node {
    /// `train × 3`, cut to what fits.
    fn title(&self) -> String {
        let times = if self.stages > 1 { format!(" × {}", self.stages) } else { String::new() };
        let room = MOST_LETTERS - times.chars().count();
        match self.name.char_indices().nth(room) {
            Some((end, _)) => format!("{}…{times}", &self.name[..end]),
            None => format!("{}{times}", self.name),
        }
    }
}

/// The table that a stage is of.
fn base(stage: &str) -> &str {
    stage.split('@').next().unwrap_or(stage)
}

/// In the order of the run: what is read comes before who reads it. What a box reads that one of those before it reads, too, has no line of its own: a tokenizer's
/// would cross all others.
fn nodes(lineage: &Lineage) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for stage in &lineage.stages {
        let of = |(from, _): &(String, Option<String>)| {
            let (stage, _) = from.rsplit_once('.')?;
            numbers.get(base(stage)).copied()
        };
        let reads: BTreeSet<usize> = stage.inputs.values().filter_map(of).collect();
        let number = *numbers.entry(base(&stage.name)).or_insert_with(|| {
            nodes.push(Node {
                name: base(&stage.name).to_owned(),
                stages: 0,
                seconds: 0.0,
                failed: false,
                reads: BTreeSet::new(),
                rank: 0,
            });
            nodes.len() - 1
        });
        let after = reads.iter().filter(|read| **read != number);
        let rank = after.map(|&read| nodes[read].rank + 1).max().unwrap_or(0);
        let node = &mut nodes[number];
        node.rank = node.rank.max(rank);
        node.reads.extend(reads.iter().filter(|read| **read != number));
        node.stages += 1;
        node.seconds += stage.seconds;
        node.failed |= stage.status == "failed";
    }
    let mut before: Vec<BTreeSet<usize>> = Vec::new();
    for node in &mut nodes {
        // A variant may read what came after the first of its table.
        let through: BTreeSet<usize> =
            node.reads.iter().filter_map(|&read| before.get(read)).flatten().copied().collect();
        before.push(through.union(&node.reads).copied().collect());
        node.reads.retain(|read| !through.contains(read));
    }
    nodes
}

/// Both drawings; nothing of a run without stages.
pub(super) fn svg(lineage: &Lineage) -> String {
    let nodes = nodes(lineage);
    if nodes.is_empty() {
        return String::new();
    }
    draw(&nodes, true) + &draw(&nodes, false)
}

fn draw(nodes: &[Node], wide: bool) -> String {
    let letters = nodes.iter().map(|node| node.title().chars().count()).max().unwrap_or(0);
    let width = (letters * LETTER + 22).max(76);
    let ranks = nodes.iter().map(|node| node.rank).max().unwrap_or(0) + 1;
    let in_rank = |rank: usize| nodes.iter().enumerate().filter(move |(_, n)| n.rank == rank);
    let most = (0..ranks).map(|rank| in_rank(rank).count()).max().unwrap_or(1);
    // Along the ranks, and across them.
    let (along, across) = if wide { (width, HEIGHT) } else { (HEIGHT, width) };
    let breadth = most * (across + BESIDE) - BESIDE;
    let mut places = vec![(0, 0); nodes.len()];
    for rank in 0..ranks {
        let n = in_rank(rank).count();
        let first = (breadth - (n * (across + BESIDE) - BESIDE)) / 2;
        for (i, (node, _)) in in_rank(rank).enumerate() {
            places[node] = (rank * (along + BETWEEN) + 2, first + i * (across + BESIDE) + 22);
        }
    }
    let (length, breadth) = (ranks * (along + BETWEEN) - BETWEEN + 4, breadth + 44);
    let (w, h) = if wide { (length, breadth) } else { (breadth, length) };
    let class = if wide { "wide" } else { "narrow" };
    let mut out = format!(
        "<svg class=\"dag {class}\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"The stages of the run and what reads what\">\n"
    );
    let point = |(along, across): (usize, usize)| {
        if wide { format!("{along} {across}") } else { format!("{across} {along}") }
    };
    for (node, place) in nodes.iter().zip(&places) {
        for &read in &node.reads {
            let from = (places[read].0 + along, places[read].1 + across / 2);
            let to = (place.0, place.1 + across / 2);
            // Past what is between, beside it.
            let aside = if node.rank > nodes[read].rank + 1 {
                let way = usize::midpoint(from.1, to.1);
                if way < breadth / 2 {
                    way.saturating_sub(across / 2 + 24)
                } else {
                    way + across / 2 + 24
                }
            } else {
                usize::MAX
            };
            let (near, far) = (from.0 + BETWEEN, to.0 - BETWEEN.min(to.0));
            let [a, b] = if aside == usize::MAX {
                [(near, from.1), (far, to.1)]
            } else {
                [(near, aside), (far, aside)]
            };
            let _ = writeln!(
                out,
                "<path d=\"M{} C{} {} {}\"/>",
                point(from),
                point(a),
                point(b),
                point(to)
            );
        }
    }
    for (node, place) in nodes.iter().zip(&places) {
        let (x, y) = if wide { *place } else { (place.1, place.0) };
        let class = if node.failed { " class=\"failed\"" } else { "" };
        let middle = x + width / 2;
        let _ = writeln!(
            out,
            "<g{class}><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\" rx=\"6\"/>\
             <text x=\"{middle}\" y=\"{}\">{}</text><text class=\"time\" x=\"{middle}\" y=\"{}\">{}</text></g>",
            y + 18,
            esc(&node.title()),
            y + 34,
            duration(node.seconds),
        );
    }
    out + "</svg>\n"
}

/// The same for Markdown.
pub(super) fn mermaid(lineage: &Lineage) -> String {
    let nodes = nodes(lineage);
    let mut out = String::from("```mermaid\nflowchart LR\n");
    for (i, node) in nodes.iter().enumerate() {
        // A name of a stage has letters, digits, dashes and underscores.
        let _ = writeln!(out, "  s{i}[\"{}<br/>{}\"]", node.title(), duration(node.seconds));
        for read in &node.reads {
            let _ = writeln!(out, "  s{read} --> s{i}");
        }
    }
    out + "```\n"
}

#[cfg(test)]
mod tests {
    use super::super::{StageLineage, Status};
    use super::*;

    fn stage(name: &str, reads: &[&str]) -> StageLineage {
        let input = |from: &&str| ((*from).to_owned(), ((*from).to_owned(), None));
        StageLineage {
            name: name.into(),
            kind: "toy".into(),
            key: String::new(),
            status: "done".into(),
            reason: String::new(),
            seconds: 2.0,
            config: serde_json::Value::Null,
            gpus: 0,
            seed: None,
            inputs: reads.iter().map(input).collect(),
            outputs: BTreeMap::new(),
            folder: std::path::PathBuf::new(),
            summary: Vec::new(),
        }
    }

    fn lineage(stages: Vec<StageLineage>) -> Lineage {
        Lineage {
            pipeline: "p".into(),
            file: "p.toml".into(),
            file_digest: String::new(),
            set: Vec::new(),
            seed: 1,
            runner: "0".into(),
            commit: None,
            machine: crate::machine::Machine::default(),
            dollars_per_hour: None,
            started: 0,
            status: Status::Done,
            seconds: 0.0,
            stages,
            begun: Vec::new(),
            failed: BTreeMap::new(),
            not_run: BTreeMap::new(),
        }
    }

    #[test]
    fn variants_are_one_box_and_no_edge_is_drawn_twice() {
        let lineage = lineage(vec![
            stage("fetch", &[]),
            stage("train@lr=0.1", &["fetch.text"]),
            stage("train@lr=0.2", &["fetch.text"]),
            stage("compare", &["train@lr=0.1.metrics", "train@lr=0.2.metrics", "fetch.text"]),
            stage("other", &[]),
            stage("both", &["other.text", "compare.report"]),
        ]);
        let ranks: Vec<_> = nodes(&lineage).iter().map(|n| (n.title(), n.rank)).collect();
        let title = |text: &str, rank| (text.to_owned(), rank);
        let chain = [title("fetch", 0), title("train × 2", 1), title("compare", 2)];
        assert_eq!(ranks[..3], chain);
        assert_eq!(ranks[3..], [title("other", 0), title("both", 3)]);
        let svg = svg(&lineage);
        // `compare` reads `fetch` through `train`.
        assert_eq!((svg.matches("<rect").count(), svg.matches("<path").count()), (2 * 5, 2 * 4));
        let mermaid = mermaid(&lineage);
        assert!(mermaid.contains("s1[\"train × 2<br/>4.0 s\"]"), "{mermaid}");
        assert_eq!(mermaid.matches("-->").count(), 4, "{mermaid}");
    }

    #[test]
    fn a_variant_may_read_what_came_after_the_first_of_its_table() {
        let lineage = lineage(vec![
            stage("train@d=1", &[]),
            stage("more", &[]),
            stage("train@d=2", &["more.text"]),
        ]);
        assert_eq!(svg(&lineage).matches("<path").count(), 2);
    }

    #[test]
    fn what_failed_is_marked_and_long_names_are_cut() {
        let mut failed = stage("a-very-long-name-of-a-stage", &[]);
        failed.status = "failed".into();
        let svg = svg(&lineage(vec![failed]));
        assert!(
            svg.contains("class=\"failed\"") && svg.contains(">a-very-long-name-of-…<"),
            "{svg}"
        );
        assert!(super::svg(&lineage(Vec::new())).is_empty());
    }
}
