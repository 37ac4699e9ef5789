//! Reads `AttributeProto`.

use std::ops::Range;

use compress_core::Result;

use super::parse::Parser;
use super::{Attribute, Graph, MessageId, SparseRef, TensorRef};
use crate::wire::{Field, Value};

/// Bytes of an attribute's list of numbers or of a string; longer ones are not held in memory.
const LIST: u64 = 1 << 20;

impl Parser<'_> {
    pub(super) fn attribute(
        &mut self,
        parent: MessageId,
        span: &Range<u64>,
        body: &Range<u64>,
    ) -> Result<(String, Attribute)> {
        let message = self.spans.add(parent, span.clone(), body.clone());
        let mut draft = AttributeDraft::default();
        self.cursor.seek(body.start);
        while let Some(f) = self.cursor.field(body.end)? {
            self.attribute_field(&mut draft, message, &f)?;
            self.cursor.seek(f.span.end);
        }
        Ok((std::mem::take(&mut draft.name), draft.value()))
    }

    fn attribute_field(&mut self, draft: &mut AttributeDraft, message: MessageId, f: &Field) -> Result<()> {
        let short = |range: &Range<u64>| range.end - range.start <= LIST;
        match (f.number, &f.value) {
            (1, Value::Bytes(range)) => draft.name = self.string(range)?,
            (2, Value::Fixed32(v)) => draft.float = Some(f32::from_bits(*v)),
            (3, Value::Varint(v)) => draft.int = Some(*v as i64),
            (4, Value::Bytes(range)) if short(range) => draft.string = Some(self.cursor.bytes(range, LIST, "")?),
            (5, Value::Bytes(b)) => {
                self.once(&draft.tensor, f)?;
                draft.tensor = Some(self.tensor(message, &f.span, b)?);
            }
            (6, Value::Bytes(b)) => {
                self.once(&draft.graph, f)?;
                draft.graph = Some(self.graph(message, &f.span, b)?);
            }
            (7, Value::Fixed32(v)) => draft.floats.push(f32::from_bits(*v)),
            (7, Value::Bytes(range)) if short(range) => {
                let bytes = self.cursor.bytes(range, LIST, "")?;
                if bytes.len() % 4 != 0 {
                    return Err(self.cursor.broken(f.span.start, "packed numbers with a broken one at the end"));
                }
                draft.floats.extend(bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])));
            }
            (8, Value::Bytes(range)) if !short(range) => draft.other = true,
            (8, value) => self.integers(value, |_, v| {
                draft.ints.push(v as i64);
                Ok(())
            })?,
            (9, Value::Bytes(range)) if short(range) => draft.strings.push(self.cursor.bytes(range, LIST, "")?),
            (10, Value::Bytes(b)) => draft.tensors.push(self.tensor(message, &f.span, b)?),
            (11, Value::Bytes(b)) => draft.graphs.push(self.graph(message, &f.span, b)?),
            (20, Value::Varint(v)) => draft.kind = *v,
            (21, Value::Bytes(range)) => draft.reference = self.string(range)?,
            (22, Value::Bytes(b)) => {
                self.once(&draft.sparse, f)?;
                draft.sparse = Some(self.sparse(message, &f.span, b)?);
            }
            (4 | 7 | 9, Value::Bytes(_)) => draft.other = true,
            (1..=11 | 20..=22, _) => return Err(self.wrong_type(f)),
            _ => {}
        }
        Ok(())
    }
}

/// An `AttributeProto` as it stands.
#[derive(Default)]
struct AttributeDraft {
    name: String,
    kind: u64,
    float: Option<f32>,
    int: Option<i64>,
    string: Option<Vec<u8>>,
    tensor: Option<TensorRef>,
    graph: Option<Graph>,
    floats: Vec<f32>,
    ints: Vec<i64>,
    strings: Vec<Vec<u8>>,
    tensors: Vec<TensorRef>,
    graphs: Vec<Graph>,
    sparse: Option<SparseRef>,
    reference: String,
    other: bool,
}

impl AttributeDraft {
    /// The value that the attribute's type names. Defaults count: an attribute of type INT without a value is 0.
    fn value(self) -> Attribute {
        if !self.reference.is_empty() {
            return Attribute::Reference(self.reference);
        }
        if self.other {
            return Attribute::Other;
        }
        let kind = if self.kind == 0 { self.guess() } else { self.kind };
        match kind {
            1 => Attribute::Float(self.float.unwrap_or(0.0)),
            2 => Attribute::Int(self.int.unwrap_or(0)),
            3 => Attribute::String(self.string.unwrap_or_default()),
            4 => self.tensor.map_or(Attribute::Other, |t| Attribute::Tensor(Box::new(t))),
            5 => self.graph.map_or(Attribute::Other, |g| Attribute::Graph(Box::new(g))),
            6 => Attribute::Floats(self.floats),
            7 => Attribute::Ints(self.ints),
            8 => Attribute::Strings(self.strings),
            9 => Attribute::Tensors(self.tensors),
            10 => Attribute::Graphs(self.graphs),
            11 => self.sparse.map_or(Attribute::Other, |s| Attribute::Sparse(Box::new(s))),
            _ => Attribute::Other,
        }
    }

    /// Files of IR version 1 have no type field.
    fn guess(&self) -> u64 {
        let present = [
            (self.float.is_some(), 1),
            (self.int.is_some(), 2),
            (self.string.is_some(), 3),
            (self.tensor.is_some(), 4),
            (self.graph.is_some(), 5),
            (!self.floats.is_empty(), 6),
            (!self.ints.is_empty(), 7),
            (!self.strings.is_empty(), 8),
            (!self.tensors.is_empty(), 9),
            (!self.graphs.is_empty(), 10),
            (self.sparse.is_some(), 11),
        ];
        present.iter().find(|(there, _)| *there).map_or(0, |(_, kind)| *kind)
    }
}
