//! The backward pass, written by hand: the forward's steps in reverse, each with the gradient of its operation.
//!
//! `dx` carries ∂loss/∂stream from the head down. Since a branch is added to the stream, the stream's gradient is also the branch's.
//! Gradients of matrices are added to, so that micro-batches accumulate. What the MLP does between its matrices is computed again rather than stored.

use farthing_kernels::{Coef, Device, Grads, Tensor, Weights};

use crate::forward::heads;
use crate::gpt::{Extent, Gpt};
use crate::params::LayerIds;
use crate::workspace::{Buffers, Gradients, first, first_mut};
use crate::{Error, Result};

impl Gpt {
    /// Losses, and gradients added to `grads`, after [`Gpt::trunk`] in the same buffers.
    pub(crate) fn backward(
        &self,
        dev: &dyn Device,
        weights: Weights<'_>,
        grads: &mut Grads<'_>,
        buf: &mut Buffers<Tensor>,
        at: Extent,
        order: &[i32],
        loss_scale: f64,
    ) -> Result<()> {
        let Some(mut gradients) = buf.gradients.take() else {
            let what = "a workspace without gradients".into();
            return Err(Error::Batch { what, hint: "make it with Mode::Train".into() });
        };
        let pass = Backward { gpt: self, dev, weights, at };
        let done = pass.run(grads, buf, &mut gradients, order, loss_scale);
        buf.gradients = Some(gradients);
        done
    }
}

/// What stays the same throughout one backward pass.
struct Backward<'a> {
    gpt: &'a Gpt,
    dev: &'a dyn Device,
    weights: Weights<'a>,
    at: Extent,
}

