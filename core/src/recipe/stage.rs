//! The stages of a recipe.

use std::fmt;

use compress_sdk::card::EvidenceKind;

use super::training::{Command, Retrain, Schedule, Training};
use crate::amount::Amount;
use crate::glob;

/// One `[[stage]]`.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its number, from 1.
    pub number: usize,
    /// Line of the recipe on which it begins.
    pub line: usize,
    /// Its own seed; [`super::Recipe::seed_of`] falls back to the recipe's.
    pub seed: Option<u64>,
    /// What it does.
    pub kind: StageKind,
}

/// What a stage does.
#[derive(Clone, Debug)]
pub enum StageKind {
    /// `method = "magnitude"`: scores, selects, encodes; with a schedule also retrains.
    Method(MethodStage),
    /// `measure = ["gram"]`: writes evidence.
    Measure(MeasureStage),
    /// `retrain = { epochs = 4 }`: trains with the masks held.
    Retrain(Retrain),
    /// `reinitialise = { uniform = 0.1 }`: new random weights under the same mask.
    Reinitialise(Initialise),
    /// `evaluate = ["loss"]`: metrics.
    Evaluate(Evaluate),
    /// `encode = "sparse"`: how the weights are stored.
    Encode(EncodeStage),
}

impl Stage {
    /// How the engine trains in it, by itself or after a method.
    pub fn training(&self) -> Option<&Training> {
        match &self.kind {
            StageKind::Retrain(Retrain::Engine(training))
            | StageKind::Method(MethodStage { retrain: Some(Retrain::Engine(training)), .. }) => Some(training),
            _ => None,
        }
    }

    /// The kind under its name in recipe and report.
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            StageKind::Method(_) => "method",
            StageKind::Measure(_) => "measure",
            StageKind::Retrain(_) => "retrain",
            StageKind::Reinitialise(_) => "reinitialise",
            StageKind::Evaluate(_) => "evaluate",
            StageKind::Encode(_) => "encode",
        }
    }

    /// What it does in a word or two: the method's name, `gram, fisher_diag`, `sparse`, `command`.
    pub fn name(&self) -> String {
        match &self.kind {
            StageKind::Method(m) => m.method.clone(),
            StageKind::Measure(m) => m.kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join(", "),
            StageKind::Retrain(Retrain::Engine(t)) => t.optimizer.name().into(),
            StageKind::Retrain(Retrain::Command { .. }) | StageKind::Evaluate(Evaluate::Command(_)) => "command".into(),
            StageKind::Reinitialise(Initialise::Uniform(_)) => "uniform".into(),
            StageKind::Reinitialise(Initialise::Normal(_)) => "normal".into(),
            StageKind::Evaluate(Evaluate::Metrics(m)) => m.iter().map(|m| m.name()).collect::<Vec<_>>().join(", "),
            StageKind::Encode(e) => e.layout.name().into(),
        }
    }
}

impl fmt::Display for Stage {
    /// The place that errors name: `stage 2 (obs)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            StageKind::Method(m) => write!(f, "stage {} ({})", self.number, m.method),
            _ => write!(f, "stage {} ({})", self.number, self.kind_name()),
        }
    }
}

/// A stage with `method`.
#[derive(Clone, Debug)]
pub struct MethodStage {
    /// The method's name.
    pub method: String,
    /// How the amount is spread over the classes.
    pub scheme: Scheme,
    /// How much; methods and patterns that need no amount have none.
    pub amount: Option<Amounts>,
    /// Which weights may go together.
    pub pattern: Pattern,
    /// Globs of the classes or parts that the stage works on; `["*"]` where the recipe says nothing.
    pub classes: Vec<String>,
    /// The method's own options, checked against its card by the plan.
    pub options: toml::Table,
    /// Globs of tensors that may lose all their weights.
    pub allow_empty: Vec<String>,
    /// Reach the amount in steps. Always with `retrain`.
    pub schedule: Option<Schedule>,
    /// The retraining after each step, or once after the stage where there is no schedule.
    pub retrain: Option<Retrain>,
    /// Add a term to parts that are factored or hashed already.
    pub residual: bool,
}

/// How an amount is spread over the classes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Scheme {
    /// The lowest scores of all weights, whatever their class.
    #[default]
    ClassBlind,
    /// The lowest scores within each class.
    ClassUniform,
    /// The lowest scores, each divided by its class's spread.
    ClassDistribution,
}

impl Scheme {
    /// All schemes.
    pub const ALL: [Scheme; 3] = [Scheme::ClassBlind, Scheme::ClassUniform, Scheme::ClassDistribution];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::ClassBlind => "class-blind",
            Scheme::ClassUniform => "class-uniform",
            Scheme::ClassDistribution => "class-distribution",
        }
    }
}

