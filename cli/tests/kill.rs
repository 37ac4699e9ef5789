//! Runs that are killed at any moment leave the old output or the new one, whole; the next run removes what they left.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Folder, Seeded, onnx, st};

mod common;

const SIDE: u64 = 1024;

/// One model a kind of output: a file, a folder of shards, an ONNX file with its data beside it.
fn folder() -> Folder {
    let folder = Folder::new();
    let mut random = Seeded(5);
    let mut tensor = |name: &str| st::tensor(name, "F32", &[SIDE, SIDE], &random.floats((SIDE * SIDE) as usize));
    let (a, b) = (tensor("a.weight"), tensor("b.weight"));
    folder.write("one.safetensors", st::file(&[a.clone(), b.clone()], &[]));
    folder.write("shards/1.safetensors", st::file(std::slice::from_ref(&a), &[]));
    folder.write("shards/2.safetensors", st::file(std::slice::from_ref(&b), &[]));
    let map = r#"{"weight_map":{"a.weight":"1.safetensors","b.weight":"2.safetensors"}}"#;
    folder.write("shards/model.safetensors.index.json", map);
    folder.write("shards/config.json", "{}");
    folder.write("w.data", &a.bytes);
    let w = onnx::external("W", &[SIDE, SIDE], "w.data", 0, a.bytes.len() as u64);
    let graph = onnx::Graph {
        inputs: vec![onnx::value("x", 1, &[0, SIDE as i64])],
        outputs: vec![onnx::value("y", 1, &[0, SIDE as i64])],
        ..onnx::matmul(w)
    };
    folder.write("e.onnx", graph.model());
    folder
}

/// The files of an output: those whose names begin with it, data beside an ONNX file too.
fn output(folder: &Folder, name: &str) -> BTreeMap<String, String> {
    folder.listing().into_iter().filter(|(n, what)| n.starts_with(name) && what != "folder").collect()
}

#[test]
fn a_killed_run_leaves_the_old_output_or_the_new_one() {
    let folder = folder();
    let mut random = Seeded(11);
    for (model, name) in [("one.safetensors", "out.safetensors"), ("shards", "out"), ("e.onnx", "out.onnx")] {
        let text = |amount: &str| {
            format!(
                "model = \"{model}\"\noutput = \"{name}\"\n[[stage]]\nmethod = \"magnitude\"\namount = \"{amount}\"\n"
            )
        };
        let mut generations = Vec::new();
        let mut took = Duration::ZERO;
        for amount in ["50%", "80%"] {
            let begin = Instant::now();
            folder.recipe(&text(amount), &["--force"]).ok();
            took = begin.elapsed();
            generations.push(output(&folder, name));
        }
        let clean = folder.names();
        for round in 0..16 {
            // What there is now, and what the killed run is about to put in its place.
            let target = round % 2;
            folder.write("p.toml", text(["50%", "80%"][target]));
            let mut child =
                folder.command(["p.toml", "--force"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(took.mul_f64(random.below(1100) as f64 / 1000.0));
            child.kill().unwrap();
            child.wait().unwrap();
            let found = output(&folder, name);
            let whole = |g: &BTreeMap<String, String>| g.iter().all(|(n, hash)| found.get(n) == Some(hash));
            assert!(generations.iter().any(whole), "{name}, round {round}: neither output is whole: {found:?}");
        }
        folder.recipe(&text("50%"), &["--force"]).ok();
        assert_eq!(output(&folder, name), generations[0]);
        assert_eq!(folder.names(), folder_names(clean, &generations), "something is left");
    }
}

/// The names that a folder has, with the first generation's files in the place of the second's.
fn folder_names(clean: Vec<String>, generations: &[BTreeMap<String, String>]) -> Vec<String> {
    let top = |g: &BTreeMap<String, String>| -> Vec<String> {
        g.keys().map(|n| n.split('/').next().unwrap().to_string()).collect()
    };
    let (first, second) = (top(&generations[0]), top(&generations[1]));
    let mut names: Vec<String> = clean.into_iter().filter(|n| !second.contains(n)).chain(first).collect();
    names.sort();
    names.dedup();
    names
}
