//! The loss curve as numbers: smoothed, thinned, and with its axes chosen. It draws nothing.

use farthing_train::{EvalRecord, StepRecord};

/// Points of a line at most; a screen shows no more.
pub(super) const MOST_POINTS: usize = 2_000;

/// A training's losses, ready to draw. Steps are x, nats per token y.
#[derive(Debug)]
pub(super) struct Curve {
    /// Each step's loss; long runs keep the extremes of each stretch.
    pub(super) raw: Vec<(f64, f64)>,
    /// A moving average.
    pub(super) smooth: Vec<(f64, f64)>,
    /// Held-out loss, in the unit of the left axis.
    pub(super) held_out: Vec<(f64, f64)>,
    /// Bits per byte that one nat per token stands for: the scale of the right axis.
    pub(super) bpb_per_nat: Option<f64>,
    /// The learning rate.
    pub(super) lr: Vec<(f64, f64)>,
    /// The last step.
    pub(super) last_step: f64,
    /// From the least to the greatest loss that is drawn, with some room.
    pub(super) range: (f64, f64),
    /// Whether the y axis is logarithmic.
    pub(super) log: bool,
}

impl Curve {
    /// The curve of a run, if it has at least two steps with a loss.
    pub(super) fn new(steps: &[StepRecord], evals: &[EvalRecord]) -> Option<Self> {
        let points = |of: fn(&StepRecord) -> Option<f64>| -> Vec<(f64, f64)> {
            steps.iter().filter_map(|s| Some((s.step as f64, of(s)?))).collect()
        };
        let all = points(|s| s.loss.and_then(drawable));
        if all.len() < 2 {
            return None;
        }
        let smooth = smoothed(&all);
        let bpb_per_nat = scale(evals, &smooth);
        let held_out: Vec<_> = evals
            .iter()
            .filter_map(|e| {
                let loss = match bpb_per_nat {
                    Some(k) => e.val_bpb.map(|bpb| bpb / k),
                    None => e.val_loss,
                };
                Some((e.step as f64, drawable(loss?)?))
            })
            .collect();
        let drawn = || all.iter().chain(&held_out).map(|p| p.1);
        let low = drawn().fold(f64::INFINITY, f64::min);
        let high = drawn().fold(f64::NEG_INFINITY, f64::max);
        let log = low > 0.0 && high / low > 2.5;
        let last = |points: &[(f64, f64)]| points.last().map_or(0.0, |p| p.0);
        Some(Self {
            raw: extremes(&all),
            smooth: thinned(&smooth),
            lr: thinned(&points(|s| s.lr.and_then(drawable))),
            last_step: last(&all).max(last(&held_out)).max(1.0),
            range: roomy(low, high, log),
            held_out,
            bpb_per_nat,
            log,
        })
    }

    /// Where a loss lies on the y axis.
    pub(super) fn y(&self, loss: f64) -> f64 {
        if self.log { loss.ln() } else { loss }
    }

    /// The loss at a place on the y axis.
    pub(super) fn loss(&self, y: f64) -> f64 {
        if self.log { y.exp() } else { y }
    }

    /// At most about `most` round values of `loss · scale` inside the axis.
    pub(super) fn ticks(&self, scale: f64, most: usize) -> Vec<f64> {
        let (low, high) = (self.range.0 * scale, self.range.1 * scale);
        if self.log { log_ticks(low, high, most) } else { linear_ticks(low, high, most) }
    }
}

/// Losses and rates beyond this are drawn as this, and those that are nearer to 0 than one over it as 0: an axis has room for so many
/// decades, and none for infinitely many.
const MOST: f64 = 1e12;

/// A figure as it is drawn; none for what is no number.
pub(in crate::stages) fn drawable(x: f64) -> Option<f64> {
    if x.is_nan() {
        return None;
    }
    Some(if x.abs() < 1.0 / MOST { 0.0 } else { x.clamp(-MOST, MOST) })
}

