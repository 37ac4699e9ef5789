//! Graphs of several exporters give what ONNX Runtime gives. Fixtures are pairs `<name>.onnx`, `<name>.io.safetensors`
//! (tensors `in:<input>` and `out:<output>`, made by a script with ONNX Runtime); the folder is `COMPRESS_FIXTURES`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use compress_core::stfile::StFile;
use compress_engine::execute::Mode;
use compress_engine::import::{import, value};
use compress_engine::program::Program;
use compress_engine::value::Value;
use compress_onnx::model::Model;

fn folder() -> PathBuf {
    std::env::var_os("COMPRESS_FIXTURES").map_or_else(|| "/tmp/fixtures".into(), PathBuf::from)
}

type Tensors = Vec<(String, Value<f32>)>;

fn read(path: &Path) -> (Tensors, Tensors) {
    let file = StFile::open(path).unwrap();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for e in file.entries() {
        let mut bytes = vec![0; e.bytes() as usize];
        file.read_at(e, 0, &mut bytes).unwrap();
        let v = value::<f32>(&e.dtype, &bytes, e.shape.iter().map(|d| *d as usize).collect()).unwrap();
        match e.name.split_once(':') {
            Some(("in", name)) => inputs.push((name.to_string(), v)),
            Some(("out", name)) => outputs.push((name.to_string(), v)),
            _ => panic!("{}", e.name),
        }
    }
    (inputs, outputs)
}

#[test]
fn every_fixture_matches_onnx_runtime() {
    let Ok(list) = std::fs::read_dir(folder()) else {
        eprintln!("skipped: no folder {}", folder().display());
        return;
    };
    let mut paths: Vec<PathBuf> =
        list.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "onnx")).collect();
    paths.sort();
    let mut wrong = Vec::new();
    for path in &paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let io = path.with_file_name(format!("{name}.io.safetensors"));
        if !io.exists() {
            continue;
        }
        let run = || -> compress_core::Result<f64> {
            let model = Model::open(path, &Default::default())?;
            let graph = import::<f32>(&model, &|_| false)?;
            let (inputs, expected) = read(&io);
            let program = Program::new(&graph, &graph.outputs, &BTreeMap::new())?;
            let base = program.base(&[], None)?;
            let pass = program.forward(&base, &inputs, Mode::default(), None)?;
            let mut worst = 0f64;
            for ((name, e), got) in expected.iter().zip(&pass.outputs) {
                assert_eq!(e.shape(), got.shape(), "{name}");
                for (a, b) in e.float()?.data().iter().zip(got.float()?.data()) {
                    worst = worst.max(f64::from((a - b).abs() / (1.0 + a.abs())));
                }
            }
            Ok(worst)
        };
        match run() {
            Ok(worst) => {
                eprintln!("{name}: {worst:.1e}");
                if worst.is_nan() || worst >= 1e-4 {
                    wrong.push(format!("{name}: off by {worst}"));
                }
            }
            Err(e) => wrong.push(format!("{name}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
