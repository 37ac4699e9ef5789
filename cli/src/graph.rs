//! The engine behind core's door: what runs ONNX graphs.

use std::path::Path;

use compress_core::engine::{Engine, Job, Trained};
use compress_core::error::{Error, Result};
use compress_core::model::Model;
use compress_core::recipe::{MeasureStage, Metric, Recipe, Stage, StageKind, Training};
use compress_core::report::Metrics;
use compress_core::weights::Weights;
use compress_engine::engine as run;

/// Runs the graphs of ONNX models.
pub struct Graphs;

/// Opens the recipe's model and data for running; everything that can be refused is refused here.
fn open<'m>(model: &'m Model, recipe: &Recipe) -> Result<run::Engine<'m>> {
    let [source] = model.sources() else {
        return Err(Error::usage(
            "a model of several files cannot be run: how they feed each other is not in the files; evaluate or train it \
             elsewhere by { command = […] }",
        ));
    };
    let data = recipe.data.as_ref().ok_or_else(|| Error::usage("[data] is missing: what to run the model on"))?;
    run::Engine::open(source.as_ref(), data)
}

fn not_built(what: &str) -> Error {
    Error::usage(format!(
        "{what} by the engine is not built yet in version {}; do it elsewhere by {{ command = […] }}",
        env!("CARGO_PKG_VERSION")
    ))
}

impl Engine for Graphs {
    fn check(&self, model: &Model, recipe: &Recipe, stage: &Stage) -> Result<()> {
        match &stage.kind {
            StageKind::Evaluate(_) => open(model, recipe).map(|_| ()),
            StageKind::Measure(_) => Err(not_built("measuring")),
            _ => Err(not_built("retraining")),
        }
    }

    fn evaluate(&self, job: &Job<'_>, metrics: &[Metric]) -> Result<Metrics> {
        let engine = open(job.weights.model, job.recipe)?;
        let weights = Current(job.weights);
        let of = |split| {
            if engine.has(split) { engine.evaluate(&weights, split, metrics, job.watch) } else { Ok(Vec::new()) }
        };
        Ok(Metrics { validation: of(run::Split::Validation)?, test: of(run::Split::Test)? })
    }

    fn measure(&self, _: &Job<'_>, _: &MeasureStage, _: &Path) -> Result<()> {
        Err(not_built("measuring"))
    }

    fn retrain(&self, _: &Job<'_>, _: &Training) -> Result<Trained> {
        Err(not_built("retraining"))
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
