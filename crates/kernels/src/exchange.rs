//! Parameters that ranks exchange while they compute, one bucket at a time: weights arriving here, and finished gradients leaving.
//!
//! A bucket's memory is handed over to the sender and comes back when it may be read again. Rust's ownership thus guarantees that nobody touches it in between.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::params::{From, HandOut, Held, LookUp, Store, overlap, two_of};
use crate::{
    Blocks, Error, Grads, Mut, ParamId, Params, Ref, Result, Shape, SlabSpec, Tensor, Weights,
};

/// Neighbouring elements of a sharded slab's gradient that are sent together, flat: a block of each rank.
pub struct Bucket<'p> {
    /// This rank's gradient of them.
    pub grad: Ref<'p>,
    /// Where the sum over all ranks belongs, of this rank's block.
    pub own_grad: Mut<'p>,
    /// Elements of a block.
    pub block: usize,
}

/// Neighbouring elements of a sharded slab's weights that are gathered together, flat: this rank's block is up to date.
pub struct Arrival<'p> {
    /// Weights to compute with, of all ranks.
    pub weights: Mut<'p>,
    /// Elements of a block.
    pub block: usize,
    /// The first parameter in it.
    first: ParamId,
    slab: usize,
    piece: usize,
}

/// All weights to read, of which some are on their way.
pub struct Coming<'p> {
    specs: &'p [SlabSpec],
    index: &'p [(usize, usize)],
    slabs: Vec<ComingSlab<'p>>,
}

struct ComingSlab<'p> {
    /// Master weights, where all are here.
    master: Option<Ref<'p>>,
    compute: Compute<'p>,
}

enum Compute<'p> {
    Here(Ref<'p>),
    /// Pieces of so many parameters.
    Coming {
        params: usize,
        pieces: Vec<Due<'p>>,
    },
}

/// A piece that is to come.
#[derive(Default)]
struct Due<'p> {
    /// Nothing in it where it will not come.
    here: OnceLock<Option<Ref<'p>>>,
    /// What the first who asks for it does, to have it.
    bring: Mutex<Option<Bring<'p>>>,
}

/// Has a piece come, or fails to.
type Bring<'p> = Box<dyn FnOnce() -> Option<Ref<'p>> + Send + 'p>;

impl<'p> Due<'p> {
    fn get(&self) -> Option<Ref<'p>> {
        let bring = self.bring.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(bring) = bring {
            let _ = self.here.set(bring());
        }
        *self.here.wait()
    }
}

/// All gradients to add to, in pieces that leave once they are finished.
pub struct Leaving<'p> {
    specs: &'p [SlabSpec],
    index: &'p [(usize, usize)],
    slabs: Vec<Pieces<'p>>,
    send: Sender<'p>,
    last: bool,
}

/// Takes a bucket to where it is sent.
type Sender<'p> = Box<dyn FnMut(Bucket<'p>) + 'p>;

/// A slab's gradient in pieces of so many parameters; the last may have fewer.
struct Pieces<'p> {
    params: usize,
    pieces: Vec<Piece<'p>>,
}

/// Some neighbouring parameters' gradient, (K, R, S).
struct Piece<'p> {
    /// Nothing once it was sent.
    grad: Option<Mut<'p>>,
    /// Where it is summed, and a block's elements; nothing where it is not sent.
    to: Option<(Mut<'p>, usize)>,
    /// Parameters that may be added to still.
    open: usize,
}

