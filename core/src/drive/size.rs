//! Sizes as amounts: how many weights must go so that the whole output has at most so many bytes.
//!
//! What a count of pruned weights takes is not guessed: for each count that is tried the weights are selected, coded by
//! the encode stages that follow, and surveyed, and the format says exactly how many bytes it would write. Bytes fall
//! nearly in proportion to the count, so a few tries, each from the line through those before it, reach the target.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::Run;
use crate::amount::Amount;
use crate::error::{Error, Result};
use crate::packing::encoder::value_coding;
use crate::packing::{Encoded, Encoder, Outlook};
use crate::plan::{PackWork, PruneWork, Work};
use crate::population::Populations;
use crate::progress::{Silent, Watch};
use crate::prune::{Pruned, Pruning};
use crate::recipe::{Amounts, Pattern};

/// The file may stay below the target by this share of it, where the model is so large that a try takes time.
const NEAR: f64 = 0.0005;
/// Populations up to this many weights are solved to the last weight.
const SMALL: u64 = 1 << 21;
/// Most tries.
const TRIES: usize = 64;

/// What a count of pruned weights leads to.
pub struct Trial {
    /// Weights that are asked to go.
    pub count: u64,
    /// Bytes of the output.
    pub bytes: u64,
    /// What the selection decided.
    pub pruned: Pruned,
    /// Why the selection is refused: a tensor would lose everything.
    pub refused: Option<Error>,
    /// What the encode stages that follow decided.
    pub encoded: Vec<Vec<Encoded>>,
}

impl Trial {
    /// Weights that are pruned.
    pub fn achieved(&self) -> u64 {
        self.pruned.parts.iter().map(|p| p.pruned).sum()
    }
}

/// A size as a problem.
pub struct Target<'a> {
    /// As the recipe says it.
    pub amount: &'a Amount,
    /// The most bytes that the output may have.
    pub bytes: u64,
    /// Weights that compete.
    pub weights: u64,
    /// Fewest weights that go together.
    pub group: u64,
    /// The first count to try.
    pub guess: u64,
    /// Bytes that the output falls by for each weight more, about.
    pub slope: f64,
}

