//! `Params`: parameters stored in slabs, one per (group, shape). An optimizer works on a whole slab, while a model asks for one matrix at a time. What a parameter means is unknown here.
//!
//! With several ranks a slab may be sharded according to its [`Blocks`]. Every rank then has all weights to compute with and the gradient of its own micro-batches for all of them, but master
//! weights and summed gradients only for its own blocks. Moving gradients to their owners, and weights back, is up to the caller.

use std::ops::Range;

use crate::{Blocks, Coef, Device, Error, Mut, Ref, Result, Shape, Tensor};

/// A parameter's number: its place in the model's own list of parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParamId(pub usize);

/// Parameters of one shape that are updated together.
#[derive(Clone, PartialEq, Debug)]
pub struct SlabSpec {
    /// The optimizer group they belong to.
    pub group: String,
    /// Which parameters, in stacking order.
    pub params: Vec<ParamId>,
    /// Their names, in the same order.
    pub names: Vec<String>,
    /// One parameter's shape: (R, S), or (S) for vectors.
    pub shape: Shape,
}

impl SlabSpec {
    /// (K, R, S): the stack's shape; a vector counts as one row.
    pub fn stacked(&self) -> Shape {
        let (rows, cols) = match *self.shape {
            [rows, cols] => (rows, cols),
            _ => (1, self.shape.elements()),
        };
        Shape::from([self.params.len(), rows, cols])
    }
}

/// What an optimizer updates in one call: K parameters of one shape; of a sharded slab, this rank's part.
pub struct Slab<'a> {
    /// What they are.
    pub spec: &'a SlabSpec,
    /// Master weights (K, R, S).
    pub weight: Mut<'a>,
    /// Gradients (K, R, S), which the optimizer may use as scratch.
    pub grad: Mut<'a>,
}

/// The part of a parameter that this rank has the master weights of.
pub struct Part<'a> {
    /// Which of the parameter's elements.
    pub range: Range<usize>,
    /// Their master weights, flat.
    pub master: Mut<'a>,
}

/// A slab's weights on this rank.
pub(crate) struct Store {
    pub(crate) blocks: Blocks,
    /// What this rank's optimizer updates.
    own: SlabSpec,
    /// Master weights of this rank's elements.
    pub(crate) master: Tensor,
    /// All weights in the compute dtype, where that is not the master dtype or this rank's elements are not all.
    pub(crate) compute: Option<Tensor>,
}

impl Store {
    /// All weights as they are computed with.
    pub(crate) fn to_compute(&self) -> &Tensor {
        self.compute.as_ref().unwrap_or(&self.master)
    }

    /// All master weights, if they are here.
    pub(crate) fn whole_master(&self) -> Option<Ref<'_>> {
        self.blocks.is_whole().then(|| self.master.view())
    }
}

/// All parameters of a model and their gradients, on one device.
pub struct Params {
    pub(crate) specs: Vec<SlabSpec>,
    /// Per parameter id: its slab and its place in the stack.
    pub(crate) index: Vec<(usize, usize)>,
    pub(crate) stores: Vec<Store>,
    /// This rank's gradient of all elements.
    pub(crate) grad: Vec<Tensor>,
    /// Of a sharded slab, the gradient summed over all ranks, of this rank's elements.
    pub(crate) own_grad: Vec<Option<Tensor>>,
}

impl Params {
    /// Allocates zeroed slabs. Each of the ids 0..n must occur in exactly one slab.
    ///
    /// # Errors
    /// [`Error::Argument`] when an id is missing or occurs twice; [`Error::OutOfMemory`].
    pub fn new(dev: &dyn Device, specs: Vec<SlabSpec>) -> Result<Self> {
        let whole = |spec: &SlabSpec| Blocks::whole(spec.stacked().elements());
        let blocks: Vec<Blocks> = specs.iter().map(whole).collect();
        Self::sharded(dev, specs, &blocks)
    }

