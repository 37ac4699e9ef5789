//! Small models for tests, built by our own wire writer.

use std::path::{Path, PathBuf};

use compress_core::Result;
use compress_core::class::Role;
use compress_core::format::{Blocks, Content, CreateOptions, Source};

use crate::OnnxSource;
use crate::wire::Message;

/// Bytes of f32 values.
pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// `n` different f32 values.
pub(crate) fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37).sin() + 0.01).collect()
}

/// Dimensions, element type and name of a tensor.
pub(crate) fn head(name: &str, dims: &[i64], data_type: i64) -> Message {
    Message::new().packed(1, dims.iter().copied()).int(2, data_type).bytes(8, name)
}

/// An f32 tensor in `raw_data`, of the values of [`ramp`].
pub(crate) fn raw(name: &str, dims: &[i64]) -> Message {
    let n = dims.iter().product::<i64>() as usize;
    head(name, dims, 1).bytes(9, f32s(&ramp(n)))
}

/// An I64 tensor of one dimension.
pub(crate) fn i64s(name: &str, values: &[i64]) -> Message {
    head(name, &[values.len() as i64], 7).bytes(9, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

/// An f32 tensor in another file.
pub(crate) fn external(name: &str, dims: &[i64], location: &str, offset: &str, length: &str) -> Message {
    let entry = |k: &str, v: &str| Message::new().bytes(1, k).bytes(2, v);
    let mut tensor = head(name, dims, 1).message(13, entry("location", location));
    for (key, value) in [("offset", offset), ("length", length)] {
        if !value.is_empty() {
            tensor = tensor.message(13, entry(key, value));
        }
    }
    tensor.int(14, 1)
}

/// A node: operator, inputs, outputs.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = inputs.iter().fold(Message::new(), |m, i| m.bytes(1, i));
    outputs.iter().fold(node, |m, o| m.bytes(2, o)).bytes(3, format!("/{op}/{}", outputs[0])).bytes(4, op)
}

/// An attribute: name, number of the field, type, value.
pub(crate) fn attribute(name: &str, field: u32, kind: i64, value: Message) -> Message {
    Message::new().bytes(1, name).message(field, value).int(20, kind)
}

/// An integer attribute.
pub(crate) fn int(name: &str, value: i64) -> Message {
    Message::new().bytes(1, name).int(3, value).int(20, 2)
}

/// A graph's input or output: name, element type, dimensions (0 = any).
pub(crate) fn value(name: &str, data_type: i64, dims: &[i64]) -> Message {
    let dim = |d: &i64| if *d == 0 { Message::new().bytes(2, "n") } else { Message::new().int(1, *d) };
    let shape = dims.iter().fold(Message::new(), |m, d| m.message(1, dim(d)));
    let tensor = Message::new().int(1, data_type).message(2, shape);
    Message::new().bytes(1, name).message(2, Message::new().message(1, tensor))
}

/// A graph of nodes, initialisers, inputs and outputs.
pub(crate) fn graph(
    nodes: Vec<Message>,
    tensors: Vec<Message>,
    inputs: Vec<Message>,
    outputs: Vec<Message>,
) -> Message {
    let graph = nodes.into_iter().fold(Message::new(), |m, n| m.message(1, n)).bytes(2, "g");
    let graph = tensors.into_iter().fold(graph, |m, t| m.message(5, t));
    let graph = inputs.into_iter().fold(graph, |m, i| m.message(11, i));
    outputs.into_iter().fold(graph, |m, o| m.message(12, o))
}

/// A model of opset 17 around a graph.
pub(crate) fn model(graph: Message) -> Vec<u8> {
    let opset = Message::new().bytes(1, "").int(2, 17);
    Message::new().int(1, 8).bytes(2, "test").message(7, graph).message(8, opset).into_bytes()
}

/// y = x·W, with these initialisers instead of the plain W.
pub(crate) fn matmul(tensors: Vec<Message>) -> Vec<u8> {
    let nodes = vec![node("MatMul", &["x", "W"], &["y"])];
    model(graph(nodes, tensors, vec![value("x", 1, &[0, 4])], vec![value("y", 1, &[0, 6])]))
}

/// A folder of its own, and a file in it.
pub(crate) fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.onnx");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// Opens bytes as a model.
pub(crate) fn open(bytes: &[u8]) -> Result<(tempfile::TempDir, OnnxSource)> {
    let (dir, path) = file(bytes);
    let source = OnnxSource::open(&path, &Default::default())?;
    Ok((dir, source))
}

/// All bytes of a tensor by name.
pub(crate) fn bytes_of(source: &dyn Source, name: &str) -> Vec<u8> {
    let id = source.tensors().iter().position(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
    let mut out = vec![0; source.tensors()[id].dense_bytes() as usize];
    source.read_at(id, 0, &mut out).unwrap();
    out
}

/// Blocks of bytes in memory.
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Blocks for Bytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.0[offset as usize..][..out.len()]);
        Ok(())
    }
}

/// Writes a model with all its weights' bytes put to zero where the element's number is odd; checks what a second
/// opening finds.
pub(crate) fn prune(source: &OnnxSource, output: &Path, options: &CreateOptions) -> Result<()> {
    let mut sink = source.create(output, options)?;
    let mut meant = Vec::new();
    for (id, info) in source.tensors().iter().enumerate() {
        let mut bytes = vec![0; info.dense_bytes() as usize];
        if source.model().graph.initializers.is_empty() || info.dtype.bits() > 0 {
            source.read_at(id, 0, &mut bytes)?;
        }
        if let (Role::Weight(_), Some(width)) = (&source.roles().unwrap().tensors[id], info.dtype.float_bytes()) {
            bytes.chunks_mut(width).skip(1).step_by(2).for_each(|b| b.fill(0));
            sink.put(id, Content::Dense(&Bytes(bytes.clone())))?;
        } else {
            sink.put(id, Content::Same)?;
        }
        meant.push((info.name.clone(), bytes));
    }
    let staged = sink.finish()?;
    let check = |written: &dyn Source| {
        assert_eq!(written.tensors().len(), meant.len());
        for (name, bytes) in &meant {
            let id = written.tensors().iter().position(|t| t.name == *name).unwrap();
            if written.tensors()[id].dtype.bits() > 0 {
                assert!(bytes_of(written, name) == *bytes, "{name}");
            }
        }
    };
    check(&*staged.reopen()?);
    staged.commit()?;
    check(&OnnxSource::open(output, &Default::default())?);
    Ok(())
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
