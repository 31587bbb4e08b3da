//! Where the lanes of a divergent branch meet again: the branch's immediate post-dominator, by the iterative
//! algorithm of Cooper, Harvey and Kennedy ("A Simple, Fast Dominance Algorithm", 2001) on the reversed graph of
//! basic blocks.

use crate::program::{Inst, NONE, Op};

/// Fills in `meet` of every branch.
pub(crate) fn reconverge(code: &mut [Inst]) {
    let n = code.len();
    if !code.iter().any(|i| matches!(i.op, Op::Branch { .. } | Op::Switch { .. })) {
        return;
    }
    // Basic blocks.
    let mut leader = vec![false; n + 1];
    leader[0] = true;
    for (i, inst) in code.iter().enumerate() {
        match &inst.op {
            Op::Branch { target, .. } => {
                leader[*target as usize] = true;
                leader[i + 1] = true;
            }
            Op::Switch { targets, .. } => {
                for t in targets {
                    leader[*t as usize] = true;
                }
                leader[i + 1] = true;
            }
            Op::Exit | Op::Trap => leader[i + 1] = true,
            _ => {}
        }
    }
    let mut block_of = vec![0usize; n + 1];
    let mut starts = Vec::new();
    for i in 0..n {
        if leader[i] {
            starts.push(i);
        }
        block_of[i] = starts.len() - 1;
    }
    let blocks = starts.len();
    let exit = blocks; // one virtual exit
    block_of[n] = exit;
    let successors: Vec<Vec<usize>> = (0..blocks)
        .map(|b| {
            let last = starts.get(b + 1).map_or(n, |s| *s) - 1;
            let inst = &code[last];
            let next = block_of[last + 1];
            let mut out = match &inst.op {
                Op::Branch { target, .. } => vec![block_of[*target as usize]],
                Op::Switch { targets, .. } => {
                    targets.iter().map(|t| block_of[*t as usize]).collect()
                }
                Op::Exit | Op::Trap => vec![exit],
                _ => vec![next],
            };
            if inst.guard != NONE {
                out.push(next);
            }
            out
        })
        .collect();
    let meets = post_dominators(&successors, exit);
    for (i, inst) in code.iter_mut().enumerate() {
        let meet = match meets[block_of[i]] {
            Some(b) if b != exit => starts[b] as u32,
            _ => NONE,
        };
        if let Op::Branch { meet: m, .. } | Op::Switch { meet: m, .. } = &mut inst.op {
            *m = meet;
        }
    }
}

/// The immediate post-dominator of each node, where it has one.
fn post_dominators(successors: &[Vec<usize>], exit: usize) -> Vec<Option<usize>> {
    let mut predecessors = vec![Vec::new(); exit + 1];
    for (b, out) in successors.iter().enumerate() {
        for s in out {
            predecessors[*s].push(b);
        }
    }
    // Post-order of the reversed graph from the exit, without recursion.
    let mut order = Vec::new();
    let mut number = vec![usize::MAX; exit + 1];
    let mut seen = vec![false; exit + 1];
    let mut stack = vec![(exit, 0)];
    seen[exit] = true;
    while let Some((node, next)) = stack.last_mut() {
        if let Some(p) = predecessors[*node].get(*next) {
            *next += 1;
            if !seen[*p] {
                seen[*p] = true;
                stack.push((*p, 0));
            }
        } else {
            number[*node] = order.len();
            order.push(*node);
            stack.pop();
        }
    }
    let mut meet: Vec<Option<usize>> = vec![None; exit + 1];
    meet[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().filter(|b| **b != exit) {
            let mut new = None;
            for &s in successors[b].iter().filter(|s| meet[**s].is_some()) {
                new = Some(match new {
                    None => s,
                    Some(other) => common(&meet, &number, s, other),
                });
            }
            if meet[b] != new {
                meet[b] = new;
                changed = true;
            }
        }
    }
    meet
}

fn common(meet: &[Option<usize>], number: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        let low = if number[a] < number[b] { &mut a } else { &mut b };
        match meet[*low] {
            Some(up) if up != *low => *low = up,
            _ => return if number[a] > number[b] { a } else { b },
        }
    }
    a
}
