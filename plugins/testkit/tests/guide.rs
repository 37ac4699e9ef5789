//! Every block of docs/writing-a-method.md does what the page says.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Through, cargo, load, root, scores};
use compress_core::recipe::Recipe;
use compress_core::registry::{Registry, scaffold::new_plugin};
use compress_testkit::conformance_of;
use serde_json::Value;

mod common;

/// The blocks in order: what the comment before each says, and its text.
fn blocks() -> Vec<(String, String)> {
    let page = fs::read_to_string(root().join("docs/writing-a-method.md")).unwrap();
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    let mut mark = None;
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) {
            mark = Some(text.to_string());
        } else if line.starts_with("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
            blocks.push((
                mark.take().expect("every block has a mark that says how it is tested"),
                text.join("\n") + "\n",
            ));
        }
    }
    blocks
}

fn files() -> BTreeMap<String, String> {
    blocks().into_iter().filter_map(|(m, t)| m.strip_prefix("file: ").map(|m| (m.to_string(), t))).collect()
}

fn python() -> Option<PathBuf> {
    let said = Command::new("bash").arg(root().join("tests/python/prepare.sh")).output().ok()?;
    let path = PathBuf::from(String::from_utf8(said.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

/// The folder that the page's reader has in the end, but for what `compress` writes.
fn follow(folder: &Path) {
    for (name, text) in files() {
        if let Some(name) = name.strip_suffix("/src/lib.rs") {
            new_plugin(name, folder).unwrap();
        }
        fs::write(folder.join(&name), text).unwrap();
    }
    fs::copy(root().join("examples/dates/model.onnx"), folder.join("model.onnx")).unwrap();
    let helper = "compress_method.py";
    fs::copy(root().join("examples/plugin-python").join(helper), folder.join(helper)).unwrap();
}

#[test]
fn the_three_examples_are_one_method() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    follow(folder);
    let weights: Vec<f32> = (0..600).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect();

    let mut all = Vec::new();
    for name in ["row-relative", "with-options"] {
        let (home, target) = (folder.join(name), folder.join(name).join("target"));
        let target_words = ["--target-dir", target.to_str().unwrap()];
        cargo(&home, &[&["test", "--quiet"], &target_words[..]].concat());
        cargo(&home, &[&["build", "--quiet", "--release"], &target_words[..]].concat());
        let library = target.join("release").join(format!(
            "{}{}{}",
            std::env::consts::DLL_PREFIX,
            name.replace('-', "_"),
            std::env::consts::DLL_SUFFIX
        ));
        let registry = load(&library);
        conformance_of(&Through(registry.get(name).unwrap()));
        all.push(scores(registry.get(name).unwrap(), 20, 30, &weights).unwrap());
    }

    for (mark, text) in blocks().iter().filter(|(m, _)| m == "sh: cc") {
        let said = Command::new("sh").args(["-ec", text]).current_dir(folder).output().unwrap();
        assert!(said.status.success(), "{mark}: {}", String::from_utf8_lossy(&said.stderr));
    }
    let registry = load(&folder.join("row_relative.so"));
    all.push(scores(registry.get("row-relative").unwrap(), 20, 30, &weights).unwrap());

    match python() {
        None => eprintln!("skipped: there is no Python with numpy"),
        Some(python) => {
            let mut registry = Registry::new();
            let argv = [python.to_str().unwrap(), "row_relative.py"].map(String::from);
            registry.add_program("row-relative", &argv, folder, Duration::from_secs(60)).unwrap();
            all.push(scores(registry.get("row-relative").unwrap(), 20, 30, &weights).unwrap());
        }
    }
    for other in &all[1..] {
        assert!(all[0].iter().zip(other).all(|(a, b)| (a - b).abs() <= 1e-6), "{:?}\n{other:?}", all[0]);
    }
}

#[test]
fn the_page_shows_the_examples_of_the_repository() {
    let files = files();
    for (block, path) in [
        ("row_relative.c", "examples/plugin-c/row_relative.c"),
        ("row_relative.py", "examples/plugin-python/row_relative.py"),
    ] {
        assert_eq!(files[block], fs::read_to_string(root().join(path)).unwrap(), "{path}");
    }
}

#[test]
fn the_recipes_are_recipes() {
    for (name, text) in files().iter().filter(|(n, _)| n.ends_with(".toml")) {
        let recipe = Recipe::parse(text, Path::new(name)).unwrap();
        assert_eq!(recipe.stages.len(), 1, "{name}");
        assert_eq!(recipe.plugins.libraries.len() + recipe.plugins.programs.len(), 1, "{name}");
    }
}

/// The page's JSON lines against a program that answers with them and writes down what it is asked.
#[test]
fn the_protocol_is_as_shown() {
    let lines: BTreeMap<String, Vec<Value>> = blocks()
        .into_iter()
        .filter_map(|(m, t)| m.strip_prefix("lines: ").map(|m| (m.to_string(), t)))
        .map(|(m, t)| (m, t.lines().map(|l| serde_json::from_str(l).unwrap()).collect()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let answers = |name: &str| {
        let answers = lines[name].iter().filter(|l| l["call"].is_null());
        answers.map(|l| format!("read -r line; echo \"$line\" >>asked; echo '{l}'\n")).collect::<String>()
    };
    let script = |parts: &[&str]| parts.iter().map(|p| answers(p)).collect::<String>();
    fs::write(folder.path().join("describe"), script(&["describe"])).unwrap();
    fs::write(folder.path().join("stage"), script(&["create", "score"])).unwrap();
    let program = "if [ -e asked ]; then . ./stage; else . ./describe; fi";
    let mut registry = Registry::new();
    let argv = ["sh", "-c", program].map(String::from);
    registry.add_program("halves", &argv, folder.path(), Duration::from_secs(60)).unwrap();
    let method = registry.get("halves").unwrap();
    assert_eq!(method.card().equation, "s(w) = |w| / 2");
    // The program that only talks leaves the scores at zero.
    assert_eq!(scores(method, 1, 2, &[1.0, 2.0]).unwrap(), [0.0, 0.0]);
    let asked = fs::read_to_string(folder.path().join("asked")).unwrap();
    let asked: Vec<Value> = asked.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(asked.len(), 3);
    for (real, name) in asked.iter().zip(["describe", "create", "score"]) {
        let mut shown = lines[name][0].clone();
        if name == "score" {
            shown["file"] = real["file"].clone();
        }
        assert_eq!(&shown, real, "{name}");
    }
}

/// The answer to `encode` is read as shown: what is wrong with it is only that its file holds zeros.
#[test]
fn the_answer_to_encode_is_read_as_shown() {
    let of = |name: &str, i: usize| {
        let blocks = blocks();
        let (_, text) = blocks.iter().find(|(m, _)| m == &format!("lines: {name}")).unwrap();
        serde_json::from_str::<Value>(text.lines().nth(i).unwrap()).unwrap()
    };
    let (mut card, mut encoded) = (of("describe", 1), of("encode", 0));
    card["ok"]["encodes"] = true.into();
    encoded["id"] = 2.into();
    let folder = tempfile::tempdir().unwrap();
    let program = format!(
        "read -r line; case $line in *describe*) echo '{card}'; exit;; esac; echo '{}'; read -r line; \
         file=${{line#*\\\"file\\\":\\\"}}; truncate -s 512 \"${{file%%\\\"*}}\"; echo '{encoded}'; read -r line",
        of("create", 1)
    );
    let mut registry = Registry::new();
    let argv = ["sh", "-c", &program].map(String::from);
    registry.add_program("halves", &argv, folder.path(), Duration::from_secs(60)).unwrap();
    let method = registry.get("halves").unwrap();
    let instance = method.create(&method.card().defaults(), 1).unwrap();
    let part = compress_sdk::Part::whole("w", 1, 2, &[1.0, 2.0]);
    let error = instance.encode(&part, compress_sdk::Keep::All, &Default::default()).unwrap_err().to_string();
    assert!(error.ends_with(": term 0 has 1 values where its layout needs 0"), "{error}");
}

/// The page's commands, where the program is built beside this test.
#[test]
fn the_commands_do_what_the_page_says() {
    let exe = std::env::current_exe().unwrap();
    let compress = exe.ancestors().nth(2).unwrap().join(format!("compress{}", std::env::consts::EXE_SUFFIX));
    if !compress.is_file() {
        return eprintln!("skipped: {} is not built", compress.display());
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::copy(root().join("examples/dates/model.onnx"), folder.join("model.onnx")).unwrap();
    let helper = "compress_method.py";
    fs::copy(root().join("examples/plugin-python").join(helper), folder.join(helper)).unwrap();
    let python = python();
    let mut path = vec![compress.parent().unwrap().to_path_buf()];
    path.extend(python.as_ref().map(|p| p.parent().unwrap().to_path_buf()));
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let path = std::env::join_paths(path).unwrap();
    for (mark, text) in blocks() {
        if let Some(file) = mark.strip_prefix("file: ") {
            if !file.starts_with("with-options/") {
                fs::write(folder.join(file), &text).unwrap();
            }
        } else if mark.starts_with("sh: ") && (python.is_some() || mark != "sh: run python") {
            let mut sh = Command::new("sh");
            sh.args(["-ec", &text]).current_dir(folder).env("PATH", &path).env_remove("CARGO_TARGET_DIR");
            let said = sh.output().unwrap();
            let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
            assert!(said.status.success(), "{text}\n{out}\n{err}");
        }
    }
    for name in ["rust", "c"] {
        assert!(folder.join(format!("{name}-80.onnx")).is_file(), "{name}");
    }
}
