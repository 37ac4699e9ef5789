//! `[data]`: examples to evaluate on, to measure with and to train with.

use std::path::{Path, PathBuf};

use super::fields::Fields;
use super::node::Value;
use crate::error::Result;

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

impl Data {
    /// All files that it names: inputs, none of which may be written.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let bleu = self
            .bleu
            .iter()
            .flat_map(|b| [Some(&b.vocabulary), b.references.validation.as_ref(), b.references.test.as_ref()]);
        [self.train.as_ref(), self.validation.as_ref(), self.test.as_ref()]
            .into_iter()
            .chain(bleu)
            .flatten()
            .map(PathBuf::as_path)
    }
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

const DATA: [&str; 8] = ["train", "validation", "test", "target", "output", "ignore", "trim", "bleu"];
const BLEU: [&str; 9] =
    ["prefix", "begin", "end", "vocabulary", "references", "tokenize", "join", "beam", "max_length"];

impl Data {
    pub(super) fn read(fields: &Fields<'_>) -> Result<Data> {
        fields.only(&DATA)?;
        Ok(Data {
            train: fields.path("train")?,
            validation: fields.path("validation")?,
            test: fields.path("test")?,
            target: fields.word("target")?,
            output: fields.word("output")?,
            ignore: fields.integer("ignore", i64::MIN)?,
            trim: fields.flag("trim")?.unwrap_or(false),
            bleu: fields.table("bleu")?.map(|bleu| Bleu::read(&bleu)).transpose()?,
        })
    }
}

impl Bleu {
    fn read(fields: &Fields<'_>) -> Result<Bleu> {
        fields.only(&BLEU)?;
        let need = |key, what| move || fields.missing(key, what);
        Ok(Bleu {
            prefix: fields.word("prefix")?.ok_or_else(need("prefix", "the input of the graph that grows"))?,
            begin: fields.integer("begin", i64::MIN)?.ok_or_else(need("begin", "the id that begins a sentence"))?,
            end: fields.integer("end", i64::MIN)?.ok_or_else(need("end", "the id that ends a sentence"))?,
            vocabulary: fields.path("vocabulary")?.ok_or_else(need("vocabulary", "a file with a token a line"))?,
            references: References::read(fields)?,
            tokenize: fields.choice("tokenize", &Tokenize::ALL, Tokenize::name)?.unwrap_or_default(),
            join: fields.get("join").map_or(Ok(""), |node| fields.place.text("join", node))?.to_string(),
            beam: fields.integer("beam", 1)?.unwrap_or(1),
            max_length: fields.integer("max_length", 1)?.unwrap_or(100),
        })
    }
}

impl References {
    fn read(fields: &Fields<'_>) -> Result<References> {
        let what = "the file of the reference translations, or { validation = …, test = … }";
        let node = fields.get("references").ok_or_else(|| fields.missing("references", what))?;
        match &node.value {
            Value::Text(_) => Ok(References { validation: fields.path("references")?, test: None }),
            Value::Table(_) => {
                let table = Fields::of(&fields.place, "references", node)?;
                table.only(&["validation", "test"])?;
                let references = References { validation: table.path("validation")?, test: table.path("test")? };
                if references == References::default() {
                    return Err(table.missing("validation", "the file of the reference translations"));
                }
                Ok(references)
            }
            _ => Err(fields.place.wrong("references", "a path or a table of paths", node)),
        }
    }
}
