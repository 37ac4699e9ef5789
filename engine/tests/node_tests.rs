//! The ONNX project's own node tests, for every operator that the engine claims. `node_tests.py FOLDER` exports them;
//! the folder is `COMPRESS_NODE_TESTS`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use compress_core::stfile::StFile;
use compress_engine::execute::Mode;
use compress_engine::graph::Graph;
use compress_engine::import::{import, value};
use compress_engine::ops::supported;
use compress_engine::program::Program;
use compress_engine::value::Value;
use compress_onnx::model::Model;

type Tensors = Vec<(String, Value<f64>)>;

/// Cases that ask for what the engine refuses by name, and why.
const REFUSED: &[(&str, &str)] = &[
    ("test_batchnorm_epsilon_training_mode", "training mode"),
    ("test_batchnorm_example_training_mode", "training mode"),
    ("test_training_dropout", "training mode"),
    ("test_dropout_random", "random"),
    ("test_if_opt", "sequences"),
    ("test_if", "condition is an input"),
    ("test_affine_grid_", "condition depends on the input's rank"),
    ("test_cast_", "8-bit and 4-bit floats"),
    ("test_castlike_", "8-bit and 4-bit floats"),
    ("test_equal_string", "strings"),
];

fn read(path: &Path) -> (Tensors, Tensors) {
    let file = StFile::open(path).unwrap();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for e in file.entries() {
        let mut bytes = vec![0; e.bytes() as usize];
        file.read_at(e, 0, &mut bytes).unwrap();
        let v = value::<f64>(&e.dtype, &bytes, e.shape.iter().map(|d| *d as usize).collect()).unwrap();
        match e.name.split_once(':') {
            Some(("in", name)) => inputs.push((name.to_string(), v)),
            Some((_, name)) => outputs.push((name.to_string(), v)),
            _ => panic!("{}", e.name),
        }
    }
    (inputs, outputs)
}

/// As the ONNX runner compares: rtol 1e-3, atol 1e-7 (we take 1e-6 for sums that cancel).
fn equal(a: &Value<f64>, b: &Value<f64>, half: bool) -> bool {
    let (rtol, atol) = if half { (1e-2, 1e-2) } else { (1e-3, 1e-6) };
    if a.shape() != b.shape() {
        return false;
    }
    match (a, b) {
        (Value::Float(x), Value::Float(y)) => x
            .data()
            .iter()
            .zip(y.data())
            .all(|(x, y)| x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= atol + rtol * x.abs()),
        (Value::Int(x, _), Value::Int(y, _)) => x.data() == y.data(),
        (Value::Bool(x), Value::Bool(y)) => x.data() == y.data(),
        _ => false,
    }
}

fn operators(graph: &Graph<f64>) -> BTreeSet<String> {
    graph
        .nodes
        .iter()
        .map(|n| if n.domain.is_empty() { n.op.clone() } else { format!("{}::{}", n.domain, n.op) })
        .collect()
}

#[test]
fn every_claimed_operator_passes_the_node_tests() {
    let folder = std::env::var_os("COMPRESS_NODE_TESTS").map_or_else(|| "/tmp/onnx-node".into(), PathBuf::from);
    let Ok(list) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: no folder {}", folder.display());
        return;
    };
    let claimed: BTreeSet<&str> = supported().into_iter().map(|(n, _)| n).collect();
    let mut paths: Vec<PathBuf> =
        list.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "onnx")).collect();
    paths.sort();
    let (mut passed, mut wrong, mut tested) = (0, Vec::new(), BTreeSet::new());
    for path in &paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let Ok(model) = Model::open(path, &Default::default()) else { continue };
        let Ok(graph) = import::<f64>(&model, &|_| false) else { continue };
        let ops = operators(&graph);
        if !ops.iter().all(|o| claimed.contains(o.as_str())) {
            continue;
        }
        let (inputs, expected) = read(&path.with_file_name(format!("{name}.io.safetensors")));
        let run = || -> compress_core::Result<Vec<Value<f64>>> {
            let program = Program::new(&graph, &graph.outputs, &BTreeMap::new())?;
            let base = program.base(&[], None)?;
            let outputs = program.forward(&base, &inputs, Mode::default(), None)?.outputs;
            let place = |name: &str| graph.outputs.iter().position(|o| o == name).unwrap();
            Ok(expected.iter().map(|(n, _)| outputs[place(n)].clone()).collect())
        };
        match run() {
            Ok(got) if expected.iter().zip(&got).all(|((_, e), g)| equal(e, g, name.contains("fp16"))) => {
                passed += 1;
                tested.extend(ops);
            }
            Ok(got) => wrong.push(format!(
                "{name}: wrong values {:?} / {:?}",
                expected.iter().map(|e| e.1.describe()).collect::<Vec<_>>(),
                got.iter().map(Value::describe).collect::<Vec<_>>()
            )),
            Err(e) if REFUSED.iter().any(|(n, _)| name.starts_with(n)) => eprintln!("refused: {name}: {e}"),
            Err(e) => wrong.push(format!("{name}: {e}")),
        }
    }
    let untested: Vec<&&str> = claimed.iter().filter(|c| !tested.contains(**c)).collect();
    eprintln!("{passed} cases passed; claimed without a case: {untested:?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
