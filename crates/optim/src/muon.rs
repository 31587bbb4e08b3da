//! Muon and NorMuon on a slab of matrices: the order of the steps. The arithmetic is the device's.

use farthing_kernels::{Device, Expr, Shape, Slab, SlabSpec, Tensor};
use serde::{Deserialize, Serialize};

use crate::adamw::within;
use crate::{Error, Hyper, Optimizer, OptimizerKind, Result};

/// Polar Express's coefficients (a, b, c) for five steps, arXiv 2505.16932.
pub const POLAR_EXPRESS: [[f64; 3]; 5] = [
    [8.156_554_524_902_461, -22.483_292_925_577_95, 15.878_769_915_207_462],
    [4.042_929_935_166_739, -2.808_917_465_908_714, 0.500_017_845_105_131_6],
    [3.891_667_802_292_660_7, -2.772_484_153_217_685, 0.506_064_817_850_339_3],
    [3.285_753_657_755_655, -2.368_129_493_342_537_6, 0.464_490_242_330_031_06],
    [2.346_541_325_859_637_7, -1.709_782_838_268_708_1, 0.423_235_511_693_053_23],
];

/// The keys of `normuon`, and of `muon` with other defaults.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one step of the rule, on or off")]
pub struct NorMuonConfig {
    /// Scale every row of the gradient to one norm first.
    pub equilibrate: bool,
    /// How far the Frobenius norm is overestimated, so that singular values start below 1.
    pub safety: f64,
    /// Polar Express steps, 1 to 5.
    pub steps: usize,
    /// Scale the result to the Frobenius norm that an orthogonal matrix has.
    pub renormalize: bool,
    /// Divide rows (or columns, of wide matrices) by the root of their running mean square.
    pub variance_reduction: bool,
    /// The decay of that running mean.
    pub beta2: f64,
    /// Decay a weight only where the update already shrinks it.
    pub cautious: bool,
}

impl Default for NorMuonConfig {
    fn default() -> Self {
        Self {
            equilibrate: true,
            safety: 1.01,
            steps: POLAR_EXPRESS.len(),
            renormalize: true,
            variance_reduction: true,
            beta2: 0.9,
            cautious: true,
        }
    }
}

/// The keys of `muon`.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonConfig {
    /// How far the Frobenius norm is overestimated, so that singular values start below 1.
    pub safety: f64,
    /// Polar Express steps, 1 to 5.
    pub steps: usize,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self { safety: 1.01, steps: POLAR_EXPRESS.len() }
    }
}

impl From<MuonConfig> for NorMuonConfig {
    fn from(MuonConfig { safety, steps }: MuonConfig) -> Self {
        Self {
            equilibrate: false,
            safety,
            steps,
            renormalize: false,
            variance_reduction: false,
            cautious: false,
            ..Self::default()
        }
    }
}

/// Muon: Nesterov momentum, orthogonalisation, decoupled weight decay, and nothing else. [`NorMuon`] with the rest off.
///
/// # Source
/// Keller Jordan, Muon (2024); orthogonalisation by Polar Express, arXiv 2505.16932.
pub enum Muon {}

impl Muon {
    /// As [`NorMuon::new`], with what Muon has not left off.
    ///
    /// # Errors
    /// Those of [`NorMuon::new`].
    #[allow(clippy::new_ret_no_self, reason = "Muon is a setting of NorMuon, and has no values")]
    pub fn new(config: MuonConfig, dev: &dyn Device, spec: &SlabSpec) -> Result<NorMuon> {
        NorMuon::new(config.into(), dev, spec)
    }
}

impl OptimizerKind for Muon {
    type Config = MuonConfig;

    fn check(config: &MuonConfig) -> Result<()> {
        NorMuon::check(&NorMuonConfig::from(*config))
    }

    fn build(config: MuonConfig, dev: &dyn Device, spec: &SlabSpec) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(Self::new(config, dev, spec)?))
    }
}

