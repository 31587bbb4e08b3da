//! Which parameter belongs to which group, and the slabs that follow. Knows names and shapes only.

use farthing_base::names::did_you_mean;
use farthing_kernels::{ParamId, Shape, SlabSpec};
use globset::{Candidate, GlobSet};

use crate::{Error, Group, Origin, Result};

/// One parameter of a model: its checkpoint name, shape and number.
pub type Listed<'a> = (&'a str, Shape, ParamId);

/// The slabs of a model's parameters: one per (group, shape).
///
/// Patterns are globs on dotted names: `*` and `?` stay within a segment between dots, `**` crosses dots, `[…]` and
/// `{a,b}` are as in a shell; a pattern matches whole names. `transformer.h.*.mlp.*.weight` are the MLPs' matrices, `transformer.h.**`
/// everything in the blocks.
///
/// Every parameter belongs to exactly one group. Groups whose patterns a file wrote choose first, and no two of them may match
/// the same parameter; the preset's groups share what is left under the same rule. A preset group that is left
/// with nothing gives no slab; a group that the file wrote or adjusted must get a parameter.
///
/// Slabs come in the groups' order, within a group in the order of each shape's first parameter; parameters are stacked in the
/// order of their numbers. The order of `params` does not matter.
///
/// # Errors
/// [`Error::Pattern`], [`Error::MatchedTwice`], [`Error::Unmatched`], [`Error::MatchesNothing`].
pub fn resolve(groups: &[Group], params: &[Listed<'_>]) -> Result<Vec<SlabSpec>> {
    let sets = groups.iter().map(|g| g.params.compiled(&g.name)).collect::<Result<Vec<_>>>()?;
    let mut params = params.to_vec();
    params.sort_by_key(|(_, _, id)| id.0);
    let owners =
        params.iter().map(|(name, _, _)| owner(groups, &sets, name)).collect::<Result<Vec<_>>>()?;

    let mut specs: Vec<SlabSpec> = vec![];
    for (g, group) in groups.iter().enumerate() {
        let first = specs.len();
        for (&(name, shape, id), _) in params.iter().zip(&owners).filter(|(_, o)| **o == g) {
            let same = specs[first..].iter().position(|spec| spec.shape == shape);
            let at = same.map_or(specs.len(), |i| first + i);
            if at == specs.len() {
                let group = group.name.clone();
                specs.push(SlabSpec { group, params: vec![], names: vec![], shape });
            }
            specs[at].params.push(id);
            specs[at].names.push(name.to_owned());
        }
        if specs.len() == first && group.origin != Origin::Preset {
            return Err(matches_nothing(groups, &sets, g, &params, &owners));
        }
    }
    Ok(specs)
}

/// The index of the group that `name` belongs to.
fn owner(groups: &[Group], sets: &[&GlobSet], name: &str) -> Result<usize> {
    let path = name.replace('.', "/");
    // What a set looks at of a path, found once for all sets.
    let path = Candidate::new(&path);
    let matching = |chooses_first: bool| -> Vec<usize> {
        (0..groups.len())
            .filter(|&g| (groups[g].origin == Origin::File) == chooses_first)
            .filter(|&g| sets[g].is_match_candidate(&path))
            .collect()
    };
    let names = |all: &[usize]| all.iter().map(|&g| groups[g].name.clone()).collect();
    let first = matching(true);
    let found = if first.is_empty() { matching(false) } else { first };
    match found[..] {
        [one] => Ok(one),
        [] => Err(Error::Unmatched {
            parameter: name.to_owned(),
            groups: groups.iter().map(|g| g.name.clone()).collect(),
        }),
        _ => Err(Error::MatchedTwice { parameter: name.to_owned(), groups: names(&found) }),
    }
}

/// Says why: the model lacks them, a name is misspelt, or other groups were first.
fn matches_nothing(
    groups: &[Group],
    sets: &[&GlobSet],
    g: usize,
    params: &[Listed<'_>],
    owners: &[usize],
) -> Error {
    let group = &groups[g];
    let mut taken: Vec<&str> = params
        .iter()
        .zip(owners)
        .filter(|((name, ..), _)| sets[g].is_match(name.replace('.', "/")))
        .map(|(_, &owner)| groups[owner].name.as_str())
        .collect();
    taken.dedup();
    let names: Vec<&str> = params.iter().map(|(name, ..)| *name).collect();
    let near = group.params.iter().find_map(|pattern| did_you_mean(pattern, names.iter().copied()));
    let hint = match (near, group.origin) {
        _ if !taken.is_empty() => {
            let first = "all that it matches belongs to groups whose `params` the file writes";
            format!("{first}: {}", taken.join(", "))
        }
        (_, Origin::Preset | Origin::Adjusted) => {
            "the model as configured has no such parameter; remove the group from the file".into()
        }
        (Some(meant), _) => {
            format!("{meant} the model has {} parameters", names.len())
        }
        (None, _) => {
            format!("its patterns match none of the model's {} parameters", names.len())
        }
    };
    Error::MatchesNothing { group: group.name.clone(), patterns: group.params.to_vec(), hint }
}
