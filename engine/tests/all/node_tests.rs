//! The ONNX project's own node tests, for every operator that the engine claims. `node_tests.py` exports them from the
//! `onnx` package.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use crate::common::tensors;
use compress_core::stfile::StFile;
use compress_engine::execute::Mode;
use compress_engine::graph::Graph;
use compress_engine::import::import;
use compress_engine::ops::supported;
use compress_engine::program::Program;
use compress_engine::real::Real;
use compress_engine::value::Value;
use compress_onnx::model::Model;

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

/// Claimed operators without a case of their own, and where they are tested instead.
const ELSEWHERE: &[(&str, &str)] = &[("If", "tests/plan.rs: the package's cases have conditions that are inputs")];

/// Fewer cases than this mean that the export or the reader lost some.
const CASES: usize = 600;

/// As the ONNX runner compares: rtol 1e-3, atol 1e-7 (we take 1e-6 for sums that cancel).
fn equal<R: Real>(a: &Value<R>, b: &Value<R>, half: bool) -> bool {
    let (rtol, atol) = if half { (1e-2, 1e-2) } else { (1e-3, 1e-6) };
    if a.shape() != b.shape() {
        return false;
    }
    match (a, b) {
        (Value::Float(x), Value::Float(y)) => x
            .data()
            .iter()
            .zip(y.data())
            .map(|(x, y)| (x.f64(), y.f64()))
            .all(|(x, y)| x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= atol + rtol * x.abs()),
        (Value::Int(x, _), Value::Int(y, _)) => x.data() == y.data(),
        (Value::Bool(x), Value::Bool(y)) => x.data() == y.data(),
        _ => false,
    }
}

fn operators<R: Real>(graph: &Graph<R>) -> BTreeSet<String> {
    graph
        .nodes
        .iter()
        .map(|n| if n.domain.is_empty() { n.op.clone() } else { format!("{}::{}", n.domain, n.op) })
        .collect()
}

#[test]
fn every_claimed_operator_passes_the_node_tests_in_f32() {
    every_claimed_operator_passes::<f32>();
}

#[test]
fn every_claimed_operator_passes_the_node_tests_in_f64() {
    every_claimed_operator_passes::<f64>();
}

fn every_claimed_operator_passes<R: Real>() {
    let Some(folder) = exported() else { return };
    let list = std::fs::read_dir(&folder).unwrap();
    let claimed: BTreeSet<&str> = supported().into_iter().map(|(n, _)| n).collect();
    let mut paths: Vec<PathBuf> =
        list.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "onnx")).collect();
    paths.sort();
    let (mut passed, mut wrong, mut tested) = (0, Vec::new(), BTreeSet::new());
    for path in &paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let Ok(model) = Model::open(path, &Default::default()) else { continue };
        let Ok(graph) = import::<R>(&model, &|_| false) else { continue };
        let ops = operators(&graph);
        if !ops.iter().all(|o| claimed.contains(o.as_str())) {
            continue;
        }
        let io = StFile::open(&path.with_file_name(format!("{name}.io.safetensors"))).unwrap();
        let (inputs, expected) = (tensors::<R>(&io, "in"), tensors::<R>(&io, "out"));
        let run = || -> compress_core::Result<Vec<Value<R>>> {
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
    let untested: Vec<&str> = claimed.iter().filter(|c| !tested.contains(**c)).copied().collect();
    eprintln!("{passed} cases passed");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(untested, ELSEWHERE.iter().map(|e| e.0).collect::<Vec<_>>(), "claimed without a case");
    assert!(passed >= CASES, "{passed} cases");
}

/// The folder of the exported cases; made anew where the script is newer.
fn exported() -> Option<PathBuf> {
    let python = crate::common::python()?;
    let script = crate::common::repository("engine/tests/node_tests.py");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("onnx-node");
    let done = folder.join("done");
    let time = |p: &PathBuf| p.metadata().and_then(|m| m.modified()).ok();
    static EXPORT: Mutex<()> = Mutex::new(());
    let _alone = EXPORT.lock();
    if time(&done) < time(&script) {
        let output = Command::new(python).arg(&script).arg(&folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(&done, output.stdout).unwrap();
    }
    Some(folder)
}
