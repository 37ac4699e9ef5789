//! Retraining through the command: interrupted runs go on to the same bits, zeros are held, commands are checked.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const DATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/dates");

fn compress(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_compress")).current_dir(folder).args(args).output().expect("compress runs")
}

fn succeeds(folder: &Path, args: &[&str]) -> Output {
    let output = compress(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn fails(folder: &Path, args: &[&str], status: i32, sentence: &str) {
    let output = compress(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(stderr.contains(sentence), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one sentence: {stderr}");
}

fn recipe(folder: &Path, name: &str, stages: &str) -> PathBuf {
    let text = format!(
        "model = \"{DATES}/model.onnx\"\noutput = \"{name}.onnx\"\nmask = \"{name}.masks.safetensors\"\n\
         [data]\ntrain = \"{DATES}/val.safetensors\"\nvalidation = \"{DATES}/test.safetensors\"\n\
         target = \"tgt_out\"\noutput = \"logits\"\nignore = 0\n{stages}"
    );
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("the recipe can be written");
    path
}

const STAGES: &str = r#"
[[stage]]
method = "magnitude"
amount = "80%"
schedule = { steps = 2, shape = "cubic", recover = 2 }
retrain = { epochs = 1, rate = 1e-3, decay = 0.5, dropout = 0.1 }
[[stage]]
evaluate = ["perplexity"]
"#;

fn bytes(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_killed_retraining_goes_on_to_the_same_bits() {
    // Killed as soon as the first epoch of the second step is kept, whenever that is.
    killed(STAGES, "stage-100002");
}

/// So does one between encodings, whose fitted values must outlive it.
#[test]
fn a_killed_retraining_of_encoded_weights_goes_on_to_the_same_bits() {
    let stages = r#"
[[stage]]
method = "magnitude"
amount = "50%"
[[stage]]
encode = "sparse"
values = "codebook:3"
[[stage]]
retrain = { epochs = 3, rate = 1e-3 }
[[stage]]
encode = "sparse"
values = "codebook:2"
"#;
    killed(stages, "stage-300000");
}

/// A run that is killed once the training in this folder of its state has kept an epoch, and goes on, and one that is not.
fn killed(stages: &str, training: &str) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let folder = temp.path();
    recipe(folder, "whole", stages);
    succeeds(folder, &["whole.toml", "--threads", "1"]);
    recipe(folder, "broken", stages);
    let kept = folder.join("broken.onnx.state").join(training).join("trainer.safetensors");
    let mut child = Command::new(env!("CARGO_BIN_EXE_compress"))
        .current_dir(folder)
        .args(["broken.toml", "--threads", "2", "--quiet"])
        .spawn()
        .expect("compress runs");
    let started = Instant::now();
    while !kept.exists() && started.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    assert!(kept.exists());
    assert!(!folder.join("broken.onnx").exists());
    fails(folder, &["broken.toml"], 2, "--resume goes on with it");
    succeeds(folder, &["broken.toml", "--resume", "--threads", "8"]);
    assert_eq!(bytes(folder.join("whole.onnx")), bytes(folder.join("broken.onnx")));
    assert_eq!(bytes(folder.join("whole.masks.safetensors")), bytes(folder.join("broken.masks.safetensors")));
    assert!(!folder.join("broken.onnx.state").exists());
}

/// Ctrl-C in the middle of an epoch: status 130, no output, the command that goes on; a second one ends at once.
#[test]
fn an_interrupted_retraining_says_how_to_go_on_and_goes_on_to_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    recipe(folder, "whole", STAGES);
    succeeds(folder, &["whole.toml"]);
    recipe(folder, "broken", STAGES);
    let interrupted = |args: &[&str], kept: &str, times: usize| {
        let child = Command::new(env!("CARGO_BIN_EXE_compress"))
            .current_dir(folder)
            .args(args)
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("compress runs");
        let started = Instant::now();
        while !folder.join(kept).exists() && started.elapsed() < Duration::from_secs(120) {
            std::thread::sleep(Duration::from_millis(2));
        }
        for _ in 0..times {
            let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
            assert!(sent.success());
        }
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(130));
        assert!(output.stdout.is_empty() && !folder.join("broken.onnx").exists());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = interrupted(&["broken.toml"], "broken.onnx.state/stage-100001/trainer.safetensors", 1);
    assert!(told.contains("go on with: compress broken.toml --resume"), "{told}");
    assert!(told.trim_end().ends_with("error: interrupted"), "{told}");
    let kept = "broken.onnx.state/stage-100002/trainer.safetensors";
    interrupted(&["broken.toml", "--resume"], kept, 2);
    succeeds(folder, &["broken.toml", "--resume"]);
    assert_eq!(bytes(folder.join("whole.onnx")), bytes(folder.join("broken.onnx")));
    assert!(!folder.join("broken.onnx.state").exists());
}

#[test]
fn a_resumed_run_must_be_the_same_run() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let stages = "[[stage]]\nretrain = { epochs = 200 }\n";
    recipe(folder, "a", stages);
    fails(folder, &["a.toml", "--resume"], 2, "there is no interrupted run");
    let mut child = Command::new(env!("CARGO_BIN_EXE_compress"))
        .current_dir(folder)
        .args(["a.toml", "--quiet"])
        .spawn()
        .expect("compress runs");
    let started = Instant::now();
    while !folder.join("a.onnx.state/checkpoint").exists() && started.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    recipe(folder, "a", "[[stage]]\nretrain = { epochs = 201 }\n");
    fails(folder, &["a.toml", "--resume"], 2, "the recipe changed");
    recipe(folder, "a", stages);
    succeeds(folder, &["a.toml", "--finish"]);
    assert!(folder.join("a.onnx").exists());
}

/// A trainer in one line of shell: copies the weights, or breaks the mask by giving the untouched model's weights.
#[test]
fn commands_are_run_and_checked() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let prune = "[[stage]]\nmethod = \"magnitude\"\namount = \"50%\"\n";
    let train = |command: &str, more: &str| {
        format!("{prune}[[stage]]\nretrain = {{ command = [\"sh\", \"-c\", '''{command}''']{more} }}\n")
    };
    let dense = format!("{DATES}/model.safetensors");
    for (name, command, more, expected) in [
        (
            "copies",
            "cp \"$COMPRESS_WEIGHTS\" {output}; echo '{\"epoch\": 1, \"metrics\": {\"loss\": 1.5}}'",
            "",
            Ok("loss 1.5"),
        ),
        ("fails", "exit 3", "", Err("failed (exit status: 3)")),
        ("silent", "true", "", Err("without writing {output}")),
        ("garbage", "echo x > {output}", "", Err("trained.safetensors")),
        ("names", &format!("cp {dense} {{output}}"), "", Err("that {weights} has not")),
    ] {
        recipe(folder, name, &train(command, more));
        match expected {
            Ok(text) => {
                let output = succeeds(folder, &[&format!("{name}.toml")]);
                assert!(String::from_utf8_lossy(&output.stdout).contains(text), "{name}");
            }
            Err(sentence) => {
                fails(folder, &[&format!("{name}.toml")], 1, sentence);
                assert!(
                    !folder.join(format!("{name}.onnx")).exists()
                        && !folder.join(format!("{name}.onnx.state")).exists()
                );
            }
        }
    }
}

/// A retraining that follows another goes on where that one ended, so that the rate can change in the middle.
#[test]
fn a_retraining_goes_on_from_the_one_before() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let train = |epochs: &str| format!("[[stage]]\nretrain = {{ epochs = {epochs}, rate = 1e-4 }}\n");
    let evaluate = "[[stage]]\nevaluate = [\"loss\"]\n";
    recipe(folder, "whole", &train("2"));
    recipe(folder, "parts", &[train("1.5"), evaluate.into(), train("0.5")].concat());
    for name in ["whole", "parts"] {
        succeeds(folder, &[&format!("{name}.toml")]);
    }
    assert!(bytes(folder.join("whole.onnx")) == bytes(folder.join("parts.onnx")));
}

