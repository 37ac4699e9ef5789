//! `<output>.state/`: what an interrupted run needs to go on. Made when the first stage needs it, removed on success.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::drive::write_report;
use crate::error::{Error, Result};
use crate::hash;
use crate::plan::Plan;
use crate::progress::Watch;

/// The state of a run.
pub struct State {
    folder: PathBuf,
    record: Record,
}

/// A training that can be gone on with puts an empty file of this name into the state's folder.
pub const CHECKPOINT: &str = "checkpoint";

/// `state.json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Record {
    /// What the state belongs to, by what it is about: recipe, version, input files.
    key: BTreeMap<String, String>,
    /// Finished stages that changed values or cost time: number → report as JSON, and the file of the weights.
    stages: BTreeMap<usize, Finished>,
}

/// A finished stage.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Finished {
    /// Its report as JSON text.
    pub report: String,
    /// File name of the weights that it changed, within the stage's folder.
    pub weights: Option<String>,
    /// Whether tensors are encoded after it, whose terms are kept beside the weights.
    #[serde(default)]
    pub terms: bool,
    /// How tensors are to be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codings: Vec<crate::drive::CodingRecord>,
    /// Tensors whose zeros are held after it.
    pub held: Vec<usize>,
}

impl State {
    /// Where the state of an output lies.
    pub fn folder_of(output: &Path) -> PathBuf {
        let mut name = output.as_os_str().to_os_string();
        name.push(".state");
        PathBuf::from(name)
    }

    /// Opens the state of a run. An earlier run's is gone on with under `resume`, replaced under `force`, and otherwise
    /// an error: it may have cost hours.
    pub fn open(plan: &Plan<'_>, resume: bool, force: bool, watch: Watch<'_>) -> Result<State> {
        let output = plan.recipe.output()?;
        let folder = State::folder_of(output);
        let key = key(plan, watch)?;
        let path = folder.join("state.json");
        if path.exists() && resume {
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
            let record: Record = serde_json::from_str(&text)
                .map_err(|e| Error::failed(format!("\"{}\" is damaged ({e}); --force starts anew", path.display())))?;
            if let Some(what) = difference(&record.key, &key) {
                return Err(Error::usage(format!(
                    "--resume: \"{}\" belongs to another run: {what} changed; undo that, or --force starts anew",
                    folder.display()
                )));
            }
            return Ok(State { folder, record });
        }
        if resume {
            return Err(Error::usage(format!("--resume: there is no interrupted run in \"{}\"", folder.display())));
        }
        if folder.exists() {
            if !force {
                return Err(Error::usage(format!(
                    "an interrupted run left its state in \"{}\"; --resume goes on with it, --force starts anew",
                    folder.display()
                )));
            }
            std::fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, &e))?;
        }
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, &e))?;
        let state = State { folder, record: Record { key, stages: BTreeMap::new() } };
        state.save()?;
        Ok(state)
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.record).map_err(|e| Error::failed(e.to_string()))?;
        write_report(&self.folder.join("state.json"), &text)
    }

    /// A stage's own folder.
    pub fn stage_folder(&self, number: usize) -> Result<PathBuf> {
        let folder = self.folder.join(format!("stage-{number}"));
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, &e))?;
        Ok(folder)
    }

    /// The last finished stage that is kept, with its number.
    pub fn last(&self) -> Option<(usize, &Finished)> {
        self.record.stages.last_key_value().map(|(n, f)| (*n, f))
    }

    /// All kept stages up to the last.
    pub fn finished(&self) -> impl Iterator<Item = (usize, &Finished)> {
        self.record.stages.iter().map(|(n, f)| (*n, f))
    }

    /// Keeps a finished stage.
    pub fn keep(&mut self, number: usize, finished: Finished) -> Result<()> {
        self.record.stages.insert(number, finished);
        self.save()
    }

    /// Whether there is anything to go on from: a finished stage, or what a training kept of itself.
    pub fn is_worth_keeping(&self) -> bool {
        !self.record.stages.is_empty() || self.folder.join(CHECKPOINT).exists()
    }

    /// Removes the state.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.folder).map_err(|e| Error::io("remove", &self.folder, &e))
    }
}

fn key(plan: &Plan<'_>, watch: Watch<'_>) -> Result<BTreeMap<String, String>> {
    let mut key = BTreeMap::from([
        ("the recipe".to_string(), plan.recipe.portable_text()?),
        ("the version of compress".to_string(), env!("CARGO_PKG_VERSION").to_string()),
    ]);
    for path in plan.model.files().map(|f| f.path.as_path()).chain(plan.recipe.inputs()) {
        key.insert(format!("\"{}\"", path.display()), hash::file_sha256(path, watch)?);
    }
    Ok(key)
}

/// What differs first between two keys.
fn difference(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Option<String> {
    let changed = b.iter().find(|(k, v)| a.get(*k) != Some(v)).map(|(k, _)| k);
    changed.or_else(|| a.keys().find(|k| !b.contains_key(*k))).cloned()
}
