//! The engine behind core's door: what runs ONNX graphs.

use std::collections::BTreeMap;
use std::path::Path;

use compress_core::convert::from_f32;
use compress_core::engine::{Engine, Job, Trained};
use compress_core::error::{Error, Result};
use compress_core::format::OpenOptions;
use compress_core::model::Model;
use compress_core::parameters::Way;
use compress_core::progress::Watch;
use compress_core::recipe::{Evaluate, MeasureStage, Metric, Recipe, Stage, StageKind, Training};
use compress_core::report::{Metrics, ProductSeconds};
use compress_core::state::CHECKPOINT;
use compress_core::stfile::{Spec, StWriter};
use compress_core::weights::Weights;
use compress_engine::engine as run;
use compress_engine::measure::MeasureOptions;
use compress_engine::products::product_seconds;
use compress_engine::state;
use compress_engine::train::{Epoch, Masks, Retrained, Trainer};

use crate::builtin;

/// Runs the graphs of ONNX models.
pub struct Graphs;

/// Opens the recipe's model and data for running; everything that can be refused is refused here.
pub fn open<'m>(model: &'m Model, recipe: &Recipe) -> Result<run::Engine<'m>> {
    let [source] = model.sources() else {
        return Err(Error::usage(
            "a model of several files cannot be run: how they feed each other is not in the files; evaluate or train it \
             elsewhere by { command = […] }",
        ));
    };
    let data = recipe.data.as_ref().ok_or_else(|| Error::usage("[data] is missing: what to run the model on"))?;
    run::Engine::open(source.as_ref(), data)
}

/// The translations of the recipe's validation data, a sentence an example.
pub fn translations(model: &Model, recipe: &Recipe, watch: Watch<'_>) -> Result<Vec<String>> {
    open(model, recipe)?.translations(&run::AsStored, run::Split::Validation, watch)
}

impl Engine for Graphs {
    fn product_seconds(&self, rows: usize, cols: usize, rank: usize) -> ProductSeconds {
        product_seconds(rows, cols, rank)
    }

    fn check(&self, model: &Model, recipe: &Recipe, stage: &Stage) -> Result<()> {
        let engine = open(model, recipe)?;
        match &stage.kind {
            StageKind::Evaluate(Evaluate::Metrics(metrics)) => return engine.check_metrics(metrics),
            StageKind::Measure(_) => return engine.need_target(),
            _ => {}
        }
        let Some(training) = stage.training() else { return Ok(()) };
        let mut trainer = Trainer::new(&engine, &run::AsStored, training, recipe.seed_of(stage))?;
        learn(&mut trainer, training, recipe)
    }

    fn evaluate(&self, job: &Job<'_>, metrics: &[Metric]) -> Result<Metrics> {
        let engine = open(job.weights.model, job.recipe)?;
        let weights = Current(job.weights);
        let of = |split| {
            if engine.has(split) { engine.evaluate(&weights, split, metrics, job.watch) } else { Ok(Vec::new()) }
        };
        Ok(Metrics { validation: of(run::Split::Validation)?, test: of(run::Split::Test)? })
    }

    fn measure(&self, job: &Job<'_>, stage: &MeasureStage, output: &Path) -> Result<()> {
        let engine = open(job.weights.model, job.recipe)?;
        let options = MeasureOptions { examples: stage.examples, batch: stage.batch, seed: job.seed };
        engine.measure(&Current(job.weights), &stage.kinds, options, output, job.watch)
    }

