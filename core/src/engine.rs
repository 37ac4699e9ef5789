//! What runs a model: the traits that the engine implements for ONNX graphs. Core needs no autodiff.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::class::resolve::ClassMap;
use crate::error::Result;
use crate::model::Model;
use crate::progress::Watch;
use crate::recipe::{MeasureStage, Metric, Recipe, Stage, Training};
use crate::report::{Metrics, ProductSeconds};
use crate::tensor::TensorId;
use crate::weights::Weights;

/// What a stage that runs the model works with.
pub struct Job<'a> {
    /// The weights as they stand.
    pub weights: &'a Weights<'a>,
    /// The classes.
    pub map: &'a ClassMap,
    /// The recipe: data, evidence, plugins.
    pub recipe: &'a Recipe,
    /// The tensors whose zeros are held: those that a stage or the recipe's masks have pruned.
    pub held: &'a [TensorId],
    /// A folder of the stage's own in the run's state, for what must survive an interruption.
    pub folder: &'a Path,
    /// The folder of the training that this one goes on from: its optimiser and its order of the data.
    pub previous: Option<&'a Path>,
    /// Whether this is the last training of its stage.
    pub last: bool,
    /// The stage's seed.
    pub seed: u64,
    /// Go on from what lies in `folder`.
    pub resume: bool,
    /// End a retraining at once with the best so far.
    pub finish: bool,
    /// Progress and cancellation.
    pub watch: Watch<'a>,
}

/// What a retraining made.
#[derive(Clone, Debug, Default)]
pub struct Trained {
    /// A safetensors file in the job's folder with the tensors that changed, by name, in their own dtype and shape.
    pub weights: PathBuf,
    /// By name, what was trained in a tensor's stead ([`crate::parameters`]); its values stand in `weights` as well.
    pub parameters: BTreeMap<String, Vec<f32>>,
    /// Metrics after each epoch.
    pub epochs: Vec<Metrics>,
    /// What the reader should know.
    pub warnings: Vec<String>,
}

/// Runs a model forwards and backwards.
pub trait Engine: Sync {
    /// Whether a stage can be run on this model, before anything runs: operators, inputs, data files.
    fn check(&self, model: &Model, recipe: &Recipe, stage: &Stage) -> Result<()>;
    /// Metrics on validation, and on test where the recipe names it.
    fn evaluate(&self, job: &Job<'_>, metrics: &[Metric]) -> Result<Metrics>;
    /// Writes evidence over the training data.
    fn measure(&self, job: &Job<'_>, stage: &MeasureStage, output: &Path) -> Result<()>;
    /// Trains with the zeros of the held tensors held.
    fn retrain(&self, job: &Job<'_>, training: &Training) -> Result<Trained>;
    /// Measures x·W beside (x·U)·V, where W is rows × cols.
    fn product_seconds(&self, rows: usize, cols: usize, rank: usize) -> ProductSeconds;
}