impl Target<'_> {
    /// The fewest weights whose going brings the output below the target.
    pub fn solve(&self, mut attempt: impl FnMut(u64) -> Result<Trial>) -> Result<Trial> {
        // The last that is too large, the first that fits.
        let (mut over, mut fits): (Option<Trial>, Option<Trial>) = (None, None);
        let mut next = self.guess.min(self.weights);
        for attempts in 1.. {
            let trial = attempt(next)?;
            if trial.count == self.weights && trial.bytes > self.bytes {
                // To leave the last weights of a tensor out may take more bytes than to keep them.
                match self.largest_that_empties_nothing(over.take(), trial, &mut attempt)? {
                    (Some(best), _) if best.bytes <= self.bytes => fits = Some(best),
                    (best, why) => return Err(self.unreachable(best, why)),
                }
            } else {
                let side = if trial.bytes <= self.bytes { &mut fits } else { &mut over };
                *side = Some(trial);
            }
            if let Some(trial) = fits.take_if(|t| self.is_solved(over.as_ref(), t, attempts)) {
                return match self.largest_that_empties_nothing(over, trial, &mut attempt)? {
                    (Some(best), _) if best.bytes <= self.bytes => Ok(best),
                    (best, why) => Err(self.unreachable(best, why)),
                };
            }
            next = self.next(over.as_ref(), fits.as_ref(), attempts);
        }
        Err(Error::failed("no count was tried"))
    }

    fn is_solved(&self, over: Option<&Trial>, fits: &Trial, attempts: usize) -> bool {
        let adjacent = match over {
            Some(over) => {
                fits.count - over.count <= 1 || fits.achieved().saturating_sub(over.achieved()) <= self.group.max(1)
            }
            None => fits.count == 0,
        };
        let missing = (self.bytes - fits.bytes) as f64 / self.bytes.max(1) as f64;
        let near = self.weights > SMALL && missing <= NEAR;
        adjacent || near || attempts >= TRIES
    }

    /// The next count to try: where the line through what is known meets the target; each third time the middle.
    fn next(&self, over: Option<&Trial>, fits: Option<&Trial>, attempts: usize) -> u64 {
        let steps = |bytes: u64| (bytes as f64 / self.slope.max(1e-3) * 1.01) as u64 + 1;
        match (over, fits) {
            (Some(over), Some(fits)) => {
                let span = fits.count - over.count;
                let line = (over.bytes - self.bytes) as f64 / (over.bytes - fits.bytes).max(1) as f64;
                let at = if attempts.is_multiple_of(3) { span / 2 } else { (span as f64 * line).ceil() as u64 };
                over.count + at.clamp(1, (span - 1).max(1))
            }
            // Each further step in one direction is twice as long: the slope may be wrong.
            (Some(over), None) => {
                let step = steps(over.bytes - self.bytes).saturating_mul(1 << (attempts - 1).min(20));
                over.count.saturating_add(step).min(self.weights)
            }
            (None, Some(fits)) => {
                let step = steps(self.bytes - fits.bytes).saturating_mul(1 << (attempts - 1).min(20));
                fits.count.saturating_sub(step)
            }
            (None, None) => self.guess,
        }
    }

    /// The error that says what can be reached: the smallest file that leaves every tensor some of its weights.
    fn unreachable(&self, best: Option<Trial>, why: Option<Error>) -> Error {
        let (bytes, amount) = (self.bytes, self.amount);
        let reached = match &best {
            Some(best) => format!(
                "with {} of {} weights pruned the output has {} bytes, the least that was found",
                best.achieved(),
                self.weights,
                best.bytes
            ),
            None => "not one weight more can go".to_string(),
        };
        let why = why.map(|why| format!("; beyond that, {why}")).unwrap_or_default();
        Error::failed(format!("the amount \"{amount}\" ({bytes} bytes) cannot be reached: {reached}{why}"))
    }

    /// `last`, or where that is refused the largest count below it that is not, and why it was refused. `low`: a count
    /// below.
    fn largest_that_empties_nothing(
        &self,
        low: Option<Trial>,
        mut last: Trial,
        attempt: &mut impl FnMut(u64) -> Result<Trial>,
    ) -> Result<(Option<Trial>, Option<Error>)> {
        let Some(why) = last.refused.take() else { return Ok((Some(last), None)) };
        let mut best = low.filter(|t| t.refused.is_none());
        let (mut low, mut high) = (best.as_ref().map_or(0, |t| t.count), last.count);
        let near = if self.weights > SMALL { self.weights >> 12 } else { 1 };
        while high - low > near {
            let trial = attempt(low + (high - low) / 2)?;
            if trial.refused.is_none() {
                (low, best) = (trial.count, Some(trial));
            } else {
                high = trial.count;
            }
        }
        Ok((best, Some(why)))
    }
}

/// What a size came to.
pub(super) struct Solved {
    /// For the report.
    pub asked: Map<String, Value>,
    /// For the reader.
    pub warnings: Vec<String>,
    /// What the encode stages that follow will do.
    pub ahead: VecDeque<Vec<Encoded>>,
}

