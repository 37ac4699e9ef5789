//! Gradual class-blind pruning of ../shared/nmt to 80 % with retraining: `gradual_nmt FOLDER GRADUAL RECOVER AMOUNT`. Masks are
//! chosen anew four times an epoch, the sparsity grows as x(1 − (1 − t/T)³) (Zhu & Gupta 2017). AMOUNT 0 is the dense control.

use std::path::PathBuf;
use std::time::Instant;

use compress_core::Result;
use compress_core::format::{Format, OpenOptions};
use compress_core::progress::Watch;
use compress_core::recipe::{Data, Decay, Dropout, Optimizer, Training};
use compress_engine::engine::{AsStored, Engine};
use compress_engine::loss::Tally;
use compress_engine::train::{Masks, Trainer};
use compress_onnx::Onnx;

/// The largest share of all matrix elements is kept.
struct Largest(std::collections::BTreeMap<String, Vec<f32>>, f32);

impl Masks for Largest {
    fn bits(&self, name: &str, elements: usize) -> Result<Option<Vec<u8>>> {
        let Some(values) = self.0.get(name) else { return Ok(None) };
        let mut bits = vec![0; elements.div_ceil(8)];
        for (i, v) in values.iter().enumerate() {
            bits[i / 8] |= u8::from(v.abs() > self.1) << (i % 8);
        }
        Ok(Some(bits))
    }
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let number = |i: usize, d: f64| words.get(i).and_then(|w| w.parse().ok()).unwrap_or(d);
    let folder = PathBuf::from(words.get(1).map_or("../shared/nmt", String::as_str));
    let (gradual, recover, amount) = (number(2, 4.0) as u32, number(3, 4.0) as u32, number(4, 0.8));
    let source = Onnx.open(&folder.join("model.onnx"), &OpenOptions::default())?;
    let data = Data {
        train: Some(folder.join("train.safetensors")),
        validation: Some(folder.join("val.safetensors")),
        test: None,
        target: Some("tgt_out".into()),
        output: Some("logits".into()),
        ignore: Some(0),
        trim: true,
        bleu: None,
    };
    let engine = Engine::open(&*source, &data)?;
    let training = Training {
        epochs: gradual + recover,
        rate: Some(1e-3),
        decay: Some(Decay::Linear),
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
    for epoch in 0..gradual + recover {
        let (start, mut sum) = (Instant::now(), Tally::default());
        for part in 0..4 {
            let t = f64::from(epoch * 4 + part + 1) / f64::from(gradual * 4);
            if t <= 1.0 && amount > 0.0 {
                let mut weights = trainer.weights();
                weights.retain(|n, _| {
                    engine.weights().iter().any(|w| w.name == *n && w.shape.len() > 1 && w.shape[..2] != [1, 2048])
                });
                let mut all: Vec<f32> = weights.values().flatten().map(|v| v.abs()).collect();
                let k = (all.len() as f64 * amount * (1.0 - (1.0 - t).powi(3))) as usize;
                let k = k.min(all.len() - 1);
                let cut = *all.select_nth_unstable_by(k, f32::total_cmp).1;
                trainer.set_masks(&Largest(weights, cut))?;
            }
            sum.add(trainer.part(part as usize, 4, Watch::silent())?);
        }
        trainer.validate(sum, Watch::silent())?;
        let last = trainer.history().last().and_then(|e| e.validation).unwrap_or_default();
        let speed = sum.counted as f64 / start.elapsed().as_secs_f64();
        println!(
            "epoch {}: train {:.4}, validation perplexity {:.4}, {speed:.0} tokens/s",
            epoch + 1,
            sum.mean(),
            last.0.exp()
        );
    }
    Ok(())
}
