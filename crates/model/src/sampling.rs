//! From logits to the next token: what may be drawn, with which probability, and the draw.

use farthing_base::random::Stream;

use crate::{Error, Result};

/// How the next token is drawn. With z the logits, T the temperature and everything absent that can be, the probabilities are softmax(z / T).
///
/// In this order: the repetition penalty changes the logits of tokens that the text has already; temperature divides; `top_k` keeps the
/// most likely tokens; `top_p` and `min_p` keep, of what that leaves as probabilities that sum to 1, the fewest most likely tokens that make up `top_p`, and those
/// with at least `min_p` times the probability of the most likely one. A token has to be kept by all, and what is kept is normalised again. The most likely token is
/// always kept; among equals, lower ids are the more likely ones.
///
/// # Source
/// top-p: arXiv 1904.09751; min-p: arXiv 2407.01082; the penalty: arXiv 1909.05858.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampling {
    /// 0 takes the most likely token, the first of equals; 1 draws with the model's own probabilities.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens can be drawn, where given.
    pub top_k: Option<usize>,
    /// Only the fewest most likely tokens can be drawn whose probabilities sum to this, where given: above 0, at most 1.
    pub top_p: Option<f64>,
    /// Only tokens can be drawn that have this times the probability of the most likely one, where given: 0 to 1.
    pub min_p: Option<f64>,
    /// Positive logits of tokens that the text has are divided by this, negative ones multiplied: above 0; 1 changes nothing.
    pub repetition_penalty: Option<f64>,
    /// Draws depend on this and on the position, nothing else.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: None,
        top_p: None,
        min_p: None,
        repetition_penalty: None,
        seed: 0,
    };

    /// Whether these numbers make sense.
    ///
    /// # Errors
    /// [`Error::Generation`], with the number and what would be right.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String, hint: &str| Err(Error::Generation { what, hint: hint.into() });
        let Self { temperature, top_k, top_p, min_p, repetition_penalty, .. } = *self;
        if !temperature.is_finite() || temperature < 0.0 {
            let what = format!("temperature is {temperature}");
            let hint = "use 0 for the most likely token, 1 for the model's own probabilities";
            return refuse(what, hint);
        }
        if top_k == Some(0) {
            return refuse("top_k is 0".into(), "use at least 1, or leave it out");
        }
        if let Some(p) = top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return refuse(format!("top_p is {p}"), "use a share above 0 and at most 1");
        }
        if let Some(p) = min_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return refuse(format!("min_p is {p}"), "use a share between 0 and 1");
        }
        if let Some(r) = repetition_penalty.filter(|r| !(r.is_finite() && *r > 0.0)) {
            let hint = "use a number above 0: 1 changes nothing, above 1 repeats less";
            return refuse(format!("repetition_penalty is {r}"), hint);
        }
        Ok(())
    }
}

/// What a draw needs of memory, made once.
pub struct Sampler {
    /// Logits after the penalty.
    values: Vec<f64>,
    /// Tokens that the text has, while the penalty is dealt out.
    seen: Vec<bool>,
    /// All ids, in whatever order the last draw left them.
    ids: Vec<u32>,
}

/// Tokens that are looked at first to find the few that make up `top_p`.
const FEW: usize = 64;

impl Sampler {
    /// For a vocabulary of this size.
    pub fn new(vocab: usize) -> Self {
        Self {
            values: vec![0.0; vocab],
            seen: vec![false; vocab],
            ids: (0..vocab as u32).collect(),
        }
    }

    /// Draws the token at `position` after `text`.
    ///
    /// # Errors
    /// [`Error::Generation`] when `sampling` makes no sense, or the logits are not one per entry of the vocabulary.
    pub fn draw(
        &mut self,
        logits: &[f64],
        text: &[u32],
        sampling: &Sampling,
        position: usize,
    ) -> Result<u32> {
        let u = Stream::new(sampling.seed, "sampling").uniform(position as u64);
        self.pick(logits, text, sampling, u)
    }