    /// Allocates this rank's part of zeroed slabs, divided as `blocks` say, one for each slab: whole, a parameter a block, or cut into a block for each rank.
    ///
    /// # Errors
    /// As [`Params::new`]; [`Error::Argument`] for blocks that don't fit the slab.
    pub fn sharded(dev: &dyn Device, specs: Vec<SlabSpec>, blocks: &[Blocks]) -> Result<Self> {
        let index = index_of(&specs)?;
        if blocks.len() != specs.len() {
            let what = format!("blocks of {} slabs for {}", blocks.len(), specs.len());
            return Err(Error::Argument { op: "Params::sharded", what });
        }
        let mut params = Self { specs, index, stores: vec![], grad: vec![], own_grad: vec![] };
        for (spec, &blocks) in params.specs.iter().zip(blocks) {
            let (own, stacked) = (own_spec(spec, blocks)?, spec.stacked());
            let sharded = !blocks.is_whole();
            let copied = sharded || dev.compute_dtype() != dev.master_dtype();
            params.grad.push(dev.master(stacked)?);
            params.own_grad.push(sharded.then(|| dev.master(own.stacked())).transpose()?);
            params.stores.push(Store {
                blocks,
                master: dev.master(own.stacked())?,
                compute: copied.then(|| dev.activations(stacked)).transpose()?,
                own,
            });
        }
        Ok(params)
    }

    /// The slabs' descriptions, in slab order, of all ranks together.
    pub fn specs(&self) -> &[SlabSpec] {
        &self.specs
    }

    /// What this rank's optimizer of slab `i` updates. It has no elements where others have them all.
    pub fn own_spec(&self, i: usize) -> &SlabSpec {
        &self.stores[i].own
    }

    /// Who has which elements of slab `i`.
    pub fn blocks(&self, i: usize) -> Blocks {
        self.stores[i].blocks
    }

    /// The number of parameters (tensors, not elements).
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// A parameter's slab, and its elements in the slab's flat array.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such parameter.
    pub fn place(&self, id: ParamId) -> Result<(usize, Range<usize>)> {
        let (slab, k) = locate(&self.index, id)?;
        let n = self.specs[slab].shape.elements();
        Ok((slab, k * n..(k + 1) * n))
    }

    /// Weights to read and gradients to add to, both at once.
    pub fn split(&mut self) -> (Weights<'_>, Grads<'_>) {
        let Self { specs, index, stores, grad, .. } = self;
        (
            Weights { specs, index, from: From::Stores(stores) },
            Grads { specs, index, grad: Held::Whole(grad) },
        )
    }