/// Muon with NorMuon's variance reduction, for K matrices of R rows and S columns at once. With µ the momentum:
///
/// 1. buf = lerp(buf, G, 1−µ); X = lerp(G, buf, µ).
/// 2. `equilibrate`: each row of X to norm ‖X‖_F/√R.
/// 3. X = polar factor of X, near enough, by `steps` of Polar Express from X/(‖X‖_F·safety).
/// 4. `renormalize`: X to Frobenius norm √min(R, S).
/// 5. `variance_reduction`: rows (R ≥ S) or columns divided by the root of their running mean square, the norm kept.
/// 6. p −= lr·X + lr·wd·p, with `cautious` the second term only where X·p ≥ 0; lr includes √max(1, R/S).
///
/// # Shapes
/// Slabs of matrices. State in the master dtype: buf (K, R, S); second (K, R) if R ≥ S, else (K, S).
/// # Numerics
/// In the master dtype throughout; within 1e-5 of f64 over several steps (`tests/updates.rs`).
/// # Errors
/// [`Error::Unsuitable`] for parameters that are no matrices; [`Error::Slab`] for a slab of another shape.
/// # Cost
/// Per matrix and Polar Express step, with m = min(R, S), n = max(R, S): 4·m²·n + 2·m³ FLOPs. State 4 bytes per f32
/// element, scratch another 4 and what `polar_express` asks for.
/// # Source
/// Keller Jordan, Muon (2024); arXiv 2505.16932, 2510.05491, 2411.16085; nanochat.
pub struct NorMuon {
    config: NorMuonConfig,
    buf: Tensor,
    second: Option<Tensor>,
    x: Tensor,
    scratch: Tensor,
    /// √max(1, R/S).
    lr_factor: f64,
    /// p·(1 − lr·wd) − lr·x from old 0, input 0 and the scalars (lr, lr·wd).
    plain_update: Expr,
}

impl NorMuon {
    /// Zeroed state, and the scratch of a step, for one slab.
    ///
    /// # Errors
    /// [`Error::Value`] for numbers out of range; [`Error::Unsuitable`] for vectors; out of memory.
    pub fn new(config: NorMuonConfig, dev: &dyn Device, spec: &SlabSpec) -> Result<Self> {
        Self::check(&config)?;
        let [rows, cols] = *spec.shape else {
            return Err(Error::Unsuitable {
                uses: "normuon",
                group: spec.group.clone(),
                parameter: spec.names.first().cloned().unwrap_or_default(),
                shape: spec.shape,
                expected: "a matrix (R, S)",
            });
        };
        let shape = spec.stacked();
        let lines = [spec.params.len(), rows.max(cols)];
        let second = config.variance_reduction.then(|| dev.master(lines)).transpose()?;
        Ok(Self {
            config,
            buf: dev.master(shape)?,
            second,
            x: dev.master(shape)?,
            scratch: dev.master([dev.polar_express_scratch(shape)])?,
            lr_factor: (rows as f64 / cols as f64).max(1.0).sqrt(),
            plain_update: Expr::old(0)
                - Expr::scalar(1) * Expr::old(0)
                - Expr::scalar(0) * Expr::input(0),
        })
    }

    fn slab_shape(&self) -> Shape {
        self.buf.shape()
    }
}

impl OptimizerKind for NorMuon {
    type Config = NorMuonConfig;

    fn check(config: &NorMuonConfig) -> Result<()> {
        let safety = config.safety;
        within("safety", safety, safety >= 1.0 && safety.is_finite(), "safety is at least 1")?;
        let steps = 1..=POLAR_EXPRESS.len();
        within("steps", config.steps as f64, steps.contains(&config.steps), "1 to 5 steps")?;
        let beta2 = config.beta2;
        within("beta2", beta2, (0.0..1.0).contains(&beta2), "beta2 is at least 0 and below 1")
    }

    fn build(
        config: NorMuonConfig,
        dev: &dyn Device,
        spec: &SlabSpec,
    ) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(Self::new(config, dev, spec)?))
    }
}

impl Optimizer for NorMuon {
    fn step(&mut self, dev: &dyn Device, slab: &mut Slab<'_>, hyper: &Hyper) -> Result<()> {
        let (expected, got) = (self.slab_shape(), slab.weight.shape());
        if expected != got {
            return Err(Error::Slab { uses: "normuon", expected, got });
        }
        let config = &self.config;
        let x = &mut self.x;
        dev.nesterov(x.view_mut(), self.buf.view_mut(), slab.grad.view(), hyper.momentum)?;
        if config.equilibrate {
            dev.equilibrate_rows(x.view_mut())?;
        }
        let steps = &POLAR_EXPRESS[..config.steps];
        dev.polar_express(x.view_mut(), self.scratch.view_mut(), config.safety, steps)?;
        if config.renormalize {
            dev.renormalize(x.view_mut())?;
        }
        if let Some(second) = &mut self.second {
            dev.variance_reduce(x.view_mut(), second.view_mut(), config.beta2)?;
        }
        let lr = hyper.lr * self.lr_factor;
        let weight = slab.weight.reborrow();
        if config.cautious {
            dev.cautious_update(weight, x.view(), lr, hyper.weight_decay)?;
        } else {
            let scalars = [lr, lr * hyper.weight_decay];
            let plain = std::slice::from_ref(&self.plain_update);
            dev.map(plain, &mut [weight], &[x.view()], &scalars)?;
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<(String, &mut Tensor)> {
        let mut state = vec![("buf".to_owned(), &mut self.buf)];
        state.extend(self.second.as_mut().map(|second| ("second".to_owned(), second)));
        state
    }
}
