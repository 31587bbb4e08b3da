//! `Optimizers`: every slab's optimizer, stepped together with the groups' scheduled numbers. The arithmetic is theirs.

use std::fmt;

use farthing_kernels::{Blocks, Device, Params, Shape, SlabSpec, Tensor};

use crate::scaling::commas;
use crate::sharding::state_blocks;
use crate::{Error, Factors, Group, Hyper, Optimizer, Plan, Registry, Result, Schedule};

/// One slab's optimizer and its group's numbers, scaled but not scheduled.
struct Entry {
    /// None where other ranks have all of the slab.
    optimizer: Option<Box<dyn Optimizer>>,
    /// How each tensor of its state is divided, and its shape on all ranks together.
    state: Vec<(Shape, Blocks)>,
    /// `optim.{group}.{shape}`.
    key: String,
    lr: f64,
    weight_decay: f64,
    weight_decay_scheduled: bool,
}

/// A tensor that must be saved for a resumed run to continue bit-equal.
pub struct State<'a> {
    /// `optim.{group}.{shape}.{what}`, such as `optim.matrices.128x512.buf`.
    pub name: String,
    /// Its shape on all ranks together.
    pub shape: Shape,
    /// Who has which elements of that.
    pub blocks: Blocks,
    /// What this rank has.
    pub tensor: &'a mut Tensor,
}

/// The optimizers of a whole model, or of one rank's part of it.
pub struct Optimizers {
    entries: Vec<Entry>,
    schedule: Schedule,
    steps: u64,
    summary: Vec<GroupSummary>,
}

impl Optimizers {
    /// Builds one optimizer per slab of `params`, with its state, for what this rank has of it. `groups` are those that [`resolve`](crate::resolve) made the slabs from.
    ///
    /// # Errors
    /// As [`Registry::build`]; [`Error::Plan`] when a slab's group is not among `groups`; [`Error::State`] for a rule whose state is not divided as slabs are.
    pub fn new(
        registry: &Registry,
        dev: &dyn Device,
        groups: &[Group],
        plan: &Plan,
        schedule: &Schedule,
        params: &Params,
    ) -> Result<Self> {
        schedule.check()?;
        let mut entries = Vec::with_capacity(params.specs().len());
        for (i, spec) in params.specs().iter().enumerate() {
            let group = group_of(groups, spec)?;
            let (own, blocks) = (params.own_spec(i), params.blocks(i));
            let build = || registry.build(&group.uses, &group.options, dev, own);
            let optimizer = (blocks.own() > 0).then(build).transpose();
            let mut optimizer = optimizer.map_err(|e| e.in_group(&group.name))?;
            let state = optimizer.iter_mut().flat_map(|o| o.state()).map(|(what, tensor)| {
                state_blocks(spec, own, blocks, tensor.shape()).ok_or_else(|| Error::State {
                    uses: group.uses.clone(),
                    state: what,
                    got: tensor.shape(),
                    parameters: own.params.len(),
                })
            });
            entries.push(Entry {
                state: state.collect::<Result<_>>()?,
                optimizer,
                key: format!("optim.{}.{}", group.name, dims(spec.shape)),
                lr: group.scaled_lr(plan),
                weight_decay: group.scaled_weight_decay(plan),
                weight_decay_scheduled: group.scale.weight_decay,
            });
        }
        let summary = summarize(groups, params.specs(), plan)?;
        Ok(Self { entries, schedule: *schedule, steps: plan.steps, summary })
    }

