//! Stages that run the model or a command: measure, retrain, reinitialise, evaluate; and what is kept of them for an
//! interrupted run.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::Run;
use crate::class::{PartSpec, Role};
use crate::convert::{from_f32, zero_where};
use crate::encode::ValueCoding;
use crate::engine::{Job, Trained};
use crate::error::{Error, Result};
use crate::plan::{Plan, Work, measured_up_to};
use crate::progress::Watch;
use crate::recipe::{Evaluate, Initialise, Metric, Retrain, Stage, StageKind};
use crate::report::{Metrics, StageReport, Untouched};
use crate::state::{Finished, State};
use crate::stfile::{Spec, StFile, StWriter};
use crate::tensor::TensorId;
use crate::weights::{Base, TensorState, Terms, Weights, terms};
use crate::{evidence, external};

/// Steps of one stage are kept as stage · STEPS + step.
const STEPS: usize = 100_000;
/// A kept stage's weights.
const AFTER: &str = "after.safetensors";
/// The terms of those that are encoded.
const TERMS: &str = "terms.safetensors";
/// The weights that these terms stand for, where they are not the model's.
const BEFORE: &str = "before.safetensors";

impl Plan<'_> {
    /// Whether an interrupted run can be gone on with.
    pub fn state_is_kept(&self) -> bool {
        self.recipe.output().is_ok_and(|output| State::folder_of(output).join("state.json").exists())
    }

    /// Whether a stage asks what the terms of an encoded tensor lack of the weights that they stand for.
    pub(super) fn needs_source(&self) -> bool {
        self.stages.iter().any(|s| matches!(&s.stage.kind, StageKind::Method(m) if m.residual))
    }

    /// Whether a stage changes values or runs the model, so that an interrupted run can be gone on with.
    pub(super) fn needs_state(&self) -> bool {
        self.stages.iter().any(|s| match &s.work {
            Work::Prune(work) => work.stage.retrain.is_some(),
            Work::Pack(_) => false,
            Work::Encode(_) | Work::Model(_) => true,
        })
    }
}

/// Metrics of a plan's model as it is.
pub fn evaluate(plan: &Plan<'_>, metrics: &[Metric], watch: Watch<'_>) -> Result<Metrics> {
    let job = Job {
        weights: &Weights::new(&plan.model),
        map: &plan.map,
        recipe: plan.recipe,
        held: &[],
        folder: Path::new("."),
        previous: None,
        last: true,
        seed: plan.recipe.seed,
        resume: false,
        finish: false,
        watch,
    };
    plan.engine()?.evaluate(&job, metrics)
}

