//! What the command promises whoever runs it: each mistake is one sentence and writes nothing, exit statuses, what is
//! printed where, and that no input is ever written.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::Duration;

use common::{Folder, Seeded, onnx, st};

mod common;

const STAGE: &str = "[[stage]]\nmethod = \"magnitude\"\namount = \"80%\"\n";

/// A folder with `m.safetensors` (classes a, b and attention) and `m.onnx`.
fn folder() -> Folder {
    let folder = Folder::new();
    let mut random = Seeded(7);
    let tensors = [
        st::tensor("a.weight", "F32", &[20, 30], &random.floats(600)),
        st::tensor("b.weight", "BF16", &[40, 10], &random.floats(400)),
        st::tensor("attn.weight", "F16", &[8, 8], &random.floats(64)),
        st::tensor("a.bias", "F32", &[20], &random.floats(20)),
        st::i64s("steps", &[1, 2, 3]),
    ];
    folder.write("m.safetensors", st::file(&tensors, &[("format", "pt")]));
    folder.write("m.onnx", onnx::matmul(onnx::raw("W", &[4, 6], &random.floats(24))).model());
    folder
}

fn recipe(model: &str, output: &str, more: &str) -> String {
    format!("model = \"{model}\"\noutput = \"{output}\"\n{more}")
}

#[test]
fn each_mistake_is_one_sentence_and_writes_nothing() {
    let folder = folder();
    let safetensors = |more: &str| recipe("m.safetensors", "o.safetensors", more);
    let stage = |keys: &str| safetensors(&format!("[[stage]]\nmethod = \"magnitude\"\n{keys}"));
    let cases: &[(String, &[&str], i32, &[&str])] = &[
        (safetensors(&STAGE.replace("method", "methd")), &[], 2, &["stage 1", "\"methd\"", "did you mean \"method\""]),
        (safetensors(&STAGE.replace("magn", "mgn")), &[], 2, &["\"mgnitude\"", "did you mean \"magnitude\""]),
        (stage("amount = \"180%\""), &[], 2, &["\"180%\" is out of range"]),
        (stage("amount = 1.5"), &[], 2, &["1.5 is out of range"]),
        (stage("amount = -1"), &[], 2, &["-1 is out of range"]),
        (stage("amount = 99999"), &[], 2, &["99999 is out of range", "1064 weights"]),
        (stage(""), &[], 2, &["\"amount\" is missing"]),
        (stage("amount = 1\nscheme = \"class-bind\""), &[], 2, &["did you mean \"class-blind\""]),
        (stage("amount = 1\nclasses = [\"atention\"]"), &[], 2, &["\"atention\" matches no class", "\"attn\""]),
        (stage("amount = { \"z*\" = 1 }"), &[], 2, &["\"z*\" matches no class"]),
        (stage("amount = 1\nallow_empty = [\"z*\"]"), &[], 2, &["\"z*\" matches no tensor"]),
        (stage("amount = 1\noptions = { a = 1 }"), &[], 2, &["\"magnitude\"", "\"a\""]),
        (safetensors("[classes]\nx = [\"z*\"]\n"), &[], 2, &["\"z*\" has no effect"]),
        (recipe("n.onnx", "o.onnx", STAGE), &[], 2, &["\"n.onnx\" does not exist"]),
        (recipe("m.onnx", "no/o.onnx", STAGE), &[], 2, &["the folder \"no\" does not exist"]),
        (recipe("m.onnx", "o.safetensors", STAGE), &[], 2, &["\"o.safetensors\"", "format onnx"]),
        (recipe("m.onnx", "o.onnx", "from = \"n\""), &[], 1, &["\"n\"", "no such file"]),
        (recipe("m.onnx", "m.safetensors", STAGE), &[], 2, &["m.safetensors"]),
        (recipe("m.onnx", "taken.onnx", STAGE), &[], 2, &["\"taken.onnx\" exists already", "--force"]),
        (recipe("m.onnx", "o.onnx", STAGE), &["--report", "no/r.json"], 2, &["the folder \"no\""]),
        ("model = 1\n".into(), &[], 2, &["p.toml:1", "\"model\""]),
        ("model = \n".into(), &[], 2, &["p.toml", "1"]),
    ];
    folder.write("taken.onnx", "kept");
    for (text, args, status, words) in cases {
        folder.write("p.toml", text);
        let before = folder.listing();
        folder.recipe(text, args).refused(*status, words);
        assert_eq!(folder.listing(), before, "{text}");
    }
}

#[test]
fn command_lines_have_their_status() {
    let folder = folder();
    folder.compress(["--help"]).ok();
    folder.compress(["--version"]).ok();
    let wrong: &[(&[&str], i32, &str)] = &[
        (&[], 2, "pipeline.toml"),
        (&["--frce", "p.toml"], 2, "--force"),
        (&["inspct", "m.onnx"], 2, "did you mean \"inspect\""),
        (&["inspct"], 2, "did you mean \"inspect\""),
        (&["nothing.toml"], 2, "nothing.toml"),
        (&["check", "nothing.toml"], 2, "nothing.toml"),
        (&["inspect", "nothing.onnx"], 2, "nothing.onnx"),
        (&["inspect", "m.onnx", "m.safetensors"], 2, "different formats"),
        (&["methods", "magnitud"], 2, "did you mean \"magnitude\""),
        (&["mask", "and", "m.safetensors", "m.safetensors"], 2, "-o is missing"),
        (&["mask", "overlap", "m.safetensors", "m.safetensors"], 1, "a mask is U8"),
    ];
    let before = folder.listing();
    for (args, status, word) in wrong {
        let ran = folder.compress(*args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(*status), ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(word), "{args:?}: {ran:?}");
    }
    assert_eq!(folder.listing(), before);
}

