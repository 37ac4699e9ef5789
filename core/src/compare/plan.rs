//! Which cells a study has: its own, and the controls that are always there; and the key of each, a hash of all that
//! decides it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cache::Place;
use crate::error::{Error, Result};
use crate::hash;
use crate::plan::{Plan, Setup};
use crate::progress::Watch;
use crate::recipe::{Cell, Evaluate, Recipe, Retrain, StageKind, Study};
use crate::registry::Registry;
use crate::report::hex;

/// What a cell is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The study compares it.
    Candidate,
    /// The untouched model.
    Dense,
    /// The dense model trained as a candidate trains.
    DenseRetrained,
    /// Random pruning in a candidate's place.
    Random,
    /// Every weight in eight bits, nothing pruned.
    Int8,
    /// The untouched model's file through zstd. It is not run: its figures are those of dense.
    Zstd,
}

impl Kind {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Candidate => "candidate",
            Kind::Dense => "dense",
            Kind::DenseRetrained => "dense retrained",
            Kind::Random => "random",
            Kind::Int8 => "int8 only",
            Kind::Zstd => "zstd only",
        }
    }
}

/// A cell with its place on disk.
#[derive(Clone, Debug)]
pub struct Placed {
    /// What it is there for.
    pub kind: Kind,
    /// The cell.
    pub cell: Cell,
    /// Hash of recipe, inputs and version.
    pub key: String,
    /// Its folder.
    pub place: Place,
}

impl Placed {
    /// `class-blind, amount 80%, seed 1`.
    pub fn label(&self) -> String {
        label(&self.cell.candidate, &self.cell.sweep)
    }
}

/// `class-blind, amount 80%`.
pub fn label(candidate: &str, sweep: &[(String, toml::Value)]) -> String {
    let mut text = candidate.to_string();
    for (name, value) in sweep {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        text += &format!(", {name} {value}");
    }
    text
}

/// All that is to be run and compared.
pub struct Comparison<'s> {
    /// The study.
    pub study: &'s Study,
    /// Controls first, then the study's cells in its order.
    pub cells: Vec<Placed>,
    /// What the reader should know: controls that cannot be had.
    pub notes: Vec<String>,
    /// Hashes of the inputs, by path as the study names them.
    pub inputs: BTreeMap<String, String>,
}

