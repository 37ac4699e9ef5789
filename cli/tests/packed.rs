//! Packed files as input to every command: they are the weights that they stand for.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::Value;

use common::{Folder, repository, st};

mod common;

const FORMATS: [&str; 2] = ["onnx", "safetensors"];

fn dates(format: &str) -> PathBuf {
    repository("examples/dates").canonicalize().unwrap().join(format!("model.{format}"))
}

fn prune(model: &Path, output: &str, amount: &str, encode: &str) -> String {
    let encode = if encode.is_empty() { String::new() } else { format!("[[stage]]\nencode = {encode}\n") };
    format!(
        "model = \"{}\"\noutput = \"{output}\"\n[[stage]]\nmethod = \"magnitude\"\nscheme = \"class-blind\"\n\
         amount = \"{amount}\"\n{encode}",
        model.display()
    )
}

/// `inspect --json` without what packing changes.
fn inspected(folder: &Folder, model: &str) -> Value {
    let mut seen: Value = serde_json::from_str(&folder.compress(["inspect", "--json", model]).ok().out).unwrap();
    for key in ["path", "bytes"] {
        seen.as_object_mut().unwrap().remove(key);
    }
    for tensor in seen["tensors"].as_array_mut().unwrap() {
        tensor.as_object_mut().unwrap().remove("packed");
    }
    seen
}

/// dense.<format>, pruned by 80 %, and packed.<format>, the same packed.
fn both(folder: &Folder, format: &str, encode: &str) -> (String, String) {
    let (dense, packed) = (format!("dense.{format}"), format!("packed.{format}"));
    folder.recipe(&prune(&dates(format), &dense, "80%", ""), &[]).ok();
    folder.recipe(&prune(&dates(format), &packed, "80%", encode), &[]).ok();
    (dense, packed)
}

#[test]
fn a_packed_model_is_the_weights_that_it_stands_for() {
    for format in FORMATS {
        let folder = Folder::new();
        let (dense, packed) = both(&folder, format, "\"sparse\"");
        let sizes = [&dense, &packed].map(|name| folder.read(name).len());
        assert!(sizes[1] * 2 < sizes[0], "{format}: {sizes:?}");
        assert_eq!(inspected(&folder, &dense), inspected(&folder, &packed), "{format}");
        let shown = folder.compress(["inspect", &packed]).ok().out;
        assert!(shown.contains("mask") || shown.contains("deltas"), "{shown}");
        // Unpacked: what pruning without packing gives, tensor by tensor.
        let out = format!("out.{format}");
        let said = folder.compress(["decompress", &packed, "-o", &out]).ok().out;
        assert!(said.contains("bytes, from"), "{said}");
        let again = folder.compress(["inspect", "--json", &out]).ok().out;
        assert!(!again.contains("\"packed\""), "{again}");
        if format == "safetensors" {
            assert!(st::read(&folder.read(&out)) == st::read(&folder.read(&dense)));
            let metadata = st::metadata(&folder.read(&packed));
            assert_eq!(metadata["compress.packed"], "1");
            let recipe = &metadata["compress.recipe"];
            assert!(recipe.contains("model.safetensors") && !recipe.contains('/'), "{recipe}");
            assert!(st::metadata(&folder.read(&out)).keys().all(|k| !k.starts_with("compress.")));
        }
        // A run without stages leaves a packed file as it is, byte for byte.
        folder.recipe(&format!("model = \"{packed}\"\noutput = \"same.{format}\"\n"), &[]).ok();
        assert!(folder.read(&format!("same.{format}")) == folder.read(&packed), "{format}");
        // Pruned further: dense and packed weights are the same input.
        for (input, name) in [(&dense, "a"), (&packed, "b")] {
            let input = folder.path(input);
            folder.recipe(&prune(&input, &format!("{name}.{format}"), "90%", "\"sparse\""), &["--force"]).ok();
            let output = format!("{name}.dense.{format}");
            folder.compress(["decompress", &format!("{name}.{format}"), "-o", &output]).ok();
        }
        assert_eq!(
            inspected_content(&folder, &format!("a.dense.{format}")),
            inspected_content(&folder, &format!("b.dense.{format}"))
        );
        folder.recipe(&prune(&folder.path(&packed), &format!("c.{format}"), "90%", "\"dense\""), &[]).ok();
        let c = folder.compress(["inspect", "--json", &format!("c.{format}")]).ok().out;
        assert!(!c.contains("\"packed\""), "{c}");
    }
}

/// Masks of all weights: equal files of masks are equal zeros.
fn inspected_content(folder: &Folder, model: &str) -> (Value, Option<Vec<u8>>) {
    (inspected(folder, model), model.ends_with("safetensors").then(|| folder.read(model)))
}

