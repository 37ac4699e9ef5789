//! Classes of models as exporters make them, built by hand in a small size.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use compress_core::class::Role;
use compress_core::format::Source;

use crate::OnnxSource;
use crate::testing::*;
use crate::wire::Message;

/// Weights by class.
fn classes(path: &Path) -> BTreeMap<String, u64> {
    let source = OnnxSource::open(path, &Default::default()).unwrap();
    let mut out = BTreeMap::new();
    for role in &source.roles().unwrap().tensors {
        if let Role::Weight(parts) = role {
            parts.iter().for_each(|p| *out.entry(p.class.clone()).or_default() += p.weights());
        }
    }
    out
}

fn nmt(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/nmt").join(file);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn the_translation_model_has_the_classes_of_its_readme() {
    let Some(path) = nmt("model.onnx") else { return };
    let expected = [
        ("attention", 196_608),
        ("softmax", 2_011_904),
        ("source.embedding", 1_515_776),
        ("source.layer1", 524_288),
        ("source.layer2", 524_288),
        ("target.embedding", 2_011_904),
        ("target.layer1", 524_288),
        ("target.layer2", 524_288),
    ];
    assert_eq!(classes(&path), expected.map(|(n, c)| (n.to_string(), c)).into());
}

#[test]
#[ignore = "prints the roles of the files in $ONNX_FILES"]
fn show() {
    for file in std::env::var("ONNX_FILES").unwrap().split(' ') {
        println!("== {file}");
        let source = OnnxSource::open(Path::new(file), &Default::default()).unwrap();
        for (info, role) in source.tensors().iter().zip(&source.roles().unwrap().tensors) {
            let names = |parts: &[compress_core::class::PartSpec]| {
                let show = |p: &compress_core::class::PartSpec| {
                    format!("{}[{}x{} {:?} {:?}]", p.name(), p.rows, p.cols, p.order, p.kind)
                };
                parts.iter().map(show).collect::<Vec<_>>().join(" ")
            };
            let text = match role {
                Role::Weight(parts) => names(parts),
                Role::OneDimensional(parts, why) => format!("-{why} {}", names(parts)),
                Role::Never(why) => format!("--{why}"),
            };
            if !text.starts_with("--I64") && !text.starts_with("--scalar") {
                println!("{} {:?}: {text}", info.name, info.shape);
            }
        }
    }
}

/// The role of each tensor in words: `class/below` of its parts, `-reason class` for vectors, `--reason`.
fn roles(bytes: &[u8]) -> BTreeMap<String, String> {
    let (_dir, source) = open(bytes).unwrap();
    let mut out = BTreeMap::new();
    for (info, role) in source.tensors().iter().zip(&source.roles().unwrap().tensors) {
        let text = match role {
            Role::Weight(parts) => {
                let mut end = 0; // parts tile the tensor
                for part in parts {
                    assert_eq!(part.offset, end, "{} {parts:?}", info.name);
                    end += part.weights();
                }
                assert_eq!(end, info.elements, "{}", info.name);
                let layout = if parts[0].order == compress_core::class::Order::ColumnMajor { "ᵀ" } else { "" };
                parts.iter().map(|p| p.name()).collect::<Vec<_>>().join(" ") + layout
            }
            Role::OneDimensional(parts, why) => format!("-{why} {}", parts[0].name()),
            Role::Never(why) => format!("--{why}"),
        };
        out.insert(info.name.clone(), text);
    }
    out
}

/// Checks the roles of some tensors.
fn expect(what: &str, bytes: &[u8], expected: &[(&str, &str)]) {
    let roles = roles(bytes);
    for (name, role) in expected {
        assert_eq!(roles.get(*name).map(String::as_str), Some(*role), "{what}: {name} in {roles:#?}");
    }
}

fn simple(nodes: Vec<Message>, tensors: Vec<Message>, inputs: Vec<Message>, output: &str) -> Vec<u8> {
    model(graph(nodes, tensors, inputs, vec![value(output, 1, &[])]))
}

fn ids(name: &str) -> Message {
    value(name, 7, &[0, 0])
}

fn floats(name: &str) -> Message {
    value(name, 1, &[0, 0, 0])
}

/// An LSTM with its hidden size.
fn lstm(inputs: &[&str], outputs: &[&str], hidden: i64) -> Message {
    node("LSTM", inputs, outputs).message(5, int("hidden_size", hidden))
}

