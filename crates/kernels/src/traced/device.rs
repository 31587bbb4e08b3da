//! Every operation, delegated and recorded.

use super::Traced;
use super::bytes::Bytes;
use crate::{
    AdamW, Attention, AttentionShape, Coef, DType, Dense, Expr, Loss, Memory, Mut, Place,
    Pointwise, Ref, Result, Shape, Tensor, Update,
};

/// Operations that return nothing but whether they ran. What stands in brackets is taken over as it is.
macro_rules! delegate {
    ($trait:ident { $(fn $name:ident($($arg:ident: $type:ty),* $(,)?);)* } $([$($own:item)*])?) => {
        impl $trait for Traced {
            $(fn $name(&self, $($arg: $type),*) -> Result<()> {
                let bytes = 0 $(+ Bytes::bytes(&$arg))*;
                self.record(stringify!($name), bytes, |device| device.$name($($arg),*))
            })*
            $($($own)*)?
        }
    };
}

delegate! {
    Memory {
        fn write(dst: Mut<'_>, src: &[u8]);
        fn read(dst: &mut [u8], src: Ref<'_>);
        fn copy(dst: Mut<'_>, src: Ref<'_>);
        fn cast(dst: Mut<'_>, src: Ref<'_>);
        fn fill(dst: Mut<'_>, value: f64);
        fn synchronize();
    }
    [
        fn name(&self) -> &'static str {
            self.device.name()
        }
        fn place(&self) -> Place {
            self.device.place()
        }
        fn compute_dtype(&self) -> DType {
            self.device.compute_dtype()
        }
        fn master_dtype(&self) -> DType {
            self.device.master_dtype()
        }
        fn notes(&self) -> Vec<String> {
            self.device.notes()
        }
        fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
            let bytes = shape.elements().saturating_mul(dtype.bytes());
            self.record("alloc", bytes as u64, |device| device.alloc(dtype, shape))
        }
    ]
}

delegate! {
    Dense {
        fn linear(y: Mut<'_>, x: Ref<'_>, w: Ref<'_>, accumulate: bool);
        fn linear_dx(dx: Mut<'_>, dy: Ref<'_>, w: Ref<'_>, accumulate: bool);
        fn linear_dw(dw: Mut<'_>, x: Ref<'_>, dy: Ref<'_>, accumulate: bool);
        fn embed(out: Mut<'_>, table: Ref<'_>, ids: Ref<'_>);
        fn embed_backward(dtable: Mut<'_>, dout: Ref<'_>, ids: Ref<'_>, order: Ref<'_>);
    }
}

delegate! {
    Attention {
        fn rotary_norm(x: Mut<'_>, rstd: Mut<'_>, cos: Ref<'_>, sin: Ref<'_>, gain: f64);
        fn rotary_norm_backward(
            dx: Mut<'_>, y: Ref<'_>, rstd: Ref<'_>, cos: Ref<'_>, sin: Ref<'_>, gain: f64,
        );
        fn value_gate(v: Mut<'_>, gate: Mut<'_>, ve: Ref<'_>, x: Ref<'_>, w: Ref<'_>, max: f64);
        fn value_gate_backward(
            dve: Mut<'_>, dw: Mut<'_>, dx: Mut<'_>, dv: Ref<'_>, ve: Ref<'_>, gate: Ref<'_>,
            x: Ref<'_>, w: Ref<'_>, max: f64,
        );
        fn attention(
            out: Mut<'_>, lse: Mut<'_>, q: Ref<'_>, k: Ref<'_>, v: Ref<'_>, at: AttentionShape,
        );
        fn attention_backward(
            dq: Mut<'_>, dk: Mut<'_>, dv: Mut<'_>, delta: Mut<'_>, dout: Ref<'_>, out: Ref<'_>,
            lse: Ref<'_>, q: Ref<'_>, k: Ref<'_>, v: Ref<'_>, at: AttentionShape,
        );
    }
}

delegate! {
    Loss {
        fn cross_entropy(
            losses: Mut<'_>, logits: Mut<'_>, targets: Ref<'_>, vocab: usize, softcap: f64,
            grad: Option<f64>,
        );
        fn argmax(out: Mut<'_>, logits: Ref<'_>, vocab: usize);
        fn sum(out: Mut<'_>, x: Ref<'_>);
        fn sum_squares(out: Mut<'_>, x: Ref<'_>);
    }
}

delegate! {
    Pointwise {
        fn rms_norm(y: Mut<'_>, rstd: Mut<'_>, x: Ref<'_>);
        fn rms_norm_backward(dx: Mut<'_>, dy: Ref<'_>, y: Ref<'_>, rstd: Ref<'_>, accumulate: bool);
        fn mix(out: Mut<'_>, x: Ref<'_>, a: Coef<'_>, y: Ref<'_>, b: Coef<'_>);
        fn mix_norm(
            out: Mut<'_>, normed: Mut<'_>, rstd: Mut<'_>, x: Ref<'_>, a: Coef<'_>, y: Ref<'_>,
            b: Coef<'_>,
        );
        fn mix_backward(
            dx: Mut<'_>, dy: Mut<'_>, da: Option<Mut<'_>>, db: Option<Mut<'_>>, x: Ref<'_>,
            a: Coef<'_>, y: Ref<'_>, b: Coef<'_>,
        );
        fn smear(
            out: Mut<'_>, gate: Mut<'_>, x: Ref<'_>, prev: Option<Ref<'_>>, w: Ref<'_>,
            lambda: Ref<'_>,
        );
        fn smear_backward(
            dx: Mut<'_>, dw: Mut<'_>, dlambda: Mut<'_>, dout: Ref<'_>, x: Ref<'_>, gate: Ref<'_>,
            w: Ref<'_>, lambda: Ref<'_>,
        );
        fn relu2(y: Mut<'_>, x: Ref<'_>);
        fn relu2_backward(dx: Mut<'_>, x: Ref<'_>);
        fn swiglu(y: Mut<'_>, gate: Ref<'_>, x: Ref<'_>);
        fn swiglu_backward(dx: Mut<'_>, dgate: Mut<'_>, gate: Ref<'_>, x: Ref<'_>);
        fn map(exprs: &[Expr], out: &mut [Mut<'_>], ins: &[Ref<'_>], scalars: &[f64]);
    }
}

delegate! {
    Update {
        fn adamw(p: Mut<'_>, m: Mut<'_>, v: Mut<'_>, g: Ref<'_>, hyper: AdamW);
        fn nesterov(out: Mut<'_>, buf: Mut<'_>, g: Ref<'_>, momentum: f64);
        fn equilibrate_rows(x: Mut<'_>);
        fn polar_express(x: Mut<'_>, scratch: Mut<'_>, safety: f64, steps: &[[f64; 3]]);
        fn renormalize(x: Mut<'_>);
        fn variance_reduce(x: Mut<'_>, s: Mut<'_>, beta2: f64);
        fn cautious_update(p: Mut<'_>, x: Ref<'_>, lr: f64, weight_decay: f64);
    }
    [
        fn polar_express_scratch(&self, shape: Shape) -> usize {
            self.device.polar_express_scratch(shape)
        }
    ]
}
