//! The recipe: a pipeline.toml as written, typed and checked as far as the text alone allows. Nothing else is read
//! here; whether files, classes and methods exist is for the plan to say.
//!
//! Every mistake is a usage error of one sentence with the file, the line and, for unknown words, the nearest known
//! one: `pipeline.toml:12: stage 2: unknown key "amont" (did you mean "amount"?)`.

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use data::{Bleu, Data, References, Tokenize};
pub use stage::{
    Amounts, EncodeLayout, EncodeStage, EncodeValues, Evaluate, Initialise, MeasureStage, MethodStage, Metric, Pattern,
    Scheme, Stage, StageKind,
};
pub use study::{Cell, Study};
pub use training::{
    Command, Decay, Distil, Dropout, OnViolation, Optimizer, Retrain, Schedule, ScheduleShape, Training,
};

use crate::error::{Error, Result};
use fields::Place;

mod check;
mod data;
mod fields;
mod node;
mod portable;
mod read;
mod read_stage;
mod stage;
pub mod study;
mod training;

#[cfg(test)]
mod tests;

/// A recipe as written, with paths made relative to the recipe's folder.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The file that it was read from, as the user named it.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What goes in.
    pub model: ModelPaths,
    /// What comes out; commands that write no model need none (see [`Recipe::output`]).
    pub output: Option<PathBuf>,
    /// Where the masks are written.
    pub mask: Option<PathBuf>,
    /// Masks of weights that are pruned already.
    pub from: Option<PathBuf>,
    /// Where measured statistics are written and read.
    pub evidence: Option<PathBuf>,
    /// Seed of every stage without one of its own.
    pub seed: u64,
    /// Whether biases, norms and other one-dimensional tensors are prunable.
    pub include_1d: bool,
    /// Classes in written order with their globs; empty = the default classes.
    pub classes: Vec<(String, Vec<String>)>,
    /// Examples to evaluate on, to measure with and to train with.
    pub data: Option<Data>,
    /// Methods from elsewhere.
    pub plugins: Plugins,
    /// The stages in written order.
    pub stages: Vec<Stage>,
}

/// The model or models of a recipe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModelPaths {
    /// A file, or a folder of shards. The output is of the same kind.
    One(PathBuf),
    /// Files that are one population of classes. The output is a folder.
    Many(Vec<PathBuf>),
}

/// `[plugins]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plugins {
    /// Shared libraries of methods.
    pub libraries: Vec<PathBuf>,
    /// Methods that are programs: name and words of the command, in written order.
    pub programs: Vec<(String, Vec<String>)>,
    /// How long a program or command may be silent.
    pub timeout: Duration,
}

impl Default for Plugins {
    fn default() -> Self {
        Plugins { libraries: Vec::new(), programs: Vec::new(), timeout: Duration::from_secs(600) }
    }
}

impl ModelPaths {
    /// All of them, in written order.
    pub fn all(&self) -> &[PathBuf] {
        match self {
            ModelPaths::One(path) => std::slice::from_ref(path),
            ModelPaths::Many(paths) => paths,
        }
    }
}

/// The text of a recipe or study. A recipe that cannot be read is a wrong command line.
fn read_text(path: &Path, what: &str) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::usage(Error::io("read", path, &e).to_string()))?;
    let not_text = |_| Error::usage(format!("{}: the file is not UTF-8 text, so it is no {what}", path.display()));
    String::from_utf8(bytes).map_err(not_text)
}

impl Recipe {
    /// Reads a recipe from its text. `path` names it in errors, and its folder is what the paths within are relative to.
    pub fn parse(text: &str, path: &Path) -> Result<Recipe> {
        let entries = node::parse(text, path)?;
        read::recipe(&entries, text, Place { path, name: String::new() })
    }

    /// Reads a recipe from its file.
    pub fn load(path: &Path) -> Result<Recipe> {
        Recipe::parse(&read_text(path, "recipe")?, path)
    }

    /// The folder that the recipe stands in: what its paths and commands are relative to. Empty = the current one.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Where the model goes, for commands that write one.
    pub fn output(&self) -> Result<&Path> {
        self.output.as_deref().ok_or_else(|| {
            Error::usage(format!("{}: \"output\" is missing: the path of the model to write", self.path.display()))
        })
    }

    /// The files of models that a retraining learns from.
    pub fn teachers(&self) -> impl Iterator<Item = &Path> {
        self.stages.iter().filter_map(|stage| stage.training()?.distil.as_ref()?.teacher.as_deref())
    }

    /// The files that its result depends on, beside the model's: data, masks, teachers, and evidence that no stage writes.
    pub fn inputs(&self) -> impl Iterator<Item = &Path> {
        let measures = self.stages.iter().any(|s| matches!(s.kind, StageKind::Measure(_)));
        let evidence = self.evidence.as_deref().filter(|path| !measures && path.exists());
        let data = self.data.iter().flat_map(Data::files);
        data.chain(self.from.as_deref()).chain(self.teachers()).chain(evidence)
    }

    /// The seed of a stage: its own, or else the recipe's.
    pub fn seed_of(&self, stage: &Stage) -> u64 {
        stage.seed.unwrap_or(self.seed)
    }

    /// The recipe in one canonical form without comments and with all paths cut to file names: the same on every
    /// machine, and no folder of the user's in a file that travels. For reading; files of one name in several folders are
    /// one name here.
    pub fn portable_text(&self) -> Result<String> {
        portable::text(&self.text, &self.path)
    }
}
