//! The translation model of ../shared/nmt: its figures by PyTorch. Skipped where the folder is absent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::nmt;
use compress_core::format::{Format, OpenOptions};
use compress_core::progress::Watch;
use compress_core::recipe::{Bleu, Data, Metric, References, Tokenize};
use compress_core::stfile::{Entry, StFile};
use compress_engine::data::{Column, Examples};
use compress_engine::engine::{AsStored, Engine, Split};
use compress_engine::import::{import, value};
use compress_engine::measure::MeasureOptions;
use compress_engine::program::{Program, bind};
use compress_engine::real::Real;
use compress_engine::step::{Labels, Objective, gradients};
use compress_engine::value::{Tensor, Value};
use compress_onnx::Onnx;
use compress_onnx::model::Model;
use compress_sdk::EvidenceKind;

/// A file that bench/engine/torch_nmt.py has made of that model: too large for the repository.
fn made(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        eprintln!("SKIPPED: {variable} names no file (bench/engine/torch_nmt.py makes it)");
    }
    path
}

fn data(folder: &Path, tokenize: Tokenize) -> Data {
    Data {
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
            tokenize,
            join: String::new(),
            beam: 1,
            max_length: 100,
        }),
    }
}

#[test]
fn untouched_model_has_the_figures_of_pytorch() {
    let Some(folder) = nmt() else { return };
    let source = Onnx.open(&folder.join("model.onnx"), &OpenOptions::default()).unwrap();
    for (tokenize, bleu) in [(Tokenize::None, "33.37"), (Tokenize::Mteval13a, "30.24")] {
        let engine = Engine::open(&*source, &data(&folder, tokenize)).unwrap();
        let metrics = [Metric::Perplexity, Metric::Accuracy, Metric::Bleu];
        let start = std::time::Instant::now();
        let got = engine.evaluate(&AsStored, Split::Validation, &metrics, Watch::silent()).unwrap();
        eprintln!("{got:?} {:?}", start.elapsed());
        assert_eq!(format!("{:.4}", got[0].1), "4.8064");
        assert_eq!(format!("{:.2}", got[2].1), bleu);
    }
}

#[test]
fn trimming_moves_the_perplexity_in_the_third_digit() {
    let Some(folder) = nmt() else { return };
    let source = Onnx.open(&folder.join("model.onnx"), &OpenOptions::default()).unwrap();
    let engine = Engine::open(&*source, &Data { trim: true, ..data(&folder, Tokenize::None) }).unwrap();
    let got = engine.evaluate(&AsStored, Split::Validation, &[Metric::Perplexity], Watch::silent()).unwrap()[0].1;
    assert!((got - 4.8064).abs() < 0.05 && got != 4.8064, "{got}");
}

/// The same model by the dynamo exporter (torch_nmt.py FOLDER dynamo OUT; `COMPRESS_NMT_DYNAMO`), whose LSTM weights reach
/// the nodes through Slice and Concat at run time.
#[test]
fn the_other_exporter_gives_the_same_figures_and_every_weight_is_reached() {
    let Some(folder) = nmt() else { return };
    let Some(path) = made("COMPRESS_NMT_DYNAMO") else { return };
    let source = Onnx.open(&path, &OpenOptions::default()).unwrap();
    let engine = Engine::open(&*source, &data(&folder, Tokenize::None)).unwrap();
    let got = engine.evaluate(&AsStored, Split::Validation, &[Metric::Perplexity], Watch::silent()).unwrap();
    assert_eq!(format!("{:.4}", got[0].1), "4.8064");
    assert_eq!(engine.unreached(), Vec::<&str>::new());
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("evidence.safetensors");
    let options = MeasureOptions { examples: 2, batch: 2, seed: 1 };
    let kinds = [EvidenceKind::FisherDiag, EvidenceKind::Gram];
    engine.measure(&AsStored, &kinds, options, &file, Watch::silent()).unwrap();
    let evidence = StFile::open(&file).unwrap();
    let names: Vec<&str> = evidence.entries().iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names.iter().filter(|n| n.ends_with(".gram")).count(), 11, "{names:?}");
    for e in evidence.entries().iter().filter(|e| e.name.ends_with("fisher_diag")) {
        let t: Tensor<f32> = floats(&evidence, e);
        assert!(t.data().iter().any(|v| *v > 0.0), "{}", e.name);
    }
}

/// Gradients of the first 32 training examples against PyTorch's in f64 (bench/engine/torch_nmt.py FOLDER gradients OUT;
/// the file is `COMPRESS_NMT_GRADIENTS`): f64 to 1e-9, f32 to 1e-4 and at most 3 times PyTorch's own f32 error.
#[test]
fn gradients_of_the_whole_model_are_those_of_pytorch() {
    let Some(folder) = nmt() else { return };
    let Some(file) = made("COMPRESS_NMT_GRADIENTS") else { return };
    let file = StFile::open(&file).unwrap();
    let torch: f64 = file.metadata().iter().find(|(k, _)| k == "f32_worst").unwrap().1.parse().unwrap();
    let double = worst::<f64>(&folder, &file);
    let single = worst::<f32>(&folder, &file);
    eprintln!("f64 {double:.1e}, f32 {single:.1e}, PyTorch's f32 {torch:.1e}");
    assert!(double < 1e-9 && single < 1e-4 && single < 3.0 * torch);
}

fn floats<R: Real>(file: &StFile, entry: &Entry) -> Tensor<R> {
    let mut bytes = vec![0; entry.bytes() as usize];
    file.read_at(entry, 0, &mut bytes).unwrap();
    let v: Value<R> = value(&entry.dtype, &bytes, entry.shape.iter().map(|d| *d as usize).collect()).unwrap();
    v.float().unwrap().clone()
}

fn worst<R: Real>(folder: &Path, expected: &StFile) -> f64 {
    let model = Model::open(&folder.join("model.onnx"), &Default::default()).unwrap();
    let mut graph = import::<R>(&model, &|_| false).unwrap();
    let mut weights = BTreeMap::new();
    let mut values = BTreeMap::new();
    for e in expected.entries() {
        let t = graph.constants.remove(&e.name).unwrap().float().unwrap().clone();
        weights.insert(e.name.clone(), (e.name.clone(), t.shape().to_vec()));
        values.insert(e.name.clone(), t);
    }
    let mut program = Program::new(&graph, &graph.outputs, &weights).unwrap();
    assert!(program.compact());
    let params = bind(&program, &values).unwrap();
    let carriers = program.carriers(|_| true).unwrap();
    let column = |name: &str| Column { name: name.into(), group: None };
    let columns = ["src", "tgt_in", "tgt_out"].map(column).to_vec();
    let examples = Examples::open(&folder.join("train.safetensors"), columns, false, 0).unwrap();
    let batch = examples.batch::<R>(&(0..32).collect::<Vec<_>>()).unwrap();
    let objective = Objective { target: "tgt_out".into(), ignore: Some(0), compact: true, slices: 2 };
    let got = gradients(&program, &params, &carriers, &objective, &batch, None, Labels::Given).unwrap();
    let mut worst = 0f64;
    for (p, g) in program.params.iter().zip(&got.params) {
        let e: Tensor<f64> = floats(expected, expected.entry(&p.name).unwrap());
        let pairs = g.as_ref().unwrap().data().iter().zip(e.data());
        let (d, n) = pairs.fold((0f64, 0f64), |(d, n), (a, b)| (d + (a.f64() - b).powi(2), n + b * b));
        worst = worst.max((d / n).sqrt());
    }
    worst
}