impl Params {
    /// Weights and gradients while ranks exchange them. With `gather`, sharded weights are to be gathered: there is an [`Arrival`] for each bucket, in the order in which a
    /// model asks for its parameters if it asks in the order of their numbers. `send` is called with a bucket of gradients as soon as all that is in it is [finished](Grads::finish), by whoever
    /// finishes it.
    ///
    /// # Errors
    /// None that slabs of this type cause.
    pub fn exchange<'p>(
        &'p mut self,
        gather: bool,
        send: impl FnMut(Bucket<'p>) + 'p,
    ) -> Result<(Coming<'p>, Vec<Arrival<'p>>, Leaving<'p>)> {
        let Self { specs, index, stores, grad, own_grad } = self;
        let (specs, index) = (&**specs, &**index);
        let (mut coming, mut arrivals, mut leaving) = (vec![], vec![], vec![]);
        let slabs = stores.iter_mut().zip(grad.iter_mut().zip(own_grad));
        for (slab, (Store { blocks, master, compute, .. }, (grad, own_grad))) in slabs.enumerate() {
            let (spec, blocks, whole) = (&specs[slab], *blocks, blocks.is_whole());
            let compute = match compute {
                Some(compute) => {
                    if gather && !whole {
                        arrivals_of(slab, spec, blocks, compute, &mut arrivals)?
                    } else {
                        Compute::Here(compute.view())
                    }
                }
                None => Compute::Here(master.view()),
            };
            coming.push(ComingSlab { master: whole.then(|| master.view()), compute });
            leaving.push(match own_grad {
                Some(own_grad) => Pieces::buckets(spec, blocks, grad, own_grad)?,
                None => Pieces::whole(spec, grad),
            });
        }
        arrivals.sort_by_key(|arrival| arrival.first.0);
        let coming = Coming { specs, index, slabs: coming };
        let send = Box::new(send);
        Ok((coming, arrivals, Leaving { specs, index, slabs: leaving, send, last: false }))
    }
}

/// The parameters of a bucket, at least one: those of the first, which is the largest.
fn params_of(spec: &SlabSpec, blocks: Blocks) -> usize {
    let first = blocks.buckets().next().map_or(0, |(all, _)| all.len());
    (first / spec.shape.elements().max(1)).max(1)
}

/// Cuts a slab's weights into buckets.
fn arrivals_of<'p>(
    slab: usize,
    spec: &SlabSpec,
    blocks: Blocks,
    compute: &'p mut Tensor,
    arrivals: &mut Vec<Arrival<'p>>,
) -> Result<Compute<'p>> {
    let (params, mut rest) =
        (params_of(spec, blocks), compute.view_mut().reshape([blocks.elements()])?);
    let mut pieces = Vec::new();
    for (piece, (all, _)) in blocks.buckets().enumerate() {
        let (weights, after) = rest.split_rows(all.len())?;
        rest = after;
        let first = spec.params[piece * params];
        arrivals.push(Arrival { weights, block: blocks.block(), first, slab, piece });
        pieces.push(Due::default());
    }
    Ok(Compute::Coming { params, pieces })
}

impl<'p> Coming<'p> {
    /// Weights to read. Whoever asks for one that is on its way waits for it.
    pub fn weights(&self) -> Weights<'_> {
        Weights { specs: self.specs, index: self.index, from: From::Coming(self) }
    }

    /// Says that a bucket was gathered.
    ///
    /// # Errors
    /// None that an arrival of this exchange causes.
    pub fn arrived(&self, Arrival { weights, slab, piece, .. }: Arrival<'p>) -> Result<()> {
        let Some((due, shape)) = self.due(slab, piece) else { return Ok(()) };
        let _ = due.here.set(Some(weights.into_ref().reshape(shape)?));
        Ok(())
    }

    /// Has a bucket be brought by the first who asks for it: `begin`, which is called at once with its weights and the elements of a block, returns what brings it, or
    /// fails to.
    ///
    /// # Errors
    /// What `begin` says.
    pub fn on_the_way<B, E>(
        &self,
        Arrival { weights, block, slab, piece, .. }: Arrival<'p>,
        begin: impl FnOnce(Mut<'p>, usize) -> std::result::Result<B, E>,
    ) -> std::result::Result<(), E>
    where
        B: FnOnce() -> Option<Mut<'p>> + Send + 'p,
    {
        let bring = begin(weights, block)?;
        if let Some((due, shape)) = self.due(slab, piece) {
            let bring = move || bring().and_then(|weights| weights.into_ref().reshape(shape).ok());
            *due.bring.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(bring));
        }
        Ok(())
    }

    /// A piece, and its shape (K, R, S).
    fn due(&self, slab: usize, piece: usize) -> Option<(&Due<'p>, Shape)> {
        let Compute::Coming { params, pieces } = &self.slabs[slab].compute else { return None };
        let spec = &self.specs[slab];
        let [_, rows, cols] = *spec.stacked() else { return None };
        let k = (spec.params.len() - piece * params).min(*params);
        Some((&pieces[piece], Shape::from([k, rows, cols])))
    }

    /// Says that nothing more will come: whoever waits gets an error.
    pub fn give_up(&self) {
        for slab in &self.slabs {
            let Compute::Coming { pieces, .. } = &slab.compute else { continue };
            for piece in pieces {
                let _ = piece.here.set(None);
            }
        }
    }
}

