use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn report() -> Report {
    let text = "model = \"m.onnx\"\n[[stage]]\nmethod = \"magnitude\"\namount = { a = 0.5, \"*\" = \"80%\" }\n\
                [[stage]]\nencode = \"sparse\"\n";
    let recipe = Recipe::parse(text, Path::new("p.toml")).unwrap();
    let untouched = |tensor: &str, reason: &str| Untouched { tensor: tensor.into(), reason: reason.into() };
    Report {
        model: ModelReport {
            path: "m.onnx".into(),
            format: "onnx".into(),
            files: vec!["m.onnx".into()],
            sha256: None,
            bytes: 1000,
            weights: 110,
            elements: 120,
        },
        output: Some(OutputReport {
            path: "o.onnx".into(),
            format: "onnx".into(),
            bytes: Some(250),
            predicted_bytes: Some(250),
            factored: vec![FactoredTensor::new("u", true), FactoredTensor::new("v", false)],
            ..OutputReport::default()
        }),
        classes: vec![
            ClassReport { name: "a".into(), weights: 10, pruned: 5, tensors: vec!["w".into()], ..Default::default() },
            ClassReport { name: "long.name".into(), weights: 100, pruned: 80, ..Default::default() },
        ],
        stages: vec![
            StageReport {
                kind: "method".into(),
                name: "magnitude".into(),
                asked: asked(&recipe.stages[0]),
                achieved: Some(Achieved::new(85, 80, 110)),
                classes: vec![StageClass {
                    name: "a".into(),
                    weights: 10,
                    pruned: 5,
                    newly: Some(5),
                    ..StageClass::default()
                }],
                untouched: vec![untouched("b1", "bias"), untouched("i", "I64"), untouched("b2", "bias")],
                ..StageReport::default()
            },
            StageReport {
                kind: "evaluate".into(),
                name: "loss".into(),
                metrics: Some(Metrics {
                    validation: vec![("perplexity".into(), 1.5), ("bleu".into(), f64::NAN)],
                    test: vec![("bleu".into(), f64::INFINITY), ("accuracy".into(), 0.25)],
                }),
                seconds: Some(1.25),
                ..StageReport::default()
            },
        ],
        warnings: vec!["be careful".into()],
        compress: CompressReport::new(&recipe),
        written_at: "2026-01-31T12:00:00Z".into(),
        ..Report::default()
    }
}

