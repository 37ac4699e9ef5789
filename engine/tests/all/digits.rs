//! The small CNN of examples/digits: pruned to a fifth by magnitude and retrained, beside dense retrained.

use std::collections::BTreeMap;
use std::path::Path;

use compress_core::Result;
use compress_core::format::{Format, OpenOptions};
use compress_core::progress::Watch;
use compress_core::recipe::{Data, Decay, Dropout, Optimizer, Training};
use compress_engine::engine::{AsStored, Engine, Split};
use compress_engine::train::{AllKept, Masks};
use compress_onnx::Onnx;

/// Keeps the largest fifth of all weights of matrices and kernels.
struct Largest<'e, 's>(&'e Engine<'s>, f32);

impl Masks for Largest<'_, '_> {
    fn bits(&self, name: &str, elements: usize) -> Result<Option<Vec<u8>>> {
        let found = self.0.weights().iter().find(|w| w.name == name && w.shape.len() > 1);
        let Some(w) = found else { return Ok(None) };
        let values = self.0.stored(&w.name)?;
        let mut bits = vec![0; elements.div_ceil(8)];
        for (i, v) in values.iter().enumerate() {
            bits[i / 8] |= u8::from(v.abs() > self.1) << (i % 8);
        }
        Ok(Some(bits))
    }
}

#[test]
fn pruned_to_a_fifth_and_retrained_it_reads_as_well_as_the_dense_model() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits");
    let source = Onnx.open(&folder.join("model.onnx"), &OpenOptions::default()).expect("the model opens");
    let data = Data {
        train: Some(folder.join("train.safetensors")),
        validation: Some(folder.join("val.safetensors")),
        test: Some(folder.join("test.safetensors")),
        target: Some("label".into()),
        output: None,
        ignore: None,
        trim: false,
        bleu: None,
    };
    let engine = Engine::open(&*source, &data).expect("the engine opens");
    let mut all: Vec<f32> = Vec::new();
    for w in engine.weights().iter().filter(|w| w.shape.len() > 1) {
        all.extend(engine.stored(&w.name).expect("the weight is read").iter().map(|v| v.abs()));
    }
    all.sort_by(f32::total_cmp);
    let cut = all[all.len() * 4 / 5];
    let training = Training {
        epochs: 3.0,
        rate: Some(1e-3),
        decay: Some(Decay::Cosine),
        warmup: 0,
        optimizer: Optimizer::Adam,
        momentum: None,
        weight_decay: None,
        batch: Some(50),
        clip: None,
        dropout: Dropout::None,
        patience: None,
        distil: None,
    };
    let accuracy = |weights: &BTreeMap<String, Vec<f32>>| {
        engine.tally(weights, Split::Test, Watch::silent()).expect("it is evaluated").accuracy()
    };
    let start = std::time::Instant::now();
    let before = engine.tally(&AsStored, Split::Test, Watch::silent()).expect("it is evaluated").accuracy();
    let dense = engine.retrain(&AsStored, &AllKept, &training, 1, None, false, Watch::silent()).expect("it trains");
    let pruned = engine
        .retrain(&AsStored, &Largest(&engine, cut), &training, 1, None, false, Watch::silent())
        .expect("it trains");
    let (dense, pruned) = (accuracy(&dense.weights), accuracy(&pruned.weights));
    eprintln!("untouched {before}, dense retrained {dense}, pruned {pruned}, {:?}", start.elapsed());
    assert!(before > 0.9 && pruned > dense - 0.02);
}
