//! The forward pass, from token ids to the head's input and to losses, layer by layer as the recipe has it.
//!
//! Branches of a layer are added to the residual stream by the matrix product that makes them (`linear` with accumulation), so
//! that they never exist apart. Which activations outlive their layer is the workspace's affair.

use farthing_kernels::{AttentionShape, Coef, Device, Ref, Tensor, Weights};

use crate::Result;
use crate::gpt::{Extent, Gpt};
use crate::params::LayerIds;
use crate::workspace::{Buffers, first, first_mut};

impl Gpt {
    /// Token ids to the head's input: fills `normed`, and whatever the backward pass needs.
    pub(crate) fn trunk(
        &self,
        dev: &dyn Device,
        weights: Weights<'_>,
        buf: &mut Buffers<Tensor>,
        at: Extent,
    ) -> Result<()> {
        self.embed(dev, weights, buf, at)?;
        for (i, ids) in self.ids().layers.iter().enumerate() {
            self.attention_branch(dev, weights, buf, at, i, ids)?;
            mlp_branch(dev, weights, buf, at, i, ids)?;
        }
        self.final_norm(dev, weights, buf, at)
    }

    /// x0 = norm(wte\[ids\]), smeared where the model does that.
    fn embed(
        &self,
        dev: &dyn Device,
        weights: Weights<'_>,
        buf: &mut Buffers<Tensor>,
        at: Extent,
    ) -> Result<()> {
        let n = at.positions();
        let c = self.config().model_dim;
        let table = weights.get(self.ids().wte)?;
        dev.embed(first_mut(&mut buf.wide_c, n)?, table, first(&buf.ids, n)?)?;
        let (raw, rstd) = (first(&buf.wide_c, n)?, first_mut(&mut buf.rstd0, n)?);
        let (Some(smear), Some(ids)) = (&mut buf.smear, self.ids().smear) else {
            return Ok(dev.rms_norm(first_mut(&mut buf.stream[0], n)?, rstd, raw)?);
        };
        dev.rms_norm(first_mut(&mut smear.x, n)?, rstd, raw)?;
        let prev = match &smear.previous {
            Some(previous) if at.past > 0 => Some(previous.view()),
            _ => None,
        };
        dev.smear(
            first_mut(&mut buf.stream[0], n)?.reshape([at.rows, at.tokens, c])?,
            first_mut(&mut smear.gate, n)?.reshape([at.rows, at.tokens])?,
            first(&smear.x, n)?.reshape([at.rows, at.tokens, c])?,
            prev,
            weights.get(ids.gate)?,
            weights.master(ids.lambda)?,
        )?;
        if let Some(previous) = &mut smear.previous {
            dev.copy(previous.view_mut(), smear.x.view().rows(n - 1..n)?)?;
        }
        Ok(())
    }

    /// x = resid_lambda · x + x0_lambda · x0, then x += attention(norm(x)).
    fn attention_branch(
        &self,
        dev: &dyn Device,
        weights: Weights<'_>,
        buf: &mut Buffers<Tensor>,
        at: Extent,
        i: usize,
        ids: &LayerIds,
    ) -> Result<()> {
        let config = self.config();
        let (n, past) = (at.positions(), at.past);
        let [h, k, d] = [config.heads, config.kv_heads, config.head_dim];
        let (source, target) = (buf.slots[i], buf.slots[i + 1]);
        let (layer_slot, kv_slot) = (buf.layer_slot(i), buf.kv_slot(i));
        let (layer, kv) = (&mut buf.layers[layer_slot], &mut buf.kv[kv_slot]);

        let (x, others) = split_one(&mut buf.stream, target);
        dev.mix_norm(
            first_mut(x, n)?,
            first_mut(&mut layer.n1, n)?,
            first_mut(&mut layer.rstd1, n)?,
            first(others.get(source), n)?,
            weights.coef(self.ids().resid_lambdas, i, 1.0)?,
            first(others.get(0), n)?,
            weights.coef(self.ids().x0_lambdas, i, 1.0)?,
        )?;

        let n1 = first(&layer.n1, n)?;
        let fresh = past..past + n;
        dev.linear(first_mut(&mut layer.q, n)?, n1, weights.get(ids.c_q)?, false)?;
        dev.linear(kv.k.view_mut().rows(fresh.clone())?, n1, weights.get(ids.c_k)?, false)?;
        dev.linear(kv.v.view_mut().rows(fresh.clone())?, n1, weights.get(ids.c_v)?, false)?;
        if let (Some(value), Some(ve), Some(gate)) = (ids.value, &mut buf.ve, &mut layer.gate) {
            let table = weights.get(value.table)?;
            dev.embed(first_mut(ve, n)?, table, first(&buf.ids, n)?)?;
            dev.value_gate(
                kv.v.view_mut().rows(fresh.clone())?.reshape([n, k, d])?,
                first_mut(gate, n)?,
                first(ve, n)?.reshape([n, k, d])?,
                n1,
                weights.get(value.gate)?,
                config.ve_gate_max,
            )?;
        }
        let cos = buf.cos.view().rows(past..past + at.tokens)?;
        let sin = buf.sin.view().rows(past..past + at.tokens)?;
        dev.rotary_norm(
            first_mut(&mut layer.q, n)?.reshape([at.rows, at.tokens, h, d])?,
            first_mut(&mut layer.rstd_q, n)?.reshape([at.rows, at.tokens, h])?,
            cos,
            sin,
            config.qk_gain,
        )?;
        dev.rotary_norm(
            kv.k.view_mut().rows(fresh)?.reshape([at.rows, at.tokens, k, d])?,
            first_mut(&mut layer.rstd_k, n)?.reshape([at.rows, at.tokens, k])?,
            cos,
            sin,
            config.qk_gain,
        )?;
        let keys = [at.rows, past + at.tokens, k, d];
        dev.attention(
            first_mut(&mut layer.att, n)?.reshape([at.rows, at.tokens, h, d])?,
            first_mut(&mut layer.lse, n)?.reshape([at.rows, h, at.tokens])?,
            first(&layer.q, n)?.reshape([at.rows, at.tokens, h, d])?,
            first(&kv.k, past + n)?.reshape(keys)?,
            first(&kv.v, past + n)?.reshape(keys)?,
            self.attention_shape(i),
        )?;
        let projection = weights.get(ids.attn_proj)?;
        Ok(dev.linear(first_mut(x, n)?, first(&layer.att, n)?, projection, true)?)
    }