impl<'s> Comparison<'s> {
    /// Resolves and checks all cells: whatever can be refused is refused here. `libraries` are those of the command
    /// line.
    pub fn new(study: &'s Study, setup: &Setup<'_>, libraries: &[PathBuf], watch: Watch<'_>) -> Result<Comparison<'s>> {
        let own = study.cells(|recipe| is_random(setup.registry, recipe))?;
        let mut notes = Vec::new();
        let name = |kind: Kind| match study.candidates.iter().any(|c| c.name == kind.name()) {
            true => format!("{} (control)", kind.name()),
            false => kind.name().to_string(),
        };
        let mut all = vec![(Kind::Dense, study.dense(&name(Kind::Dense))?)];
        all.push((Kind::Int8, study.encoded(&name(Kind::Int8), &[("encode", "dense"), ("values", "int8")])?));
        all.extend(retrained(study, &own, &name(Kind::DenseRetrained))?);
        all.extend(random(study, &own, &name(Kind::Random), setup.registry, &mut notes)?);
        all.extend(own.into_iter().map(|cell| (Kind::Candidate, cell)));
        let mut files = Files::default();
        let mut cells: Vec<Placed> = Vec::new();
        for (kind, cell) in all {
            let mut recipe = cell.recipe.clone();
            let home = Place { folder: study.output.join("cells/new") };
            home.direct(&mut recipe);
            let plan = match Plan::new(setup, &recipe, false) {
                Ok(plan) => plan,
                // A control that cannot be had is told; a candidate that cannot be had is a mistake in the study.
                Err(e @ (Error::Usage(_) | Error::Failed(_))) if matches!(kind, Kind::Int8 | Kind::Random) => {
                    notes.push(format!("the control \"{}\" is left out: {e}", cell.candidate));
                    continue;
                }
                // What the shared part has wrong is no one cell's mistake.
                Err(e) if kind == Kind::Dense => return Err(e),
                Err(e) => return Err(e.at(format!("\"{}\"", label(&cell.candidate, &cell.sweep)))),
            };
            let key = files.key(&cell.recipe, &plan, libraries, watch)?;
            drop(plan);
            let place = Place { folder: study.output.join("cells").join(&key) };
            cells.push(Placed { kind, cell, key, place });
        }
        notes.dedup();
        Ok(Comparison { study, cells, notes, inputs: files.hashes })
    }

    /// The untouched model's cell.
    pub fn dense(&self) -> &Placed {
        &self.cells[0]
    }
}

/// Whether a recipe's result depends on its seed.
fn is_random(registry: &Registry, recipe: &Recipe) -> bool {
    recipe.stages.iter().any(|stage| match &stage.kind {
        StageKind::Method(m) => m.retrain.is_some() || registry.get(&m.method).is_ok_and(|m| m.card().random),
        StageKind::Measure(_) | StageKind::Retrain(_) | StageKind::Reinitialise(_) => true,
        StageKind::Evaluate(_) | StageKind::Encode(_) => false,
    })
}

/// The dense model trained as each candidate trains; candidates that train alike share it.
fn retrained(study: &Study, own: &[Cell], name: &str) -> Result<Vec<(Kind, Cell)>> {
    // Ways of training, each with the candidate that has it first, and the cells of its seeds.
    let mut ways: Vec<(String, String, Vec<Cell>)> = Vec::new();
    for cell in own {
        let Some(control) = study.dense_retrained(name, cell)? else { continue };
        let way = control.stages_text();
        match ways.iter_mut().find(|(w, ..)| *w == way) {
            Some((_, _, cells)) if cells.iter().any(|c| c.seed == control.seed) => {}
            Some((_, _, cells)) => cells.push(control),
            None => ways.push((way, cell.candidate.clone(), vec![control])),
        }
    }
    let several = ways.len() > 1;
    let mut used: Vec<String> = Vec::new();
    let mut out = Vec::new();
    for (_, candidate, cells) in ways {
        let mut called = if several { format!("{name} as {candidate}") } else { name.to_string() };
        let times = used.iter().filter(|u| **u == called).count();
        used.push(called.clone());
        if times > 0 {
            called += &format!(" ({})", times + 1);
        }
        for mut cell in cells {
            cell.candidate.clone_from(&called);
            out.push((Kind::DenseRetrained, cell));
        }
    }
    Ok(out)
}

/// Random pruning in each candidate's place; candidates that differ in nothing else share it.
fn random(
    study: &Study,
    own: &[Cell],
    name: &str,
    registry: &Registry,
    notes: &mut Vec<String>,
) -> Result<Vec<(Kind, Cell)>> {
    const METHOD: &str = "random";
    if registry.get(METHOD).is_err() {
        notes.push(format!("the control \"{name}\" is left out: this build has no method \"{METHOD}\""));
        return Ok(Vec::new());
    }
    let mut out: Vec<(Kind, Cell)> = Vec::new();
    let mut without = Vec::new();
    for cell in own {
        let Some(mut control) = study.random(name, METHOD, cell)? else {
            let prunes = cell.recipe.stages.iter().any(|s| matches!(s.kind, StageKind::Method(_)));
            if prunes && !without.contains(&&cell.candidate) {
                without.push(&cell.candidate);
            }
            continue;
        };
        let known = own.iter().chain(out.iter().map(|(_, c)| c)).any(|c| c.recipe.text == control.recipe.text);
        if !known {
            // Two controls that differ in more than what is swept are told apart by the candidate.
            if out.iter().any(|(_, c)| c.sweep == control.sweep && c.seed == control.seed && c.candidate == name) {
                control.candidate = format!("{name} as {}", cell.candidate);
            }
            out.push((Kind::Random, control));
        }
    }
    for candidate in without {
        notes.push(format!(
            "\"{candidate}\" has no random control: how much it takes away is not an amount of the recipe"
        ));
    }
    Ok(out)
}

/// Hashes of input files, each made once.
#[derive(Default)]
struct Files {
    hashes: BTreeMap<String, String>,
}

impl Files {
    fn of(&mut self, path: &Path, watch: Watch<'_>) -> Result<String> {
        let name = path.display().to_string();
        if let Some(known) = self.hashes.get(&name) {
            return Ok(known.clone());
        }
        let hash = hash::file_sha256(path, watch)?;
        self.hashes.insert(name, hash.clone());
        Ok(hash)
    }

    /// The key of a cell: a hash of the version, the recipe, and every file that it reads.
    fn key(&mut self, recipe: &Recipe, plan: &Plan<'_>, libraries: &[PathBuf], watch: Watch<'_>) -> Result<String> {
        let mut paths: Vec<PathBuf> = plan.model.files().map(|f| f.path.clone()).collect();
        paths.extend(recipe.inputs().map(Path::to_path_buf));
        paths.extend(recipe.plugins.libraries.iter().chain(libraries).cloned());
        paths.extend(commands(recipe).into_iter().map(|w| recipe.folder().join(w)).filter(|p| p.is_file()));
        let mut hasher = Sha256::new();
        hasher.update(format!("compress {} cell 1\n{}", env!("CARGO_PKG_VERSION"), recipe.text));
        for path in paths {
            hasher.update(format!("\n{}", self.of(&path, watch)?));
        }
        Ok(hex(&hasher.finalize())[..20].to_string())
    }
}

/// The words of all commands and programs: those that name files are inputs too.
fn commands(recipe: &Recipe) -> Vec<&str> {
    let mut words: Vec<&str> = recipe.plugins.programs.iter().flat_map(|(_, w)| w).map(String::as_str).collect();
    for stage in &recipe.stages {
        let command = match &stage.kind {
            StageKind::Retrain(Retrain::Command { command, .. }) | StageKind::Evaluate(Evaluate::Command(command)) => {
                command
            }
            StageKind::Method(m) => match &m.retrain {
                Some(Retrain::Command { command, .. }) => command,
                _ => continue,
            },
            _ => continue,
        };
        words.extend(command.words.iter().map(String::as_str));
    }
    words
}