#[test]
fn weights_that_are_not_finite_are_named_by_tensor_and_index() {
    let at = 70_003; // beyond the first block that is scored
    for (dtype, value) in [("F32", f64::NAN), ("BF16", f64::INFINITY), ("F64", f64::NEG_INFINITY), ("F16", f64::NAN)] {
        let folder = Folder::new();
        let mut values = Seeded(3).floats(100_000);
        values[at] = value;
        folder.write("m.safetensors", st::file(&[st::tensor("fc.weight", dtype, &[1000, 100], &values)], &[]));
        let words: &[&str] = &["\"fc.weight\" [1000, 100]", "[700, 3]", "70003", "repair the model"];
        for more in ["", "scheme = \"class-distribution\"", "pattern = \"row\"", "pattern = \"4x1\""] {
            folder
                .recipe(&recipe("m.safetensors", "o.safetensors", &format!("{STAGE}{more}\n")), &[])
                .refused(1, words);
            assert_eq!(folder.names(), ["m.safetensors", "p.toml"]);
        }
        // What scores nothing carries them.
        folder.recipe(&recipe("m.safetensors", "o.safetensors", ""), &[]).ok();
        assert!(folder.read("o.safetensors") == folder.read("m.safetensors"));
    }
}

/// Tensor `tiny` has the smallest weights of all; the class of `big` is large.
fn trap() -> Folder {
    let folder = Folder::new();
    let small: Vec<f64> = Seeded(1).floats(400).iter().map(|v| v * 1e-3).collect();
    let large: Vec<f64> = Seeded(2).floats(4000).iter().map(|v| v.signum() + v).collect();
    let tensors =
        [st::tensor("tiny.weight", "F32", &[20, 20], &small), st::tensor("big.weight", "F32", &[40, 100], &large)];
    folder.write("m.safetensors", st::file(&tensors, &[]));
    folder
}

#[test]
fn a_tensor_that_would_lose_everything_must_be_allowed() {
    let folder = trap();
    let text = |more: &str| recipe("m.safetensors", "o.safetensors", &format!("{STAGE}{more}"));
    folder.recipe(&text(""), &[]).refused(1, &["stage 1 (magnitude)", "\"tiny.weight\" [20, 20]", "allow_empty"]);
    assert_eq!(folder.names(), ["m.safetensors", "p.toml"]);
    folder.recipe(&text("allow_empty = [\"ti*\"]\n"), &[]).ok();
    folder.recipe(&text("scheme = \"class-uniform\"\n"), &["--force"]).ok();
}

#[test]
fn a_class_that_keeps_nearly_nothing_is_a_warning() {
    let folder = trap();
    // 399 of the 400 small weights.
    let text = recipe("m.safetensors", "o.safetensors", "[[stage]]\nmethod = \"magnitude\"\namount = 399\n");
    let ran = folder.recipe(&text, &["--quiet"]).ok();
    assert_eq!(ran.out, "", "nothing is printed with --quiet");
    let words = ["warning: ", "class \"tiny\"", "1 of its 400 weights", "class-distribution"];
    assert!(words.iter().all(|w| ran.err.contains(w)), "{}", ran.err);
}

#[test]
fn no_input_is_written_under_any_name() {
    let folder = folder();
    std::fs::hard_link(folder.path("m.onnx"), folder.path("hard.onnx")).unwrap();
    symlink("m.onnx", folder.path("soft.onnx")).unwrap();
    symlink(".", folder.path("loop")).unwrap();
    let before = folder.read("m.onnx");
    for output in ["m.onnx", "hard.onnx", "soft.onnx", "./loop/m.onnx", "loop/hard.onnx"] {
        for args in [&[][..], &["--force"]] {
            folder.recipe(&recipe("m.onnx", output, STAGE), args).refused(2, &["m.onnx"]);
        }
        let mask = recipe("m.onnx", "o.onnx", &format!("mask = \"{output}\"\n{STAGE}"));
        folder.recipe(&mask, &["--force"]).refused(2, &["m.onnx"]);
        folder.recipe(&recipe("m.onnx", "o.onnx", STAGE), &["--force", "--report", output]).refused(2, &["m.onnx"]);
    }
    assert_eq!(folder.read("m.onnx"), before);
    assert!(!folder.path("o.onnx").exists());
}

#[test]
fn ctrl_c_ends_with_130_and_leaves_nothing() {
    let folder = Folder::new();
    // 4 GB of zeros that take no room: enough to be at work when the signal comes.
    let n: u64 = 1 << 30;
    let header = format!(
        "{{\"w.weight\":{{\"dtype\":\"F32\",\"shape\":[32768,{}],\"data_offsets\":[0,{}]}}}}",
        n / 32768,
        n * 4
    );
    let file = std::fs::File::create(folder.path("m.safetensors")).unwrap();
    std::io::Write::write_all(&mut &file, &st::raw(&header, &[])).unwrap();
    file.set_len(8 + header.len() as u64 + n * 4).unwrap();
    folder.write("p.toml", recipe("m.safetensors", "o.safetensors", STAGE));
    let child = folder.command(["p.toml", "--dry-run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success(), "it ended too early");
    let ran: common::Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.out.as_str()), (Some(130), ""), "{ran:?}");
    assert_eq!(folder.names(), ["m.safetensors", "p.toml"]);
}