#[test]
fn gates_are_traced_through_slices_in_any_order() {
    // Stored i f g o, given to the operator as i o f c.
    let mut nodes = vec![];
    for (i, gate) in ["i", "f", "g", "o"].iter().enumerate() {
        let (from, to) = (format!("k{i}"), format!("k{}", i + 1));
        for matrix in ["W", "R"] {
            let out = format!("{matrix}{gate}");
            nodes.push(node("Slice", &[matrix, &from, &to, "k0"], &[&out]));
        }
    }
    for matrix in ["W", "R"] {
        let rows: Vec<String> = ["i", "o", "f", "g"].iter().map(|g| format!("{matrix}{g}")).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let joined = format!("{matrix}j");
        nodes.push(node("Concat", &rows, &[&joined]).message(5, int("axis", 0)));
        nodes.push(node("Unsqueeze", &[&joined, "k0"], &[&format!("{matrix}1")]));
    }
    nodes.push(node("Concat", &["b_ih", "b_hh"], &["b"]).message(5, int("axis", 0)));
    nodes.push(node("Unsqueeze", &["b", "k0"], &["B"]));
    nodes.push(lstm(&["x", "W1", "R1", "B", "", "h0"], &["y"], 2));
    let mut tensors = vec![raw("W", &[8, 3]), raw("R", &[8, 2]), raw("b_ih", &[8]), raw("b_hh", &[8])];
    tensors.extend((0..5).map(|i| i64s(&format!("k{i}"), &[i * 2])));
    expect(
        "dynamo",
        &simple(nodes, tensors, vec![floats("x"), floats("h0")], "y"),
        &[
            ("W", "layer1/input/below layer1/forget/below layer1/cell/below layer1/output/below"),
            ("R", "layer1/input/recurrent layer1/forget/recurrent layer1/cell/recurrent layer1/output/recurrent"),
            ("b_ih", "-bias layer1"),
            ("b_hh", "-bias layer1"),
            ("k0", "--I64"),
        ],
    );
}

#[test]
fn recurrent_layers_of_every_kind() {
    let two = |op: &str, gates: i64| {
        let nodes = vec![
            node(op, &["x", "W1", "R1", "B1"], &["a"]).message(5, int("hidden_size", 2)),
            node("Squeeze", &["a", "one"], &["s"]),
            node(op, &["s", "W2", "R2"], &["y"])
                .message(5, Message::new().bytes(1, "direction").bytes(4, "reverse").int(20, 3)),
        ];
        let tensors = vec![
            raw("W1", &[1, gates * 2, 3]),
            raw("R1", &[1, gates * 2, 2]),
            raw("B1", &[1, gates * 4]),
            raw("W2", &[1, gates * 2, 2]),
            raw("R2", &[1, gates * 2, 2]),
            i64s("one", &[1]),
        ];
        simple(nodes, tensors, vec![floats("x")], "y")
    };
    expect(
        "GRU",
        &two("GRU", 3),
        &[
            ("W1", "layer1/update/below layer1/reset/below layer1/new/below"),
            ("R2", "layer2/update/recurrent/reverse layer2/reset/recurrent/reverse layer2/new/recurrent/reverse"),
            ("B1", "-bias layer1"),
        ],
    );
    expect("RNN", &two("RNN", 1), &[("W1", "layer1/hidden/below"), ("R2", "layer2/hidden/recurrent/reverse")]);
    let both = simple(
        vec![lstm(&["x", "W", "R"], &["y"], 1)],
        vec![raw("W", &[2, 4, 3]), raw("R", &[2, 4, 1])],
        vec![floats("x")],
        "y",
    );
    let gates = ["input", "output", "forget", "cell"];
    let below: Vec<String> = gates.iter().map(|g| format!("layer1/{g}/below")).collect();
    let expected = format!("{} {}/reverse", below.join(" "), below.join("/reverse "));
    expect("bidirectional", &both, &[("W", &expected)]);
}

