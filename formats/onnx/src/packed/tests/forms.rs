//! Factored weights that are multiplied with as they are.

use super::*;
use crate::model::{Attribute, Graph, Place};

/// Every operator that multiplies with a weight, with attributes that must stay.
fn products(opset: i64) -> Vec<u8> {
    let ints = |name: &str, values: &[i64]| Message::new().bytes(1, name).packed(8, values.iter().copied()).int(20, 7);
    let float = |name: &str, value: f32| Message::new().bytes(1, name).float(2, value).int(20, 1);
    let both = Message::new().bytes(1, "direction").bytes(4, "bidirectional").int(20, 3);
    let nodes = vec![
        node("MatMul", &["x", "A"], &["a"]),
        node("MatMul", &["B", "a"], &["b"]),
        node("Gemm", &["b", "C", "cb"], &["c"]).message(5, float("alpha", 0.5)).message(5, float("beta", 2.0)),
        node("Gemm", &["c", "D"], &["d"]).message(5, int("transB", 1)),
        node("Reshape", &["d", "image"], &["i"]),
        node("Conv", &["i", "K", "kb"], &["k"])
            .message(5, ints("pads", &[1, 1, 1, 1]))
            .message(5, ints("strides", &[2, 1])),
        node("Conv", &["k", "L"], &["l"])
            .message(5, ints("dilations", &[1, 2]))
            .message(5, ints("kernel_shape", &[2, 2])),
        node("Reshape", &["l", "steps"], &["s"]),
        node("LSTM", &["s", "W", "R", "b1"], &["Y"]).message(5, int("hidden_size", 4)).message(5, both),
        node("Reshape", &["Y", "states"], &["t"]),
        node("GRU", &["t", "GW", "GR"], &["", "YG"]).message(5, int("hidden_size", 4)),
        node("RNN", &["t", "NW", "NR"], &["", "YN"]).message(5, int("hidden_size", 4)),
        node("Add", &["YG", "YN"], &["y"]),
    ];
    let tensors = vec![
        raw("A", &[8, 10]),
        raw("B", &[9, 6]),
        raw("C", &[10, 12]),
        raw("cb", &[12]),
        raw("D", &[7, 12]),
        i64s("image", &[1, 1, 9, 7]),
        raw("K", &[8, 1, 3, 3]),
        raw("kb", &[8]),
        raw("L", &[6, 8, 2, 2]),
        i64s("steps", &[4, 3, 10]),
        raw("W", &[2, 16, 10]),
        raw("R", &[2, 16, 4]),
        raw("b1", &[2, 32]),
        i64s("states", &[4, 3, 8]),
        raw("GW", &[1, 12, 8]),
        raw("GR", &[1, 12, 4]),
        raw("NW", &[1, 4, 8]),
        raw("NR", &[1, 4, 4]),
    ];
    opset_model(graph(nodes, tensors, vec![value("x", 1, &[6, 8])], vec![value("y", 1, &[1, 3, 4])]), opset)
}

/// The weights that are multiplied with, and their rows.
const FACTORED: [(&str, usize); 9] =
    [("A", 8), ("B", 9), ("C", 10), ("D", 7), ("K", 8), ("L", 6), ("W", 32), ("GW", 12), ("NW", 4)];

fn id_of(source: &OnnxSource, name: &str) -> usize {
    source.tensors().iter().position(|t| t.name == name).unwrap()
}

/// Rank 2, of small numbers.
fn factored(source: &OnnxSource, name: &str, rows: usize, coding: ValueCoding) -> Packed<'static> {
    let info = &source.tensors()[id_of(source, name)];
    let cols = info.elements as usize / rows;
    let values = ramp((rows + cols) * 2).into_iter().map(|v| 0.5 * v).collect();
    let encoding = Encoding { rows, cols, terms: vec![Term { layout: Layout::Factored { rank: 2 }, values }] };
    terms::pack(&encoding, &info.dtype, &info.shape, coding).unwrap()
}

fn write(source: &OnnxSource, output: &Path, names: &[(&str, usize)], coding: ValueCoding) {
    let packed: Vec<_> =
        names.iter().map(|(name, rows)| (id_of(source, name), factored(source, name, *rows, coding))).collect();
    let outlines = packed.iter().map(|(id, p)| (*id, p.outline())).collect();
    let mut sink = source.create(output, &CreateOptions { outlines, ..create() }).unwrap();
    packed.iter().for_each(|(id, p)| sink.put(*id, Content::Packed(p)).unwrap());
    let staged = sink.finish().unwrap();
    staged.reopen().unwrap();
    staged.commit().unwrap();
}