impl<'p> Run<'p> {
    /// The most bytes that the output may have, where a stage aims at that.
    pub(super) fn target_bytes<'w>(&self, work: &PruneWork<'w>) -> Option<(&'w Amount, u64)> {
        match &work.stage.amount {
            Some(Amounts::All(amount)) => Some((amount, amount.target_bytes(self.plan.model.bytes())?)),
            _ => None,
        }
    }

    /// Prunes as many weights as must go, or that portion of them.
    pub(super) fn prune_to_size(
        &self,
        work: &PruneWork<'_>,
        job: &Pruning<'_>,
        amount: &Amount,
        bytes: u64,
    ) -> Result<(Pruned, Option<Solved>)> {
        let populations = |count: u64| {
            let count = i128::from(count);
            Populations::new(job.map, &work.parts, work.stage.scheme, &Amounts::All(Amount::from_integer(count)?))
        };
        let prepared = job.prepare(&populations(0)?)?;
        let following = self.following();
        let (guess, slope) = self.guess(work, &following, bytes);
        let weights = work.parts.iter().map(|p| self.plan.map.parts[*p].spec.weights()).sum();
        let target = Target { amount, bytes, weights, group: self.group(work), guess, slope };
        let mut tries = 0;
        let trial = target.solve(|count| {
            tries += 1;
            self.watch.progress.note(&format!("try {tries}"));
            self.trial(job, job.select(&populations(count)?, &prepared)?, count, &following)
        })?;
        let mut solved = Solved { asked: Map::new(), warnings: Vec::new(), ahead: trial.encoded.into() };
        solved.asked.insert("bytes".into(), bytes.into());
        if self.plan.implied.is_some() {
            solved.warnings.push("no encode stage follows the size, so encode = \"auto\" is implied".into());
        }
        if trial.count == 0 {
            solved.warnings.push(format!(
                "the output has {} bytes with no weight pruned, so nothing is pruned for the target of {bytes} bytes",
                trial.bytes
            ));
        }
        if job.portion < 1.0 {
            let count = (trial.count as f64 * job.portion + 0.5) as u64;
            solved.ahead.clear();
            return Ok((job.finish(job.select(&populations(count)?, &prepared)?)?, Some(solved)));
        }
        Ok((job.finish(trial.pruned)?, Some(solved)))
    }

    /// The encode stages that are still to come.
    fn following(&self) -> Vec<&'p PackWork<'p>> {
        let coming = self.plan.stages[self.report.stages.len()..].iter().filter_map(|p| match &p.work {
            Work::Pack(work) => Some(work),
            _ => None,
        });
        coming.chain(self.plan.implied.iter().map(|(work, _)| work)).collect()
    }

    fn trial(&self, job: &Pruning<'_>, pruned: Pruned, count: u64, following: &[&PackWork<'_>]) -> Result<Trial> {
        let (mut weights, mut held) = (self.weights.clone(), self.held.clone());
        for (tensor, rule) in &pruned.rules {
            weights.tensors[*tensor].add(rule.clone());
            held.insert(*tensor);
        }
        let watch = Watch { progress: &Silent, ..self.watch };
        let mut encoded = Vec::new();
        for work in following {
            let encoder = Encoder { weights: &weights, map: &self.plan.map, held: &held, packer: &self.packer, watch };
            let done = encoder.run(work.stage, &work.tensors)?;
            for one in &done {
                if let Some(state) = &one.state {
                    weights.tensors[one.tensor] = state.clone();
                }
            }
            encoded.push(done);
        }
        let bytes = Outlook::of(&self.packer, &weights, &self.like()?, watch)?.bytes;
        let refused = job.refuse_empty(&pruned).err();
        Ok(Trial { count, bytes, pruned, refused, encoded })
    }

    /// Fewest weights that go together.
    fn group(&self, work: &PruneWork<'_>) -> u64 {
        let specs = work.parts.iter().map(|p| &self.plan.map.parts[*p].spec);
        let group = specs.map(|spec| match work.stage.pattern {
            Pattern::Row => spec.cols,
            Pattern::Column => spec.rows,
            // The blocks at the edges are smaller.
            Pattern::Block { .. } | Pattern::Free | Pattern::NofM { .. } => 1,
        });
        group.min().unwrap_or(1)
    }

    /// About how many weights must go, and by how many bytes each makes the output smaller: all parts pruned alike, each
    /// tensor under the smaller of mask and Rice code.
    fn guess(&self, work: &PruneWork<'_>, following: &[&PackWork<'_>], bytes: u64) -> (u64, f64) {
        let (map, infos) = (&self.plan.map, self.plan.model.tensors());
        let mut fixed = self.plan.model.bytes() as f64;
        // (weights that go, all, dense bytes, bits of a value) of each tensor that is packed.
        let mut tensors: Vec<(f64, f64, f64, f64)> = Vec::new();
        for (id, info) in infos.iter().enumerate() {
            let Some(coding) = following.iter().rev().find(|w| w.tensors.contains(&id)) else { continue };
            let parts = map.part_range(id).filter(|p| work.parts.binary_search(p).is_ok());
            let weights: u64 = parts.map(|p| map.parts[p].spec.weights()).sum();
            let bits = value_coding(coding.stage.values).map_or(u64::from(info.dtype.bits()), |v| v.bits(&info.dtype));
            fixed -= info.stored_bytes as f64;
            tensors.push((weights as f64, info.elements as f64, info.dense_bytes() as f64, bits as f64));
        }
        let size = |share: f64| {
            let one = |(weights, all, dense, bits): &(f64, f64, f64, f64)| {
                let kept = all - weights * share;
                let mask = all / 8.0 + kept * bits / 8.0;
                // A rest of l bits, a one, and as many zeros as gaps of this mean have (they are geometric).
                let gap = |l: i32| {
                    let far = (1.0 - kept / all).powi(1 << l);
                    f64::from(l) + 1.0 + far / (1.0 - far).max(1e-9)
                };
                let rice = kept * (bits + (1..=8).map(gap).fold(f64::INFINITY, f64::min)) / 8.0;
                dense.min(mask).min(rice)
            };
            fixed.max(0.0) + tensors.iter().map(one).sum::<f64>()
        };
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if size(middle) > bytes as f64 { low = middle } else { high = middle }
        }
        let all: f64 = work.parts.iter().map(|p| map.parts[*p].spec.weights() as f64).sum();
        let near = (high - 0.01).max(0.0);
        let slope = (size(near) - size(high)) / ((high - near) * all).max(1.0);
        ((high * all).ceil() as u64, slope.clamp(0.01, 9.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(count: u64, bytes: u64, refused: bool) -> Trial {
        let parts = vec![crate::prune::PartCount { part: 0, weights: 1000, before: 0, pruned: count }];
        let pruned = Pruned { parts, ..Pruned::default() };
        let refused = refused.then(|| Error::failed("\"w\" would lose all"));
        Trial { count, bytes, pruned, refused, encoded: Vec::new() }
    }

    /// Solves for 1000 weights; `size` gives bytes, and whether a tensor is emptied. The count and how many tries.
    fn solve(bytes: u64, guess: u64, size: impl Fn(u64) -> (u64, bool)) -> (Result<u64>, usize) {
        let amount = Amount::from_text(&format!("{bytes}B")).unwrap();
        let target = Target { amount: &amount, bytes, weights: 1000, group: 1, guess, slope: 4.0 };
        let mut tries = 0;
        let found = target.solve(|count| {
            tries += 1;
            let (bytes, refused) = size(count);
            Ok(trial(count, bytes, refused))
        });
        (found.map(|t| t.count), tries)
    }

    #[test]
    fn the_fewest_weights_go_from_any_guess() {
        let kinked = |k: u64| (if k < 100 { 4000 } else { 4500 - 4 * k - k / 3 }, k == 1000);
        for bytes in [200, 500, 1000, 1001, 2500, 3999, 4000, 5000] {
            let meant = (0..1000).find(|k| kinked(*k).0 <= bytes).unwrap();
            for guess in [0, 1, 500, 990, 1000] {
                let (found, tries) = solve(bytes, guess, kinked);
                assert_eq!(found.unwrap(), meant, "{bytes} from {guess}");
                assert!(tries < 30, "{bytes} from {guess}: {tries}");
            }
        }
    }

    #[test]
    fn an_emptied_tensor_may_take_more_bytes_than_one_with_a_weight() {
        let size = |k: u64| (if k == 1000 { 700 } else { 1500 - k }, k == 1000);
        for guess in [0, 700, 1000] {
            assert_eq!(solve(600, guess, size).0.unwrap(), 900);
            assert_eq!(solve(501, guess, size).0.unwrap(), 999);
        }
    }

    #[test]
    fn what_can_be_reached_is_said() {
        let size = |k: u64| (5000 - 4 * k, k > 950);
        for guess in [0, 500, 1000] {
            let error = solve(1100, guess, size).0.unwrap_err().to_string();
            let words = "with 950 of 1000 weights pruned the output has 1200 bytes";
            assert!(error.contains(words) && error.contains("lose all"), "{error}");
            let error = solve(900, guess, size).0.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = solve(900, 10, |k| (5000 - 4 * k, false)).0.unwrap_err().to_string();
        assert!(
            error.ends_with("with 1000 of 1000 weights pruned the output has 1000 bytes, the least that was found")
        );
    }
}
