//! `runner watch`: the screen of a run that another terminal, or another machine that shares the folder, has started.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::list::{find, status};
use super::{SCREEN, Status, lineage, list};
use crate::Result;
use crate::cache::files::read_json;
use crate::hidden::Hidden;
use crate::progress::{Board, Screen};

/// Between looks.
const EVERY: Duration = Duration::from_millis(500);

/// Shows a run until it is over, and then what came of it.
///
/// # Errors
/// There is no such run, or several.
pub(crate) fn watch(root: &Path, which: Option<&str>) -> Result<String> {
    let (run, _) = match which {
        Some(which) => find(root, which)?,
        None => list::newest(root)?,
    };
    let screen = Screen::of_stderr(Hidden::default());
    screen.line(&format!("watching {}; Ctrl-C ends the watching alone", run.display()));
    let mut bars: BTreeMap<String, (ProgressBar, Vec<ProgressBar>)> = BTreeMap::new();
    let mut told: Vec<String> = Vec::new();
    let (mut last, mut next_line) = (Board::default(), Instant::now());
    // Of a run on another machine a lock may not be seen: its board changes then.
    let mut changed = Instant::now();
    while let Some(lineage) = lineage(&run) {
        for stage in lineage.stages.iter().filter(|stage| !told.contains(&stage.name)) {
            screen.line(&format!("{}: {} ({})", stage.name, stage.status, stage.reason));
        }
        told = lineage.stages.iter().map(|stage| stage.name.clone()).collect();
        let board: Board = read_json(&run.join(SCREEN)).unwrap_or_default();
        if board != last {
            changed = Instant::now();
        }
        let over = lineage.status != Status::Begun || status(&run, &lineage) == "died";
        if over && (lineage.status != Status::Begun || changed.elapsed() > 20 * EVERY) {
            break;
        }
        show(&screen, &mut bars, &board);
        if !screen.is_narrow() && board != last && Instant::now() >= next_line {
            let lines = board.stages.iter().map(|line| format!("  {}: {}", line.stage, line.text));
            lines.chain([board.run.clone()]).for_each(|line| screen.line(&line));
            next_line = Instant::now() + Duration::from_secs(5);
        }
        last = board;
        std::thread::sleep(EVERY);
    }
    show(&screen, &mut bars, &Board::default());
    screen.run(None);
    list::show(root, &run.display().to_string())
}

/// Draws what the board shows, on a terminal.
fn show(
    screen: &Screen,
    bars: &mut BTreeMap<String, (ProgressBar, Vec<ProgressBar>)>,
    board: &Board,
) {
    bars.retain(|stage, (bar, parts)| {
        let stays = board.stages.iter().any(|line| line.stage == *stage);
        if !stays {
            screen.parts(Some(bar), parts, &[]);
            bar.finish_and_clear();
        }
        stays
    });
    for line in &board.stages {
        if !bars.contains_key(&line.stage) {
            let Some(bar) = screen.bar(&line.stage) else { return };
            bars.insert(line.stage.clone(), (bar, Vec::new()));
        }
        if let Some((bar, parts)) = bars.get_mut(&line.stage) {
            screen.parts(Some(bar), parts, &line.parts);
            screen.draw(bar, line);
        }
    }
    if !board.run.is_empty() {
        screen.run(Some(&board.run));
    }
}
