//! Encode stages and sizes through the binary: what was packed means what was meant, in both formats.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use compress_core::encode::ValueCoding;
use compress_core::encode::terms::pack;
use compress_core::format::{Content, CreateOptions, Format, OpenOptions};
use compress_core::tensor::Dtype;
use compress_safetensors::Safetensors;
use compress_sdk::{Bitmap, Encoding, Layout, Term};
use proptest::prelude::*;
use serde_json::Value;

use common::{Folder, Seeded, onnx, st};

mod common;

const FORMATS: [&str; 2] = ["safetensors", "onnx"];
const CLASSES: &str = "[classes]\nc0 = [\"m0*\"]\nc1 = [\"m1*\"]\n";
const PRUNE: &str = "[[stage]]\nmethod = \"magnitude\"\namount = \"70%\"\n";

/// Name, type, shape, values.
type Weights = Vec<(String, &'static str, Vec<u64>, Vec<f64>)>;

fn some_weights(seed: u64, sizes: &[(u64, u64)]) -> Weights {
    let mut random = Seeded(seed);
    let one = |(i, (rows, cols)): (usize, &(u64, u64))| {
        // Rows of very different scale, as trained embeddings have.
        let values = (0..rows * cols).map(|k| random.float() * (1.0 + (k / cols % 7) as f64)).collect::<Vec<_>>();
        let values = st::decode("F32", &st::encode("F32", &values));
        (format!("m{i}.weight"), "F32", vec![*rows, *cols], values)
    };
    sizes.iter().enumerate().map(one).collect()
}

fn model(format: &str, weights: &Weights) -> Vec<u8> {
    if format == "safetensors" {
        let tensors: Vec<_> = weights.iter().map(|(n, d, s, v)| st::tensor(n, d, s, v)).collect();
        return st::file(&tensors, &[]);
    }
    // y_i = x_i · W_i, each weight with an input of its own.
    let (mut graph, n) = (onnx::Graph::default(), weights.len());
    for (name, _, shape, values) in weights {
        let (x, y) = (format!("x.{name}"), format!("y.{name}"));
        graph.nodes.push(onnx::node("MatMul", &[&x, name], &[&y]));
        graph.tensors.push(onnx::raw(name, shape, values));
        graph.inputs.push(onnx::value(&x, 1, &[0, shape[0] as i64]));
        graph.outputs.push(onnx::value(&y, 1, &[0, shape[1] as i64]));
    }
    assert_eq!(graph.nodes.len(), n);
    graph.model()
}

/// Name → values of a plain model, read without our readers.
fn values(format: &str, bytes: &[u8]) -> BTreeMap<String, Vec<f64>> {
    if format == "safetensors" {
        return st::read(bytes).into_iter().map(|(name, (dtype, _, b))| (name, st::decode(&dtype, &b))).collect();
    }
    let name = |t: &[u8]| String::from_utf8(onnx::get(t, 8).remove(0)).unwrap();
    let floats = onnx::initialisers(bytes).into_iter().filter(|t| !onnx::get(t, 9).is_empty());
    floats.map(|t| (name(&t), st::decode("F32", &onnx::get(&t, 9)[0]))).collect()
}

/// Runs stages over a model file of the folder; the report.
fn run(folder: &Folder, format: &str, from: &str, to: &str, stages: &str, args: &[&str]) -> Value {
    let text = format!("model = \"{from}.{format}\"\noutput = \"{to}.{format}\"\nmask = \"m\"\n{stages}");
    folder.recipe(&text, &[&["--report", "r.json", "--force", "--quiet"], args].concat()).ok();
    let report = folder.json("r.json");
    let bytes = folder.read(&format!("{to}.{format}")).len() as u64;
    assert_eq!(report["output"]["bytes"], bytes);
    assert_eq!(report["output"]["predicted_bytes"], bytes, "{stages}");
    report
}

fn encode(layout: &str, values: &str) -> String {
    let values = if values.is_empty() { String::new() } else { format!("values = \"{values}\"\n") };
    format!("[[stage]]\nencode = \"{layout}\"\n{values}")
}

const VALUES: [&str; 12] = [
    "",
    "f32",
    "f16",
    "bf16",
    "int8",
    "codebook:1",
    "codebook:2",
    "codebook:3",
    "codebook:4",
    "codebook:5",
    "codebook:6",
    "codebook:8",
];

/// The greatest error that a coding may make of a value, among values up to `most` in its row.
fn tolerance(coding: &str, value: f64, most: f64) -> f64 {
    match coding {
        "" | "f32" => 0.0,
        "f16" => value.abs() / 2048.0 + 1e-7,
        "bf16" => value.abs() / 256.0,
        "int8" => most / 127.0 * 1.0001,
        // Of one bit, two values for the weights of both signs, or one beside zero.
        _ => 2.0 * most,
    }
}

#[test]
fn every_layout_and_coding_means_what_was_meant() {
    let weights = some_weights(1, &[(96, 80), (64, 70), (9, 11)]);
    for format in FORMATS {
        let folder = Folder::new();
        folder.write(&format!("in.{format}"), model(format, &weights));
        run(&folder, format, "in", "pruned", PRUNE, &[]);
        let pruned = values(format, &folder.read(&format!("pruned.{format}")));
        let masks = st::masks(&folder.read("m"));
        for layout in ["dense", "sparse", "auto"] {
            for coding in VALUES {
                let what = format!("{format} {layout} {coding}");
                let report = run(&folder, format, "in", "out", &format!("{PRUNE}{}", encode(layout, coding)), &[]);
                assert_eq!(st::masks(&folder.read("m")), masks, "{what}");
                let plain = layout == "dense" && ["", "f32"].contains(&coding);
                let bytes = report["output"]["bytes"].as_u64().unwrap();
                assert!(bytes <= folder.read(&format!("pruned.{format}")).len() as u64, "{what}");
                assert_eq!(report["stages"][1]["tensors"].is_null(), plain, "{what}");
                let errors = &report["stages"][1]["classes"][0]["relative_error"];
                assert_eq!(errors.is_null(), ["", "f32"].contains(&coding), "{what}: {errors}");
                run(&folder, format, "out", "back", &encode("dense", ""), &[]);
                let back = values(format, &folder.read(&format!("back.{format}")));
                for (name, meant) in &pruned {
                    let most = meant.iter().fold(0f64, |m, v| m.max(v.abs()));
                    let mut distinct: Vec<u64> = Vec::new();
                    for (i, (was, is)) in meant.iter().zip(&back[name]).enumerate() {
                        assert_eq!(*was == 0.0, *is == 0.0, "{what} {name} {i}: {was} became {is}");
                        assert!((was - is).abs() <= tolerance(coding, *was, most), "{what} {name} {i}: {was} {is}");
                        distinct.push(is.to_bits());
                    }
                    distinct.sort_unstable();
                    distinct.dedup();
                    if let Some(bits) = coding.strip_prefix("codebook:").filter(|_| name != "m2.weight") {
                        // The kept values, and zero where it is not among them.
                        assert!(distinct.len() <= (1 << bits.parse::<u32>().unwrap()) + 1, "{what} {}", distinct.len());
                    }
                }
                // Again, the same: nothing more is lost, and nothing is packed twice.
                if layout != "dense" {
                    let report = run(&folder, format, "out", "again", &encode(layout, coding), &[]);
                    run(&folder, format, "again", "back", &encode("dense", ""), &[]);
                    assert_eq!(values(format, &folder.read(&format!("back.{format}"))), back, "{what}");
                    assert!(report["stages"][0]["classes"][0]["relative_error"].is_null(), "{what}");
                }
            }
        }
    }
}

#[test]
fn codings_are_chained_in_written_order() {
    let weights = some_weights(2, &[(64, 64), (48, 64)]);
    for format in FORMATS {
        let folder = Folder::new();
        folder.write(&format!("in.{format}"), model(format, &weights));
        let classes = |i: usize| format!("classes = [\"c{i}\"]\n");
        let stages = format!(
            "{CLASSES}{PRUNE}{}{}{}{}",
            encode("sparse", "int8"),
            classes(0),
            encode("auto", "codebook:4"),
            classes(1)
        );
        let report = run(&folder, format, "in", "out", &stages, &[]);
        let packed = |stage: usize| report["stages"][stage]["tensors"][0]["packed"].as_str().unwrap().to_string();
        assert!(packed(1).ends_with("int8") && packed(2).ends_with("codebook:4"), "{report}");
        let reasons = report["stages"][1]["untouched"].to_string();
        assert!(reasons.contains("is not among the stage's classes"), "{reasons}");
        let before = folder.read(&format!("out.{format}")).len();
        // One is packed anew, the other stays as it is; pruning goes on over packed weights.
        let report = run(
            &folder,
            format,
            "out",
            "next",
            &format!("{CLASSES}{}{}", encode("auto", "codebook:2"), classes(0)),
            &[],
        );
        assert_eq!(report["stages"][0]["tensors"].as_array().unwrap().len(), 1);
        assert!(folder.read(&format!("next.{format}")).len() < before);
        let more = "[[stage]]\nmethod = \"magnitude\"\namount = \"90%\"\n";
        let report = run(&folder, format, "out", "more", more, &[]);
        assert!(folder.read(&format!("more.{format}")).len() < before);
        assert_eq!(
            report["classes"].as_array().unwrap().iter().map(|c| c["pruned"].as_u64().unwrap()).sum::<u64>(),
            6451
        );
        let report =
            run(&folder, format, "more", "last", &format!("{CLASSES}{}{}", encode("dense", ""), classes(0)), &[]);
        assert_eq!(report["stages"][0]["tensors"][0]["packed"], "dense");
    }
}

#[test]
fn other_types_and_hostile_values() {
    let mut random = Seeded(3);
    for dtype in ["F64", "F16", "BF16", "F32"] {
        let mut list: Vec<f64> = (0..4096).map(|_| random.float() * 1e-3).collect();
        list[5] = 1e-7; // below every step of its row
        list = st::decode(dtype, &st::encode(dtype, &list));
        let weights = vec![("m0.weight".to_string(), dtype, vec![64, 64], list)];
        let folder = Folder::new();
        folder.write("in.safetensors", model("safetensors", &weights));
        run(&folder, "safetensors", "in", "pruned", PRUNE, &[]);
        let pruned = values("safetensors", &folder.read("pruned.safetensors"));
        for coding in ["", "f16", "bf16", "int8", "codebook:3"] {
            run(&folder, "safetensors", "in", "out", &format!("{PRUNE}{}", encode("auto", coding)), &[]);
            run(&folder, "safetensors", "out", "back", &encode("dense", ""), &[]);
            let back = values("safetensors", &folder.read("back.safetensors"));
            for (was, is) in pruned["m0.weight"].iter().zip(&back["m0.weight"]) {
                assert_eq!(*was == 0.0, *is == 0.0, "{dtype} {coding}: {was} became {is}");
                assert!((was - is).abs() <= tolerance(coding, *was, 1e-3) + 1e-8, "{dtype} {coding}: {was} {is}");
            }
        }
    }
    // NaN and −0.0 are kept by what is exact and named by what is not.
    let folder = Folder::new();
    let mut list = vec![0.0; 1024];
    (list[3], list[900], list[7]) = (f64::NAN, -0.0, 2.5);
    let weights = vec![("m0.weight".to_string(), "F32", vec![32, 32], list)];
    folder.write("in.safetensors", model("safetensors", &weights));
    run(&folder, "safetensors", "in", "out", &encode("sparse", ""), &[]);
    run(&folder, "safetensors", "out", "back", &encode("dense", ""), &[]);
    let bytes = |name: &str| st::read(&folder.read(name))["m0.weight"].2.clone();
    assert_eq!(bytes("in.safetensors"), bytes("back.safetensors"));
    let text = format!("model = \"in.safetensors\"\noutput = \"x.safetensors\"\n{}", encode("auto", "int8"));
    folder.recipe(&text, &[]).refused(1, &["stage 1 (encode)", "m0.weight", "index 3", "NaN", "f16"]);
}

#[test]
fn threads_change_no_byte() {
    let weights = some_weights(4, &[(300, 1100), (70, 64)]);
    for format in FORMATS {
        let folder = Folder::new();
        folder.write(&format!("in.{format}"), model(format, &weights));
        for coding in ["int8", "codebook:4", "f16"] {
            for stage in [PRUNE, "[[stage]]\nmethod = \"magnitude\"\namount = \"12x\"\n"] {
                let outputs = ["1", "8"].map(|threads| {
                    let stages = format!("{stage}{}", encode("auto", coding));
                    run(&folder, format, "in", "out", &stages, &["--threads", threads]);
                    folder.read(&format!("out.{format}"))
                });
                assert!(outputs[0] == outputs[1], "{format} {coding}");
            }
        }
    }
}

/// A model whose first tensor is factors and a sparse residual, as methods leave them.
fn write_a_sum(folder: &Folder) {
    let source = Safetensors.open(&folder.path("in.safetensors"), &OpenOptions::default()).unwrap();
    let mut random = Seeded(9);
    let mut floats = |n: usize| -> Vec<f32> { (0..n).map(|_| random.float() as f32).collect() };
    let mut kept = Bitmap::new(80 * 96, false);
    (0..80 * 96).step_by(11).for_each(|i| kept.set(i, true));
    let terms = vec![
        Term { layout: Layout::Factored { rank: 4 }, values: floats(4 * (80 + 96)) },
        Term { values: floats(kept.count_ones() as usize), layout: Layout::Sparse(kept) },
        Term { layout: Layout::Hashed { seed: 3 }, values: floats(40) },
    ];
    let encoding = Encoding { rows: 80, cols: 96, terms };
    let packed = pack(&encoding, &Dtype::F32, &[80, 96], ValueCoding::Plain).unwrap();
    let options = CreateOptions { outlines: BTreeMap::from([(0, packed.outline())]), ..CreateOptions::default() };
    let mut sink = source.create(&folder.path("sum.safetensors"), &options).unwrap();
    sink.put(0, Content::Packed(&packed)).unwrap();
    sink.finish().unwrap().commit().unwrap();
}

#[test]
fn a_sum_of_terms_is_coded_anew_term_by_term() {
    let folder = Folder::new();
    folder.write("in.safetensors", model("safetensors", &some_weights(8, &[(80, 96), (20, 30)])));
    write_a_sum(&folder);
    run(&folder, "safetensors", "sum", "plain", &encode("dense", ""), &[]);
    let meant = values("safetensors", &folder.read("plain.safetensors"));
    let exact = run(&folder, "safetensors", "sum", "same", &encode("auto", ""), &[]);
    assert!(exact["stages"][0]["untouched"].to_string().contains("factored × plain"), "{exact}");
    for (coding, bound) in [("int8", 0.05), ("f16", 0.01), ("codebook:6", 0.4)] {
        let report = run(&folder, "safetensors", "sum", "out", &encode("auto", coding), &[]);
        let packed = report["stages"][0]["tensors"][0]["packed"].as_str().unwrap();
        assert!(packed.starts_with(&format!("factored × {coding} + ")), "{packed}");
        assert!(packed.ends_with(&format!(" + hashed × {coding}")), "{packed}");
        assert!(folder.read("out.safetensors").len() < folder.read("sum.safetensors").len());
        run(&folder, "safetensors", "out", "back", &encode("dense", ""), &[]);
        let back = values("safetensors", &folder.read("back.safetensors"));
        let most = meant["m0.weight"].iter().zip(&back["m0.weight"]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(most > 0.0 && most < bound, "{coding}: {most}");
        let told = report["stages"][0]["classes"][0]["max_error"].as_f64().unwrap();
        assert!((told - most).abs() < 1e-6, "{told} {most}");
    }
}

/// What follows a stage with a size.
fn after() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just(encode("auto", "")),
        Just(encode("sparse", "int8")),
        Just(encode("auto", "codebook:4")),
        Just(encode("auto", "f16")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The largest file below the target: with one weight more it would be above.
    #[test]
    fn sizes_are_met_to_the_weight(
        sizes in prop::collection::vec((8u64..90, 8u64..90), 1..4),
        scheme in prop::sample::select(vec!["class-blind", "class-uniform", "class-distribution"]),
        after in after(),
        seed: u64,
        share in 0.06f64..0.9,
        format in prop::sample::select(FORMATS.to_vec()),
    ) {
        let folder = Folder::new();
        folder.write(&format!("in.{format}"), model(format, &some_weights(seed, &sizes)));
        let whole = folder.read(&format!("in.{format}")).len() as f64;
        let target = (whole * share) as u64;
        let stage = |amount: &str| {
            format!("[[stage]]\nmethod = \"magnitude\"\nscheme = \"{scheme}\"\namount = {amount}\n{after}")
        };
        let text = format!(
            "model = \"in.{format}\"\noutput = \"out.{format}\"\n{}", stage(&format!("\"{target}B\""))
        );
        let ran = folder.recipe(&text, &["--report", "r.json", "--quiet"]);
        if ran.code == Some(1) {
            // What can be reached is above the target.
            prop_assert!(ran.err.contains("cannot be reached"), "{}", ran.err);
            let reached = ran.err.split("the output has ").nth(1).and_then(|t| t.split(' ').next()?.parse::<u64>().ok());
            prop_assert!(reached.is_none_or(|r| r > target), "{}", ran.err);
            return Ok(());
        }
        ran.ok();
        let report = folder.json("r.json");
        let bytes = report["output"]["bytes"].as_u64().unwrap();
        prop_assert_eq!(&report["output"]["predicted_bytes"], bytes);
        prop_assert!(bytes <= target, "{} of {}", bytes, target);
        let pruned = report["stages"][0]["achieved"]["pruned"].as_u64().unwrap();
        let tail = if after.is_empty() { encode("auto", "") } else { String::new() };
        if pruned > 0 {
            let more = run(&folder, format, "in", "more", &format!("{}{tail}", stage(&(pruned - 1).to_string())), &[]);
            prop_assert!(more["output"]["bytes"].as_u64().unwrap() > target, "{bytes} of {target}, {more}");
        } else {
            prop_assert!(ran_warned(&report), "{}", report);
        }
    }
}

fn ran_warned(report: &Value) -> bool {
    report["stages"][0]["warnings"].to_string().contains("nothing is pruned for the target")
}

#[test]
fn patterns_meet_a_size_by_whole_groups() {
    let folder = Folder::new();
    folder.write("in.safetensors", model("safetensors", &some_weights(5, &[(60, 100), (60, 100)])));
    for pattern in ["row", "column", "4x1"] {
        let stage =
            |amount: &str| format!("[[stage]]\nmethod = \"magnitude\"\npattern = \"{pattern}\"\namount = {amount}\n");
        let report = run(&folder, "safetensors", "in", "out", &stage("\"5x\""), &[]);
        let target = report["model"]["bytes"].as_u64().unwrap() / 5;
        let (bytes, pruned) =
            (report["output"]["bytes"].as_u64().unwrap(), report["stages"][0]["achieved"]["pruned"].as_u64().unwrap());
        let group = match pattern {
            "row" => 100,
            "column" => 60,
            _ => 4,
        };
        assert_eq!(pruned % group, 0);
        assert!(bytes <= target);
        let stages = format!("{}{}", stage(&(pruned - group).to_string()), encode("auto", ""));
        let more = run(&folder, "safetensors", "in", "more", &stages, &[]);
        assert!(more["output"]["bytes"].as_u64().unwrap() > target, "{pattern}");
    }
}

#[test]
fn a_dry_run_predicts_to_the_byte() {
    let weights = some_weights(6, &[(80, 120), (33, 65)]);
    for format in FORMATS {
        let folder = Folder::new();
        folder.write(&format!("in.{format}"), model(format, &weights));
        run(&folder, format, "in", "pruned", PRUNE, &[]);
        for (input, stages) in [
            ("in", format!("{PRUNE}{}", encode("auto", ""))),
            ("in", format!("{PRUNE}{}", encode("auto", "int8"))),
            ("in", "[[stage]]\nmethod = \"magnitude\"\namount = \"6x\"\n".to_string()),
            ("in", PRUNE.to_string()),
            ("pruned", encode("auto", "codebook:4")),
        ] {
            let text = format!("model = \"{input}.{format}\"\noutput = \"out.{format}\"\nmask = \"m\"\n{stages}");
            let dry = folder.recipe(&text, &["--dry-run", "--force"]).ok().out;
            let report = run(&folder, format, input, "out", &stages, &[]);
            // The table of a dry run ends with the prediction; a row has the class, its weights, those that are pruned.
            let table = dry.rsplit_once("\nclass ").unwrap().1;
            let bytes = &report["output"]["bytes"];
            let last = format!(": {bytes} bytes predicted");
            assert!(table.contains(&last), "{stages}{dry}");
            for class in report["classes"].as_array().unwrap() {
                let [name, weights, pruned] =
                    ["name", "weights", "pruned"].map(|k| class[k].to_string().replace('"', ""));
                let row = table.lines().find(|l| l.starts_with(&name)).unwrap_or_else(|| panic!("{name}: {dry}"));
                let found: Vec<&str> = row.split_whitespace().skip(1).take(2).collect();
                assert_eq!(found, [weights, pruned], "{stages}{dry}");
            }
        }
    }
}

#[test]
fn what_cannot_be_is_refused_in_a_sentence() {
    let folder = Folder::new();
    folder.write("in.safetensors", model("safetensors", &some_weights(7, &[(30, 40), (20, 40)])));
    let f64s = vec![("d.weight".to_string(), "F64", vec![8, 8], vec![0.5; 64])];
    folder.write("wide.safetensors", model("safetensors", &f64s));
    let prune = |rest: &str| format!("[[stage]]\nmethod = \"magnitude\"\n{rest}");
    let cases: [(&str, String, i32, &[&str]); 7] = [
        ("in", encode("sparse", "") + "classes = [\"m7\"]\n", 2, &["stage 1 (encode)", "m7", "did you mean"]),
        ("in", prune("amount = { \"m0\" = \"2kB\", \"*\" = \"50%\" }\n"), 2, &["\"m0\"", "size", "by class only"]),
        ("in", prune("amount = \"2x\"\npattern = \"2:4\"\n"), 2, &["stage 1", "2:4", "leave \"amount\" out"]),
        ("in", prune("amount = \"100B\"\n"), 1, &["100B", "cannot be reached", "bytes", "lose all"]),
        ("in", prune("amount = \"100B\"\nallow_empty = [\"*\"]\n"), 1, &["cannot be reached", "2000 of 2000", "least"]),
        ("wide", encode("sparse", "f32"), 2, &["d.weight", "F64", "f16"]),
        ("in", prune("amount = \"2x\"\n") + &prune("amount = \"9%\"\n"), 2, &["aims at a size"]),
    ];
    for (model, stages, code, words) in cases {
        let text = format!("model = \"{model}.safetensors\"\noutput = \"out.safetensors\"\n{stages}");
        folder.recipe(&text, &["--quiet"]).refused(code, words);
        assert!(!folder.path("out.safetensors").exists());
    }
}
