use std::path::Path;

use compress_core::format::{Content, CreateOptions, Source};

use crate::OnnxSource;
use crate::testing::*;
use crate::wire::Message;

fn create() -> CreateOptions {
    CreateOptions { force: true, ..CreateOptions::default() }
}

/// The file that a run without changes writes.
fn copied(source: &OnnxSource, output: &Path) -> Vec<u8> {
    let staged = source.create(output, &create()).unwrap().finish().unwrap();
    staged.commit().unwrap();
    std::fs::read(output).unwrap()
}

/// W as raw data, W as typed data of each kind, W sparse.
fn kinds() -> Vec<(&'static str, Message)> {
    let floats = ramp(24);
    let entries = |range: std::ops::Range<usize>| f32s(&floats[range]);
    let unpacked = floats.iter().fold(head("W", &[4, 6], 1), |m, v| m.float(4, *v));
    let doubles: Vec<u8> = floats.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    let halves = || (0..24).map(|i| 0x3c00 + i * 7 + (i % 2) * 0x8000);
    let sparse = Message::new()
        .message(1, head("W", &[3], 1).bytes(9, f32s(&[1.0, 2.0, 3.0])))
        .message(2, i64s("", &[0, 5, 23]))
        .packed(3, [4, 6]);
    vec![
        ("raw", raw("W", &[4, 6])),
        ("float_data packed", head("W", &[4, 6], 1).bytes(4, entries(0..24))),
        ("float_data in two runs", head("W", &[4, 6], 1).bytes(4, entries(0..5)).bytes(4, entries(5..24))),
        ("float_data unpacked", unpacked),
        ("double_data", head("W", &[4, 6], 11).bytes(10, doubles)),
        ("f16 in int32_data", head("W", &[4, 6], 10).packed(5, halves())),
        ("bf16 in int32_data, unpacked", halves().fold(head("W", &[4, 6], 16), |m, v| m.int(5, v))),
        ("sparse", sparse),
    ]
}

fn with_w(kind: &str, w: Message) -> Vec<u8> {
    // A field that is newer than our schema, at each level.
    let w = w.bytes(4000, "newer");
    let nodes = vec![node("MatMul", &["x", "W"], &["y"]).bytes(4001, "newer")];
    let dense = if kind == "sparse" { vec![] } else { vec![w.clone()] };
    let mut graph = graph(nodes, dense, vec![value("x", 1, &[0, 4])], vec![value("y", 1, &[0, 6])]);
    if kind == "sparse" {
        graph = graph.message(15, w);
    }
    let mut bytes = model(graph.bytes(4002, "newer"));
    bytes.extend(Message::new().bytes(4003, "newer").into_bytes());
    bytes
}

#[test]
fn every_kind_of_data_is_read_written_and_kept() {
    for (kind, w) in kinds() {
        let bytes = with_w(kind, w);
        let (dir, source) = open(&bytes).unwrap();
        assert_eq!(source.tensors()[0].shape, [4, 6], "{kind}");
        assert!(copied(&source, &dir.path().join("same.onnx")) == bytes, "{kind}");
        let output = dir.path().join("out.onnx");
        prune(&source, &output, &create()).unwrap();
        let written = std::fs::read(&output).unwrap();
        let text = String::from_utf8_lossy(&written);
        let kept = if kind == "sparse" { 3 } else { 4 }; // a sparse tensor that becomes dense is a new message
        assert_eq!(text.matches("newer").count(), kept, "{kind}");
        let opened = OnnxSource::open(&output, &Default::default()).unwrap();
        let place = &opened.model().graph.initializers[0].place;
        let raw = matches!(place, crate::model::Place::Raw { .. });
        assert_eq!(raw, kind == "raw" || kind == "sparse", "{kind}");
        assert_eq!(names(dir.path()), ["in.onnx", "out.onnx", "same.onnx"], "{kind}");
    }
}

