//! Operations through the driver's calls, and the products of cuBLASLt.

use super::*;

/// The bodies of `conformance.rs` whose kernels the stand-in knows.
pub(super) fn operations() -> Result<()> {
    let cuda = Cuda::open(0)?;
    for (name, body) in conformance::BODIES {
        let known = ["write_read", "copy", "cast", "fill", "linear", "linear_dx", "linear_dw"];
        if known.contains(name) {
            match body(&cuda) {
                Ok(_) => println!("> {name} conforms"),
                Err(mismatch) => println!("> {mismatch}"),
            }
        }
    }
    Ok(())
}

#[test]
fn operations_conform_through_the_drivers_calls() {
    let told = run("operations", &FOLDERS.whole, "");
    let told: Vec<_> = told
        .iter()
        .filter(|line| !line.starts_with("launch") && !line.starts_with("heuristic"))
        .collect();
    assert_eq!(
        told,
        [
            "write_read conforms",
            "copy conforms",
            "loaded a module",
            "cast conforms",
            "fill conforms",
            "loaded a module",
            "linear conforms",
            "linear_dx conforms",
            "linear_dw conforms",
            "left of cuBLASLt: 0",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
}

/// Products that the library is asked for.
pub(super) fn products() -> Result<()> {
    let gpu: &dyn Device = &Cuda::open(0)?;
    let (x, w) = (gpu.activations([48, 40])?, gpu.activations([24, 40])?);
    let mut y = gpu.activations([48, 24])?;
    for accumulate in [false, true, false] {
        gpu.linear(y.view_mut(), x.view(), w.view(), accumulate)?;
    }
    // Another alignment is another choice: these rows begin 80 bytes after an allocation.
    let longer = gpu.activations([49, 40])?;
    gpu.linear(y.view_mut(), longer.view().rows(1..49)?, w.view(), false)?;
    gpu.notes().iter().for_each(|note| println!("> {note}"));
    Ok(())
}

/// What a training step multiplies, of sizes and at addresses that a library may not take: linear layers and their gradients by their
/// conformance bodies, and Muon's iteration of gates.
pub(super) fn refusals() -> Result<()> {
    operations()?;
    let cuda = Cuda::open(0)?;
    let dev: &dyn Device = &cuda;
    println!("> gates");
    let shape = Shape::from([2, 12, 12]);
    let (mut x, mut scratch) =
        (dev.master(shape)?, dev.master([dev.polar_express_scratch(shape)])?);
    dev.polar_express(x.view_mut(), scratch.view_mut(), 1.01, &[[3.0, -2.0, 0.5]])?;
    dev.synchronize()?;
    println!("> {} kinds refused", cuda.fallbacks().len());
    Ok(())
}

#[test]
fn no_product_that_a_library_refuses_ends_a_step() {
    for (settings, refused) in [
        ("", false),
        ("lt=picky", true),
        ("lt=none", true),
        ("lt=invalid", true),
        ("lt=late", true),
    ] {
        let told = run("refusals", &FOLDERS.whole, settings);
        for op in ["linear", "linear_dx", "linear_dw"] {
            assert!(told.contains(&format!("{op} conforms")), "{settings}: {told:?}");
        }
        // The gates ask no library at all.
        let gates = told.iter().position(|line| line == "gates").expect("the gates' turn");
        let count = |what: &str| told[gates..].iter().filter(|line| line.starts_with(what)).count();
        assert_eq!((count("launch product_bf16 "), count("heuristic")), (2 * 3, 0), "{settings}");
        assert!(told.contains(&"0 kinds refused".into()), "{settings}: {told:?}");
        let ours = told[..gates].iter().filter(|line| line.starts_with("launch product_")).count();
        let asked = told[..gates].iter().filter(|line| line.starts_with("heuristic")).count();
        assert!(ours > 0 && asked > 0, "{settings}: {ours} of ours, {asked} of the library's");
        assert!(told.contains(&"left of cuBLASLt: 0".into()), "{settings}: {told:?}");
        // What is refused is multiplied by us, and said.
        let noted = run("products", &FOLDERS.whole, settings);
        let notes = noted.iter().filter(|line| line.ends_with("by a slower kernel of our own"));
        assert_eq!(notes.count() > 0, refused, "{settings}: {noted:?}");
    }
    let told = run("products", &FOLDERS.whole, "lt=broken");
    let broken = "gemm: cuda:0: product of m=48, n=24, k=40, a Bf16 aligned to 256, b Bf16ᵀ aligned to 256, c Bf16 aligned to 256: \
                  launching it: CUBLAS_STATUS_EXECUTION_FAILED";
    assert!(told.iter().any(|line| line == broken), "{told:?}");
}

#[test]
fn an_algorithm_is_chosen_once_per_shape_and_alignment() {
    let told = run("products", &FOLDERS.whole, "");
    assert_eq!(
        told,
        [
            "heuristic for 24 x 48 x 40",
            "heuristic for 24 x 48 x 40",
            "left of cuBLASLt: 0",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
    let told = run("products", &FOLDERS.whole, "lt=none");
    let refused = |alignment, times| {
        format!(
            "cuda:0: product of m=48, n=24, k=40, a Bf16 aligned to {alignment}, b Bf16ᵀ aligned to 256, c Bf16 aligned to 256: no \
             algorithm has these sizes and types; multiplied {times} by a slower kernel of our own"
        )
    };
    let notes: Vec<_> = told.iter().filter(|line| line.starts_with("cuda:0")).collect();
    assert_eq!(notes, [&refused(256, "3 times"), &refused(16, "once")]);
    let heuristics = told.iter().filter(|line| line.starts_with("heuristic")).count();
    assert_eq!(heuristics, 2, "a refusal is remembered: {told:?}");
    assert!(told.iter().any(|line| line == "left of cuBLASLt: 0"), "{told:?}");
}

pub(super) fn fp8() -> Result<()> {
    let gpu = Arc::new(Nvidia::open(0)?);
    let gemm = CublasLt::open(gpu.clone())?;
    // e4m3: 0x38 is 1, 0x40 is 2, 0xb8 is −1, 0x30 is 0.5.
    let a = [[0x38, 0x40, 0xb8], [0x30, 0x38, 0x38]];
    let b = [[0x38, 0x38, 0x38], [0x40, 0x30, 0xb8], [0, 0x40, 0], [0x38, 0, 0]];
    let [at_a, at_b, at_c] = [6, 12, 16].map(|bytes| gpu.alloc(bytes));
    let (at_a, at_b, at_c) = (at_a?, at_b?, at_c?);
    gpu.write(at_a, a.as_flattened())?;
    gpu.write(at_b, b.as_flattened())?;
    gemm.multiply_fp8([2, 4, 3], at_c, at_a, at_b)?;
    let mut c = [Bf16::from_f32(0.0); 8];
    gpu.read(bytemuck::cast_slice_mut(&mut c), at_c)?;
    println!("> {:?}", c.map(Bf16::to_f32));
    for address in [at_a, at_b, at_c] {
        gpu.free(address);
    }
    Ok(())
}

#[test]
fn fp8_products_take_rows_by_rows() {
    let told = run("fp8", &FOLDERS.whole, "");
    assert_eq!(
        told,
        [
            "heuristic for 4 x 2 x 3, fast",
            "[2.0, 4.0, 4.0, 1.0, 2.5, 0.5, 2.0, 0.5]",
            "left of cuBLASLt: 0",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
}