/// The amount or amounts of a stage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Amounts {
    /// One for all classes together.
    All(Amount),
    /// Globs of classes in written order, each with a share or a count; the first that matches wins, and all classes
    /// under one glob are one population.
    ByClass(Vec<(String, Amount)>),
}

impl Amounts {
    /// The first entry that matches one of the names of a part (its class, its part name): index and amount.
    pub fn of<'a>(&self, names: impl IntoIterator<Item = &'a str> + Clone) -> Option<(usize, &Amount)> {
        match self {
            Amounts::All(amount) => Some((0, amount)),
            Amounts::ByClass(entries) => entries
                .iter()
                .enumerate()
                .find(|(_, (pattern, _))| names.clone().into_iter().any(|name| glob::matches(pattern, name)))
                .map(|(i, (_, amount))| (i, amount)),
        }
    }
}

/// Which weights may go together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Pattern {
    /// Every weight for itself.
    #[default]
    Free,
    /// `"2:4"`: `n` weights are kept of each `m` along the inputs; 0 < n < m.
    NofM {
        /// Kept.
        n: u32,
        /// Of each.
        m: u32,
    },
    /// Whole rows (outputs).
    Row,
    /// Whole columns (inputs).
    Column,
    /// `"4x1"`: blocks of rows × cols.
    Block {
        /// Rows (outputs) of a block.
        rows: u32,
        /// Columns (inputs) of a block.
        cols: u32,
    },
}

impl fmt::Display for Pattern {
    /// As recipes spell it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Free => f.write_str("free"),
            Pattern::NofM { n, m } => write!(f, "{n}:{m}"),
            Pattern::Row => f.write_str("row"),
            Pattern::Column => f.write_str("column"),
            Pattern::Block { rows, cols } => write!(f, "{rows}x{cols}"),
        }
    }
}

/// A stage with `measure`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeasureStage {
    /// What is measured.
    pub kinds: Vec<EvidenceKind>,
    /// Examples of the training data to use.
    pub examples: u64,
    /// Examples a batch.
    pub batch: u64,
}

/// A stage with `reinitialise`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Initialise {
    /// Uniform in [−x, x].
    Uniform(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
}

/// A stage with `evaluate`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Evaluate {
    /// Metrics that the engine computes.
    Metrics(Vec<Metric>),
    /// A command that prints metrics.
    Command(Command),
}

/// A metric of the engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Metric {
    /// Mean loss over the counted targets.
    Loss,
    /// Its exponential.
    Perplexity,
    /// Share of counted targets that are predicted.
    Accuracy,
    /// BLEU of the translations.
    Bleu,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Metric; 4] = [Metric::Loss, Metric::Perplexity, Metric::Accuracy, Metric::Bleu];

    /// The name in recipes and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Loss => "loss",
            Metric::Perplexity => "perplexity",
            Metric::Accuracy => "accuracy",
            Metric::Bleu => "bleu",
        }
    }
}

/// A stage with `encode`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncodeStage {
    /// Where the values lie.
    pub layout: EncodeLayout,
    /// How they are coded.
    pub values: EncodeValues,
    /// Globs of the classes or parts that the stage works on; `["*"]` where the recipe says nothing.
    pub classes: Vec<String>,
}

/// What `encode` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EncodeLayout {
    /// All values.
    Dense,
    /// The kept values and where they are: the smallest of mask, deltas and Rice code.
    Sparse,
    /// The smallest that is exact.
    Auto,
}

impl EncodeLayout {
    /// All of them.
    pub const ALL: [EncodeLayout; 3] = [EncodeLayout::Dense, EncodeLayout::Sparse, EncodeLayout::Auto];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            EncodeLayout::Dense => "dense",
            EncodeLayout::Sparse => "sparse",
            EncodeLayout::Auto => "auto",
        }
    }
}

/// How an encode stage codes values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum EncodeValues {
    /// As they are.
    #[default]
    AsTheyAre,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// Symmetric int8 with a scale a row or column.
    Int8,
    /// A codebook of 2^bits values, bits = 1 to 8.
    Codebook(u8),
}

impl fmt::Display for EncodeValues {
    /// As recipes spell it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeValues::AsTheyAre => f.write_str("as they are"),
            EncodeValues::F32 => f.write_str("f32"),
            EncodeValues::F16 => f.write_str("f16"),
            EncodeValues::Bf16 => f.write_str("bf16"),
            EncodeValues::Int8 => f.write_str("int8"),
            EncodeValues::Codebook(bits) => write!(f, "codebook:{bits}"),
        }
    }
}
