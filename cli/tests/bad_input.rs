//! Bad data, losses that are no numbers, commands that die or fall silent: one sentence that names what is wrong, exit
//! status, nothing half-done left behind.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Instant;

use common::{Folder, names, onnx, repository, st};

mod common;

fn dates(name: &str) -> PathBuf {
    repository("examples/dates").canonicalize().unwrap().join(name)
}

/// A recipe over examples/dates whose training and validation data are the spoiled ones.
fn recipe(folder: &Folder, stages: &str) -> String {
    let data = folder.path("data.safetensors");
    let data = if data.exists() { data } else { dates("val.safetensors") };
    format!(
        "model = \"{}\"\noutput = \"out.onnx\"\n[data]\ntrain = \"{}\"\nvalidation = \"{}\"\ntarget = \"tgt_out\"\n\
         output = \"logits\"\nignore = 0\n{stages}",
        dates("model.onnx").display(),
        data.display(),
        data.display()
    )
}

/// The validation data with something wrong; a tensor without a shape is left out.
fn spoiled(spoil: &dyn Fn(&str, &mut Vec<i64>, &mut Vec<u64>)) -> Vec<u8> {
    let mut tensors = Vec::new();
    for (name, (_, mut shape, bytes)) in st::read(&std::fs::read(dates("val.safetensors")).unwrap()) {
        let mut ids: Vec<i64> = bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        spoil(&name, &mut ids, &mut shape);
        if !shape.is_empty() {
            ids.resize(shape.iter().product::<u64>() as usize, 1);
            tensors.push(st::Tensor { shape, ..st::i64s(&name, &ids) });
        }
    }
    st::file(&tensors, &[])
}

#[test]
fn bad_data_are_named_whatever_is_done_with_them() {
    type Spoil = &'static dyn Fn(&str, &mut Vec<i64>, &mut Vec<u64>);
    let cases: [(Spoil, &[&str]); 9] = [
        // an id outside the vocabulary: the operator, its node, the shapes of its inputs
        (
            &|n, ids, _| {
                if n == "src" {
                    ids[5] = 999
                }
            },
            &["Gather", "node \"", "[74×64]", "index 999 lies outside 0…73"],
        ),
        (
            &|n, ids, _| {
                if n == "tgt_out" {
                    ids[0] = 77
                }
            },
            &["target 77", "15 classes"],
        ),
        // inputs that are missing, or have another shape than the graph's
        (
            &|n, _, shape| {
                if n == "src" {
                    shape.clear()
                }
            },
            &["data.safetensors", "has no tensor \"src\""],
        ),
        (
            &|n, _, shape| {
                if n == "tgt_out" {
                    shape.clear()
                }
            },
            &["data.safetensors", "has no tensor \"tgt_out\"", "did you mean"],
        ),
        (
            &|n, _, shape| {
                if n == "tgt_in" {
                    shape.push(1)
                }
            },
            &["input \"tgt_in\" has shape", "the graph expects [?×?]"],
        ),
        (
            &|n, _, shape| {
                if n == "src" {
                    shape[0] = 3
                }
            },
            &["examples of"],
        ),
        // the target has another length than the output
        (
            &|n, _, shape| {
                if n == "tgt_out" {
                    shape[1] = 5
                }
            },
            &["does not fit the target"],
        ),
        (&|_, _, shape| shape[0] = 0, &["data.safetensors", "has no examples"]),
        (
            &|n, ids, _| {
                if n == "tgt_out" {
                    ids.fill(0)
                }
            },
            &["no target that counts"],
        ),
    ];
    for (i, (spoil, words)) in cases.iter().enumerate() {
        let folder = Folder::new();
        folder.write("data.safetensors", spoiled(spoil));
        for stage in ["[[stage]]\nretrain = { epochs = 1, batch = 500 }\n", "[[stage]]\nevaluate = [\"perplexity\"]\n"]
        {
            let ran = folder.recipe(&recipe(&folder, stage), &[]);
            let code = ran.code.unwrap_or(-1);
            ran.refused(code, words);
            assert!(code == 1 || code == 2, "case {i} {stage}: exit status {code}");
            assert_eq!(folder.names(), ["data.safetensors", "p.toml"], "case {i} {stage}");
        }
    }
}

/// x [?, 3] where the weight wants four columns: the graph leaves the size open, so only the run can tell.
#[test]
fn shapes_that_clash_are_named_with_operator_node_and_both_shapes() {
    let folder = Folder::new();
    let graph = onnx::Graph {
        nodes: vec![onnx::node("MatMul", &["x", "W"], &["y"]).bytes(3, "/head/MatMul")],
        tensors: vec![onnx::raw("W", &[4, 6], &[0.5; 24])],
        inputs: vec![onnx::value("x", 1, &[0, 0])],
        outputs: vec![onnx::value("y", 1, &[0, 6])],
        ..onnx::Graph::default()
    };
    folder.write("model.onnx", graph.model());
    let x = st::tensor("x", "F32", &[2, 3], &[1.0; 6]);
    folder.write("data.safetensors", st::file(&[x, st::i64s("label", &[1, 2])], &[]));
    let text = "model = \"model.onnx\"\noutput = \"o.onnx\"\n[data]\nvalidation = \"data.safetensors\"\n\
                target = \"label\"\n[[stage]]\nevaluate = [\"accuracy\"]\n";
    folder.recipe(text, &[]).refused(1, &["stage 1", "/head/MatMul", "(MatMul)", "[2×3]", "[4×6]"]);
}

