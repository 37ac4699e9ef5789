use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use compress_core::class::Role;
use compress_core::convert::from_f32;
use compress_core::encode::survey::{Dense, Survey};
use compress_core::encode::terms::{self, Values};
use compress_core::encode::{PackedLayout, ValueCoding, fit, pack};
use compress_core::format::{Content, CreateOptions, OpenOptions, Packed, Source};
use compress_core::progress::Watch;
use compress_core::tensor::Dtype;
use compress_sdk::bitmap::Bitmap;
use compress_sdk::encoding::{Encoding, Layout, Term};

use super::MARK;
use crate::OnnxSource;
use crate::testing::*;
use crate::wire::Message;

mod forms;

fn create() -> CreateOptions {
    CreateOptions { force: true, ..CreateOptions::default() }
}

fn open_path(path: &Path) -> OnnxSource {
    OnnxSource::open(path, &Default::default()).unwrap()
}

/// `n` values of which about a share is not zero; −0.0 and NaN among them.
fn weights(n: usize, share: f64) -> Vec<f32> {
    let value = |i: usize| match (i * 7919 + i / 13) % 1000 {
        r if r as f64 >= share * 1000.0 => 0.0,
        _ if i == 40 => -0.0,
        r => (r as f32 + 1.0) * (i as f32).sin() * 0.001,
    };
    (0..n).map(value).collect()
}

fn sparse(name: &str, dims: &[i64]) -> Message {
    head(name, dims, 1).bytes(9, f32s(&weights(dims.iter().product::<i64>() as usize, 0.3)))
}

fn opset_model(graph: Message, opset: i64) -> Vec<u8> {
    let import = Message::new().bytes(1, "").int(2, opset);
    let ir = if opset < 13 { 6 } else { 8 };
    Message::new().int(1, ir).bytes(2, "test").message(7, graph).message(8, import).into_bytes()
}

/// Gather, LSTM, GRU, RNN, MatMul, a shared weight, an If with a weight in each branch, a Constant, Gemm, Conv.
fn zoo(opset: i64) -> Vec<u8> {
    let branch = |weight: &str, out: &str| {
        let nodes = vec![node("MatMul", &["h2", weight], &[out])];
        graph(nodes, vec![sparse(weight, &[4, 5])], vec![], vec![value(out, 1, &[6, 5])])
    };
    let choose = node("If", &["c"], &["z"])
        .message(5, attribute("then_branch", 6, 5, branch("B1", "t")))
        .message(5, attribute("else_branch", 6, 5, branch("B2", "e")));
    let nodes = vec![
        node("Gather", &["E", "ids"], &["x"]),
        node("LSTM", &["x", "W", "R", "b"], &["Y"]).message(5, int("hidden_size", 4)),
        node("GRU", &["x", "GW", "GR"], &["YG"]).message(5, int("hidden_size", 4)),
        node("RNN", &["x", "NW", "NR"], &["YN"]).message(5, int("hidden_size", 4)),
        node("Add", &["Y", "YG"], &["Y2"]),
        node("Add", &["Y2", "YN"], &["Y3"]),
        node("Reshape", &["Y3", "flat"], &["h"]),
        node("MatMul", &["h", "M"], &["h1"]),
        node("MatMul", &["h1", "M"], &["h2"]),
        choose,
        node("Gemm", &["z", "G", "gb"], &["g"]),
        node("Constant", &[], &["C"]).message(5, attribute("value", 5, 4, sparse("", &[7, 7]))),
        node("MatMul", &["g", "C"], &["gc"]),
        node("Reshape", &["gc", "image"], &["i"]),
        node("Conv", &["i", "K"], &["y"]),
    ];
    let tensors = vec![
        sparse("E", &[11, 5]),
        sparse("W", &[1, 16, 5]),
        sparse("R", &[1, 16, 4]),
        raw("b", &[1, 32]),
        sparse("GW", &[1, 12, 5]),
        sparse("GR", &[1, 12, 4]),
        sparse("NW", &[1, 4, 5]),
        sparse("NR", &[1, 4, 4]),
        i64s("flat", &[6, 4]),
        sparse("M", &[4, 4]),
        sparse("G", &[5, 7]),
        raw("gb", &[7]),
        i64s("image", &[1, 2, 3, 7]),
        sparse("K", &[3, 2, 2, 2]),
    ];
    let inputs = vec![value("ids", 7, &[2, 3]), value("c", 9, &[])];
    opset_model(graph(nodes, tensors, inputs, vec![value("y", 1, &[1, 3, 2, 6])]), opset)
}

