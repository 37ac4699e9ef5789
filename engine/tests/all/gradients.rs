//! Gradients against finite differences, operator by operator, in f64.

use std::collections::BTreeMap;

use compress_engine::execute::Mode;
use compress_engine::graph::{Attribute, Graph, Node};
use compress_engine::ops::{Gradient, supported};
use compress_engine::program::Program;
use compress_engine::rewrite::mix;
use compress_engine::value::{Tensor, Value};

/// A number between −1 and 1 (never close to 0) made from a counter.
fn number(i: u64) -> f64 {
    let u = (mix(i) >> 11) as f64 / (1u64 << 53) as f64;
    let v = 0.1 + 0.9 * u;
    if mix(i ^ 77) & 1 == 0 { v } else { -v }
}

struct Case {
    node: Node<f64>,
    /// Shapes of the float inputs that are trained (weights), by name.
    floats: Vec<(&'static str, Vec<usize>)>,
    constants: Vec<(&'static str, Value<f64>)>,
    positive: bool,
}

fn loss(program: &Program<f64>, values: &[Tensor<f64>]) -> f64 {
    let base = program.base(values, None).unwrap();
    let pass = program.forward(&base, &[], Mode::default(), None).unwrap();
    let mut sum = 0.0;
    for (k, v) in pass.outputs.iter().enumerate() {
        if let Value::Float(t) = v {
            sum += t.data().iter().enumerate().map(|(i, v)| v * number((k * 1000 + i) as u64 + 5)).sum::<f64>();
        }
    }
    sum
}

fn check(case: &Case) -> Result<f64, String> {
    let mut graph = Graph::<f64> {
        outputs: case.node.outputs.iter().filter(|o| !o.is_empty()).cloned().collect(),
        ..Graph::default()
    };
    graph.constants = case.constants.iter().map(|(n, v)| (n.to_string(), v.clone())).collect();
    graph.nodes.push(case.node.clone());
    let weights: BTreeMap<String, (String, Vec<usize>)> =
        case.floats.iter().map(|(n, s)| (n.to_string(), (n.to_string(), s.clone()))).collect();
    let program = Program::new(&graph, &graph.outputs, &weights).map_err(|e| e.to_string())?;
    let mut values: Vec<Tensor<f64>> = program
        .params
        .iter()
        .enumerate()
        .map(|(k, p)| {
            let n: usize = p.shape.iter().product();
            let f = |i: usize| number((k * 10_000 + i) as u64 + 100);
            Tensor::new(
                p.shape.clone(),
                (0..n).map(|i| if case.positive { f(i).abs() + 0.5 } else { f(i) }).collect::<Vec<_>>(),
            )
        })
        .collect();
    let carriers = program.carriers(|_| true).map_err(|e| e.to_string())?;
    let base = program.base(&values, Some(&carriers)).map_err(|e| e.to_string())?;
    let pass = program.forward(&base, &[], Mode::default(), None).map_err(|e| e.to_string())?;
    let out_grads = pass
        .outputs
        .iter()
        .enumerate()
        .map(|(k, v)| match v {
            Value::Float(t) => Some(Tensor::new(
                t.shape(),
                (0..t.len()).map(|i| number((k * 1000 + i) as u64 + 5)).collect::<Vec<_>>(),
            )),
            _ => None,
        })
        .collect();
    let grads = program.backward(pass, out_grads).map_err(|e| e.to_string())?;
    let grads = program.weight_gradients(base, grads).map_err(|e| e.to_string())?;
    let (mut worst, mut norm) = (0.0f64, 0.0f64);
    for (k, g) in grads.iter().enumerate() {
        for i in 0..values[k].len() {
            let (x, h) = (values[k].data()[i], 1e-5);
            let mut at = |d: f64| {
                values[k].data_mut()[i] = x + d;
                let l = loss(&program, &values);
                values[k].data_mut()[i] = x;
                l
            };
            // fourth-order central difference
            let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            let exact = g.as_ref().map_or(0.0, |g| g.data()[i]);
            worst = worst.max((numeric - exact).abs());
            norm = norm.max(numeric.abs());
        }
    }
    if norm == 0.0 {
        return Err("all gradients are zero".into());
    }
    Ok(worst / norm)
}

fn ints(shape: &[usize], v: &[i64]) -> Value<f64> {
    Value::ints(Tensor::new(shape, v.to_vec()))
}

fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    let mut add = |node: Node<f64>,
                   floats: &[(&'static str, &[usize])],
                   constants: &[(&'static str, Value<f64>)],
                   positive: bool| {
        list.push(Case {
            node,
            floats: floats.iter().map(|(n, s)| (*n, s.to_vec())).collect(),
            constants: constants.to_vec(),
            positive,
        });
    };
    let int = |v: i64| Attribute::<f64>::Int(v);
    let text = |v: &str| Attribute::<f64>::Text(v.into());
    for op in [
        "Abs",
        "Neg",
        "Exp",
        "Reciprocal",
        "Tanh",
        "Sigmoid",
        "Relu",
        "Erf",
        "Sin",
        "Cos",
        "Softplus",
        "Softsign",
        "HardSwish",
        "Mish",
        "Gelu",
        "LeakyRelu",
        "Elu",
        "Celu",
        "Selu",
        "HardSigmoid",
        "Identity",
        "Dropout",
        "Softmax",
        "LogSoftmax",
        "Flatten",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Clip",
    ] {
        add(Node::new(op, &["x"], &["y"]), &[("x", &[2, 3, 4])], &[], false);
    }
    add(Node::new("Gelu", &["x"], &["y"]).with("approximate", text("tanh")), &[("x", &[7])], &[], false);
    add(Node::new("ThresholdedRelu", &["x"], &["y"]).with("alpha", Attribute::Float(0.3)), &[("x", &[7])], &[], false);
    add(Node::new("Softmax", &["x"], &["y"]).with("axis", int(1)), &[("x", &[2, 3, 4])], &[], false);
    add(Node::new("LogSoftmax", &["x"], &["y"]).with("axis", int(0)), &[("x", &[2, 3, 4])], &[], false);
    for op in ["Log", "Sqrt"] {
        add(Node::new(op, &["x"], &["y"]), &[("x", &[5])], &[], true);
    }
    for op in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu"] {
        add(Node::new(op, &["a", "b"], &["y"]), &[("a", &[2, 3, 4]), ("b", &[3, 1])], &[], false);
    }
    add(Node::new("Mul", &["a", "a"], &["y"]), &[("a", &[5])], &[], false);
    add(Node::new("Pow", &["a", "b"], &["y"]), &[("a", &[2, 3]), ("b", &[3])], &[], true);
    for op in [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSumExp",
    ] {
        let axes = [("axes", ints(&[2], &[0, 2]))];
        add(Node::new(op, &["x", "axes"], &["y"]).with("keepdims", int(0)), &[("x", &[2, 3, 4])], &axes, false);
    }
    add(Node::new("ReduceLogSum", &["x"], &["y"]), &[("x", &[2, 3])], &[], true);
    add(Node::new("MatMul", &["a", "b"], &["y"]), &[("a", &[2, 3, 4]), ("b", &[4, 5])], &[], false);
    add(Node::new("MatMul", &["a", "b"], &["y"]), &[("a", &[2, 1, 3, 4]), ("b", &[3, 4, 2])], &[], false);
    add(Node::new("MatMul", &["a", "b"], &["y"]), &[("a", &[4]), ("b", &[3, 4, 2])], &[], false);
    for (ta, tb) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (a, b): (&[usize], &[usize]) =
            (if ta == 1 { &[4, 3] } else { &[3, 4] }, if tb == 1 { &[2, 4] } else { &[4, 2] });
        let node = Node::new("Gemm", &["a", "b", "c"], &["y"]);
        let node = node
            .with("transA", int(ta))
            .with("transB", int(tb))
            .with("alpha", Attribute::Float(0.5))
            .with("beta", Attribute::Float(2.0));
        add(node, &[("a", a), ("b", b), ("c", &[2])], &[], false);
    }
    add(
        Node::new("Transpose", &["x"], &["y"]).with("perm", Attribute::Ints(vec![2, 0, 1])),
        &[("x", &[2, 3, 4])],
        &[],
        false,
    );
    add(Node::new("Reshape", &["x", "s"], &["y"]), &[("x", &[2, 6])], &[("s", ints(&[2], &[3, -1]))], false);
    add(Node::new("Squeeze", &["x"], &["y"]), &[("x", &[2, 1, 3])], &[], false);
    add(Node::new("Unsqueeze", &["x", "a"], &["y"]), &[("x", &[2, 3])], &[("a", ints(&[1], &[1]))], false);
    add(Node::new("Expand", &["x", "s"], &["y"]), &[("x", &[3, 1])], &[("s", ints(&[3], &[2, 3, 4]))], false);
    add(Node::new("Tile", &["x", "r"], &["y"]), &[("x", &[2, 3])], &[("r", ints(&[2], &[2, 3]))], false);
    let slices = [
        ("s", ints(&[2], &[3, 0])),
        ("e", ints(&[2], &[-9, 2])),
        ("a", ints(&[2], &[1, 0])),
        ("t", ints(&[2], &[-2, 1])),
    ];
    add(Node::new("Slice", &["x", "s", "e", "a", "t"], &["y"]), &[("x", &[3, 4])], &slices, false);
    add(Node::new("Concat", &["a", "b"], &["y"]).with("axis", int(1)), &[("a", &[2, 3]), ("b", &[2, 1])], &[], false);
    add(Node::new("Split", &["x"], &["y", "z"]).with("axis", int(1)), &[("x", &[2, 5])], &[], false);
    for mode in ["constant", "edge", "reflect", "wrap"] {
        let node = Node::new("Pad", &["x", "p"], &["y"]).with("mode", text(mode));
        add(node, &[("x", &[3, 4])], &[("p", ints(&[4], &[1, 2, 0, 1]))], false);
    }
    add(Node::new("Trilu", &["x"], &["y"]), &[("x", &[3, 4])], &[], false);
    add(Node::new("DepthToSpace", &["x"], &["y"]).with("blocksize", int(2)), &[("x", &[1, 8, 2, 2])], &[], false);
    let ids = ("i", ints(&[2, 3], &[0, 2, 2, -1, 1, 0]));
    add(Node::new("Gather", &["x", "i"], &["y"]), &[("x", &[4, 3])], std::slice::from_ref(&ids), false);
    add(
        Node::new("Gather", &["x", "i"], &["y"]).with("axis", int(1)),
        &[("x", &[2, 3, 2])],
        std::slice::from_ref(&ids),
        false,
    );
    add(Node::new("GatherElements", &["x", "i"], &["y"]), &[("x", &[3, 3])], std::slice::from_ref(&ids), false);
    let tuples = ("i", ints(&[3, 2], &[0, 1, 2, 0, 0, 1]));
    add(Node::new("GatherND", &["x", "i"], &["y"]), &[("x", &[3, 2, 2])], std::slice::from_ref(&tuples), false);
    let pairs = ("i", ints(&[2, 2], &[0, 1, 2, 0]));
    add(
        Node::new("ScatterND", &["x", "i", "u"], &["y"]),
        &[("x", &[3, 2, 2]), ("u", &[2, 2])],
        std::slice::from_ref(&pairs),
        false,
    );
    add(
        Node::new("ScatterND", &["x", "i", "u"], &["y"]).with("reduction", text("add")),
        &[("x", &[3, 2, 2]), ("u", &[3, 2])],
        &[tuples],
        false,
    );
    let one = ("i", ints(&[1, 3], &[1, 0, 2]));
    for op in ["Scatter", "ScatterElements"] {
        let one = std::slice::from_ref(&one);
        add(Node::new(op, &["x", "i", "u"], &["y"]), &[("x", &[3, 3]), ("u", &[1, 3])], one, false);
    }
    add(Node::new("TopK", &["x", "k"], &["y", "i"]), &[("x", &[2, 4])], &[("k", ints(&[1], &[2]))], false);
    add(
        Node::new("CumSum", &["x", "a"], &["y"]).with("exclusive", int(1)),
        &[("x", &[2, 4])],
        &[("a", ints(&[], &[1]))],
        false,
    );
    let cond = ("c", Value::Bool(Tensor::new([3], vec![true, false, true])));
    add(Node::new("Where", &["c", "a", "b"], &["y"]), &[("a", &[2, 3]), ("b", &[1])], &[cond], false);
    add(Node::new("Cast", &["x"], &["y"]).with("to", int(11)), &[("x", &[3])], &[], false);
    add(Node::new("CastLike", &["x", "z"], &["y"]), &[("x", &[3])], &[("z", Value::Float(Tensor::scalar(0.0)))], false);
    add(
        Node::new("LayerNormalization", &["x", "s", "b"], &["y"]),
        &[("x", &[2, 3, 5]), ("s", &[5]), ("b", &[5])],
        &[],
        false,
    );
    add(
        Node::new("LayerNormalization", &["x", "s"], &["y"]).with("axis", int(1)),
        &[("x", &[2, 3, 2]), ("s", &[3, 2])],
        &[],
        false,
    );
    add(Node::new("RMSNormalization", &["x", "s"], &["y"]), &[("x", &[2, 3, 5]), ("s", &[5])], &[], false);
    add(
        Node::new("InstanceNormalization", &["x", "s", "b"], &["y"]),
        &[("x", &[2, 3, 5]), ("s", &[3]), ("b", &[3])],
        &[],
        false,
    );
    add(
        Node::new("GroupNormalization", &["x", "s", "b"], &["y"]).with("num_groups", int(2)),
        &[("x", &[2, 4, 3]), ("s", &[2]), ("b", &[2])],
        &[],
        false,
    );
    let stats =
        |n: usize, v: f64| Value::Float(Tensor::new([n], (0..n).map(|i| v + i as f64 * 0.3).collect::<Vec<_>>()));
    add(
        Node::new("BatchNormalization", &["x", "s", "b", "m", "v"], &["y"]),
        &[("x", &[2, 3, 4]), ("s", &[3]), ("b", &[3])],
        &[("m", stats(3, 0.1)), ("v", stats(3, 0.5))],
        false,
    );
    let spatial =
        |n: Node<f64>| n.with("pads", Attribute::Ints(vec![1, 0, 1, 1])).with("strides", Attribute::Ints(vec![2, 1]));
    add(
        spatial(Node::new("Conv", &["x", "w", "b"], &["y"])),
        &[("x", &[2, 3, 5, 4]), ("w", &[4, 3, 3, 2]), ("b", &[4])],
        &[],
        false,
    );
    add(
        Node::new("Conv", &["x", "w"], &["y"]).with("group", int(2)).with("dilations", Attribute::Ints(vec![2])),
        &[("x", &[2, 4, 7]), ("w", &[6, 2, 3])],
        &[],
        false,
    );
    let kernel = |n: Node<f64>| spatial(n).with("kernel_shape", Attribute::Ints(vec![3, 2]));
    add(kernel(Node::new("MaxPool", &["x"], &["y"])), &[("x", &[1, 2, 5, 4])], &[], false);
    add(kernel(Node::new("AveragePool", &["x"], &["y"])), &[("x", &[1, 2, 5, 4])], &[], false);
    add(
        kernel(Node::new("AveragePool", &["x"], &["y"])).with("count_include_pad", int(1)),
        &[("x", &[1, 2, 5, 4])],
        &[],
        false,
    );
    for direction in ["forward", "reverse", "bidirectional"] {
        for layout in [0i64, 1] {
            for lengths in [false, true] {
                recurrent(&mut add, direction, layout, lengths);
            }
        }
    }
    list
}

type Add<'a> = dyn FnMut(Node<f64>, &[(&'static str, &[usize])], &[(&'static str, Value<f64>)], bool) + 'a;

fn recurrent(add: &mut Add, direction: &str, layout: i64, lengths: bool) {
    let (t, b, i, h) = (3, 2, 2, 3);
    let d = if direction == "bidirectional" { 2 } else { 1 };
    let x: Vec<usize> = if layout == 1 { vec![b, t, i] } else { vec![t, b, i] };
    let state: Vec<usize> = if layout == 1 { vec![b, d, h] } else { vec![d, b, h] };
    let constants = if lengths { vec![("l", ints(&[2], &[2, 3]))] } else { vec![] };
    let l = if lengths { "l" } else { "" };
    let set = |n: Node<f64>| {
        n.with("direction", Attribute::Text(direction.into()))
            .with("layout", Attribute::Int(layout))
            .with("hidden_size", Attribute::Int(h as i64))
    };
    let (w4, r4, b8, p): (Vec<usize>, Vec<usize>, Vec<usize>, Vec<usize>) =
        (vec![d, 4 * h, i], vec![d, 4 * h, h], vec![d, 8 * h], vec![d, 3 * h]);
    let lstm = |n: Node<f64>| set(n);
    let base: Vec<(&'static str, &[usize])> =
        vec![("x", &x), ("w", &w4), ("r", &r4), ("b", &b8), ("h", &state), ("c", &state)];
    add(lstm(Node::new("LSTM", &["x", "w", "r", "b", l, "h", "c"], &["y", "yh", "yc"])), &base, &constants, false);
    let mut peep = base.clone();
    peep.push(("p", &p));
    let odd = ["HardSigmoid", "Softsign", "Elu"].map(String::from).to_vec();
    let node = lstm(Node::new("LSTM", &["x", "w", "r", "b", l, "h", "c", "p"], &["y", "yh", "yc"]));
    add(node.clone(), &peep, &constants, false);
    if d == 1 {
        add(node.clone().with("activations", Attribute::Texts(odd)), &peep, &constants, false);
        add(node.clone().with("input_forget", Attribute::Int(1)), &peep, &constants, false);
        add(node.with("clip", Attribute::Float(0.6)), &peep, &constants, false);
    }
    let (w3, r3, b6) = (vec![d, 3 * h, i], vec![d, 3 * h, h], vec![d, 6 * h]);
    let gru: Vec<(&'static str, &[usize])> = vec![("x", &x), ("w", &w3), ("r", &r3), ("b", &b6), ("h", &state)];
    for linear in [0, 1] {
        let node = set(Node::new("GRU", &["x", "w", "r", "b", l, "h"], &["y", "yh"]))
            .with("linear_before_reset", Attribute::Int(linear));
        add(node, &gru, &constants, false);
    }
    let (w1, r1, b2) = (vec![d, h, i], vec![d, h, h], vec![d, 2 * h]);
    let rnn: Vec<(&'static str, &[usize])> = vec![("x", &x), ("w", &w1), ("r", &r1), ("b", &b2), ("h", &state)];
    add(set(Node::new("RNN", &["x", "w", "r", "b", l, "h"], &["y", "yh"])), &rnn, &constants, false);
}

#[test]
fn every_operator_agrees_with_finite_differences() {
    let mut wrong = Vec::new();
    let mut tested = std::collections::BTreeSet::new();
    for case in cases() {
        let words: Vec<String> = case.node.attributes.iter().map(|(n, v)| format!("{n}={v:?}")).collect();
        let name = format!(
            "{} {} {:?}",
            case.node.op,
            words.join(" "),
            case.constants.iter().map(|c| c.0).collect::<Vec<_>>()
        );
        match check(&case) {
            Ok(e) if e < 1e-7 => {
                tested.insert(case.node.op.clone());
            }
            Ok(e) => wrong.push(format!("{name}: off by {e:.1e}")),
            Err(e) => wrong.push(format!("{name}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let carry = supported().into_iter().filter(|(_, g)| *g == Gradient::Yes).map(|(n, _)| n);
    let missing: Vec<_> = carry.filter(|n| !tested.contains(*n)).collect();
    // `If` leaves the chosen branch's operators behind, which are tested here one by one
    assert_eq!(missing, ["If"], "they carry gradients and have no case");
}