#[test]
fn json_has_the_keys_of_the_interface_and_no_others_where_nothing_applies() {
    let text = report().to_json();
    assert!(text.ends_with("}\n"));
    let value: Value = serde_json::from_str(&text).unwrap();
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&value), ["model", "output", "classes", "stages", "warnings", "compress", "written_at"]);
    assert_eq!(keys(&value["model"]), ["path", "format", "files", "bytes", "weights", "elements"]);
    assert_eq!(keys(&value["output"]), ["path", "format", "bytes", "predicted_bytes", "factored"]);
    assert_eq!(value["output"]["factored"][1], json!({ "tensor": "v", "runs": "smaller only" }));
    assert_eq!(value["classes"][0], json!({"name": "a", "weights": 10, "pruned": 5, "tensors": ["w"]}));
    let stage = &value["stages"][0];
    assert_eq!(keys(stage), ["kind", "name", "asked", "achieved", "classes", "untouched"]);
    assert_eq!(
        stage["asked"],
        json!({"scheme": "class-blind", "amount": {"a": 0.5, "*": "80%"}, "pattern": "free", "classes": ["*"]})
    );
    assert_eq!(stage["achieved"], json!({"pruned": 85, "newly": 80, "prunable": 110, "fraction": 85.0 / 110.0}));
    assert_eq!(stage["untouched"][0], json!({"tensor": "b1", "reason": "bias"}));
    assert_eq!(
        value["stages"][1]["metrics"],
        json!({"perplexity": 1.5, "bleu": null, "test": {"bleu": null, "accuracy": 0.25}})
    );
    assert_eq!(keys(&value["stages"][1]["metrics"]), ["perplexity", "bleu", "test"], "in the order of computation");
    assert_eq!(keys(&value["compress"]), ["version", "recipe", "recipe_sha256", "cpu"]);
    assert_eq!(value["compress"]["recipe_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(report().to_json(), text);
}

#[test]
fn asked_repeats_every_key() {
    let retrain = "{ epochs = 1, rate = 1e-3, decay = \"linear\", warmup = 5, batch = 2, clip = 1.0, dropout = 0.25, \
                   patience = 2, distil = 0.5 }";
    let text = format!(
        "model = \"m\"\n[data]\ntrain = \"t\"\ntarget = \"y\"\nvalidation = \"v\"\n\
         [[stage]]\nmethod = \"a\"\namount = 3\noptions = {{ d = 1979-05-27, x = [1, 2.5, \"a\", true] }}\n\
         allow_empty = [\"b\"]\nresidual = true\nseed = 4\nschedule = {{ steps = 2 }}\nretrain = {retrain}\n\
         [[stage]]\nmeasure = [\"gram\"]\n[[stage]]\nretrain = {{ command = [\"x\"] }}\n\
         [[stage]]\nreinitialise = {{ normal = 0.5 }}\n[[stage]]\nevaluate = [\"loss\"]\n\
         [[stage]]\nevaluate = {{ command = [\"y\"] }}\n[[stage]]\nencode = \"auto\"\nvalues = \"codebook:2\"\n"
    );
    let recipe = Recipe::parse(&text, Path::new("p.toml")).unwrap();
    let all: Vec<Value> = recipe.stages.iter().map(|s| Value::Object(asked(s))).collect();
    assert_eq!(
        all,
        [
            json!({
                "scheme": "class-blind", "amount": 3, "pattern": "free", "classes": ["*"],
                "options": {"d": "1979-05-27", "x": [1, 2.5, "a", true]}, "allow_empty": ["b"],
                "schedule": {"steps": 2, "shape": "cubic", "recover": 0},
                "retrain": {"epochs": 1, "rate": 1e-3, "decay": "linear", "warmup": 5, "optimizer": "adam",
                            "batch": 2, "clip": 1.0, "dropout": 0.25, "patience": 2,
                            "distil": {"weight": 0.5, "temperature": 1.0}},
                "residual": true, "seed": 4
            }),
            json!({"measure": ["gram"], "examples": 1024, "batch": 1}),
            json!({"command": ["x"], "on_violation": "error"}),
            json!({"normal": 0.5}),
            json!({"metrics": ["loss"]}),
            json!({"command": ["y"]}),
            json!({"encode": "auto", "values": "codebook:2", "classes": ["*"]}),
        ]
    );
}

#[test]
fn the_text_is_aligned_and_complete() {
    let expected = "\
m.onnx (onnx): 1000 bytes, 110 prunable weights of 120 elements
stage 1 method magnitude, class-blind a 0.5, * 80%: pruned 85 of 110 weights (77.27 %), 80 newly
  left alone (bias): b1, b2
  left alone (I64): i
stage 2 evaluate loss: perplexity 1.5000, bleu not finite; test: bleu not finite, accuracy 0.2500; 1.2 s

class      weights  pruned    share
a               10       5  50.00 %
long.name      100      80  80.00 %
total          110      85  77.27 %

o.onnx (onnx): 250 bytes, 25.00 % of the input (4.00× smaller)
multiplied with as factors, which is faster: u
put together at load: smaller, no faster: v
warning: be careful
";
    assert_eq!(render(&report()), expected);
}

#[test]
fn an_inspected_model() {
    let inspect = Inspect {
        path: "m".into(),
        format: "onnx".into(),
        bytes: 9,
        classes: vec![InspectClass {
            name: "a".into(),
            weights: 4,
            zeros: 1,
            tensors: vec!["w".into()],
            parts: vec![InspectPart { name: "a/forget".into(), weights: 4, zeros: 1 }],
        }],
        tensors: vec![
            InspectTensor {
                name: "w".into(),
                shape: vec![2, 2],
                dtype: "F32".into(),
                class: Some("a".into()),
                zeros: Some(1),
                ..Default::default()
            },
            InspectTensor {
                name: "ids".into(),
                shape: vec![],
                dtype: "I64".into(),
                reason: Some("I64".into()),
                ..Default::default()
            },
        ],
        ..Inspect::default()
    };
    let value: Value = serde_json::from_str(&inspect.to_json()).unwrap();
    assert_eq!(
        value["tensors"][1],
        json!({"name": "ids", "shape": [], "dtype": "I64", "class": null, "reason": "I64"})
    );
    assert_eq!(value["classes"][0]["zeros"], 1);
    let expected = "\
m (onnx): 9 bytes

class       weights  zeros    share
a                 4      1  25.00 %
  a/forget        4      1  25.00 %

tensor  shape   dtype  class    zeros
w       [2, 2]  F32    a            1
ids     []      I64    - (I64)
";
    assert_eq!(render_inspect(&inspect), expected);
}

#[test]
fn dates_and_hashes() {
    for (seconds, expected) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (1_767_225_599, "2025-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(machine::utc(seconds), expected);
    }
    assert!(now().starts_with("20"));
    let file = |name: &str, hash: &str| (name.to_string(), hash.to_string());
    assert_eq!(sha256_of_files(&[]), None);
    assert_eq!(sha256_of_files(&[file("a", "00")]).as_deref(), Some("00"));
    let expected = hex(&Sha256::digest(b"11  a\n00  b\n"));
    assert_eq!(sha256_of_files(&[file("b", "00"), file("a", "11")]), Some(expected));
}
