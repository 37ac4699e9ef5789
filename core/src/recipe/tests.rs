use std::path::{Path, PathBuf};
use std::time::Duration;

use compress_sdk::card::EvidenceKind;

use super::*;

fn parse(text: &str) -> Result<Recipe> {
    Recipe::parse(text, Path::new("runs/pipeline.toml"))
}

/// Every key of the fixed interface.
const EVERYTHING: &str = r#"
model  = "nmt.onnx"
output = "nmt-80.onnx"
mask   = "nmt-80.masks.safetensors"
from   = "earlier.masks.safetensors"
evidence = "evidence.safetensors"
seed   = 7
include_1d = true

[classes]
"zebra" = ["z*", "y"]
"attention" = ["attn*.weight"]
b = ["*"]

[data]
train      = "train.safetensors"
validation = "val.safetensors"
test       = "/abs/test.safetensors"
target     = "tgt_out"
output     = "logits"
ignore     = 0
trim       = true

[data.bleu]
prefix     = "tgt_in"
begin      = 1
end        = 2
vocabulary = "vocab.de.txt"
references = { validation = "val.ref.de", test = "test.ref.de" }
tokenize   = "13a"
join       = "@@ "
beam       = 4
max_length = 50

[plugins]
libraries = ["target/release/libmy_method.so"]
programs  = { my-method = ["python3", "my_method.py"], a = ["b"] }
timeout   = 1.5

[[stage]]
method  = "magnitude"
scheme  = "class-distribution"
amount  = { "softmax" = "60%", "*" = 0.85, "c" = 3 }
pattern = "4x1"
classes = ["source.*"]
options = { a = 1, b = "x", c = [1.5, true], d = { e = 1979-05-27 } }
allow_empty = ["bias*"]
schedule = { steps = 8, shape = "linear", recover = 2 }
retrain  = { epochs = 1, rate = 1e-3, decay = 0.5, warmup = 10, optimizer = "sgd", momentum = 0.9, weight_decay = 0, batch = 64, clip = 1, dropout = { "source.*" = 0.1, "*" = 0 }, patience = 3, distil = { weight = 0.5, temperature = 2, teacher = "big.onnx" } }
seed = 18446744073709551615
residual = true

[[stage]]
measure = ["gram", "fisher_diag"]
options = { examples = 64, batch = 2 }

[[stage]]
retrain = { command = ["torchrun", "train.py", "--weights={weights}", "{mask}", "{output}", "{\"a\": {}}"], on_violation = "repair" }

[[stage]]
reinitialise = { uniform = 0.1 }

[[stage]]
evaluate = ["loss", "perplexity", "accuracy", "bleu"]

[[stage]]
evaluate = { command = ["score", "{model}"] }

[[stage]]
encode  = "sparse"
values  = "codebook:4"
classes = ["softmax"]
"#;

#[test]
fn every_key_of_the_interface_is_read() {
    let recipe = parse(EVERYTHING).unwrap();
    let at = |name: &str| Some(Path::new("runs").join(name));
    assert_eq!(recipe.model, ModelPaths::One("runs/nmt.onnx".into()));
    assert_eq!(recipe.output, at("nmt-80.onnx"));
    assert_eq!(recipe.mask, at("nmt-80.masks.safetensors"));
    assert_eq!(recipe.from, at("earlier.masks.safetensors"));
    assert_eq!(recipe.evidence, at("evidence.safetensors"));
    assert_eq!((recipe.seed, recipe.include_1d), (7, true));
    let classes: Vec<_> = recipe.classes.iter().map(|(name, globs)| (name.as_str(), globs.len())).collect();
    assert_eq!(classes, [("zebra", 2), ("attention", 1), ("b", 1)], "in written order");

    let data = recipe.data.as_ref().unwrap();
    assert_eq!(data.test, Some(PathBuf::from("/abs/test.safetensors")));
    assert_eq!((data.target.as_deref(), data.output.as_deref()), (Some("tgt_out"), Some("logits")));
    assert_eq!((data.ignore, data.trim), (Some(0), true));
    let expected = Bleu {
        prefix: "tgt_in".into(),
        begin: 1,
        end: 2,
        vocabulary: "runs/vocab.de.txt".into(),
        references: References { validation: at("val.ref.de"), test: at("test.ref.de") },
        tokenize: Tokenize::Mteval13a,
        join: "@@ ".into(),
        beam: 4,
        max_length: 50,
    };
    assert_eq!(data.bleu.as_ref(), Some(&expected));
    assert_eq!(recipe.plugins.libraries, [PathBuf::from("runs/target/release/libmy_method.so")]);
    assert_eq!(recipe.plugins.programs[0].0, "my-method");
    assert_eq!(recipe.plugins.programs[1], ("a".into(), vec!["b".into()]));
    assert_eq!(recipe.plugins.timeout, Duration::from_millis(1500));

    let kinds: Vec<_> = recipe.stages.iter().map(Stage::kind_name).collect();
    assert_eq!(kinds, ["method", "measure", "retrain", "reinitialise", "evaluate", "evaluate", "encode"]);
    let names: Vec<_> = recipe.stages.iter().map(Stage::name).collect();
    assert_eq!(names[1..4], ["gram, fisher_diag", "command", "uniform"]);
    assert_eq!(recipe.seed_of(&recipe.stages[0]), u64::MAX);
    assert_eq!(recipe.seed_of(&recipe.stages[1]), 7);
    assert_eq!(recipe.stages[0].to_string(), "stage 1 (magnitude)");
    assert_eq!(recipe.stages[6].to_string(), "stage 7 (encode)");
    assert_eq!(EVERYTHING.lines().nth(recipe.stages[1].line - 1), Some("[[stage]]"));
}

