//! The controls of a study: what its candidates must be held against, derived from the candidates' own stages, so that
//! a control differs from its candidate in one thing only.

use super::super::fields::Place;
use super::super::node::{Entry, Node, Value};
use super::super::stage::{Evaluate, StageKind};
use super::super::training::{Retrain, Schedule};
use super::{Cell, Study};
use crate::error::Result;
use crate::recipe::Recipe;

impl Study {
    /// The untouched model. What the candidates evaluate by a command is evaluated of it too.
    pub fn dense(&self, name: &str) -> Result<Cell> {
        self.control(name, Vec::new(), self.commands())
    }

    /// The untouched model with one stage of these keys.
    pub fn encoded(&self, name: &str, keys: &[(&str, &str)]) -> Result<Cell> {
        let entry = |(key, text): &(&str, &str)| entry(key, Value::Text((*text).into()));
        let stage = Node { line: 1, value: Value::Table(keys.iter().map(entry).collect()) };
        self.control(name, vec![stage], self.commands())
    }

    fn control(&self, name: &str, mut stages: Vec<Node>, more: Vec<Node>) -> Result<Cell> {
        stages.extend(more);
        self.derived(name, Vec::new(), self.seeds[0], stages)
    }

    fn derived(&self, name: &str, sweep: Vec<(String, toml::Value)>, seed: u64, stages: Vec<Node>) -> Result<Cell> {
        let place = Place { path: &self.path, name: format!("control \"{name}\"") };
        let stage = (!stages.is_empty()).then(|| entry("stage", Value::List(stages)));
        self.make(name, sweep, seed, stage, place)
    }

    /// The stages by which candidates evaluate with a command, each once.
    fn commands(&self) -> Vec<Node> {
        let mut found: Vec<Node> = Vec::new();
        for stage in self.candidates.iter().filter_map(|c| as_list(&c.stage.node)).flatten() {
            let by_command = get(stage, "evaluate").is_some_and(|e| matches!(e.value, Value::Table(_)));
            if by_command && !found.iter().any(|f| super::node::inline(f) == super::node::inline(stage)) {
                found.push(stage.clone());
            }
        }
        found
    }

    /// The dense model trained as the cell trains: the same epochs, rates and seeds in the same order, nothing pruned and
    /// nothing encoded. `None` where the cell does not train.
    ///
    /// A pruning in steps is as many trainings, as the run makes them: at a steady rate while it prunes, falling while
    /// it recovers; each goes on with the optimiser of the one before, as those of a schedule do.
    pub fn dense_retrained(&self, name: &str, cell: &Cell) -> Result<Option<Cell>> {
        let (mut stages, mut trains) = (Vec::new(), false);
        for (node, stage) in cell.nodes().iter().zip(&cell.recipe.stages) {
            match &stage.kind {
                StageKind::Retrain(_) => {
                    trains = true;
                    stages.push(node.clone());
                }
                StageKind::Method(method) => {
                    let Some(retrain) = get(node, "retrain") else { continue };
                    trains = true;
                    let seed = get(node, "seed");
                    trainings(retrain, method.retrain.as_ref(), method.schedule, seed, &mut stages);
                }
                // Trained from the start: so is the control.
                StageKind::Reinitialise(_) | StageKind::Evaluate(Evaluate::Command(_)) => stages.push(node.clone()),
                StageKind::Measure(_) | StageKind::Encode(_) | StageKind::Evaluate(_) => {}
            }
        }
        if !trains {
            return Ok(None);
        }
        self.derived(name, Vec::new(), cell.seed, stages).map(Some)
    }

