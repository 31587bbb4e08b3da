//! Instructions by which lanes of a warp see each other: shuffles, votes, matches, reductions.

use crate::access::apply;
use crate::block::{Done, wrong};
use crate::error::FaultKind;
use crate::program::{Op, Shuffle, Vote};
use crate::warp::{Warp, lanes};

impl Warp {
    /// The member mask of a `.sync` instruction: each executing lane must be named, and each named live lane must be
    /// here.
    fn members(&self, what: &str, row: u32, mask: u32) -> Done<u32> {
        let first = mask.trailing_zeros() as usize;
        let members = self.row(row)[first] as u32;
        if mask & !members != 0 {
            let lane = (mask & !members).trailing_zeros();
            let what =
                format!("{what} by lane {lane}, which its mask {members:#010x} does not name");
            return Err(wrong(lane, FaultKind::Convergence { what }));
        }
        if members & self.live & !mask != 0 {
            return Err(self.partial(what, members & self.live, mask));
        }
        Ok(members & mask)
    }

    pub(crate) fn collective(&mut self, op: &Op, mask: u32) -> Done<()> {
        match op {
            Op::WarpBarrier { mask: m } => {
                self.members("bar.warp.sync", *m, mask)?;
            }
            Op::Shuffle { how, d, p, a, b, c, mask: m } => {
                self.members("shfl.sync", *m, mask)?;
                self.shuffle(*how, *d, *p, [*a, *b, *c], mask)?;
            }
            Op::Vote { how, d, p, negated, mask: m } => {
                let all = self.members("vote.sync", *m, mask)?;
                let yes = self.holds(*p, *negated, all);
                let value = match how {
                    Vote::All => u64::from(yes == all),
                    Vote::Any => u64::from(yes != 0),
                    Vote::Uniform => u64::from(yes == all || yes == 0),
                    Vote::Ballot => yes as u64,
                };
                self.put(*d, mask, &[value; 32]);
            }
            Op::Match { all, d, p, a, bits, mask: m } => {
                let members = self.members("match.sync", *m, mask)?;
                let keep = if *bits == 64 { u64::MAX } else { (1 << bits) - 1 };
                let a = self.row(*a).map(|v| v & keep);
                let mut out = [0; 32];
                for lane in lanes(mask) {
                    let same: u32 =
                        lanes(members).filter(|l| a[*l] == a[lane]).map(|l| 1 << l).sum();
                    out[lane] = if !*all {
                        same as u64
                    } else if same == members {
                        members as u64
                    } else {
                        0
                    };
                }
                self.put(*d, mask, &out);
                if let Some(p) = p {
                    self.put(*p, mask, &out.map(|v| u64::from(v != 0)));
                }
            }
            Op::Reduce { how, ty, d, a, mask: m } => {
                let members = self.members("redux.sync", *m, mask)?;
                let a = *self.row(*a);
                let value = lanes(members)
                    .map(|l| a[l] as u32 as u128)
                    .reduce(|x, y| apply(*how, *ty, x, y as u64, 0, false))
                    .unwrap_or(0);
                self.put(*d, mask, &[value as u64; 32]);
            }
            Op::Elect { d, p, mask: m } => {
                let members = self.members("elect.sync", *m, mask)?;
                let leader = members.trailing_zeros() as usize;
                self.put(*d, mask, &[leader as u64; 32]);
                let mut out = [0; 32];
                out[leader.min(31)] = 1;
                self.put(*p, mask, &out);
            }
            _ => {}
        }
        Ok(())
    }

    /// `c` holds the clamp in bits 0-4 and the segment mask in bits 8-12, as the PTX manual's pseudocode has it.
    fn shuffle(
        &mut self,
        how: Shuffle,
        d: u32,
        p: Option<u32>,
        [a, b, c]: [u32; 3],
        mask: u32,
    ) -> Done<()> {
        let (a, b, c) = (*self.row(a), *self.row(b), *self.row(c));
        let (mut out, mut inside) = ([0; 32], [0; 32]);
        for lane in lanes(mask) {
            let l = lane as i32;
            let by = (b[lane] & 31) as i32;
            let clamp = (c[lane] & 31) as i32;
            let segment = (c[lane] >> 8 & 31) as i32;
            let most = (l & segment) | (clamp & !segment);
            let least = l & segment;
            let (from, good) = match how {
                Shuffle::Up => (l - by, l - by >= most),
                Shuffle::Down => (l + by, l + by <= most),
                Shuffle::Butterfly => (l ^ by, (l ^ by) <= most),
                Shuffle::Index => {
                    let j = least | (by & !segment);
                    (j, j <= most)
                }
            };
            let from = if good { from as usize & 31 } else { lane };
            if mask >> from & 1 == 0 {
                let what =
                    format!("lane {lane} reads a register of lane {from}, which is not here");
                return Err(wrong(lane as u32, FaultKind::Convergence { what }));
            }
            out[lane] = a[from] as u32 as u64;
            inside[lane] = u64::from(good);
        }
        self.put(d, mask, &out);
        if let Some(p) = p {
            self.put(p, mask, &inside);
        }
        Ok(())
    }
}
