//! One pruning stage: scores, selection under scheme, amount and pattern, and the rules that result. Nothing is
//! written here but spooled scores.

use std::sync::Arc;

use compress_sdk::{Reach, Units};

use crate::class::resolve::ClassMap;
use crate::error::{Error, Result};
use crate::glob;
use crate::pattern;
use crate::population::{Population, PopulationKeys, Populations, deviations, places, score_rms};
use crate::progress::{Unit, Watch};
use crate::recipe::{MethodStage, Pattern, Scheme};
use crate::select::{KeyCut, Norm, select};
use crate::spool::Spooled;
use crate::tensor::TensorId;
use crate::weights::{Keys, PartPlace, Rule, Scoring, Weights};

/// What a stage works with.
pub struct Pruning<'a> {
    /// The weights before the stage.
    pub weights: &'a Weights<'a>,
    /// The classes.
    pub map: &'a ClassMap,
    /// The stage.
    pub stage: &'a MethodStage,
    /// The parts that it works on.
    pub parts: &'a [usize],
    /// The method.
    pub scoring: Arc<Scoring>,
    /// What the method must see at once.
    pub reach: Reach,
    /// Units of its scores.
    pub units: Units,
    /// Beside which path temp files may lie.
    pub output: &'a std::path::Path,
    /// How much of the amount is meant, from 0 to 1: a step of a schedule.
    pub portion: f64,
    /// Progress and cancellation.
    pub watch: Watch<'a>,
}

/// What a stage decided.
#[derive(Default)]
pub struct Pruned {
    /// The rules to add, by tensor.
    pub rules: Vec<(TensorId, Rule)>,
    /// What happened to each part that the stage worked on.
    pub parts: Vec<PartCount>,
    /// Pruned weights of each block ([`cut_blocks`](crate::population::cut_blocks)) of tensors that are one part.
    pub blocks: Vec<(TensorId, Vec<u64>)>,
    /// Parts of the stage's classes that had no amount.
    pub without_amount: Vec<usize>,
    /// How many weights the recipe asks for in total; `None` for n:m.
    pub asked: Option<u64>,
    /// Warnings for the reader.
    pub warnings: Vec<String>,
}

/// What a selection needs of a population.
pub struct Prepared {
    places: Vec<PartPlace>,
    keys: Arc<dyn Keys>,
    norms: Vec<Norm>,
}

/// Counts of a part.
#[derive(Clone, Copy, Debug)]
pub struct PartCount {
    /// Index into [`ClassMap::parts`].
    pub part: usize,
    /// Its weights.
    pub weights: u64,
    /// Zero before the stage.
    pub before: u64,
    /// Pruned after it.
    pub pruned: u64,
}

