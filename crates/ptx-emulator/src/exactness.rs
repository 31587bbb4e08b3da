//! Whether a kernel's results are given by its text: IEEE 754 leaves one result to each of its instructions, or does not.
//!
//! Approximate functions, matrix instructions and floating-point atomics are the hardware's own. And a compiler of the text may fuse: the
//! PTX ISA ("mul", "add", "sub") lets a sequence of mul and add without rounding modifiers become one fma, which rounds once where the
//! text rounds twice. The flow from product to sum is followed by registers' names alone, over all of a kernel and whatever the order and
//! the guards: what is said to be free of it is, and what is not may still be.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use crate::module::line_of;
use crate::parse::parse;
use crate::syntax::{Entry, Instruction, Operand, Statement, Ty};

/// What of a kernel's arithmetic its text leaves open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exactness {
    /// The line of the first instruction whose result is the hardware's own: an approximation, a matrix product, a floating-point atomic.
    pub approximate: Option<u32>,
    /// `add` and `sub` of floating-point numbers without a rounding modifier, one of whose terms comes of such a `mul`, also by way of
    /// moves, signs, selections and local memory.
    pub contractions: Vec<Contraction>,
}

impl Exactness {
    /// Whether every machine has to give the same bits.
    pub fn exact(&self) -> bool {
        self.approximate.is_none() && self.contractions.is_empty()
    }
}

/// A sum that may be fused with a product that goes into it, by their lines in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contraction {
    /// The line of the `add` or `sub`.
    pub sum: u32,
    /// The line of the `mul`; of several, the first.
    pub product: u32,
}

/// What the kernels of a PTX file leave open, each by its name.
///
/// # Errors
/// [`Error::Parse`] if it is not PTX.
pub fn exactness(ptx: &str) -> Result<BTreeMap<String, Exactness>> {
    let file =
        parse(ptx).map_err(|(line, what)| Error::Parse { line, text: line_of(ptx, line), what })?;
    let of = |entry: &Entry<'_>| {
        let approximate = instructions(entry).find(|i| approximate(i.opcode)).map(|i| i.line);
        (entry.name.to_owned(), Exactness { approximate, contractions: contractions(entry) })
    };
    Ok(file.entries.iter().map(of).collect())
}

fn instructions<'a>(entry: &'a Entry<'a>) -> impl Iterator<Item = &'a Instruction<'a>> {
    entry.body.iter().filter_map(|statement| match statement {
        Statement::Instruction(instruction) => Some(instruction),
        _ => None,
    })
}

fn is_float(word: &str) -> bool {
    word == "f32x2" || Ty::parse(word).is_some_and(Ty::float)
}

fn approximate(opcode: &str) -> bool {
    let (name, words) = opcode.split_once('.').unwrap_or((opcode, ""));
    let mut words = words.split('.');
    match name {
        "atom" | "red" | "multimem" => words.any(is_float),
        _ => name.contains("mma") || words.any(|word| word == "approx" || word == "full"),
    }
}

/// What an instruction is to this.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Product,
    Sum,
    /// Its result is one of its operands, or that with other bits that no rounding is needed for.
    Move,
    StoreLocal,
    LoadLocal,
    Other,
}

fn role(opcode: &str) -> Role {
    let mut words = opcode.split('.');
    let (name, words): (_, Vec<_>) = (words.next().unwrap_or(""), words.collect());
    // The last word is the type of what is computed; cvt names the result's before it.
    let of_floats = words.last().is_some_and(|word| is_float(word));
    let rounded = words.iter().any(|word| matches!(*word, "rn" | "rz" | "rm" | "rp"));
    let local = words.contains(&"local");
    match name {
        "mul" if of_floats && !rounded => Role::Product,
        "add" | "sub" if of_floats && !rounded => Role::Sum,
        "mov" | "neg" | "abs" | "copysign" | "selp" | "slct" | "and" | "or" | "xor" | "not"
        | "lop3" | "prmt" => Role::Move,
        "cvt" if words.iter().rev().take(2).all(|word| Some(word) == words.last()) => Role::Move,
        "st" if local => Role::StoreLocal,
        "ld" if local => Role::LoadLocal,
        _ => Role::Other,
    }
}

