//! The small model of examples/dates: metrics as its expected.json has them, retraining to the same bits with any number
//! of threads and after an interruption, evidence, and sentences for bad input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use compress_core::format::{Format, OpenOptions, Source};
use compress_core::progress::{Progress, Silent, Unit, Watch};
use compress_core::recipe::{Bleu, Data, Distil, Dropout, Metric, Optimizer, References, Tokenize, Training};
use compress_core::stfile::{Spec, StFile, StWriter};
use compress_core::tensor::Dtype;
use compress_core::{Error, Result};
use compress_engine::engine::{AsStored, Engine, Split, Weights};
use compress_engine::measure::MeasureOptions;
use compress_engine::state::{carry_on, save};
use compress_engine::train::{AllKept, Form, Masks, Trainer};
use compress_onnx::Onnx;
use compress_sdk::EvidenceKind;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/dates")
}

fn source() -> Box<dyn Source> {
    Onnx.open(&folder().join("model.onnx"), &OpenOptions::default()).unwrap()
}

fn data(beam: u32) -> Data {
    let file = |name: &str| folder().join(name);
    Data {
        train: Some(file("train.safetensors")),
        validation: Some(file("val.safetensors")),
        test: Some(file("test.safetensors")),
        target: Some("tgt_out".into()),
        output: None,
        ignore: Some(0),
        trim: false,
        bleu: Some(Bleu {
            prefix: "tgt_in".into(),
            begin: 1,
            end: 2,
            vocabulary: file("vocab.tgt.txt"),
            references: References { validation: Some(file("val.ref.txt")), test: Some(file("test.ref.txt")) },
            tokenize: Tokenize::None,
            join: String::new(),
            beam,
            max_length: 20,
        }),
    }
}

fn training(epochs: u32) -> Training {
    Training {
        epochs: f64::from(epochs),
        rate: Some(1e-3),
        decay: None,
        warmup: 5,
        optimizer: Optimizer::Adam,
        momentum: None,
        weight_decay: None,
        batch: Some(64),
        clip: Some(1.0),
        dropout: Dropout::Everywhere(0.1),
        patience: None,
        distil: None,
    }
}

/// Keeps two of three weights of every matrix.
struct Thirds;

impl Masks for Thirds {
    fn bits(&self, name: &str, elements: usize) -> Result<Option<Vec<u8>>> {
        if name.contains("bias") {
            return Ok(None);
        }
        let byte = |b: usize| (0..8).fold(0, |bits, i| bits | u8::from(!(b * 8 + i).is_multiple_of(3)) << i);
        Ok(Some((0..elements.div_ceil(8)).map(byte).collect()))
    }
}

#[test]
fn metrics_are_the_expected_ones() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    for (split, expected) in [
        (Split::Validation, [0.001_369_26, 0.999_272_7, 99.783_139]),
        (Split::Test, [0.003_376_6, 0.998_636_4, 99.583_22]),
    ] {
        let metrics = [Metric::Loss, Metric::Accuracy, Metric::Bleu];
        let got = engine.evaluate(&AsStored, split, &metrics, Watch::silent()).unwrap();
        for ((name, value), expected) in got.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-4 * expected.abs().max(0.1), "{name} {value} {expected}");
        }
    }
    // a wider beam finds the same nearly certain dates
    let engine = Engine::open(&*source, &data(3)).unwrap();
    let got = engine.evaluate(&AsStored, Split::Validation, &[Metric::Bleu], Watch::silent()).unwrap();
    assert!(got[0].1 > 99.5, "{got:?}");
}

#[test]
fn trimming_cuts_padding_only() {
    let source = source();
    let plain = Engine::open(&*source, &data(1)).unwrap().tally(&AsStored, Split::Validation, Watch::silent()).unwrap();
    let trimmed = Engine::open(&*source, &Data { trim: true, ..data(1) }).unwrap();
    let trimmed = trimmed.tally(&AsStored, Split::Validation, Watch::silent()).unwrap();
    assert_eq!(plain.counted, trimmed.counted);
    // the encoder reads the padding, so that a model that was trained with it does worse without
    assert!(plain.mean() < trimmed.mean() && trimmed.mean() < 0.5, "{} {}", plain.mean(), trimmed.mean());
}

fn bits(weights: &BTreeMap<String, Vec<f32>>) -> Vec<u32> {
    weights.values().flatten().map(|v| v.to_bits()).collect()
}

