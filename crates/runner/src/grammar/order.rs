//! Puts the stages into an order in which they can run, or finds the cycle that forbids it. Among stages that could come
//! next, the one that stands first in the file does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Declared;
use super::fault::Fault;
use super::stage::Draft;

/// The stages in running order with their indices renumbered; `None` if there is a cycle, which is a fault, or any fault
/// from before.
pub(super) fn arrange(drafts: Vec<Draft>, faults: &mut Vec<Fault>) -> Option<Vec<Declared>> {
    let n = drafts.len();
    let mut order: Vec<usize> = Vec::with_capacity(n);
    // Edges that a stage still waits for, and the stages that wait for it.
    let mut waits: Vec<usize> = drafts.iter().map(|draft| draft.places.len()).collect();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (i, draft) in drafts.iter().enumerate() {
        for (up, _) in &draft.places {
            readers[*up].push(i);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..n).filter(|&i| waits[i] == 0).map(Reverse).collect();
    while let Some(Reverse(next)) = ready.pop() {
        order.push(next);
        for &reader in &readers[next] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if let Some(start) = (0..n).find(|&i| waits[i] > 0) {
        let done: Vec<bool> = waits.iter().map(|&waits| waits == 0).collect();
        faults.push(cycle(&drafts, &done, start));
        return None;
    }
    let mut renumbered = vec![0; n];
    for (new, &old) in order.iter().enumerate() {
        renumbered[old] = new;
    }
    let mut stages: Vec<(usize, Declared)> = drafts
        .into_iter()
        .enumerate()
        .map(|(old, draft)| Some((renumbered[old], draft.declared?)))
        .collect::<Option<_>>()?;
    stages.sort_by_key(|(new, _)| *new);
    for (_, stage) in &mut stages {
        stage.inputs.iter_mut().for_each(|edge| edge.from = renumbered[edge.from]);
        stage.needs.iter_mut().for_each(|need| *need = renumbered[*need]);
    }
    Some(stages.into_iter().map(|(_, stage)| stage).collect())
}

/// Walks up from a stage that never becomes ready until one comes again.
fn cycle(drafts: &[Draft], done: &[bool], start: usize) -> Fault {
    let mut path = vec![start];
    let mut places = Vec::new();
    loop {
        let at = path[path.len() - 1];
        let blocked = drafts[at].places.iter().find(|(up, _)| !done[*up]);
        let Some((up, span)) = blocked else { break };
        places.push(span.clone());
        if let Some(first) = path.iter().position(|p| p == up) {
            path.drain(..first);
            places.drain(..first);
            break;
        }
        path.push(*up);
    }
    let name = |i: &usize| drafts[*i].name.as_str();
    // Data flows against the walk: show it from producer to reader.
    let mut names: Vec<&str> = path.iter().map(name).collect();
    names.push(names[0]);
    names.reverse();
    let title = format!("the stages form a cycle: {}", names.join(" → "));
    let label = |i: usize| {
        let (reader, up) = (name(&path[i]), name(&path[(i + 1) % path.len()]));
        format!("`{reader}` waits for `{up}`")
    };
    let first = places.first().cloned().unwrap_or_else(|| drafts[start].at.clone());
    let mut fault = Fault::new(title, first, label(0));
    for (i, span) in places.iter().enumerate().skip(1) {
        fault = fault.also(span.clone(), label(i));
    }
    fault.help("take one of these edges out".to_owned())
}
