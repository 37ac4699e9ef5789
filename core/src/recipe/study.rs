//! The study of `compress compare`: candidates × swept values × seeds, each a recipe of its own.
//!
//! A string of a candidate that is exactly `"{name}"` takes the swept value of that name with its type. Placeholders of
//! commands (`{weights}` …) are left alone.

use std::path::{Path, PathBuf};

use super::fields::{Fields, Place, suggest};
use super::node::{self, Entry, Node, Value};
use super::training::{is_name, placeholders};
use super::{Command, Metric, Recipe, read};
use crate::error::{Error, Result};

/// A study.toml as written.
#[derive(Clone, Debug)]
pub struct Study {
    /// The file that it was read from, as the user named it.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The folder of reports and cells.
    pub output: PathBuf,
    /// What is compared.
    pub candidates: Vec<Candidate>,
    /// The swept names with their values, in written order.
    pub sweep: Vec<(String, Vec<toml::Value>)>,
    /// The seeds of candidates with anything random.
    pub seeds: Vec<u64>,
    /// The question that the report answers.
    pub budget: Option<Budget>,
    /// The recipe that all cells share, without stages, seed and output.
    base: Vec<Entry>,
    /// The values of `sweep` with their lines.
    values: Vec<Vec<Node>>,
}

/// `[[candidate]]`.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Line of the study on which it begins.
    pub line: usize,
    /// `[[candidate.stage]]` with placeholders.
    stage: Entry,
    /// Which of the swept names it uses.
    uses: Vec<usize>,
}

/// `[budget]`: the smallest file within this loss of the untouched model.
#[derive(Clone, PartialEq, Debug)]
pub struct Budget {
    /// The metric.
    pub metric: String,
    /// How much worse than the untouched model it may be, 0 or more, in the metric's unit.
    pub loss: f64,
}

/// One candidate at one point of the sweep with one seed.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The candidate's name.
    pub candidate: String,
    /// The swept values that the candidate uses.
    pub sweep: Vec<(String, toml::Value)>,
    /// The seed.
    pub seed: u64,
    /// What to run; its text is canonical, so that equal cells have equal texts. It has no output: that is the cell's
    /// own folder.
    pub recipe: Recipe,
    /// The same as a tree, to derive controls from.
    entries: Vec<Entry>,
}

impl Cell {
    /// The swept values as the report has them.
    pub fn sweep_json(&self) -> serde_json::Map<String, serde_json::Value> {
        self.sweep.iter().map(|(name, value)| (name.clone(), crate::report::from_toml(value))).collect()
    }
}

/// More cells than anyone means.
const MOST_CELLS: usize = 100_000;

impl Study {
    /// Reads a study from its file.
    pub fn load(path: &Path) -> Result<Study> {
        Study::parse(&super::read_text(path, "study")?, path)
    }

    /// Reads a study from its text. `path` names it in errors, and its folder is what the paths within are relative to.
    pub fn parse(text: &str, path: &Path) -> Result<Study> {
        let entries = node::parse(text, path)?;
        let top = Fields::new(Place { path, name: String::new() }, 1, &entries);
        if top.has("stage") {
            return Err(top.error_at("stage", "the stages of a study stand in [[candidate.stage]]"));
        }
        if top.has("mask") {
            return Err(top.error_at("mask", "\"mask\" has no place in a study: every cell writes its own"));
        }
        top.only(&[&OWN[..], &read::TOP].concat())?;
        let output = top.path("output")?.ok_or_else(|| top.missing("output", "the folder of the study's reports"))?;
        let (sweep, values) = sweep(&top)?;
        let mut seed = vec![top.integer("seed", 0)?.unwrap_or(1)];
        if let Some(repeat) = top.table("repeat")? {
            repeat.only(&["seeds"])?;
            seed = seeds(&repeat)?;
        }
        let own = |e: &&Entry| !OWN.contains(&e.key.as_str()) && e.key != "output" && e.key != "seed";
        let study = Study {
            path: path.to_path_buf(),
            text: text.to_string(),
            output,
            candidates: candidates(&top, &sweep)?,
            sweep,
            seeds: seed,
            budget: top.table("budget")?.map(|budget| self::budget(&top, &budget)).transpose()?,
            base: entries.iter().filter(own).cloned().collect(),
            values,
        };
        // Mistakes of the shared part are told once, without a candidate's name.
        read::recipe(&study.base, "", top.place.clone())?;
        for (i, (name, _)) in study.sweep.iter().enumerate() {
            if !study.candidates.iter().any(|c| c.uses.contains(&i)) {
                return Err(top.error_at("sweep", format!("no candidate uses \"{{{name}}}\", which [sweep] names")));
            }
        }
        Ok(study)
    }

