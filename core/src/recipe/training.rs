//! Retraining: by the engine, by a command, and in steps.

use std::path::PathBuf;

use super::fields::{Fields, Place, suggest};
use super::node::{Node, Value};
use crate::error::Result;

/// `retrain`.
#[derive(Clone, PartialEq, Debug)]
pub enum Retrain {
    /// By the engine.
    Engine(Training),
    /// By a command that reads {weights} and {mask} and writes {output}.
    Command {
        /// The command.
        command: Command,
        /// What to do when pruned weights come back non-zero.
        on_violation: OnViolation,
    },
}

/// Words of a command. Placeholders in them are those of [`Command::PLACEHOLDERS`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Program and arguments; never empty.
    pub words: Vec<String>,
}

/// What to do when a command returns weights that were pruned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OnViolation {
    /// End the run.
    #[default]
    Error,
    /// Set them to zero again, and say so.
    Repair,
}

/// How the engine trains. What is absent is the engine's default.
#[derive(Clone, PartialEq, Debug)]
pub struct Training {
    /// Passes over the training data, above 0; 0.25 is a quarter of one.
    pub epochs: f64,
    /// Learning rate, above 0.
    pub rate: Option<f64>,
    /// How the rate falls.
    pub decay: Option<Decay>,
    /// Steps over which the rate rises from 0.
    pub warmup: u64,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Momentum of sgd, from 0 to below 1.
    pub momentum: Option<f64>,
    /// Decoupled weight decay, a step, times the rate.
    pub weight_decay: Option<f64>,
    /// Examples a batch.
    pub batch: Option<u64>,
    /// Greatest norm of the gradient.
    pub clip: Option<f64>,
    /// Dropout put back between layers.
    pub dropout: Dropout,
    /// Epochs without a better validation loss before it stops.
    pub patience: Option<u32>,
    /// What is learnt from another model beside the labels.
    pub distil: Option<Distil>,
}

/// Knowledge distillation (Hinton, Vinyals & Dean 2015): the loss is (1 − weight) times that of the labels plus weight times
/// that of what a teacher says, whose outputs are its softmax at a temperature, or the outputs themselves for squared error.
#[derive(Clone, PartialEq, Debug)]
pub struct Distil {
    /// The teacher's share in the loss, above 0 and at most 1.
    pub weight: f64,
    /// What logits are divided by, above 0; the loss is multiplied with its square.
    pub temperature: f64,
    /// The teacher's file; `None` = the recipe's model as it was given.
    pub teacher: Option<PathBuf>,
}

/// How the learning rate falls.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Decay {
    /// `decay = 0.5`: times this after each epoch.
    Factor(f64),
    /// `decay = "linear"`: to 0 in a straight line.
    Linear,
    /// `decay = "cosine"`: to 0 along half a cosine.
    Cosine,
}

/// An optimizer of the engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Optimizer {
    /// Adam.
    #[default]
    Adam,
    /// Stochastic gradient descent.
    Sgd,
}

impl Optimizer {
    /// All of them.
    pub const ALL: [Optimizer; 2] = [Optimizer::Adam, Optimizer::Sgd];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Optimizer::Adam => "adam",
            Optimizer::Sgd => "sgd",
        }
    }
}

/// Dropout during retraining.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Dropout {
    /// None.
    #[default]
    None,
    /// The same probability between all layers.
    Everywhere(f64),
    /// Globs of names or roles with their probabilities, in written order; the first that matches wins.
    ByName(Vec<(String, f64)>),
}

/// `schedule`: the amount is reached in steps, with a retraining after each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// Steps, at least 1.
    pub steps: u32,
    /// How the amount grows over the steps.
    pub shape: ScheduleShape,
    /// Epochs of retraining after the last step, beside those of the step.
    pub recover: u32,
}

impl Schedule {
    /// The share of the amount that is reached after a step (from 1): t/T, or 1 − (1 − t/T)³ (Zhu & Gupta 2017, eq. 1,
    /// from no pruning on).
    pub fn portion(&self, step: u32) -> f64 {
        let t = f64::from(step) / f64::from(self.steps.max(1));
        match self.shape {
            ScheduleShape::Linear => t,
            ScheduleShape::Cubic => 1.0 - (1.0 - t).powi(3),
        }
    }
}

