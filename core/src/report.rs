//! The report: what a run was asked for and what it did, as JSON and as a table. What does not apply is absent;
//! non-finite metrics are null. `seconds` and `written_at` alone may differ between equal runs.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use asked::asked;
pub(crate) use asked::from_toml;
pub use render::{render, render_decompressed, render_inspect, render_metrics};
pub use table::Table;

use crate::recipe::Recipe;

mod asked;
mod machine;
mod render;
mod table;

#[cfg(test)]
mod tests;

/// The JSON report of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The input.
    pub model: ModelReport,
    /// The output; absent where nothing is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputReport>,
    /// The classes in `[classes]` order, then file order, after the last stage.
    pub classes: Vec<ClassReport>,
    /// The stages in written order.
    pub stages: Vec<StageReport>,
    /// The mask file that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The evidence file that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// What the reader should know, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Set where nothing was written on purpose.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What did it.
    pub compress: CompressReport,
    /// When, in UTC: `2026-01-31T12:00:00Z`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub written_at: String,
}

/// The input of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ModelReport {
    /// As the recipe names it; several files joined by `", "`.
    pub path: String,
    /// `"onnx"`, `"safetensors"`.
    pub format: String,
    /// Names of the files, relative to the model's folder.
    pub files: Vec<String>,
    /// Hash of the file, or of the lines `<sha256>  <name>\n` of several, sorted by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Prunable weights.
    pub weights: u64,
    /// Elements of all tensors.
    pub elements: u64,
}

/// The output of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OutputReport {
    /// As the recipe names it.
    pub path: String,
    /// `"onnx"`, `"safetensors"`.
    pub format: String,
    /// Names of the files, relative to the model's folder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Hash of the file, or of the lines `<sha256>  <name>\n` of several, sorted by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Bytes of all files; absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes that the plan predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_bytes: Option<u64>,
    /// Tensors that are stored as factors in a model with a graph.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub factored: Vec<FactoredTensor>,
}

/// A tensor that is stored as factors.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FactoredTensor {
    /// Its name.
    pub tensor: String,
    /// `"faster"` where the graph multiplies with the factors as they are, `"smaller only"` where the tensor is put together
    /// at load.
    pub runs: &'static str,
    /// What multiplying takes, where the factors are multiplied with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<ProductSeconds>,
}

impl FactoredTensor {
    /// Of a tensor, and whether the graph multiplies with its factors.
    pub fn new(tensor: &str, multiplies: bool) -> FactoredTensor {
        FactoredTensor {
            tensor: tensor.into(),
            runs: if multiplies { "faster" } else { "smaller only" },
            seconds: None,
        }
    }
}

/// Seconds that multiplying an input with a matrix takes on one thread of this machine: medians.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct ProductSeconds {
    /// Rows of the input: positions, examples.
    pub positions: u64,
    /// x·W.
    pub dense: f64,
    /// (x·U)·V.
    pub factors: f64,
}

/// A class after the last stage.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClassReport {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub weights: u64,
    /// How many of them are pruned.
    pub pruned: u64,
    /// Bytes that its tensors take in the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_before: Option<u64>,
    /// Bytes that they take in the output, measured, or predicted in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_after: Option<u64>,
    /// Its tensors, in file order.
    pub tensors: Vec<String>,
}

/// A stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StageReport {
    /// `method`, `measure`, `retrain`, `reinitialise`, `evaluate`, `encode`.
    pub kind: String,
    /// The method's name, or what is measured, or the layout ([`crate::recipe::Stage::name`]).
    pub name: String,
    /// What the recipe asks for ([`asked`]); the plan adds counts.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub asked: Map<String, Value>,
    /// What was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub achieved: Option<Achieved>,
    /// The classes that the stage worked on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<StageClass>,
    /// Of an encode stage: the tensors that it has packed or unpacked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<StageTensor>,
    /// What a method has encoded anew: parts, or tensors as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<StagePart>,
    /// Tensors that it left alone, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub untouched: Vec<Untouched>,
    /// Rows that go first because the data of the evidence never reached them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unreached: Vec<Unreached>,
    /// Metrics after the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Metrics after each epoch of a retraining.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<Metrics>,
    /// What the reader should know of this stage, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Wall time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// What a stage reached.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Achieved {
    /// Pruned weights of its classes after the stage.
    pub pruned: u64,
    /// Those that this stage pruned.
    pub newly: u64,
    /// Weights of its classes.
    pub prunable: u64,
    /// `pruned / prunable`.
    pub fraction: f64,
}

/// A class within a stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StageClass {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub weights: u64,
    /// Pruned ones after the stage.
    pub pruned: u64,
    /// Those that this stage pruned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newly: Option<u64>,
    /// Of an encode stage: bytes of its tensors before the stage, without names and operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_before: Option<u64>,
    /// The same after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_after: Option<u64>,
    /// Of a lossy coding: the greatest change of a weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error: Option<f64>,
    /// Of a lossy coding: √(Σ changes² / Σ weights²).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
}

/// A tensor that an encode stage has packed or unpacked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StageTensor {
    /// Its name.
    pub tensor: String,
    /// How it is packed, `mask × int8`; `dense` for one that was unpacked.
    pub packed: String,
    /// Its bytes before the stage, without names and operators.
    pub bytes_before: u64,
    /// The same after it.
    pub bytes_after: u64,
}