#[test]
fn every_key_of_a_method_stage_is_read() {
    let recipe = parse(EVERYTHING).unwrap();
    let StageKind::Method(stage) = &recipe.stages[0].kind else { panic!() };
    assert_eq!((stage.scheme, stage.pattern), (Scheme::ClassDistribution, Pattern::Block { rows: 4, cols: 1 }));
    let amounts = stage.amount.as_ref().unwrap();
    let Amounts::ByClass(entries) = amounts else { panic!() };
    let written: Vec<_> = entries.iter().map(|(glob, amount)| (glob.as_str(), amount.to_string())).collect();
    assert_eq!(written, [("softmax", "60%".into()), ("*", "0.85".into()), ("c", "3".into())]);
    assert_eq!(amounts.of(["softmax"]).unwrap().0, 0);
    assert_eq!(amounts.of(["c", "c/forget"]).unwrap().0, 1, "the first glob that matches wins");
    assert_eq!(
        (stage.classes.as_slice(), stage.allow_empty.as_slice()),
        (&["source.*".into()][..], &["bias*".into()][..])
    );
    assert_eq!(stage.options["a"].as_integer(), Some(1));
    assert_eq!(stage.options["c"].as_array().unwrap().len(), 2);
    assert_eq!(stage.schedule, Some(Schedule { steps: 8, shape: ScheduleShape::Linear, recover: 2 }));
    assert!(stage.residual);
    let expected = Training {
        epochs: 1.0,
        rate: Some(1e-3),
        decay: Some(Decay::Factor(0.5)),
        warmup: 10,
        optimizer: Optimizer::Sgd,
        momentum: Some(0.9),
        weight_decay: Some(0.0),
        batch: Some(64),
        clip: Some(1.0),
        dropout: Dropout::ByName(vec![("source.*".into(), 0.1), ("*".into(), 0.0)]),
        patience: Some(3),
        distil: Some(Distil { weight: 0.5, temperature: 2.0, teacher: Some("runs/big.onnx".into()) }),
    };
    assert_eq!(stage.retrain, Some(Retrain::Engine(expected)));
}

#[test]
fn the_other_stages_are_read() {
    let recipe = parse(EVERYTHING).unwrap();
    let stage = |i: usize| &recipe.stages[i].kind;
    let StageKind::Measure(m) = stage(1) else { panic!() };
    assert_eq!((m.examples, m.batch), (64, 2));
    assert_eq!(m.kinds, [EvidenceKind::Gram, EvidenceKind::FisherDiag]);
    let StageKind::Retrain(Retrain::Command { command, on_violation }) = stage(2) else { panic!() };
    assert_eq!(*on_violation, OnViolation::Repair);
    assert_eq!(
        command.filled(|name| format!("<{name}>")),
        ["torchrun", "train.py", "--weights=<weights>", "<mask>", "<output>", "{\"a\": {}}"]
    );
    assert!(matches!(stage(3), StageKind::Reinitialise(Initialise::Uniform(x)) if *x == 0.1));
    let StageKind::Evaluate(Evaluate::Metrics(metrics)) = stage(4) else { panic!() };
    assert_eq!(metrics, &Metric::ALL);
    assert!(matches!(stage(5), StageKind::Evaluate(Evaluate::Command(_))));
    let expected = EncodeStage {
        layout: EncodeLayout::Sparse,
        values: EncodeValues::Codebook(4),
        classes: vec!["softmax".into()],
    };
    assert!(matches!(stage(6), StageKind::Encode(e) if *e == expected));
}