/// How the amount grows over the steps of a schedule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ScheduleShape {
    /// s(t) = s·t.
    Linear,
    /// s(t) = s·(1 − (1 − t)³), much at the beginning (Zhu & Gupta 2017).
    #[default]
    Cubic,
}

impl ScheduleShape {
    /// All of them.
    pub const ALL: [ScheduleShape; 2] = [ScheduleShape::Linear, ScheduleShape::Cubic];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            ScheduleShape::Linear => "linear",
            ScheduleShape::Cubic => "cubic",
        }
    }
}

const ENGINE: [&str; 12] = [
    "epochs",
    "rate",
    "decay",
    "warmup",
    "optimizer",
    "momentum",
    "weight_decay",
    "batch",
    "clip",
    "dropout",
    "patience",
    "distil",
];

impl Retrain {
    pub(super) fn read(place: &Place<'_>, node: &Node) -> Result<Retrain> {
        let fields = Fields::of(place, "retrain", node)?;
        fields.only(&[&ENGINE[..], &["command", "on_violation"]].concat())?;
        let Some(words) = fields.get("command") else {
            if fields.has("on_violation") {
                let sentence = "\"on_violation\" goes with \"command\" only: the engine holds the masks itself";
                return Err(fields.error_at("on_violation", sentence));
            }
            return Ok(Retrain::Engine(Training::read(&fields)?));
        };
        if let Some(key) = ENGINE.iter().find(|key| fields.has(key)) {
            let sentence = format!("\"{key}\" has no meaning beside \"command\": the command decides that itself");
            return Err(fields.error_at(key, sentence));
        }
        Ok(Retrain::Command {
            command: Command::read(&fields.place, words)?,
            on_violation: fields.choice("on_violation", &OnViolation::ALL, OnViolation::name)?.unwrap_or_default(),
        })
    }
}

impl OnViolation {
    /// All of them.
    pub const ALL: [OnViolation; 2] = [OnViolation::Error, OnViolation::Repair];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            OnViolation::Error => "error",
            OnViolation::Repair => "repair",
        }
    }
}

impl Command {
    /// Names that stand in braces within the words, and as `COMPRESS_<NAME>` in the environment.
    pub const PLACEHOLDERS: [&str; 5] = ["model", "weights", "mask", "output", "data"];

    pub(super) fn read(place: &Place<'_>, node: &Node) -> Result<Command> {
        let words = place.words("command", "words", node)?;
        if words.is_empty() {
            return Err(place.error(node.line, "\"command\" is empty: give the program and its arguments"));
        }
        for word in &words {
            for name in placeholders(word) {
                if !Command::PLACEHOLDERS.contains(&name) {
                    let near = suggest(name, || Command::PLACEHOLDERS.into_iter());
                    let sentence = format!("unknown placeholder \"{{{name}}}\" in \"command\"{near}");
                    return Err(place.error(node.line, sentence));
                }
            }
        }
        Ok(Command { words })
    }

    /// The words with every placeholder replaced by its value.
    pub fn filled(&self, value: impl Fn(&str) -> String) -> Vec<String> {
        self.words.iter().map(|word| fill(word, &value)).collect()
    }
}

fn fill(word: &str, value: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(begin) = rest.find('{') {
        let after = &rest[begin + 1..];
        match after.split_once('}') {
            Some((name, tail)) if Command::PLACEHOLDERS.contains(&name) => {
                out.push_str(&rest[..begin]);
                out.push_str(&value(name));
                rest = tail;
            }
            _ => {
                out.push_str(&rest[..=begin]);
                rest = after;
            }
        }
    }
    out + rest
}

/// The names in braces within a word. Braces around anything but a name (JSON, say) are text.
pub(super) fn placeholders(word: &str) -> impl Iterator<Item = &str> {
    word.split('{').skip(1).filter_map(|s| s.split_once('}').map(|(name, _)| name)).filter(|name| is_name(name))
}

/// Whether a text is a name as placeholders have: lower-case letters, digits, `_` and `-`, a letter first.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

