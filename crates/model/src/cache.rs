//! Keys and values of texts being generated, kept from one pass to the next. A layer with a window keeps at most two windows and one piece, however long the text grows.

use farthing_kernels::{Device, Mut, Ref, Shape, Tensor};

use crate::workspace::{Layer, bound};
use crate::{Gpt, GptConfig, Result};

/// One layer's keys (after rotary and norm) and values (after the value embedding) of one text, (capacity, K·D) each.
pub(crate) struct Kept {
    k: Tensor,
    v: Tensor,
    /// The position of the first one that is there still.
    first: usize,
}

/// One text: how long it is, and what later tokens see of it.
pub(crate) struct Text {
    /// Its tokens so far.
    pub(crate) tokens: Vec<u32>,
    layers: Vec<Kept>,
    /// Smear's input at its last position, (1, C).
    pub(crate) previous: Option<Tensor>,
}

/// Whether keys that no window reaches any more may be dropped: not where a text may be taken back to a mark.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Windows,
    None,
}

impl Text {
    /// An empty text with room for `most` tokens, which come in pieces of at most `piece`.
    pub(crate) fn new(
        gpt: &Gpt,
        dev: &dyn Device,
        most: usize,
        piece: usize,
        bound: Bound,
    ) -> Result<Self> {
        let config = gpt.config();
        let mut layers = Vec::with_capacity(config.depth);
        for i in 0..config.depth {
            let needed = config.window(i).saturating_mul(2).saturating_add(piece);
            let capacity = if bound == Bound::Windows { most.min(needed) } else { most };
            let shape = Shape::from([capacity, config.kv_heads * config.head_dim]);
            let alloc = || dev.alloc(dev.compute_dtype(), shape);
            layers.push(Kept { k: alloc()?, v: alloc()?, first: 0 });
        }
        let previous = || dev.alloc(dev.compute_dtype(), [1, config.model_dim].into());
        let previous = config.smear.then(previous).transpose()?;
        Ok(Self { tokens: Vec::with_capacity(most), layers, previous })
    }

    /// Tokens so far.
    pub(crate) fn past(&self) -> usize {
        self.tokens.len()
    }

    /// Forgets all tokens.
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.layers.iter_mut().for_each(|kept| kept.first = 0);
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(|kept| kept.k.bytes() + kept.v.bytes());
        layers.sum::<usize>() + self.previous.as_ref().map_or(0, Tensor::bytes)
    }

    /// Becomes the same as another text of the same model and room.
    pub(crate) fn copy_from(&mut self, other: &Self, dev: &dyn Device) -> Result<()> {
        for (to, from) in self.layers.iter_mut().zip(&other.layers) {
            to.first = from.first;
            let held = other.past() - from.first;
            if held > 0 {
                dev.copy(to.k.view_mut().rows(0..held)?, from.k.view().rows(0..held)?)?;
                dev.copy(to.v.view_mut().rows(0..held)?, from.v.view().rows(0..held)?)?;
            }
        }
        if let (Some(to), Some(from)) = (&mut self.previous, &other.previous) {
            dev.copy(to.view_mut(), from.view())?;
        }
        self.tokens.clear();
        self.tokens.extend_from_slice(&other.tokens);
        Ok(())
    }
}

