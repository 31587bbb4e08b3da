//! `map`: an elementwise program, compiled to PTX when it is first used. An optimizer from another crate thus runs as one fused pass.
//!
//! Each node of an expression becomes a few f32 instructions. +, −, ×, ÷ and √ round to nearest and are never contracted, as on a CPU; exp, ln and tanh stay within a relative error of 1e-6
//! (`tests/cuda_map.rs`). Compiled programs are kept until the process ends, one for each combination of expressions and element types.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use super::driver::{Arg, Kernel, Module};
use super::{Cuda, OnDevice};
use crate::ops::Map;
use crate::{Binary, DType, Error, Expr, Mut, Ref, Result, Unary};

/// Threads of a block.
const THREADS: u32 = 256;
/// The most arguments of a program: outputs, inputs and scalars.
const MOST_ARGS: usize = 64;

/// Programs that were compiled, with what they were compiled for.
#[derive(Default)]
pub(super) struct Programs(Mutex<Vec<Program>>);

struct Program {
    exprs: Vec<Expr>,
    dtypes: Vec<DType>,
    scalars: usize,
    kernel: &'static Kernel,
}

impl Cuda {
    /// See [`Map`](crate::ops::Map). Moves each input, each old output that is named and each output once.
    pub(super) fn map(&self, op: Map<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let Map { exprs, out, ins, scalars } = op;
        let count = out.len() + ins.len() + scalars.len() + 1;
        if count > MOST_ARGS {
            let what = format!("{count} arguments, at most {MOST_ARGS} on this device");
            return Err(Error::Argument { op: "map", what });
        }
        if out.is_empty() || n == 0 {
            return Ok(());
        }
        let mut args = [Arg::I64(n as i64); MOST_ARGS];
        let addresses = out.iter().map(OnDevice::arg).chain(ins.iter().map(OnDevice::arg));
        let all = addresses.chain(scalars.iter().map(|&x| Arg::F32(x as f32)));
        args[1..].iter_mut().zip(all).for_each(|(slot, arg)| *slot = arg);
        let kernel = self.program(exprs, &out, ins, scalars.len())?;
        self.launch(kernel, self.blocks_for(n, THREADS as usize), &args[..count])
    }

