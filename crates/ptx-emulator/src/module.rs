//! A PTX file and the kernels in it.

use crate::decode::{Located, Problem, Symbol, decode, place};
use crate::error::{Error, Result};
use crate::memory::{Memory, Pointer};
use crate::parse::parse;
use crate::program::Program;
use crate::syntax::{Number, Space, Ty, Variable};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A variable of the module: what its memory starts with.
struct Global {
    name: String,
    bytes: u64,
    constant: bool,
    external: bool,
    /// The leading bytes; the rest is zero.
    initial: Vec<u8>,
}

/// A parsed PTX file.
pub struct Module {
    pub(crate) source: Arc<str>,
    target: String,
    globals: Vec<Global>,
    kernels: Vec<(String, std::result::Result<Program, Error>)>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("target", &self.target)
            .field("kernels", &self.kernels().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// One kernel of a [`Module`]; [`launch`](Kernel::launch) runs it.
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    pub(crate) module: &'a Module,
    pub(crate) program: &'a Program,
}

impl fmt::Debug for Kernel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("name", &self.program.name)
            .field("instructions", &self.program.code.len())
            .finish_non_exhaustive()
    }
}

/// All variables of a module together.
const MOST_GLOBAL: u64 = 1 << 28;

/// Line `number` of `source`, trimmed and cut to a readable length.
pub(crate) fn line_of(source: &str, number: u32) -> String {
    let line = source.lines().nth(number.saturating_sub(1) as usize).unwrap_or("").trim();
    if line.len() <= 160 {
        return line.to_owned();
    }
    format!("{}…", &line[..line.floor_char_boundary(160)])
}

/// A message that quotes the file is cut too.
fn clip(mut text: String) -> String {
    if text.len() > 300 {
        text.truncate(text.floor_char_boundary(300));
        text.push('…');
    }
    text
}

impl Module {
    /// Reads a PTX file.
    ///
    /// # Errors
    /// [`Error::Parse`] if it is not PTX. A kernel that uses what is not emulated does not keep the others from being
    /// used: it is an error to ask for that [`kernel`](Module::kernel).
    pub fn parse(text: &str) -> Result<Module> {
        let source: Arc<str> = text.into();
        let wrong = |(line, what): (u32, String)| Error::Parse {
            line,
            text: line_of(text, line),
            what: clip(what),
        };
        let file = parse(text).map_err(wrong)?;
        let mut symbols = HashMap::new();
        let mut globals = Vec::new();
        let (mut shared, mut dynamic_align, mut total) = (0u64, 16, 0u64);
        for v in &file.variables {
            let symbol = match v.space {
                Space::Shared if v.external || v.bytes == 0 => {
                    dynamic_align = dynamic_align.max(v.align as u32);
                    Symbol::DynamicShared
                }
                Space::Shared => {
                    let Some(at) = place(shared, v.align, v.bytes, 48 << 10) else {
                        let what = format!(
                            "{} bytes of static shared memory; the limit is 49152",
                            v.bytes
                        );
                        return Err(wrong((v.line, what)));
                    };
                    shared = at + v.bytes;
                    Symbol::Shared(at as u32)
                }
                Space::Global | Space::Const => {
                    total = total.saturating_add(v.bytes);
                    if total > MOST_GLOBAL {
                        let what = format!("more than {MOST_GLOBAL} bytes of global variables");
                        return Err(wrong((v.line, what)));
                    }
                    globals.push(global(v).map_err(|what| wrong((v.line, what)))?);
                    Symbol::Global(globals.len() as u32 - 1)
                }
                _ => return Err(wrong((v.line, "a variable in this space".into()))),
            };
            symbols.insert(v.name, symbol);
        }
        let mut kernels: Vec<(String, std::result::Result<Program, Error>)> = Vec::new();
        for entry in &file.entries {
            if kernels.iter().any(|k| k.0 == entry.name) {
                return Err(wrong((entry.line, format!("kernel {} is there twice", entry.name))));
            }
            let program = match decode(entry, &symbols, shared as u32, dynamic_align) {
                Ok(p) => Ok(p),
                Err(Located { line, problem: Problem::Malformed(what), .. }) => {
                    return Err(wrong((line, what)));
                }
                Err(Located { line, opcode, problem: Problem::Unsupported(why) }) => {
                    Err(Error::Unsupported {
                        kernel: clip(entry.name.to_owned()),
                        line,
                        text: line_of(text, line),
                        opcode: clip(opcode),
                        why: clip(why),
                    })
                }
            };
            kernels.push((entry.name.to_owned(), program));
        }
        Ok(Module { source, target: file.target, globals, kernels })
    }