#[test]
fn one_element_after_another_reads_the_same() {
    for (kind, w) in kinds() {
        let (_dir, source) = open(&with_w(kind, w)).unwrap();
        let whole = bytes_of(&source, "W");
        for from in 0..whole.len() {
            for to in [from + 1, (from + 9).min(whole.len()), whole.len()] {
                let mut part = vec![0xaa; to - from];
                source.read_at(0, from as u64, &mut part).unwrap();
                assert!(part == whole[from..to], "{kind} {from}..{to}");
            }
        }
        assert!(source.read_at(0, whole.len() as u64, &mut [0]).is_err());
    }
}

fn external_model(dir: &Path) -> std::path::PathBuf {
    let data: Vec<u8> = f32s(&ramp(4096 / 4 + 48 + 24));
    std::fs::write(dir.join("w.bin"), &data).unwrap();
    let tensors = vec![
        external("W", &[4, 6], "w.bin", "4096", "96").message(13, Message::new().bytes(1, "checksum").bytes(2, "x")),
        external("tied", &[4, 6], "w.bin", "4096", ""),
        raw("bias", &[6]),
        external("U", &[6, 4], "w.bin", "4288", "96"),
    ];
    let nodes = vec![
        node("MatMul", &["x", "W"], &["a"]),
        node("MatMul", &["x", "tied"], &["b"]),
        node("Add", &["a", "b"], &["c"]),
        node("Add", &["c", "bias"], &["d"]),
        node("MatMul", &["d", "U"], &["y"]),
    ];
    let bytes = model(graph(nodes, tensors, vec![value("x", 1, &[0, 4])], vec![value("y", 1, &[0, 4])]));
    std::fs::write(dir.join("in.onnx"), bytes).unwrap();
    dir.join("in.onnx")
}

#[test]
fn external_data_go_to_a_file_named_by_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let source = OnnxSource::open(&external_model(dir.path()), &Default::default()).unwrap();
    assert_eq!(source.files().iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["in.onnx", "w.bin"]);
    let output = dir.path().join("out.onnx");
    prune(&source, &output, &create()).unwrap();
    let first = names(dir.path());
    assert_eq!(first.len(), 4, "{first:?}");
    assert!(first[2].starts_with("out.onnx.") && first[2].ends_with(".data"), "{first:?}");
    // The same again gives the same name; other content another one, and the old one goes.
    prune(&source, &output, &create()).unwrap();
    assert_eq!(names(dir.path()), first);
    copied(&source, &output);
    let second = names(dir.path());
    assert_eq!(second.len(), 4);
    assert_ne!(second, first);
    let copy = OnnxSource::open(&output, &Default::default()).unwrap();
    for name in ["W", "tied", "bias", "U"] {
        assert!(bytes_of(&copy, name) == bytes_of(&source, name), "{name}");
    }
    // Shared bytes stay shared.
    assert!(copy.files()[1].bytes < 96 * 3 + 192, "{}", copy.files()[1].bytes);
    // A model without external data leaves none behind.
    let (_other, inline) = open(&matmul(vec![raw("W", &[4, 6])])).unwrap();
    prune(&inline, &output, &create()).unwrap();
    assert_eq!(names(dir.path()), ["in.onnx", "out.onnx", "w.bin"]);
}

#[test]
fn a_model_too_large_for_one_file_moves_its_data_out() {
    let (dir, source) = open(&matmul(vec![raw("W", &[4, 600]), raw("small", &[4])])).unwrap();
    let output = dir.path().join("out.onnx");
    let options = CreateOptions { expected_bytes: Some(3 << 30), ..create() };
    prune(&source, &output, &options).unwrap();
    let written = OnnxSource::open(&output, &Default::default()).unwrap();
    assert_eq!(written.files().len(), 2);
    assert!(written.files()[0].bytes < 1024);
}

#[test]
fn an_output_is_never_an_input() {
    let dir = tempfile::tempdir().unwrap();
    let input = external_model(dir.path());
    let source = OnnxSource::open(&input, &Default::default()).unwrap();
    let link = |name: &str, of: &str| {
        std::fs::hard_link(dir.path().join(of), dir.path().join(name)).unwrap();
        dir.path().join(name)
    };
    std::os::unix::fs::symlink(&input, dir.path().join("soft.onnx")).unwrap();
    for output in
        [input.clone(), link("hard.onnx", "in.onnx"), link("data.onnx", "w.bin"), dir.path().join("soft.onnx")]
    {
        let error = source.create(&output, &create()).err().unwrap().to_string();
        assert!(error.contains("is the input"), "{error}");
    }
    std::fs::write(dir.path().join("there.onnx"), "").unwrap();
    let error = source.create(&dir.path().join("there.onnx"), &CreateOptions::default()).err().unwrap();
    assert!(error.to_string().contains("--force"), "{error}");
}