impl Training {
    fn read(fields: &Fields<'_>) -> Result<Training> {
        let optimizer = fields.choice("optimizer", &Optimizer::ALL, Optimizer::name)?.unwrap_or_default();
        if optimizer != Optimizer::Sgd && fields.has("momentum") {
            return Err(fields.error_at("momentum", "\"momentum\" goes with optimizer = \"sgd\" only"));
        }
        let missing = || fields.missing("epochs", "how often to go through the training data");
        Ok(Training {
            epochs: fields
                .number("epochs", "above 0 and at most 1000000", |x| x > 0.0 && x <= 1e6)?
                .ok_or_else(missing)?,
            rate: fields.number("rate", "above 0", |x| x > 0.0)?,
            decay: Decay::read(fields)?,
            warmup: fields.integer("warmup", 0)?.unwrap_or(0),
            optimizer,
            momentum: fields.number("momentum", "from 0 to below 1", |x| (0.0..1.0).contains(&x))?,
            weight_decay: fields.number("weight_decay", "0 or more", |x| x >= 0.0)?,
            batch: fields.integer("batch", 1)?,
            clip: fields.number("clip", "above 0", |x| x > 0.0)?,
            dropout: Dropout::read(fields)?,
            patience: fields.integer("patience", 1)?,
            distil: fields.get("distil").map(|node| Distil::read(fields, node)).transpose()?,
        })
    }
}

impl Decay {
    fn read(fields: &Fields<'_>) -> Result<Option<Decay>> {
        let expected = "a factor above 0 and at most 1, \"linear\" or \"cosine\"";
        match fields.get("decay").map(|node| (node, &node.value)) {
            None => Ok(None),
            Some((_, Value::Text(word))) if word == "linear" => Ok(Some(Decay::Linear)),
            Some((_, Value::Text(word))) if word == "cosine" => Ok(Some(Decay::Cosine)),
            Some((_, Value::Integer(_) | Value::Float(_))) => {
                Ok(fields.number("decay", expected, |x| x > 0.0 && x <= 1.0)?.map(Decay::Factor))
            }
            Some((node, _)) => Err(fields.place.wrong("decay", expected, node)),
        }
    }
}

impl Distil {
    fn read(fields: &Fields<'_>, node: &Node) -> Result<Distil> {
        let (range, fits) = ("a share above 0 and at most 1", |x: f64| x > 0.0 && x <= 1.0);
        match &node.value {
            Value::Integer(_) | Value::Float(_) => {
                let weight = fields.place.number("distil", node, range, fits)?;
                Ok(Distil { weight, temperature: 1.0, teacher: None })
            }
            Value::Table(_) => {
                let fields = Fields::of(&fields.place, "distil", node)?;
                fields.only(&["weight", "temperature", "teacher"])?;
                let missing = || fields.missing("weight", "the teacher's share in the loss");
                Ok(Distil {
                    weight: fields.number("weight", range, fits)?.ok_or_else(missing)?,
                    temperature: fields.number("temperature", "above 0", |x| x > 0.0)?.unwrap_or(1.0),
                    teacher: fields.path("teacher")?,
                })
            }
            _ => Err(fields.place.wrong("distil", "a share or a table with \"weight\"", node)),
        }
    }
}

impl Dropout {
    fn read(fields: &Fields<'_>) -> Result<Dropout> {
        let (range, fits) = ("a probability from 0 to below 1", |x: f64| (0.0..1.0).contains(&x));
        match fields.get("dropout").map(|node| (node, &node.value)) {
            None => Ok(Dropout::None),
            Some((_, Value::Integer(_) | Value::Float(_))) => {
                Ok(fields.number("dropout", range, fits)?.map_or(Dropout::None, Dropout::Everywhere))
            }
            Some((_, Value::Table(entries))) => {
                let place = fields.place.within("dropout");
                let one = |e: &super::node::Entry| Ok((e.key.clone(), place.number(&e.key, &e.node, range, fits)?));
                Ok(Dropout::ByName(entries.iter().map(one).collect::<Result<_>>()?))
            }
            Some((node, _)) => Err(fields.place.wrong("dropout", "a probability or a table of them", node)),
        }
    }
}

impl Schedule {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Schedule> {
        fields.only(&["steps", "shape", "recover"])?;
        Ok(Schedule {
            steps: fields.integer("steps", 1)?.ok_or_else(|| fields.missing("steps", "in how many steps"))?,
            shape: fields.choice("shape", &ScheduleShape::ALL, ScheduleShape::name)?.unwrap_or_default(),
            recover: fields.integer("recover", 0)?.unwrap_or(0),
        })
    }
}