    /// normed = norm(x − backout_lambda · x_mid), or norm(x).
    fn final_norm(
        &self,
        dev: &dyn Device,
        weights: Weights<'_>,
        buf: &mut Buffers<Tensor>,
        at: Extent,
    ) -> Result<()> {
        let n = at.positions();
        let x = first(&buf.stream[buf.slots[self.config().depth]], n)?;
        let (normed, rstd) = (first_mut(&mut buf.normed, n)?, first_mut(&mut buf.rstd, n)?);
        let Some(lambda) = self.ids().backout_lambda else {
            return Ok(dev.rms_norm(normed, rstd, x)?);
        };
        let middle = first(&buf.stream[buf.slots[self.config().backout_layer() + 1]], n)?;
        let backed_out = first_mut(&mut buf.wide_c, n)?;
        let minus = weights.coef(lambda, 0, -1.0)?;
        Ok(dev.mix_norm(backed_out, normed, rstd, x, Coef::ONE, middle, minus)?)
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
            let logits = &mut buf.logits;
            let normed = buf.normed.view().rows(rows.clone())?;
            dev.linear(first_mut(logits, rows.len())?, normed, head, false)?;
            dev.cross_entropy(
                buf.losses.view_mut().rows(rows.clone())?,
                first_mut(logits, rows.len())?,
                buf.targets.view().rows(rows.clone())?,
                config.vocab_size,
                config.logit_softcap,
                None,
            )?;
            if predictions {
                let out = buf.predictions.view_mut().rows(rows.clone())?;
                dev.argmax(out, first(logits, rows.len())?, config.vocab_size)?;
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

/// x += c_proj · relu²(c_fc · norm(x)), or c_proj · (silu(c_gate · norm(x)) ⊙ c_fc · norm(x)).
fn mlp_branch(
    dev: &dyn Device,
    weights: Weights<'_>,
    buf: &mut Buffers<Tensor>,
    at: Extent,
    i: usize,
    ids: &LayerIds,
) -> Result<()> {
    let n = at.positions();
    let target = buf.slots[i + 1];
    let slot = buf.layer_slot(i);
    let (layer, x) = (&mut buf.layers[slot], &mut buf.stream[target]);
    let (n2, rstd2) = (first_mut(&mut layer.n2, n)?, first_mut(&mut layer.rstd2, n)?);
    dev.rms_norm(n2, rstd2, first(x, n)?)?;
    let (hidden, n2) = (first_mut(&mut layer.h, n)?, first(&layer.n2, n)?);
    dev.linear(hidden, n2, weights.get(ids.c_fc)?, false)?;
    let (act, hidden) = (first_mut(&mut buf.act, n)?, first(&layer.h, n)?);
    match (ids.c_gate, &mut layer.h_gate) {
        (Some(c_gate), Some(gate)) => {
            dev.linear(first_mut(gate, n)?, n2, weights.get(c_gate)?, false)?;
            dev.swiglu(act, first(gate, n)?, hidden)?;
        }
        _ => dev.relu2(act, hidden)?,
    }
    let projection = weights.get(ids.mlp_proj)?;
    Ok(dev.linear(first_mut(x, n)?, first(&buf.act, n)?, projection, true)?)
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

/// Keys or values as (B, T, heads, D).
pub(crate) fn heads(x: Ref<'_>, at: Extent, heads: usize, d: usize) -> Result<Ref<'_>> {
    Ok(x.reshape([at.rows, at.tokens, heads, d])?)
}