/// Encoder and decoder of one layer with attention, in one graph or as the decoder alone.
fn translator(alone: bool) -> Vec<u8> {
    let mut nodes = vec![
        node("Gather", &["E", "src"], &["e"]),
        lstm(&["e", "We", "Re"], &["h", "last"], 2),
        node("Gather", &["F", "tgt"], &["f"]),
        lstm(&["f", "Wd", "Rd", "", "", "last"], &["d"], 2),
        node("MatMul", &["d", "A"], &["q"]),
        node("MatMul", &["q", "h"], &["scores"]),
        node("Softmax", &["scores"], &["p"]),
        node("MatMul", &["p", "h"], &["context"]),
        node("Concat", &["context", "d"], &["c"]).message(5, int("axis", -1)),
        node("MatMul", &["c", "C"], &["o"]),
        node("Add", &["bc", "o"], &["ob"]),
        node("Tanh", &["ob"], &["t"]),
        node("MatMul", &["t", "S"], &["z"]),
        node("Add", &["z", "bs"], &["y"]),
    ];
    let mut tensors = vec![
        raw("E", &[9, 3]),
        raw("We", &[1, 8, 3]),
        raw("Re", &[1, 8, 2]),
        raw("F", &[7, 3]),
        raw("Wd", &[1, 8, 3]),
        raw("Rd", &[1, 8, 2]),
        raw("A", &[2, 2]),
        raw("C", &[4, 2]),
        raw("bc", &[2]),
        raw("S", &[2, 7]),
        raw("bs", &[7]),
    ];
    let mut inputs = vec![ids("src"), ids("tgt")];
    if alone {
        nodes.drain(..2);
        tensors.drain(..3);
        inputs = vec![ids("tgt"), floats("h"), floats("last")];
    }
    simple(nodes, tensors, inputs, "y")
}

#[test]
fn a_translator_in_one_file_or_two() {
    let heads = [
        ("A", "attentionᵀ"),
        ("C", "attentionᵀ"),
        ("bc", "-bias attention"),
        ("S", "softmaxᵀ"),
        ("bs", "-bias softmax"),
    ];
    expect("both", &translator(false), &heads);
    expect("decoder alone", &translator(true), &heads);
    let gates = |side: &str| ["input", "output", "forget", "cell"].map(|g| format!("{side}layer1/{g}/below")).join(" ");
    expect(
        "both",
        &translator(false),
        &[("E", "source.embedding"), ("F", "target.embedding"), ("We", &gates("source.")), ("Wd", &gates("target."))],
    );
    expect("decoder alone", &translator(true), &[("F", "embedding"), ("Wd", &gates(""))]);
}

#[test]
fn additive_attention_is_all_attention() {
    let nodes = vec![
        node("Gather", &["E", "ids"], &["e"]),
        lstm(&["e", "W", "R"], &["h"], 2),
        node("MatMul", &["h", "A1"], &["u"]),
        node("MatMul", &["h", "A2"], &["v"]),
        node("Add", &["u", "v"], &["s"]),
        node("Tanh", &["s"], &["t"]),
        node("MatMul", &["t", "v_a"], &["scores"]),
        node("Softmax", &["scores"], &["p"]),
        node("MatMul", &["p", "h"], &["c"]),
        node("Gemm", &["c", "fc.weight", "fc.bias"], &["y"]).message(5, int("transB", 1)),
    ];
    let tensors = vec![
        raw("E", &[9, 3]),
        raw("W", &[1, 8, 3]),
        raw("R", &[1, 8, 2]),
        raw("A1", &[2, 2]),
        raw("A2", &[2, 2]),
        raw("v_a", &[2, 1]),
        raw("fc.weight", &[5, 2]),
        raw("fc.bias", &[5]),
    ];
    expect(
        "additive",
        &simple(nodes, tensors, vec![ids("ids")], "y"),
        &[
            ("A1", "attentionᵀ"),
            ("A2", "attentionᵀ"),
            ("v_a", "attention"),
            ("fc.weight", "classifier"),
            ("fc.bias", "-bias classifier"),
        ],
    );
}

