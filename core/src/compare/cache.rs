//! A cell on disk: `cells/<key>/` with the recipe, the model, the masks, the report, and last of all `cell.json`, which
//! says that the rest is whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bleu::Counts;
use crate::drive::write_report;
use crate::error::{Error, Result};
use crate::recipe::{ModelPaths, Recipe, StageKind};
use crate::report::Metrics;
use crate::state::State;

/// A finished cell: `cell.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// Bytes of the model's files.
    pub bytes: u64,
    /// The same after zstd.
    pub zstd_bytes: u64,
    /// zstd's level.
    pub zstd_level: i32,
    /// Metrics of the file that was written.
    pub metrics: Metrics,
    /// Wall seconds: the run, and measuring its quality.
    pub seconds: f64,
    /// Seconds of processor time, user and system, with all threads; of commands only what they were waited for.
    pub cpu_seconds: f64,
    /// Most memory that was resident.
    pub peak_bytes: u64,
}

/// How good a file is: its metrics, and BLEU's counts by split, a sentence each.
#[derive(Clone, Debug, Default)]
pub struct Quality {
    /// The metrics.
    pub metrics: Metrics,
    /// `"validation"`, `"test"`.
    pub bleu: BTreeMap<String, Vec<Counts>>,
}

/// How long a model takes to load and to run, alone on the machine with one thread: medians.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    /// Opening the file and decoding all weights: wall seconds.
    pub load_seconds: f64,
    /// The same: user and system.
    pub load_cpu_seconds: f64,
    /// One batch forwards: wall seconds; absent where nothing can run the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_seconds: Option<f64>,
    /// The same: user and system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_cpu_seconds: Option<f64>,
    /// Examples of the batch.
    pub examples: u64,
    /// How often it was measured.
    pub repeats: u64,
}

/// The files of a cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The folder.
    pub folder: PathBuf,
}

impl Place {
    /// The recipe's text.
    pub fn recipe(&self) -> PathBuf {
        self.folder.join("recipe.toml")
    }

    /// The JSON report of the run.
    pub fn report(&self) -> PathBuf {
        self.folder.join("report.json")
    }

    /// What the process said.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    /// The masks.
    pub fn masks(&self) -> PathBuf {
        self.folder.join("masks.safetensors")
    }

    /// BLEU's counts.
    pub fn bleu(&self) -> PathBuf {
        self.folder.join("bleu.json")
    }

    fn done(&self) -> PathBuf {
        self.folder.join("cell.json")
    }

    /// Where the timing stands.
    pub fn timing(&self) -> PathBuf {
        self.folder.join("timing.json")
    }

    /// Sets what a recipe writes: all of it in this folder.
    pub fn direct(&self, recipe: &mut Recipe) {
        recipe.output = Some(self.model(&recipe.model));
        recipe.mask = Some(self.masks());
        if recipe.stages.iter().any(|s| matches!(s.kind, StageKind::Measure(_))) {
            recipe.evidence = Some(self.folder.join("evidence.safetensors"));
        }
    }

    /// The model that the cell writes.
    pub fn model(&self, input: &ModelPaths) -> PathBuf {
        let extension = match input {
            ModelPaths::One(path) if !path.is_dir() => path.extension(),
            _ => None,
        };
        let model = self.folder.join("model");
        extension.map_or_else(|| model.clone(), |e| model.with_extension(e))
    }

    /// The files or folders that the model can be opened by.
    pub fn written(&self, input: &ModelPaths) -> Vec<PathBuf> {
        let model = self.model(input);
        match input {
            ModelPaths::One(_) => vec![model],
            ModelPaths::Many(paths) => paths.iter().map(|p| model.join(p.file_name().unwrap_or_default())).collect(),
        }
    }

    /// The finished cell, if it is finished.
    pub fn read(&self) -> Option<Done> {
        let done = serde_json::from_str(&std::fs::read_to_string(self.done()).ok()?).ok()?;
        self.report().exists().then_some(done)
    }

    /// Says that the cell is finished.
    pub fn finish(&self, done: &Done, bleu: &BTreeMap<String, Vec<Counts>>) -> Result<()> {
        if !bleu.is_empty() {
            write_json(&self.bleu(), bleu)?;
        }
        write_json(&self.done(), done)
    }

    /// BLEU's counts by split; empty where there are none.
    pub fn counts(&self) -> BTreeMap<String, Vec<Counts>> {
        let text = std::fs::read_to_string(self.bleu()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The timing, where it was measured.
    pub fn read_timing(&self) -> Option<Timing> {
        serde_json::from_str(&std::fs::read_to_string(self.timing()).ok()?).ok()
    }

    /// Whether an interrupted run of the cell can be gone on with.
    pub fn begun(&self, recipe: &Recipe) -> bool {
        recipe.output.as_ref().is_some_and(|output| State::folder_of(output).join("state.json").exists())
    }

    /// Removes all that is there.
    pub fn clear(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &self.folder, &e)),
            _ => Ok(()),
        }
    }

    /// The last line of what the process said.
    pub fn last_word(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let line = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
        line.trim_start_matches("error: ").to_string()
    }
}

/// Writes a value as indented JSON, whole or not at all.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::failed(e.to_string()))?;
    write_report(path, &(text + "\n"))
}