/// A weight as the output.
fn lone(data_type: i64, dims: &[i64], bytes: Vec<u8>, opset: i64) -> Vec<u8> {
    let nodes = vec![node("Cast", &["W"], &["y"]).message(5, int("to", if data_type == 11 { 11 } else { 1 }))];
    let out = value("y", if data_type == 11 { 11 } else { 1 }, dims);
    opset_model(graph(nodes, vec![head("W", dims, data_type).bytes(9, bytes)], vec![], vec![out]), opset)
}

fn values_of(source: &dyn Source, id: usize) -> Values {
    let info = &source.tensors()[id];
    let mut bytes = vec![0; info.dense_bytes() as usize];
    source.read_at(id, 0, &mut bytes).unwrap();
    Values { dtype: info.dtype.clone(), shape: info.shape.clone(), bytes }
}

/// How all weights of a model are packed.
#[derive(Clone, Copy, Debug)]
enum How {
    Placed(PackedLayout, ValueCoding),
    Factored(ValueCoding),
    Hashed(ValueCoding),
    Sum(ValueCoding),
}

fn floats(dense: &Values) -> Vec<f32> {
    let mut out = vec![0.0; dense.elements() as usize];
    compress_core::convert::to_f32(&dense.dtype, &dense.bytes, &mut out);
    out
}

