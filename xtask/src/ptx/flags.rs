//! The flags nvcc gets: the same for every source, and what a source asks for in a comment on its first lines.

use anyhow::{Result, bail};

use super::set::Set;

const MARK: &str = "// nvcc:";
/// What a source may set: what changes the code of its PTX, and neither where it goes nor how it is assembled (the driver does that, and heeds
/// `__launch_bounds__` and `__maxnreg__` rather than a flag).
const ALLOWED: [&str; 7] = [
    "-D",
    "-use_fast_math",
    "-ftz=",
    "-fmad=",
    "-prec-div=",
    "-prec-sqrt=",
    "-extra-device-vectorization",
];

/// What a source adds: the words after `// nvcc:` in the comments before its first line of code.
pub(crate) fn of_source(text: &str) -> Result<Vec<String>> {
    let mut flags = Vec::new();
    let head =
        text.lines().map(str::trim).take_while(|line| line.is_empty() || line.starts_with("//"));
    for line in head {
        let Some(words) = line.strip_prefix(MARK) else { continue };
        for word in words.split_whitespace() {
            if !ALLOWED.iter().any(|allowed| match allowed.strip_prefix("-D") {
                Some(_) => word.len() > 2 && word.starts_with("-D"),
                None if allowed.ends_with('=') => word.starts_with(allowed),
                None => word == *allowed,
            }) {
                bail!(
                    "`{MARK} {word}` is not a flag that a source may set\n  hint: one of -D…, {}",
                    ALLOWED[1..].join(", ")
                );
            }
            flags.push(word.to_owned());
        }
    }
    Ok(flags)
}

/// All of them, in the order nvcc gets them.
pub(crate) fn all(set: Set, own: &[String]) -> Vec<String> {
    let arch = format!("-arch={}", set.compute());
    ["-std=c++17", "-O3", &arch, "-ptx"]
        .into_iter()
        .map(str::to_owned)
        .chain(own.iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_from_the_head_alone() {
        let text = "// Sums.\n// nvcc: -use_fast_math -DROWS=4\n\n#include <x>\n// nvcc: -DLATE\n";
        assert_eq!(of_source(text).unwrap(), ["-use_fast_math", "-DROWS=4"]);
        assert_eq!(
            all(Set::Sm90a, &of_source(text).unwrap()).join(" "),
            "-std=c++17 -O3 -arch=compute_90a -ptx -use_fast_math -DROWS=4"
        );
        assert!(of_source("// no flags\nint x;").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_a_sources_to_choose_is_refused() {
        for flag in [
            "-lineinfo",
            "-G",
            "-arch=sm_90",
            "-o",
            "x.cu",
            "-I",
            "-D",
            "-maxrregcount=32",
            "-Xptxas=-v",
            "-use_fast_math2",
        ] {
            let error = of_source(&format!("// nvcc: {flag}\n")).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains("hint:"), "{error}");
        }
        assert!(of_source("// nvcc: -ftz=true -fmad=false\n").is_ok());
    }
}