    /// Weights to read.
    pub fn weights(&self) -> Weights<'_> {
        Weights { specs: &self.specs, index: &self.index, from: From::Stores(&self.stores) }
    }

    /// This rank's part of slab `i`, for its optimizer.
    pub fn slab(&mut self, i: usize) -> Slab<'_> {
        let Store { own, master, .. } = &mut self.stores[i];
        let grad = self.own_grad[i].as_mut().unwrap_or(&mut self.grad[i]);
        Slab { spec: own, weight: master.view_mut(), grad: grad.view_mut() }
    }

    /// This rank's gradient of slab `i`, whole.
    pub fn grad_mut(&mut self, i: usize) -> Mut<'_> {
        self.grad[i].view_mut()
    }

    /// This rank's master weights of slab `i`, flat.
    ///
    /// # Errors
    /// None that a slab of this type causes.
    pub fn own_master(&self, i: usize) -> Result<Ref<'_>> {
        let Store { blocks, master, .. } = &self.stores[i];
        master.view().reshape([blocks.own()])
    }

    /// The part of a parameter that this rank has the master weights of, to write: initialisation and checkpoints.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such parameter.
    pub fn part_mut(&mut self, id: ParamId) -> Result<Option<Part<'_>>> {
        let (slab, range) = self.place(id)?;
        let Store { blocks, master, .. } = &mut self.stores[slab];
        let Some((range, local)) = blocks.own_part(range) else { return Ok(None) };
        let master = master.view_mut().reshape([blocks.own()])?.rows(local)?;
        Ok(Some(Part { range, master }))
    }

    /// One parameter's master weights, to write.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such parameter; [`Error::Argument`] when this rank has not all of it.
    pub fn master_mut(&mut self, id: ParamId) -> Result<Mut<'_>> {
        let (slab, range) = self.place(id)?;
        let (shape, n) = (self.specs[slab].shape, range.len());
        match self.part_mut(id)? {
            Some(part) if part.range.len() == n => part.master.reshape(shape),
            _ => Err(elsewhere(id)),
        }
    }

    /// Sets every gradient to zero.
    ///
    /// # Errors
    /// As [`Fill`](crate::ops::Fill).
    pub fn zero_grads(&mut self, dev: &dyn Device) -> Result<()> {
        self.grad.iter_mut().try_for_each(|g| dev.fill(g.view_mut(), 0.0))
    }

    /// Rounds this rank's master weights to the compute dtype; to be called after every change of them. Nothing to do where the types are one and no slab is
    /// sharded.
    ///
    /// # Errors
    /// As [`Cast`](crate::ops::Cast).
    pub fn refresh_compute(&mut self, dev: &dyn Device) -> Result<()> {
        let same = dev.compute_dtype() == dev.master_dtype();
        for Store { blocks, master, compute, .. } in &mut self.stores {
            let Some(compute) = compute else { continue };
            if blocks.is_whole() {
                dev.cast(compute.view_mut(), master.view())?;
                continue;
            }
            let mut at = 0;
            for range in blocks.own_blocks() {
                let own = master.view().reshape([blocks.own()])?.rows(at..at + range.len())?;
                at += range.len();
                let dst = compute.view_mut().reshape([blocks.elements()])?.rows(range)?;
                if same { dev.copy(dst, own)? } else { dev.cast(dst, own)? }
            }
        }
        Ok(())
    }

    /// Bytes of master weights, compute weights and gradients.
    pub fn bytes(&self) -> usize {
        let own_grad = self.own_grad.iter().flatten();
        let weights = self.stores.iter().flat_map(|s| s.compute.iter().chain([&s.master]));
        self.grad.iter().chain(own_grad).chain(weights).map(Tensor::bytes).sum()
    }
}

/// Every parameter, to read.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    pub(crate) specs: &'a [SlabSpec],
    pub(crate) index: &'a [(usize, usize)],
    pub(crate) from: From<'a>,
}

/// Weights as they lie, or as they come in.
#[derive(Clone, Copy)]
pub(crate) enum From<'a> {
    Stores(&'a [Store]),
    Coming(&'a (dyn LookUp + 'a)),
}

/// Gives weights of slabs, by their places in the stack, once they are there.
pub(crate) trait LookUp {
    /// In the compute dtype.
    fn compute(&self, slab: usize, k: usize) -> Result<Ref<'_>>;
    /// In the master dtype, (K, R, S); nothing where this rank has a part.
    fn master(&self, slab: usize) -> Option<Ref<'_>>;
}

impl<'a> Weights<'a> {
    /// A parameter in the compute dtype, in its own shape.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such parameter.
    pub fn get(&self, id: ParamId) -> Result<Ref<'a>> {
        let (slab, k) = locate(self.index, id)?;
        let weights = match self.from {
            From::Stores(stores) => stores[slab].to_compute().view().at(k)?,
            From::Coming(weights) => weights.compute(slab, k)?,
        };
        weights.reshape(self.specs[slab].shape)
    }

    /// A parameter in the master dtype, in its own shape. Vectors are on every rank.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such parameter; [`Error::Argument`] when it belongs to a sharded slab.
    pub fn master(&self, id: ParamId) -> Result<Ref<'a>> {
        let (slab, k) = locate(self.index, id)?;
        let master = match self.from {
            From::Stores(stores) => stores[slab].whole_master(),
            From::Coming(weights) => weights.master(slab),
        };
        master.ok_or_else(|| elsewhere(id))?.at(k)?.reshape(self.specs[slab].shape)
    }

    /// `times` · element `i` of a vector parameter, as a factor.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn coef(&self, id: ParamId, i: usize, times: f64) -> Result<Coef<'a>> {
        Ok(Coef::new(self.master(id)?.rows(i..i + 1)?, times))
    }
}

