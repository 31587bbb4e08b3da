//! The forward pass, from token ids to the head's input and to losses, layer by layer as the recipe has it.
//!
//! Branches of a layer are added to the residual stream by the matrix product that makes them (`linear` with accumulation), so
//! that they never exist apart. The workspace decides which activations outlive their layer, and binds a layer's in their final shapes.

use farthing_kernels::{AttentionShape, Coef, Device, Mut, Tensor, Weights};

use crate::Result;
use crate::cache::Going;
use crate::gpt::{Extent, Gpt};
use crate::params::LayerIds;
use crate::workspace::{Buffers, Layer, bind, bound, first, first_mut};

impl Gpt {
    /// Token ids to the head's input: fills `normed`, and whatever the backward pass needs. Rows are whole, or each goes on with one of `texts`.
    pub(crate) fn trunk(
        &self,
        dev: &dyn Device,
        weights: Weights<'_>,
        buf: &mut Buffers<Tensor>,
        at: Extent,
        mut texts: Option<&mut Going<'_>>,
    ) -> Result<()> {
        let pass = Forward { gpt: self, dev, weights, at };
        pass.embed(buf, texts.as_deref_mut())?;
        for (i, ids) in self.ids().layers.iter().enumerate() {
            pass.layer(buf, i, ids, texts.as_deref_mut())?;
        }
        pass.final_norm(buf)
    }

    /// Losses per position, a chunk of rows at a time.
    pub(crate) fn losses(
        &self,
        dev: &dyn Device,
        weights: Weights<'_>,
        buf: &mut Buffers<Tensor>,
        at: Extent,
        predictions: bool,
    ) -> Result<()> {
        let (n, config) = (at.positions(), self.config());
        let chunk = buf.logits.shape()[0];
        let head = weights.get(self.ids().lm_head)?;
        for start in (0..n).step_by(chunk) {
            let rows = start..n.min(start + chunk);
            let mut logits = first_mut(&mut buf.logits, rows.len())?;
            let normed = buf.normed.view().rows(rows.clone())?;
            dev.linear(logits.reborrow(), normed, head, false)?;
            let losses = buf.losses.view_mut().rows(rows.clone())?;
            let targets = buf.tokens.view().rows(n + rows.start..n + rows.end)?;
            let (vocab, softcap) = (config.vocab_size, config.logit_softcap);
            dev.cross_entropy(losses, logits.reborrow(), targets, vocab, softcap, None)?;
            if predictions {
                let out = buf.predictions.view_mut().rows(rows)?;
                dev.argmax(out, logits.view(), vocab)?;
            }
        }
        Ok(())
    }

    /// What layer `i` attends to.
    pub(crate) fn attention_shape(&self, i: usize) -> AttentionShape {
        let scale = 1.0 / (self.config().head_dim as f64).sqrt();
        AttentionShape { window: self.config().window(i), scale }
    }
}

/// What stays the same throughout one forward pass.
struct Forward<'a> {
    gpt: &'a Gpt,
    dev: &'a dyn Device,
    weights: Weights<'a>,
    at: Extent,
}