#[test]
fn masks_and_metrics_of_a_packed_model() {
    let folder = Folder::new();
    let (dense, packed) = both(&folder, "onnx", "\"auto\"");
    let data = repository("examples/dates").canonicalize().unwrap();
    for (model, name) in [(&dense, "dense"), (&packed, "packed")] {
        let recipe = prune(&folder.path(model), &format!("{name}-2.onnx"), "85%", "").replacen(
            "output",
            &format!("mask = \"{name}.masks.safetensors\"\noutput"),
            1,
        );
        folder.recipe(&recipe, &[]).ok();
    }
    assert!(folder.read("dense.masks.safetensors") == folder.read("packed.masks.safetensors"));
    let same = folder.compress(["mask", "overlap", "dense.masks.safetensors", "packed.masks.safetensors"]).ok().out;
    assert!(!same.is_empty());
    let data = data.display();
    let data_table = format!(
        "[data]\nvalidation = \"{data}/val.safetensors\"\ntarget = \"tgt_out\"\noutput = \"logits\"\nignore = 0\n"
    );
    folder.write("e.toml", format!("model = \"{dense}\"\noutput = \"unused.onnx\"\n{data_table}"));
    let metrics = |model: &str| folder.compress(["evaluate", "e.toml", "--model", model]).ok().out;
    assert_eq!(metrics(&dense), metrics(&packed));
}

#[test]
fn several_files_become_a_folder() {
    let folder = Folder::new();
    for name in ["a.onnx", "b.onnx"] {
        std::fs::copy(dates("onnx"), folder.path(name)).unwrap();
    }
    let recipe = |output: &str, encode: &str| {
        prune(Path::new("MODEL"), output, "80%", encode).replace("\"MODEL\"", "[\"a.onnx\", \"b.onnx\"]")
    };
    folder.recipe(&recipe("dense", ""), &[]).ok();
    folder.recipe(&recipe("packed", "\"sparse\""), &[]).ok();
    folder.compress(["decompress", "packed/a.onnx", "packed/b.onnx", "-o", "out"]).ok();
    assert_eq!(common::names(&folder.path("out")), ["a.onnx", "b.onnx"]);
    for name in ["a.onnx", "b.onnx"] {
        let seen = |of: &str| inspected(&folder, &format!("{of}/{name}"));
        assert_eq!(seen("dense"), seen("out"));
    }
}

#[test]
fn what_decompress_refuses_and_leaves() {
    let folder = Folder::new();
    let (_, packed) = both(&folder, "safetensors", "\"sparse\"");
    let names = folder.names();
    let dry = folder.compress(["decompress", &packed, "-o", "out.safetensors", "--dry-run"]).ok().out;
    assert!(dry.contains("dry run"), "{dry}");
    assert_eq!(folder.names(), names);
    folder.compress(["decompress", &packed]).code.filter(|c| *c == 2).expect("-o is needed");
    folder.compress(["decompress", &packed, "-o", &packed, "--force"]).refused(2, &[packed.as_str()]);
    folder.compress(["decompress", &packed, "-o", "dense.safetensors"]).refused(2, &["dense.safetensors", "--force"]);
    folder.compress(["decompress", &packed, "-o", "out.onnx"]).refused(2, &["out.onnx", "safetensors"]);
    folder.compress(["decompress", &packed, "-o", "nowhere/out.safetensors"]).refused(2, &["nowhere"]);
    folder
        .compress(["decompress", "missing.safetensors", "-o", "out.safetensors"])
        .refused(2, &["missing.safetensors"]);
    folder
        .compress(["decompress", &packed, "-o", "out.safetensors", "--max-expand", "1"])
        .refused(1, &["--max-expand"]);
    assert_eq!(folder.names(), names);
    for flags in
        [&["--quiet", "--threads", "1"][..], &["--force", "--resume"], &["--force", "--finish", "--threads", "8"]]
    {
        let args = ["decompress", &packed, "-o", "out.safetensors"];
        folder.compress(args.iter().chain(flags)).ok();
        assert!(st::read(&folder.read("out.safetensors")) == st::read(&folder.read("dense.safetensors")));
    }
    // A model that is not packed comes out as it is.
    folder.compress(["decompress", "dense.safetensors", "-o", "same.safetensors"]).ok();
    assert!(folder.read("same.safetensors") == folder.read("dense.safetensors"));
    // Every command that opens a model takes the limit.
    folder.write("p.toml", format!("model = \"{packed}\"\noutput = \"o.safetensors\"\n"));
    for args in [&["inspect", &packed][..], &["run", "p.toml"], &["check", "p.toml"], &["evaluate", "p.toml"]] {
        let ran = folder.compress(args.iter().chain(&["--max-expand", "1"]));
        assert!(ran.code == Some(1) && ran.err.contains("--max-expand"), "{args:?}: {ran:?}");
    }
}