/// What can be known before anything runs is refused then, with the recipe's exit status.
#[test]
fn recipes_that_cannot_be_run_are_refused_by_check() {
    let evaluate = "[[stage]]\nevaluate = [\"METRIC\"]\n";
    let whole = |folder: &Folder, metric: &str| recipe(folder, &evaluate.replace("METRIC", metric));
    let folder = Folder::new();
    for (text, words) in [
        (whole(&folder, "bleu"), "[data.bleu]"),
        (whole(&folder, "loss").replace("target = \"tgt_out\"\n", ""), "target"),
        (whole(&folder, "loss").replace("\"logits\"", "\"logit\""), "did you mean \"logits\""),
        (
            recipe(&folder, "[[stage]]\nretrain = { epochs = 1, dropout = { \"nowhere*\" = 0.1 } }\n"),
            "dropout \"nowhere*\" matches no place of the graph",
        ),
        (recipe(&folder, "[[stage]]\nretrain = { epochs = 1 }\n").replace("train = ", "test = "), "train"),
    ] {
        folder.write("p.toml", &text);
        let ran = folder.compress(["check", "p.toml"]);
        let code = ran.code.unwrap_or(-1);
        ran.refused(code, &[words]);
        assert!(code == 1 || code == 2, "{words}: exit status {code}");
        folder.compress(["p.toml"]).refused(code, &[words]);
        assert_eq!(folder.names(), ["p.toml"], "{words}");
    }
}

/// The loss overflows some epochs after the first: the step is named, the best epoch before it is kept.
#[test]
fn a_loss_that_becomes_nan_stops_and_the_last_good_state_is_kept() {
    let folder = Folder::new();
    let stage = "[[stage]]\nretrain = { epochs = 60, rate = 3e38, optimizer = \"sgd\", batch = 500 }\n";
    let ran = folder.recipe(&recipe(&folder, stage), &[]).refused(1, &["stage 1", "at step", "\"rate\"", "--finish"]);
    assert!(!ran.err.contains("(epoch 1)"), "it was to fail later: {}", ran.err);
    assert!(folder.path("out.onnx.state").exists() && !folder.path("out.onnx").exists());
    folder.compress(["p.toml", "--finish"]).ok();
    assert!(folder.path("out.onnx").exists() && !folder.path("out.onnx.state").exists());
    // Without an epoch to go on from nothing stays.
    let folder = Folder::new();
    let stage = "[[stage]]\nretrain = { epochs = 2, rate = 3e38, optimizer = \"sgd\", batch = 10 }\n";
    folder.recipe(&recipe(&folder, stage), &[]).refused(1, &["at step", "(epoch 1)"]);
    assert_eq!(folder.names(), ["p.toml"]);
}

#[test]
fn commands_that_die_or_fall_silent_are_ended_and_named() {
    for (command, words) in [
        ("echo started; sleep 60", &["\"sh\"", "printed nothing for 1 s", "\"timeout\""][..]),
        // what a command has started goes with it
        ("sleep 61 & sleep 62", &["printed nothing for 1 s"]),
        ("kill -9 $$", &["failed", "SIGKILL"]),
        ("exit 7", &["failed", "7"]),
    ] {
        let folder = Folder::new();
        let stage = format!(
            "[plugins]\ntimeout = 1\n[[stage]]\nretrain = {{ command = [\"sh\", \"-c\", '''{command}'''] }}\n\
             [[stage]]\nevaluate = [\"loss\"]\n"
        );
        let started = Instant::now();
        folder.recipe(&recipe(&folder, &stage), &[]).refused(1, words);
        assert!(started.elapsed().as_secs() < 50, "{command}");
        assert_eq!(folder.names(), ["p.toml"], "{command}");
    }
}

/// Weights that were pruned come back: an error by default, zeros again under "repair", with a warning that counts them.
#[test]
fn pruned_weights_that_come_back_are_an_error_or_are_repaired() {
    for (more, repaired) in [("", false), (", on_violation = \"repair\"", true)] {
        let folder = Folder::new();
        let kept = folder.path("kept.safetensors");
        let stage = format!(
            "[[stage]]\nretrain = {{ command = [\"sh\", \"-c\", \"cp {{weights}} {}; cp {{weights}} {{output}}\"] }}\n\
             [[stage]]\nmethod = \"magnitude\"\namount = \"50%\"\n\
             [[stage]]\nretrain = {{ command = [\"cp\", \"{}\", \"{{output}}\"]{more} }}\n",
            kept.display(),
            kept.display()
        );
        let ran = folder.recipe(&recipe(&folder, &stage), &["--report", "r.json"]);
        if !repaired {
            ran.refused(1, &["stage 3", "pruned weights of", "came back non-zero", "on_violation"]);
            assert!(!folder.path("out.onnx").exists());
            continue;
        }
        assert!(ran.ok().err.contains("came back non-zero and were set to zero again"));
        let classes = folder.json("r.json")["classes"].as_array().unwrap().clone();
        let sum = |key: &str| classes.iter().map(|c| c[key].as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum("pruned"), sum("weights").div_ceil(2));
        assert_eq!(names(folder.0.path()), ["kept.safetensors", "out.onnx", "p.toml", "r.json"]);
    }
}