    /// The tokens that can be drawn and their probabilities, in ascending order of ids.
    ///
    /// # Errors
    /// As [`Sampler::draw`].
    pub fn probabilities(
        &mut self,
        logits: &[f64],
        text: &[u32],
        sampling: &Sampling,
    ) -> Result<Vec<(u32, f64)>> {
        let (kept, top) = self.keep(logits, text, sampling)?;
        if sampling.temperature == 0.0 {
            return Ok(vec![(top, 1.0)]);
        }
        let weight = weight(&self.values, top, sampling.temperature);
        let total: f64 = self.ids[..kept].iter().map(|&id| weight(id)).sum();
        Ok(self.ids[..kept].iter().map(|&id| (id, weight(id) / total)).collect())
    }

    /// The token at `u` of the cumulative probabilities, in ascending order of ids.
    fn pick(&mut self, logits: &[f64], text: &[u32], sampling: &Sampling, u: f64) -> Result<u32> {
        let (kept, top) = self.keep(logits, text, sampling)?;
        if sampling.temperature == 0.0 {
            return Ok(top);
        }
        let weight = weight(&self.values, top, sampling.temperature);
        let kept = &self.ids[..kept];
        let total: f64 = kept.iter().map(|&id| weight(id)).sum();
        let mut left = u * total;
        for &id in kept {
            left -= weight(id);
            if left < 0.0 {
                return Ok(id);
            }
        }
        Ok(top)
    }

    /// Puts the ids that can be drawn in front, in ascending order; says how many they are, and which is the most likely.
    fn keep(&mut self, logits: &[f64], text: &[u32], sampling: &Sampling) -> Result<(usize, u32)> {
        sampling.check()?;
        if logits.len() != self.values.len() {
            let what = format!("{} logits for {} tokens", logits.len(), self.values.len());
            return Err(Error::Generation { what, hint: "give one per entry".into() });
        }
        self.values.copy_from_slice(logits);
        if let Some(penalty) = sampling.repetition_penalty.filter(|penalty| *penalty != 1.0) {
            self.penalise(text, penalty);
        }
        let Self { values, ids, .. } = self;
        let falling =
            |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
        let top = ids.iter().copied().min_by(falling).unwrap_or(0);
        if sampling.temperature == 0.0 {
            return Ok((0, top));
        }
        let mut kept = ids.len();
        if let Some(k) = sampling.top_k.filter(|k| *k < kept) {
            ids.select_nth_unstable_by(k, falling);
            kept = k;
        }
        let weight = weight(values, top, sampling.temperature);
        if let Some(share) = sampling.top_p.filter(|share| *share < 1.0) {
            // Ascending, so that the sum does not depend on what earlier draws left.
            ids[..kept].sort_unstable();
            let wanted = share * ids[..kept].iter().map(|&id| weight(id)).sum::<f64>();
            kept = few(&mut ids[..kept], wanted, falling, weight);
        }
        if let Some(share) = sampling.min_p {
            // The most likely token's weight is 1.
            let mut to = 0;
            for at in 0..kept {
                if weight(ids[at]) >= share {
                    ids.swap(to, at);
                    to += 1;
                }
            }
            kept = to.max(1);
        }
        ids[..kept].sort_unstable();
        Ok((kept, top))
    }

    fn penalise(&mut self, text: &[u32], penalty: f64) {
        let Self { values, seen, .. } = self;
        let tokens = || text.iter().map(|&id| id as usize);
        for id in tokens() {
            if seen.get(id) == Some(&false) {
                seen[id] = true;
                let value = &mut values[id];
                *value = if *value > 0.0 { *value / penalty } else { *value * penalty };
            }
        }
        for id in tokens() {
            if let Some(seen) = seen.get_mut(id) {
                *seen = false;
            }
        }
    }
}

/// exp of how far a token is below the most likely one.
fn weight(values: &[f64], top: u32, temperature: f64) -> impl Fn(u32) -> f64 + Copy + '_ {
    move |id| ((values[id as usize] - values[top as usize]) / temperature).exp()
}

