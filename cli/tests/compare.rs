//! `compress compare` on the date model: what is run, what is kept, what is reported, and what is refused.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use common::{Folder, Ran, repository, sha256};

mod common;

fn dates(name: &str) -> String {
    repository("examples/dates").canonicalize().unwrap().join(name).display().to_string()
}

/// A study of the date model; `more` are its candidates and the rest.
fn study(more: &str) -> String {
    format!(
        "model = \"{}\"\noutput = \"study\"\n\n[data]\ntrain = \"{}\"\nvalidation = \"{}\"\ntarget = \"tgt_out\"\noutput = \"logits\"\nignore = 0\n\n{more}",
        dates("model.onnx"),
        dates("val.safetensors"),
        dates("val.safetensors")
    )
}

const MAGNITUDE: &str =
    "[[candidate]]\nname = \"magnitude\"\n[[candidate.stage]]\nmethod = \"magnitude\"\namount = \"{amount}\"\n";

fn amounts(list: &str) -> String {
    format!("{MAGNITUDE}\n[sweep]\namount = [{list}]\n\n[budget]\nmetric = \"accuracy\"\nloss = 0.01\n")
}

/// The cells of a report by candidate and sweep.
fn cells(report: &Value) -> BTreeMap<String, &Value> {
    let list = report["cells"].as_array().unwrap();
    list.iter().map(|c| (format!("{} {} {}", c["candidate"].as_str().unwrap(), c["sweep"], c["seed"]), c)).collect()
}

fn compare(folder: &Folder, text: &str, args: &[&str]) -> Ran {
    folder.write("s.toml", text);
    folder.compress(["compare", "s.toml"].iter().chain(args))
}

/// When each finished cell was written.
fn finished(folder: &Folder) -> BTreeMap<PathBuf, SystemTime> {
    let Ok(all) = std::fs::read_dir(folder.path("study/cells")) else { return BTreeMap::new() };
    let done = all.map(|e| e.unwrap().path().join("cell.json"));
    done.filter_map(|p| Some((p.clone(), std::fs::metadata(&p).ok()?.modified().unwrap()))).collect()
}