impl LookUp for Coming<'_> {
    fn compute(&self, slab: usize, k: usize) -> Result<Ref<'_>> {
        match &self.slabs[slab].compute {
            Compute::Here(all) => all.at(k),
            Compute::Coming { params, pieces } => {
                let piece = pieces.get(k / params).and_then(Due::get);
                let missing = || Error::Argument {
                    op: "weights",
                    what: format!("parameter {k} of its slab did not come from other ranks"),
                };
                piece.ok_or_else(missing)?.at(k % params)
            }
        }
    }

    fn master(&self, slab: usize) -> Option<Ref<'_>> {
        self.slabs[slab].master
    }
}

impl Leaving<'_> {
    /// Gradients to add to.
    pub fn grads(&mut self) -> Grads<'_> {
        Grads { specs: self.specs, index: self.index, grad: Held::Leaving(self) }
    }

    /// Says that the next time is the last that is added to gradients: from now on, what is finished leaves.
    pub fn last(&mut self) {
        self.last = true;
    }

    /// Sends whatever has not left.
    ///
    /// # Errors
    /// None that slabs of this type cause.
    pub fn send_rest(mut self) -> Result<()> {
        let Self { slabs, send, .. } = &mut self;
        slabs.iter_mut().flat_map(|slab| &mut slab.pieces).try_for_each(|piece| piece.leave(send))
    }
}

impl HandOut for Leaving<'_> {
    fn at(&mut self, slab: usize, k: usize) -> Result<Mut<'_>> {
        self.slabs[slab].at(k)
    }

    fn pair(
        &mut self,
        (slab_a, a): (usize, usize),
        (slab_b, b): (usize, usize),
    ) -> Result<(Mut<'_>, Mut<'_>)> {
        if slab_a == slab_b {
            return self.slabs[slab_a].pair(a, b);
        }
        let [of_a, of_b] = self.slabs.get_disjoint_mut([slab_a, slab_b]).map_err(overlap)?;
        Ok((of_a.at(a)?, of_b.at(b)?))
    }

    fn finish(&mut self, slab: usize, k: usize) -> Result<()> {
        let Pieces { params, pieces } = &mut self.slabs[slab];
        let Some(piece) = pieces.get_mut(k / *params).filter(|_| self.last) else { return Ok(()) };
        piece.open = piece.open.saturating_sub(1);
        if piece.open == 0 { piece.leave(&mut self.send) } else { Ok(()) }
    }
}

impl<'p> Pieces<'p> {
    /// A slab that is not sent.
    fn whole(spec: &SlabSpec, grad: &'p mut Tensor) -> Self {
        let params = spec.params.len().max(1);
        let piece = Piece { grad: Some(grad.view_mut()), to: None, open: params };
        Self { params, pieces: vec![piece] }
    }

    /// A piece for each bucket.
    fn buckets(
        spec: &SlabSpec,
        blocks: Blocks,
        grad: &'p mut Tensor,
        own_grad: &'p mut Tensor,
    ) -> Result<Self> {
        let n = spec.shape.elements().max(1);
        let (mut grad, mut own) = (grad.view_mut(), own_grad.view_mut().reshape([blocks.own()])?);
        let mut pieces = Vec::new();
        for (all, local) in blocks.buckets() {
            let open = all.len() / n;
            let (piece, rest) = grad.split_rows(open)?;
            let (own_piece, own_rest) = own.split_rows(local.len())?;
            (grad, own) = (rest, own_rest);
            pieces.push(Piece { grad: Some(piece), to: Some((own_piece, blocks.block())), open });
        }
        Ok(Self { params: params_of(spec, blocks), pieces })
    }
}