/// A part, or a tensor as a whole, that a method has encoded anew.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StagePart {
    /// Its name.
    pub part: String,
    /// What it is now: `factored`, `factored + sparse`; `dense` where values alone have changed.
    pub layout: String,
    /// Its weights.
    pub weights: u64,
    /// Numbers that they are made of: factors, buckets, values that are not zero.
    pub parameters: u64,
    /// ‖W − Ŵ‖ / ‖W‖ against what it was before the stage, or, with `residual`, before the first encoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
}

/// Rows of a tensor that the data of the evidence never reached: their scores are 0.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unreached {
    /// Its name.
    pub tensor: String,
    /// How many rows it has.
    pub of: u64,
    /// Those that were not reached.
    pub rows: Vec<u64>,
}

/// A tensor that was left alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Untouched {
    /// Its name.
    pub tensor: String,
    /// Why.
    pub reason: String,
}

/// Metrics on validation, and on test where given, in the order in which they were computed.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// On validation.
    pub validation: Vec<(String, f64)>,
    /// On test; left out of the JSON where empty.
    pub test: Vec<(String, f64)>,
}

/// What did it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CompressReport {
    /// Version of `compress`.
    pub version: String,
    /// The recipe as written.
    pub recipe: String,
    /// Hash of the recipe's text.
    pub recipe_sha256: String,
    /// Architecture and features of the processor.
    pub cpu: String,
}

/// What `compress inspect --json` prints.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspect {
    /// The model's path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// `"onnx"`, `"safetensors"`.
    pub format: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// The classes.
    pub classes: Vec<InspectClass>,
    /// All tensors in file order.
    pub tensors: Vec<InspectTensor>,
    /// What the reader should know, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A class of an inspected model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InspectClass {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub weights: u64,
    /// How many of them are zero.
    pub zeros: u64,
    /// Its tensors, in file order.
    pub tensors: Vec<String>,
    /// Its sub-groups, where it has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<InspectPart>,
}

/// A sub-group of a class: all parts of one name.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InspectPart {
    /// `source.layer1/forget/recurrent`.
    pub name: String,
    /// Its weights.
    pub weights: u64,
    /// How many of them are zero.
    pub zeros: u64,
}

/// A tensor of an inspected model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InspectTensor {
    /// Its name.
    pub name: String,
    /// Its shape as stored.
    pub shape: Vec<u64>,
    /// Its element type.
    pub dtype: String,
    /// Its class; null where it is not prunable.
    pub class: Option<String>,
    /// How many elements are zero; absent where they cannot be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zeros: Option<u64>,
    /// Why it is not prunable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it is packed in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed: Option<String>,
}

impl Report {
    /// The report as a file: indented, keys always in the same order, a newline at the end.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

impl Inspect {
    /// As a file: indented, keys always in the same order, a newline at the end.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("strings are the only keys, and memory the only sink");
    text.push('\n');
    text
}

impl Achieved {
    /// With the fraction that follows; 0 of 0 is 0.
    pub fn new(pruned: u64, newly: u64, prunable: u64) -> Achieved {
        Achieved { pruned, newly, prunable, fraction: pruned as f64 / prunable.max(1) as f64 }
    }
}

impl CompressReport {
    /// This program on this machine with that recipe.
    pub fn new(recipe: &Recipe) -> CompressReport {
        CompressReport {
            version: env!("CARGO_PKG_VERSION").into(),
            recipe: recipe.text.clone(),
            recipe_sha256: hex(&Sha256::digest(recipe.text.as_bytes())),
            cpu: machine::cpu(),
        }
    }
}

/// The present time in UTC, as `written_at` has it: `2026-01-31T12:00:00Z`.
pub fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    machine::utc(since.map_or(0, |d| d.as_secs()))
}

/// The hash of a model from those of its files, (name, hash in hexadecimal digits): of one file its own, of several
/// that of the lines `<sha256>  <name>\n` sorted by name.
pub fn sha256_of_files(files: &[(String, String)]) -> Option<String> {
    match files {
        [] => None,
        [(_, hash)] => Some(hash.clone()),
        files => {
            let mut sorted: Vec<_> = files.iter().collect();
            sorted.sort();
            let lines: String = sorted.iter().map(|(name, hash)| format!("{hash}  {name}\n")).collect();
            Some(hex(&Sha256::digest(lines.as_bytes())))
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl<'de> Deserialize<'de> for Metrics {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::<String, Value>::deserialize(deserializer)?;
        // A metric that was not finite was written as null.
        let numbers = |map: &Map<String, Value>| {
            let metrics = map.iter().filter(|(_, v)| v.is_number() || v.is_null());
            metrics.map(|(k, v)| (k.clone(), v.as_f64().unwrap_or(f64::NAN))).collect::<Vec<_>>()
        };
        let test = map.get("test").and_then(Value::as_object).map(numbers).unwrap_or_default();
        Ok(Metrics { validation: numbers(&map), test })
    }
}

impl Serialize for Metrics {
    /// `{"loss": 1.2, "bleu": 30.1, "test": {…}}`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // serde_json writes non-finite floats as null.
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.validation {
            map.serialize_entry(name, value)?;
        }
        if !self.test.is_empty() {
            let test: Map<String, Value> = self.test.iter().map(|(k, v)| (k.clone(), Value::from(*v))).collect();
            map.serialize_entry("test", &test)?;
        }
        map.end()
    }
}
