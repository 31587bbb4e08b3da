//! Syntax to [`Program`]: walks over a kernel's statements, places its variables, resolves its labels. Operands are decoded in
//! `decode_operand`, instructions in `decode_instruction`, `decode_memory` and `decode_warp`; what arithmetic means is
//! in `lanes`.

use crate::cfg::reconverge;
use crate::program::{Inst, NONE, Op, Program, RowInit};
use crate::syntax::{Entry, Space, Statement, Ty, Variable};
use std::collections::HashMap;

/// Why a kernel cannot be decoded.
#[derive(Clone, Debug)]
pub(crate) enum Problem {
    /// It is not PTX.
    Malformed(String),
    /// It is PTX that is not emulated.
    Unsupported(String),
}

impl From<String> for Problem {
    fn from(why: String) -> Problem {
        Problem::Unsupported(why)
    }
}

impl From<&str> for Problem {
    fn from(why: &str) -> Problem {
        Problem::Unsupported(why.into())
    }
}

pub(crate) type Decoded<T> = Result<T, Problem>;

/// A problem with the line and mnemonic it came from.
pub(crate) struct Located {
    pub(crate) line: u32,
    pub(crate) opcode: String,
    pub(crate) problem: Problem,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Symbol {
    Register(u32, Ty),
    Shared(u32),
    DynamicShared,
    Local(u32),
    Param(u32),
    Global(u32),
}

#[derive(Default)]
pub(crate) struct Scope<'a> {
    number: u32,
    pub(crate) names: HashMap<&'a str, Symbol>,
    pub(crate) ranges: Vec<(&'a str, u32, Ty)>,
}

/// A label to be found once all are known.
struct Fixup<'a> {
    inst: usize,
    label: &'a str,
    scopes: Vec<u32>,
    line: u32,
}

pub(crate) struct Decoder<'a> {
    pub(crate) globals: &'a HashMap<&'a str, Symbol>,
    pub(crate) scopes: Vec<Scope<'a>>,
    labels: HashMap<(u32, &'a str), u32>,
    pub(crate) tables: HashMap<&'a str, Vec<&'a str>>,
    fixups: Vec<Fixup<'a>>,
    pub(crate) rows: Vec<RowInit>,
    pub(crate) constants: HashMap<RowInit, u32>,
    pub(crate) code: Vec<Inst>,
    pub(crate) line: u32,
    pub(crate) guard: (u32, bool),
    static_shared: u32,
    dynamic_align: u32,
    local_bytes: u32,
}

/// ptxas' limit of static shared memory, and the hardware's of local memory.
const MOST_STATIC_SHARED: u64 = 48 << 10;
const MOST_LOCAL: u64 = 512 << 10;
const MOST_PARAM: u64 = 32_764;

pub(crate) fn malformed<T>(what: impl Into<String>) -> Decoded<T> {
    Err(Problem::Malformed(what.into()))
}

/// Decodes one kernel. `static_shared` and `globals` are the module's.
pub(crate) fn decode<'a>(
    entry: &'a Entry<'a>,
    globals: &'a HashMap<&'a str, Symbol>,
    static_shared: u32,
    dynamic_align: u32,
) -> Result<Program, Located> {
    let mut d = Decoder {
        globals,
        scopes: vec![Scope::default()],
        labels: HashMap::new(),
        tables: HashMap::new(),
        fixups: Vec::new(),
        rows: Vec::new(),
        constants: HashMap::new(),
        code: Vec::new(),
        line: entry.line,
        guard: (NONE, false),
        static_shared,
        dynamic_align,
        local_bytes: 0,
    };
    let wrong = |line, opcode: &str, problem| Located { line, opcode: opcode.to_owned(), problem };
    let (params, param_bytes) =
        d.params(&entry.params).map_err(|p| wrong(entry.line, ".param", p))?;
    let (mut max_threads, mut required_threads) = (None, None);
    for (directive, numbers) in &entry.limits {
        let axes: [u32; 3] = std::array::from_fn(|i| numbers.get(i).copied().unwrap_or(1));
        match *directive {
            ".maxntid" => max_threads = Some(axes.iter().fold(1u32, |a, b| a.saturating_mul(*b))),
            ".reqntid" => required_threads = Some(axes),
            ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".noreturn" => {}
            other => {
                return Err(wrong(
                    entry.line,
                    other,
                    "launch of clusters, or an unknown limit".into(),
                ));
            }
        }
    }
    let mut scope_count = 0;
    for statement in &entry.body {
        match statement {
            Statement::Open => {
                scope_count += 1;
                d.scopes.push(Scope { number: scope_count, ..Scope::default() });
            }
            Statement::Close => {
                d.scopes.pop();
            }
            Statement::Label(name, line) => {
                let scope = d.scope().number;
                if d.labels.insert((scope, name), d.code.len() as u32).is_some() {
                    let p = Problem::Malformed(format!("label {name} is there twice"));
                    return Err(wrong(*line, name, p));
                }
            }
            Statement::Targets(name, targets) => {
                d.tables.insert(name, targets.clone());
            }
            Statement::Registers(ty, names) => {
                for (name, count) in names {
                    match count {
                        Some(n) => d.scope().ranges.push((name, *n, *ty)),
                        None => {
                            let row =
                                d.row(RowInit::Register).map_err(|p| wrong(d.line, ".reg", p))?;
                            d.scope().names.insert(name, Symbol::Register(row, *ty));
                        }
                    }
                }
            }
            Statement::Variable(v) => {
                d.line = v.line;
                d.variable(v).map_err(|p| wrong(v.line, "declaration", p))?;
            }
            Statement::Instruction(i) => {
                d.line = i.line;
                d.instruction(i).map_err(|p| wrong(i.line, i.opcode, p))?;
            }
        }
    }
    d.link().map_err(|(line, p)| wrong(line, "bra", p))?;
    reconverge(&mut d.code);
    Ok(Program {
        name: entry.name.to_owned(),
        code: d.code,
        rows: d.rows,
        params,
        param_bytes,
        static_shared: d.static_shared,
        dynamic_align: d.dynamic_align,
        local_bytes: d.local_bytes,
        max_threads,
        required_threads,
    })
}