impl Pieces<'_> {
    fn at(&mut self, k: usize) -> Result<Mut<'_>> {
        let piece = self.pieces.get_mut(k / self.params).and_then(|piece| piece.grad.as_mut());
        piece.ok_or_else(|| sent(k))?.reborrow().at(k % self.params)
    }

    fn pair(&mut self, a: usize, b: usize) -> Result<(Mut<'_>, Mut<'_>)> {
        let Self { params, pieces } = self;
        let (in_a, in_b) = (a / *params, b / *params);
        if in_a == in_b {
            let grad = pieces[in_a].grad.as_mut().ok_or_else(|| sent(a))?;
            return two_of(grad.reborrow(), a % *params, b % *params);
        }
        let [piece_a, piece_b] = pieces.get_disjoint_mut([in_a, in_b]).map_err(overlap)?;
        let grad_a = piece_a.grad.as_mut().ok_or_else(|| sent(a))?;
        let grad_b = piece_b.grad.as_mut().ok_or_else(|| sent(b))?;
        Ok((grad_a.reborrow().at(a % *params)?, grad_b.reborrow().at(b % *params)?))
    }
}

impl<'p> Piece<'p> {
    fn leave(&mut self, send: &mut Sender<'p>) -> Result<()> {
        let Some((own_grad, block)) = self.to.take() else { return Ok(()) };
        if let Some(grad) = self.grad.take() {
            let n = grad.shape().elements();
            let grad = grad.reshape([n])?.into_ref();
            send(Bucket { grad, own_grad, block });
        }
        Ok(())
    }
}

