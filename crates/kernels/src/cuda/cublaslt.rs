//! Matrix products on a GPU, by cuBLASLt.
//!
//! What a product is to a library that thinks in columns, `columns` says. Not yet run on a GPU: `tests/nvidia` runs it
//! against a stand-in, written after cuBLAS's documentation.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::sys as lt;
use lt::{
    cublasLtMatmulDescAttributes_t as DescAttribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cudaDataType as Type,
};

use super::DeviceAllocation;
use super::api::{LtApi, SUCCESS};
use super::columns::{Key, Operand};
use super::driver::Driver;
use super::gemm::{Gemm, Product};
use super::nvidia::Nvidia;
use super::probe::{self, Machine};
use crate::{Error, Result};

/// Scratch of the library's algorithms: what NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// What the library calls a product that it does not do.
const NOT_SUPPORTED: u32 = 15;

/// cuBLASLt on one GPU, in its driver's stream.
///
/// # Numerics
/// Sums accumulate in f32, whatever the operands; partial sums that an algorithm keeps in memory are f32 too (its other
/// reduction schemes are not allowed). Bits repeat from run to run on GPUs of one architecture and number of multiprocessors with
/// one version of the library, which is what cuBLAS's documentation ("Results reproducibility") promises; with another version
/// they may differ.
///
/// # Cost
/// 32 MiB of the GPU's memory. An algorithm is chosen once per shape, types and alignment, which takes the host some tens of
/// microseconds; after that a product allocates nothing.
pub struct CublasLt {
    api: LtApi,
    handle: lt::cublasLtHandle_t,
    plans: Mutex<HashMap<Key, Plan>>,
    workspace: DeviceAllocation,
    driver: Arc<Nvidia>,
}

// SAFETY: the library documents its handle as thread-safe; descriptors are used behind a lock.
unsafe impl Send for CublasLt {}
// SAFETY: as above; products of several threads share the workspace one after the other, in the one stream.
unsafe impl Sync for CublasLt {}

/// Descriptors and the algorithm of one [`Key`].
struct Plan {
    desc: lt::cublasLtMatmulDesc_t,
    left: lt::cublasLtMatrixLayout_t,
    right: lt::cublasLtMatrixLayout_t,
    out: lt::cublasLtMatrixLayout_t,
    algorithm: lt::cublasLtMatmulAlgo_t,
}

/// Algorithms for one product, in the order in which the library expects them to be fast. For timing them; what is found fastest would take
/// the place of the library's first choice.
pub struct Candidates {
    key: Key,
    /// Left, right and out, as [`Key`] has them.
    operands: [u64; 3],
    accumulate: bool,
    algorithms: Vec<lt::cublasLtMatmulAlgo_t>,
}

impl Candidates {
    /// How many there are, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.algorithms.len()
    }
}

impl CublasLt {
    /// The library, found by name or in the usual folders (`README.md` lists them), on a GPU.
    ///
    /// # Errors
    /// [`Error::Unavailable`], with where it was looked for, when there is none; [`Error::OutOfMemory`].
    pub fn open(driver: Arc<Nvidia>) -> Result<Self> {
        let name = driver.name();
        let version = driver.driver_version();
        let major = version / 1000;
        let of = if major < 13 { format!("-cu{major}") } else { String::new() };
        let missing = |what: String| Error::Unavailable {
            what: format!("{name} cannot be opened: {what}"),
            hint: format!(
                "install CUDA {major}'s libcublas, or `pip install nvidia-cublas{of}` in an active virtual environment"
            ),
        };
        let found = probe::load(probe::cublaslt_names(version), &Machine::here().toolkit_folders())
            .map_err(|e| missing(format!("there is no cuBLASLt: {}", e.describe())))?;
        // SAFETY: a library by cuBLASLt's name, never unloaded.
        let api = unsafe { LtApi::load(&found.library) }.map_err(|symbol| {
            missing(format!(
                "{} has no function {symbol}: it is too old, or not cuBLASLt",
                found.from
            ))
        })?;
        std::mem::forget(found.library);
        driver.enter("gemm")?;
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle, of the current context; it is destroyed on drop.
        match unsafe { (api.cublasLtCreate)(&raw mut handle) } {
            SUCCESS => {}
            status => {
                return Err(missing(format!(
                    "{} does not start: {}",
                    found.from,
                    describe(status)
                )));
            }
        }
        let workspace =
            DeviceAllocation::new(driver.clone(), WORKSPACE_BYTES).inspect_err(|_| {
                // SAFETY: made above, destroyed once.
                let _ = unsafe { (api.cublasLtDestroy)(handle) };
            })?;
        Ok(Self { api, handle, plans: Mutex::default(), workspace, driver })
    }