#[test]
fn retraining_holds_masks_and_gives_the_same_bits_with_any_number_of_threads() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| engine.retrain(&AsStored, &Thirds, &training(2), 7, None, false, Watch::silent()).unwrap())
    };
    let (one, eight) = (run(1), run(8));
    assert_eq!(bits(&one.weights), bits(&eight.weights));
    assert_eq!(one.epochs, eight.epochs);
    for (name, w) in &one.weights {
        if !name.contains("bias") {
            assert!(w.iter().step_by(3).all(|v| v.to_bits() == 0), "{name}");
        }
    }
    let losses: Vec<f64> = one.epochs.iter().map(|e| e.validation.unwrap().0).collect();
    assert!(losses[1] < losses[0] && losses[1] < 0.5, "{losses:?}");
}

/// Cancels after some progress.
struct Cancel<'a> {
    left: std::sync::atomic::AtomicI64,
    flag: &'a AtomicBool,
}

impl Progress for Cancel<'_> {
    fn begin(&self, _: &str, _: u64, _: Unit) {}
    fn advance(&self, units: u64) {
        if self.left.fetch_sub(units as i64, Ordering::Relaxed) < 0 {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
    fn end(&self) {}
}

#[test]
fn an_interrupted_retraining_goes_on_to_the_same_bits() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.safetensors");
    let run = |state: &Path, resume: bool, watch: Watch| {
        engine.retrain(&AsStored, &Thirds, &training(3), 7, Some((state, "key")), resume, watch)
    };
    let whole = run(&folder.path().join("whole.safetensors"), false, Watch::silent()).unwrap();
    let flag = AtomicBool::new(false);
    let cancel = Cancel { left: 3700.into(), flag: &flag };
    let stopped = run(&state, false, Watch { progress: &cancel, cancelled: &flag });
    assert!(matches!(stopped, Err(Error::Interrupted)));
    let resumed = run(&state, true, Watch::silent()).unwrap();
    assert_eq!(bits(&whole.weights), bits(&resumed.weights));
    assert_eq!(whole.epochs, resumed.epochs);
    let other = engine.retrain(&AsStored, &Thirds, &training(3), 7, Some((&state, "other")), true, Watch::silent());
    assert!(other.err().unwrap().to_string().contains("belongs to another run"));
}

/// A step of a schedule goes on with the optimiser of the step before: a first step of a cold one would go as far in every
/// direction, whatever the gradient.
#[test]
fn a_training_goes_on_with_the_moments_of_the_one_before() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("first.safetensors");
    let spec = Training { warmup: 0, dropout: Dropout::None, ..training(1) };
    let first = engine.retrain(&AsStored, &Thirds, &spec, 7, Some((&path, "key")), false, Watch::silent()).unwrap();
    let run = |warm: bool, steps: usize| {
        let mut trainer = Trainer::new(&engine, &first.weights, &spec, 7).unwrap();
        if warm {
            assert!(carry_on(&mut trainer, &path).unwrap());
        }
        trainer.set_masks(&Thirds).unwrap();
        trainer.part(0, 2000 / 64 / steps, Watch::silent()).unwrap();
        let moved = trainer
            .weights()
            .into_iter()
            .map(|(name, w)| w.iter().zip(&first.weights[&name]).map(|(a, b)| f64::from((a - b).powi(2))).sum::<f64>());
        moved.sum::<f64>().sqrt()
    };
    let (warm, cold) = (run(true, 1), run(false, 1));
    assert!(warm > 0.0 && warm < 0.8 * cold, "{warm} {cold}");
}

/// What a model loses with the padding of the data can be asked where the recipe trims it away.
#[test]
fn padding_can_be_asked_for() {
    let source = source();
    let silent = Watch::silent();
    let of = |trim: bool| Engine::open(&*source, &Data { trim, ..data(1) }).unwrap();
    let (trimmed, whole) = (of(true), of(false));
    let padded = trimmed.padded_tally(&AsStored, Split::Validation, silent).unwrap().unwrap();
    assert_eq!(padded, whole.tally(&AsStored, Split::Validation, silent).unwrap());
    assert_ne!(padded, trimmed.tally(&AsStored, Split::Validation, silent).unwrap());
    assert_eq!(whole.padded_tally(&AsStored, Split::Validation, silent).unwrap(), None);
}