fn sent(k: usize) -> Error {
    let what = format!("the gradient of parameter {k} of its slab was finished and sent");
    Error::Argument { op: "gradient", what }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Device;
    use crate::params::tests::spec;
    use crate::reference::Reference;

    /// Seen by rank 1 of 2: five matrices, a block each; two tables, each cut in two; a vector on all.
    fn params(dev: &dyn Device) -> Params {
        let specs = vec![
            spec("muon", &[1, 2, 3, 4, 5], [2, 2]),
            spec("tables", &[0, 6], [64, 2]),
            spec("adamw", &[7], [3]),
        ];
        let blocks = [Blocks::of(20, 4, 1, 2), Blocks::of(256, 64, 1, 2), Blocks::whole(3)];
        Params::sharded(dev, specs, &blocks).unwrap()
    }

    #[test]
    fn a_bucket_leaves_when_all_that_is_in_it_is_finished() {
        let dev: &dyn Device = &Reference::new();
        let mut params = params(dev);
        let (send, sent) = std::sync::mpsc::channel();
        let send = move |bucket| send.send(bucket).unwrap();
        let (_, arrivals, mut leaving) = params.exchange(false, send).unwrap();
        assert!(arrivals.is_empty());
        let next = || {
            let shapes = |b: Bucket<'_>| (b.grad.shape(), b.own_grad.shape(), b.block);
            sent.try_iter().map(shapes).collect::<Vec<_>>()
        };
        let of = |n: usize, own: usize, block| (Shape::from([n]), Shape::from([own]), block);
        let mut grads = leaving.grads();
        for id in 0..8 {
            dev.fill(grads.get(ParamId(id)).unwrap(), id as f64).unwrap();
        }
        for (a, b) in [(1, 2), (2, 1), (2, 3), (1, 6), (0, 6), (7, 5)] {
            let both = grads.pair(ParamId(a), ParamId(b)).unwrap();
            let first = |x: Mut<'_>| dev.read_f64(x.view()).unwrap()[0];
            assert_eq!((first(both.0), first(both.1)), (a as f64, b as f64));
        }
        // Not the last micro-batch.
        grads.finish((0..8).map(ParamId)).unwrap();
        assert!(next().is_empty());
        leaving.last();
        let mut grads = leaving.grads();
        grads.finish([ParamId(2)]).unwrap();
        assert!(next().is_empty());
        grads.finish([ParamId(1)]).unwrap();
        let bucket = sent.try_recv().unwrap();
        assert_eq!(dev.read_f64(bucket.grad).unwrap(), [1., 1., 1., 1., 2., 2., 2., 2.]);
        assert_eq!((bucket.own_grad.shape(), bucket.block), (Shape::from([4]), 4));
        let late = grads.get(ParamId(2)).err().unwrap().to_string();
        assert!(late.contains("parameter 1 of its slab was finished and sent"), "{late}");
        assert!(grads.pair(ParamId(1), ParamId(3)).is_err());
        // The last of an odd number is alone in its bucket, and rank 1 has nothing of it; a vector is not sent.
        grads.finish([5, 7].map(ParamId)).unwrap();
        assert_eq!(next(), [of(4, 0, 4)]);
        // Tables leave one by one.
        grads.finish([ParamId(6)]).unwrap();
        assert_eq!(next(), [of(128, 64, 64)]);
        assert!(grads.get(ParamId(0)).is_ok() && grads.get(ParamId(7)).is_ok());
        leaving.send_rest().unwrap();
        assert_eq!(next(), [of(8, 4, 4), of(128, 64, 64)]);
    }

    #[test]
    fn weights_are_waited_for_and_missed_when_they_do_not_come() {
        let dev: &dyn Device = &Reference::new();
        let mut params = params(dev);
        let (coming, arrivals, _) = params.exchange(true, drop).unwrap();
        let firsts: Vec<usize> = arrivals.iter().map(|arrival| arrival.first.0).collect();
        assert_eq!(firsts, [0, 1, 3, 5, 6], "in the order in which a model asks");
        let weights = coming.weights();
        // On every rank.
        assert_eq!(dev.read_f64(weights.get(ParamId(7)).unwrap()).unwrap(), [0.0; 3]);
        assert!(weights.master(ParamId(7)).is_ok() && weights.master(ParamId(1)).is_err());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let of = |id| dev.read_f64(coming.weights().get(ParamId(id))?);
                (of(0), of(2), of(4))
            });
            for mut arrival in arrivals.into_iter().take(2) {
                let marked = arrival.first.0 as f64 + 1.0;
                dev.fill(arrival.weights.reborrow(), marked).unwrap();
                coming.arrived(arrival).unwrap();
            }
            coming.give_up();
            let (table, matrix, missing) = waits.join().unwrap();
            assert_eq!((table.unwrap(), matrix.unwrap()), (vec![1.0; 128], vec![2.0; 4]));
            let missing = missing.unwrap_err().to_string();
            assert!(missing.contains("did not come from other ranks"), "{missing}");
        });
    }

    #[test]
    fn who_asks_first_brings_what_is_on_the_way_and_nobody_brings_it_twice() {
        let dev: &dyn Device = &Reference::new();
        let brought = Arc::new(Mutex::new(Vec::new()));
        let mut params = params(dev);
        let (coming, mut arrivals, _) = params.exchange(true, drop).unwrap();
        let last = arrivals.pop().unwrap();
        let none = coming.on_the_way(last, |_, _| Err::<fn() -> _, _>("no network"));
        assert_eq!(none, Err("no network"));
        for arrival in arrivals {
            let (first, brought) = (arrival.first.0, Arc::clone(&brought));
            let begun = coming.on_the_way(arrival, |mut weights, block| {
                assert_eq!(block, if weights.shape().elements() > 8 { 64 } else { 4 });
                dev.fill(weights.reborrow(), first as f64 + 1.0)?;
                Ok::<_, Error>(move || {
                    brought.lock().unwrap().push(first);
                    (first != 5).then_some(weights)
                })
            });
            begun.unwrap();
        }
        let of = |id| Ok::<_, Error>(dev.read_f64(coming.weights().get(ParamId(id))?)?[0]);
        assert!(brought.lock().unwrap().is_empty());
        assert_eq!([2, 1, 2, 0].map(|id| of(id).unwrap()), [2.0, 2.0, 2.0, 1.0]);
        assert_eq!(*brought.lock().unwrap(), [1, 0], "a bucket of two, then a table");
        let missing = (of(5).unwrap_err().to_string(), of(5).is_err());
        assert!(missing.0.contains("did not come from other ranks") && missing.1, "{missing:?}");
    }
}