#[test]
fn defaults() {
    let recipe =
        Recipe::parse("model = \"m.onnx\"\n[[stage]]\nmethod = \"magnitude\"\namount = 1.0\n", Path::new("p.toml"))
            .unwrap();
    assert_eq!(recipe.model.all(), [PathBuf::from("m.onnx")]);
    assert_eq!((recipe.seed, recipe.include_1d, recipe.classes.len()), (1, false, 0));
    assert_eq!(recipe.folder(), Path::new(""));
    assert_eq!(recipe.plugins, Plugins::default());
    let StageKind::Method(stage) = &recipe.stages[0].kind else { panic!() };
    assert_eq!((stage.scheme, stage.pattern, stage.residual), (Scheme::ClassBlind, Pattern::Free, false));
    assert_eq!(stage.classes, ["*"]);
    assert_eq!(
        recipe.output().unwrap_err().to_string(),
        "p.toml: \"output\" is missing: the path of the model to write"
    );

    let recipe = parse("model = [\"a.onnx\", \"b.onnx\"]").unwrap();
    assert_eq!(recipe.model, ModelPaths::Many(vec!["runs/a.onnx".into(), "runs/b.onnx".into()]));
}

#[test]
fn patterns() {
    for (written, expected) in [
        ("free", Pattern::Free),
        ("row", Pattern::Row),
        ("column", Pattern::Column),
        ("2:4", Pattern::NofM { n: 2, m: 4 }),
        ("1:16", Pattern::NofM { n: 1, m: 16 }),
        ("4x1", Pattern::Block { rows: 4, cols: 1 }),
        ("1x1", Pattern::Block { rows: 1, cols: 1 }),
    ] {
        let text = format!("model = \"m\"\n[[stage]]\nmethod = \"a\"\npattern = \"{written}\"\n");
        let recipe = parse(&text).unwrap();
        let StageKind::Method(stage) = &recipe.stages[0].kind else { panic!() };
        assert_eq!(stage.pattern, expected);
    }
    let with_amount = "model = \"m\"\n[[stage]]\nmethod = \"a\"\npattern = \"1:4\"\namount = \"75%\"\n";
    assert!(parse(with_amount).is_ok(), "an amount that says the same is no contradiction");
}

#[test]
fn the_portable_text_is_the_same_recipe_without_folders() {
    let text = EVERYTHING
        .replace("\"nmt.onnx\"", "\"/home/anna/nmt.onnx\" # anna's")
        .replace("\"train.py\"", "\"../anna/train.py\"")
        .replace("\"big.onnx\"", "\"/home/anna/big.onnx\"");
    let portable = parse(&text).unwrap().portable_text().unwrap();
    assert!(!portable.contains("anna") && !portable.contains('#') && !portable.contains("/abs"), "{portable}");
    assert!(portable.contains("model = \"nmt.onnx\"\n"), "{portable}");
    assert!(portable.contains("\"big.onnx\""), "{portable}");
    let again = parse(&portable).unwrap();
    assert_eq!(again.portable_text().unwrap(), portable);
    let mut expected = parse(EVERYTHING).unwrap();
    let strip = |recipe: &mut Recipe| {
        recipe.text = String::new();
        recipe.plugins.libraries.clear();
        recipe.stages.iter_mut().for_each(|s| s.line = 0);
        if let Some(data) = &mut recipe.data {
            data.test = None;
        }
    };
    let mut again = again;
    strip(&mut again);
    strip(&mut expected);
    assert_eq!(format!("{again:?}"), format!("{expected:?}"));
}

#[test]
fn hostile_text_ends_in_a_sentence() {
    for text in [
        "a.".repeat(100_000),
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{b=".repeat(100_000)),
        "[[stage]]\n".repeat(1000),
        "\u{0}".into(),
        "model = \"".into(),
        "=".into(),
        "[stage.stage]".into(),
        "seed = 99999999999999999999999999999999999999999999999".into(),
        "seed = 1e999".into(),
    ] {
        let error = parse(&text).unwrap_err();
        assert_eq!(error.status(), 2);
        assert!(!error.to_string().contains('\n'));
    }
}

mod errors;