    /// The kernel of a program, compiled if it is new.
    fn program(
        &self,
        exprs: &[Expr],
        out: &[Mut<'_>],
        ins: &[Ref<'_>],
        scalars: usize,
    ) -> Result<&'static Kernel> {
        let dtypes = || out.iter().map(Mut::dtype).chain(ins.iter().map(Ref::dtype));
        if dtypes().any(|dtype| dtype == DType::F64) {
            let (device, dtypes) = (self.dtypes.device, dtypes().collect());
            return Err(Error::Unsupported { op: "map", device, dtypes });
        }
        let mut programs = self.programs.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |p: &&Program| {
            p.scalars == scalars && p.exprs == exprs && p.dtypes.iter().copied().eq(dtypes())
        };
        if let Some(program) = programs.iter().find(same) {
            return Ok(program.kernel);
        }
        let dtypes: Vec<DType> = dtypes().collect();
        let ptx = compile(exprs, &dtypes, scalars);
        // A NaN in an expression equals nothing: its program is known by its text.
        if let Some(program) = programs.iter().find(|p| p.kernel.module.ptx == ptx) {
            return Ok(program.kernel);
        }
        let mut text = DefaultHasher::new();
        ptx.hash(&mut text);
        let name: &'static str = String::leak(format!("map {:016x}", text.finish()));
        let module = Box::leak(Box::new(Module { name, ptx: String::leak(ptx) }));
        let kernel: &'static Kernel =
            Box::leak(Box::new(Kernel { module, name: "map", threads: THREADS, shared_bytes: 0 }));
        programs.push(Program { exprs: exprs.to_vec(), dtypes, scalars, kernel });
        Ok(kernel)
    }
}

/// A kernel `map(n, outputs…, inputs…, scalars…)`, one element to a thread at a time, striding by the grid.
fn compile(exprs: &[Expr], dtypes: &[DType], scalars: usize) -> String {
    let mut code = Code { body: String::new(), values: 0, outs: exprs.len() };
    // Everything that is read is read before anything is written.
    let results: Vec<usize> = exprs.iter().map(|expr| code.value(expr, dtypes)).collect();
    for (i, result) in results.into_iter().enumerate() {
        code.store(i, result, dtypes[i]);
    }
    let params = (0..dtypes.len()).map(|i| format!(",\n    .param .u64 p{i}"));
    let scalar_params = (0..scalars).map(|i| format!(",\n    .param .f32 s{i}"));
    let params: String = params.chain(scalar_params).collect();
    let mut loads = String::new();
    for i in 0..dtypes.len() {
        let _ = writeln!(
            loads,
            "    ld.param.u64 %base{i}, [p{i}];\n    cvta.to.global.u64 %base{i}, %base{i};"
        );
    }
    for i in 0..scalars {
        let _ = writeln!(loads, "    ld.param.f32 %s{i}, [s{i}];");
    }
    format!(
        ".version 7.8
.target sm_80
.address_size 64
.visible .entry map(
    .param .u64 n{params}
)
.maxntid {THREADS}, 1, 1
{{
    .reg .pred %done, %p<4>;
    .reg .b16 %h;
    .reg .b32 %t<4>, %bits<4>;
    .reg .f32 %f<{values}>, %s<{scalars}>, %x<8>;
    .reg .b64 %n, %i, %step, %wide, %at, %base<{bases}>;
    ld.param.u64 %n, [n];
{loads}    mov.u32 %t0, %ctaid.x;
    mov.u32 %t1, %ntid.x;
    mov.u32 %t2, %tid.x;
    mul.wide.u32 %i, %t0, %t1;
    cvt.u64.u32 %wide, %t2;
    add.s64 %i, %i, %wide;
    mov.u32 %t0, %nctaid.x;
    mul.wide.u32 %step, %t0, %t1;
LOOP:
    setp.ge.u64 %done, %i, %n;
    @%done bra END;
{body}    add.s64 %i, %i, %step;
    bra LOOP;
END:
    ret;
}}
",
        values = code.values.max(1),
        scalars = scalars.max(1),
        bases = dtypes.len().max(1),
        body = code.body,
    )
}

/// Instructions so far; each value has a register %f of its own, and %x and %bits are for one value's steps.
struct Code {
    body: String,
    values: usize,
    outs: usize,
}

/// A float as PTX writes it.
fn float(x: f32) -> String {
    format!("0f{:08X}", x.to_bits())
}

impl Code {
    /// Lines of PTX; `{d}` is the new value's register.
    fn emit(&mut self, lines: &str) -> usize {
        let value = self.values;
        self.values += 1;
        for line in lines.lines() {
            let line = line.trim().replace("{d}", &format!("%f{value}"));
            let _ = writeln!(self.body, "    {line}");
        }
        value
    }

    /// %at = the address of this thread's element of the i-th argument.
    fn address(&mut self, i: usize, dtype: DType) {
        let _ = writeln!(
            self.body,
            "    mul.lo.s64 %at, %i, {};\n    add.s64 %at, %at, %base{i};",
            dtype.bytes()
        );
    }

    fn load(&mut self, i: usize, dtype: DType) -> usize {
        self.address(i, dtype);
        match dtype {
            // A bf16 is the upper half of an f32.
            DType::BF16 => self.emit(
                "ld.global.b16 %h, [%at];
                 cvt.u32.u16 %bits0, %h;
                 shl.b32 %bits0, %bits0, 16;
                 mov.b32 {d}, %bits0;",
            ),
            _ => self.emit("ld.global.f32 {d}, [%at];"),
        }
    }

    fn store(&mut self, i: usize, value: usize, dtype: DType) {
        self.address(i, dtype);
        let lines = match dtype {
            DType::BF16 => {
                format!("    cvt.rn.bf16.f32 %h, %f{value};\n    st.global.b16 [%at], %h;")
            }
            _ => format!("    st.global.f32 [%at], %f{value};"),
        };
        let _ = writeln!(self.body, "{lines}");
    }