impl Run<'_> {
    /// Does a stage that runs the model. A dry run does not.
    pub(super) fn run_model(&mut self, kind: &StageKind, stage: &Stage) -> Result<StageReport> {
        let mut report = StageReport::default();
        if self.options.dry_run {
            report.warnings.push("not run: a dry run neither trains nor runs a command".into());
            return Ok(report);
        }
        match kind {
            StageKind::Retrain(retrain) => {
                let trained = self.train(retrain, stage, 0, true)?;
                report.metrics = trained.epochs.last().cloned();
                report.epochs = trained.epochs;
                report.warnings = trained.warnings;
            }
            StageKind::Evaluate(evaluate) => {
                let held = self.held_list();
                let folder = self.folder(stage, 0)?;
                let job = self.job(stage, &held, &folder);
                report.metrics = Some(match evaluate {
                    Evaluate::Metrics(metrics) => self.plan.engine()?.evaluate(&job, metrics)?,
                    Evaluate::Command(command) => external::evaluate(&job, command)?,
                });
            }
            StageKind::Measure(measure) => {
                let held = self.held_list();
                let folder = self.folder(stage, 0)?;
                let path =
                    self.plan.recipe.evidence.as_deref().ok_or_else(|| Error::usage("\"evidence\" is missing"))?;
                let job = self.job(stage, &held, &folder);
                let stages = self.plan.stages.iter().map(|p| p.stage);
                if measured_up_to(stages, stage.number - 1).is_empty() {
                    self.plan.engine()?.measure(&job, measure, path)?;
                } else {
                    let own = folder.join("evidence.safetensors");
                    self.plan.engine()?.measure(&job, measure, &own)?;
                    evidence::join(path, &own)?;
                }
                self.report.evidence = Some(path.display().to_string());
            }
            StageKind::Reinitialise(initialise) => {
                self.refuse_terms("a reinitialisation draws dense weights")?;
                let folder = self.folder(stage, 0)?;
                report.untouched = self.reinitialise(*initialise, self.plan.recipe.seed_of(stage), &folder)?;
            }
            StageKind::Method(_) | StageKind::Encode(_) => {
                return Err(Error::failed("not a stage that runs the model"));
            }
        }
        Ok(report)
    }

    /// Trains by the engine or a command; the weights are the trained ones afterwards.
    pub(super) fn train(&mut self, retrain: &Retrain, stage: &Stage, step: usize, last: bool) -> Result<Trained> {
        if let Retrain::Command { .. } = retrain {
            self.refuse_terms("a command that trains gives dense weights back")?;
        }
        let held = self.held_list();
        let folder = self.folder(stage, step)?;
        let previous = self.went_before(stage, step)?;
        let job = Job { previous: previous.as_deref(), last, ..self.job(stage, &held, &folder) };
        let trained = match retrain {
            Retrain::Engine(training) => self.plan.engine()?.retrain(&job, training)?,
            Retrain::Command { command, on_violation } => external::retrain(&job, command, *on_violation)?,
        };
        self.ahead.clear();
        // What was trained in its encoding stays in it, with what was trained; all else takes the new values.
        let before = self.weights.clone();
        let encoded = before.model.tensors().iter().enumerate().filter_map(|(id, info)| {
            let theta = trained.parameters.get(&info.name)?;
            Some((id, theta))
        });
        let encoded: Vec<_> = encoded.collect();
        for (id, _) in &encoded {
            self.weights.tensors[*id].coding = None;
        }
        self.adopt(&trained.weights)?;
        for (id, theta) in encoded {
            let base = self.weights.tensors[id].base.clone();
            let name = &before.model.tensors()[id].name;
            self.weights.tensors[id] = before.trained(id, theta, base).map_err(|e| e.at(format!("\"{name}\"")))?;
            // Which products and sums are zero by chance nobody has counted.
            if self.weights.terms(id).is_some() {
                self.plan.map.part_range(id).for_each(|part| self.pruned[part] = None);
            }
        }
        Ok(trained)
    }

    /// The folder of the training that this one goes on from: under a schedule (whose steps are numbered from 1) that of
    /// the step before, after another `retrain` stage that one.
    fn went_before(&self, stage: &Stage, step: usize) -> Result<Option<std::path::PathBuf>> {
        if step > 0 {
            return if step > 1 { self.folder(stage, step - 1).map(Some) } else { Ok(None) };
        }
        let watches = |kind: &StageKind| matches!(kind, StageKind::Evaluate(_) | StageKind::Measure(_));
        let earlier = self.plan.stages.iter().map(|p| p.stage).take_while(|s| s.number < stage.number);
        match earlier.filter(|s| !watches(&s.kind)).last() {
            Some(s) if matches!(s.kind, StageKind::Retrain(Retrain::Engine(_))) => self.folder(s, 0).map(Some),
            _ => Ok(None),
        }
    }

    /// What makes dense weights of everything would undo what a method has encoded.
    fn refuse_terms(&self, why: &str) -> Result<()> {
        let encoded = (0..self.weights.tensors.len()).find_map(|id| Some((id, self.weights.terms(id)?)));
        match encoded {
            Some((id, terms)) => Err(Error::failed(format!(
                "\"{}\" is {}, and {why}: put this stage before the one that encodes",
                self.plan.model.tensors()[id].name,
                terms.describe()
            ))),
            None => Ok(()),
        }
    }

    fn held_list(&self) -> Vec<TensorId> {
        self.held.iter().copied().collect()
    }

    fn folder(&self, stage: &Stage, step: usize) -> Result<std::path::PathBuf> {
        let state = self.state.as_ref().ok_or_else(|| Error::failed("the run has no state folder"))?;
        state.stage_folder(stage.number * STEPS + step)
    }

    fn job<'a>(&'a self, stage: &Stage, held: &'a [TensorId], folder: &'a Path) -> Job<'a> {
        Job {
            weights: &self.weights,
            map: &self.plan.map,
            recipe: self.plan.recipe,
            held,
            folder,
            previous: None,
            last: true,
            seed: self.plan.recipe.seed_of(stage),
            resume: self.options.resume || self.options.finish,
            finish: self.options.finish,
            watch: self.watch,
        }
    }

    /// Takes the tensors of a file as the new values.
    fn adopt(&mut self, path: &Path) -> Result<()> {
        let file = StFile::open(path)?;
        let handle = Arc::new(crate::files::open(path)?);
        let shared = Arc::new(path.to_path_buf());
        for (id, info) in self.plan.model.tensors().iter().enumerate() {
            let Some(entry) = file.entry(&info.name) else { continue };
            if entry.dtype != info.dtype || entry.shape != info.shape {
                return Err(Error::failed(format!(
                    "\"{}\": \"{}\" has another type or shape",
                    path.display(),
                    info.name
                )));
            }
            let base = Base::File(handle.clone(), shared.clone(), file.data_at() + entry.start);
            self.take(id, base)?;
        }
        Ok(())
    }

    /// Draws new values for all weights and one-dimensional parameters; pruned weights stay zero.
    fn reinitialise(&mut self, initialise: Initialise, seed: u64, folder: &Path) -> Result<Vec<Untouched>> {
        let model = &self.plan.model;
        let (mut ids, mut untouched) = (Vec::new(), Vec::new());
        for (id, role) in model.roles().tensors.iter().enumerate() {
            let float = model.tensors()[id].dtype.float_bytes().is_some();
            match role {
                Role::Weight(_) if float => ids.push(id),
                Role::OneDimensional(parts, reason) if float && drawn(parts, reason) => ids.push(id),
                Role::OneDimensional(_, reason) | Role::Never(reason) => {
                    untouched.push(Untouched { tensor: model.tensors()[id].name.clone(), reason: reason.clone() });
                }
                Role::Weight(_) => {}
            }
        }
        let specs: Vec<Spec> = ids
            .iter()
            .map(|id| {
                let info = &model.tensors()[*id];
                Spec { name: info.name.clone(), dtype: info.dtype.clone(), shape: info.shape.clone() }
            })
            .collect();
        let path = folder.join("initial.safetensors");
        let writer = StWriter::create(&path, &specs, &[])?;
        const STEP: u64 = 1 << 17;
        ids.par_iter().enumerate().try_for_each(|(index, id)| {
            let info = &model.tensors()[*id];
            let width = info.dtype.float_bytes().unwrap_or(4);
            for first in (0..info.elements).step_by(STEP as usize) {
                let count = STEP.min(info.elements - first) as usize;
                let position = model.position(*id) + first;
                let values: Vec<f32> = (0..count).map(|i| initialise.draw(seed, position + i as u64)).collect();
                let mut bytes = vec![0; count * width];
                from_f32(&info.dtype, &values, &mut bytes);
                if self.held.contains(id) {
                    let mut kept = vec![0; count.div_ceil(8)];
                    self.weights.nonzero_bits(*id, first, &mut kept)?;
                    zero_where(width, &mut bytes, |i| kept[i / 8] >> (i % 8) & 1 == 0);
                }
                writer.write_at(index, first * width as u64, &bytes)?;
            }
            Ok::<(), Error>(())
        })?;
        writer.finish()?.persist(&path)?;
        self.adopt(&path)?;
        Ok(untouched)
    }

    /// Keeps a finished stage for an interrupted run.
    pub(super) fn keep(&mut self, number: usize) -> Result<()> {
        let codings = self.codings();
        let Some(state) = &mut self.state else { return Ok(()) };
        let cheap = self.weights.tensors.iter().all(|t| matches!(t.base, Base::Model | Base::Pieces(_)))
            && self.report.stages.last().is_some_and(|s| s.kind == "method" || s.kind == "encode");
        if cheap {
            return Ok(());
        }
        let folder = state.stage_folder(number * STEPS)?;
        let (encoded, dense): (Vec<TensorId>, Vec<TensorId>) = (0..self.weights.tensors.len())
            .filter(|id| !self.weights.is_unchanged(*id))
            .partition(|id| self.weights.terms(*id).is_some());
        external::save(&self.weights, &dense, &folder.join(AFTER))?;
        let tensors = self.plan.model.tensors();
        let terms: Vec<(&str, &Terms)> = encoded
            .iter()
            .filter_map(|id| Some((tensors[*id].name.as_str(), self.weights.terms(*id)?.as_ref())))
            .collect();
        if !terms.is_empty() {
            terms::save(&terms, &folder.join(TERMS))?;
            let mut before = self.weights.clone();
            let mut changed = Vec::new();
            for id in &encoded {
                if let Some(source) = self.weights.terms(*id).and_then(|t| t.source()) {
                    before.tensors[*id] = source.clone();
                    changed.extend(Some(*id).filter(|id| !before.is_unchanged(*id)));
                }
            }
            external::save(&before, &changed, &folder.join(BEFORE))?;
        }
        let report = serde_json::to_string(&self.report.stages).map_err(|e| Error::failed(e.to_string()))?;
        let finished = Finished {
            report,
            weights: Some(AFTER.into()),
            terms: !terms.is_empty(),
            codings,
            held: self.held.iter().copied().collect(),
        };
        state.keep(number, finished)
    }

    /// Takes up an interrupted run after its last kept stage; returns how many stages are done.
    pub(super) fn restore(&mut self) -> Result<usize> {
        let Some(state) = &self.state else { return Ok(0) };
        let Some((number, finished)) = state.last().map(|(n, f)| (n, f.clone())) else { return Ok(0) };
        let folder = state.stage_folder(number * STEPS)?;
        if finished.terms {
            self.restore_terms(&folder)?;
        }
        if let Some(name) = &finished.weights {
            self.adopt(&folder.join(name))?;
        }
        self.restore_codings(finished.codings)?;
        self.held = finished.held.into_iter().collect();
        self.report.stages = serde_json::from_str(&finished.report)
            .map_err(|e| Error::failed(format!("the state is damaged ({e}); --force starts anew")))?;
        Ok(number)
    }

    /// Takes up tensors that were encoded, and the weights that they stand for where those are asked for later.
    fn restore_terms(&mut self, folder: &Path) -> Result<()> {
        self.adopt(&folder.join(BEFORE))?;
        for (name, encoding, values) in terms::load(&folder.join(TERMS))? {
            let id = self.plan.model.tensors().iter().position(|t| t.name == name);
            let id =
                id.ok_or_else(|| Error::failed(format!("the state has terms of \"{name}\"; --force starts anew")))?;
            let info = &self.plan.model.tensors()[id];
            let source = self.plan.needs_source().then(|| self.weights.tensors[id].clone());
            let mut terms = Terms::new(encoding, &info.dtype, &info.shape, source).map_err(|e| e.at(&name))?;
            if values != ValueCoding::Plain {
                terms = terms.recoded(values).map_err(|e| e.at(&name))?;
            }
            self.weights.tensors[id] = TensorState::new(Base::Terms(Arc::new(terms)));
        }
        Ok(())
    }
}

/// Whether a one-dimensional parameter is drawn anew: biases are, the scales of norms are not.
fn drawn(parts: &[PartSpec], reason: &str) -> bool {
    !parts.is_empty() && reason.contains("bias")
}

impl Initialise {
    /// The value at a position, from the seed and the position alone.
    fn draw(self, seed: u64, position: u64) -> f32 {
        let (a, b) = (unit(seed, 2 * position), unit(seed, 2 * position + 1));
        match self {
            Initialise::Uniform(limit) => ((2.0 * a - 1.0) * limit) as f32,
            Initialise::Normal(sigma) => {
                (sigma * (-2.0 * (1.0 - a).ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()) as f32
            }
        }
    }
}

/// Uniform in [0, 1) by SplitMix64 (Steele, Lea & Flood 2014) of seed and counter.
fn unit(seed: u64, counter: u64) -> f64 {
    let mut z = seed
        .wrapping_mul(0xD134_2543_DE82_EF95)
        .wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