/// A model that was pruned by another recipe is dense again after a retraining that is told nothing of its masks.
#[test]
fn zeros_that_nobody_holds_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    recipe(folder, "pruned", "[[stage]]\nmethod = \"magnitude\"\namount = \"50%\"\n");
    succeeds(folder, &["pruned.toml"]);
    let text = std::fs::read_to_string(recipe(folder, "again", "[[stage]]\nretrain = { epochs = 0.1 }\n")).unwrap();
    let text = text.replace(&format!("{DATES}/model.onnx"), "pruned.onnx");
    std::fs::write(folder.join("again.toml"), &text).unwrap();
    let told = |output: Output| String::from_utf8_lossy(&output.stderr).contains("is trained again");
    assert!(told(succeeds(folder, &["again.toml", "--force"])));
    let held = text.replacen("output =", "from = \"pruned.masks.safetensors\"\noutput =", 1);
    std::fs::write(folder.join("held.toml"), held).unwrap();
    assert!(!told(succeeds(folder, &["held.toml", "--force"])));
}

/// Weights that an encode stage has coded are trained as codebooks, scales and halves: the loss that the coding cost comes
/// back, the file stays as small, what was pruned stays zero.
#[test]
fn encoded_weights_are_trained_in_their_encoding() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let prune = "[[stage]]\nmethod = \"magnitude\"\namount = \"50%\"\n";
    let evaluate = "[[stage]]\nevaluate = [\"loss\"]\n";
    let report = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&bytes(folder.join(format!("{name}.json")))).expect("a report")
    };
    let of = |report: &serde_json::Value, key: &str| report["output"][key].as_u64().expect("a number");
    let pruned = |report: &serde_json::Value| {
        let classes = report["classes"].as_array().expect("classes").iter();
        classes.map(|c| c["pruned"].as_u64().expect("a number")).sum::<u64>()
    };
    for (i, values) in ["codebook:3", "int8", "bf16"].into_iter().enumerate() {
        let encode = format!("{prune}[[stage]]\nencode = \"sparse\"\nvalues = \"{values}\"\n{evaluate}");
        let train = "[[stage]]\nretrain = { epochs = 2, rate = 1e-3 }\n";
        let (plain, trained) = (format!("plain{i}"), format!("trained{i}"));
        recipe(folder, &plain, &encode);
        recipe(folder, &trained, &format!("{encode}{train}{evaluate}"));
        for name in [&plain, &trained] {
            succeeds(folder, &[&format!("{name}.toml"), "--report", &format!("{name}.json")]);
        }
        let (plain, trained) = (report(&plain), report(&trained));
        assert_eq!(pruned(&plain), pruned(&trained), "{values}");
        // a codebook that the training keeps takes as many bytes; gaps and masks are those of the same zeros
        assert_eq!(of(&plain, "bytes"), of(&trained, "bytes"), "{values}");
        let loss = |stage: usize| trained["stages"][stage]["metrics"]["loss"].as_f64().expect("a loss");
        let (before, after) = (loss(2), loss(4));
        assert!(after < 0.9 * before, "{values}: {before} {after}");
        // The epoch that was kept is, to the bit, what the output means.
        let epochs = trained["stages"][3]["epochs"].as_array().expect("epochs");
        let best = epochs.iter().map(|e| e["loss"].as_f64().expect("a loss")).fold(f64::MAX, f64::min);
        assert!((after / best - 1.0).abs() < 1e-5, "{values}: {after} {best}");
    }
}