/// How many nodes multiply with the factors of a weight: `None` where it is not packed.
fn pairs(source: &OnnxSource, name: &str) -> Option<usize> {
    match &source.model().graph.initializer(name).unwrap().place {
        Place::Packed(packed) => Some(packed.uses.len()),
        _ => None,
    }
}

/// What the nodes of a graph are, but for where they stand in the file.
fn nodes(graph: &Graph) -> Vec<String> {
    let attribute = |(name, value): &(String, Attribute)| match value {
        Attribute::Graph(inner) => format!("{name} {:?}", nodes(inner)),
        value => format!("{name} {value:?}"),
    };
    let node = |n: &crate::model::Node| {
        let attributes: Vec<String> = n.attributes.iter().map(attribute).collect();
        format!("{} {} {} {:?} {:?} {attributes:?}", n.name, n.op_type, n.domain, n.inputs, n.outputs)
    };
    graph.nodes.iter().map(node).collect()
}

fn unpack(source: &OnnxSource, output: &Path, names: &[(&str, usize)]) {
    let mut sink = source.create(output, &create()).unwrap();
    for (name, _) in names {
        let id = id_of(source, name);
        sink.put(id, Content::Dense(&Bytes(values_of(source, id).bytes))).unwrap();
    }
    sink.finish().unwrap().commit().unwrap();
}

#[test]
fn every_product_is_two_in_the_file_and_one_in_the_model() {
    let (dir, mut lines) = (tempfile::tempdir().unwrap(), Vec::new());
    let codings =
        [ValueCoding::Plain, ValueCoding::F16, ValueCoding::Int8, ValueCoding::Codebook(3), ValueCoding::Codebook(4)];
    for opset in [11, 13, 17, 20] {
        for coding in codings {
            let number = lines.len();
            let path = |kind: &str| dir.path().join(format!("{number}.{kind}.onnx"));
            std::fs::write(path("in"), products(opset)).unwrap();
            let source = open_path(&path("in"));
            write(&source, &path("packed"), &FACTORED, coding);
            let written = open_path(&path("packed"));
            for (name, _) in FACTORED {
                assert_eq!(pairs(&written, name), Some(1), "{name} {coding}");
                let id = id_of(&written, name);
                assert_eq!((written.packed(id), written.multiplies(id)), (Some(PackedLayout::Factored), Some(true)));
            }
            assert_eq!(nodes(&written.model().graph), nodes(&source.model().graph), "{coding}");
            let said = |s: &OnnxSource| format!("{:?} {:?}", s.roles().unwrap(), s.tensors().len());
            assert_eq!(said(&written), said(&source));
            // Unpacked, one by one and all at once; packed again; packed as something that is rebuilt.
            unpack(&written, &path("dense"), &FACTORED);
            let dense = open_path(&path("dense"));
            assert_eq!(nodes(&dense.model().graph), nodes(&source.model().graph));
            assert!(!String::from_utf8_lossy(&std::fs::read(path("dense")).unwrap()).contains(MARK));
            lines.push(format!("{} {} 1e-4 {coding} opset {opset}", path("packed").display(), path("dense").display()));
            if opset == 17 {
                let (one, again) = (path("one"), path("again"));
                unpack(&written, &one, &FACTORED[3..6]);
                let one = open_path(&one);
                assert_eq!(nodes(&one.model().graph), nodes(&source.model().graph));
                assert_eq!((pairs(&one, "D"), pairs(&one, "C")), (None, Some(1)));
                write(&one, &again, &FACTORED, coding);
                assert!(std::fs::read(&again).unwrap().len() > 1000);
                let again = open_path(&again);
                assert_eq!(nodes(&again.model().graph), nodes(&source.model().graph));
                for (name, _) in FACTORED {
                    assert_eq!(pairs(&again, name), Some(1), "{name}");
                    let bytes = |s: &OnnxSource| values_of(s, id_of(s, name)).bytes;
                    assert!(bytes(&again) == bytes(&written), "{name}");
                }
            }
        }
    }
    judge(&lines);
}