    /// The cell with `method` in place of its methods, whatever the scheme: the same amounts, patterns and classes, the
    /// same training and encoding. `None` where a stage's amount is not the recipe's to say.
    pub fn random(&self, name: &str, method: &str, cell: &Cell) -> Result<Option<Cell>> {
        let methods = || cell.recipe.stages.iter().zip(cell.nodes());
        let told = methods().all(|(stage, node)| match &stage.kind {
            StageKind::Method(m) => !m.residual && (get(node, "amount").is_some() || get(node, "pattern").is_some()),
            _ => true,
        });
        if !told || !methods().any(|(stage, _)| matches!(stage.kind, StageKind::Method(_))) {
            return Ok(None);
        }
        // Swept values that stand only in what was replaced (a scheme, a method's option) do not tell its cells apart.
        let candidate = self.candidates.iter().find(|c| c.name == cell.candidate);
        let mut sweep = cell.sweep.clone();
        if let Some(candidate) = candidate {
            let place = Place { path: &self.path, name: String::new() };
            let left = Value::List(drawn(as_list(&candidate.stage.node).unwrap_or(&[]), method));
            let used = super::uses(&place, &Node { line: 1, value: left }, &self.sweep)?;
            sweep.retain(|(name, _)| used.iter().any(|i| self.sweep[*i].0 == *name));
        }
        self.derived(name, sweep, cell.seed, drawn(cell.nodes(), method)).map(Some)
    }

    /// The recipe of a cell that was kept as text: its paths are those of the study.
    pub fn recipe_of(&self, text: &str) -> Result<Recipe> {
        Recipe::parse(text, &self.path)
    }
}

impl Cell {
    /// The stages in one canonical form: what the cell does, whatever its seed.
    pub fn stages_text(&self) -> String {
        self.nodes().iter().map(super::node::inline).collect::<Vec<_>>().join("\n")
    }

    fn nodes(&self) -> &[Node] {
        self.entries.iter().find(|e| e.key == "stage").and_then(|e| as_list(&e.node)).unwrap_or(&[])
    }
}

/// The stages with another method, whose scheme and options are its own defaults; what was measured for the old one is
/// not.
fn drawn(stages: &[Node], method: &str) -> Vec<Node> {
    let changed = |node: &Node| {
        if get(node, "method").is_none() {
            return node.clone();
        }
        let kept = |e: &&Entry| !["method", "scheme", "options"].contains(&e.key.as_str());
        let mut entries = vec![entry("method", Value::Text(method.into()))];
        entries.extend(table(node).iter().filter(kept).cloned());
        Node { line: node.line, value: Value::Table(entries) }
    };
    stages.iter().filter(|node| get(node, "measure").is_none()).map(changed).collect()
}

/// The trainings of a pruning in steps as stages of their own.
fn trainings(
    retrain: &Node,
    training: Option<&Retrain>,
    schedule: Option<Schedule>,
    seed: Option<&Node>,
    stages: &mut Vec<Node>,
) {
    let stage = |retrain: Node| {
        let mut entries = vec![Entry { key: "retrain".into(), line: retrain.line, node: retrain }];
        entries.extend(seed.map(|node| Entry { key: "seed".into(), line: node.line, node: node.clone() }));
        Node { line: 1, value: Value::Table(entries) }
    };
    let Some(schedule) = schedule else { return stages.push(stage(retrain.clone())) };
    let recovers = schedule.recover > 0 && matches!(training, Some(Retrain::Engine(_)));
    let with = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut entries = table(retrain).to_vec();
        change(&mut entries);
        Node { line: retrain.line, value: Value::Table(entries) }
    };
    let step = if recovers { with(&|e| e.retain(|e| e.key != "decay")) } else { retrain.clone() };
    stages.extend((0..schedule.steps).map(|_| stage(step.clone())));
    if recovers {
        stages.push(stage(with(&|entries| {
            for e in entries.iter_mut().filter(|e| e.key == "epochs") {
                e.node.value = Value::Integer(i128::from(schedule.recover));
            }
        })));
    }
}

fn entry(key: &str, value: Value) -> Entry {
    Entry { key: key.into(), line: 1, node: Node { line: 1, value } }
}

fn as_list(node: &Node) -> Option<&[Node]> {
    match &node.value {
        Value::List(list) => Some(list),
        _ => None,
    }
}

fn table(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Table(entries) => entries,
        _ => &[],
    }
}

fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    table(node).iter().find(|e| e.key == key).map(|e| &e.node)
}
