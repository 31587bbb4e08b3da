//! The backward pass, written by hand: the steps of the forward pass in reverse order, each with the gradient of its operation.
//!
//! `dx` carries ∂loss/∂stream from the head down to the embedding. A branch is added to the stream, so the stream's gradient is also the gradient of the branch. Gradients of matrices are
//! added to what is there, which accumulates them over micro-batches. What the MLP computes between its two matrices is recomputed here instead of being stored.

use farthing_kernels::{Coef, Device, Grads, Mut, Tensor, Weights};

use crate::gpt::{Extent, Gpt};
use crate::params::LayerIds;
use crate::workspace::{Buffers, Gradients, bind, bound, first, first_mut};
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
        loss_scale: f64,
    ) -> Result<()> {
        let Some(mut gradients) = buf.gradients.take() else {
            let what = "a workspace without gradients".into();
            return Err(Error::Batch { what, hint: "make it with Mode::Train".into() });
        };
        let pass = Backward { gpt: self, dev, weights, at };
        let done = gradients
            .bind(self.config(), at)
            .and_then(|mut g| pass.run(grads, buf, &mut g, loss_scale));
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
        g: &mut Gradients<Mut<'_>>,
        loss_scale: f64,
    ) -> Result<()> {
        self.dev.fill(g.dx0.reborrow(), 0.0)?;
        self.head(grads, buf, loss_scale)?;
        grads.finish([self.gpt.ids().lm_head])?;
        self.final_norm(grads, buf, g)?;
        for (i, ids) in self.gpt.ids().layers.iter().enumerate().rev() {
            if i == self.gpt.config().backout_layer()
                && let Some(dmid) = &g.dmid
            {
                // Where the middle stream was backed out.
                self.add(&mut buf.wide_c, &mut g.dx, dmid)?;
            }
            self.mlp(grads, buf, g, i, ids)?;
            self.attention(grads, buf, g, i, ids)?;
            grads.finish(ids.all())?;
        }
        self.embed(grads, buf, g)?;
        Ok(grads.finish(self.gpt.ids().around())?)
    }

    /// Losses, the head's gradient, and the gradient by `normed` in `wide_c`, a chunk of rows at a time.
    fn head(&self, grads: &mut Grads<'_>, buf: &mut Buffers<Tensor>, scale: f64) -> Result<()> {
        let (dev, n, config) = (self.dev, self.at.positions(), self.gpt.config());
        let chunk = buf.logits.shape()[0];
        let lm_head = self.gpt.ids().lm_head;
        let head = self.weights.get(lm_head)?;
        for start in (0..n).step_by(chunk) {
            let rows = start..n.min(start + chunk);
            let mut logits = first_mut(&mut buf.logits, rows.len())?;
            let normed = buf.normed.view().rows(rows.clone())?;
            dev.linear(logits.reborrow(), normed, head, false)?;
            let losses = buf.losses.view_mut().rows(rows.clone())?;
            let targets = buf.tokens.view().rows(n + rows.start..n + rows.end)?;
            let (vocab, softcap) = (config.vocab_size, config.logit_softcap);
            dev.cross_entropy(losses, logits.reborrow(), targets, vocab, softcap, Some(scale))?;
            let dlogits = logits.view();
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
        g: &mut Gradients<Mut<'_>>,
    ) -> Result<()> {
        let (dev, n, shape) = (self.dev, self.at.positions(), g.dx.shape());
        let (normed, rstd) = (bound(&buf.normed, n, shape)?, first(&buf.rstd, n)?);
        let dnormed = bound(&buf.wide_c, n, shape)?;
        dev.rms_norm_backward(g.dx.reborrow(), dnormed, normed, rstd, false)?;
        let (Some(lambda), Some(dmid)) = (self.gpt.ids().backout_lambda, &mut g.dmid) else {
            return Ok(());
        };
        let config = self.gpt.config();
        let last = bound(&buf.stream[buf.slots[config.depth]], n, shape)?;
        let middle = bound(&buf.stream[buf.slots[config.backout_layer() + 1]], n, shape)?;
        let (dlambda, minus) = (grads.get(lambda)?, self.weights.coef(lambda, 0, -1.0)?);
        dev.fill(dmid.reborrow(), 0.0)?;
        let (dx, dmid) = (g.dx.reborrow(), dmid.reborrow());
        Ok(dev.mix_backward(dx, dmid, None, Some(dlambda), last, Coef::ONE, middle, minus)?)
    }

    /// x += y, by way of scratch.
    fn add(&self, scratch: &mut Tensor, x: &mut Mut<'_>, y: &Mut<'_>) -> Result<()> {
        let mut sum = bind(scratch, self.at.positions(), x.shape())?;
        self.dev.mix(sum.reborrow(), x.view(), Coef::ONE, y.view(), Coef::ONE)?;
        Ok(self.dev.copy(x.reborrow(), sum.view())?)
    }

    /// dx += ∂/∂x of mlp(norm(x)).
    fn mlp(
        &self,
        grads: &mut Grads<'_>,
        buf: &mut Buffers<Tensor>,
        g: &mut Gradients<Mut<'_>>,
        i: usize,
        ids: &LayerIds,
    ) -> Result<()> {
        let (dev, weights, n) = (self.dev, self.weights, self.at.positions());
        let layer = buf.layers[i].bind(self.gpt.config(), self.at)?;
        let (h, n2, rstd2) = (layer.h.view(), layer.n2.view(), layer.rstd2.view());
        let mut dn2 = bind(&mut buf.wide_c, n, n2.shape())?;
        let mut dh = g.dh.reborrow();
        let (dy, mlp_proj) = (g.dx.view(), weights.get(ids.mlp_proj)?);
        if let (Some(gate), Some(dgate)) = (&layer.h_gate, &mut g.dh_gate) {
            // First the activation, which was not kept.
            dev.swiglu(dh.reborrow(), gate.view(), h)?;
            dev.linear_dw(grads.get(ids.mlp_proj)?, dh.view(), dy, true)?;
            dev.linear_dx(dh.reborrow(), dy, mlp_proj, false)?;
            dev.swiglu_backward(dh.reborrow(), dgate.reborrow(), gate.view(), h)?;
        } else {
            dev.linear_dw(grads.get(ids.mlp_proj)?, h, dy, true)?;
            dev.linear_dx_relu2(dh.reborrow(), dy, mlp_proj, h)?;
        }
        dev.linear_dw(grads.get(ids.c_fc)?, n2, dh.view(), true)?;
        dev.linear_dx(dn2.reborrow(), dh.view(), weights.get(ids.c_fc)?, false)?;
        if let (Some(c_gate), Some(dgate)) = (ids.c_gate, &g.dh_gate) {
            dev.linear_dw(grads.get(c_gate)?, n2, dgate.view(), true)?;
            dev.linear_dx(dn2.reborrow(), dgate.view(), weights.get(c_gate)?, true)?;
        }
        Ok(dev.rms_norm_backward(g.dx.reborrow(), dn2.view(), n2, rstd2, true)?)
    }

    /// dx += ∂/∂x of attention(norm(x)), then through x = resid_lambda · x + x0_lambda · x0.
    fn attention(
        &self,
        grads: &mut Grads<'_>,
        buf: &mut Buffers<Tensor>,
        g: &mut Gradients<Mut<'_>>,
        i: usize,
        ids: &LayerIds,
    ) -> Result<()> {
        let (dev, weights, at, n) = (self.dev, self.weights, self.at, self.at.positions());
        let config = self.gpt.config();
        let layer = buf.layers[i].bind(config, at)?;
        let (n1, att, q, lse) =
            (layer.n1.view(), layer.att.view(), layer.q.view(), layer.lse.view());
        let [k, v] = buf.kv[i].all(config, at)?;
        let mut dn1 = bind(&mut buf.wide_c, n, n1.shape())?;

        dev.linear_dw(grads.get(ids.attn_proj)?, att, g.dx.view(), true)?;
        dev.linear_dx(g.datt.reborrow(), g.dx.view(), weights.get(ids.attn_proj)?, false)?;
        let (dq, dk, dv) = (g.dq.reborrow(), g.dk.reborrow(), g.dv.reborrow());
        let (delta, datt) = (g.delta.reborrow(), g.datt.view());
        let shape = self.gpt.attention_shape(i);
        dev.attention_backward(dq, dk, dv, delta, datt, att, lse, q, k, v, shape)?;
        let (cos, sin) = (first(&buf.cos, at.tokens)?, first(&buf.sin, at.tokens)?);
        let (rstd_q, rstd_k) = (layer.rstd_q.view(), layer.rstd_k.view());
        dev.rotary_norm_backward(g.dq.reborrow(), q, rstd_q, cos, sin, config.qk_gain)?;
        dev.rotary_norm_backward(g.dk.reborrow(), k, rstd_k, cos, sin, config.qk_gain)?;

        for (id, dy, accumulate) in
            [(ids.c_q, &g.dq, false), (ids.c_k, &g.dk, true), (ids.c_v, &g.dv, true)]
        {
            dev.linear_dw(grads.get(id)?, n1, dy.view(), true)?;
            dev.linear_dx(dn1.reborrow(), dy.view(), weights.get(id)?, accumulate)?;
        }
        if let (Some(value), Some(ve), Some(gate), Some(dve)) =
            (ids.value, &mut buf.ve, &layer.gate, &mut g.dve)
        {
            let tokens = buf.tokens.view();
            let (ids_of, order) = (tokens.rows(0..n)?, tokens.rows(2 * n..3 * n)?);
            let mut ve = bind(ve, n, at.kv(config))?;
            let (dw, w) = (grads.get(value.gate)?, weights.get(value.gate)?);
            dev.embed(ve.reborrow(), weights.get(value.table)?, ids_of)?;
            let (dv, ve, gate, max) = (g.dv.view(), ve.view(), gate.view(), config.ve_gate_max);
            let dx = dn1.reborrow();
            dev.value_gate_backward(dve.reborrow(), dw, dx, dv, ve, gate, n1, w, max)?;
            let dtable = grads.get(value.table)?;
            dev.embed_backward(dtable, dve.view(), ids_of, order)?;
        }
        let rstd1 = layer.rstd1.view();
        dev.rms_norm_backward(g.dx.reborrow(), dn1.view(), n1, rstd1, true)?;

        let (resid, x0) = (self.gpt.ids().resid_lambdas, self.gpt.ids().x0_lambdas);
        let (dresid, dx0_lambda) = grads.pair(resid, x0)?;
        let (da, db) = (dresid.rows(i..i + 1)?, dx0_lambda.rows(i..i + 1)?);
        let (a, b) = (weights.coef(resid, i, 1.0)?, weights.coef(x0, i, 1.0)?);
        let before = bound(&buf.stream[buf.slots[i]], n, g.dx.shape())?;
        let first_stream = bound(&buf.stream[0], n, g.dx.shape())?;
        let (dx, dx0) = (g.dx.reborrow(), g.dx0.reborrow());
        Ok(dev.mix_backward(dx, dx0, Some(da), Some(db), before, a, first_stream, b)?)
    }

    /// From the gradient by the first stream to that of the token embeddings.
    fn embed(
        &self,
        grads: &mut Grads<'_>,
        buf: &mut Buffers<Tensor>,
        g: &mut Gradients<Mut<'_>>,
    ) -> Result<()> {
        let (dev, at, n, shape) = (self.dev, self.at, self.at.positions(), g.dx.shape());
        self.add(&mut buf.wide_c, &mut g.dx, &g.dx0)?;
        // dx, dx0 and wide_c now take turns: the sum, then the gradient before smear, then the one before the norm.
        let (normed, dnormed) = match (&buf.smear, self.gpt.ids().smear) {
            (Some(smear), Some(ids)) => {
                let x = bound(&smear.x, n, shape)?;
                let gate = bound(&smear.gate, n, [at.rows, at.tokens])?;
                let (w, lambda) = (self.weights.get(ids.gate)?, self.weights.master(ids.lambda)?);
                let (dw, dlambda) = grads.pair(ids.gate, ids.lambda)?;
                let (dx, dout) = (g.dx0.reborrow(), g.dx.view());
                dev.smear_backward(dx, dw, dlambda, dout, x, gate, w, lambda)?;
                (x, g.dx0.view())
            }
            _ => (bound(&buf.stream[0], n, shape)?, g.dx.view()),
        };
        let mut draw = bind(&mut buf.wide_c, n, shape)?;
        let (rstd, tokens) = (first(&buf.rstd0, n)?, buf.tokens.view());
        let (ids, order) = (tokens.rows(0..n)?, tokens.rows(2 * n..3 * n)?);
        dev.rms_norm_backward(draw.reborrow(), dnormed, normed, rstd, false)?;
        let dtable = grads.get(self.gpt.ids().wte)?;
        Ok(dev.embed_backward(dtable, draw.view(), ids, order)?)
    }
}
