//! A model with its data, planned and checked: what the driver holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use compress_core::bleu::Counts;
use compress_core::class::Role;
use compress_core::convert::to_f32;
use compress_core::error::did_you_mean;
use compress_core::format::Source;
use compress_core::progress::{Unit, Watch};
use compress_core::recipe::{Data, Metric, Tokenize};
use compress_core::tensor::TensorId;
use compress_core::{Error, Result};
use compress_onnx::OnnxSource;
use rayon::prelude::*;

use crate::bleu::counts;
use crate::data::{Column, Examples};
use crate::graph::Graph;
use crate::import::{import, weight_values};
use crate::loss::Tally;
use crate::program::Program;
use crate::real::Real;
use crate::step::{Objective, SLICES, evaluate};
use crate::translate::{Translator, sentence};
use crate::value::Tensor;

/// Examples a batch where nothing else is said.
pub const BATCH: usize = 64;

/// Weights that differ from those of the model's file.
pub trait Weights: Sync {
    /// The weight's elements in the order of the file; `None` = as in the file.
    fn read(&self, name: &str) -> Result<Option<Vec<f32>>>;
}

/// The model as its file has it.
pub struct AsStored;

impl Weights for AsStored {
    fn read(&self, _: &str) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
}

impl Weights for BTreeMap<String, Vec<f32>> {
    fn read(&self, name: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.get(name).cloned())
    }
}

/// A file of `[data]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Split {
    /// To train and to measure with.
    Train,
    /// To choose with.
    Validation,
    /// To report on only.
    Test,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

/// A weight of the model that the engine may change.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Its number in the source.
    pub id: TensorId,
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its class, where it has one.
    pub class: Option<String>,
    /// Whether training changes it.
    pub trained: bool,
}

/// A model and its data.
pub struct Engine<'s> {
    source: &'s dyn Source,
    pub(crate) data: Data,
    pub(crate) weights: Vec<Weight>,
    pub(crate) program: Program<f32>,
    pub(crate) objective: Objective,
    pub(crate) columns: Vec<Column>,
    translator: Option<Translator<f32>>,
    graph: Graph<f32>,
    output: String,
    /// Number of examples that the graph is made for, where it is made for one number only.
    fixed_batch: Option<usize>,
}