/// Every parameter's gradient, to add to.
pub struct Grads<'a> {
    pub(crate) specs: &'a [SlabSpec],
    pub(crate) index: &'a [(usize, usize)],
    pub(crate) grad: Held<'a>,
}

/// Gradients as they lie, or wherever they are handed out.
pub(crate) enum Held<'a> {
    Whole(&'a mut [Tensor]),
    Leaving(&'a mut (dyn HandOut + 'a)),
}

/// Hands out gradients of slabs, by their places in the stack, until they are finished.
pub(crate) trait HandOut {
    fn at(&mut self, slab: usize, k: usize) -> Result<Mut<'_>>;
    /// Two different parameters'.
    fn pair(&mut self, a: (usize, usize), b: (usize, usize)) -> Result<(Mut<'_>, Mut<'_>)>;
    fn finish(&mut self, slab: usize, k: usize) -> Result<()>;
}

impl Grads<'_> {
    /// A parameter's gradient, in its own shape and the master dtype.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such parameter; [`Error::Argument`] when it was finished and sent.
    pub fn get(&mut self, id: ParamId) -> Result<Mut<'_>> {
        let (slab, k) = locate(self.index, id)?;
        let grad = match &mut self.grad {
            Held::Whole(grad) => grad[slab].view_mut().at(k)?,
            Held::Leaving(grads) => grads.at(slab, k)?,
        };
        grad.reshape(self.specs[slab].shape)
    }

    /// Says that nothing more will be added to these parameters' gradients, each once, in an order that is the same on all ranks. What that means depends on who made this:
    /// nothing, or they are on their way to other ranks.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such parameter.
    pub fn finish(&mut self, ids: impl IntoIterator<Item = ParamId>) -> Result<()> {
        let Held::Leaving(grads) = &mut self.grad else { return Ok(()) };
        for id in ids {
            let (slab, k) = locate(self.index, id)?;
            grads.finish(slab, k)?;
        }
        Ok(())
    }

    /// Two different parameters' gradients at once.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Argument`] when they are the same parameter.
    pub fn pair(&mut self, a: ParamId, b: ParamId) -> Result<(Mut<'_>, Mut<'_>)> {
        let (slab_a, k_a) = locate(self.index, a)?;
        let (slab_b, k_b) = locate(self.index, b)?;
        let (shape_a, shape_b) = (self.specs[slab_a].shape, self.specs[slab_b].shape);
        if a == b {
            let what = format!("parameter {} asked for twice", a.0);
            return Err(Error::Argument { op: "pair", what });
        }
        let (a, b) = match &mut self.grad {
            Held::Leaving(grads) => grads.pair((slab_a, k_a), (slab_b, k_b))?,
            Held::Whole(grad) => {
                if slab_a == slab_b {
                    two_of(grad[slab_a].view_mut(), k_a, k_b)?
                } else {
                    let [a, b] = grad.get_disjoint_mut([slab_a, slab_b]).map_err(overlap)?;
                    (a.view_mut().at(k_a)?, b.view_mut().at(k_b)?)
                }
            }
        };
        Ok((a.reshape(shape_a)?, b.reshape(shape_b)?))
    }
}

pub(crate) fn overlap(_: std::slice::GetDisjointMutError) -> Error {
    Error::Argument { op: "pair", what: "one slab for two".into() }
}

/// Two different rows.
pub(crate) fn two_of(all: Mut<'_>, a: usize, b: usize) -> Result<(Mut<'_>, Mut<'_>)> {
    let (low, high) = (a.min(b), a.max(b));
    let (head, tail) = all.split_rows(high)?;
    let (low, high) = (head.at(low)?, tail.at(0)?);
    Ok(if a < b { (low, high) } else { (high, low) })
}

pub(crate) fn elsewhere(id: ParamId) -> Error {
    let what = format!("the master weights of parameter {} are on several ranks", id.0);
    Error::Argument { op: "master", what }
}