/// Bits per byte for one nat per token: what most evaluations say, or, where they give no loss, what puts the last one on
/// the training curve.
fn scale(evals: &[EvalRecord], smooth: &[(f64, f64)]) -> Option<f64> {
    // A byte is no thousand tokens, nor a token a million bytes.
    let positive = |x: f64| (1e-6..1e6).contains(&x).then_some(x);
    let ratio = |e: &EvalRecord| positive(e.val_bpb? / e.val_loss?);
    let mut ratios: Vec<f64> = evals.iter().filter_map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    if let Some(&k) = ratios.get(ratios.len() / 2) {
        return Some(k);
    }
    let last = evals.iter().rev().find_map(|e| e.val_bpb)?;
    positive(last / smooth.last()?.1)
}

/// Moving average over about a fiftieth of the run. The window shrinks towards the start, so that the steep first steps stay steep.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 100).clamp(2, 500);
    let mut sums = Vec::with_capacity(points.len() + 1);
    let mut sum = 0.0;
    sums.push(sum);
    for point in points {
        sum += point.1;
        sums.push(sum);
    }
    let average = |i: usize| {
        let from = i - half.min(i);
        let to = (i + half.min(i)).min(points.len() - 1);
        (points[i].0, (sums[to + 1] - sums[from]) / (to + 1 - from) as f64)
    };
    (0..points.len()).map(average).collect()
}

/// Evenly spread points, both ends kept.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    super::model::spread(points, MOST_POINTS).into_iter().copied().collect()
}

/// The least and the greatest point of each of many stretches, in order, so that no spike is lost.
fn extremes(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretches = MOST_POINTS / 2;
    let mut out = Vec::with_capacity(MOST_POINTS);
    for i in 0..stretches {
        let stretch = &points[i * points.len() / stretches..(i + 1) * points.len() / stretches];
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let ends = stretch.iter().min_by(by).zip(stretch.iter().max_by(by));
        if let Some((&low, &high)) = ends {
            out.extend(if low.0 <= high.0 { [low, high] } else { [high, low] });
        }
    }
    out
}

fn roomy(low: f64, high: f64, log: bool) -> (f64, f64) {
    if log {
        let room = (high / low).powf(0.06);
        return (low / room, high * room);
    }
    let room = (0.06 * (high - low)).max(1e-3 * high.abs()).max(1e-9);
    (low - room, high + room)
}

/// Multiples of 1, 2 or 5 times a power of ten, about `most` of them.
pub(in crate::stages) fn linear_ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let span = high - low;
    if !(span.is_finite() && span > 0.0) || most == 0 {
        return Vec::new();
    }
    let rough = span / most as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    // Rounding may give one more; never many, whatever the numbers are.
    (first..=last).take(2 * most + 2).map(|i| i as f64 * step).collect()
}

