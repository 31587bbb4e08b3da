//! What PTX is not committed for: kernels without a plain name, calls, names that depend on the source's path, line information.
//!
//! Looks at names and directives only; whether the instructions are right is for ptxas and the emulator to say.

use anyhow::{Result, bail};

/// The kernels of a PTX text, in its order.
pub(crate) fn kernels(ptx: &str) -> Vec<String> {
    ptx.lines()
        .filter_map(|line| {
            let rest = line.split("//").next()?.split_once(".entry ")?.1;
            let name = rest.trim_start().split(|c: char| c == '(' || c.is_whitespace()).next()?;
            (!name.is_empty()).then(|| name.to_owned())
        })
        .collect()
}

/// Refuses what would make the output unstable, or unusable from the launch code.
pub(crate) fn check(ptx: &str) -> Result<()> {
    for (number, line) in ptx.lines().enumerate() {
        let code = line.split("//").next().unwrap_or(line);
        if let Some(why) = refuse(code) {
            bail!("PTX line {}: `{}` {why}", number + 1, line.trim());
        }
    }
    if kernels(ptx).is_empty() {
        bail!("the PTX has no kernel\n  hint: `extern \"C\" __global__ void name(…)`");
    }
    Ok(())
}

fn refuse(code: &str) -> Option<&'static str> {
    let code = code.trim_start();
    if code.contains("_GLOBAL__N_") || code.contains("_INTERNAL_") || code.contains("__nv_static_")
    {
        return Some(
            "has a name with a hash of the source's path\n  \
             hint: no anonymous namespaces and no `static` at file scope; `__device__ __forceinline__` for helpers",
        );
    }
    if code.contains(".entry _Z") {
        return Some("is a kernel with a mangled name\n  hint: declare it `extern \"C\"`");
    }
    if code.starts_with(".extern .func") {
        return Some(
            "is a call into the driver's runtime\n  hint: no assert, printf, malloc or recursion in a kernel",
        );
    }
    if code.starts_with(".func")
        || code.starts_with(".visible .func")
        || code.starts_with(".weak .func")
    {
        return Some(
            "is a function that was not inlined\n  hint: declare it `__device__ __forceinline__`",
        );
    }
    if code.starts_with(".loc") || code.starts_with(".file") || code.starts_with(".section") {
        return Some("is debug information, which carries paths\n  hint: no -lineinfo, -g or -G");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "// .globl fill\n.visible .entry fill(\n\t.param .u64 fill_param_0\n)\n{\n\
        \t.shared .align 4 .b8 _ZZ4fillE1s[132];\n\tret;\n}\n.entry  other()\n{\n}\n";

    #[test]
    fn plain_kernels_pass_and_are_named() {
        check(PLAIN).unwrap();
        assert_eq!(kernels(PLAIN), ["fill", "other"]);
    }

    #[test]
    fn each_refused_form_is_refused() {
        // Forms that nvcc 13.0.88 wrote for sources made to provoke them.
        for (line, what) in [
            (".visible .entry _Z7mangledPi(", "extern \"C\""),
            (
                ".entry _ZN34_GLOBAL__N__39106088_6_bad_cu_ctab5innerEPi(",
                "hash of the source's path",
            ),
            (
                ".func  (.param .b32 func_retval0) _ZN32_INTERNAL_39106088_6_bad_cu_ctab1gEi(",
                "hash of the source's path",
            ),
            (".func  (.param .b32 func_retval0) _Z1fi(", "not inlined"),
            (".extern .func  (.param .b32 func_retval0) vprintf", "printf"),
            (".extern .func __assertfail", "assert"),
            ("\t.loc\t1 9 0", "-lineinfo"),
            ("\t.file\t1 \"/home/x/bad.cu\"", "-lineinfo"),
        ] {
            let error = check(&format!("{PLAIN}{line}\n")).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("PTX line 12"), "{error}");
        }
    }

    #[test]
    fn a_text_without_kernels_is_refused() {
        assert!(check(".version 7.8\n").unwrap_err().to_string().contains("no kernel"));
    }
}