fn contractions(entry: &Entry<'_>) -> Vec<Contraction> {
    let instructions: Vec<(Role, &Instruction<'_>)> = instructions(entry)
        .map(|instruction| (role(instruction.opcode), instruction))
        .filter(|(role, _)| *role != Role::Other)
        .collect();
    // Registers that may hold a product, each with the line of the first one found; and whether local memory may.
    let mut products: HashMap<&str, u32> = HashMap::new();
    let mut local: Option<u32> = None;
    loop {
        let mut changed = false;
        for (role, instruction) in &instructions {
            let Some((result, sources)) = instruction.operands.split_first() else { continue };
            let carried = || sources.iter().find_map(|source| product_in(source, &products));
            let line = match role {
                Role::Product => Some(instruction.line),
                Role::Move => carried(),
                Role::LoadLocal => local,
                Role::StoreLocal => {
                    let stored = carried();
                    changed |= local.is_none() && stored.is_some();
                    local = local.or(stored);
                    None
                }
                Role::Sum | Role::Other => None,
            };
            if let Some(line) = line {
                each_name(result, &mut |name| {
                    changed |= !products.contains_key(name);
                    products.entry(name).or_insert(line);
                });
            }
        }
        if !changed {
            break;
        }
    }
    let sum = |(role, instruction): &(Role, &Instruction<'_>)| {
        let mut terms = instruction.operands.iter().skip(1);
        let product = terms.find_map(|term| product_in(term, &products));
        (*role == Role::Sum)
            .then_some(product?)
            .map(|product| Contraction { sum: instruction.line, product })
    };
    instructions.iter().filter_map(sum).collect()
}

/// The line of a product that an operand may hold.
fn product_in(operand: &Operand<'_>, products: &HashMap<&str, u32>) -> Option<u32> {
    let mut found = None;
    each_name(operand, &mut |name| found = found.or_else(|| products.get(name).copied()));
    found
}

/// Calls `f` with each register of an operand; those of an address hold no number that is computed with.
fn each_name<'a>(operand: &Operand<'a>, f: &mut impl FnMut(&'a str)) {
    match operand {
        Operand::Name(name, _) => f(name),
        Operand::List(list) => list.iter().for_each(|operand| each_name(operand, f)),
        Operand::Pair(first, second) => {
            each_name(first, f);
            each_name(second, f);
        }
        Operand::Number(_) | Operand::Not(_) | Operand::Address(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contractions of a kernel with this body, as (sum, product) in lines of the body from 1.
    fn of(body: &str) -> Vec<(u32, u32)> {
        let head = ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n";
        let text = format!("{head}{body}\nret;\n}}\n");
        let found = exactness(&text).unwrap().remove("k").unwrap();
        assert_eq!(found.exact(), found.contractions.is_empty());
        found.contractions.iter().map(|c| (c.sum - 5, c.product - 5)).collect()
    }

    #[test]
    fn a_product_that_goes_into_a_sum_is_found() {
        for (product, sum) in [
            ("mul.f32 %f3, %f1, %f2;", "add.f32 %f5, %f3, %f4;"),
            ("mul.f32 %f3, %f1, %f2;", "add.f32 %f5, %f4, %f3;"),
            ("mul.ftz.f32 %f3, %f1, %f2;", "sub.ftz.f32 %f5, %f4, %f3;"),
            ("mul.f32 %f3, %f1, 0f40000000;", "sub.sat.f32 %f5, %f3, %f4;"),
            ("mul.f64 %f3, %f1, %f2;", "add.f64 %f5, %f3, %f4;"),
            ("mul.f32x2 %f3, %f1, %f2;", "add.f32x2 %f5, %f3, %f4;"),
            ("mul.f16 %f3, %f1, %f2;", "sub.f16 %f5, %f3, %f4;"),
            ("mul.bf16 %f3, %f1, %f2;", "add.bf16 %f5, %f3, %f4;"),
            ("mul.bf16x2 %f3, %f1, %f2;", "sub.bf16x2 %f5, %f3, %f4;"),
        ] {
            assert_eq!(of(&format!("{product}\n{sum}")), [(2, 1)], "{product} {sum}");
        }
    }

    #[test]
    fn what_has_its_own_rounding_or_is_no_sum_of_a_product_is_not() {
        for body in [
            "mul.rn.f32 %f3, %f1, %f2;\nadd.f32 %f5, %f3, %f4;",
            "mul.f32 %f3, %f1, %f2;\nadd.rn.f32 %f5, %f3, %f4;",
            "mul.f32 %f3, %f1, %f2;\nsub.rz.ftz.f32 %f5, %f3, %f4;",
            "mul.rn.f64 %f3, %f1, %f2;\nadd.rm.f64 %f5, %f3, %f4;",
            // The one rounding of an fma is in the text: whether a product is its addend, or a sum takes its result.
            "mul.f32 %f3, %f1, %f2;\nfma.rn.f32 %f5, %f1, %f2, %f3;\nadd.f32 %f6, %f5, %f1;",
            "mul.f32 %f3, %f1, %f2;\nst.global.f32 [%rd1], %f3;\nadd.f32 %f5, %f1, %f2;",
            "mul.f32 %f3, %f1, %f2;\nmax.f32 %f5, %f3, %f1;\nadd.f32 %f6, %f5, %f1;",
            "add.f32 %f3, %f1, %f2;\nmul.f32 %f5, %f3, %f4;",
            "mul.lo.s32 %r3, %r1, %r2;\nadd.s32 %r4, %r3, %r1;",
            "mul.wide.u32 %rd3, %r1, %r2;\nadd.s64 %rd4, %rd3, %rd1;\nadd.f32 %f1, %f1, %f2;",
        ] {
            assert_eq!(of(body), [], "{body}");
        }
    }

    #[test]
    fn it_is_followed_through_what_does_not_round() {
        for (between, carried) in [
            ("mov.f32 %f8, %f3;", "%f8"),
            ("neg.f32 %f7, %f3;\nabs.f32 %f8, %f7;", "%f8"),
            ("selp.f32 %f8, %f1, %f3, %p1;", "%f8"),
            ("mov.b32 %r1, %f3;\nxor.b32 %r2, %r1, -2147483648;\nmov.b32 %f8, %r2;", "%f8"),
            ("mov.b64 %rd1, {%f1, %f3};\nmov.b64 {%f7, %f8}, %rd1;", "%f8"),
            ("cvt.sat.f32.f32 %f8, %f3;", "%f8"),
            ("st.local.f32 [%rd1], %f3;\nld.local.f32 %f8, [%rd2];", "%f8"),
        ] {
            let lines = between.lines().count() as u32;
            let body = format!("mul.f32 %f3, %f1, %f2;\n{between}\nadd.f32 %f5, {carried}, %f4;");
            assert_eq!(of(&body), [(2 + lines, 1)], "{body}");
        }
        let rounded =
            "mul.f32 %f3, %f1, %f2;\ncvt.rn.bf16.f32 %rs1, %f3;\nadd.bf16 %rs2, %rs1, %rs3;";
        assert_eq!(of(rounded), []);
    }

    /// A register that is written in several places may hold what any of them writes.
    #[test]
    fn loops_and_guards_are_taken_as_if_everything_could_happen() {
        let around = "LOOP:\nadd.f32 %f1, %f1, %f2;\n@%p1 mul.f32 %f2, %f3, %f4;\n@%p2 bra LOOP;";
        assert_eq!(of(around), [(2, 3)]);
        let either = "@%p1 mov.f32 %f2, %f3;\n@!%p1 mul.f32 %f2, %f3, %f4;\nadd.f32 %f1, %f1, %f2;";
        assert_eq!(of(either), [(3, 2)]);
        let chain = "LOOP:\nadd.f32 %f9, %f8, %f1;\nmov.f32 %f8, %f7;\nmov.f32 %f7, %f6;\nmul.f32 %f6, %f1, %f1;\nbra LOOP;";
        assert_eq!(of(chain), [(2, 5)]);
    }

    #[test]
    fn kernels_are_told_apart_and_what_is_no_ptx_is_refused() {
        let text = ".version 7.8\n.target sm_80\n.visible .entry a()\n{\nmul.f32 %f1, %f2, %f3;\nret;\n}\n\
                    .visible .entry b()\n{\nadd.f32 %f4, %f1, %f2;\nret;\n}\n";
        let found = exactness(text).unwrap();
        assert!(found.len() == 2 && found.values().all(Exactness::exact), "{found:?}");
        assert!(exactness("no ptx").is_err());
    }

    #[test]
    fn what_is_the_hardwares_own_is_found_with_its_line() {
        for (instruction, approximate) in [
            ("@%p1 rsqrt.approx.ftz.f32 %f1, %f2;", true),
            ("ex2.approx.f32 %f1, %f2;", true),
            ("div.full.f32 %f1, %f2, %f3;", true),
            (
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r2}, {%f2};",
                true,
            ),
            (
                "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, 1, 1, 1;",
                true,
            ),
            ("red.global.add.f32 [%rd1], %f1;", true),
            ("atom.global.add.noftz.bf16x2 %r1, [%rd1], %r2;", true),
            ("atom.global.add.u32 %r1, [%rd1], 1;", false),
            ("fma.rn.f32 %f1, %f2, %f3, %f4;", false),
            ("sqrt.rn.f32 %f1, %f2;", false),
            ("div.rn.f32 %f1, %f2, %f3;", false),
            ("// ex2.approx", false),
        ] {
            let text = format!(
                ".version 7.8\n.target sm_80\n.visible .entry k()\n{{\n{instruction}\nret;\n}}\n"
            );
            let found = exactness(&text).unwrap().remove("k").unwrap();
            assert_eq!(found.approximate, approximate.then_some(5), "{instruction}");
            assert_eq!(found.exact(), !approximate, "{instruction}");
        }
    }
}