    /// The architecture that the file was made for, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The kernels' names, in the order of the file.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|k| k.0.as_str())
    }

    /// Looks up a kernel.
    ///
    /// # Errors
    /// [`Error::NoKernel`] if there is none of this name, [`Error::Unsupported`] with the opcode and line if it uses
    /// something that is not emulated.
    pub fn kernel(&self, name: &str) -> Result<Kernel<'_>> {
        match self.kernels.iter().find(|k| k.0 == name) {
            Some((_, Ok(program))) => Ok(Kernel { module: self, program }),
            Some((_, Err(e))) => Err(e.clone()),
            None => {
                let known: Vec<&str> = self.kernels().collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                Err(Error::NoKernel { name: name.into(), known })
            }
        }
    }

    /// The address of a `.global` or `.const` variable in `memory`. It lives there from the first time that this
    /// module is used with that memory.
    ///
    /// # Errors
    /// If the module has no such variable, or declares it as external.
    pub fn variable(&self, name: &str, memory: &mut Memory) -> Result<Pointer> {
        let Some(i) = self.globals.iter().position(|g| g.name == name) else {
            return Err(Error::Memory(format!("the module has no variable `{name}`")));
        };
        Ok(self.variables(memory)?[i])
    }

    pub(crate) fn variables(&self, memory: &mut Memory) -> Result<Vec<Pointer>> {
        if let Some((_, all)) = memory.modules.iter().find(|m| Arc::ptr_eq(&m.0, &self.source)) {
            return Ok(all.clone());
        }
        if let Some(g) = self.globals.iter().find(|g| g.external) {
            return Err(Error::Memory(format!(
                "variable `{}` is defined in another module",
                g.name
            )));
        }
        let mut all = Vec::new();
        for g in &self.globals {
            let at = memory.allocate(g.bytes, g.constant, Some(g.name.clone()));
            for i in 0..g.bytes {
                let byte = g.initial.get(i as usize).copied().unwrap_or(0);
                memory.put_byte(at.0 + i, byte);
            }
            all.push(at);
        }
        memory.modules.push((Arc::clone(&self.source), all.clone()));
        Ok(all)
    }
}

fn global(v: &Variable<'_>) -> std::result::Result<Global, String> {
    let mut initial = Vec::new();
    for n in &v.initial {
        let bits = match (*n, v.ty) {
            (Number::Single(n), Ty::F64) => (f32::from_bits(n) as f64).to_bits(),
            (Number::Single(n), _) => n as u64,
            (Number::Double(n), Ty::F32) => (f64::from_bits(n) as f32).to_bits() as u64,
            (Number::Integer(n) | Number::Double(n), _) => n,
            (Number::Decimal(n), Ty::F32) => (n as f32).to_bits() as u64,
            (Number::Decimal(n), _) => n.to_bits(),
        };
        let bytes = (v.ty.bytes() as usize).min(8);
        initial.extend_from_slice(&bits.to_le_bytes()[..bytes]);
    }
    if initial.len() as u64 > v.bytes {
        return Err(format!("{} initial bytes for {}", initial.len(), v.bytes));
    }
    Ok(Global {
        name: v.name.to_owned(),
        bytes: v.bytes,
        constant: v.space == Space::Const,
        external: v.external,
        initial,
    })
}
