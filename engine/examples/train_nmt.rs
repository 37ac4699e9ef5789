//! Speed of training and evaluation on ../shared/nmt: `train_nmt FOLDER STEPS`.

use std::path::PathBuf;
use std::time::Instant;

use compress_core::format::{Format, OpenOptions};
use compress_core::progress::Watch;
use compress_core::recipe::{Data, Dropout, Optimizer, Training};
use compress_engine::engine::{AsStored, Engine, Split};
use compress_engine::train::Trainer;
use compress_onnx::Onnx;

fn main() -> compress_core::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let folder = PathBuf::from(words.get(1).map_or("../shared/nmt", String::as_str));
    let parts: usize = words.get(2).and_then(|w| w.parse().ok()).unwrap_or(20);
    let trim = words.get(3).is_some_and(|w| w == "trim");
    let source = Onnx.open(&folder.join("model.onnx"), &OpenOptions::default())?;
    let data = Data {
        train: Some(folder.join("train.safetensors")),
        validation: Some(folder.join("val.safetensors")),
        test: None,
        target: Some("tgt_out".into()),
        output: Some("logits".into()),
        ignore: Some(0),
        trim,
        bleu: None,
    };
    let engine = Engine::open(&*source, &data)?;
    for _ in 0..2 {
        let start = Instant::now();
        let t = engine.tally(&AsStored, Split::Validation, Watch::silent())?;
        println!(
            "evaluate: perplexity {:.4}, {:.0} tokens/s",
            t.perplexity(),
            t.counted as f64 / start.elapsed().as_secs_f64()
        );
    }
    let training = Training {
        epochs: 1,
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
    };
    let mut trainer = Trainer::new(&engine, &AsStored, &training, 1)?;
    for part in 0..3 {
        let start = Instant::now();
        let t = trainer.part(part, 452 / parts.max(1), Watch::silent())?;
        println!(
            "train: loss {:.4}, {} tokens, {:.0} tokens/s",
            t.mean(),
            t.counted,
            t.counted as f64 / start.elapsed().as_secs_f64()
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!("{}", status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or(""));
    Ok(())
}