#[test]
fn a_transformer_without_any_names() {
    let mut nodes = vec![node("Gather", &["t0", "ids"], &["x0"])];
    let mut tensors = vec![raw("t0", &[9, 4])];
    for layer in 0..2 {
        let n = |name: &str| format!("{name}{layer}");
        let x = format!("x{layer}");
        let mut weight = |name: &str, dims: &[i64]| {
            let tensor = format!("val_{}", tensors.len() + 100);
            tensors.push(raw(&tensor, dims));
            let _ = name;
            tensor
        };
        let mut product = |from: &str, to: &str, dims: &[i64]| {
            let w = weight(to, dims);
            nodes.push(node("MatMul", &[from, &w], &[to]));
        };
        product(&x, &n("q"), &[4, 4]);
        product(&x, &n("k"), &[4, 4]);
        product(&x, &n("v"), &[4, 4]);
        product(&n("context"), &n("o"), &[4, 4]);
        product(&n("r"), &n("up"), &[4, 8]);
        product(&n("act"), &n("down"), &[8, 4]);
        let at = nodes.len() - 3;
        let core = [
            node("Transpose", &[&n("k")], &[&n("kt")]),
            node("MatMul", &[&n("q"), &n("kt")], &[&n("scores")]),
            node("Softmax", &[&n("scores")], &[&n("p")]),
            node("MatMul", &[&n("p"), &n("v")], &[&n("context")]),
        ];
        nodes.splice(at..at, core);
        let at = nodes.len() - 2;
        nodes.insert(at, node("Add", &[&n("o"), &x], &[&n("r")]));
        let at = nodes.len() - 1;
        nodes.insert(at, node("Relu", &[&n("up")], &[&n("act")]));
        nodes.push(node("Add", &[&n("down"), &n("r")], &[&format!("x{}", layer + 1)]));
    }
    nodes.push(node("MatMul", &["x2", "val_999"], &["y"]));
    tensors.push(raw("val_999", &[4, 9]));
    expect(
        "transformer",
        &simple(nodes, tensors, vec![ids("ids")], "y"),
        &[
            ("t0", "embedding"),
            ("val_101", "layer1.attention.queryᵀ"),
            ("val_102", "layer1.attention.keyᵀ"),
            ("val_103", "layer1.attention.valueᵀ"),
            ("val_104", "layer1.attention.outputᵀ"),
            ("val_105", "layer1.mlp.upᵀ"),
            ("val_106", "layer1.mlp.downᵀ"),
            ("val_107", "layer2.attention.queryᵀ"),
            ("val_112", "layer2.mlp.downᵀ"),
            ("val_999", "classifierᵀ"),
        ],
    );
}

#[test]
fn tied_tables_are_the_embedding() {
    let nodes = vec![
        node("Gather", &["E", "ids"], &["e"]),
        node("MatMul", &["e", "fc.weight"], &["h"]),
        node("Transpose", &["E"], &["Et"]),
        node("MatMul", &["h", "Et"], &["y"]),
    ];
    let tensors = vec![raw("E", &[9, 4]), raw("fc.weight", &[4, 4])];
    expect("tied", &simple(nodes, tensors, vec![ids("ids")], "y"), &[("E", "embedding"), ("fc.weight", "classifierᵀ")]);
}

#[test]
fn convolutions_norms_constants_and_what_is_never_pruned() {
    let constant = node("Constant", &[], &["k"]).message(5, attribute("value", 5, 4, raw("", &[6, 5])));
    let nodes = vec![
        node("Conv", &["x", "c1", "b1"], &["a"]),
        node("BatchNormalization", &["a", "gamma", "beta", "mean", "var"], &["n"]),
        node("Conv", &["n", "c2"], &["b"]).message(5, int("group", 2)),
        node("ConvTranspose", &["b", "c3"], &["c"]),
        node("PRelu", &["c", "slope"], &["d"]),
        node("Mul", &["d", "half"], &["e"]),
        node("Einsum", &["e", "ein"], &["f"])
            .message(5, Message::new().bytes(1, "equation").bytes(4, "bi,ohi->boh").int(20, 3)),
        node("DequantizeLinear", &["q", "scale"], &["dq"]),
        node("MatMul", &["f", "dq"], &["g"]),
        constant,
        node("MatMul", &["g", "k"], &["h"]),
        node("MyOperator", &["h", "mine"], &["y"]).bytes(7, "my.domain"),
    ];
    let tensors = vec![
        raw("c1", &[4, 3, 3, 3]),
        raw("b1", &[4]),
        raw("gamma", &[4]),
        raw("beta", &[4]),
        raw("mean", &[4]),
        raw("var", &[4]),
        raw("c2", &[4, 2, 3, 3]),
        raw("c3", &[4, 2, 3, 3]),
        raw("slope", &[2, 1, 1]),
        raw("half", &[]),
        raw("ein", &[3, 2, 4]),
        head("q", &[6, 6], 3).bytes(9, [1; 36]),
        raw("scale", &[6]),
        raw("mine", &[3, 3]),
        raw("unused", &[3, 3]),
    ];
    expect(
        "conv",
        &simple(nodes, tensors, vec![value("x", 1, &[0, 3, 8, 8])], "y"),
        &[
            ("c1", "conv1"),
            ("b1", "-bias conv1"),
            ("gamma", "-norm gamma"),
            ("mean", "--running statistics"),
            ("c2", "conv2"),
            ("c3", "conv3"),
            ("slope", "-slope slope"),
            ("half", "--scalar"),
            ("ein", "ein"),
            ("q", "--quantised weight (I8)"),
            ("scale", "--scale of a quantised weight"),
            ("k", "classifierᵀ"),
            ("mine", "mine"),
            ("unused", "--not used by the graph"),
        ],
    );
}