impl Forward<'_> {
    /// x0 = norm(wte\[ids\]), smeared where the model does that.
    fn embed(&self, buf: &mut Buffers<Tensor>, texts: Option<&mut Going<'_>>) -> Result<()> {
        let Self { gpt, dev, weights, at } = *self;
        let (n, shape) = (at.positions(), [at.rows, at.tokens, gpt.config().model_dim]);
        let ids = buf.tokens.view().rows(0..n)?;
        let mut raw = bind(&mut buf.wide_c, n, shape)?;
        let rstd = first_mut(&mut buf.rstd0, n)?;
        let x0 = bind(&mut buf.stream[0], n, shape)?;
        dev.embed(raw.reborrow(), weights.get(gpt.ids().wte)?, ids)?;
        let (Some(smear), Some(smear_ids)) = (&mut buf.smear, gpt.ids().smear) else {
            return Ok(dev.rms_norm(x0, rstd, raw.view())?);
        };
        let mut x = bind(&mut smear.x, n, shape)?;
        let gate = bind(&mut smear.gate, n, [at.rows, at.tokens])?;
        let (w, lambda) = (weights.get(smear_ids.gate)?, weights.master(smear_ids.lambda)?);
        dev.rms_norm(x.reborrow(), rstd, raw.view())?;
        let (Some(texts), Some(all)) = (texts, &mut smear.previous) else {
            return Ok(dev.smear(x0, gate, x.view(), None, w, lambda)?);
        };
        texts.gather_previous(dev, all)?;
        dev.smear(x0, gate, x.view(), Some(first(all, at.rows)?), w, lambda)?;
        texts.note_previous(dev, &smear.x, at.tokens)
    }

    /// x = resid_lambda · x + x0_lambda · x0; x += attention(norm(x)); x += mlp(norm(x)).
    fn layer(
        &self,
        buf: &mut Buffers<Tensor>,
        i: usize,
        ids: &LayerIds,
        texts: Option<&mut Going<'_>>,
    ) -> Result<()> {
        let Self { gpt, dev, weights, at } = *self;
        let (config, n) = (gpt.config(), at.positions());
        let (layer_slot, kv_slot) = (buf.layer_slot(i), buf.kv_slot(i));
        let Buffers { stream, slots, layers, kv, ve, act, gradients, cos, sin, tokens, .. } = buf;
        let mut layer = layers[layer_slot].bind(config, at)?;
        let (x, others) = split_one(stream, slots[i + 1]);
        let mut x = bind(x, n, layer.n1.shape())?;
        let before = bound(others.get(slots[i]), n, x.shape())?;
        let x0 = bound(others.get(0), n, x.shape())?;
        let resid = weights.coef(gpt.ids().resid_lambdas, i, 1.0)?;
        let again = weights.coef(gpt.ids().x0_lambdas, i, 1.0)?;
        let (n1, rstd1) = (layer.n1.reborrow(), layer.rstd1.reborrow());
        dev.mix_norm(x.reborrow(), n1, rstd1, before, resid, x0, again)?;

        let [mut k, mut v] = kv[kv_slot].fresh(config, at)?;
        let n1 = layer.n1.view();
        dev.linear(layer.q.reborrow(), n1, weights.get(ids.c_q)?, false)?;
        dev.linear(k.reborrow(), n1, weights.get(ids.c_k)?, false)?;
        dev.linear(v.reborrow(), n1, weights.get(ids.c_v)?, false)?;
        if let (Some(value), Some(ve), Some(gate)) = (ids.value, ve, &mut layer.gate) {
            let (table, w) = (weights.get(value.table)?, weights.get(value.gate)?);
            let mut ve = bind(ve, n, at.kv(config))?;
            dev.embed(ve.reborrow(), table, first(tokens, n)?)?;
            dev.value_gate(v.reborrow(), gate.reborrow(), ve.view(), n1, w, config.ve_gate_max)?;
        }
        if let Some(texts) = texts {
            texts.attend(gpt, dev, i, &mut layer, [k, v], [cos, sin])?;
        } else {
            let (cos, sin) = (first(cos, at.tokens)?, first(sin, at.tokens)?);
            dev.rotary_norm(layer.q.reborrow(), layer.rstd_q.reborrow(), cos, sin, config.qk_gain)?;
            dev.rotary_norm(k.reborrow(), layer.rstd_k.reborrow(), cos, sin, config.qk_gain)?;
            let (att, lse) = (layer.att.reborrow(), layer.lse.reborrow());
            dev.attention(att, lse, layer.q.view(), k.view(), v.view(), gpt.attention_shape(i))?;
        }
        dev.linear(x.reborrow(), layer.att.view(), weights.get(ids.attn_proj)?, true)?;

        let scratch = act.as_mut().or(gradients.as_mut().map(|gradients| &mut gradients.dh));
        self.mlp(x, &mut layer, scratch, ids)
    }

    /// x += c_proj · relu²(c_fc · norm(x)), or c_proj · (silu(c_gate · norm(x)) ⊙ c_fc · norm(x)).
    fn mlp(
        &self,
        x: Mut<'_>,
        layer: &mut Layer<Mut<'_>>,
        scratch: Option<&mut Tensor>,
        ids: &LayerIds,
    ) -> Result<()> {
        let Self { dev, weights, at, .. } = *self;
        let (c_fc, mlp_proj) = (weights.get(ids.c_fc)?, weights.get(ids.mlp_proj)?);
        dev.rms_norm(layer.n2.reborrow(), layer.rstd2.reborrow(), x.view())?;
        let (h, n2) = (layer.h.reborrow(), layer.n2.view());
        let (Some(c_gate), Some(gate), Some(act)) = (ids.c_gate, &mut layer.h_gate, scratch) else {
            dev.linear_relu2(h, n2, c_fc)?;
            return Ok(dev.linear(x, layer.h.view(), mlp_proj, true)?);
        };
        let mut act = bind(act, at.positions(), h.shape())?;
        dev.linear(h, n2, c_fc, false)?;
        dev.linear(gate.reborrow(), n2, weights.get(c_gate)?, false)?;
        dev.swiglu(act.reborrow(), gate.view(), layer.h.view())?;
        Ok(dev.linear(x, act.view(), mlp_proj, true)?)
    }

    /// normed = norm(x − backout_lambda · x_mid), or norm(x).
    fn final_norm(&self, buf: &mut Buffers<Tensor>) -> Result<()> {
        let Self { gpt, dev, weights, at } = *self;
        let n = at.positions();
        let x = first(&buf.stream[buf.slots[gpt.config().depth]], n)?;
        let (normed, rstd) = (first_mut(&mut buf.normed, n)?, first_mut(&mut buf.rstd, n)?);
        let Some(lambda) = gpt.ids().backout_lambda else {
            return Ok(dev.rms_norm(normed, rstd, x)?);
        };
        let middle = first(&buf.stream[buf.slots[gpt.config().backout_layer() + 1]], n)?;
        let (backed_out, minus) = (first_mut(&mut buf.wide_c, n)?, weights.coef(lambda, 0, -1.0)?);
        Ok(dev.mix_norm(backed_out, normed, rstd, x, Coef::ONE, middle, minus)?)
    }
}

/// One tensor to write and all others to read.
struct Others<'a> {
    before: &'a [Tensor],
    after: &'a [Tensor],
}

impl<'a> Others<'a> {
    /// Tensor `i`, which is not the one to write.
    fn get(&self, i: usize) -> &'a Tensor {
        let n = self.before.len();
        if i < n { &self.before[i] } else { &self.after[i - n - 1] }
    }
}

fn split_one(tensors: &mut [Tensor], i: usize) -> (&mut Tensor, Others<'_>) {
    let (before, rest) = tensors.split_at_mut(i);
    let (one, after) = rest.split_at_mut(1);
    (&mut one[0], Others { before, after })
}