#[test]
fn a_study_has_its_cells_its_controls_and_an_answer() {
    let folder = Folder::new();
    let ran = compare(&folder, &study(&amounts("\"20%\", \"80%\"")), &["--report", "also.json"]).ok();
    let report = folder.json("study/report.json");
    assert_eq!(report, folder.json("also.json"));
    let cells = cells(&report);
    let dense = cells["dense {} 1"];
    let zstd = cells["zstd only {} 1"];
    assert_eq!(dense["bytes"], std::fs::metadata(dates("model.onnx")).unwrap().len());
    assert_eq!(zstd["bytes"], dense["zstd_bytes"]);
    assert!(zstd["bytes"].as_u64() < dense["bytes"].as_u64());
    for (name, cell) in &cells {
        for key in ["bytes", "zstd_bytes"] {
            assert!(cell[key].as_u64().unwrap() > 0, "{name}: {key}");
        }
        for key in ["loss", "perplexity", "accuracy"] {
            assert!(cell["metrics"][key].as_f64().is_some(), "{name}: {key}: {}", cell["metrics"]);
        }
        let loss = cell["metrics"]["loss"].as_f64().unwrap();
        assert!((loss.exp() / cell["metrics"]["perplexity"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{name}");
        assert_eq!(cell["report"]["model"]["sha256"], sha256(&std::fs::read(dates("model.onnx")).unwrap()), "{name}");
        assert!(cell["timing"]["load_seconds"].as_f64().unwrap() > 0.0, "{name}");
        assert!(cell["timing"]["run_seconds"].as_f64().unwrap() > 0.0, "{name}");
    }
    // The figures of examples/dates/README.md.
    assert!((dense["metrics"]["perplexity"].as_f64().unwrap() - 1.00137).abs() < 1e-4);
    let at =
        |amount: &str| cells[&format!("magnitude {{\"amount\":\"{amount}\"}} 1")]["metrics"]["perplexity"].as_f64();
    assert!((at("20%").unwrap() - 1.0012).abs() < 1e-3, "{:?}", at("20%"));
    assert!((at("80%").unwrap() / 13.1395 - 1.0).abs() < 1e-2, "{:?}", at("80%"));
    let pruned = &cells["magnitude {\"amount\":\"80%\"} 1"]["report"]["stages"][0]["achieved"];
    assert_eq!(pruned["pruned"], 120_013);
    // Every cell is what the recipe alone would have written.
    let text =
        study(MAGNITUDE).replace("[[candidate]]\nname = \"magnitude\"\n", "").replace("candidate.stage", "stage");
    folder.recipe(&text.replace("{amount}", "80%").replace("\"study\"", "\"out.onnx\""), &[]).ok();
    let key = cells["magnitude {\"amount\":\"80%\"} 1"]["key"].as_str().unwrap();
    let alone = sha256(&folder.read("out.onnx"));
    assert_eq!(sha256(&folder.read(&format!("study/cells/{key}/model.onnx"))), alone);
    // The answer names both controls, and where the table and the page are.
    let sentence = report["answer"]["sentence"].as_str().unwrap();
    for words in ["untouched model", "random pruning", "no dense model trained alike"] {
        assert!(sentence.contains(words), "{words}: {sentence}");
    }
    assert!(ran.out.contains(sentence) && ran.out.contains("study/report.html"), "{}", ran.out);
    let csv = String::from_utf8(folder.read("study/report.csv")).unwrap();
    assert_eq!(csv.lines().count(), cells.len() + 1);
    assert!(csv.starts_with("candidate,kind,amount,seed,bytes,zstd_bytes,pruned,validation_loss,"), "{csv}");
    assert!(csv.contains("\nmagnitude,candidate,80%,1,"), "{csv}");
    page_stands_alone(&String::from_utf8(folder.read("study/report.html")).unwrap(), sentence);
}

/// Nothing in the page is fetched from elsewhere, and all of it is there.
fn page_stands_alone(page: &str, sentence: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    for word in ["http://", "https://", "<script", "@import", "url(", "<link"] {
        assert!(!outside.contains(word), "{word}");
    }
    assert!(page.matches("src=\"").count() == page.matches("src=\"data:image/png;base64,").count());
    assert!(page.contains(&sentence.replace('"', "&quot;")), "{sentence}");
    for words in [
        "prefers-color-scheme:dark",
        "@media print",
        "width=device-width",
        "against bytes on disk",
        "against the pruned share",
        "Pruned by class",
        "Weights by class",
        "Redundancy maps",
        "forget/recurrent",
        "rows by frequency",
        "Load and run time",
        "no faster",
        "SHA-256",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("NaN") && !page.contains("#FA01"));
}

#[test]
fn a_finished_study_is_not_run_again_and_a_longer_one_only_where_it_is_new() {
    let folder = Folder::new();
    compare(&folder, &study(&amounts("\"20%\"")), &["--quiet"]).ok();
    let first = finished(&folder);
    let seen = compare(&folder, &study(&amounts("\"20%\"")), &["--dry-run"]).ok();
    assert!(seen.out.contains(&format!("0 of {} cells to run", first.len())), "{}", seen.out);
    let seen = compare(&folder, &study(&amounts("\"20%\", \"40%\"")), &["--dry-run"]).ok();
    assert!(seen.out.contains("magnitude, amount 40%") && seen.out.contains("hours"), "{}", seen.out);
    assert_eq!(finished(&folder), first, "a dry run runs nothing");
    compare(&folder, &study(&amounts("\"20%\", \"40%\"")), &["--quiet", "--resume"]).ok();
    let second = finished(&folder);
    assert!(first.iter().all(|(cell, time)| second.get(cell) == Some(time)), "a finished cell was run again");
    assert!(second.len() > first.len());
    let before = folder.json("study/report.json");
    compare(&folder, &study(&amounts("\"20%\", \"40%\"")), &["--quiet", "--force"]).ok();
    let third = finished(&folder);
    assert!(second.iter().all(|(cell, time)| third[cell] > *time), "--force computes all anew");
    let metrics =
        |report: &Value| cells(report).into_iter().map(|(k, c)| (k, c["metrics"].clone())).collect::<BTreeMap<_, _>>();
    assert_eq!(metrics(&before), metrics(&folder.json("study/report.json")));
}

#[test]
fn an_interrupted_study_goes_on() {
    let folder = Folder::new();
    let text = study(&amounts("\"10%\", \"20%\", \"30%\", \"40%\", \"50%\", \"60%\", \"70%\", \"80%\""));
    folder.write("s.toml", &text);
    let mut command = folder.command(["compare", "s.toml", "--threads", "1"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while finished(&folder).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no cell was finished");
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(child.id());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(ran.err.contains("go on with: compress compare s.toml --resume"), "{}", ran.err);
    let kept = finished(&folder);
    assert!(!kept.is_empty() && !folder.path("study/report.json").exists());
    folder.compress(["compare", "s.toml", "--resume", "--quiet"]).ok();
    let all = finished(&folder);
    assert!(kept.iter().all(|(cell, time)| all.get(cell) == Some(time)), "a finished cell was run again");
    assert!(all.len() >= 9 && folder.path("study/report.html").exists());
}

#[allow(unsafe_code)]
fn interrupt(process: u32) {
    // SAFETY: kill takes two integers; the process is a child that was not waited for yet.
    unsafe {
        libc::kill(process as libc::pid_t, libc::SIGINT);
    }
}

#[test]
fn retraining_brings_its_control_and_seeds_are_spread() {
    let folder = Folder::new();
    let candidates = format!(
        "{MAGNITUDE}\n[[candidate]]\nname = \"retrained\"\n[[candidate.stage]]\nmethod = \"magnitude\"\namount = \"{{amount}}\"\n\
         retrain = {{ epochs = 1, rate = 1e-3 }}\n\n[sweep]\namount = [\"80%\"]\n\n[repeat]\nseeds = [1, 2]\n\n[budget]\nmetric = \
         \"perplexity\"\nloss = 0.5\n"
    );
    // A short epoch: the validation set is the training set of these studies.
    let text = study(&candidates);
    compare(&folder, &text, &["--quiet"]).ok();
    let report = folder.json("study/report.json");
    let cells = cells(&report);
    for seed in [1, 2] {
        assert!(cells.contains_key(&format!("dense retrained {{}} {seed}")), "{:?}", cells.keys());
        assert!(cells.contains_key(&format!("retrained {{\"amount\":\"80%\"}} {seed}")), "{:?}", cells.keys());
    }
    assert!(!cells.contains_key("magnitude {\"amount\":\"80%\"} 2"), "what is not random runs once");
    let perplexity = |name: &str| cells[name]["metrics"]["perplexity"].as_f64().unwrap();
    assert!(perplexity("retrained {\"amount\":\"80%\"} 1") < perplexity("magnitude {\"amount\":\"80%\"} 1"));
    assert_ne!(perplexity("retrained {\"amount\":\"80%\"} 1"), perplexity("retrained {\"amount\":\"80%\"} 2"));
    let groups = report["groups"].as_array().unwrap();
    let group = groups.iter().find(|g| g["candidate"] == "retrained").unwrap();
    let spread = &group["metrics"]["validation"]["perplexity"];
    assert_eq!(spread["seeds"], 2);
    let mean = (perplexity("retrained {\"amount\":\"80%\"} 1") + perplexity("retrained {\"amount\":\"80%\"} 2")) / 2.0;
    assert!((spread["mean"].as_f64().unwrap() - mean).abs() < 1e-9 && spread["deviation"].as_f64().unwrap() > 0.0);
    assert!(report["answer"]["sentence"].as_str().unwrap().contains("the dense model trained for the same epochs"));
}

#[test]
fn bleu_has_intervals_and_test_is_what_is_reported() {
    let folder = Folder::new();
    let more = format!(
        "[data.bleu]\nprefix = \"tgt_in\"\nbegin = 1\nend = 2\nvocabulary = \"{}\"\nreferences = {{ validation = \"{}\", test = \
         \"{}\" }}\nmax_length = 12\n\n{MAGNITUDE}\n[sweep]\namount = [\"60%\"]\n\n[budget]\nmetric = \"bleu\"\nloss = 1\n",
        dates("vocab.tgt.txt"),
        dates("val.ref.txt"),
        dates("test.ref.txt")
    );
    let text = study(&more).replace("[data]\n", &format!("[data]\ntest = \"{}\"\n", dates("test.safetensors")));
    compare(&folder, &text, &["--quiet"]).ok();
    let report = folder.json("study/report.json");
    let cells = cells(&report);
    let (dense, pruned) = (cells["dense {} 1"], cells["magnitude {\"amount\":\"60%\"} 1"]);
    assert!((dense["metrics"]["bleu"].as_f64().unwrap() - 99.78).abs() < 0.01, "{}", dense["metrics"]);
    assert!((dense["metrics"]["test"]["bleu"].as_f64().unwrap() - 99.58).abs() < 0.01, "{}", dense["metrics"]);
    let interval = &pruned["bleu_difference"]["test"];
    let [low, difference, high] = ["low", "difference", "high"].map(|k| interval[k].as_f64().unwrap());
    let apart =
        pruned["metrics"]["test"]["bleu"].as_f64().unwrap() - dense["metrics"]["test"]["bleu"].as_f64().unwrap();
    assert!((difference - apart).abs() < 1e-9 && low < difference && difference < high, "{interval} {apart}");
    assert_eq!(report["quality_on"], "test");
    assert_eq!(
        (&report["answer"]["chosen_on"], &report["answer"]["reported_on"]),
        (&"validation".into(), &"test".into())
    );
}

#[test]
fn a_model_without_a_graph_is_judged_by_a_command_or_by_size() {
    let folder = Folder::new();
    let text = format!(
        "model = \"{}\"\noutput = \"study\"\n{MAGNITUDE}\n[sweep]\namount = [\"50%\"]\n",
        dates("model.safetensors")
    );
    let ran = compare(&folder, &text, &[]).ok();
    assert!(ran.out.contains("only sizes are compared"), "{}", ran.out);
    folder.write("judge.sh", "echo '{\"metrics\": {\"score\": 7.5}}'\n");
    let text = text.replace(
        "amount = \"{amount}\"\n",
        "amount = \"{amount}\"\n[[candidate.stage]]\nevaluate = { command = [\"sh\", \"judge.sh\"] }\n",
    ) + "[budget]\nmetric = \"score\"\nloss = 0\n";
    compare(&folder, &text, &["--quiet"]).ok();
    let report = folder.json("study/report.json");
    for (name, cell) in cells(&report) {
        assert_eq!(cell["metrics"]["score"], 7.5, "{name}");
    }
    // The command's file is an input: when it changes, so do the cells that run it.
    let before = finished(&folder).len();
    folder.write("judge.sh", "echo '{\"metrics\": {\"score\": 8.5}}'\n");
    compare(&folder, &text, &["--quiet"]).ok();
    assert!(finished(&folder).len() > before);
    assert_eq!(cells(&folder.json("study/report.json"))["dense {} 1"]["metrics"]["score"], 8.5);
}

#[test]
fn one_cell_that_fails_does_not_stop_the_others() {
    let folder = Folder::new();
    let failing = "[[candidate]]\nname = \"broken\"\n[[candidate.stage]]\nmethod = \"magnitude\"\namount = \"10%\"\n\
                   [[candidate.stage]]\nevaluate = { command = [\"sh\", \"-c\", \"test -n \\\"$COMPRESS_MASK\\\" && exit 3\"] }\n";
    let text = format!(
        "model = \"{}\"\noutput = \"study\"\n{MAGNITUDE}\n{}\n[sweep]\namount = [\"50%\"]\n",
        dates("model.safetensors"),
        failing.replace("test -n \\\"$COMPRESS_MASK\\\" && exit 3", "case $COMPRESS_WEIGHTS in *) ls broken >/dev/null 2>&1 && exit 3; echo '{\\\"metrics\\\": {\\\"x\\\": 1}}';; esac")
    );
    // All cells with the command pass; then only what is new fails.
    compare(&folder, &text, &["--quiet"]).ok();
    folder.write("broken", "");
    let text = text.replace("\"10%\"", "\"11%\"");
    let ran = compare(&folder, &text, &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    // Its control of random pruning runs the same command.
    assert!(ran.err.contains("\"broken\"") && ran.err.contains("exit status: 3"), "{}", ran.err);
    assert!(ran.out.contains("failed: broken") || ran.out.contains("failed: random"), "{}", ran.out);
    let report = folder.json("study/report.json");
    let failed: Vec<&str> = report["failed"].as_array().unwrap().iter().filter_map(|f| f["cell"].as_str()).collect();
    assert!(failed.contains(&"broken") && failed.iter().all(|f| ["broken", "random"].contains(f)), "{failed:?}");
    assert!(cells(&report).contains_key("magnitude {\"amount\":\"50%\"} 1"));
}

#[test]
fn what_is_wrong_is_refused_before_anything_is_written() {
    let folder = Folder::new();
    let good = study(&amounts("\"20%\""));
    for (text, args, code, words) in [
        (good.replace("[sweep]", "[swep]"), &[][..], 2, &["s.toml:", "unknown key \"swep\"", "\"sweep\""][..]),
        (
            good.replace("\"magnitude\"\namount", "\"magnitud\"\namount"),
            &[],
            2,
            &["magnitud", "did you mean \"magnitude\""],
        ),
        (good.replace("\"20%\"", "\"120%\""), &[], 2, &["120%", "candidate \"magnitude\""]),
        (good.replace("\"accuracy\"", "\"accurcy\""), &[], 2, &["accurcy", "did you mean \"accuracy\""]),
        (good.replace("model.onnx", "nowhere.onnx"), &[], 2, &["nowhere.onnx", "does not exist"]),
        (good.clone(), &["--resume"], 2, &["--resume", "no interrupted study"]),
    ] {
        folder.write("s.toml", &text);
        let ran = folder.compress(["compare", "s.toml"].iter().chain(args));
        ran.refused(code, words);
        assert!(!folder.path("study").exists(), "{text}");
    }
    folder.write("study/mine.txt", "mine");
    compare(&folder, &good, &[]).refused(2, &["holds no study", "--force"]);
    assert_eq!(folder.read("study/mine.txt"), b"mine");
    folder.compress(["compare", "nowhere.toml"]).refused(2, &["nowhere.toml", "no such file"]);
}

#[test]
fn the_example_is_a_study_that_can_be_run() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(repository("examples/dates/compare.toml")).unwrap();
    let path = dates("");
    let text = text.replace("output = \"study\"", &format!("output = \"{}\"", folder.path("study").display()));
    let at = Path::new(&path).join("compare.toml");
    assert!(at.exists());
    // The dry run makes the plan of every cell.
    let text = [
        "model.onnx",
        "train.safetensors",
        "val.safetensors",
        "test.safetensors",
        "vocab.tgt.txt",
        "val.ref.txt",
        "test.ref.txt",
    ]
    .iter()
    .fold(text, |text, name| text.replace(&format!("\"{name}\""), &format!("\"{}\"", dates(name))));
    let ran = compare(&folder, &text, &["--dry-run"]).ok();
    assert!(ran.out.contains("cells to run: about 0.") && ran.out.contains("dense retrained"), "{}", ran.out);
}
