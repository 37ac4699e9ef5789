//! Finished cells, and those of one candidate at one point of the sweep together: mean and spread over the seeds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::answer::{self, Answer};
use super::bootstrap::{Interval, paired};
use super::cache::{Done, Place, Timing};
use super::plan::{Comparison, Kind, label};
use super::schedule::Failure;
use crate::bleu::Counts;
use crate::recipe::Study;

/// A finished cell with its figures.
#[derive(Clone, Debug)]
pub struct Cellular {
    /// What it is there for.
    pub kind: Kind,
    /// The candidate or control.
    pub candidate: String,
    /// The swept values.
    pub sweep: Vec<(String, toml::Value)>,
    /// The seed.
    pub seed: u64,
    /// Hash of recipe, inputs and version.
    pub key: String,
    /// Its files.
    pub place: Place,
    /// Its figures.
    pub done: Done,
    /// The report of its run.
    pub report: Value,
    /// How long it loads and runs.
    pub timing: Option<Timing>,
    /// BLEU against the untouched model, by split.
    pub bleu: BTreeMap<String, Interval>,
    counts: BTreeMap<String, Vec<Counts>>,
}

/// A metric over the seeds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the sample; absent of one seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
    /// Seeds.
    pub seeds: usize,
}

/// A candidate or control at one point of the sweep.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it is there for.
    pub kind: Kind,
    /// The candidate or control.
    pub candidate: String,
    /// The swept values.
    pub sweep: Vec<(String, toml::Value)>,
    /// Indices of its cells.
    pub cells: Vec<usize>,
    /// Bytes of the largest of its files.
    pub bytes: u64,
    /// The same after zstd.
    pub zstd_bytes: u64,
    /// Share of the prunable weights that are zero; absent where the file's report does not say.
    pub pruned: Option<f64>,
    /// Metrics by split and name.
    pub metrics: BTreeMap<String, Vec<(String, Spread)>>,
    /// BLEU against the untouched model, mean over the seeds, by split.
    pub bleu: BTreeMap<String, Interval>,
    /// Whether no other file is both smaller and better.
    pub pareto: bool,
}

impl Group {
    /// `class-blind, amount 80%`.
    pub fn label(&self) -> String {
        label(&self.candidate, &self.sweep)
    }

    /// A metric on a split.
    pub fn metric(&self, split: &str, name: &str) -> Option<Spread> {
        self.metrics.get(split)?.iter().find(|(n, _)| n == name).map(|(_, s)| *s).filter(|s| s.mean.is_finite())
    }
}

/// All figures of a study.
pub struct Results<'s> {
    /// The study.
    pub study: &'s Study,
    /// The cells: controls, then candidates, in the study's order.
    pub cells: Vec<Cellular>,
    /// The groups in the same order; the first is dense.
    pub groups: Vec<Group>,
    /// The split that quality is reported on.
    pub split: &'static str,
    /// The metric that the plots show: the budget's, or the first there is.
    pub metric: Option<String>,
    /// What the question's answer is.
    pub answer: Answer,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// What failed.
    pub failures: Vec<Failure>,
    /// Hashes of the inputs.
    pub inputs: BTreeMap<String, String>,
}

/// What the zstd-only control is: dense, through zstd.
fn zstd_of(dense: &Cellular, comparison: &Comparison<'_>, load: Option<f64>) -> Cellular {
    let taken = comparison.study.candidates.iter().any(|c| c.name == Kind::Zstd.name());
    let timing = dense.timing.zip(load).map(|(t, unpack)| Timing {
        load_seconds: t.load_seconds + unpack,
        load_cpu_seconds: t.load_cpu_seconds + unpack,
        ..t
    });
    Cellular {
        kind: Kind::Zstd,
        candidate: if taken { "zstd only (control)".into() } else { Kind::Zstd.name().into() },
        done: Done { bytes: dense.done.zstd_bytes, ..dense.done.clone() },
        timing,
        ..dense.clone()
    }
}

