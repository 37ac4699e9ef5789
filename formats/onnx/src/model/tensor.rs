//! A tensor of the file: what it is, and where its elements lie.

use std::ops::Range;
use std::sync::Arc;

use compress_core::{Error, Result};

use super::dtype::DataType;
use super::spans::MessageId;
use super::typed::Typed;
use crate::packed::PackedRef;
use crate::wire::Input;

/// A tensor, `TensorProto`. Its elements are read from the file when asked for.
#[derive(Clone, Debug)]
pub struct TensorRef {
    /// Its name; empty in most attributes.
    pub name: String,
    /// Element type.
    pub data_type: DataType,
    /// Dimensions; empty for a scalar.
    pub dims: Vec<u64>,
    /// Number of elements.
    pub elements: u64,
    pub(crate) place: Place,
    /// The message itself.
    pub(crate) message: MessageId,
}

/// Where the elements of a tensor lie.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// There are none.
    Empty,
    /// In `raw_data`.
    Raw {
        /// The model's file.
        input: Arc<Input>,
        /// The field, tag included.
        field: Range<u64>,
        /// The payload.
        body: Range<u64>,
    },
    /// In a typed field.
    Typed(Arc<Typed>),
    /// In another file.
    External(Arc<External>),
    /// In pieces, from which a chain of operators rebuilds it.
    Packed(Arc<PackedRef>),
    /// Strings, or a type that is newer than our schema: never read, copied as it is.
    Opaque {
        /// Bytes that the whole message takes.
        bytes: u64,
    },
}

/// Elements in another file.
#[derive(Clone, Debug)]
pub(crate) struct External {
    pub(crate) input: Arc<Input>,
    /// Bytes within the file.
    pub(crate) range: Range<u64>,
    /// The fields `external_data` and `data_location` in the tensor's message.
    pub(crate) fields: Vec<Range<u64>>,
    /// Keys other than location, offset, length.
    pub(crate) other_keys: Vec<(String, String)>,
}

/// Field numbers of the schema that reader and writer share.
pub(crate) mod field {
    pub(crate) const MODEL_IR_VERSION: u32 = 1;
    pub(crate) const GRAPH_NODE: u32 = 1;
    pub(crate) const NODE_INPUT: u32 = 1;
    pub(crate) const NODE_OUTPUT: u32 = 2;
    pub(crate) const GRAPH_INITIALIZER: u32 = 5;
    pub(crate) const TENSOR_DIMS: u32 = 1;
    pub(crate) const TENSOR_TYPE: u32 = 2;
    pub(crate) const TENSOR_NAME: u32 = 8;
    pub(crate) const TENSOR_RAW: u32 = 9;
    pub(crate) const TENSOR_EXTERNAL: u32 = 13;
    pub(crate) const TENSOR_LOCATION: u32 = 14;
    pub(crate) const ENTRY_KEY: u32 = 1;
    pub(crate) const ENTRY_VALUE: u32 = 2;
}

impl TensorRef {
    /// Bytes of the dense layout that [`TensorRef::read_at`] gives; 0 for strings.
    pub fn dense_bytes(&self) -> u64 {
        (u128::from(self.elements) * u128::from(self.data_type.bits())).div_ceil(8) as u64
    }

    /// Whether the elements can be read: all types but strings and those that are newer than our schema.
    pub fn is_readable(&self) -> bool {
        !matches!(self.place, Place::Opaque { .. })
    }

    /// Fills `out` with the dense tensor's little-endian bytes from byte `offset`.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.dense_bytes()) {
            return Err(Error::failed(format!("tensor \"{}\": a read beyond its end", self.name)));
        }
        match &self.place {
            _ if out.is_empty() => Ok(()),
            Place::Empty | Place::Opaque { .. } => {
                Err(Error::failed(format!("tensor \"{}\" of type {} cannot be read", self.name, self.data_type.name())))
            }
            Place::Raw { input, body, .. } => input.read_exact_at(out, body.start + offset),
            Place::Typed(typed) => typed.read_at(self.data_type, offset, out),
            Place::External(external) => external.input.read_exact_at(out, external.range.start + offset),
            Place::Packed(packed) => packed.read_at(offset, out),
        }
        .map_err(|e| if self.name.is_empty() { e } else { e.at(format_args!("tensor \"{}\"", self.name)) })
    }

    /// All of its dense little-endian bytes.
    pub fn read_bytes(&self) -> Result<Vec<u8>> {
        let mut out = vec![0; self.dense_bytes() as usize];
        self.read_at(0, &mut out)?;
        Ok(out)
    }

    /// Its elements, if it is an integer or truth-value tensor of at most 65 536 elements: shapes, axes, indices.
    pub fn read_i64s(&self) -> Result<Option<Vec<i64>>> {
        let width = self.data_type.bits() as usize / 8;
        if !matches!(self.data_type.0, 2..=7 | 9 | 12 | 13) || self.elements > 1 << 16 {
            return Ok(None);
        }
        let bytes = self.read_bytes()?;
        let value = |chunk: &[u8]| {
            let mut wide = [if self.data_type.signed() && chunk[width - 1] & 0x80 != 0 { 0xff } else { 0 }; 8];
            wide[..width].copy_from_slice(chunk);
            i64::from_le_bytes(wide)
        };
        Ok(Some(bytes.chunks_exact(width).map(value).collect()))
    }

    /// Its elements as f32, if it is f32.
    pub fn read_f32s(&self) -> Result<Option<Vec<f32>>> {
        if self.data_type != DataType::FLOAT {
            return Ok(None);
        }
        let word = |c: &[u8]| f32::from_le_bytes([c[0], c[1], c[2], c[3]]);
        Ok(Some(self.read_bytes()?.chunks_exact(4).map(word).collect()))
    }

    /// Bytes that its elements take in the file as they are stored.
    pub fn stored_bytes(&self) -> u64 {
        match &self.place {
            Place::Empty => 0,
            Place::Raw { body, .. } => body.end - body.start,
            Place::Typed(typed) => typed.runs.iter().map(|run| run.span.end - run.span.start).sum(),
            Place::External(external) => external.range.end - external.range.start,
            Place::Packed(packed) => packed.outline.bytes(),
            Place::Opaque { bytes } => *bytes,
        }
    }
}

/// Number of elements of a shape, if it is below 2^60.
pub(crate) fn count_elements(dims: &[u64]) -> Option<u64> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n < 1 << 60)
}