/// Puts the fewest most likely ids in front whose weights make up `wanted`; says how many they are.
fn few(
    ids: &mut [u32],
    wanted: f64,
    falling: impl Fn(&u32, &u32) -> std::cmp::Ordering + Copy,
    weight: impl Fn(u32) -> f64,
) -> usize {
    let (mut sorted, mut sum) = (0, 0.0);
    while sorted < ids.len() {
        let more = (sorted.max(FEW)).min(ids.len() - sorted);
        let rest = &mut ids[sorted..];
        if more < rest.len() {
            rest.select_nth_unstable_by(more, falling);
        }
        rest[..more].sort_unstable_by(falling);
        for (i, &id) in rest[..more].iter().enumerate() {
            sum += weight(id);
            if sum >= wanted {
                return sorted + i + 1;
            }
        }
        sorted += more;
    }
    ids.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };

    /// Logits of a vocabulary larger than [`FEW`], some of them equal.
    fn logits() -> Vec<f64> {
        let stream = Stream::new(5, "logits");
        (0..200).map(|i| (4.0 * stream.normal(i)).round() / 2.0).collect()
    }

    /// The distribution as the documentation has it, in plain loops over all tokens, most likely first.
    fn exact(logits: &[f64], text: &[u32], s: &Sampling) -> Vec<f64> {
        let penalty = s.repetition_penalty.unwrap_or(1.0);
        let value = |id: usize| match (text.contains(&(id as u32)), logits[id] > 0.0) {
            (false, _) => logits[id],
            (true, true) => logits[id] / penalty,
            (true, false) => logits[id] * penalty,
        };
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| value(b).total_cmp(&value(a)).then(a.cmp(&b)));
        order.truncate(s.top_k.unwrap_or(order.len()));
        let weight = |id: usize| (value(id) / s.temperature).exp();
        let total: f64 = order.iter().map(|&id| weight(id)).sum();
        let (mut sum, most) = (0.0, weight(order[0]));
        let mut kept = Vec::new();
        for &id in &order {
            let in_top_p = s.top_p.is_none_or(|p| sum < p);
            if in_top_p && weight(id) >= s.min_p.unwrap_or(0.0) * most {
                kept.push(id);
            }
            sum += weight(id) / total;
        }
        let total: f64 = kept.iter().map(|&id| weight(id)).sum();
        let mut all = vec![0.0; logits.len()];
        for &id in &kept {
            all[id] = weight(id) / total;
        }
        all
    }

    fn settings() -> Vec<Sampling> {
        vec![
            PLAIN,
            Sampling { temperature: 0.5, ..PLAIN },
            Sampling { temperature: 3.0, ..PLAIN },
            Sampling { top_k: Some(1), ..PLAIN },
            Sampling { top_k: Some(7), ..PLAIN },
            Sampling { top_k: Some(1_000), ..PLAIN },
            Sampling { top_p: Some(0.9), ..PLAIN },
            Sampling { top_p: Some(1e-9), ..PLAIN },
            Sampling { top_p: Some(0.999), temperature: 5.0, ..PLAIN },
            Sampling { min_p: Some(0.1), ..PLAIN },
            Sampling { min_p: Some(1.0), ..PLAIN },
            Sampling { repetition_penalty: Some(1.7), ..PLAIN },
            Sampling { repetition_penalty: Some(0.5), ..PLAIN },
            Sampling {
                temperature: 0.8,
                top_k: Some(40),
                top_p: Some(0.95),
                min_p: Some(0.02),
                repetition_penalty: Some(1.1),
                seed: 3,
            },
        ]
    }

    /// Repeats, and ids that no vocabulary has.
    const TEXT: [u32; 7] = [3, 199, 3, 17, 42, u32::MAX, 5_000];

    #[test]
    fn what_can_be_drawn_is_the_documented_distribution() {
        let logits = logits();
        let mut sampler = Sampler::new(logits.len());
        // Twice, since draws leave the ids in another order.
        for _ in 0..2 {
            for sampling in settings() {
                let exact = exact(&logits, &TEXT, &sampling);
                let found = sampler.probabilities(&logits, &TEXT, &sampling).unwrap();
                assert!(found.is_sorted_by_key(|(id, _)| *id), "{sampling:?}");
                assert_eq!(found.len(), exact.iter().filter(|p| **p > 0.0).count(), "{sampling:?}");
                for (id, p) in found {
                    let error = (p - exact[id as usize]).abs();
                    assert!(error < 1e-12, "{sampling:?}: {id} has {p}, off by {error:e}");
                }
            }
        }
    }

    /// χ² over the tokens that come often enough; seeds are fixed, so that the bound is met always or never.
    #[test]
    fn draws_follow_the_exact_probabilities() {
        const DRAWS: usize = 20_000;
        let logits = logits();
        let mut sampler = Sampler::new(logits.len());
        for sampling in settings() {
            let exact = exact(&logits, &TEXT, &sampling);
            let mut counts = vec![0.0; logits.len()];
            for position in 0..DRAWS {
                let id = sampler.draw(&logits, &TEXT, &sampling, position).unwrap();
                counts[id as usize] += 1.0;
            }
            let (mut chi2, mut cells, mut rare) = (0.0, 0.0, [0.0, 0.0]);
            for (count, p) in counts.iter().zip(&exact) {
                let expected = p * DRAWS as f64;
                assert!(*p > 0.0 || *count == 0.0, "{sampling:?}: what is cut off was drawn");
                if expected < 10.0 {
                    rare = [rare[0] + count, rare[1] + expected];
                    continue;
                }
                chi2 += (count - expected).powi(2) / expected;
                cells += 1.0;
            }
            if rare[1] >= 10.0 {
                chi2 += (rare[0] - rare[1]).powi(2) / rare[1];
                cells += 1.0;
            }
            // Mean n − 1, standard deviation √(2(n − 1)).
            let freedom = (cells - 1.0f64).max(0.0);
            assert!(
                chi2 <= freedom + 4.0 * (2.0 * freedom).sqrt() + 1e-9,
                "{sampling:?}: {chi2} of {cells}"
            );
        }
    }

    #[test]
    fn at_temperature_0_the_first_of_the_most_likely_is_taken() {
        let mut sampler = Sampler::new(4);
        let equal = [1.0, 3.0, 3.0, 0.0];
        let greedy = Sampling { top_p: Some(0.1), ..Sampling::GREEDY };
        assert_eq!(sampler.draw(&equal, &[], &greedy, 0).unwrap(), 1);
        assert_eq!(sampler.probabilities(&equal, &[], &greedy).unwrap(), [(1, 1.0)]);
        let penalised = Sampling { repetition_penalty: Some(4.0), ..Sampling::GREEDY };
        assert_eq!(sampler.draw(&equal, &[1], &penalised, 0).unwrap(), 2);
        assert_eq!(sampler.draw(&equal, &[1, 2], &penalised, 0).unwrap(), 0);
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for wrong in [
            Sampling { temperature: -1.0, ..PLAIN },
            Sampling { temperature: f64::NAN, ..PLAIN },
            Sampling { top_k: Some(0), ..PLAIN },
            Sampling { top_p: Some(0.0), ..PLAIN },
            Sampling { top_p: Some(1.1), ..PLAIN },
            Sampling { top_p: Some(f64::NAN), ..PLAIN },
            Sampling { min_p: Some(-0.1), ..PLAIN },
            Sampling { min_p: Some(2.0), ..PLAIN },
            Sampling { repetition_penalty: Some(0.0), ..PLAIN },
            Sampling { repetition_penalty: Some(f64::INFINITY), ..PLAIN },
        ] {
            assert!(matches!(wrong.check(), Err(Error::Generation { .. })), "{wrong:?}");
        }
        assert!(Sampler::new(3).draw(&[0.0; 4], &[], &PLAIN, 0).is_err());
    }
}