    /// Updates every slab for step `t`, counted from 0, and says the factors it used. Gradients are consumed: they hold scratch afterwards.
    ///
    /// The compute copies of the weights are stale until [`Params::refresh_compute`].
    ///
    /// # Errors
    /// As [`Optimizer::step`]; [`Error::Plan`] when `params` are not those these were built for.
    pub fn step(&mut self, dev: &dyn Device, params: &mut Params, t: u64) -> Result<Factors> {
        let (have, got) = (self.entries.len(), params.specs().len());
        if have != got {
            let what = format!("optimizers for {have} slabs, stepped with {got}");
            let hint = "step the `Params` that they were built for".to_owned();
            return Err(Error::Plan { what, hint });
        }
        let factors = self.schedule.at(t, self.steps);
        for (i, entry) in self.entries.iter_mut().enumerate() {
            let Some(optimizer) = &mut entry.optimizer else { continue };
            let decay = if entry.weight_decay_scheduled { factors.weight_decay } else { 1.0 };
            let hyper = Hyper {
                step: t + 1,
                lr: entry.lr * factors.lr,
                weight_decay: entry.weight_decay * decay,
                momentum: factors.momentum,
            };
            optimizer.step(dev, &mut params.slab(i), &hyper)?;
        }
        Ok(factors)
    }

    /// This rank's state, sorted by name. Names don't depend on the order of slabs. The first rank has a part of everything.
    pub fn state(&mut self) -> Vec<State<'_>> {
        let mut all: Vec<State<'_>> = vec![];
        for Entry { optimizer, key, state, .. } in &mut self.entries {
            let tensors = optimizer.iter_mut().flat_map(|o| o.state());
            all.extend(tensors.zip(state).map(|((what, tensor), &mut (shape, blocks))| State {
                name: format!("{key}.{what}"),
                shape,
                blocks,
                tensor,
            }));
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Who got what.
    pub fn summary(&self) -> &[GroupSummary] {
        &self.summary
    }

    /// How rates, momentum and decay run.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }
}

/// A group as it turned out: for `--plan`, and for the log of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct GroupSummary {
    /// The group's name.
    pub name: String,
    /// Its optimizer.
    pub uses: String,
    /// Each shape, and how many parameters have it.
    pub shapes: Vec<(Shape, usize)>,
    /// Parameters (tensors).
    pub parameters: usize,
    /// Their elements.
    pub elements: u64,
    /// Learning rate, scaled, at the schedule's factor 1.
    pub lr: f64,
    /// Weight decay, scaled, at the schedule's factor 1.
    pub weight_decay: f64,
}

impl fmt::Display for GroupSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements = commas(self.elements);
        write!(
            f,
            "{:<14} {:<8} {:>4} tensors {elements:>14} elements  lr {:.3e}  wd {:.3e}  ",
            self.name, self.uses, self.parameters, self.lr, self.weight_decay
        )?;
        for (i, (shape, count)) in self.shapes.iter().enumerate() {
            write!(f, "{}{count} × {}", if i == 0 { "" } else { ", " }, dims(*shape))?;
        }
        Ok(())
    }
}

/// Who gets what, without a device: one entry for each group that has parameters, in the groups' order.
///
/// # Errors
/// [`Error::Plan`] when a slab's group is not among `groups`.
pub fn summarize(groups: &[Group], specs: &[SlabSpec], plan: &Plan) -> Result<Vec<GroupSummary>> {
    for spec in specs {
        group_of(groups, spec)?;
    }
    let of = |group: &Group| {
        let own = || specs.iter().filter(|spec| spec.group == group.name);
        GroupSummary {
            name: group.name.clone(),
            uses: group.uses.clone(),
            shapes: own().map(|spec| (spec.shape, spec.params.len())).collect(),
            parameters: own().map(|spec| spec.params.len()).sum(),
            elements: own().map(|spec| spec.stacked().elements() as u64).sum(),
            lr: group.scaled_lr(plan),
            weight_decay: group.scaled_weight_decay(plan),
        }
    };
    Ok(groups.iter().map(of).filter(|summary| summary.parameters > 0).collect())
}

pub(crate) fn group_of<'a>(groups: &'a [Group], spec: &SlabSpec) -> Result<&'a Group> {
    groups.iter().find(|group| group.name == spec.group).ok_or_else(|| Error::Plan {
        what: format!("a slab belongs to group `{}`, which is not among the groups", spec.group),
        hint: "pass the groups that the slabs were resolved from".to_owned(),
    })
}

/// (128, 512) → "128x512".
fn dims(shape: Shape) -> String {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    dims.join("x")
}