/// What one rank's optimizer updates of a slab: some of its parameters, or a vector of their elements.
fn own_spec(spec: &SlabSpec, blocks: Blocks) -> Result<SlabSpec> {
    let (n, elements) = (spec.shape.elements(), spec.stacked().elements());
    if blocks.elements() == elements && blocks.is_whole() {
        return Ok(spec.clone());
    }
    if blocks.elements() == elements && blocks.block() == n {
        let own = || blocks.own_blocks().map(|range| range.start / n.max(1));
        return Ok(SlabSpec {
            params: own().map(|k| spec.params[k]).collect(),
            names: own().map(|k| spec.names[k].clone()).collect(),
            ..spec.clone()
        });
    }
    // In one bucket, or each parameter in one of its own.
    let bucket = blocks.block().saturating_mul(blocks.ranks());
    if blocks.elements() == elements && (bucket >= elements || bucket == n) {
        let shape = Shape::from([blocks.own()]);
        let first = |list: &[String]| list.first().cloned().into_iter().collect();
        let params = spec.params.first().copied().into_iter().collect();
        return Ok(SlabSpec { params, names: first(&spec.names), shape, ..spec.clone() });
    }
    let what = format!("{blocks:?} for the slab {} of group {}", spec.stacked(), spec.group);
    Err(Error::Argument { op: "Params::sharded", what })
}

fn locate(index: &[(usize, usize)], id: ParamId) -> Result<(usize, usize)> {
    index.get(id.0).copied().ok_or(Error::OutOfRange {
        op: "parameter",
        start: id.0,
        end: id.0 + 1,
        shape: Shape::from([index.len()]),
    })
}