#[test]
fn weights_in_functions_branches_and_loops_are_found() {
    // f(a) = a · K, K a constant of the function; a Loop whose body multiplies by an initialiser of the outer graph.
    let constant = node("Constant", &[], &["K"]).message(5, attribute("value", 5, 4, raw("", &[4, 4])));
    let body = [constant, node("MatMul", &["a", "K"], &["b"])];
    let function =
        body.into_iter().fold(Message::new().bytes(1, "f").bytes(4, "a").bytes(5, "b"), |m, n| m.message(7, n));
    let function = function.bytes(10, "local");
    let inner = graph(
        vec![node("MatMul", &["state", "L"], &["next"]), node("MatMul", &["next", "M"], &["out"])],
        vec![raw("M", &[4, 4])],
        vec![value("i", 7, &[]), value("c", 9, &[]), floats("state")],
        vec![value("c", 9, &[]), floats("out")],
    );
    let nodes = vec![
        node("f", &["x"], &["fx"]).bytes(7, "local"),
        node("Loop", &["n", "", "fx"], &["z"]).message(5, attribute("body", 6, 5, inner)),
        node("MatMul", &["z", "H"], &["y"]),
    ];
    let tensors = vec![raw("L", &[4, 4]), raw("H", &[4, 2])];
    let graph = graph(nodes, tensors, vec![floats("x"), value("n", 7, &[])], vec![floats("y")]);
    let bytes = Message::new()
        .int(1, 8)
        .message(7, graph)
        .message(8, Message::new().bytes(1, "").int(2, 17))
        .message(25, function)
        .into_bytes();
    expect(
        "functions",
        &bytes,
        &[("local::f/K", "linear1ᵀ"), ("L", "Lᵀ"), ("/Loop/z/body/M", "Loop.z.body.Mᵀ"), ("H", "classifierᵀ")],
    );
}

#[test]
fn batched_and_fused_matrices_are_parts() {
    let nodes = vec![
        node("MatMul", &["x", "experts"], &["a"]),
        node("Split", &["gates", "sizes"], &["w1", "w2"]),
        node("Gemm", &["a", "w1"], &["b"]).message(5, int("transB", 1)),
        node("Gemm", &["b", "w2"], &["c"]).message(5, int("transB", 1)),
        node("MatMul", &["c", "head"], &["y"]),
    ];
    let tensors = vec![raw("experts", &[3, 4, 4]), raw("gates", &[8, 4]), i64s("sizes", &[4, 4]), raw("head", &[4, 2])];
    expect(
        "batched",
        &simple(nodes, tensors, vec![floats("x")], "y"),
        &[("experts", "experts/0 experts/1 experts/2ᵀ"), ("gates", "gates gates"), ("head", "classifierᵀ")],
    );
}

#[test]
fn a_function_that_calls_itself_ends() {
    let call = || node("f", &["a"], &["b"]).bytes(7, "local");
    let function = Message::new().bytes(1, "f").bytes(4, "a").bytes(5, "b").message(7, call()).message(7, call());
    let graph = graph(vec![node("f", &["x"], &["y"]).bytes(7, "local")], vec![], vec![floats("x")], vec![floats("y")]);
    let bytes = Message::new().int(1, 8).message(7, graph).message(25, function.bytes(10, "local")).into_bytes();
    assert!(roles(&bytes).is_empty());
}