    /// The register of an expression's value.
    fn value(&mut self, expr: &Expr, dtypes: &[DType]) -> usize {
        match expr {
            Expr::Old(i) => self.load(*i, dtypes[*i]),
            Expr::Input(i) => self.load(self.outs + i, dtypes[self.outs + i]),
            Expr::Scalar(i) => self.emit(&format!("mov.f32 {{d}}, %s{i};")),
            Expr::Const(x) => self.emit(&format!("mov.f32 {{d}}, {};", float(*x as f32))),
            Expr::Unary(f, x) => {
                let x = self.value(x, dtypes);
                self.unary(*f, x)
            }
            Expr::Binary(f, x, y) => {
                let (x, y) = (self.value(x, dtypes), self.value(y, dtypes));
                let f = match f {
                    Binary::Add => "add.rn.f32",
                    Binary::Sub => "sub.rn.f32",
                    Binary::Mul => "mul.rn.f32",
                    Binary::Div => "div.rn.f32",
                    Binary::Min => "min.f32",
                    Binary::Max => "max.f32",
                };
                self.emit(&format!("{f} {{d}}, %f{x}, %f{y};"))
            }
            Expr::Select(x, y, z) => {
                let [x, y, z] = [x, y, z].map(|e| self.value(e, dtypes));
                self.emit(&format!(
                    "setp.ge.f32 %p0, %f{x}, {};
                     selp.f32 {{d}}, %f{y}, %f{z}, %p0;",
                    float(0.0)
                ))
            }
        }
    }

    fn unary(&mut self, f: Unary, x: usize) -> usize {
        match f {
            Unary::Neg => self.emit(&format!("neg.f32 {{d}}, %f{x};")),
            Unary::Abs => self.emit(&format!("abs.f32 {{d}}, %f{x};")),
            Unary::Sqrt => self.emit(&format!("sqrt.rn.f32 {{d}}, %f{x};")),
            Unary::Sign => self.emit(&format!(
                "setp.gt.f32 %p0, %f{x}, {zero};
                 setp.lt.f32 %p1, %f{x}, {zero};
                 selp.f32 {{d}}, {one}, {zero}, %p0;
                 @%p1 mov.f32 {{d}}, {minus};",
                zero = float(0.0),
                one = float(1.0),
                minus = float(-1.0),
            )),
            Unary::Exp => self.exp(x),
            Unary::Ln => self.ln(x),
            Unary::Tanh => self.tanh(x),
        }
    }

    /// eˣ = 2^t · e^r, t = round(x / ln 2), r = x − t·ln 2 in two parts; 2^t in two factors, so that no step over- or underflows
    /// before the result does.
    fn exp(&mut self, x: usize) -> usize {
        let ln2_high = 0.693_145_75_f32; // 12 bits, so that t times it is exact
        let ln2_low = (std::f64::consts::LN_2 - f64::from(ln2_high)) as f32;
        self.emit(&format!(
            "min.f32 %x0, %f{x}, {most};
             max.f32 %x0, %x0, {least};
             mul.rn.f32 %x1, %x0, {log2e};
             cvt.rni.f32.f32 %x1, %x1;
             fma.rn.f32 %x2, %x1, {high}, %x0;
             fma.rn.f32 %x2, %x1, {low}, %x2;
             mul.rn.f32 %x2, %x2, {log2e};
             ex2.approx.f32 %x2, %x2;
             mul.rn.f32 %x3, %x1, {half};
             cvt.rni.f32.f32 %x3, %x3;
             sub.rn.f32 %x1, %x1, %x3;
             ex2.approx.f32 %x3, %x3;
             ex2.approx.f32 %x1, %x1;
             mul.rn.f32 %x2, %x2, %x3;
             mul.rn.f32 {{d}}, %x2, %x1;
             setp.nan.f32 %p0, %f{x}, %f{x};
             @%p0 mov.f32 {{d}}, %f{x};",
            most = float(89.0),
            least = float(-104.0),
            log2e = float(std::f32::consts::LOG2_E),
            high = float(-ln2_high),
            low = float(-ln2_low),
            half = float(0.5),
        ))
    }

