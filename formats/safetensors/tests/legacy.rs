//! The sparse formats of compressed-tensors, as its own encoder wrote them (`make_legacy.py`).

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{open, read};
use compress_core::decompress::{Options, decompress};
use compress_core::format::OpenOptions;
use compress_core::model::Model;
use compress_core::progress::Watch;
use compress_safetensors::Safetensors;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/legacy").join(name)
}

fn unpack(input: &Path, output: &Path) -> usize {
    let model = Model::open(&[&Safetensors], &[input.to_path_buf()], &OpenOptions::default()).unwrap();
    let options = Options { dry_run: false, force: false };
    decompress(&model, output, &options, Watch::silent()).unwrap().tensors.len()
}

/// Names, order, types, shapes and bytes are those of the package's own decoder.
#[track_caller]
fn same(found: &Path, expected: &Path) {
    let (found, expected) = (open(found).unwrap(), open(expected).unwrap());
    let list = |s: &dyn compress_core::format::Source| -> Vec<_> {
        s.tensors().iter().map(|t| (t.name.clone(), t.dtype.clone(), t.shape.clone(), t.file)).collect()
    };
    assert_eq!(list(&*found), list(&*expected));
    for t in expected.tensors() {
        assert!(read(&*found, &t.name) == read(&*expected, &t.name), "{}", t.name);
    }
}

fn config(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_sharded_bitmask_model() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert_eq!(unpack(&fixture("bitmask"), &out), 6);
    same(&out, &fixture("bitmask.dense"));
    // The weights are where their values were; the index says so.
    let index = |f: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(f.join("model.safetensors.index.json")).unwrap()).unwrap()
    };
    assert_eq!(index(&out), index(&fixture("bitmask.dense")));
    let (before, after) = (config(&fixture("bitmask")), config(&out));
    assert_eq!(before["quantization_config"]["sparsity_config"]["format"], "sparse-bitmask");
    assert!(after.get("quantization_config").is_none() && after["hidden_size"] == 24, "{after}");
}

#[test]
fn names_with_weight_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.safetensors");
    assert_eq!(unpack(&fixture("old-names.safetensors"), &out), 6);
    same(&out, &fixture("old-names.dense.safetensors"));
}

#[test]
fn two_of_four() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert_eq!(unpack(&fixture("24"), &out), 2);
    same(&out.join("model.safetensors"), &fixture("24.dense.safetensors"));
    assert!(config(&out).get("quantization_config").is_none());
}

/// A quantised model keeps what says how.
#[test]
fn a_quantisation_stays_in_the_config() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    std::fs::create_dir(&input).unwrap();
    std::fs::copy(fixture("24/model.safetensors"), input.join("model.safetensors")).unwrap();
    let text = std::fs::read_to_string(fixture("24/config.json")).unwrap();
    let text =
        text.replace("\"config_groups\": {}", "\"config_groups\": {\"group_0\": {\"weights\": {\"num_bits\": 8}}}");
    std::fs::write(input.join("config.json"), text).unwrap();
    unpack(&input, &dir.path().join("out"));
    let after = config(&dir.path().join("out"));
    let quantised = &after["quantization_config"];
    assert!(quantised.get("sparsity_config").is_none() && quantised["config_groups"]["group_0"].is_object(), "{after}");
}

#[test]
fn damaged_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let good = |mask: Vec<u8>, shape: [i64; 2], values: u64| {
        let shape = shape.iter().flat_map(|d| d.to_le_bytes()).collect();
        common::file(
            &path,
            &[
                ("a.compressed", "F32", &[values], vec![1; values as usize * 4]),
                ("a.bitmask", "U8", &[2, 2], mask),
                ("a.shape", "I64", &[2], shape),
            ],
        );
        let source = match open(&path) {
            Err(e) => return e.to_string(),
            Ok(source) => source,
        };
        assert_eq!(source.tensors()[0].name, "a.weight");
        let mut out = vec![0; source.tensors()[0].dense_bytes() as usize];
        source.read_at(0, 0, &mut out).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(good(vec![1, 2, 0, 0], [2, 10], 2), "");
    for (mask, shape, values, expected) in [
        (vec![1, 2, 0, 1], [2, 10], 2, "keeps 3"),
        (vec![1, 0, 0, 0], [2, 10], 2, "keeps 1"),
        (vec![1, 4, 0, 0], [2, 10], 2, "beyond its 10 columns"),
        (vec![1, 2, 0, 0], [2, 17], 2, "does not fit its shape"),
        (vec![1, 2, 0, 0], [3, 10], 2, "does not fit its shape"),
        (vec![1, 2, 0, 0], [-2, 10], 2, "holds -2"),
        (vec![1, 2, 0, 0], [1 << 40, 1 << 40], 2, "too large"),
        (vec![1, 2, 0, 0], [1 << 20, 1 << 20], 2, "--max-expand"),
    ] {
        let said = good(mask, shape, values);
        assert!(said.contains(expected) && said.contains("a.weight"), "{expected}: {said}");
    }
}
