//! Techniques one after the other on the date model: factors and what they lack, prunings and codebooks, a hash here and
//! a pruning there, Optimal Brain Surgeon on measured evidence.
#![allow(clippy::unwrap_used)]

use serde_json::Value;

use common::{Folder, python, repository, st};

mod common;

/// A recipe for the date model in a format, with evidence measured first where `measure` names kinds.
fn recipe(format: &str, measure: &str, stages: &str) -> String {
    let dates = repository("examples/dates").canonicalize().unwrap();
    let dates = dates.display();
    let data = match format {
        "onnx" => format!(
            "[data]\ntrain = \"{dates}/val.safetensors\"\nvalidation = \"{dates}/test.safetensors\"\ntarget = \"tgt_out\"\n\
             output = \"logits\"\nignore = 0\n"
        ),
        _ => String::new(),
    };
    let measure = match measure {
        "" => String::new(),
        kinds => format!("[[stage]]\nmeasure = [{kinds}]\noptions = {{ examples = 200, batch = 50 }}\n"),
    };
    let head = format!("model = \"{dates}/model.{format}\"\noutput = \"out.{format}\"\nevidence = \"e.safetensors\"\n");
    format!("{head}{data}{measure}{stages}")
}

/// Runs and gives the report.
fn run(folder: &Folder, format: &str, measure: &str, stages: &str) -> Value {
    let ran = folder.recipe(&recipe(format, measure, stages), &["--report", "r.json", "--force"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    folder.json("r.json")
}

fn perplexity(report: &Value) -> f64 {
    let stages = report["stages"].as_array().unwrap();
    stages.iter().rev().find_map(|s| s["metrics"]["perplexity"].as_f64()).expect("an evaluation")
}

fn bytes(report: &Value) -> u64 {
    report["output"]["bytes"].as_u64().unwrap()
}

/// `(part, layout, parameters, relative error)` of a stage.
fn parts(stage: &Value) -> Vec<(String, String, u64, f64)> {
    let one = |p: &Value| {
        let text = |key: &str| p[key].as_str().unwrap().to_string();
        (text("part"), text("layout"), p["parameters"].as_u64().unwrap(), p["relative_error"].as_f64().unwrap())
    };
    stage["parts"].as_array().unwrap().iter().map(one).collect()
}

const EVALUATE: &str = "[[stage]]\nevaluate = [\"perplexity\"]\n";

#[test]
fn low_rank_with_a_sparse_residual_is_nearer_than_low_rank_alone() {
    let folder = Folder::new();
    let low_rank = "[[stage]]\nmethod = \"low-rank\"\noptions = { rank = 8 }\nclasses = [\"source.layer*\", \"target.layer*\", \"softmax\"]\n";
    let residual = "[[stage]]\nmethod = \"magnitude\"\namount = \"90%\"\nresidual = true\n";
    let alone = run(&folder, "onnx", "", &format!("{low_rank}{EVALUATE}"));
    // What is multiplied with has its time; what is put together at load has none.
    let stored = alone["output"]["factored"].as_array().unwrap().clone();
    let timed = |f: &Value| {
        let seconds = |key: &str| f["seconds"][key].as_f64();
        (
            f["runs"].as_str().unwrap() == "faster",
            seconds("dense").zip(seconds("factors")).is_some_and(|(d, f)| d > 0.0 && f > 0.0),
        )
    };
    assert!(stored.iter().map(timed).all(|(faster, timed)| faster == timed), "{stored:?}");
    assert!(stored.iter().any(|f| timed(f).0) && stored.iter().any(|f| !timed(f).0), "{stored:?}");
    let both = run(&folder, "onnx", "", &format!("{low_rank}{residual}{EVALUATE}"));
    let (factored, summed) = (parts(&both["stages"][0]), parts(&both["stages"][1]));
    assert_eq!(factored.len(), summed.len());
    for (f, s) in factored.iter().zip(&summed) {
        assert_eq!((f.1.as_str(), s.1.as_str(), &f.0), ("factored", "factored + sparse", &s.0));
        assert!(s.3 < f.3, "{f:?} {s:?}");
    }
    assert!(perplexity(&both) < perplexity(&alone), "{} {}", perplexity(&both), perplexity(&alone));
    let input = both["model"]["bytes"].as_u64().unwrap();
    assert!(bytes(&alone) < bytes(&both) && bytes(&both) < input);
    // Another run gives the same bytes, with any number of threads.
    let first = folder.read("out.onnx");
    folder.recipe(&recipe("onnx", "", &format!("{low_rank}{residual}{EVALUATE}")), &["--force", "--threads", "1"]);
    assert!(folder.read("out.onnx") == first);
}

#[test]
fn a_hash_of_one_class_and_a_pruning_of_another() {
    for format in ["onnx", "safetensors"] {
        let folder = Folder::new();
        let stages = "[[stage]]\nmethod = \"hashing\"\nclasses = [\"softmax\"]\n[[stage]]\nmethod = \"magnitude\"\namount = \"80%\"\n\
                      classes = [\"source.*\", \"target.*\"]\n[[stage]]\nencode = \"sparse\"\nclasses = [\"source.*\", \"target.*\"]\n";
        let report = run(&folder, format, "", stages);
        assert_eq!(parts(&report["stages"][0])[0].1, "hashed");
        let achieved = &report["stages"][1]["achieved"];
        assert_eq!(achieved["pruned"].as_f64().unwrap(), (achieved["prunable"].as_f64().unwrap() * 0.8 + 0.5).floor());
        assert!(bytes(&report) * 5 < report["model"]["bytes"].as_u64().unwrap() * 2, "{}", bytes(&report));
    }
}

#[test]
fn a_pruning_and_then_a_codebook() {
    let folder = Folder::new();
    let stages = "[[stage]]\nmethod = \"magnitude\"\namount = \"80%\"\n[[stage]]\nencode = \"sparse\"\nvalues = \"codebook:4\"\n";
    let report = run(&folder, "onnx", "", &format!("{stages}{EVALUATE}"));
    let achieved = &report["stages"][0]["achieved"]["pruned"];
    let classes = report["classes"].as_array().unwrap();
    assert_eq!(*achieved, classes.iter().map(|c| c["pruned"].as_u64().unwrap()).sum::<u64>());
    assert!(bytes(&report) * 6 < report["model"]["bytes"].as_u64().unwrap(), "{}", bytes(&report));
}

#[test]
fn optimal_brain_surgeon_takes_magnitudes_counts_and_loses_less() {
    let folder = Folder::new();
    let stage =
        |method: &str| format!("[[stage]]\nmethod = \"{method}\"\namount = \"70%\"\nscheme = \"class-uniform\"\n");
    let by_magnitude = run(&folder, "onnx", "", &format!("{}{EVALUATE}", stage("magnitude")));
    let measured = run(&folder, "onnx", "\"gram\", \"row_count\"", &format!("{}{EVALUATE}", stage("obs")));
    let counts = |report: &Value| {
        let classes = report["classes"].as_array().unwrap();
        classes.iter().map(|c| (c["name"].clone(), c["pruned"].as_u64())).collect::<Vec<_>>()
    };
    assert_eq!(counts(&by_magnitude), counts(&measured));
    assert!(
        perplexity(&measured) < perplexity(&by_magnitude),
        "{} {}",
        perplexity(&measured),
        perplexity(&by_magnitude)
    );
    // By the loss's own curvature the counts are others, but as many in total.
    let curvature = "\"gram\", \"row_count\", \"hessian_diag\"";
    let stage = format!("{}options = {{ allocate = \"obd\" }}\n", stage("obs"));
    let by_obd = run(&folder, "onnx", curvature, &format!("{stage}{EVALUATE}"));
    let total =
        |report: &Value| report["stages"].as_array().unwrap().iter().find_map(|s| s["achieved"]["pruned"].as_u64());
    assert_eq!(total(&by_obd), total(&measured));
}

/// The evidence file as bytes by name.
fn evidence(folder: &Folder) -> std::collections::BTreeMap<String, Vec<u8>> {
    let file = std::fs::read(folder.path("e.safetensors")).unwrap();
    st::read(&file).into_iter().map(|(name, (_, _, bytes))| (name, bytes)).collect()
}

/// Each kind with examples of its own: what was measured first stays, and a method finds both.
#[test]
fn measure_stages_that_follow_each_other_write_one_file() {
    let folder = Folder::new();
    let rows = "[[stage]]\nmeasure = [\"row_count\"]\noptions = { examples = 400, batch = 50 }\n";
    let obs = "[[stage]]\nmethod = \"obs\"\namount = \"50%\"\n";
    run(&folder, "onnx", "\"gram\", \"row_count\"", obs);
    let once = evidence(&folder);
    run(&folder, "onnx", "\"gram\"", &format!("{rows}{obs}"));
    let joined = evidence(&folder);
    assert_eq!(once.keys().collect::<Vec<_>>(), joined.keys().collect::<Vec<_>>());
    for (name, values) in &once {
        assert_eq!(*values == joined[name], name.ends_with(".gram"), "{name}");
    }
    // A pruning between them makes the first one stale.
    let between = "[[stage]]\nmethod = \"random\"\namount = 1\n";
    let obd = "[[stage]]\nmethod = \"obd\"\namount = \"50%\"\n";
    let apart = recipe("onnx", "\"hessian_diag\"", &format!("{between}{rows}{obd}"));
    folder.recipe(&apart, &["--force"]).refused(2, &["\"obd\" needs evidence", "hessian_diag"]);
}

#[test]
fn data_aware_factors_lose_less_on_the_data() {
    let folder = Folder::new();
    let stage = |whiten: bool| {
        format!(
            "[[stage]]\nmethod = \"low-rank\"\noptions = {{ rank = 6, whiten = {whiten} }}\nclasses = [\"source.layer*\", \
             \"target.layer*\"]\n{EVALUATE}"
        )
    };
    let plain = run(&folder, "onnx", "", &stage(false));
    let aware = run(&folder, "onnx", "\"gram\"", &stage(true));
    assert!(perplexity(&aware) < perplexity(&plain), "{} {}", perplexity(&aware), perplexity(&plain));
}

/// Terms of several layouts are coded by a later stage, and trained as what they are.
#[test]
fn sums_are_coded_and_trained_as_sums() {
    let folder = Folder::new();
    let encode = "[[stage]]\nmethod = \"low-rank\"\noptions = { rank = 8 }\nclasses = [\"source.layer*\", \"target.layer*\"]\n\
                  [[stage]]\nmethod = \"magnitude\"\namount = \"95%\"\nresidual = true\n";
    let retrain = "[[stage]]\nretrain = { epochs = 1, rate = 1e-3 }\n";
    let int8 = "[[stage]]\nencode = \"auto\"\nvalues = \"int8\"\n";
    let plain = run(&folder, "onnx", "", &format!("{encode}{EVALUATE}"));
    let trained = run(&folder, "onnx", "", &format!("{encode}{retrain}{EVALUATE}"));
    assert!(perplexity(&trained) < perplexity(&plain), "{} {}", perplexity(&trained), perplexity(&plain));
    assert_eq!(bytes(&trained), bytes(&plain));
    let coded = run(&folder, "onnx", "", &format!("{encode}{int8}{EVALUATE}"));
    assert!(bytes(&coded) * 2 < bytes(&plain), "{} {}", bytes(&coded), bytes(&plain));
    assert!((perplexity(&coded) - perplexity(&plain)).abs() < 0.05);
}

/// A program chooses within quotas, part by part, and what it prunes is what was meant.
#[test]
fn a_program_that_selects_is_given_quotas() {
    let Some(python) = python() else { return };
    let folder = Folder::new();
    let helper = repository("examples/plugin-python/compress_method.py");
    std::fs::copy(helper, folder.path("compress_method.py")).unwrap();
    folder.write(
        "mine.py",
        r#"
import numpy as np
from compress_method import run

def encode(w, part):
    _, eligible, pruned, n, m = part.keep
    order = np.argsort(np.where(eligible, np.abs(w), -1).reshape(-1), kind="stable")
    kept = np.ones(w.size, bool)
    kept[order[:pruned]] = False
    kept = kept.reshape(w.shape)
    return [("sparse", kept, 2 * w[kept])], kept

run(name="mine", meaning="m", citation="c", equation="e", reach="part", encode=encode, selects=True)
"#,
    );
    let plugins = format!("[plugins]\nprograms = {{ mine = [{python:?}, \"mine.py\"] }}\n");
    let stage = |method: &str| format!("[[stage]]\nmethod = \"{method}\"\namount = \"60%\"\n");
    run(&folder, "safetensors", "", &stage("magnitude"));
    let by_magnitude = st::read(&folder.read("out.safetensors"));
    run(&folder, "safetensors", "", &format!("{plugins}{}", stage("mine")));
    let mine = st::read(&folder.read("out.safetensors"));
    for (name, (_, _, bytes)) in &by_magnitude {
        let (expected, found) = (st::decode("F32", bytes), st::decode("F32", &mine[name].2));
        let input = st::read(&std::fs::read(repository("examples/dates/model.safetensors")).unwrap());
        let pruned = st::decode("F32", &input[name].2) != expected;
        let factor = if pruned { 2.0 } else { 1.0 };
        assert!(expected.iter().zip(&found).all(|(e, f)| e * factor == *f), "{name}");
    }
}