/// Four trainings of half an epoch, each going on from the one before, are two epochs: every example comes once a pass.
#[test]
fn parts_of_epochs_are_epochs() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let spec = |epochs: f64| Training { epochs, warmup: 0, batch: Some(100), ..training(1) };
    let whole = engine.retrain(&AsStored, &AllKept, &spec(2.0), 7, None, false, Watch::silent()).unwrap();
    let path = |i: usize| folder.path().join(format!("{i}.safetensors"));
    let half = |i: usize, weights: &dyn Weights| {
        let mut trainer = Trainer::new(&engine, weights, &spec(0.5), 7).unwrap();
        assert!(i == 0 || carry_on(&mut trainer, &path(i - 1)).unwrap());
        trainer.epoch(Watch::silent()).unwrap();
        assert!(trainer.finished());
        save(&trainer, &path(i), "key").unwrap();
        trainer.result()
    };
    let mut got = half(0, &AsStored);
    for i in 1..4 {
        got = half(i, &got.weights);
    }
    assert_eq!(bits(&whole.weights), bits(&got.weights));
}

/// A rate that spoils the model: patience ends it, and the best epoch is what comes out.
#[test]
fn the_best_epoch_is_kept_and_patience_ends_a_training() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let run = |patience| {
        let spec = Training { rate: Some(0.02), warmup: 0, patience, ..training(5) };
        engine.retrain(&AsStored, &AllKept, &spec, 7, None, false, Watch::silent()).unwrap()
    };
    let (all, early) = (run(None), run(Some(1)));
    assert_eq!(all.epochs.len(), 5);
    for got in [&all, &early] {
        let losses: Vec<f64> = got.epochs.iter().map(|e| e.validation.unwrap().0).collect();
        let best = losses.iter().copied().fold(f64::MAX, f64::min);
        let kept = engine.tally(&got.weights, Split::Validation, Watch::silent()).unwrap().mean();
        assert_eq!(kept.to_bits(), best.to_bits(), "{losses:?}");
    }
    let losses: Vec<f64> = early.epochs.iter().map(|e| e.validation.unwrap().0).collect();
    let worse = |w: &[f64]| w[1] >= w[0];
    assert!(losses.len() < 5 && worse(&losses[losses.len() - 2..]), "{losses:?}");
    assert!(!losses[..losses.len() - 1].windows(2).any(worse), "{losses:?}");
}

/// Another rate at one place only changes what is drawn there; both optimisers learn.
#[test]
fn dropout_by_name_and_both_optimisers_work() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let run = |dropout: Dropout, optimizer, momentum, rate| {
        let spec = Training { dropout, optimizer, momentum, rate: Some(rate), batch: Some(100), ..training(1) };
        engine.retrain(&AsStored, &Thirds, &spec, 7, None, false, Watch::silent()).unwrap()
    };
    let by_name = |list: &[(&str, f64)]| Dropout::ByName(list.iter().map(|(n, r)| (n.to_string(), *r)).collect());
    let (adam, sgd) = (Optimizer::Adam, Optimizer::Sgd);
    let plain = run(Dropout::None, adam, None, 1e-3);
    let none = run(by_name(&[("softmax", 0.0)]), adam, None, 1e-3);
    let softmax = run(by_name(&[("softmax", 0.3), ("*", 0.0)]), adam, None, 1e-3);
    let everywhere = run(by_name(&[("*", 0.3)]), adam, None, 1e-3);
    assert_eq!(bits(&plain.weights), bits(&none.weights));
    let losses = [&plain, &softmax, &everywhere].map(|r| r.epochs[0].train);
    assert!(losses[0] < losses[1] && losses[1] < losses[2], "{losses:?}");
    let slow = run(Dropout::None, sgd, Some(0.9), 1e-6).epochs[0].train;
    let descent = run(Dropout::None, sgd, Some(0.9), 0.05).epochs[0].train;
    assert!(descent < slow, "{descent} {slow}");
}

/// The gradient of what a teacher says alone is zero where the model says the same, and leads a pruned model back to it.
#[test]
fn a_model_learns_from_another() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let distil = |weight| Some(Distil { weight, temperature: 2.0, teacher: None });
    let run = |weight: f64, masks: &dyn Masks, threads: usize| {
        let spec = Training { distil: distil(weight), dropout: Dropout::None, warmup: 0, ..training(1) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| engine.retrain(&AsStored, masks, &spec, 7, None, false, Watch::silent()).unwrap())
    };
    let same = run(1.0, &AllKept, 1);
    for (name, values) in &same.weights {
        assert_eq!(*values, engine.stored(name).unwrap(), "{name}");
    }
    let pruned = run(1.0, &Thirds, 1);
    assert_eq!(bits(&pruned.weights), bits(&run(1.0, &Thirds, 8).weights));
    let loss = |weights: &BTreeMap<String, Vec<f32>>| {
        engine.tally(weights, Split::Validation, Watch::silent()).unwrap().mean()
    };
    let mut trainer = Trainer::new(&engine, &AsStored, &training(1), 7).unwrap();
    trainer.set_masks(&Thirds).unwrap();
    let (before, after) = (loss(&trainer.weights()), loss(&pruned.weights));
    assert!(after < 0.5 * before, "{before} {after}");
    assert_ne!(bits(&pruned.weights), bits(&run(0.5, &Thirds, 1).weights));
}

