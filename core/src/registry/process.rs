//! Methods that are programs: one JSON line a call on stdin and stdout, numbers through files that both sides have
//! open. `docs/writing-a-method.md` has the protocol, `examples/plugin-python/compress_method.py` the other side.
//!
//! A program is started once to describe itself and once for each stage. Calls to it come one at a time; filling its
//! file with weights and fetching its scores happens outside its turn, so that it need not wait for us.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use compress_sdk::contract::{check_encoded, check_input, check_scores};
use compress_sdk::{Bitmap, Encoded, Encoding, Evidence, Keep, Layout, OptionValue, Options, Part, Term};
use serde_json::{Map, Value, json};

use super::linked::located;
use super::{Instance, Listener, Maker, MethodCard, Registered};
use crate::error::{Error, Result};
use area::{Area, Folder, Place};
use talk::Talk;

mod area;
mod card;
mod lines;
mod talk;

/// The version of the protocol.
const DOOR: u64 = 1;

/// A program that described itself.
pub(super) struct Program {
    argv: Vec<String>,
    cwd: PathBuf,
    timeout: Duration,
    listener: Arc<dyn Listener>,
}

pub(super) fn describe(
    name: &str,
    argv: &[String],
    cwd: &Path,
    timeout: Duration,
    listener: &Arc<dyn Listener>,
) -> Result<(MethodCard, Program)> {
    let listener = listener.clone();
    let program = Program { argv: argv.to_vec(), cwd: cwd.to_path_buf(), timeout, listener };
    let label = program.label(name);
    let answer = program.start(&label)?.ask(json!({ "call": "describe", "door": DOOR }))?;
    let card = card::read(&answer).and_then(|c| c.check().map(|()| c));
    let card = card.map_err(|e| Error::usage(format!("{label}: {e}")))?;
    if card.name != name {
        return Err(Error::usage(format!(
            "{label} calls itself \"{}\"; use one name in [plugins] programs and in the program",
            card.name
        )));
    }
    Ok((card, program))
}

impl Program {
    fn label(&self, name: &str) -> String {
        format!("method \"{name}\" of {}", super::Origin::Program(self.argv.clone()))
    }

    fn start(&self, label: &str) -> Result<Talk> {
        Talk::start(&self.argv, &self.cwd, self.timeout, label, self.listener.clone())
    }
}

impl Maker for Program {
    fn make(&self, method: &Registered, options: &Options, seed: u64) -> Result<Box<dyn Instance>> {
        let label = method.label();
        let given: Vec<(&str, &OptionValue)> = options.0.iter().map(|(n, v)| (n.as_str(), v)).collect();
        method.card().check_complete(&given).map_err(|e| Error::failed(format!("{label}: {e}")))?;
        let folder = Folder::new()?;
        let mut talk = self.start(&label)?;
        let options: Map<String, Value> = given.into_iter().map(|(n, v)| (n.into(), option(v))).collect();
        talk.ask(json!({ "call": "create", "door": DOOR, "options": options, "seed": seed }))?;
        let (scores, encodes) = (method.card().scores, method.card().encodes);
        Ok(Box::new(Running { talk: Mutex::new(talk), areas: Mutex::default(), folder, label, scores, encodes }))
    }
}

fn option(value: &OptionValue) -> Value {
    match value {
        OptionValue::Integer(v) => json!(v),
        OptionValue::Float(v) => json!(v),
        OptionValue::Flag(v) => json!(v),
        OptionValue::Text(v) => json!(v),
    }
}

/// A program at work on a stage. Fields are dropped in this order: the program ends before its files go.
struct Running {
    talk: Mutex<Talk>,
    /// Areas that no call uses now.
    areas: Mutex<Vec<Area>>,
    folder: Folder,
    label: String,
    scores: bool,
    encodes: bool,
}

/// About 1 MB: both copies of it stay in the cache.
const BLOCK_WEIGHTS: usize = 1 << 18;