impl<'s> Results<'s> {
    /// Reads all finished cells. `unpack` is what undoing zstd costs, in seconds.
    pub fn read(comparison: &Comparison<'s>, failures: Vec<Failure>, unpack: Option<f64>) -> Option<Results<'s>> {
        let mut cells: Vec<Cellular> = Vec::new();
        for placed in &comparison.cells {
            let Some(done) = placed.place.read() else { continue };
            let report = std::fs::read_to_string(placed.place.report()).ok();
            let mut cell = Cellular {
                kind: placed.kind,
                candidate: placed.cell.candidate.clone(),
                sweep: placed.cell.sweep.clone(),
                seed: placed.cell.seed,
                key: placed.key.clone(),
                place: placed.place.clone(),
                done,
                report: report.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
                timing: placed.place.read_timing(),
                bleu: BTreeMap::new(),
                counts: placed.place.counts(),
            };
            if let Some(dense) = cells.first() {
                for (split, counts) in &cell.counts {
                    let interval = dense.counts.get(split).and_then(|base| paired(base, &[counts]));
                    cell.bleu.extend(interval.map(|i| (split.clone(), i)));
                }
            }
            cells.push(cell);
        }
        let dense = cells.first().filter(|c| c.kind == Kind::Dense)?;
        let after = cells.iter().position(|c| c.kind == Kind::Candidate).unwrap_or(cells.len());
        let zstd = zstd_of(dense, comparison, unpack);
        let split = if dense.done.metrics.test.is_empty() { "validation" } else { "test" };
        cells.insert(after, zstd);
        let groups = group(&cells);
        let study = comparison.study;
        let asked = study.budget.as_ref().map(|b| b.metric.clone());
        let metric = asked.or_else(|| {
            let there = groups[0].metrics.get(split)?;
            let preferred = ["bleu", "perplexity", "accuracy", "loss"];
            let first = preferred.iter().find(|p| there.iter().any(|(n, _)| n == *p)).map(|p| p.to_string());
            first.or_else(|| there.first().map(|(n, _)| n.clone()))
        });
        let mut results = Results {
            study,
            cells,
            groups,
            split,
            metric,
            answer: Answer::default(),
            notes: comparison.notes.clone(),
            failures,
            inputs: comparison.inputs.clone(),
        };
        results.mark_front();
        results.answer = answer::answer(&results.groups, study.budget.as_ref(), results.metric.as_deref(), split);
        Some(results)
    }

    /// The cells on the Pareto front of bytes and quality.
    fn mark_front(&mut self) {
        let Some(metric) = self.metric.clone() else { return };
        let points: Vec<Option<(u64, f64)>> = self
            .groups
            .iter()
            .map(|g| {
                let value = g.metric(self.split, &metric)?.mean;
                Some((g.bytes, if super::lower_is_better(&metric) { value } else { -value }))
            })
            .collect();
        for (group, own) in self.groups.iter_mut().zip(&points) {
            let Some((bytes, bad)) = own else { continue };
            let beaten = |(b, w): &(u64, f64)| (b < bytes && w <= bad) || (b <= bytes && w < bad);
            group.pareto = !points.iter().flatten().any(beaten);
        }
    }
}

/// Cells of one candidate at one point of the sweep, in the order of their first.
fn group(cells: &[Cellular]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        let same = |g: &&mut Group| g.kind == cell.kind && g.candidate == cell.candidate && g.sweep == cell.sweep;
        match groups.iter_mut().find(same) {
            Some(group) => group.cells.push(index),
            None => groups.push(Group {
                kind: cell.kind,
                candidate: cell.candidate.clone(),
                sweep: cell.sweep.clone(),
                cells: vec![index],
                bytes: 0,
                zstd_bytes: 0,
                pruned: None,
                metrics: BTreeMap::new(),
                bleu: BTreeMap::new(),
                pareto: false,
            }),
        }
    }
    for group in &mut groups {
        let mine: Vec<&Cellular> = group.cells.iter().map(|i| &cells[*i]).collect();
        group.bytes = mine.iter().map(|c| c.done.bytes).max().unwrap_or(0);
        group.zstd_bytes = mine.iter().map(|c| c.done.zstd_bytes).max().unwrap_or(0);
        group.pruned = pruned(&mine[0].report);
        for split in ["validation", "test"] {
            let of = |c: &Cellular| match split {
                "test" => c.done.metrics.test.clone(),
                _ => c.done.metrics.validation.clone(),
            };
            let spread = |name: &str| {
                let values = mine.iter().filter_map(|c| of(c).into_iter().find(|(n, _)| n == name).map(|(_, v)| v));
                spread(&values.collect::<Vec<_>>())
            };
            let all: Vec<(String, Spread)> =
                of(mine[0]).into_iter().map(|(name, _)| (name.clone(), spread(&name))).collect();
            if !all.is_empty() {
                group.metrics.insert(split.into(), all);
            }
            let counts: Vec<&[Counts]> = mine.iter().filter_map(|c| c.counts.get(split)).map(Vec::as_slice).collect();
            let base = cells[0].counts.get(split);
            if group.kind != Kind::Dense && group.kind != Kind::Zstd && counts.len() == mine.len() {
                let interval = match counts.len() {
                    1 => mine[0].bleu.get(split).copied(),
                    _ => base.and_then(|base| paired(base, &counts)),
                };
                group.bleu.extend(interval.map(|i| (split.to_string(), i)));
            }
        }
    }
    groups
}

fn spread(values: &[f64]) -> Spread {
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n.max(1) as f64;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    Spread { mean, deviation: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), seeds: n }
}

/// The share of the prunable weights that are zero, by the report's classes.
pub fn pruned(report: &Value) -> Option<f64> {
    let classes = report.get("classes")?.as_array()?;
    let sum = |key: &str| classes.iter().map(|c| c.get(key)?.as_u64()).sum::<Option<u64>>();
    let (pruned, weights) = (sum("pruned")?, sum("weights")?);
    (weights > 0).then(|| pruned as f64 / weights as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_that_of_the_sample() {
        assert_eq!(spread(&[2.0]), Spread { mean: 2.0, deviation: None, seeds: 1 });
        let three = spread(&[1.0, 2.0, 3.0]);
        assert_eq!((three.mean, three.deviation, three.seeds), (2.0, Some(1.0), 3));
    }

    #[test]
    fn the_pruned_share_is_of_all_classes() {
        let report = serde_json::json!({"classes": [{"weights": 10, "pruned": 5}, {"weights": 30, "pruned": 5}]});
        assert_eq!(pruned(&report), Some(0.25));
        assert_eq!(pruned(&serde_json::json!({"classes": []})), None);
        assert_eq!(pruned(&Value::Null), None);
    }
}