/// So are factors and shared weights, coded or not: the file has as many of them as before, and loses less.
#[test]
fn factors_and_shared_weights_are_trained_as_such() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let evaluate = "[[stage]]\nevaluate = [\"loss\"]\n";
    let train = "[[stage]]\nretrain = { epochs = 2, rate = 1e-3 }\n";
    for (i, (method, encode)) in [
        ("method = \"low-rank\"\noptions = { share = 0.4 }", ""),
        ("method = \"low-rank\"\noptions = { share = 0.4 }", "[[stage]]\nencode = \"auto\"\nvalues = \"int8\"\n"),
        ("method = \"hashing\"\noptions = { ratio = 4.0 }\nclasses = [\"softmax\", \"*.layer2\"]", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let stages = format!("[[stage]]\n{method}\n{encode}{evaluate}");
        let (plain, trained) = (format!("p{i}"), format!("t{i}"));
        recipe(folder, &plain, &stages);
        recipe(folder, &trained, &format!("{stages}{train}{evaluate}"));
        let report = |name: &str| -> serde_json::Value {
            succeeds(folder, &[&format!("{name}.toml"), "--report", &format!("{name}.json")]);
            serde_json::from_slice(&bytes(folder.join(format!("{name}.json")))).expect("a report")
        };
        let (plain, trained) = (report(&plain), report(&trained));
        let size = |r: &serde_json::Value| r["output"]["bytes"].as_u64().expect("a number");
        assert_eq!(size(&plain), size(&trained), "{method} {encode}");
        let losses: Vec<f64> = trained["stages"]
            .as_array()
            .expect("stages")
            .iter()
            .filter_map(|s| s["metrics"]["loss"].as_f64())
            .collect();
        let (before, after) = (losses[0], losses[losses.len() - 1]);
        assert!(after < 0.9 * before, "{method} {encode}: {losses:?}");
    }
}

