//! How slabs and the state of their rules are divided among ranks. Nothing is sent here.

use farthing_kernels::{Blocks, Shape, SlabSpec};

use crate::optimizers::group_of;
use crate::{Grain, Group, Registry, Result};

/// Slabs of fewer elements than this are on every rank: to send them costs more than to update them everywhere.
///
/// # Source
/// nanochat's `optim.py`.
const SMALLEST_SHARDED: usize = 1_024;

/// How rank `rank` of `ranks` sees each slab: small ones and vectors whole, those of a rule that wants whole parameters as a block each, the rest cut into
/// blocks: each parameter into one for each rank, so that it can be sent before the next is there, or, where that does not come out even, all of them together.
///
/// # Errors
/// [`Error::Plan`](crate::Error::Plan) when a slab's group is not among `groups`; [`Error::UnknownOptimizer`](crate::Error::UnknownOptimizer).
pub fn shard(
    registry: &Registry,
    groups: &[Group],
    specs: &[SlabSpec],
    rank: usize,
    ranks: usize,
) -> Result<Vec<Blocks>> {
    let of = |spec: &SlabSpec| {
        let elements = spec.stacked().elements();
        if ranks == 1 || elements < SMALLEST_SHARDED || spec.shape.len() < 2 {
            return Ok(Blocks::whole(elements));
        }
        Ok(match registry.grain(&group_of(groups, spec)?.uses)? {
            Grain::Matrix => Blocks::of(elements, spec.shape.elements(), rank, ranks),
            Grain::Element => {
                let parameter = Blocks::cut(spec.shape.elements(), rank, ranks);
                if parameter.block() * ranks == parameter.elements() {
                    Blocks::of(elements, parameter.block(), rank, ranks)
                } else {
                    Blocks::cut(elements, rank, ranks)
                }
            }
        })
    };
    specs.iter().map(of).collect()
}

/// The shape of a state tensor on all ranks together, and who has which elements, from what this rank has of it; `None` unless it is divided as the slab is.
pub(crate) fn state_blocks(
    spec: &SlabSpec,
    own: &SlabSpec,
    slab: Blocks,
    got: Shape,
) -> Option<(Shape, Blocks)> {
    let elements = got.elements();
    if slab.is_whole() {
        return Some((got, Blocks::whole(elements)));
    }
    if own.shape != spec.shape {
        return (elements == slab.own()).then(|| (spec.stacked(), slab));
    }
    let (&first, entry) = got.split_first()?;
    if first != own.params.len() {
        return None;
    }
    let dims: Vec<usize> = [spec.params.len()].into_iter().chain(entry.iter().copied()).collect();
    let shape = Shape::from_dims(&dims)?;
    Some((shape, slab.with_block(shape.elements(), elements / first.max(1))))
}