fn index_of(specs: &[SlabSpec]) -> Result<Vec<(usize, usize)>> {
    let fault = |what: String| Error::Argument { op: "Params::new", what };
    let n: usize = specs.iter().map(|s| s.params.len()).sum();
    let mut index = vec![None; n];
    for (slab, spec) in specs.iter().enumerate() {
        if spec.shape.is_empty() || spec.shape.len() > 2 {
            return Err(fault(format!("parameters of shape {}; 1 or 2 dimensions", spec.shape)));
        }
        if spec.names.len() != spec.params.len() {
            let (names, params) = (spec.names.len(), spec.params.len());
            return Err(fault(format!("{names} names for {params} parameters of {}", spec.group)));
        }
        for (k, (id, name)) in spec.params.iter().zip(&spec.names).enumerate() {
            let place = index
                .get_mut(id.0)
                .ok_or_else(|| fault(format!("{name} has number {} of {n}", id.0)))?;
            if place.replace((slab, k)).is_some() {
                return Err(fault(format!("{name} is in two slabs")));
            }
        }
    }
    index.into_iter().map(|p| p.ok_or_else(|| fault("a parameter is in no slab".into()))).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cpu::Cpu;
    use crate::reference::Reference;

    /// A slab of the parameters of these numbers.
    pub(crate) fn spec(group: &str, ids: &[usize], shape: impl Into<Shape>) -> SlabSpec {
        SlabSpec {
            group: group.into(),
            params: ids.iter().map(|&id| ParamId(id)).collect(),
            names: ids.iter().map(|id| format!("p{id}")).collect(),
            shape: shape.into(),
        }
    }

    /// Matrices 2, 0, 3 (2 × 2) in one slab, vector 1 (3) in another.
    fn params(dev: &dyn Device) -> Params {
        let specs = vec![spec("muon", &[2, 0, 3], [2, 2]), spec("adamw", &[1], [3])];
        Params::new(dev, specs).unwrap()
    }

    fn fault(specs: Vec<SlabSpec>) -> String {
        Params::new(&Reference::new(), specs).err().unwrap().to_string()
    }

    #[test]
    fn each_number_belongs_to_exactly_one_slab() {
        let twice = fault(vec![spec("a", &[0, 1], [2, 2]), spec("b", &[1], [3])]);
        assert!(twice.contains("p1 is in two slabs") || twice.contains("in no slab"), "{twice}");
        let beyond = fault(vec![spec("a", &[0, 5], [2, 2])]);
        assert_eq!(beyond, "Params::new: p5 has number 5 of 2");
        let rank = fault(vec![spec("a", &[0], [2, 2, 2])]);
        assert_eq!(rank, "Params::new: parameters of shape (2, 2, 2); 1 or 2 dimensions");
        let unnamed = SlabSpec { names: vec![], ..spec("a", &[0], [2]) };
        assert_eq!(fault(vec![unnamed]), "Params::new: 0 names for 1 parameters of a");
    }

    #[test]
    fn a_parameter_is_its_row_of_the_stack() {
        let dev: &dyn Device = &Reference::new();
        let mut params = params(dev);
        assert_eq!((params.len(), params.is_empty()), (4, false));
        assert_eq!(*params.specs()[0].stacked(), [3, 2, 2]);
        assert_eq!(*params.specs()[1].stacked(), [1, 1, 3]);
        for id in [0, 2, 3] {
            let master = params.master_mut(ParamId(id)).unwrap();
            dev.write_f64(master, &[id as f64; 4]).unwrap();
        }
        dev.write_f64(params.master_mut(ParamId(1)).unwrap(), &[5.0, 6.0, 7.0]).unwrap();
        let slab = params.slab(0);
        assert_eq!(
            dev.read_f64(slab.weight.view()).unwrap(),
            [2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0]
        );
        let weights = params.weights();
        assert_eq!(*weights.get(ParamId(1)).unwrap().shape(), [3]);
        assert_eq!(dev.read_f64(weights.get(ParamId(3)).unwrap()).unwrap(), [3.0; 4]);
        let coef = weights.coef(ParamId(1), 2, 0.5).unwrap();
        assert_eq!(coef.times, 0.5);
        assert_eq!(dev.read_f64(coef.parameter.unwrap()).unwrap(), [7.0]);
        assert!(weights.coef(ParamId(1), 3, 1.0).is_err());
        assert!(weights.get(ParamId(4)).is_err());
        assert!(weights.get(ParamId(usize::MAX)).is_err());
    }

    #[test]
    fn two_gradients_at_once() {
        let dev: &dyn Device = &Reference::new();
        let mut params = params(dev);
        let (weights, mut grads) = params.split();
        assert!(weights.get(ParamId(0)).is_ok(), "weights and gradients at the same time");
        // In one slab, in both orders, and across slabs: a marks the first, b the second.
        for (a, b) in [(0, 2), (2, 0), (2, 3), (3, 0), (0, 1), (1, 3)] {
            let (a, b) = (ParamId(a), ParamId(b));
            let (first, second) = grads.pair(a, b).unwrap();
            dev.fill(first, 1.0).unwrap();
            dev.fill(second, 2.0).unwrap();
            let mut read = |id| dev.read_f64(grads.get(id).unwrap().view()).unwrap();
            assert!(read(a).iter().all(|&x| x == 1.0), "{a:?} {b:?}");
            assert!(read(b).iter().all(|&x| x == 2.0), "{a:?} {b:?}");
        }
        let same = grads.pair(ParamId(3), ParamId(3)).err().unwrap().to_string();
        assert_eq!(same, "pair: parameter 3 asked for twice");
        assert!(grads.pair(ParamId(0), ParamId(9)).is_err());
        params.zero_grads(dev).unwrap();
        let (_, mut grads) = params.split();
        assert_eq!(dev.read_f64(grads.get(ParamId(0)).unwrap().view()).unwrap(), [0.0; 4]);
    }

    #[test]
    fn weights_are_stored_once_where_types_are_one() {
        let cpu = Cpu::new(1).unwrap();
        let mut params = params(&cpu);
        // 15 elements of master weights and as many of gradients, 4 bytes each.
        assert_eq!(params.bytes(), 2 * 15 * 4);
        (&cpu as &dyn Device)
            .write_f64(params.master_mut(ParamId(1)).unwrap(), &[1.0, 2.0, 3.0])
            .unwrap();
        params.refresh_compute(&cpu).unwrap();
        let compute = params.weights().get(ParamId(1)).unwrap();
        assert_eq!(compute.slice::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    }
}
