//! What comparing asks of the engine: quality of a file, times, and how often rows of embeddings are read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use compress_core::compare::cost::Rates;
use compress_core::compare::{Comparison, Quality, machine};
use compress_core::error::{Error, Result};
use compress_core::model::Model;
use compress_core::plan::Setup;
use compress_core::progress::Watch;
use compress_core::recipe::{Metric, Recipe};
use compress_engine::engine::{AsStored, BATCH, Engine, Split};
use compress_engine::measure::MeasureOptions;
use compress_sdk::EvidenceKind;

use crate::graph;

/// Whether the engine can run a recipe's model: it has one graph, and data.
pub fn runs(model: &Model, recipe: &Recipe) -> bool {
    model.format() == "onnx" && model.sources().len() == 1 && recipe.data.is_some()
}

/// The metrics that a recipe's data allow, on the splits that it names. What `known` has already is not measured again;
/// BLEU is, because its intervals need the sentences.
pub fn quality(model: &Model, recipe: &Recipe, mut known: Quality, watch: Watch<'_>) -> Result<Quality> {
    let Some(data) = recipe.data.as_ref().filter(|_| runs(model, recipe)) else { return Ok(known) };
    let engine = graph::open(model, recipe)?;
    for (split, name) in [(Split::Validation, "validation"), (Split::Test, "test")] {
        if !engine.has(split) {
            continue;
        }
        let list = match split {
            Split::Test => &mut known.metrics.test,
            _ => &mut known.metrics.validation,
        };
        let lacks = |m: &Metric| !list.iter().any(|(n, _)| n == m.name());
        if data.target.is_some() {
            let wanted: Vec<Metric> =
                [Metric::Loss, Metric::Perplexity, Metric::Accuracy].into_iter().filter(lacks).collect();
            if !wanted.is_empty() {
                list.extend(engine.evaluate(&AsStored, split, &wanted, watch)?);
            }
        }
        let referenced = data.bleu.as_ref().is_some_and(|bleu| match split {
            Split::Test => bleu.references.test.is_some(),
            _ => bleu.references.validation.is_some(),
        });
        if referenced {
            let counts = engine.bleu_counts(&AsStored, split, watch)?;
            if !list.iter().any(|(n, _)| n == Metric::Bleu.name()) {
                list.push((Metric::Bleu.name().into(), compress_core::bleu::Counts::sum(&counts).score()));
            }
            known.bleu.insert(name.into(), counts);
        }
    }
    Ok(known)
}

/// What the pieces of the study's cells cost, measured on one batch of the untouched model.
pub fn rates(comparison: &Comparison<'_>, setup: &Setup<'_>, watch: Watch<'_>) -> Result<Rates> {
    let recipe = &comparison.dense().cell.recipe;
    let model = Model::open(setup.formats, recipe.model.all(), &setup.open)?;
    let mut rates = Rates { bytes: model.bytes(), ..Rates::default() };
    if !runs(&model, recipe) {
        return Ok(rates);
    }
    let engine = graph::open(&model, recipe)?;
    rates.train = engine.count(Split::Train)? as u64;
    rates.evaluated = (engine.count(Split::Validation)? + engine.count(Split::Test)?) as u64;
    if recipe.data.as_ref().is_none_or(|d| d.target.is_none()) || rates.evaluated + rates.train == 0 {
        return Ok(rates);
    }
    let loaded = engine.load(&AsStored, BATCH)?;
    engine.run(&loaded)?;
    let (spent, done) = spent(|| engine.run(&loaded));
    done?;
    rates.forward = spent.as_secs_f64() / loaded.examples().max(1) as f64;
    if recipe.data.as_ref().is_some_and(|d| d.bleu.is_some()) {
        let some = loaded.examples();
        let (spent, done) = self::spent(|| engine.translate_some(&AsStored, some, watch));
        done?;
        rates.translate = spent.as_secs_f64() / some.max(1) as f64;
    }
    Ok(rates)
}

/// Processor time of a piece of work, all threads together.
fn spent<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let before = machine::cpu_time();
    let done = work();
    (machine::cpu_time().saturating_sub(before), done)
}

/// Examples that rows are counted over: enough to tell frequent words from rare ones.
const COUNTED: u64 = 2048;

/// How often the rows of embeddings are read: the study's own evidence, or else counted over the training data and kept
/// beside the reports. `None` where neither can be had.
pub fn row_counts(model: &Model, recipe: &Recipe, output: &Path, watch: Watch<'_>) -> Result<Option<PathBuf>> {
    if let Some(path) = recipe.evidence.as_ref().filter(|p| p.exists()) {
        return Ok(Some(path.clone()));
    }
    let trains = recipe.data.as_ref().is_some_and(|d| d.train.is_some() && d.target.is_some());
    if !trains || !runs(model, recipe) {
        return Ok(None);
    }
    let path = output.join("cells/row-counts.safetensors");
    let engine = graph::open(model, recipe)?;
    let options = MeasureOptions { examples: COUNTED, batch: BATCH as u64, seed: 1 };
    match engine.measure(&AsStored, &[EvidenceKind::RowCount], options, &path, watch) {
        Ok(()) => Ok(Some(path)),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        // A model without embeddings has nothing to count.
        Err(_) => Ok(None),
    }
}

/// Opens a model's engine for timing; `None` where nothing can run it.
pub fn open<'m>(model: &'m Model, recipe: &Recipe) -> Result<Option<Engine<'m>>> {
    let target = recipe.data.as_ref().is_some_and(|d| d.target.is_some());
    if runs(model, recipe) && target { graph::open(model, recipe).map(Some) } else { Ok(None) }
}
