use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use compress_core::class::Role;
use compress_core::format::Source;

use crate::OnnxSource;

/// Weights by class.
fn classes(path: &Path) -> BTreeMap<String, u64> {
    let source = OnnxSource::open(path, &Default::default()).unwrap();
    let mut out = BTreeMap::new();
    for role in &source.roles().unwrap().tensors {
        if let Role::Weight(parts) = role {
            parts.iter().for_each(|p| *out.entry(p.class.clone()).or_default() += p.weights());
        }
    }
    out
}

fn nmt(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/nmt").join(file);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn the_translation_model_has_the_classes_of_its_readme() {
    let Some(path) = nmt("model.onnx") else { return };
    let expected = [
        ("attention", 196_608),
        ("softmax", 2_011_904),
        ("source.embedding", 1_515_776),
        ("source.layer1", 524_288),
        ("source.layer2", 524_288),
        ("target.embedding", 2_011_904),
        ("target.layer1", 524_288),
        ("target.layer2", 524_288),
    ];
    assert_eq!(classes(&path), expected.map(|(n, c)| (n.to_string(), c)).into());
}

#[test]
#[ignore = "prints the roles of the files in $ONNX_FILES"]
fn show() {
    for file in std::env::var("ONNX_FILES").unwrap().split(' ') {
        println!("== {file}");
        let source = OnnxSource::open(Path::new(file), &Default::default()).unwrap();
        for (info, role) in source.tensors().iter().zip(&source.roles().unwrap().tensors) {
            let names = |parts: &[compress_core::class::PartSpec]| {
                let show = |p: &compress_core::class::PartSpec| {
                    format!("{}[{}x{} {:?} {:?}]", p.name(), p.rows, p.cols, p.order, p.kind)
                };
                parts.iter().map(show).collect::<Vec<_>>().join(" ")
            };
            let text = match role {
                Role::Weight(parts) => names(parts),
                Role::OneDimensional(parts, why) => format!("-{why} {}", names(parts)),
                Role::Never(why) => format!("--{why}"),
            };
            if !text.starts_with("--I64") && !text.starts_with("--scalar") {
                println!("{} {:?}: {text}", info.name, info.shape);
            }
        }
    }
}