/// A weight of `buckets` shared values.
struct Shared;

impl Form for Shared {
    fn expand(&self, theta: &[f32], weight: &mut [f32]) {
        for (i, w) in weight.iter_mut().enumerate() {
            *w = theta[i % theta.len()];
        }
    }
    fn gather(&self, theta: &[f32], weight_grad: &[f32], theta_grad: &mut [f32]) {
        for (i, g) in weight_grad.iter().enumerate() {
            theta_grad[i % theta.len()] += g;
        }
    }
}

#[test]
fn shared_values_are_trained_as_themselves() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let mut trainer = Trainer::new(&engine, &AsStored, &training(1), 1).unwrap();
    trainer.set_masks(&AllKept).unwrap();
    trainer.set_form("softmax.bias", vec![0.0, 0.0, 0.0], Box::new(Shared)).unwrap();
    trainer.part(0, 8, Watch::silent()).unwrap();
    trainer.validate(Default::default(), Watch::silent()).unwrap();
    let result = trainer.result();
    let theta = result.parameters["softmax.bias"].clone();
    assert_eq!(theta, trainer.theta("softmax.bias").unwrap());
    let weights = trainer.weights();
    assert!(theta.iter().all(|v| *v != 0.0));
    assert!(weights["softmax.bias"].iter().enumerate().all(|(i, w)| *w == theta[i % 3]));
}

#[test]
fn a_loss_that_becomes_nan_stops_the_run() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let spec = Training { rate: Some(1e39), optimizer: Optimizer::Sgd, warmup: 0, ..training(1) };
    let error = engine.retrain(&AsStored, &AllKept, &spec, 1, None, false, Watch::silent()).err().unwrap().to_string();
    assert!(error.contains("at step") && error.contains("lower \"rate\""), "{error}");
}

#[test]
fn evidence_is_written_for_every_weight_and_does_not_depend_on_threads() {
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = |threads: usize| {
        let path = folder.path().join(format!("{threads}.safetensors"));
        let options = MeasureOptions { examples: 40, batch: 1, seed: 3 };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| engine.measure(&AsStored, &EvidenceKind::ALL, options, &path, Watch::silent()).unwrap());
        path
    };
    let (one, eight) = (run(1), run(8));
    assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&eight).unwrap());
    let file = StFile::open(&one).unwrap();
    let names: Vec<&str> = file.entries().iter().map(|e| e.name.as_str()).collect();
    for w in engine.weights() {
        assert!(names.contains(&format!("{}.fisher_diag", w.name).as_str()), "{}", w.name);
        assert!(names.contains(&format!("{}.hessian_diag", w.name).as_str()), "{}", w.name);
    }
    let grams = names.iter().filter(|n| n.ends_with(".gram")).count();
    let rows = names.iter().filter(|n| n.ends_with(".row_count")).count();
    assert_eq!((grams, rows), (11, 2), "{names:?}"); // 4 layers × 2, attention 2, softmax 1
    let entry = file.entry("tgt_embed.weight.row_count").unwrap();
    let mut bytes = vec![0; entry.bytes() as usize];
    file.read_at(entry, 0, &mut bytes).unwrap();
    let counts: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(counts[1], 40.0); // every sentence begins once; padding is not counted
    assert_eq!(counts[0], 0.0);
}