    /// c = a·bᵀ of fp8 (e4m3, scale 1) into BF16, with the short sums that make it fast: a (m, k), b (n, k), c (m, n),
    /// row-major. For measuring what a GPU can do; training's scaling is not here.
    ///
    /// # Errors
    /// [`Error::Driver`], on a GPU older than compute capability 8.9 too.
    pub fn multiply_fp8(&self, [m, n, k]: [usize; 3], c: u64, a: u64, b: u64) -> Result<()> {
        let key = Key::fp8([m, n, k], c, a, b);
        self.launch(&key, [b, a, c], false)
    }

    /// The algorithms for a product that the library thinks fastest, at most `most` of them; [`Gemm::multiply`] uses the first.
    ///
    /// # Errors
    /// As [`Gemm::multiply`].
    pub fn candidates(&self, product: &Product, most: usize) -> Result<Candidates> {
        product.check_types(self.driver.name())?;
        let &Product { a, b, c, accumulate, .. } = product;
        self.candidates_of(Key::of(product), [b.address, a.address, c.address], accumulate, most)
    }

    /// [`CublasLt::candidates`] for [`CublasLt::multiply_fp8`].
    ///
    /// # Errors
    /// As [`CublasLt::multiply_fp8`].
    pub fn candidates_fp8(
        &self,
        [m, n, k]: [usize; 3],
        c: u64,
        a: u64,
        b: u64,
        most: usize,
    ) -> Result<Candidates> {
        self.candidates_of(Key::fp8([m, n, k], c, a, b), [b, a, c], false, most)
    }

    fn candidates_of(
        &self,
        key: Key,
        operands: [u64; 3],
        accumulate: bool,
        most: usize,
    ) -> Result<Candidates> {
        self.driver.enter("gemm")?;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let algorithms = self.choose(self.planned(&mut plans, &key)?, &key, most.max(1))?;
        Ok(Candidates { key, operands, accumulate, algorithms })
    }

    /// Launches a product by one of its candidates, counted from 0; by the last where there are fewer.
    ///
    /// # Errors
    /// As [`Gemm::multiply`].
    pub fn multiply_by(&self, candidates: &Candidates, index: usize) -> Result<()> {
        let Candidates { key, operands, accumulate, algorithms } = candidates;
        let algorithm = &algorithms[index.min(algorithms.len() - 1)];
        self.driver.enter("gemm")?;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        self.launch_by(self.planned(&mut plans, key)?, algorithm, key, *operands, *accumulate)
    }

    fn launch(&self, key: &Key, operands: [u64; 3], accumulate: bool) -> Result<()> {
        self.driver.enter("gemm")?;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = self.planned(&mut plans, key)?;
        self.launch_by(plan, &plan.algorithm, key, operands, accumulate)
    }