#[test]
fn a_model_without_a_graph_is_sent_elsewhere() {
    let temp = tempfile::tempdir().unwrap();
    let path = recipe(temp.path(), "st", "[[stage]]\nretrain = { epochs = 1 }\n");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("model.onnx", "model.safetensors")
        .replace("st.onnx", "st.safetensors");
    std::fs::write(&path, text).unwrap();
    fails(temp.path(), &["st.toml"], 2, "command =");
}

/// A teacher with a file of its own: a clear error where it cannot answer, and the model itself where it is a copy of that.
#[test]
fn a_teacher_is_checked_before_anything_runs() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let folder = temp.path();
    let stages = |teacher: &str| {
        format!(
            "[[stage]]\nmethod = \"magnitude\"\namount = \"80%\"\n\
             retrain = {{ epochs = 1, distil = {{ weight = 0.7, teacher = \"{teacher}\" }} }}\n"
        )
    };
    recipe(folder, "none", &stages("no.onnx"));
    let sentence = "the teacher \"no.onnx\": the model \"no.onnx\" does not exist";
    fails(folder, &["none.toml"], 2, sentence);
    let digits = Path::new(DATES).parent().expect("the examples").join("digits/model.onnx");
    recipe(folder, "other", &stages(digits.to_str().expect("a name")));
    fails(folder, &["other.toml"], 1, "the teacher \"");

    std::fs::copy(format!("{DATES}/model.onnx"), folder.join("teacher.onnx")).expect("the teacher is copied");
    recipe(folder, "own", &stages("teacher.onnx"));
    succeeds(folder, &["own.toml", "--report", "own.json"]);
    let itself = stages("x").replace(", teacher = \"x\"", "");
    recipe(folder, "itself", &itself);
    succeeds(folder, &["itself.toml"]);
    assert_eq!(bytes(folder.join("own.onnx")), bytes(folder.join("itself.onnx")), "the teacher is the same model");
    let report = String::from_utf8(bytes(folder.join("own.json"))).expect("text");
    assert!(report.contains("\"distil\"") && report.contains("teacher.onnx"), "{report}");
}