impl<'s> Engine<'s> {
    /// Plans the model for the data: every operator, attribute, name and file is checked, nothing is computed.
    pub fn open(source: &'s dyn Source, data: &Data) -> Result<Engine<'s>> {
        let onnx = source.as_any().downcast_ref::<OnnxSource>().ok_or_else(|| {
            Error::failed(format!(
                "a {} model has no graph that could be run; evaluate and retrain it with {{ command = [\"…\"] }}",
                source.format()
            ))
        })?;
        let mut weights = list(source);
        let names: BTreeSet<&str> = weights.iter().map(|w| w.name.as_str()).collect();
        let graph = import::<f32>(onnx.model(), &|name| names.contains(name))?;
        let output = match &data.output {
            Some(name) => name.clone(),
            None => graph.outputs.first().cloned().ok_or_else(|| Error::failed("the graph has no output"))?,
        };
        if !graph.outputs.contains(&output) {
            let hint = did_you_mean(&output, graph.outputs.iter().map(String::as_str));
            return Err(Error::usage(format!("[data] output = \"{output}\" is no output of the graph{hint}")));
        }
        let pairs: Vec<(String, Vec<usize>)> = weights.iter().map(|w| (w.name.clone(), w.shape.clone())).collect();
        let values = weight_values(&graph, &pairs);
        let mut program = Program::new(&graph, std::slice::from_ref(&output), &values)?;
        let first = |d: &Vec<Option<usize>>| d.first().copied().flatten();
        let fixed_batch = program.inputs.iter().find_map(|(_, i)| i.dims.as_ref().and_then(first));
        for name in statistics(&program) {
            weights.iter_mut().filter(|w| w.name == name).for_each(|w| w.trained = false);
        }
        let columns = columns(&graph, &program, data, &output);
        let translator = match &data.bleu {
            Some(b) => Some(Translator::new(Program::new(&graph, std::slice::from_ref(&output), &values)?, &b.prefix)?),
            None => None,
        };
        let compact = data.ignore.is_some() && program.compact();
        let objective = Objective {
            target: data.target.clone().unwrap_or_default(),
            ignore: data.ignore,
            compact,
            slices: if fixed_batch.is_some() { 1 } else { SLICES },
        };
        let data = data.clone();
        let engine =
            Engine { source, data, weights, program, objective, columns, translator, graph, output, fixed_batch };
        for split in [Split::Train, Split::Validation, Split::Test] {
            if engine.path(split).is_some() {
                engine.examples(split)?;
            }
        }
        Ok(engine)
    }

    /// A fresh program for the output that is compared with the target.
    pub(crate) fn plan(&self) -> Result<Program<f32>> {
        let pairs: Vec<(String, Vec<usize>)> = self.weights.iter().map(|w| (w.name.clone(), w.shape.clone())).collect();
        Program::new(&self.graph, std::slice::from_ref(&self.output), &weight_values(&self.graph, &pairs))
    }

    /// The model's weights.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// Examples a batch: as many as asked for, unless the graph is made for one number only.
    pub(crate) fn batch(&self, wanted: usize) -> usize {
        self.fixed_batch.unwrap_or(wanted)
    }

    /// Weights that the output does not depend on: training leaves them as they are.
    pub fn unreached(&self) -> Vec<&str> {
        let reached = |name: &str| self.program.params.iter().any(|p| p.name == name);
        self.weights.iter().map(|w| w.name.as_str()).filter(|n| !reached(n)).collect()
    }

    /// Whether there is a file for a split.
    pub fn has(&self, split: Split) -> bool {
        self.path(split).is_some()
    }

    fn path(&self, split: Split) -> Option<&Path> {
        match split {
            Split::Train => self.data.train.as_deref(),
            Split::Validation => self.data.validation.as_deref(),
            Split::Test => self.data.test.as_deref(),
        }
    }

    /// Opens the examples of a split.
    pub(crate) fn examples(&self, split: Split) -> Result<Examples> {
        let path =
            self.path(split).ok_or_else(|| Error::usage(format!("[data] names no file \"{}\"", split.name())))?;
        Examples::open(path, self.columns.clone(), self.data.trim, self.data.ignore.unwrap_or(0))
    }

    /// All weights that a program reads, in its order: given ones, else those of the file.
    pub(crate) fn read<R: Real>(&self, program: &Program<R>, weights: &dyn Weights) -> Result<Vec<Tensor<R>>> {
        program
            .params
            .iter()
            .map(|p| {
                let n: usize = p.shape.iter().product();
                let values = match weights.read(&p.name)? {
                    Some(v) if v.len() == n => v,
                    Some(v) => {
                        return Err(Error::failed(format!(
                            "weight \"{}\" has {} elements, expected {n}",
                            p.name,
                            v.len()
                        )));
                    }
                    None => self.stored(&p.name)?,
                };
                Ok(Tensor::new(p.shape.clone(), values.into_iter().map(|v| R::of(f64::from(v))).collect::<Vec<_>>()))
            })
            .collect()
    }

    /// The weight that a slot holds or is made from, if it depends on weights alone.
    pub(crate) fn fixed_weight(&self, slot: usize) -> Option<String> {
        let made = self.program.steps[self.program.derived..].iter().any(|s| s.outputs.contains(&Some(slot)));
        if made { None } else { self.program.weight_behind(slot) }
    }

    /// A weight as the file has it.
    pub fn stored(&self, name: &str) -> Result<Vec<f32>> {
        let weight = self
            .weights
            .iter()
            .find(|w| w.name == name)
            .ok_or_else(|| Error::failed(format!("the model has no weight \"{name}\"")))?;
        let info = &self.source.tensors()[weight.id];
        let mut bytes = vec![0u8; info.dense_bytes() as usize];
        self.source.read_at(weight.id, 0, &mut bytes)?;
        let mut out = vec![0f32; info.elements as usize];
        to_f32(&info.dtype, &bytes, &mut out);
        Ok(out)
    }

    /// Refuses data without a target.
    pub fn need_target(&self) -> Result<()> {
        match &self.data.target {
            Some(_) => Ok(()),
            None => Err(Error::usage("[data] target is missing: the tensor that the output is compared with")),
        }
    }

    /// Refuses metrics that the data do not allow, before anything runs.
    pub fn check_metrics(&self, metrics: &[Metric]) -> Result<()> {
        if metrics.iter().any(|m| *m != Metric::Bleu) {
            self.need_target()?;
        }
        if metrics.contains(&Metric::Bleu) {
            for split in [Split::Validation, Split::Test].into_iter().filter(|s| self.has(*s)) {
                self.references(split)?;
            }
        }
        Ok(())
    }

    /// Where the references of a split are.
    fn references(&self, split: Split) -> Result<&Path> {
        let Some(bleu) = &self.data.bleu else {
            return Err(Error::usage("the metric \"bleu\" needs the table [data.bleu]"));
        };
        let path = match split {
            Split::Validation => bleu.references.validation.as_deref(),
            Split::Test => bleu.references.test.as_deref(),
            Split::Train => None,
        };
        path.ok_or_else(|| Error::usage(format!("[data.bleu] names no references for {}", split.name())))
    }

    /// Metrics by name, in the order asked for.
    pub fn evaluate(
        &self,
        weights: &dyn Weights,
        split: Split,
        metrics: &[Metric],
        watch: Watch,
    ) -> Result<Vec<(String, f64)>> {
        let mut tally = None;
        let mut out = Vec::new();
        for metric in metrics {
            let value = match metric {
                Metric::Bleu => self.bleu(weights, split, watch)?,
                _ => {
                    if tally.is_none() {
                        tally = Some(self.tally(weights, split, watch)?);
                    }
                    let t: Tally = tally.unwrap_or_default();
                    match metric {
                        Metric::Loss => t.mean(),
                        Metric::Perplexity => t.perplexity(),
                        _ => t.accuracy(),
                    }
                }
            };
            out.push((metric.name().to_string(), value));
        }
        Ok(out)
    }

    /// Loss and counts over a split.
    pub fn tally(&self, weights: &dyn Weights, split: Split, watch: Watch) -> Result<Tally> {
        let params = self.read(&self.program, weights)?;
        self.tally_of(&params, &self.examples(split)?, watch)
    }

    /// The same over whole rows where `[data]` trims padding away; `None` where it does not.
    pub fn padded_tally(&self, weights: &dyn Weights, split: Split, watch: Watch) -> Result<Option<Tally>> {
        let Some(path) = self.path(split).filter(|_| self.data.trim) else { return Ok(None) };
        let examples = Examples::open(path, self.columns.clone(), false, self.data.ignore.unwrap_or(0))?;
        let params = self.read(&self.program, weights)?;
        self.tally_of(&params, &examples, watch).map(Some)
    }

    pub(crate) fn tally_of(&self, params: &[Tensor<f32>], examples: &Examples, watch: Watch) -> Result<Tally> {
        self.need_target()?;
        let base = self.program.base(params, None)?;
        watch.progress.begin("evaluate", examples.count() as u64, Unit::Count);
        let parts: Vec<Result<Tally>> = examples
            .plain_batches(self.batch(BATCH))
            .into_par_iter()
            .map(|rows| {
                watch.tick(rows.len() as u64)?;
                evaluate(&self.program, &base, &self.objective, examples.batch(&rows)?)
            })
            .collect();
        watch.progress.end();
        let mut sum = Tally::default();
        for part in parts {
            sum.add(part?);
        }
        if sum.counted == 0 {
            return Err(Error::failed(format!(
                "\"{}\" has no target that counts: all are ignored",
                examples.path().display()
            )));
        }
        Ok(sum)
    }

    /// BLEU of the translations of a split.
    fn bleu(&self, weights: &dyn Weights, split: Split, watch: Watch) -> Result<f64> {
        Ok(Counts::sum(&self.bleu_counts(weights, split, watch)?).score())
    }

    /// What BLEU is made of, a sentence an example: for intervals, which need the sentences one by one.
    pub fn bleu_counts(&self, weights: &dyn Weights, split: Split, watch: Watch) -> Result<Vec<Counts>> {
        let path = self.references(split)?;
        let references = lines(path)?;
        let hypotheses = self.translations(weights, split, watch)?;
        if references.len() != hypotheses.len() {
            return Err(Error::failed(format!(
                "\"{}\" has {} lines for {} examples",
                path.display(),
                references.len(),
                hypotheses.len()
            )));
        }
        let tokenize = self.data.bleu.as_ref().map_or(Tokenize::None, |b| b.tokenize);
        Ok(hypotheses.iter().zip(&references).map(|(h, r)| counts(h, r, tokenize)).collect())
    }

    /// The translations of a split, a sentence an example, in the file's order.
    pub fn translations(&self, weights: &dyn Weights, split: Split, watch: Watch) -> Result<Vec<String>> {
        self.translations_of(weights, split, None, watch)
    }

    /// The translations of about `most` examples, in whole batches; the others are empty.
    pub(crate) fn translations_of(
        &self,
        weights: &dyn Weights,
        split: Split,
        most: Option<usize>,
        watch: Watch,
    ) -> Result<Vec<String>> {
        let (Some(bleu), Some(translator)) = (&self.data.bleu, &self.translator) else {
            return Err(Error::usage("translating needs the table [data.bleu]"));
        };
        let vocabulary = lines(&bleu.vocabulary)?;
        let path =
            self.path(split).ok_or_else(|| Error::usage(format!("[data] names no file \"{}\"", split.name())))?;
        let inputs =
            self.columns.iter().filter(|c| c.name != bleu.prefix && Some(&c.name) != self.data.target.as_ref());
        let examples = Examples::open(path, inputs.cloned().collect(), self.data.trim, self.data.ignore.unwrap_or(0))?;
        let params = self.read(translator.program(), weights)?;
        let base = translator.program().base(&params, None)?;
        watch.progress.begin("translate", examples.count() as u64, Unit::Count);
        let mut batches = examples.batches_by_length(self.batch(BATCH))?;
        if let Some(most) = most {
            batches.truncate(most.div_ceil(self.batch(BATCH)));
        }
        let parts: Vec<Result<Vec<(usize, String)>>> = batches
            .into_par_iter()
            .map(|rows| {
                watch.tick(rows.len() as u64)?;
                let ids = translator.translate(&base, examples.batch(&rows)?, bleu)?;
                Ok(rows.into_iter().zip(ids.iter().map(|ids| sentence(ids, &vocabulary, &bleu.join))).collect())
            })
            .collect();
        watch.progress.end();
        let mut all = vec![String::new(); examples.count()];
        for part in parts {
            for (i, text) in part? {
                all[i] = text;
            }
        }
        Ok(all)
    }
}

/// Floats that the roles call weights or vectors.
fn list(source: &dyn Source) -> Vec<Weight> {
    let mut out = Vec::new();
    for (id, info) in source.tensors().iter().enumerate() {
        let role = source.roles().and_then(|r| r.tensors.get(id));
        if info.dtype.float_bytes().is_none() || info.elements == 0 || info.not_a_weight.is_some() {
            continue;
        }
        let class = match role {
            Some(Role::Weight(parts) | Role::OneDimensional(parts, _)) => parts.first().map(|p| p.class.clone()),
            Some(Role::Never(_)) => continue,
            None => None,
        };
        let shape = info.shape.iter().map(|d| *d as usize).collect();
        out.push(Weight { id, name: info.name.clone(), shape, class, trained: true });
    }
    out
}

/// Running means and variances of batch normalisation: statistics, which training leaves alone.
fn statistics<R: Real>(program: &Program<R>) -> Vec<String> {
    let norms = program.steps.iter().filter(|s| s.op == "BatchNormalization");
    let slots = norms.flat_map(|s| s.inputs.iter().skip(3).flatten());
    slots.filter_map(|s| program.weight_behind(*s)).collect()
}

/// What is read from the data files, with the name of each second dimension.
fn columns<R: Real>(graph: &Graph<R>, program: &Program<R>, data: &Data, output: &str) -> Vec<Column> {
    let second = |names: &[Option<String>]| names.get(1).cloned().flatten();
    let mut columns: Vec<Column> =
        program.inputs.iter().map(|(_, i)| Column { name: i.name.clone(), group: second(&i.dim_names) }).collect();
    if let Some(target) = &data.target {
        let group = graph.output_dim_names.get(output).and_then(|n| second(n));
        // Without a name of its own the target goes with the prefix of a translation model, else it is not cut.
        let prefix =
            data.bleu.as_ref().and_then(|b| columns.iter().find(|c| c.name == b.prefix)).and_then(|c| c.group.clone());
        columns.push(Column { name: target.clone(), group: group.or(prefix) });
    }
    columns
}

/// The lines of a text file.
fn lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.split('\n').map(|l| l.trim_end_matches('\r').to_string()).collect())
}