    /// All cells: candidates in written order, swept values crossed with the last name fastest, then seeds. A candidate
    /// is crossed with the names that it uses only, and runs with the first seed only where nothing in it is `random`.
    pub fn cells(&self, random: impl Fn(&Recipe) -> bool) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for candidate in &self.candidates {
            let points: Option<usize> =
                candidate.uses.iter().try_fold(1usize, |product, i| product.checked_mul(self.values[*i].len()));
            let points = points.filter(|p| *p <= MOST_CELLS).ok_or_else(|| self.too_many(candidate))?;
            for point in 0..points {
                let mut rest = point;
                let mut chosen: Vec<(usize, usize)> = Vec::new();
                for i in candidate.uses.iter().rev() {
                    chosen.push((*i, rest % self.values[*i].len()));
                    rest /= self.values[*i].len();
                }
                chosen.reverse();
                for (nth, seed) in self.seeds.iter().enumerate() {
                    let cell = self.cell(candidate, &chosen, *seed)?;
                    if nth > 0 && !random(&cell.recipe) {
                        break;
                    }
                    cells.push(cell);
                }
                if cells.len() > MOST_CELLS {
                    return Err(self.too_many(candidate));
                }
            }
        }
        Ok(cells)
    }

    fn too_many(&self, candidate: &Candidate) -> Error {
        let place = format!("{}:{}: candidate \"{}\"", self.path.display(), candidate.line, candidate.name);
        Error::usage(format!("{place}: the study has more than {MOST_CELLS} cells: sweep less"))
    }

    fn cell(&self, candidate: &Candidate, chosen: &[(usize, usize)], seed: u64) -> Result<Cell> {
        let values: Vec<(&str, &Node)> =
            chosen.iter().map(|(i, value)| (self.sweep[*i].0.as_str(), &self.values[*i][*value])).collect();
        let stage = Entry { node: substitute(&candidate.stage.node, &values), ..candidate.stage.clone() };
        let place = Place { path: &self.path, name: format!("candidate \"{}\"", candidate.name) };
        let sweep = chosen.iter().map(|(i, v)| (self.sweep[*i].0.clone(), self.sweep[*i].1[*v].clone())).collect();
        self.make(&candidate.name, sweep, seed, Some(stage), place)
    }

    /// A cell of these stages.
    fn make(
        &self,
        candidate: &str,
        sweep: Vec<(String, toml::Value)>,
        seed: u64,
        stage: Option<Entry>,
        place: Place<'_>,
    ) -> Result<Cell> {
        let line = stage.as_ref().map_or(1, |s| s.line);
        let mut entries = self.base.clone();
        let node = Node { line, value: Value::Integer(i128::from(seed)) };
        entries.push(Entry { key: "seed".into(), line, node });
        entries.extend(stage);
        let recipe = read::recipe(&entries, &node::write(&entries), place)?;
        Ok(Cell { candidate: candidate.into(), sweep, seed, recipe, entries })
    }
}

/// Top-level keys that a recipe has not.
const OWN: [&str; 4] = ["candidate", "sweep", "repeat", "budget"];

/// The swept names with their values, and the values with their lines.
type Sweep = (Vec<(String, Vec<toml::Value>)>, Vec<Vec<Node>>);

fn sweep(top: &Fields<'_>) -> Result<Sweep> {
    let (mut sweep, mut nodes) = (Vec::new(), Vec::new());
    let Some(table) = top.table("sweep")? else { return Ok((sweep, nodes)) };
    for e in table.entries() {
        let name = &e.key;
        if !is_name(name) {
            let sentence = format!("\"{name}\" cannot be swept: a name has lower-case letters, digits, _ and -");
            return Err(table.place.error(e.line, sentence));
        }
        if Command::PLACEHOLDERS.contains(&name.as_str()) {
            let sentence = format!("\"{name}\" cannot be swept: {{{name}}} is a placeholder of commands");
            return Err(table.place.error(e.line, sentence));
        }
        let Value::List(list) = &e.node.value else {
            return Err(table.place.wrong(name, "a list of values", &e.node));
        };
        if list.is_empty() {
            return Err(table.place.error(e.line, format!("\"{name}\" is an empty list")));
        }
        let large = || table.place.error(e.line, format!("\"{name}\" holds an integer that is too large"));
        let values = list.iter().map(Node::to_toml).collect::<Option<Vec<_>>>().ok_or_else(large)?;
        sweep.push((name.clone(), values));
        nodes.push(list.clone());
    }
    Ok((sweep, nodes))
}

fn seeds(repeat: &Fields<'_>) -> Result<Vec<u64>> {
    let missing = || repeat.missing("seeds", "a list of integers");
    let node = repeat.get("seeds").ok_or_else(missing)?;
    let Value::List(list) = &node.value else { return Err(repeat.place.wrong("seeds", "a list of integers", node)) };
    let mut seeds = Vec::new();
    for node in list {
        let seed = repeat.place.integer("seeds", 0u64, node)?;
        if seeds.contains(&seed) {
            return Err(repeat.place.error(node.line, format!("\"seeds\" names {seed} twice")));
        }
        seeds.push(seed);
    }
    if seeds.is_empty() { Err(repeat.error_at("seeds", "\"seeds\" is an empty list")) } else { Ok(seeds) }
}