    /// The plan of a key, made when it is first asked for.
    fn planned<'p>(&self, plans: &'p mut HashMap<Key, Plan>, key: &Key) -> Result<&'p Plan> {
        if !plans.contains_key(key) {
            plans.insert(*key, self.plan(key)?);
        }
        Ok(&plans[key])
    }

    fn launch_by(
        &self,
        plan: &Plan,
        algorithm: &lt::cublasLtMatmulAlgo_t,
        key: &Key,
        [left, right, out]: [u64; 3],
        accumulate: bool,
    ) -> Result<()> {
        let (one, factor) = (1f32, if accumulate { 1f32 } else { 0f32 });
        let at = |address: u64| ptr::without_provenance_mut::<c_void>(address as usize);
        // SAFETY: descriptors of this handle; c is read and written in place, under one layout; the workspace is as large
        // as the algorithm was promised; addresses are the GPU's to refuse.
        let status = unsafe {
            (self.api.cublasLtMatmul)(
                self.handle,
                plan.desc,
                (&raw const one).cast(),
                at(left),
                plan.left,
                at(right),
                plan.right,
                (&raw const factor).cast(),
                at(out),
                plan.out,
                at(out),
                plan.out,
                ptr::from_ref(algorithm),
                at(self.workspace.address),
                self.workspace.bytes,
                self.driver.stream().cast(),
            )
        };
        self.done(key, "launching it", status)
    }

    fn plan(&self, key: &Key) -> Result<Plan> {
        let mut plan = Plan {
            desc: ptr::null_mut(),
            left: ptr::null_mut(),
            right: ptr::null_mut(),
            out: ptr::null_mut(),
            algorithm: lt::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        match self.fill(&mut plan, key) {
            Ok(()) => Ok(plan),
            Err(error) => {
                self.destroy(&plan);
                Err(error)
            }
        }
    }

    fn fill(&self, plan: &mut Plan, key: &Key) -> Result<()> {
        let api = &self.api;
        let (f32s, sums) = (Type::CUDA_R_32F, lt::cublasComputeType_t::CUBLAS_COMPUTE_32F);
        // SAFETY: writes one handle, as the calls below do.
        let status = unsafe { (api.cublasLtMatmulDescCreate)(&raw mut plan.desc, sums, f32s) };
        self.done(key, "describing it", status)?;
        let set = |attribute: DescAttribute, value: &[u8]| {
            // SAFETY: a descriptor that was just made, and as many bytes as are said.
            let status = unsafe {
                (api.cublasLtMatmulDescSetAttribute)(
                    plan.desc,
                    attribute,
                    value.as_ptr().cast(),
                    value.len(),
                )
            };
            self.done(key, "describing it", status)
        };
        // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1, both 32 bits wide.
        let operation = |operand: Operand| i32::from(operand.transposed).to_ne_bytes();
        set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &operation(key.left))?;
        set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, &operation(key.right))?;
        if key.fast {
            set(DescAttribute::CUBLASLT_MATMUL_DESC_FAST_ACCUM, &[1])?;
        }
        let layouts =
            [(&mut plan.left, key.left), (&mut plan.right, key.right), (&mut plan.out, key.out)];
        for (layout, Operand { dtype, rows, cols, .. }) in layouts {
            // SAFETY: as above; the leading dimension of a dense column-major matrix is its rows.
            let status = unsafe {
                (api.cublasLtMatrixLayoutCreate)(layout, dtype.code(), rows, cols, rows as i64)
            };
            self.done(key, "describing its operands", status)?;
        }
        let best = self.choose(plan, key, 1)?;
        // `choose` finds one at least.
        plan.algorithm = best[0];
        Ok(())
    }

    /// The algorithms that the library thinks fastest, of those that keep their sums in f32: at least one, at most `most`.
    fn choose(&self, plan: &Plan, key: &Key, most: usize) -> Result<Vec<lt::cublasLtMatmulAlgo_t>> {
        let api = &self.api;
        let mut preference = ptr::null_mut();
        // SAFETY: writes one handle; it is destroyed below.
        let status = unsafe { (api.cublasLtMatmulPreferenceCreate)(&raw mut preference) };
        self.done(key, "choosing an algorithm", status)?;
        let chosen = self.choose_by(plan, key, preference, most);
        // SAFETY: made above, destroyed once.
        let _ = unsafe { (api.cublasLtMatmulPreferenceDestroy)(preference) };
        chosen
    }

    fn choose_by(
        &self,
        plan: &Plan,
        key: &Key,
        preference: lt::cublasLtMatmulPreference_t,
        most: usize,
    ) -> Result<Vec<lt::cublasLtMatmulAlgo_t>> {
        let api = &self.api;
        let set = |attribute: Preference, value: &[u8]| {
            // SAFETY: a live preference, and as many bytes as are said.
            let status = unsafe {
                (api.cublasLtMatmulPreferenceSetAttribute)(
                    preference,
                    attribute,
                    value.as_ptr().cast(),
                    value.len(),
                )
            };
            self.done(key, "choosing an algorithm", status)
        };
        let in_f32 = lt::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        set(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &(WORKSPACE_BYTES as u64).to_ne_bytes(),
        )?;
        set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &in_f32.to_ne_bytes())?;
        for (attribute, operand) in [
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.left),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.right),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.out),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.out),
        ] {
            set(attribute, &operand.alignment.to_ne_bytes())?;
        }
        // Zeroes are a result too, should the library write none.
        let nothing = lt::cublasLtMatmulHeuristicResult_t {
            algo: plan.algorithm,
            workspaceSize: 0,
            state: lt::cublasStatus_t::CUBLAS_STATUS_SUCCESS,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        // A state is a number that may be newer than the enumeration of them, so that none is taken for one before it was looked at.
        let mut results = vec![MaybeUninit::new(nothing); most];
        let mut found = 0;
        // SAFETY: live descriptors, and room for as many results as are asked for.
        let status = unsafe {
            (api.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                plan.desc,
                plan.left,
                plan.right,
                plan.out,
                plan.out,
                preference,
                most as c_int,
                results.as_mut_ptr().cast(),
                &raw mut found,
            )
        };
        self.done(key, "choosing an algorithm", status)?;
        let valid = |result: &MaybeUninit<lt::cublasLtMatmulHeuristicResult_t>| {
            let result = result.as_ptr();
            // SAFETY: written above, by the library or before it; any bits are a number, and an algorithm.
            unsafe {
                let state = (&raw const (*result).state).cast::<u32>().read();
                (state == SUCCESS).then(|| (&raw const (*result).algo).read())
            }
        };
        let found = results.iter().take(found.max(0) as usize);
        let algorithms: Vec<_> = found.filter_map(valid).collect();
        if algorithms.is_empty() {
            return Err(self.no_algorithm(key, "no algorithm has these sizes and types"));
        }
        Ok(algorithms)
    }

    fn destroy(&self, plan: &Plan) {
        let api = &self.api;
        // SAFETY: each was made once, is destroyed once, and is null where it was not made.
        unsafe {
            if !plan.desc.is_null() {
                let _ = (api.cublasLtMatmulDescDestroy)(plan.desc);
            }
            for layout in [plan.left, plan.right, plan.out] {
                if !layout.is_null() {
                    let _ = (api.cublasLtMatrixLayoutDestroy)(layout);
                }
            }
        }
    }

    fn done(&self, key: &Key, doing: &str, status: u32) -> Result<()> {
        let what = || format!("{doing}: {}", describe(status));
        match status {
            SUCCESS => Ok(()),
            NOT_SUPPORTED => Err(self.no_algorithm(key, &what())),
            _ => Err(self.failed(key, &what())),
        }
    }

    fn no_algorithm(&self, key: &Key, what: &str) -> Error {
        Error::NoAlgorithm { device: self.driver.name(), what: of_product(key, what) }
    }

    fn failed(&self, key: &Key, what: &str) -> Error {
        Error::Driver { op: "gemm", device: self.driver.name(), what: of_product(key, what) }
    }
}