/// A copy of the validation data with something wrong.
fn spoiled(folder: &Path, spoil: impl Fn(&str, &mut Vec<i64>, &mut Vec<u64>)) -> PathBuf {
    let file = StFile::open(&self::folder().join("val.safetensors")).unwrap();
    let out = folder.join("spoiled.safetensors");
    let mut parts = Vec::new();
    for e in file.entries() {
        let mut bytes = vec![0; e.bytes() as usize];
        file.read_at(e, 0, &mut bytes).unwrap();
        let mut ids: Vec<i64> = bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        let mut shape = e.shape.clone();
        spoil(&e.name, &mut ids, &mut shape);
        if !shape.is_empty() {
            ids.resize(shape.iter().product::<u64>() as usize, 0);
            parts.push((Spec { name: e.name.clone(), dtype: Dtype::Other("I64".into(), 64), shape }, ids));
        }
    }
    let specs: Vec<Spec> = parts.iter().map(|(s, _)| s.clone()).collect();
    let writer = StWriter::create(&out, &specs, &[]).unwrap();
    for (i, (_, ids)) in parts.iter().enumerate() {
        writer.write_at(i, 0, &ids.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    }
    writer.finish().unwrap().persist(&out).unwrap();
    out
}

#[test]
fn bad_data_is_named() {
    let source = source();
    let folder = tempfile::tempdir().unwrap();
    type Spoil = Box<dyn Fn(&str, &mut Vec<i64>, &mut Vec<u64>)>;
    let cases: Vec<(Spoil, &str)> = vec![
        (
            Box::new(|n, ids, _| {
                if n == "src" {
                    ids[5] = 999
                }
            }),
            "index 999 lies outside 0…73",
        ),
        (
            Box::new(|n, ids, _| {
                if n == "tgt_out" {
                    ids[0] = 77
                }
            }),
            "target 77 is none of the output's 15 classes",
        ),
        (
            Box::new(|n, _, shape| {
                if n == "src" {
                    shape.clear()
                }
            }),
            "has no tensor \"src\"",
        ),
        (Box::new(|_, _, shape| shape[0] = 0), "has no examples"),
        (
            Box::new(|n, _, shape| {
                if n == "src" {
                    shape[0] = 3
                }
            }),
            "examples of",
        ),
        (
            Box::new(|n, _, shape| {
                if n == "tgt_in" {
                    shape.push(1)
                }
            }),
            "the graph expects [?×?]",
        ),
        (
            Box::new(|n, ids, _| {
                if n == "tgt_out" {
                    ids.fill(0)
                }
            }),
            "no target that counts",
        ),
    ];
    for (spoil, text) in cases {
        let path = spoiled(folder.path(), spoil);
        let data = Data { validation: Some(path), ..data(1) };
        let error = Engine::open(&*source, &data).and_then(|e| {
            e.tally(&AsStored, Split::Validation, Watch { progress: &Silent, cancelled: &AtomicBool::new(false) })
        });
        let error = error.err().unwrap().to_string();
        assert!(error.contains(text), "{error}");
    }
    let wrong = Data { output: Some("logit".into()), ..data(1) };
    let error = Engine::open(&*source, &wrong).err().unwrap().to_string();
    assert!(error.contains("did you mean \"logits\""), "{error}");
}

fn tensor(file: &StFile, name: &str) -> Vec<f64> {
    let entry = file.entry(name).unwrap_or_else(|| panic!("{name} is missing"));
    let mut bytes = vec![0; entry.bytes() as usize];
    file.read_at(entry, 0, &mut bytes).unwrap();
    bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

/// examples/pytorch/dates_evidence.py writes the same evidence by PyTorch: what of it is compared lies in tests/fixtures;
/// `COMPRESS_TORCH_EVIDENCE` names another file.
#[test]
fn evidence_agrees_with_pytorch() {
    let path = std::env::var_os("COMPRESS_TORCH_EVIDENCE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dates-evidence.safetensors"),
        PathBuf::from,
    );
    let torch = StFile::open(&path).unwrap();
    let source = source();
    let engine = Engine::open(&*source, &data(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("ours.safetensors");
    let options = MeasureOptions { examples: 40, batch: 1, seed: 1 };
    engine.measure(&AsStored, &[EvidenceKind::Gram, EvidenceKind::FisherDiag], options, &out, Watch::silent()).unwrap();
    let ours = StFile::open(&out).unwrap();
    let distance = |a: &[f64], b: &[f64]| {
        let (d, n) = a.iter().zip(b).fold((0.0, 0.0), |(d, n), (a, b)| (d + (a - b) * (a - b), n + b * b));
        (d / n).sqrt()
    };
    for name in ["src_embed.weight", "tgt_embed.weight", "attn_combine.bias", "softmax.bias"] {
        let name = format!("{name}.fisher_diag");
        let d = distance(&tensor(&ours, &name), &tensor(&torch, &name));
        assert!(d < 1e-3, "{name} {d}");
    }
    for name in ["attn", "attn_combine", "softmax"] {
        let expected = tensor(&torch, &format!("{name}.weight.gram"));
        let grams = ours.entries().iter().filter(|e| e.name.ends_with(".gram") && e.elements == expected.len() as u64);
        let nearest = grams.map(|e| distance(&tensor(&ours, &e.name), &expected)).fold(f64::MAX, f64::min);
        assert!(nearest < 1e-4, "{name} {nearest}");
    }
}