impl Backward<'_> {
    fn run(
        &self,
        grads: &mut Grads<'_>,
        buf: &mut Buffers<Tensor>,
        g: &mut Gradients<Tensor>,
        order: &[i32],
        loss_scale: f64,
    ) -> Result<()> {
        let (dev, n) = (self.dev, self.at.positions());
        dev.write_i32(first_mut(&mut g.order, n)?, order)?;
        dev.fill(first_mut(&mut g.dx0, n)?, 0.0)?;
        self.head(grads, buf, loss_scale)?;
        self.final_norm(grads, buf, g)?;
        for (i, ids) in self.gpt.ids().layers.iter().enumerate().rev() {
            if i == self.gpt.config().backout_layer() {
                self.join_middle(buf, g)?;
            }
            self.mlp_branch(grads, buf, g, i, ids)?;
            self.attention_branch(grads, buf, g, i, ids)?;
        }
        self.embed(grads, buf, g)
    }

    /// Losses, the head's gradient, and the gradient by `normed` in `wide_c`, a chunk of rows at a time.
    fn head(&self, grads: &mut Grads<'_>, buf: &mut Buffers<Tensor>, scale: f64) -> Result<()> {
        let (dev, n, config) = (self.dev, self.at.positions(), self.gpt.config());
        let chunk = buf.logits.shape()[0];
        let lm_head = self.gpt.ids().lm_head;
        let head = self.weights.get(lm_head)?;
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
                Some(scale),
            )?;
            let dlogits = first(logits, rows.len())?;
            dev.linear_dw(grads.get(lm_head)?, normed, dlogits, true)?;
            dev.linear_dx(buf.wide_c.view_mut().rows(rows)?, dlogits, head, false)?;
        }
        Ok(())
    }

    /// From the gradient by `normed` to those by the last stream and by the middle one.
    fn final_norm(
        &self,
        grads: &mut Grads<'_>,
        buf: &Buffers<Tensor>,
        g: &mut Gradients<Tensor>,
    ) -> Result<()> {
        let (dev, n) = (self.dev, self.at.positions());
        let (normed, rstd) = (first(&buf.normed, n)?, first(&buf.rstd, n)?);
        let dnormed = first(&buf.wide_c, n)?;
        dev.rms_norm_backward(first_mut(&mut g.dx, n)?, dnormed, normed, rstd, false)?;
        let (Some(lambda), Some(dmid)) = (self.gpt.ids().backout_lambda, &mut g.dmid) else {
            return Ok(());
        };
        let config = self.gpt.config();
        dev.fill(first_mut(dmid, n)?, 0.0)?;
        Ok(dev.mix_backward(
            first_mut(&mut g.dx, n)?,
            first_mut(dmid, n)?,
            None,
            Some(grads.get(lambda)?),
            first(&buf.stream[buf.slots[config.depth]], n)?,
            Coef::ONE,
            first(&buf.stream[buf.slots[config.backout_layer() + 1]], n)?,
            self.weights.coef(lambda, 0, -1.0)?,
        )?)
    }

    /// dx += dmid, where the middle stream was backed out.
    fn join_middle(&self, buf: &mut Buffers<Tensor>, g: &mut Gradients<Tensor>) -> Result<()> {
        let Some(dmid) = &g.dmid else { return Ok(()) };
        self.add(&mut buf.wide_c, &mut g.dx, dmid)
    }

    /// x += y, by way of scratch.
    fn add(&self, scratch: &mut Tensor, x: &mut Tensor, y: &Tensor) -> Result<()> {
        let n = self.at.positions();
        let (sum, y) = (first_mut(scratch, n)?, first(y, n)?);
        self.dev.mix(sum, first(x, n)?, Coef::ONE, y, Coef::ONE)?;
        Ok(self.dev.copy(first_mut(x, n)?, first(scratch, n)?)?)
    }

    fn mlp_branch(
        &self,
        grads: &mut Grads<'_>,
        buf: &mut Buffers<Tensor>,
        g: &mut Gradients<Tensor>,
        i: usize,
        ids: &LayerIds,
    ) -> Result<()> {
        let (dev, n) = (self.dev, self.at.positions());
        let layer = &buf.layers[i];
        let (h, n2, rstd2) = (first(&layer.h, n)?, first(&layer.n2, n)?, first(&layer.rstd2, n)?);
        let dx = first(&g.dx, n)?;
        let gate = layer.h_gate.as_ref().map(|gate| first(gate, n)).transpose()?;
        match gate {
            Some(gate) => dev.swiglu(first_mut(&mut buf.act, n)?, gate, h)?,
            None => dev.relu2(first_mut(&mut buf.act, n)?, h)?,
        }
        dev.linear_dw(grads.get(ids.mlp_proj)?, first(&buf.act, n)?, dx, true)?;
        dev.linear_dx(first_mut(&mut buf.act, n)?, dx, self.weights.get(ids.mlp_proj)?, false)?;
        let gated = match (gate, ids.c_gate, &mut g.dh_gate) {
            (Some(gate), Some(c_gate), Some(dgate)) => {
                let outs = (first_mut(&mut buf.act, n)?, first_mut(dgate, n)?);
                dev.swiglu_backward(outs.0, outs.1, gate, h)?;
                Some((c_gate, first(dgate, n)?))
            }
            _ => {
                dev.relu2_backward(first_mut(&mut buf.act, n)?, h)?;
                None
            }
        };
        let mut accumulate = false;
        for (id, dh) in [Some((ids.c_fc, first(&buf.act, n)?)), gated].into_iter().flatten() {
            dev.linear_dw(grads.get(id)?, n2, dh, true)?;
            let dn2 = first_mut(&mut buf.wide_c, n)?;
            dev.linear_dx(dn2, dh, self.weights.get(id)?, accumulate)?;
            accumulate = true;
        }
        let dn2 = first(&buf.wide_c, n)?;
        Ok(dev.rms_norm_backward(first_mut(&mut g.dx, n)?, dn2, n2, rstd2, true)?)
    }

    fn attention_branch(
        &self,
        grads: &mut Grads<'_>,
        buf: &mut Buffers<Tensor>,
        g: &mut Gradients<Tensor>,
        i: usize,
        ids: &LayerIds,
    ) -> Result<()> {
        let (dev, at, n) = (self.dev, self.at, self.at.positions());
        let config = self.gpt.config();
        let [h, k, d] = [config.heads, config.kv_heads, config.head_dim];
        let (layer, kv) = (&buf.layers[i], &buf.kv[i]);
        let (n1, att) = (first(&layer.n1, n)?, first(&layer.att, n)?);
        let q = heads(first(&layer.q, n)?, at, h, d)?;
        let key = heads(first(&kv.k, n)?, at, k, d)?;
        let by_head = [at.rows, h, at.tokens];

        let dx = first(&g.dx, n)?;
        dev.linear_dw(grads.get(ids.attn_proj)?, att, dx, true)?;
        dev.linear_dx(first_mut(&mut g.datt, n)?, dx, self.weights.get(ids.attn_proj)?, false)?;
        dev.attention_backward(
            first_mut(&mut g.dq, n)?.reshape([at.rows, at.tokens, h, d])?,
            first_mut(&mut g.dk, n)?.reshape([at.rows, at.tokens, k, d])?,
            first_mut(&mut g.dv, n)?.reshape([at.rows, at.tokens, k, d])?,
            first_mut(&mut g.delta, n)?.reshape(by_head)?,
            heads(first(&g.datt, n)?, at, h, d)?,
            heads(att, at, h, d)?,
            first(&layer.lse, n)?.reshape(by_head)?,
            q,
            key,
            heads(first(&kv.v, n)?, at, k, d)?,
            self.gpt.attention_shape(i),
        )?;
        let cos = buf.cos.view().rows(0..at.tokens)?;
        let sin = buf.sin.view().rows(0..at.tokens)?;
        dev.rotary_norm_backward(
            first_mut(&mut g.dq, n)?.reshape([at.rows, at.tokens, h, d])?,
            q,
            first(&layer.rstd_q, n)?.reshape([at.rows, at.tokens, h])?,
            cos,
            sin,
            config.qk_gain,
        )?;
        dev.rotary_norm_backward(
            first_mut(&mut g.dk, n)?.reshape([at.rows, at.tokens, k, d])?,
            key,
            first(&layer.rstd_k, n)?.reshape([at.rows, at.tokens, k])?,
            cos,
            sin,
            config.qk_gain,
        )?;

        let (dq, dk, dv) = (first(&g.dq, n)?, first(&g.dk, n)?, first(&g.dv, n)?);
        for (id, dy, accumulate) in [(ids.c_q, dq, false), (ids.c_k, dk, true), (ids.c_v, dv, true)]
        {
            dev.linear_dw(grads.get(id)?, n1, dy, true)?;
            let dn1 = first_mut(&mut buf.wide_c, n)?;
            dev.linear_dx(dn1, dy, self.weights.get(id)?, accumulate)?;
        }
        if let (Some(value), Some(ve), Some(gate), Some(dve)) =
            (ids.value, &mut buf.ve, &layer.gate, &mut g.dve)
        {
            let token_ids = first(&buf.ids, n)?;
            dev.embed(first_mut(ve, n)?, self.weights.get(value.table)?, token_ids)?;
            dev.value_gate_backward(
                first_mut(dve, n)?.reshape([n, k, d])?,
                grads.get(value.gate)?,
                first_mut(&mut buf.wide_c, n)?,
                dv.reshape([n, k, d])?,
                first(ve, n)?.reshape([n, k, d])?,
                first(gate, n)?,
                n1,
                self.weights.get(value.gate)?,
                config.ve_gate_max,
            )?;
            let order = first(&g.order, n)?;
            dev.embed_backward(grads.get(value.table)?, first(dve, n)?, token_ids, order)?;
        }
        let (dn1, rstd1) = (first(&buf.wide_c, n)?, first(&layer.rstd1, n)?);
        dev.rms_norm_backward(first_mut(&mut g.dx, n)?, dn1, n1, rstd1, true)?;

        let (resid, x0) = (self.gpt.ids().resid_lambdas, self.gpt.ids().x0_lambdas);
        let (dresid, dx0_lambda) = grads.pair(resid, x0)?;
        Ok(dev.mix_backward(
            first_mut(&mut g.dx, n)?,
            first_mut(&mut g.dx0, n)?,
            Some(dresid.rows(i..i + 1)?),
            Some(dx0_lambda.rows(i..i + 1)?),
            first(&buf.stream[buf.slots[i]], n)?,
            self.weights.coef(resid, i, 1.0)?,
            first(&buf.stream[0], n)?,
            self.weights.coef(x0, i, 1.0)?,
        )?)
    }

    /// From the gradient by the first stream to that of the token embeddings.
    fn embed(
        &self,
        grads: &mut Grads<'_>,
        buf: &mut Buffers<Tensor>,
        g: &mut Gradients<Tensor>,
    ) -> Result<()> {
        let (dev, at, n) = (self.dev, self.at, self.at.positions());
        let c = self.gpt.config().model_dim;
        self.add(&mut buf.wide_c, &mut g.dx, &g.dx0)?;
        // dx, dx0 and wide_c now take turns: the sum, then the gradient before smear, then the one before the norm.
        let (normed, dnormed) = match (&buf.smear, self.gpt.ids().smear) {
            (Some(smear), Some(ids)) => {
                let (dgate, dlambda) = grads.pair(ids.gate, ids.lambda)?;
                dev.smear_backward(
                    first_mut(&mut g.dx0, n)?.reshape([at.rows, at.tokens, c])?,
                    dgate,
                    dlambda,
                    first(&g.dx, n)?.reshape([at.rows, at.tokens, c])?,
                    first(&smear.x, n)?.reshape([at.rows, at.tokens, c])?,
                    first(&smear.gate, n)?.reshape([at.rows, at.tokens])?,
                    self.weights.get(ids.gate)?,
                    self.weights.master(ids.lambda)?,
                )?;
                (first(&smear.x, n)?, first(&g.dx0, n)?)
            }
            _ => (first(&buf.stream[0], n)?, first(&g.dx, n)?),
        };
        let rstd = first(&buf.rstd0, n)?;
        dev.rms_norm_backward(first_mut(&mut buf.wide_c, n)?, dnormed, normed, rstd, false)?;
        let (ids, order) = (first(&buf.ids, n)?, first(&g.order, n)?);
        Ok(dev.embed_backward(
            grads.get(self.gpt.ids().wte)?,
            first(&buf.wide_c, n)?,
            ids,
            order,
        )?)
    }
}