fn candidates(top: &Fields<'_>, sweep: &[(String, Vec<toml::Value>)]) -> Result<Vec<Candidate>> {
    let missing = || top.missing("candidate", "write a [[candidate]] for everything that is to be compared");
    let node = top.get("candidate").ok_or_else(missing)?;
    let Value::List(list) = &node.value else {
        return Err(top.place.error(node.line, "\"candidate\" must be a list of tables: write [[candidate]]"));
    };
    let mut candidates: Vec<Candidate> = Vec::new();
    for (i, node) in list.iter().enumerate() {
        let Value::Table(entries) = &node.value else { return Err(top.place.wrong("candidate", "a table", node)) };
        let fields = Fields::new(top.place.within(format!("candidate {}", i + 1)), node.line, entries);
        fields.only(&["name", "stage"])?;
        let name = fields.word("name")?.ok_or_else(|| fields.missing("name", "how the report calls the candidate"))?;
        if candidates.iter().any(|c| c.name == name) {
            return Err(fields.error_at("name", format!("another candidate is called \"{name}\" too")));
        }
        let stage = entries.iter().find(|e| e.key == "stage");
        let stage = stage.ok_or_else(|| fields.missing("stage", "write a [[candidate.stage]]"))?.clone();
        let place = top.place.within(format!("candidate \"{name}\""));
        let uses = uses(&place, &stage.node, sweep)?;
        candidates.push(Candidate { name, line: node.line, stage, uses });
    }
    if candidates.is_empty() { Err(missing()) } else { Ok(candidates) }
}

/// Which swept names a candidate uses; placeholders that nothing gives a value are refused.
fn uses(place: &Place<'_>, node: &Node, sweep: &[(String, Vec<toml::Value>)]) -> Result<Vec<usize>> {
    let below: Vec<&Node> = match &node.value {
        Value::Text(text) => return text_uses(place, node.line, text, sweep),
        Value::List(list) => list.iter().collect(),
        Value::Table(entries) => entries.iter().map(|e| &e.node).collect(),
        _ => Vec::new(),
    };
    let mut all = Vec::new();
    for node in below {
        all.extend(uses(place, node, sweep)?);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn text_uses(place: &Place<'_>, line: usize, text: &str, sweep: &[(String, Vec<toml::Value>)]) -> Result<Vec<usize>> {
    for name in placeholders(text) {
        let alone = whole_placeholder(text).is_some();
        match sweep.iter().position(|(swept, _)| swept == name) {
            Some(i) if alone => return Ok(vec![i]),
            Some(_) => {
                let sentence = format!("\"{{{name}}}\" must stand alone in its string, not within \"{text}\"");
                return Err(place.error(line, sentence));
            }
            None if alone && !Command::PLACEHOLDERS.contains(&name) => {
                let near = suggest(name, || sweep.iter().map(|(swept, _)| swept.as_str()));
                return Err(place.error(line, format!("[sweep] has no \"{name}\" for \"{{{name}}}\"{near}")));
            }
            None => {}
        }
    }
    Ok(Vec::new())
}

/// The name of a string that is exactly `{name}`.
fn whole_placeholder(text: &str) -> Option<&str> {
    text.strip_prefix('{')?.strip_suffix('}').filter(|name| is_name(name))
}

fn substitute(node: &Node, values: &[(&str, &Node)]) -> Node {
    let value = match &node.value {
        Value::Text(text) => {
            let swept = whole_placeholder(text).and_then(|name| values.iter().find(|(swept, _)| *swept == name));
            return swept.map_or_else(|| node.clone(), |(_, value)| (*value).clone());
        }
        Value::List(list) => Value::List(list.iter().map(|n| substitute(n, values)).collect()),
        Value::Table(entries) => {
            Value::Table(entries.iter().map(|e| Entry { node: substitute(&e.node, values), ..e.clone() }).collect())
        }
        other => other.clone(),
    };
    Node { line: node.line, value }
}

fn budget(top: &Fields<'_>, fields: &Fields<'_>) -> Result<Budget> {
    fields.only(&["metric", "loss"])?;
    let metric = fields.word("metric")?.ok_or_else(|| fields.missing("metric", "what the loss is measured in"))?;
    // A command prints metrics of its own.
    let by_command = top.get("candidate").is_some_and(evaluates_by_command);
    if !by_command && !Metric::ALL.iter().any(|m| m.name() == metric) {
        let near = suggest(&metric, || Metric::ALL.iter().map(|m| m.name()));
        return Err(fields.error_at("metric", format!("\"metric\" is \"{metric}\"{near}")));
    }
    let loss = fields.number("loss", "0 or more", |x| x >= 0.0)?;
    Ok(Budget { metric, loss: loss.ok_or_else(|| fields.missing("loss", "how much worse the metric may be"))? })
}

fn evaluates_by_command(node: &Node) -> bool {
    match &node.value {
        Value::List(list) => list.iter().any(evaluates_by_command),
        Value::Table(entries) => entries
            .iter()
            .any(|e| (e.key == "evaluate" && matches!(e.node.value, Value::Table(_))) || evaluates_by_command(&e.node)),
        _ => false,
    }
}

mod controls;

#[cfg(test)]
mod tests;
