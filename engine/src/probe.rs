//! Pieces of an evaluation one by one, for whoever wants to know what they cost: loading, a batch, some translations.

use compress_core::progress::Watch;
use compress_core::{Error, Result};

use crate::engine::{Engine, Split, Weights};
use crate::execute::Base;
use crate::step::evaluate;

/// A model that is loaded: its weights are decoded, and what depends on them alone is computed.
pub struct Loaded {
    base: Base<f32>,
    split: Split,
    rows: Vec<usize>,
}

impl Loaded {
    /// Examples of the batch that it is run on.
    pub fn examples(&self) -> usize {
        self.rows.len()
    }
}

impl Engine<'_> {
    /// Loads the weights for running the first `rows` examples of the first split that there is a file for.
    pub fn load(&self, weights: &dyn Weights, rows: usize) -> Result<Loaded> {
        let split = self.first_split()?;
        let rows = (0..self.batch(rows).min(self.count(split)?)).collect();
        let base = self.program.base(&self.read(&self.program, weights)?, None)?;
        Ok(Loaded { base, split, rows })
    }

    /// Runs a loaded model once on its examples and computes the loss.
    pub fn run(&self, loaded: &Loaded) -> Result<()> {
        let batch = self.examples(loaded.split)?.batch(&loaded.rows)?;
        evaluate(&self.program, &loaded.base, &self.objective, batch).map(|_| ())
    }

    /// Translates about this many examples.
    pub fn translate_some(&self, weights: &dyn Weights, examples: usize, watch: Watch) -> Result<()> {
        self.translations_of(weights, self.first_split()?, Some(examples), watch).map(|_| ())
    }

    /// Examples of a split; 0 where there is no file for it.
    pub fn count(&self, split: Split) -> Result<usize> {
        if self.has(split) { Ok(self.examples(split)?.count()) } else { Ok(0) }
    }

    fn first_split(&self) -> Result<Split> {
        let splits = [Split::Validation, Split::Test, Split::Train];
        let found = splits.into_iter().find(|s| self.has(*s));
        found.ok_or_else(|| Error::usage("[data] names no file to run the model on"))
    }
}
