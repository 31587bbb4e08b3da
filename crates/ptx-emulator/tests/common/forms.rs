//! One opcode form at a time: a kernel around it, run over rows of operands, and the operands that lie at edges.

use ptx_emulator::{Memory, Module, Options};
use std::fmt::Write;

/// A register of 16, 32 or 64 bits, or a predicate, by a letter.
pub fn letter(ty: &str) -> char {
    match ty {
        "u16" | "s16" | "b16" | "f16" | "bf16" | "e4m3x2" | "e5m2x2" => 'h',
        "u64" | "s64" | "b64" | "f64" => 'l',
        "pred" => 'p',
        _ => 'r',
    }
}

/// A module with one kernel: a thread for each row loads its sources, executes `form`, stores the result.
pub fn program(form: &str, d: char, sources: &str, tail: &str) -> String {
    let mut t = String::from(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in, .param .u32 n)\n{\n\
         .reg .b16 %h<6>; .reg .b32 %r<16>; .reg .b64 %l<16>; .reg .pred %p<6>;\n\
         ld.param.u64 %l8, [out]; ld.param.u64 %l9, [in]; ld.param.u32 %r8, [n];\n\
         mov.u32 %r9, %ctaid.x; mov.u32 %r10, %ntid.x; mov.u32 %r11, %tid.x; mad.lo.u32 %r9, %r9, %r10, %r11;\n\
         setp.ge.u32 %p5, %r9, %r8;\n@%p5 ret;\n\
         mul.wide.u32 %l10, %r9, 32; add.u64 %l9, %l9, %l10;\n\
         mul.wide.u32 %l10, %r9, 8; add.u64 %l8, %l8, %l10;\n",
    );
    let mut names = Vec::new();
    for (i, s) in sources.chars().enumerate() {
        let (i, at) = (i + 1, i * 8);
        match s {
            'h' => writeln!(t, "ld.global.b16 %h{i}, [%l9+{at}];"),
            'r' => writeln!(t, "ld.global.b32 %r{i}, [%l9+{at}];"),
            'l' => writeln!(t, "ld.global.b64 %l{i}, [%l9+{at}];"),
            _ => writeln!(t, "ld.global.b32 %r15, [%l9+{at}]; setp.ne.u32 %p{i}, %r15, 0;"),
        }
        .unwrap();
        names.push(format!("%{s}{i}"));
    }
    writeln!(t, "{form} %{d}0, {}{tail};", names.join(", ")).unwrap();
    t.push_str(match d {
        'h' => "mov.b32 %r0, {%h0, %h0}; and.b32 %r0, %r0, 65535; cvt.u64.u32 %l0, %r0;\n",
        'r' => "cvt.u64.u32 %l0, %r0;\n",
        'l' => "",
        _ => "selp.u64 %l0, 1, 0, %p0;\n",
    });
    t.push_str("st.global.u64 [%l8], %l0;\nret;\n}\n");
    t
}

pub fn run_text(text: &str, rows: &[[u64; 4]]) -> Vec<u64> {
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}"));
    let mut memory = Memory::new();
    let flat: Vec<u64> = rows.iter().flatten().copied().collect();
    let (out, input) = (memory.alloc(8 * rows.len()), memory.upload(&flat));
    let args = [out.into(), input.into(), (rows.len() as u32).into()];
    let grid = [rows.len().div_ceil(128) as u32, 1, 1];
    kernel.launch(grid, [128, 1, 1], 0, &args, &mut memory, &Options::default()).unwrap();
    memory.read(out, rows.len()).unwrap()
}

pub fn run(form: &str, d: char, sources: &str, rows: &[[u64; 4]]) -> Vec<u64> {
    run_text(&program(form, d, sources, ""), rows)
}

/// Compares with `want`, which gives `None` where PTX leaves the result open.
pub fn check(
    form: &str,
    d: char,
    sources: &str,
    rows: &[[u64; 4]],
    want: impl Fn([u64; 4]) -> Option<u64>,
) {
    let got = run(form, d, sources, rows);
    let width = match d {
        'h' => 0xffff,
        'r' => 0xffff_ffff,
        'l' => u64::MAX,
        _ => 1,
    };
    for (row, got) in rows.iter().zip(got) {
        if let Some(want) = want(*row) {
            let n = sources.len();
            assert_eq!(got, want & width, "{form} of {:#x?}: {got:#x}, not {want:#x}", &row[..n]);
        }
    }
}

pub const EDGES: [u64; 20] = [
    0,
    1,
    2,
    3,
    7,
    31,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
    u64::MAX,
];

pub fn pairs() -> Vec<[u64; 4]> {
    let mut all = Vec::new();
    for a in EDGES {
        for b in EDGES {
            all.push([a, b, a.rotate_left(17) ^ b, 0]);
        }
    }
    all
}

#[derive(Clone, Copy)]
pub struct Int {
    pub name: &'static str,
    pub bits: u32,
    pub signed: bool,
}

pub const INTS: [Int; 6] = [
    Int { name: "u16", bits: 16, signed: false },
    Int { name: "s16", bits: 16, signed: true },
    Int { name: "u32", bits: 32, signed: false },
    Int { name: "s32", bits: 32, signed: true },
    Int { name: "u64", bits: 64, signed: false },
    Int { name: "s64", bits: 64, signed: true },
];

impl Int {
    pub fn value(self, v: u64) -> i128 {
        let v = v as i128 & ((1 << self.bits) - 1);
        if self.signed && v >> (self.bits - 1) == 1 { v - (1 << self.bits) } else { v }
    }
    pub fn low(self) -> i128 {
        if self.signed { -(1 << (self.bits - 1)) } else { 0 }
    }
    pub fn high(self) -> i128 {
        if self.signed { (1 << (self.bits - 1)) - 1 } else { (1 << self.bits) - 1 }
    }
}

/// Signs, zeros, subnormals, neighbours of one, the largest, infinities and NaNs.
pub const F32: [u32; 20] = [
    0,
    1,
    0x007f_ffff,
    0x0080_0000,
    0x3eff_ffff,
    0x3f00_0000,
    0x3f80_0000,
    0x3f80_0001,
    0x3fc0_0000,
    0x4020_0000,
    0x4f00_0000,
    0x7f7f_ffff,
    0x7f80_0000,
    0x7fc0_0000,
    0x8000_0000,
    0x8000_0001,
    0xbf80_0000,
    0xc020_0000,
    0xff7f_ffff,
    0xff80_0000,
];

pub fn f32s(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}