/// Places `bytes` after `used` with `align`; `None` beyond `most`.
pub(crate) fn place(used: u64, align: u64, bytes: u64, most: u64) -> Option<u64> {
    let at = used.next_multiple_of(align.max(1));
    (at.saturating_add(bytes) <= most).then_some(at)
}

impl<'a> Decoder<'a> {
    pub(crate) fn scope(&mut self) -> &mut Scope<'a> {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    pub(crate) fn params(&mut self, params: &[Variable<'a>]) -> Decoded<(Vec<(u32, u32)>, u32)> {
        let mut out = Vec::new();
        let mut used = 0;
        for p in params {
            let Some(at) = place(used, p.align, p.bytes, MOST_PARAM) else {
                return malformed(format!("parameters of more than {MOST_PARAM} bytes"));
            };
            used = at + p.bytes;
            self.scope().names.insert(p.name, Symbol::Param(at as u32));
            out.push((at as u32, p.bytes as u32));
        }
        Ok((out, used as u32))
    }

    pub(crate) fn variable(&mut self, v: &Variable<'a>) -> Decoded<()> {
        let symbol = match v.space {
            Space::Shared if v.external || v.bytes == 0 => {
                self.dynamic_align = self.dynamic_align.max(v.align as u32);
                Symbol::DynamicShared
            }
            Space::Shared => {
                let used = self.static_shared as u64;
                let Some(at) = place(used, v.align, v.bytes, MOST_STATIC_SHARED) else {
                    return malformed(format!(
                        "{} bytes of static shared memory; the limit is {MOST_STATIC_SHARED}",
                        used.saturating_add(v.bytes)
                    ));
                };
                self.static_shared = (at + v.bytes) as u32;
                Symbol::Shared(at as u32)
            }
            Space::Local => {
                let Some(at) = place(self.local_bytes as u64, v.align, v.bytes, MOST_LOCAL) else {
                    return malformed(format!(
                        "{} bytes of local memory; the limit is {MOST_LOCAL}",
                        v.bytes
                    ));
                };
                self.local_bytes = (at + v.bytes) as u32;
                Symbol::Local(at as u32)
            }
            Space::Param => return Err("a call's parameter".into()),
            _ => return Err("a global variable inside of a kernel".into()),
        };
        self.scope().names.insert(v.name, symbol);
        Ok(())
    }

    pub(crate) fn branch_to(&mut self, label: &'a str) {
        let scopes = self.scopes.iter().rev().map(|s| s.number).collect();
        self.fixups.push(Fixup { inst: self.code.len(), label, scopes, line: self.line });
    }

    pub(crate) fn link(&mut self) -> Result<(), (u32, Problem)> {
        for f in std::mem::take(&mut self.fixups) {
            let found = f.scopes.iter().find_map(|s| self.labels.get(&(*s, f.label)));
            let Some(at) = found else {
                return Err((f.line, Problem::Malformed(format!("no label `{}`", f.label))));
            };
            match &mut self.code[f.inst].op {
                Op::Branch { target, .. } => *target = *at,
                Op::Switch { targets, .. } => targets.push(*at),
                _ => {}
            }
        }
        Ok(())
    }
}
