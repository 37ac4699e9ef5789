//! `[data]`: examples to evaluate on, to measure with and to train with.

use std::path::PathBuf;

/// `[data]`. Files hold tensors named like the graph's inputs, first dimension = examples.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Data {
    /// To train and to measure with.
    pub train: Option<PathBuf>,
    /// To choose with: best epoch, early stop, allocation.
    pub validation: Option<PathBuf>,
    /// To report on only, never to choose with.
    pub test: Option<PathBuf>,
    /// The tensor of the files that the graph's output is compared with.
    pub target: Option<String>,
    /// The graph's output that is compared.
    pub output: Option<String>,
    /// Target value that is left out of loss and metrics.
    pub ignore: Option<i64>,
    /// Put examples of like length together and cut columns of pure padding.
    pub trim: bool,
    /// How to translate with the graph.
    pub bleu: Option<Bleu>,
}

/// `[data.bleu]`: how to translate with the graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bleu {
    /// The graph's input that grows.
    pub prefix: String,
    /// Id that begins a sentence.
    pub begin: i64,
    /// Id that ends a sentence.
    pub end: i64,
    /// A token a line; the line number is the id.
    pub vocabulary: PathBuf,
    /// What the translations are compared with.
    pub references: References,
    /// How both sides are cut into words.
    pub tokenize: Tokenize,
    /// How pieces become words: `""` words already, `"@@ "` byte pair encoding, `"▁"` SentencePiece.
    pub join: String,
    /// Width of the beam; 1 = greedy.
    pub beam: u32,
    /// Most tokens a translation may have.
    pub max_length: u32,
}

/// Reference translations, a sentence a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct References {
    /// Of the validation data.
    pub validation: Option<PathBuf>,
    /// Of the test data.
    pub test: Option<PathBuf>,
}

/// How sentences are cut into words, as in sacrebleu.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Tokenize {
    /// At spaces.
    #[default]
    None,
    /// mteval-v13a.
    Mteval13a,
}

impl Tokenize {
    /// All of them.
    pub const ALL: [Tokenize; 2] = [Tokenize::None, Tokenize::Mteval13a];

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Tokenize::None => "none",
            Tokenize::Mteval13a => "13a",
        }
    }
}