/// What happened to a product, with the product.
fn of_product(key: &Key, what: &str) -> String {
    let Key { left, right, out, .. } = key;
    let k = if right.transposed { right.cols } else { right.rows };
    let kinds = [right, left, out].map(|o| (o.dtype, o.transposed, o.alignment));
    let [a, b, c] = kinds.map(|(dtype, transposed, alignment)| {
        let turned = if transposed { "ᵀ" } else { "" };
        format!("{dtype:?}{turned} aligned to {alignment}")
    });
    format!("product of m={}, n={}, k={k}, a {a}, b {b}, c {c}: {what}", out.cols, out.rows)
}

impl Gemm for CublasLt {
    fn multiply(&self, product: &Product) -> Result<()> {
        product.check_types(self.driver.name())?;
        let &Product { a, b, c, accumulate, .. } = product;
        self.launch(&Key::of(product), [b.address, a.address, c.address], accumulate)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // Nothing is under way any more. There is no one to tell of a failure.
        let _ = self.driver.synchronize();
        let plans = std::mem::take(self.plans.get_mut().unwrap_or_else(PoisonError::into_inner));
        for plan in plans.into_values() {
            self.destroy(&plan);
        }
        // SAFETY: made by `open`, destroyed once.
        let _ = unsafe { (self.api.cublasLtDestroy)(self.handle) };
    }
}

/// A status by the name that cuBLAS's documentation has for it.
fn describe(status: u32) -> String {
    let name = match status {
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        NOT_SUPPORTED => "CUBLAS_STATUS_NOT_SUPPORTED",
        16 => "CUBLAS_STATUS_LICENSE_ERROR",
        _ => return format!("status {status}"),
    };
    name.into()
}