/// Round values on a logarithmic axis: the finest set that is not too many.
pub(in crate::stages) fn log_ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    const SETS: [&[f64]; 5] = [
        &[1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
        &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
        &[1.0, 2.0, 5.0],
        &[1.0],
    ];
    let mut ticks = Vec::new();
    if !(low > 0.0 && high > low && high.is_finite()) {
        return ticks;
    }
    for set in SETS {
        ticks.clear();
        for power in low.log10().floor() as i32..=high.log10().ceil() as i32 {
            let values = set.iter().map(|m| m * 10f64.powi(power));
            ticks.extend(values.filter(|v| (low..=high).contains(v)));
        }
        if ticks.len() <= most {
            break;
        }
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(n: u64, loss: impl Fn(u64) -> f64) -> Vec<StepRecord> {
        let step = |i| StepRecord {
            step: i,
            loss: Some(loss(i)),
            lr: Some(0.02),
            ..StepRecord::default()
        };
        (0..n).map(step).collect()
    }

    #[test]
    fn a_long_run_is_thinned_and_keeps_its_spike() {
        let curve =
            Curve::new(&steps(100_000, |i| if i == 54_321 { 9.0 } else { 3.0 }), &[]).unwrap();
        assert!(curve.raw.len() <= MOST_POINTS && curve.smooth.len() <= MOST_POINTS);
        assert!(curve.raw.contains(&(54_321.0, 9.0)));
        assert_eq!(curve.smooth.last().map(|p| p.0), Some(99_999.0));
        assert!(curve.raw.is_sorted_by(|a, b| a.0 <= b.0));
    }

    #[test]
    fn smoothing_keeps_the_start_and_a_straight_line() {
        let points: Vec<_> = (0..300).map(|i| (i as f64, 10.0 - 0.01 * i as f64)).collect();
        let smooth = smoothed(&points);
        assert_eq!(smooth[0], points[0]);
        for (s, p) in smooth.iter().zip(&points).take(290) {
            assert!((s.1 - p.1).abs() < 1e-9);
        }
    }

    #[test]
    fn too_little_is_no_curve_and_gaps_are_left_out() {
        assert!(Curve::new(&steps(1, |_| 3.0), &[]).is_none());
        let curve = Curve::new(&steps(5, |i| if i == 2 { f64::NAN } else { 3.0 }), &[]).unwrap();
        assert_eq!(curve.raw.len(), 4);
    }

    #[test]
    fn the_right_axis_is_the_left_one_in_bits_per_byte() {
        let eval = |step, bpb, loss| EvalRecord { step, val_bpb: Some(bpb), val_loss: loss };
        let evals = [eval(0, 3.0, Some(10.0)), eval(9, 1.2, Some(4.0))];
        let curve = Curve::new(&steps(10, |i| 10.0 - 0.6 * i as f64), &evals).unwrap();
        assert!((curve.bpb_per_nat.unwrap() - 0.3).abs() < 1e-12);
        assert!((curve.held_out[1].1 - 4.0).abs() < 1e-12);
        let evals = [eval(9, 1.2, None)];
        let curve = Curve::new(&steps(10, |_| 4.0), &evals).unwrap();
        assert!((curve.held_out[0].1 - 4.0).abs() < 1e-12);
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(linear_ticks(0.0, 1_234.0, 5), [0.0, 500.0, 1_000.0]);
        assert_eq!(log_ticks(1.9, 7.2, 8), [2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(log_ticks(1.9, 7.2, 6), [2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(log_ticks(1.9, 7.2, 4), [2.0, 3.0, 5.0, 7.0]);
        assert!(linear_ticks(1.0, 1.0, 5).is_empty());
        for (low, high) in [(0.0, 1.0), (1.0, f64::INFINITY), (f64::NAN, 1.0), (-1.0, 2.0)] {
            assert!(log_ticks(low, high, 8).is_empty(), "{low} {high}");
        }
        assert!(log_ticks(f64::MIN_POSITIVE, f64::MAX, 8).len() < 1_000);
        assert!(linear_ticks(1e15, 1e15 + 0.25, 5).len() < 20);
    }

    #[test]
    fn whatever_the_figures_the_axes_are_short() {
        let extremes = [1e-300, 1e300, f64::MAX, -1e300, 0.0, f64::INFINITY, 5e-324, 3.0];
        for a in extremes {
            for b in extremes {
                let eval = |step, x| EvalRecord { step, val_bpb: Some(x), val_loss: Some(a) };
                let both = |i| if i == 0 { a } else { b };
                let mut all = steps(3, both);
                for step in &mut all {
                    step.lr = Some(b);
                }
                let curve = Curve::new(&all, &[eval(1, a), eval(u64::MAX, b)]).unwrap();
                assert!(curve.range.0.is_finite() && curve.range.1.is_finite(), "{a} {b}");
                assert!(curve.range.0 < curve.range.1, "{a} {b}");
                let scale = curve.bpb_per_nat.unwrap_or(1.0);
                assert!(curve.ticks(1.0, 8).len() + curve.ticks(scale, 8).len() < 100, "{a} {b}");
                super::super::chart::standalone(&curve).unwrap();
            }
        }
    }
}