/// Hands a packed tensor on.
fn packed(dense: &mut Values, how: How, mut to: impl FnMut(&Packed<'_>)) -> bool {
    let n = dense.elements() as usize;
    let cols = *dense.shape.last().unwrap() as usize;
    let rows = n / cols;
    let encoding = |terms: Vec<Term>| Encoding { rows, cols, terms };
    let factored = || Term { layout: Layout::Factored { rank: 2 }, values: ramp((rows + cols) * 2) };
    let (term, coding) = match how {
        How::Placed(layout, coding) => {
            let Ok(fitted) = fit::fit(dense, coding, layout != PackedLayout::Dense, Watch::silent()) else {
                return false;
            };
            let dtype = dense.dtype.clone();
            fitted.round_trip(&dtype, false, 0, &mut dense.bytes);
            let survey = Survey::of(dense, Watch::silent()).unwrap();
            if pack::possible(dense, &survey, &fitted).iter().all(|o| o.terms[0].layout != layout) {
                return false;
            }
            to(&pack::Packing { dense, survey: &survey, layout, fitted: &fitted }.packed());
            return true;
        }
        How::Factored(coding) => (encoding(vec![factored()]), coding),
        How::Hashed(coding) => {
            let values = ramp(13);
            (encoding(vec![Term { layout: Layout::Hashed { seed: 5 }, values }]), coding)
        }
        How::Sum(coding) => {
            let all = floats(dense);
            let mut bits = Bitmap::new(n, false);
            all.iter().enumerate().filter(|(_, v)| **v != 0.0).for_each(|(i, _)| bits.set(i, true));
            let values = all.into_iter().filter(|v| *v != 0.0).collect();
            (encoding(vec![factored(), Term { layout: Layout::Sparse(bits), values }]), coding)
        }
    };
    to(&terms::pack(&term, &dense.dtype, &dense.shape, coding).unwrap());
    true
}

/// Packs all weights of a model. Checks what a second opening finds, that a copy is equal, and unpacks it again.
fn round_trip(input: &Path, packed_path: &Path, dense_path: &Path, how: How) -> usize {
    let source = open_path(input);
    let ids: Vec<usize> = (0..source.tensors().len())
        .filter(|id| {
            matches!(source.roles().unwrap().tensors[*id], Role::Weight(_)) || source.tensors()[*id].name == "W"
        })
        .collect();
    let mut all: BTreeMap<usize, Values> = ids.iter().map(|id| (*id, values_of(&source, *id))).collect();
    let mut options = create();
    for (id, dense) in &mut all {
        packed(dense, how, |p| {
            options.outlines.insert(*id, p.outline());
        });
    }
    let mut sink = source.create(packed_path, &options).unwrap();
    for (id, dense) in &mut all {
        packed(dense, how, |p| sink.put(*id, Content::Packed(p)).unwrap());
    }
    let staged = sink.finish().unwrap();
    staged.reopen().unwrap();
    staged.commit().unwrap();
    let written = open_path(packed_path);
    let names = |s: &OnnxSource| -> Vec<_> {
        s.tensors().iter().map(|t| (t.name.clone(), t.shape.clone(), t.dtype.clone(), t.not_a_weight.clone())).collect()
    };
    assert_eq!(names(&written), names(&source), "{how:?}");
    let roles = |s: &OnnxSource| format!("{:?}", s.roles().unwrap());
    assert_eq!(roles(&written), roles(&source), "{how:?}");
    for (id, outline) in &options.outlines {
        // Dense and plain is what an ordinary initialiser is.
        let plain = matches!(how, How::Placed(PackedLayout::Dense, ValueCoding::Plain));
        assert_eq!(written.packed(*id), Some(outline.terms[0].layout).filter(|_| !plain), "{how:?}");
        assert_eq!(written.tensors()[*id].stored_bytes, outline.bytes());
        if let How::Placed(..) = how {
            assert!(values_of(&written, *id).bytes == all[id].bytes, "{how:?} {}", written.tensors()[*id].name);
        }
    }
    // Nothing changed: byte for byte.
    let copy = packed_path.with_extension("copy");
    written.create(&copy, &create()).unwrap().finish().unwrap().commit().unwrap();
    if written.files().len() == 1 {
        assert!(std::fs::read(&copy).unwrap() == std::fs::read(packed_path).unwrap());
    }
    assert_eq!(open_path(&copy).packed(ids[0]), written.packed(ids[0]));
    // Unpacked.
    let mut sink = written.create(dense_path, &create()).unwrap();
    for id in options.outlines.keys() {
        sink.put(*id, Content::Dense(&Bytes(values_of(&written, *id).bytes))).unwrap();
    }
    sink.finish().unwrap().commit().unwrap();
    let dense = open_path(dense_path);
    assert_eq!(names(&dense), names(&source), "{how:?}");
    for id in 0..dense.tensors().len() {
        assert!(dense.packed(id).is_none());
        assert!(values_of(&dense, id).bytes == values_of(&written, id).bytes);
    }
    assert!(!String::from_utf8_lossy(&std::fs::read(dense_path).unwrap()).contains(MARK));
    options.outlines.len()
}

/// The Python of the tests, if there is one.
fn python() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/prepare.sh");
    let said = Command::new("bash").arg(script).output().ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    if path.as_os_str().is_empty() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&said.stderr));
        return None;
    }
    Some(path)
}