    fn retrain(&self, job: &Job<'_>, training: &Training) -> Result<Trained> {
        let engine = open(job.weights.model, job.recipe)?;
        let path = job.folder.join("trainer.safetensors");
        let key = "trainer";
        let mut trainer = Trainer::new(&engine, &Current(job.weights), training, job.seed)?;
        learn(&mut trainer, training, job.recipe)?;
        let (encoded, frozen) = encodings(job, &mut trainer)?;
        if let Some(previous) = job.previous.map(|folder| folder.join("trainer.safetensors")).filter(|p| p.exists()) {
            state::carry_on(&mut trainer, &previous)?;
        }
        trainer.set_masks(&Held(job))?;
        let loose = trainer.loose_zeros();
        // `--finish` ends the training that was interrupted; those that had not begun are run.
        let begun = job.resume && path.exists();
        if begun {
            state::load(&mut trainer, &path, key)?;
        }
        // Tells the run that an interruption leaves something to go on from.
        let marker = job.folder.parent().unwrap_or(job.folder).join(CHECKPOINT);
        while !(trainer.finished() || job.finish && begun) {
            trainer.epoch(job.watch)?;
            state::save(&trainer, &path, key)?;
            std::fs::write(&marker, "").map_err(|e| Error::io("write", &marker, &e))?;
        }
        let mut result = trainer.result();
        let padding = if job.last { depends_on_trimming(&engine, &result, job.watch)? } else { None };
        frozen.iter().for_each(|(name, _)| _ = result.weights.remove(name));
        result.parameters.retain(|name, _| encoded.contains(name));
        let weights = job.folder.join("trained.safetensors");
        save(job, &result.weights, &weights)?;
        let frozen = frozen.iter().map(|(name, why)| format!("\"{name}\" was not trained: {why}"));
        let warnings = frozen.chain(padding).chain(let_go(&loose)).collect();
        let epochs = result.epochs.iter().map(metrics).collect();
        Ok(Trained { weights, parameters: result.parameters, epochs, warnings })
    }
}

/// Gives the trainer the teacher that has a file of its own.
fn learn(trainer: &mut Trainer<'_, '_>, training: &Training, recipe: &Recipe) -> Result<()> {
    let Some(path) = training.distil.as_ref().and_then(|d| d.teacher.as_deref()) else { return Ok(()) };
    let mut teach = || {
        let model = Model::open(&builtin::formats(), &[path.to_path_buf()], &OpenOptions::default())?;
        trainer.set_teacher(&open(&model, recipe)?)
    };
    teach().map_err(|e| e.at(format!("the teacher \"{}\"", path.display())))
}

/// What to say where zeros of the input were trained away.
fn let_go(loose: &[(String, f64)]) -> Option<String> {
    let (name, share) = loose.first()?;
    let more = if loose.len() > 1 { format!(" and {} more", loose.len() - 1) } else { String::new() };
    Some(format!(
        "\"{name}\"{more}: {:.0} % was zero and is trained again, since no stage of this recipe pruned it; name the masks by \
         \"from\", or prune and retrain in one recipe",
        100.0 * share
    ))
}

/// A recurrent layer reads padding. One that was trained without any may have come to depend on there being none; a
/// difference of one per cent in perplexity is told.
fn depends_on_trimming(engine: &run::Engine<'_>, result: &Retrained, watch: Watch<'_>) -> Result<Option<String>> {
    // What was kept is the epoch with the lowest loss.
    let losses = result.epochs.iter().filter_map(|e| Some(e.validation?.0));
    let Some(trimmed) = losses.min_by(f64::total_cmp).map(f64::exp) else { return Ok(None) };
    let Some(padded) = engine.padded_tally(&result.weights, run::Split::Validation, watch)? else { return Ok(None) };
    if (padded.perplexity() / trimmed - 1.0).abs() < 0.01 {
        return Ok(None);
    }
    Ok(Some(format!(
        "trained with trim = true, it has come to depend on that: validation perplexity is {:.3} without padding and {:.3} \
         with the padding of the data; run it without padding, or retrain with trim = false",
        trimmed,
        padded.perplexity()
    )))
}