    /// ln x = e·ln 2 + 2·artanh(s), x = 2ᵉ·m, s = (m − 1) / (m + 1), m in √½ ..= √2; by `lg2` for 0, infinity and what is not normal.
    fn ln(&mut self, x: usize) -> usize {
        // The bits of √½, rounded: what is at or above them within its power of two has m in √½ ..= √2 after subtracting e.
        let root_half = std::f32::consts::FRAC_1_SQRT_2.to_bits();
        let [third, fifth, seventh, ninth] = [3.0, 5.0, 7.0, 9.0].map(|n: f32| float(n.recip()));
        self.emit(&format!(
            "mov.b32 %bits0, %f{x};
             sub.s32 %bits1, %bits0, {root_half};
             shr.s32 %bits1, %bits1, 23;
             shl.b32 %bits2, %bits1, 23;
             sub.s32 %bits0, %bits0, %bits2;
             cvt.rn.f32.s32 %x0, %bits1;
             mov.b32 %x1, %bits0;
             sub.rn.f32 %x2, %x1, {one};
             add.rn.f32 %x3, %x1, {one};
             div.rn.f32 %x2, %x2, %x3;
             mul.rn.f32 %x3, %x2, %x2;
             mov.f32 %x4, {ninth};
             fma.rn.f32 %x4, %x4, %x3, {seventh};
             fma.rn.f32 %x4, %x4, %x3, {fifth};
             fma.rn.f32 %x4, %x4, %x3, {third};
             mul.rn.f32 %x4, %x4, %x3;
             add.rn.f32 %x2, %x2, %x2;
             fma.rn.f32 %x4, %x4, %x2, %x2;
             fma.rn.f32 {{d}}, %x0, {ln2}, %x4;
             lg2.approx.f32 %x5, %f{x};
             mul.rn.f32 %x5, %x5, {ln2};
             setp.ge.f32 %p0, %f{x}, {least};
             setp.le.f32 %p1, %f{x}, {most};
             and.pred %p0, %p0, %p1;
             selp.f32 {{d}}, {{d}}, %x5, %p0;",
            one = float(1.0),
            ln2 = float(std::f32::consts::LN_2),
            least = float(f32::MIN_POSITIVE),
            most = float(f32::MAX),
        ))
    }

    /// tanh x = 1 − 2 / (e^2x + 1) with x's sign; near 0 its Taylor polynomial, where that cancels.
    fn tanh(&mut self, x: usize) -> usize {
        let size = self.emit(&format!("abs.f32 {{d}}, %f{x};"));
        let twice = self.emit(&format!("add.rn.f32 {{d}}, %f{size}, %f{size};"));
        let power = self.exp(twice);
        let taylor = [62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0];
        let [ninth, seventh, fifth, third] = taylor.map(|c: f64| float(c as f32));
        self.emit(&format!(
            "add.rn.f32 %x0, %f{power}, {one};
             div.rn.f32 %x0, {two}, %x0;
             sub.rn.f32 %x0, {one}, %x0;
             mul.rn.f32 %x1, %f{size}, %f{size};
             mov.f32 %x2, {ninth};
             fma.rn.f32 %x2, %x2, %x1, {seventh};
             fma.rn.f32 %x2, %x2, %x1, {fifth};
             fma.rn.f32 %x2, %x2, %x1, {third};
             mul.rn.f32 %x2, %x2, %x1;
             fma.rn.f32 %x2, %x2, %f{size}, %f{size};
             setp.lt.f32 %p0, %f{size}, {quarter};
             selp.f32 %x0, %x2, %x0, %p0;
             copysign.f32 {{d}}, %f{x}, %x0;",
            one = float(1.0),
            two = float(2.0),
            quarter = float(0.25),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn a_program_is_compiled_once_also_with_a_nan_in_it() {
        let cuda = Cuda::emulated().unwrap();
        let dev: &dyn Device = &cuda;
        let mut x = dev.master([40]).unwrap();
        let compiled = || cuda.programs.0.lock().unwrap().len();
        for (value, count) in [(1.0, 1), (f64::NAN, 2), (1.0, 2), (f64::NAN, 2)] {
            let rule = [Expr::old(0).select(Expr::from(value), 0.0)];
            dev.map(&rule, &mut [x.view_mut()], &[], &[]).unwrap();
            assert_eq!(compiled(), count);
        }
        let mut narrow = dev.activations([40]).unwrap();
        dev.map(&[Expr::old(0).select(1.0, 0.0)], &mut [narrow.view_mut()], &[], &[]).unwrap();
        assert_eq!(compiled(), 3);
    }
}