impl Kept {
    /// Adds the next keys and values, (1, T, K, D) each, of a text that has `past` tokens; gives those that the new positions may see, (1, S, K, D).
    fn append(
        &mut self,
        dev: &dyn Device,
        config: &GptConfig,
        [k, v]: [Ref<'_>; 2],
        past: usize,
        window: usize,
    ) -> Result<[Ref<'_>; 2]> {
        let (tokens, width) = (k.shape()[1], config.kv_heads * config.head_dim);
        let mut held = past - self.first;
        if held + tokens > self.k.shape()[0] {
            // There are more than two windows, so that the last of them and its new place do not overlap.
            let keep = window.min(held);
            for tensor in [&mut self.k, &mut self.v] {
                let (front, back) = tensor.view_mut().split_rows(held - keep)?;
                dev.copy(front.rows(0..keep)?, back.into_ref().rows(0..keep)?)?;
            }
            (self.first, held) = (past - keep, keep);
        }
        let fresh = held..held + tokens;
        dev.copy(self.k.view_mut().rows(fresh.clone())?, k.reshape([tokens, width])?)?;
        dev.copy(self.v.view_mut().rows(fresh.clone())?, v.reshape([tokens, width])?)?;
        let (n, shape) = (fresh.end, [1, fresh.end, config.kv_heads, config.head_dim]);
        Ok([bound(&self.k, n, shape)?, bound(&self.v, n, shape)?])
    }
}

/// The texts that a pass goes on with: row r of it is `texts[rows[r]]`.
pub(crate) struct Going<'a> {
    pub(crate) texts: &'a mut [Text],
    pub(crate) rows: &'a [usize],
}

impl Going<'_> {
    /// Lays each text's last smear input beside the others, (R, C); nothing is before a text's first position.
    pub(crate) fn gather_previous(&self, dev: &dyn Device, all: &mut Tensor) -> Result<()> {
        for (r, &row) in self.rows.iter().enumerate() {
            let (to, text) = (all.view_mut().rows(r..r + 1)?, &self.texts[row]);
            match &text.previous {
                Some(previous) if text.past() > 0 => dev.copy(to, previous.view())?,
                _ => dev.fill(to, 0.0)?,
            }
        }
        Ok(())
    }

    /// Notes each text's last row of `x`, (R·T, C).
    pub(crate) fn note_previous(
        &mut self,
        dev: &dyn Device,
        x: &Tensor,
        tokens: usize,
    ) -> Result<()> {
        for (r, &row) in self.rows.iter().enumerate() {
            if let Some(previous) = &mut self.texts[row].previous {
                let last = (r + 1) * tokens - 1;
                dev.copy(previous.view_mut(), x.view().rows(last..last + 1)?)?;
            }
        }
        Ok(())
    }

    /// Rotary, norms and attention of layer `i`, each text for itself: where it is, and what it sees, are its own.
    pub(crate) fn attend(
        &mut self,
        gpt: &Gpt,
        dev: &dyn Device,
        i: usize,
        layer: &mut Layer<Mut<'_>>,
        [mut k, v]: [Mut<'_>; 2],
        [cos, sin]: [&Tensor; 2],
    ) -> Result<()> {
        let (config, at) = (gpt.config(), gpt.attention_shape(i));
        let tokens = k.shape()[1];
        for (r, &row) in self.rows.iter().enumerate() {
            let text = &mut self.texts[row];
            let (one, past) = (r..r + 1, text.past());
            let positions = past..past + tokens;
            let (cos, sin) = (cos.view().rows(positions.clone())?, sin.view().rows(positions)?);
            let (q, rstd) = (layer.q.reborrow().rows(one.clone())?, &mut layer.rstd_q);
            dev.rotary_norm(q, rstd.reborrow().rows(one.clone())?, cos, sin, config.qk_gain)?;
            let (fresh, rstd) = (k.reborrow().rows(one.clone())?, &mut layer.rstd_k);
            dev.rotary_norm(fresh, rstd.reborrow().rows(one.clone())?, cos, sin, config.qk_gain)?;
            let fresh = [k.view().rows(one.clone())?, v.view().rows(one.clone())?];
            let [keys, values] = text.layers[i].append(dev, config, fresh, past, at.window)?;
            let (att, lse) = (layer.att.reborrow(), layer.lse.reborrow());
            let (att, lse) = (att.rows(one.clone())?, lse.rows(one.clone())?);
            dev.attention(att, lse, layer.q.view().rows(one)?, keys, values, at)?;
        }
        Ok(())
    }
}