impl Pruning<'_> {
    /// Decides what goes.
    pub fn run(&self) -> Result<Pruned> {
        let selected = self.parts;
        let mut done = Pruned::default();
        if let Pattern::NofM { n, m } = self.stage.pattern {
            let places = places(self.weights.model, self.map, selected);
            let keys = self.keys(&places)?;
            self.watch.progress.begin("selecting", total(&places), Unit::Count);
            let masks = pattern::n_of_m(self, keys.as_ref(), selected, &places, n, m)?;
            self.watch.progress.end();
            done.rules = masks.rules;
            done.parts = masks.parts;
        } else {
            let amounts = self.stage.amount.as_ref().ok_or_else(|| Error::usage("\"amount\" is missing"))?;
            let mut populations = Populations::new(self.map, selected, self.stage.scheme, amounts)?;
            if self.portion < 1.0 {
                for population in &mut populations.list {
                    population.target = (population.target as f64 * self.portion + 0.5) as u64;
                }
            }
            let prepared = self.prepare(&populations)?;
            done = self.select(&populations, &prepared)?;
        }
        self.finish(done)
    }

    /// Scores and normalisations of each population, which do not depend on how many weights go.
    pub fn prepare(&self, populations: &Populations) -> Result<Vec<Prepared>> {
        let prepare = |population: &Population| {
            let places = places(self.weights.model, self.map, &population.parts);
            let keys = self.keys(&places)?;
            let norms = self.norms(keys.as_ref(), &places)?;
            Ok(Prepared { places, keys, norms })
        };
        populations.list.iter().map(prepare).collect()
    }

    /// Selects within each population.
    pub fn select(&self, populations: &Populations, prepared: &[Prepared]) -> Result<Pruned> {
        let mut done = Pruned {
            rules: Vec::new(),
            parts: Vec::new(),
            blocks: Vec::new(),
            without_amount: populations.without_amount.clone(),
            asked: Some(populations.list.iter().map(|p| p.target).sum()),
            warnings: Vec::new(),
        };
        for (population, Prepared { places, keys, norms }) in populations.list.iter().zip(prepared) {
            let (target, parts) = (population.target, &population.parts);
            self.watch.progress.begin("selecting", total(places), Unit::Count);
            if self.stage.pattern == Pattern::Free {
                self.free(&mut done, target, parts, places.clone(), keys.clone(), norms)?;
            } else {
                let groups = pattern::groups(self, keys.as_ref(), parts, places, norms, target)?;
                done.rules.extend(groups.rules);
                done.parts.extend(groups.parts);
            }
            self.watch.progress.end();
        }
        done.parts.sort_by_key(|p| p.part);
        merge_rules(&mut done.rules);
        Ok(done)
    }

    /// Checks what was selected.
    pub fn finish(&self, mut done: Pruned) -> Result<Pruned> {
        done.parts.sort_by_key(|p| p.part);
        merge_rules(&mut done.rules);
        self.refuse_empty(&done)?;
        self.warn_of_starved_classes(&mut done);
        Ok(done)
    }

    /// The keys of the places: scored on demand for methods of reach `weight`, else scored once into a file.
    fn keys(&self, places: &[PartPlace]) -> Result<Arc<dyn Keys>> {
        if self.reach == Reach::Weight {
            return Ok(self.scoring.clone());
        }
        self.watch.progress.begin("scoring", total(places), Unit::Count);
        let spooled = Spooled::score(self, places)?;
        self.watch.progress.end();
        Ok(Arc::new(spooled))
    }

    fn norms(&self, keys: &dyn Keys, places: &[PartPlace]) -> Result<Vec<Norm>> {
        if self.stage.scheme != Scheme::ClassDistribution {
            return Ok(vec![Norm::Plain; places.len()]);
        }
        self.watch.progress.begin("measuring the classes", total(places), Unit::Count);
        let sigmas = match self.units {
            Units::Magnitude => deviations(self.weights, places, self.watch)?,
            Units::Other => score_rms(self.weights, keys, places, self.watch)?,
        };
        self.watch.progress.end();
        Ok(sigmas.into_iter().map(Norm::By).collect())
    }

    fn free(
        &self,
        done: &mut Pruned,
        target: u64,
        parts: &[usize],
        places: Vec<PartPlace>,
        keys: Arc<dyn Keys>,
        norms: &[Norm],
    ) -> Result<()> {
        let stream = PopulationKeys::new(self.weights, keys.as_ref(), &places, norms, self.watch);
        let selected = select(&stream, target)?;
        let (before, pruned) = (stream.by_place(&selected.zeros), stream.by_place(&selected.pruned));
        for (i, part) in parts.iter().enumerate() {
            let weights = places[i].len();
            done.parts.push(PartCount { part: *part, weights, before: before[i], pruned: pruned[i] });
            if weights == self.weights.model.tensors()[places[i].tensor].elements {
                done.blocks.push((places[i].tensor, stream.of_place(i, &selected.pruned)));
            }
        }
        for (place, norm) in places.into_iter().zip(norms) {
            let tensor = place.tensor;
            let cuts = Arc::new(vec![(place, selected.cut.for_norm(*norm))]);
            done.rules.push((tensor, Rule::Cut(keys.clone(), cuts)));
        }
        Ok(())
    }

    /// A tensor that had weights and is left with none is an error unless the recipe allows it.
    pub fn refuse_empty(&self, done: &Pruned) -> Result<()> {
        let mut by_tensor = std::collections::BTreeMap::<TensorId, (u64, u64, u64)>::new();
        for count in &done.parts {
            let sums = by_tensor.entry(self.map.parts[count.part].tensor).or_default();
            *sums = (sums.0 + count.weights, sums.1 + count.before, sums.2 + count.pruned);
        }
        for (tensor, (_, before, pruned)) in by_tensor {
            let info = &self.weights.model.tensors()[tensor];
            let whole = self.map.parts.iter().filter(|p| p.tensor == tensor).map(|p| p.spec.weights()).sum::<u64>();
            let allowed = self.stage.allow_empty.iter().any(|g| glob::matches(g, &info.name));
            if pruned == whole && before < whole && !allowed {
                return Err(Error::failed(format!(
                    "\"{}\" {:?} would lose all of its {whole} weights; ask for less, take another scheme \
                     (class-uniform prunes every class alike), or allow it by allow_empty = [\"{}\"]",
                    info.name, info.shape, info.name
                )));
            }
        }
        Ok(())
    }

    fn warn_of_starved_classes(&self, done: &mut Pruned) {
        let mut counts = vec![(0u64, 0u64); self.map.classes.len()];
        for count in &done.parts {
            let sums = &mut counts[self.map.parts[count.part].class];
            *sums = (sums.0 + count.weights, sums.1 + count.pruned);
        }
        let all: u64 = counts.iter().map(|c| c.0).sum();
        let gone: u64 = counts.iter().map(|c| c.1).sum();
        for (class, (weights, pruned)) in self.map.classes.iter().zip(counts) {
            let starved = weights > 0 && (weights - pruned) * 100 < weights;
            // Where nearly everything goes by request there is nothing to avoid.
            if starved && (all - gone) * 100 >= all {
                let advice = match self.stage.scheme {
                    Scheme::ClassBlind => "class-distribution or class-uniform avoids it",
                    Scheme::ClassDistribution => "class-uniform avoids it",
                    Scheme::ClassUniform => "ask for less, or give the class an amount of its own",
                };
                done.warnings.push(format!(
                    "class \"{}\" keeps only {} of its {weights} weights (less than 1 %) under {}; {advice}",
                    class.name,
                    weights - pruned,
                    self.stage.scheme.name(),
                ));
            }
        }
    }
}

fn total(places: &[PartPlace]) -> u64 {
    places.iter().map(PartPlace::len).sum()
}

/// One rule a tensor: cuts of the same keys are joined in order of offset.
fn merge_rules(rules: &mut Vec<(TensorId, Rule)>) {
    rules.sort_by_key(|(tensor, rule)| (*tensor, first_offset(rule)));
    let mut merged: Vec<(TensorId, Rule)> = Vec::new();
    for (tensor, rule) in rules.drain(..) {
        if let (Rule::Cut(keys, cuts), Some((last, Rule::Cut(last_keys, last_cuts)))) = (&rule, merged.last_mut())
            && *last == tensor
            && Arc::ptr_eq(keys, last_keys)
        {
            Arc::make_mut(last_cuts).extend(cuts.iter().cloned());
            continue;
        }
        merged.push((tensor, rule));
    }
    *rules = merged;
}

fn first_offset(rule: &Rule) -> u64 {
    match rule {
        Rule::Cut(_, cuts) => cuts.first().map_or(0, |(p, _): &(PartPlace, KeyCut)| p.offset),
        Rule::Bits(_) | Rule::Coded(..) => 0,
    }
}