/// Asks the ONNX checker, ONNX Runtime and the reference runtime about pairs of files: packed, dense, and how far they may
/// be apart.
fn judge(lines: &[String]) {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    std::fs::write(&list, lines.join("\n")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packed.py");
    let said = Command::new(python).arg(script).arg(list).output().unwrap();
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
}

fn ways() -> Vec<How> {
    use ValueCoding::{Bf16, Codebook, F16, Int8, Plain};
    let mut ways = Vec::new();
    for coding in [Plain, F16, Bf16, Int8, Codebook(1), Codebook(3), Codebook(4), Codebook(8)] {
        for layout in [PackedLayout::Dense, PackedLayout::Mask, PackedLayout::Deltas, PackedLayout::Rice] {
            ways.push(How::Placed(layout, coding));
        }
        ways.extend([How::Factored(coding), How::Hashed(coding), How::Sum(coding)]);
    }
    ways
}

fn coding_of(how: How) -> ValueCoding {
    let (How::Placed(_, c) | How::Factored(c) | How::Hashed(c) | How::Sum(c)) = how;
    c
}

/// A coding of each kind.
fn few_ways() -> impl Iterator<Item = How> {
    use ValueCoding::{Codebook, Int8, Plain};
    ways().into_iter().filter(|how| matches!(coding_of(*how), Plain | Int8 | Codebook(3)))
}

fn case(dir: &Path, lines: &mut Vec<String>, bytes: &[u8], how: How) {
    let path = |kind: &str| dir.join(format!("{}.{kind}.onnx", lines.len()));
    std::fs::write(path("in"), bytes).unwrap();
    if round_trip(&path("in"), &path("packed"), &path("dense"), how) > 0 {
        // Another order of summation may round otherwise: by a last bit of the type.
        let source = open_path(&path("in"));
        let tolerance = match (how, &source.tensors()[0].dtype) {
            (How::Placed(..) | How::Hashed(_), _) => 0.0,
            (_, Dtype::F16) => 1e-3,
            (_, Dtype::Bf16) => 1e-2,
            _ => 1e-5,
        };
        lines.push(format!("{} {} {tolerance} {how:?}", path("packed").display(), path("dense").display()));
    }
}

/// bf16 came with opset 13.
fn known_at(opset: i64, how: How) -> bool {
    opset >= 13 || coding_of(how) != ValueCoding::Bf16
}

#[test]
fn every_operator_at_every_opset() {
    let (dir, mut lines) = (tempfile::tempdir().unwrap(), Vec::new());
    // Each way at one of the opsets; all at all of them, which takes minutes, with COMPRESS_TEST_ALL set.
    let all = std::env::var_os("COMPRESS_TEST_ALL").is_some();
    for (turn, opset) in [11, 13, 17, 20].into_iter().enumerate() {
        let known = ways().into_iter().enumerate().filter(|(_, how)| known_at(opset, *how));
        for (_, how) in known.filter(|(i, _)| all || (i + turn).is_multiple_of(4)) {
            case(dir.path(), &mut lines, &zoo(opset), how);
        }
    }
    judge(&lines);
}

#[test]
fn every_type_and_odd_sizes() {
    let (dir, mut lines) = (tempfile::tempdir().unwrap(), Vec::new());
    let types = [(Dtype::F32, 1), (Dtype::F16, 10), (Dtype::Bf16, 16), (Dtype::F64, 11)];
    let of = |dtype: &Dtype, values: &[f32]| {
        let mut bytes = vec![0; values.len() * dtype.float_bytes().unwrap()];
        from_f32(dtype, values, &mut bytes);
        bytes
    };
    for (dtype, data_type) in types {
        for (dims, share) in [([1i64, 1], 1.0), ([9, 7], 0.0), ([65, 11], 0.004)] {
            let bytes = of(&dtype, &weights((dims[0] * dims[1]) as usize, share));
            for how in few_ways() {
                case(dir.path(), &mut lines, &lone(data_type, &dims, bytes.clone(), 17), how);
            }
        }
        let mut values = weights(300, 0.3);
        (values[7], values[8]) = (f32::NAN, f32::INFINITY);
        for how in few_ways().filter(|how| matches!(how, How::Placed(_, ValueCoding::Plain))) {
            case(dir.path(), &mut lines, &lone(data_type, &[3, 20, 5], of(&dtype, &values), 17), how);
        }
        for opset in [11, 13, 20].into_iter().filter(|opset| *opset >= 13 || dtype != Dtype::Bf16) {
            for how in ways().into_iter().filter(|how| known_at(opset, *how)) {
                let bytes = of(&dtype, &weights(65 * 11, 0.1));
                case(dir.path(), &mut lines, &lone(data_type, &[65, 11], bytes, opset), how);
            }
        }
    }
    judge(&lines);
}

#[test]
fn external_data_and_initialisers_that_are_inputs() {
    let (dir, mut lines) = (tempfile::tempdir().unwrap(), Vec::new());
    let nodes = || vec![node("MatMul", &["x", "W"], &["m"]), node("MatMul", &["m", "V"], &["y"])];
    let ends = || (vec![value("x", 1, &[3, 64])], vec![value("y", 1, &[3, 64])]);
    let data = f32s(&weights(64 * 64, 0.5));
    std::fs::write(dir.path().join("w.bin"), [data.clone(), data].concat()).unwrap();
    let tensors = vec![
        external("W", &[64, 64], "w.bin", "0", "16384"),
        external("V", &[64, 64], "w.bin", "16384", "16384"),
        external("b", &[4096], "w.bin", "16384", "16384"),
    ];
    let bytes = model(graph(nodes(), tensors, ends().0, ends().1));
    for layout in [PackedLayout::Mask, PackedLayout::Deltas] {
        case(dir.path(), &mut lines, &bytes, How::Placed(layout, ValueCoding::Plain));
        let written = open_path(&dir.path().join(format!("{}.packed.onnx", lines.len() - 1)));
        let (files, pieces) = (written.files(), written.tensors()[0].stored_bytes);
        assert_eq!(files.len(), 2);
        assert!(files[0].bytes < 8 << 10 && files[1].bytes > (2 * 8) << 10, "{files:?} {pieces}");
    }
    let (mut inputs, outputs) = ends();
    inputs.extend([value("W", 1, &[64, 64]), value("V", 1, &[64, 64])]);
    let graph = graph(nodes(), vec![sparse("W", &[64, 64]), sparse("V", &[64, 64])], inputs, outputs);
    let import = Message::new().bytes(1, "").int(2, 11);
    let old = Message::new().int(1, 3).message(7, graph).message(8, import).into_bytes();
    case(dir.path(), &mut lines, &old, How::Placed(PackedLayout::Mask, ValueCoding::Plain));
    let written = open_path(&dir.path().join(format!("{}.packed.onnx", lines.len() - 1)));
    let source = open_path(&dir.path().join(format!("{}.in.onnx", lines.len() - 1)));
    let mut sink = source.create(&dir.path().join("warns.onnx"), &create()).unwrap();
    packed(&mut values_of(&source, 0), How::Placed(PackedLayout::Mask, ValueCoding::Plain), |p| {
        sink.put(0, Content::Packed(p)).unwrap();
    });
    let warnings = sink.finish().unwrap().warnings().join("; ");
    assert!(warnings.contains("\"W\"") && warnings.contains("raised from 3 to 4"), "{warnings}");
    assert_eq!(written.model().ir_version, 4);
    assert_eq!(written.model().graph.inputs.len(), 1);
    judge(&lines);
}

/// A packed W of [8, 8], its bytes changed before it is opened.
fn hostile(how: How, change: impl Fn(&mut Vec<Message>, &mut Vec<Message>)) -> compress_core::Result<OnnxSource> {
    let values = weights(64, 0.3);
    let mut dense = Values { dtype: Dtype::F32, shape: vec![8, 8], bytes: f32s(&values) };
    let (mut nodes, mut tensors) = (Vec::new(), Vec::new());
    packed(&mut dense, how, |p| {
        let chain = super::chain::build("W__compress", "W", &p.outline()).unwrap();
        nodes.extend(chain.ops.iter().map(|op| op.message()));
        for piece in &p.terms[0].pieces {
            let dims: Vec<i64> = piece.shape.iter().map(|d| *d as i64).collect();
            let data_type = i64::from(crate::model::DataType::of(&piece.dtype).unwrap().0);
            let name = format!("W__compress/0.{}", piece.role);
            tensors.push(head(&name, &dims, data_type).bytes(9, terms::collect(piece.data.as_ref()).unwrap()));
        }
        for c in &chain.constants {
            let dims: Vec<i64> = c.dims.iter().map(|d| *d as i64).collect();
            tensors.push(head(&c.name, &dims, i64::from(c.data_type.0)).bytes(9, &c.bytes));
        }
    });
    change(&mut nodes, &mut tensors);
    nodes.push(node("MatMul", &["x", "W"], &["y"]));
    let bytes = model(graph(nodes, tensors, vec![value("x", 1, &[0, 8])], vec![value("y", 1, &[0, 8])]));
    let (_dir, path) = file(&bytes);
    let options = OpenOptions { max_expand: 16, ..Default::default() };
    OnnxSource::open(&path, &options)
}

#[test]
fn chains_are_believed_only_when_they_are_whole() {
    for layout in [PackedLayout::Mask, PackedLayout::Deltas] {
        let how = How::Placed(layout, ValueCoding::Plain);
        let whole = hostile(how, |_, _| {}).unwrap();
        assert_eq!((whole.tensors().len(), whole.packed(0)), (1, Some(layout)));
        assert!(bytes_of(&whole, "W") == f32s(&weights(64, 0.3)));
        let other = |change: &dyn Fn(&mut Vec<Message>, &mut Vec<Message>)| {
            let source = hostile(how, change).unwrap();
            assert!(source.packed(0).is_none() && source.tensors().len() > 3);
        };
        // Another operator, one less, one more that reads a piece, another constant.
        other(&|nodes, _| nodes[0] = node("Neg", &["W__compress/0.values"], &["W__compress/0"]));
        other(&|nodes, _| drop(nodes.remove(1)));
        other(&|nodes, _| nodes.push(node("Neg", &["W__compress/0.values"], &["v"])));
        other(&|_, tensors| tensors.push(i64s("W__compress/k99", &[1])));
        other(&|_, tensors| tensors[2] = i64s("W__compress/F32", &[8, 9]));
        other(&|_, tensors| tensors[2] = i64s("W__compress/F32", &[-8, -8]));
        // A mask or deltas that do not fit the values: on reading the header, or on reading.
        let refused = |change: &dyn Fn(&mut Vec<Message>, &mut Vec<Message>)| match hostile(how, change) {
            Err(e) => e.to_string(),
            Ok(source) => {
                assert!(source.packed(0).is_some(), "not recognised");
                source.read_at(0, 0, &mut [0; 256]).unwrap_err().to_string()
            }
        };
        let fewer = refused(&|_, tensors| tensors[0] = raw("W__compress/0.values", &[3]));
        assert!(fewer.contains('W'), "{fewer}");
        let role = if layout == PackedLayout::Mask { "mask" } else { "deltas" };
        let name = format!("W__compress/0.{role}");
        let count = if layout == PackedLayout::Mask { 8 } else { whole.tensors()[0].stored_bytes as i64 / 5 };
        refused(&|_, tensors| tensors[1] = head(&name, &[count], 2).bytes(9, vec![255; count as usize]));
        refused(&|_, tensors| tensors[1] = head(&name, &[count], 2).bytes(9, vec![0; count as usize]));
    }
    // A name alone is nothing.
    let bytes = matmul(vec![raw("W", &[4, 6]), raw("W__compress/0.values", &[4])]);
    assert_eq!(open(&bytes).unwrap().1.tensors().len(), 2);
}

#[test]
fn factors_buckets_and_scales_that_do_not_fit_are_refused() {
    use ValueCoding::{Codebook, Int8, Plain};
    let tensor = |name: &'static str, dims: &'static [i64], data_type: i64, bytes: Vec<u8>| {
        move |_: &mut Vec<Message>, tensors: &mut Vec<Message>| {
            let full = format!("W__compress/0.{name}");
            let second = ["scale", "codebook", "hash", "v"].contains(&name);
            tensors[usize::from(second)] = head(&full, dims, data_type).bytes(9, bytes.clone());
        }
    };
    let bytes = |n: usize| vec![0u8; n];
    type Change = Box<dyn Fn(&mut Vec<Message>, &mut Vec<Message>)>;
    let cases: Vec<(How, &str, Change)> = vec![
        (How::Factored(Plain), "do not multiply", Box::new(tensor("u", &[8, 3], 1, bytes(96)))),
        (How::Factored(Plain), "do not multiply", Box::new(tensor("u", &[4, 2], 1, bytes(32)))),
        (How::Factored(Plain), "do not multiply", Box::new(tensor("v", &[2, 7], 1, bytes(56)))),
        (How::Factored(Plain), "not two dimensions", Box::new(tensor("v", &[2, 8, 1], 1, bytes(64)))),
        (How::Hashed(Plain), "names 0 buckets", Box::new(tensor("hash", &[5], 7, bytes(40)))),
        (How::Hashed(Plain), "buckets", Box::new(tensor("values", &[0], 1, bytes(0)))),
        (How::Placed(PackedLayout::Mask, Int8), "scales", Box::new(tensor("scale", &[8], 1, bytes(32)))),
        (How::Placed(PackedLayout::Mask, Int8), "scales", Box::new(tensor("scale", &[4, 1], 1, bytes(16)))),
        (
            How::Placed(PackedLayout::Mask, Codebook(4)),
            "\"codebook\"",
            Box::new(tensor("codebook", &[16], 10, bytes(32))),
        ),
    ];
    for (how, expected, change) in cases {
        let said = match hostile(how, change) {
            Err(e) => e.to_string(),
            Ok(source) => {
                assert!(source.packed(0).is_some(), "{expected}: not recognised");
                source.read_at(0, 0, &mut [0; 256]).unwrap_err().to_string()
            }
        };
        assert!(said.contains(expected) && said.contains('W'), "{expected}: {said}");
    }
}

#[test]
fn what_unfolds_too_far_is_refused() {
    let mut dense = Values { dtype: Dtype::F32, shape: vec![64, 64], bytes: vec![0; 1 << 14] };
    let (dir, source) = open(&matmul(vec![head("W", &[64, 64], 1).bytes(9, vec![0; 1 << 14])])).unwrap();
    let output = dir.path().join("out.onnx");
    let mut sink = source.create(&output, &create()).unwrap();
    packed(&mut dense, How::Placed(PackedLayout::Mask, ValueCoding::Plain), |p| {
        sink.put(0, Content::Packed(p)).unwrap();
    });
    sink.finish().unwrap().commit().unwrap();
    assert!(OnnxSource::open(&output, &OpenOptions { max_expand: 32, ..Default::default() }).is_ok());
    let error = OnnxSource::open(&output, &OpenOptions { max_expand: 31, ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("--max-expand") && error.to_string().contains("\"W\""), "{error}");
}

#[test]
fn opsets_without_the_operators_are_refused() {
    let mut dense = Values { dtype: Dtype::F32, shape: vec![4, 6], bytes: f32s(&weights(24, 0.3)) };
    let (dir, source) = open(&lone(1, &[4, 6], dense.bytes.clone(), 10)).unwrap();
    let mut sink = source.create(&dir.path().join("out.onnx"), &create()).unwrap();
    packed(&mut dense, How::Placed(PackedLayout::Mask, ValueCoding::Plain), |p| {
        let error = sink.put(0, Content::Packed(p)).unwrap_err().to_string();
        assert!(error.contains("opset 10"), "{error}");
    });
}

#[test]
#[ignore = "packs $ONNX_FILES into the folder $OUT, for measurements"]
fn pack_files() {
    let out = PathBuf::from(std::env::var("OUT").unwrap());
    for file in std::env::var("ONNX_FILES").unwrap().split(' ') {
        let input = Path::new(file);
        for (name, how) in [
            ("mask", How::Placed(PackedLayout::Mask, ValueCoding::Plain)),
            ("deltas", How::Placed(PackedLayout::Deltas, ValueCoding::Plain)),
            ("mask8", How::Placed(PackedLayout::Mask, ValueCoding::Int8)),
            ("deltas8", How::Placed(PackedLayout::Deltas, ValueCoding::Int8)),
            ("mask-c4", How::Placed(PackedLayout::Mask, ValueCoding::Codebook(4))),
            ("deltas-c4", How::Placed(PackedLayout::Deltas, ValueCoding::Codebook(4))),
        ] {
            let path = |kind: &str| out.join(format!("{}.{name}.{kind}", input.file_stem().unwrap().to_str().unwrap()));
            round_trip(input, &path("onnx"), &path("dense.onnx"), how);
        }
    }
}
