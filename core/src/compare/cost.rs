//! What a cell is expected to cost, from what its pieces cost on one batch.

use super::plan::Placed;
use crate::recipe::{MethodStage, Recipe, Retrain, StageKind};

/// What the pieces cost, in seconds of one thread, and how many examples there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Running one example forwards.
    pub forward: f64,
    /// Translating one example; 0 where nothing is translated.
    pub translate: f64,
    /// Training examples.
    pub train: u64,
    /// Examples that quality is measured on: validation and test.
    pub evaluated: u64,
    /// Bytes of the model.
    pub bytes: u64,
}

/// Forwards, backwards and the update cost about this many times forwards alone.
const TRAINING: f64 = 3.0;

/// Bytes a second of reading, selecting, writing and zstd together.
const STREAMED: f64 = 10e6;

impl Rates {
    /// Seconds of processor time of a cell, what methods compute and commands do left out.
    pub fn of(&self, recipe: &Recipe) -> f64 {
        let evaluate = self.evaluated as f64 * self.forward;
        let mut seconds = self.bytes as f64 / STREAMED + evaluate + self.evaluated as f64 * self.translate;
        for stage in &recipe.stages {
            seconds += match &stage.kind {
                StageKind::Retrain(retrain) => self.training(retrain, None),
                StageKind::Method(m) => m.retrain.as_ref().map_or(0.0, |r| self.training(r, Some(m))),
                StageKind::Measure(m) => m.examples.min(self.train) as f64 * self.forward * TRAINING,
                StageKind::Evaluate(_) => evaluate,
                StageKind::Reinitialise(_) | StageKind::Encode(_) => 0.0,
            };
        }
        seconds
    }

    fn training(&self, retrain: &Retrain, method: Option<&MethodStage>) -> f64 {
        let Retrain::Engine(training) = retrain else { return 0.0 };
        let schedule = method.and_then(|m| m.schedule);
        let epochs = schedule.map_or(training.epochs, |s| training.epochs * f64::from(s.steps) + f64::from(s.recover));
        epochs * self.forward * (TRAINING * self.train as f64 + self.evaluated as f64)
    }
}

/// The seconds that cells will take on so many threads: their processor time by `rates`, times what finished cells took
/// of what was expected of them.
pub fn wall_seconds(cells: &[Placed], rates: &Rates, threads: usize) -> (f64, usize) {
    let (mut expected, mut took, mut finished, mut left) = (0.0, 0.0, 0, 0.0);
    for cell in cells {
        let seconds = rates.of(&cell.cell.recipe);
        match cell.place.read() {
            Some(done) => {
                expected += seconds;
                took += done.cpu_seconds;
                finished += 1;
            }
            None => left += seconds,
        }
    }
    let correction = if finished > 0 && expected > 0.0 && took > 0.0 { took / expected } else { 1.0 };
    (left * correction / threads.max(1) as f64, finished)
}
