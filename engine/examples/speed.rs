//! One side of bench/engine.py: how fast the engine trains and evaluates, as JSON lines.
//!
//!     speed MODEL_FOLDER train STEPS | evaluate | bleu
//!
//! The folder is laid out as ../shared/nmt. Threads are rayon's (RAYON_NUM_THREADS).

use std::path::PathBuf;
use std::time::Instant;

use compress_core::format::{Format, OpenOptions};
use compress_core::progress::Watch;
use compress_core::recipe::{Bleu, Data, Dropout, Metric, Optimizer, References, Tokenize, Training};
use compress_core::{Error, Result};
use compress_engine::engine::{AsStored, Engine, Split};
use compress_engine::train::Trainer;
use compress_onnx::Onnx;

/// User and system seconds of this process so far.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Most memory so far, in MB.
fn peak() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Runs a piece of work twice, the first time to warm up, and tells of the second.
fn told(what: &str, mut work: impl FnMut() -> Result<(u64, f64)>) -> Result<()> {
    work()?;
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let (tokens, value) = work()?;
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{{\"what\": \"{what}\", \"tokens\": {tokens}, \"wall\": {wall:.3}, \"cpu\": {cpu:.2}, \"value\": {value:.5}, \"peak_mb\": {}}}",
        peak()
    );
    Ok(())
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let usage = || Error::usage("speed MODEL_FOLDER train STEPS | evaluate | bleu");
    let folder = PathBuf::from(words.get(1).ok_or_else(usage)?);
    let source = Onnx.open(&folder.join("model.onnx"), &OpenOptions::default())?;
    let data = Data {
        train: Some(folder.join("train.safetensors")),
        validation: Some(folder.join("val.safetensors")),
        test: None,
        target: Some("tgt_out".into()),
        output: Some("logits".into()),
        ignore: Some(0),
        trim: false,
        bleu: Some(Bleu {
            prefix: "tgt_in".into(),
            begin: 1,
            end: 2,
            vocabulary: folder.join("vocab.de.txt"),
            references: References { validation: Some(folder.join("val.ref.de")), test: None },
            tokenize: Tokenize::None,
            join: String::new(),
            beam: 1,
            max_length: 100,
        }),
    };
    let what = words.get(2).ok_or_else(usage)?;
    match what.as_str() {
        "evaluate" => {
            let engine = Engine::open(&*source, &data)?;
            told(what, || {
                let t = engine.tally(&AsStored, Split::Validation, Watch::silent())?;
                Ok((t.counted, t.perplexity()))
            })
        }
        "bleu" => {
            let engine = Engine::open(&*source, &data)?;
            told(what, || {
                let got = engine.evaluate(&AsStored, Split::Validation, &[Metric::Bleu], Watch::silent())?;
                Ok((1014, got.first().map_or(0.0, |g| g.1)))
            })
        }
        "train" => {
            let steps: usize = words.get(3).and_then(|w| w.parse().ok()).ok_or_else(usage)?;
            // batches of like length, trimmed, as retraining uses them
            let engine = Engine::open(&*source, &Data { trim: true, ..data })?;
            let training = Training {
                epochs: 1.0,
                rate: Some(5e-4),
                decay: None,
                warmup: 0,
                optimizer: Optimizer::Adam,
                momentum: None,
                weight_decay: None,
                batch: Some(64),
                clip: Some(1.0),
                dropout: Dropout::Everywhere(0.2),
                patience: None,
                distil: None,
            };
            let mut trainer = Trainer::new(&engine, &AsStored, &training, 1)?;
            let (mut part, parts) = (0, (452 / steps.max(1)).max(2));
            told(what, || {
                let t = trainer.part(part, parts, Watch::silent())?;
                part += 1;
                Ok((t.counted, t.mean()))
            })
        }
        _ => Err(usage()),
    }
}