#[test]
fn nothing_is_left_of_a_sink_that_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let source = OnnxSource::open(&external_model(dir.path()), &Default::default()).unwrap();
    let before = names(dir.path());
    let mut sink = source.create(&dir.path().join("out.onnx"), &create()).unwrap();
    sink.put(0, Content::Dense(&Bytes(vec![0; 96]))).unwrap();
    assert!(sink.put(0, Content::Dense(&Bytes(vec![0; 96]))).is_err());
    assert!(sink.put(1, Content::Dense(&Bytes(vec![0; 95]))).is_err());
    drop(sink.finish().unwrap());
    assert_eq!(names(dir.path()), before);
}

#[test]
fn weights_in_branches_and_constants_are_written_in_place() {
    let branch = |name: &str| {
        let constant = node("Constant", &[], &["C"]).message(5, attribute("value", 5, 4, raw("", &[6, 6])));
        let nodes = vec![constant, node("MatMul", &["x", "W"], &["m"]), node("MatMul", &["m", "C"], &[name])];
        graph(nodes, vec![raw("W", &[4, 6])], vec![], vec![value(name, 1, &[0, 6])])
    };
    let choose = node("If", &["c"], &["y"])
        .message(5, attribute("then_branch", 6, 5, branch("t")))
        .message(5, attribute("else_branch", 6, 5, branch("e")));
    let inputs = vec![value("x", 1, &[0, 4]), value("c", 9, &[])];
    let bytes = model(graph(vec![choose], vec![], inputs, vec![value("y", 1, &[0, 6])]));
    let (dir, source) = open(&bytes).unwrap();
    let listed: Vec<&str> = source.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(listed, ["/If/y/then_branch/C", "/If/y/then_branch/W", "/If/y/else_branch/C", "/If/y/else_branch/W"]);
    prune(&source, &dir.path().join("out.onnx"), &create()).unwrap();
    assert_eq!(std::fs::read(dir.path().join("out.onnx")).unwrap().len(), bytes.len());
}