impl Instance for Running {
    fn block_weights(&self) -> usize {
        BLOCK_WEIGHTS
    }

    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut [f32]) -> Result<()> {
        if !self.scores {
            return Err(self.failed(part, "it gives no scores"));
        }
        if out.len() != part.data.len() {
            return Err(self.failed(part, format!("{} scores for {} weights", out.len(), part.data.len())));
        }
        self.with_area(part, |area| {
            let mut call = self.call("score", part, evidence, area)?;
            let scores = area.reserve::<f32>(out.len())?;
            call["scores"] = json!(scores.at);
            let answer = self.ask(area, call)?;
            match answer["count"].as_u64() {
                Some(n) if n == out.len() as u64 => {}
                Some(n) => return Err(self.error(format!("it gave {n} scores for {} weights", out.len()))),
                None => return Err(self.error("its answer has no \"count\" of its scores")),
            }
            area.read(scores.at, out)?;
            check_scores(part, out).map_err(|e| self.error(e))
        })
    }

    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded> {
        if !self.encodes {
            return Err(self.failed(part, "it gives no encodings"));
        }
        self.with_area(part, |area| {
            let mut call = self.call("encode", part, evidence, area)?;
            call["keep"] = match keep {
                Keep::All => json!({ "kind": "all" }),
                Keep::Mask(mask) => json!({ "kind": "mask", "bits": area.write(mask.as_bytes())?.at }),
                Keep::Quota { eligible, pruned, n, m } => {
                    let bits = area.write(eligible.as_bytes())?.at;
                    json!({ "kind": "quota", "bits": bits, "pruned": pruned, "n": n, "m": m })
                }
            };
            let answer = self.ask(area, call)?;
            area.refresh()?;
            let encoded = self.encoded(part, area, &answer)?;
            check_encoded(part, keep, &encoded).map_err(|e| self.error(e))?;
            Ok(encoded)
        })
    }
}

impl Running {
    fn error(&self, text: impl std::fmt::Display) -> Error {
        Error::failed(format!("{}: {text}", self.label))
    }

    fn failed(&self, part: &Part<'_>, text: impl std::fmt::Display) -> Error {
        located(part, self.error(text))
    }

    /// Runs a call with an area of its own; errors name the tensor.
    fn with_area<T>(&self, part: &Part<'_>, work: impl FnOnce(&mut Area) -> Result<T>) -> Result<T> {
        let free = self.areas.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut area = match free {
            Some(area) => area,
            None => Area::new(&self.folder)?,
        };
        area.clear();
        let done = work(&mut area).map_err(|e| located(part, e));
        self.areas.lock().unwrap_or_else(PoisonError::into_inner).push(area);
        done
    }

    /// The call in words, its numbers in the area.
    fn call(&self, name: &str, part: &Part<'_>, evidence: &Evidence<'_>, area: &mut Area) -> Result<Value> {
        check_input(part, evidence).map_err(|e| self.error(e))?;
        let weights = area.write(part.data)?.at;
        let mut arrays = Vec::new();
        for a in evidence.arrays {
            arrays.push(json!({ "kind": a.kind.name(), "shape": a.shape, "at": area.write(a.data)?.at }));
        }
        Ok(json!({
            "call": name, "file": area.path(), "weights": weights, "evidence": arrays,
            "tensor": part.tensor, "part": part.name, "class": part.class,
            "rows": part.rows, "cols": part.cols, "row_stride": part.row_stride, "col_stride": part.col_stride,
            "first_row": part.first_row, "first_element": part.first_element,
            "part_rows": part.part_rows, "part_cols": part.part_cols,
        }))
    }

    fn ask(&self, area: &mut Area, mut call: Value) -> Result<Value> {
        area.settle()?;
        call["bytes"] = json!(area.bytes());
        let answer = self.talk.lock().unwrap_or_else(PoisonError::into_inner).ask(call);
        area.seen(answer.is_ok());
        answer
    }

    fn encoded(&self, part: &Part<'_>, area: &Area, answer: &Value) -> Result<Encoded> {
        let (rows, cols) = (part.rows, part.cols);
        let wrong = |what: &str| self.error(format!("its answer has no usable \"{what}\""));
        let number = |v: &Value, what: &str| v[what].as_u64().ok_or_else(|| wrong(what));
        let bits = |v: &Value, what: &str| -> Result<Bitmap> {
            let mut bytes = vec![0u8; (rows * cols).div_ceil(8)];
            area.read(number(v, what)?, &mut bytes)?;
            Bitmap::from_bytes(bytes, rows * cols).ok_or_else(|| wrong(what))
        };
        let kept = if answer["kept"].is_null() { Bitmap::new(rows * cols, true) } else { bits(answer, "kept")? };
        let mut terms = Vec::new();
        for term in answer["terms"].as_array().ok_or_else(|| wrong("terms"))? {
            let layout = match term["layout"].as_str() {
                Some("dense") => Layout::Dense,
                Some("sparse") => Layout::Sparse(bits(term, "bits")?),
                Some("factored") => Layout::Factored { rank: number(term, "rank")? as usize },
                Some("hashed") => {
                    Layout::Hashed { seed: u32::try_from(number(term, "seed")?).map_err(|_| wrong("seed"))? }
                }
                _ => return Err(wrong("layout")),
            };
            let count = number(term, "count")?;
            area.check(Place { at: number(term, "values")?, bytes: count.saturating_mul(4) })
                .map_err(|e| self.error(e))?;
            let mut values = vec![0.0f32; count as usize];
            area.read(number(term, "values")?, &mut values)?;
            terms.push(Term { layout, values });
        }
        Ok(Encoded { kept, encoding: Encoding { rows, cols, terms } })
    }
}