/// Has tensors that are encoded trained as such: their names, and those that stay as they are with the reason.
fn encodings(job: &Job<'_>, trainer: &mut Trainer<'_, '_>) -> Result<(Vec<String>, Vec<(String, &'static str)>)> {
    let (mut encoded, mut frozen) = (Vec::new(), Vec::new());
    let tensors = job.weights.model.tensors();
    for name in trainer.names() {
        let Some(id) = tensors.iter().position(|t| t.name == name) else { continue };
        match job.weights.way(id)? {
            Way::Itself => {}
            Way::By(parameters) => {
                trainer.set_form(&name, parameters.start().to_vec(), Box::new(parameters))?;
                encoded.push(name);
            }
            Way::Never(why) => {
                trainer.freeze(&name);
                frozen.push((name, why));
            }
        }
    }
    Ok((encoded, frozen))
}

fn metrics(epoch: &Epoch) -> Metrics {
    let mut validation = vec![("training_loss".to_string(), epoch.train)];
    if let Some((loss, accuracy)) = epoch.validation {
        validation.push(("loss".to_string(), loss));
        validation.push(("perplexity".to_string(), loss.exp()));
        validation.push(("accuracy".to_string(), accuracy));
    }
    Metrics { validation, test: Vec::new() }
}

/// Writes trained weights in the model's own types, by name.
fn save(job: &Job<'_>, weights: &BTreeMap<String, Vec<f32>>, path: &Path) -> Result<()> {
    let known = job.weights.model.tensors();
    let chosen: Vec<(&Vec<f32>, Spec)> = weights
        .iter()
        .filter_map(|(name, values)| {
            let info = known.iter().find(|t| t.name == *name)?;
            let spec = Spec { name: name.clone(), dtype: info.dtype.clone(), shape: info.shape.clone() };
            (info.elements == values.len() as u64 && info.dtype.float_bytes().is_some()).then_some((values, spec))
        })
        .collect();
    let specs: Vec<Spec> = chosen.iter().map(|(_, spec)| spec.clone()).collect();
    let writer = StWriter::create(path, &specs, &[])?;
    for (index, (values, spec)) in chosen.iter().enumerate() {
        let mut bytes = vec![0; values.len() * spec.dtype.float_bytes().unwrap_or(4)];
        from_f32(&spec.dtype, values, &mut bytes);
        keep_from_zero(values, &mut bytes);
        writer.write_at(index, 0, &bytes)?;
    }
    writer.finish()?.persist(path)
}

/// A weight that is there is not taken for a pruned one: what a narrow type would round to zero becomes its smallest number.
fn keep_from_zero(values: &[f32], bytes: &mut [u8]) {
    let width = bytes.len() / values.len().max(1);
    for (v, b) in values.iter().zip(bytes.chunks_mut(width.max(1))) {
        let (last, rest) = (b.len() - 1, &b[..b.len() - 1]);
        if *v != 0.0 && b[last] & 0x7f == 0 && rest.iter().all(|b| *b == 0) {
            b[0] |= 1;
        }
    }
}

/// The masks that are held: zeros of the tensors that were pruned.
struct Held<'a>(&'a Job<'a>);

impl Masks for Held<'_> {
    fn bits(&self, name: &str, elements: usize) -> Result<Option<Vec<u8>>> {
        let weights = self.0.weights;
        let held = self.0.held.iter().find(|id| weights.model.tensors()[**id].name == name);
        held.map(|id| {
            let mut bits = vec![0; elements.div_ceil(8)];
            weights.nonzero_bits(*id, 0, &mut bits).map(|()| bits)
        })
        .transpose()
    }
}

/// The weights after the stages so far.
struct Current<'a>(&'a Weights<'a>);

impl run::Weights for Current<'_> {
    fn read(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let tensors = self.0.model.tensors();
        let Some(id) = tensors.iter().position(|t| t.name == name).filter(|id| !self.0.is_unchanged(*id)) else {
            return Ok(None);
        };
        let mut values = Vec::with_capacity(tensors[id].elements as usize);
        self.0.visit(id, 0, tensors[id].elements, &mut |_, piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(Some(values))
    }
}