#[test]
fn what_is_read_otherwise_is_rebuilt() {
    let ends = || (vec![value("x", 1, &[3, 8])], vec![value("y", 1, &[3, 8])]);
    let model = |nodes: Vec<Message>, extra: Vec<Message>| {
        let (inputs, mut outputs) = ends();
        outputs.extend(extra);
        opset_model(graph(nodes, vec![raw("W", &[8, 8])], inputs, outputs), 17)
    };
    let once = || node("MatMul", &["x", "W"], &["y"]);
    let branch = |out: &str| {
        let nodes = vec![node("MatMul", &["x", "W"], &[out])];
        graph(nodes, vec![], vec![], vec![value(out, 1, &[3, 8])])
    };
    let choose = node("If", &["c"], &["z"])
        .message(5, attribute("then_branch", 6, 5, branch("t")))
        .message(5, attribute("else_branch", 6, 5, branch("e")));
    let condition = node("Not", &["n"], &["c"]);
    for (case, nodes, extra, count) in [
        ("once", vec![once()], vec![], 1),
        ("twice", vec![node("MatMul", &["x", "W"], &["h"]), node("MatMul", &["h", "W"], &["y"])], vec![], 2),
        ("by itself", vec![node("MatMul", &["W", "W"], &["h"]), node("MatMul", &["x", "h"], &["y"])], vec![], 0),
        ("transposed too", vec![once(), node("Transpose", &["W"], &["z"])], vec![value("z", 1, &[8, 8])], 0),
        ("given out", vec![once()], vec![value("W", 1, &[8, 8])], 0),
        ("in a branch", vec![once(), condition, choose], vec![value("z", 1, &[3, 8])], 0),
        (
            "transA",
            vec![node("Transpose", &["x"], &["h"]), node("Gemm", &["h", "W"], &["y"]).message(5, int("transA", 1))],
            vec![],
            0,
        ),
    ] {
        let (dir, source) = open(&model(nodes, extra)).unwrap();
        let output = dir.path().join("out.onnx");
        write(&source, &output, &[("W", 8)], ValueCoding::Plain);
        let written = open_path(&output);
        assert_eq!(pairs(&written, "W"), Some(count), "{case}");
        assert_eq!(written.multiplies(id_of(&written, "W")), Some(count > 0), "{case}");
        assert_eq!(source.multiplies(id_of(&source, "W")), None, "{case}");
        assert_eq!(nodes_of(&written), nodes_of(&source), "{case}");
    }
}

fn nodes_of(source: &OnnxSource) -> Vec<String> {
    nodes(&source.model().graph)
}

/// Graph and initialisers by hand: what the writer makes is believed, and nothing else.
#[test]
fn pairs_are_believed_only_when_they_are_whole() {
    let halves = || {
        vec![
            node("MatMul", &["x", "W__compress/0.u"], &["W__compress/m0"]),
            node("MatMul", &["W__compress/m0", "W__compress/0.v"], &["y"]),
        ]
    };
    let tensors = || vec![raw("W__compress/0.u", &[8, 2]), raw("W__compress/0.v", &[2, 9])];
    let open_with = |change: &dyn Fn(&mut Vec<Message>, &mut Vec<Message>, &mut Vec<Message>)| {
        let (mut nodes, mut tensors, mut outputs) = (halves(), tensors(), vec![value("y", 1, &[0, 9])]);
        change(&mut nodes, &mut tensors, &mut outputs);
        open(&model(graph(nodes, tensors, vec![value("x", 1, &[0, 8])], outputs))).map(|(_, source)| source)
    };
    let whole = open_with(&|_, _, _| {}).unwrap();
    assert_eq!(pairs(&whole, "W"), Some(1));
    assert_eq!(whole.tensors()[0].shape, [8, 9]);
    assert_eq!(whole.model().graph.nodes.len(), 1);
    let other = |what: &str, change: &dyn Fn(&mut Vec<Message>, &mut Vec<Message>, &mut Vec<Message>)| {
        let source = open_with(change).unwrap();
        assert!(source.tensors().iter().any(|t| t.name == "W__compress/0.u"), "{what} is taken for a weight");
        assert!(source.tensors().iter().all(|t| t.shape != [8, 9]), "{what}");
    };
    other("a middle that is read twice", &|nodes, _, _| nodes.push(node("Neg", &["W__compress/m0"], &["z"])));
    other("a middle that is given out", &|_, _, outputs| outputs.push(value("W__compress/m0", 1, &[0, 2])));
    other("a factor that is read twice", &|nodes, _, _| nodes.push(node("Neg", &["W__compress/0.u"], &["z"])));
    other("half a pair", &|nodes, _, _| drop(nodes.remove(0)));
    other("halves in the wrong order", &|nodes, _, _| nodes.swap(0, 1));
    other("another operator", &|nodes, _, _| {
        nodes[0] = node("Gemm", &["x", "W__compress/0.u"], &["W__compress/m0"]);
    });
    other("a name that is taken", &|_, tensors, _| tensors.push(raw("W", &[3])));
    other("a piece more", &|_, tensors, _| tensors.push(i64s("W__compress/u_shape", &[1, 8, 2])));
    // The structure is ours, the pieces are not.
    let error = open_with(&|_, tensors, _| tensors[1] = raw("W__compress/0.v", &[3, 9])).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("tensor \"W\": its factors [8, 2] and [3, 9]"), "{error}");
}