#[test]
fn pairs_of_torch_prune_are_the_pruned_weight() {
    let mask: Vec<f32> = (0..24).map(|i| f32::from(u8::from(i % 3 != 0))).collect();
    let tensors = vec![raw("fc.weight_orig", &[6, 4]), head("fc.weight_mask", &[6, 4], 1).bytes(9, f32s(&mask))];
    let nodes = vec![
        node("Mul", &["fc.weight_orig", "fc.weight_mask"], &["w"]),
        node("Transpose", &["w"], &["wt"]),
        node("MatMul", &["x", "wt"], &["y"]),
    ];
    let bytes = model(graph(nodes, tensors, vec![value("x", 1, &[0, 4])], vec![value("y", 1, &[0, 6])]));
    let (dir, source) = open(&bytes).unwrap();
    assert_eq!(source.tensors()[0].name, "fc.weight");
    let product: Vec<f32> = ramp(24).iter().zip(&mask).map(|(v, m)| v * m).collect();
    assert!(bytes_of(&source, "fc.weight") == f32s(&product));
    assert!(source.tensors()[1].not_a_weight.as_deref() == Some("mask of fc.weight"));
    prune(&source, &dir.path().join("out.onnx"), &create()).unwrap();
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_a_sentence() {
    let (dir, source) = open(&matmul(vec![raw("W", &[4, 6])])).unwrap();
    let path = dir.path().join("in.onnx");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(40).unwrap();
    let error = source.read_at(0, 0, &mut [0; 96]).unwrap_err().to_string();
    assert!(error.contains("in.onnx") && error.contains("truncated"), "{error}");
    let sink = source.create(&dir.path().join("out.onnx"), &create()).unwrap();
    let error = sink.finish().err().unwrap().to_string();
    assert!(error.contains("in.onnx") && error.contains("truncated"), "{error}");
}

#[test]
fn weights_are_replaced_by_pieces_and_nodes() {
    let nodes = vec![node("MatMul", &["x", "W"], &["y"])];
    let inputs = vec![value("x", 1, &[0, 4]), value("W", 1, &[4, 6])];
    let graph = graph(nodes, vec![raw("W", &[4, 6])], inputs, vec![value("y", 1, &[0, 6])]);
    let bytes =
        Message::new().int(1, 3).message(7, graph).message(8, Message::new().bytes(1, "").int(2, 9)).into_bytes();
    let (dir, source) = open(&bytes).unwrap();
    let output = dir.path().join("out.onnx");
    let mut sink = super::OnnxSink::create(source.shared(), &output, &create()).unwrap();
    let graph = source.model().graph.clone();
    let rewrite = sink.rewrite();
    rewrite.remove(graph.initializers[0].message);
    assert!(rewrite.remove_graph_input(&graph, "W"));
    assert!(rewrite.raise_ir_version(4));
    let halves = crate::model::DataType::FLOAT16;
    rewrite.add_initializer(graph.message, "W.half", halves, &[4, 6], &Bytes(vec![0x3c; 48])).unwrap();
    rewrite.add_node_first(graph.message, node("Cast", &["W.half"], &["W.f"]).message(5, int("to", 1)));
    rewrite.add_node_first(graph.message, node("Identity", &["W.f"], &["W"]));
    compress_core::format::Sink::finish(Box::new(sink)).unwrap().commit().unwrap();
    let written = OnnxSource::open(&output, &Default::default()).unwrap();
    let graph = &written.model().graph;
    assert_eq!(written.model().ir_version, 4);
    assert_eq!(graph.nodes.iter().map(|n| n.op_type.as_str()).collect::<Vec<_>>(), ["Cast", "Identity", "MatMul"]);
    assert_eq!(graph.inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["x"]);
    assert!(bytes_of(&written, "W.half") == vec![0x3c; 48]);
}

#[test]
#[ignore = "prunes the files in $ONNX_FILES into the folder $OUT, for a look with other tools"]
fn prune_files() {
    let out = std::path::PathBuf::from(std::env::var("OUT").unwrap());
    for file in std::env::var("ONNX_FILES").unwrap().split(' ') {
        let clock = std::time::Instant::now();
        let source = OnnxSource::open(Path::new(file), &Default::default()).unwrap();
        let opened = clock.elapsed();
        prune(&source, &out.join(Path::new(file).file_name().unwrap()), &create()).unwrap();
        println!("{file}: opened in {opened:?}, all in {:?}", clock.elapsed());
    }
}

/// A tensor of the source with every second f32 zero.
struct Halved<'a>(&'a OnnxSource, usize);

impl compress_core::format::Blocks for Halved<'_> {
    fn bytes(&self) -> u64 {
        self.0.tensors()[self.1].dense_bytes()
    }
    fn fill(&self, offset: u64, out: &mut [u8]) -> compress_core::Result<()> {
        self.0.read_at(self.1, offset, out)?;
        out.chunks_exact_mut(8).for_each(|pair| pair[4..].fill(0));
        Ok(())
    }
}

#[test]
#[ignore = "prunes $ONNX_FILES into the folder $OUT in a stream and says how long it took"]
fn stream_files() {
    let out = std::path::PathBuf::from(std::env::var("OUT").unwrap());
    for file in std::env::var("ONNX_FILES").unwrap().split(' ') {
        let clock = std::time::Instant::now();
        let source = OnnxSource::open(Path::new(file), &Default::default()).unwrap();
        let opened = clock.elapsed();
        let mut sink = source.create(&out.join(Path::new(file).file_name().unwrap()), &create()).unwrap();
        for (id, info) in source.tensors().iter().enumerate() {
            if info.shape.len() == 2 {
                sink.put(id, Content::Dense(&Halved(&source, id))).unwrap();
            }
        }
        let staged = sink.finish().unwrap();
        let written = clock.elapsed();
        staged.reopen().unwrap();
        staged.commit().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        println!("{file}: opened {opened:?}, written {written:?}, all {:?}, {peak}", clock.elapsed());
    }
}
