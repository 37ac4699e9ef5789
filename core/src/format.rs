//! What core needs of a file format. Formats implement these traits; core never learns which format it has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::class::Roles;
use crate::encode::Decoder;
pub use crate::encode::outline::{Outline, PackedLayout, PieceOutline, TermOutline, ValueCoding};
use crate::error::Result;
use crate::tensor::{Dtype, TensorId, TensorInfo};

/// A file format.
pub trait Format: Send + Sync {
    /// `"onnx"`, `"safetensors"`.
    fn name(&self) -> &'static str;
    /// Whether a path looks like this format: by its name, and for files with other names by the content's beginning.
    fn recognises(&self, path: &Path) -> bool;
    /// Reads headers (never payloads), checks all that can be checked without them.
    fn open(&self, path: &Path, options: &OpenOptions) -> Result<Box<dyn Source>>;
    /// Whether a layout and coding of values can be written at all.
    fn stores(&self, layout: PackedLayout, values: ValueCoding) -> bool;
}

/// How to open a model.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Follow symbolic links to external data that stay inside one Hugging Face cache tree.
    pub follow_links: bool,
    /// Refuse packed tensors that unfold to more than this many times their stored bytes.
    pub max_expand: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions { follow_links: false, max_expand: crate::encode::pack::MAX_EXPAND }
    }
}

/// A file that belongs to a model.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it is, as opened.
    pub path: PathBuf,
    /// Name relative to the model's folder.
    pub name: String,
    /// Its length when it was opened.
    pub bytes: u64,
}

/// An open model. Reads are positioned reads from any thread: no mapping, so that a file that is truncated meanwhile
/// ends in an error and not in a signal.
pub trait Source: Send + Sync {
    /// `"onnx"`, `"safetensors"`.
    fn format(&self) -> &'static str;
    /// All files of the model that count as its bytes: shards, index, external data; not the extra files of a folder.
    fn files(&self) -> &[SourceFile];
    /// All tensors in file order.
    fn tensors(&self) -> &[TensorInfo];
    /// Fills `out` with the dense tensor's bytes (little-endian, as stored; packed tensors decoded) from byte `offset`.
    fn read_at(&self, id: TensorId, offset: u64, out: &mut [u8]) -> Result<()>;
    /// What the tensors are, where the format has a graph.
    fn roles(&self) -> Option<&Roles>;
    /// How a tensor is packed in the file; `None` for a dense one.
    fn packed(&self, id: TensorId) -> Option<PackedLayout> {
        let _ = id;
        None
    }
    /// Whether a tensor is stored otherwise than dense: packed, or sparse by the format's own means.
    fn folded(&self, id: TensorId) -> bool {
        self.packed(id).is_some()
    }
    /// Whether the model multiplies with the factors of a packed tensor, which is faster; `false` where it puts the tensor
    /// together first, `None` where the tensor is not factored or the format has no graph.
    fn multiplies(&self, id: TensorId) -> Option<bool> {
        let _ = id;
        None
    }
    /// Warnings met on opening, for the reader of the report.
    fn warnings(&self) -> &[String] {
        &[]
    }
    /// What decodes a packed tensor, where it is a sum of terms as [`crate::encode`] defines them.
    fn decoder(&self, id: TensorId) -> Option<&Decoder> {
        let _ = id;
        None
    }
    /// Exactly the bytes of all files that [`Source::create`] would write with these options if every tensor that
    /// they do not name stayed the same. An error is what the format cannot write.
    fn predict(&self, output: &Path, options: &CreateOptions) -> Result<u64>;
    /// What packing one tensor adds to the output beside its pieces (names, operators, padding), or saves; an error
    /// where it cannot be written.
    fn overhead(&self, id: TensorId, outline: &Outline, output: &Path) -> Result<i64> {
        let packed = CreateOptions { outlines: BTreeMap::from([(id, outline.clone())]), ..CreateOptions::default() };
        let plain = CreateOptions { dense: BTreeSet::from([id]), ..CreateOptions::default() };
        let (packed, plain) = (self.predict(output, &packed)?, self.predict(output, &plain)?);
        let without = plain as i64 - self.tensors()[id].dense_bytes() as i64;
        Ok(packed as i64 - without - outline.bytes() as i64)
    }
    /// A sink for a model like this one. Refuses an output that is one of this source's files under any name.
    fn create(&self, output: &Path, options: &CreateOptions) -> Result<Box<dyn Sink>>;
    /// The concrete type, for the engine, which needs the graph.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// How to write a model.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Replace what is there.
    pub force: bool,
    /// For the metadata of packed safetensors: the recipe with its paths cut to file names.
    pub recipe: Option<String>,
    /// Total bytes that the model is expected to have, where known: ONNX switches to external data before 2 GB.
    pub expected_bytes: Option<u64>,
    /// What the packed tensors will be made of, by the numbers of this source.
    pub outlines: BTreeMap<TensorId, Outline>,
    /// Tensors that will be given dense.
    pub dense: BTreeSet<TensorId>,
}

/// Bytes that can be produced from any offset, from any thread: what the sink pulls from.
pub trait Blocks: Send + Sync {
    /// Total number of bytes.
    fn bytes(&self) -> u64;
    /// Fills `out` with the bytes from `offset`. Calls use multiples of [`BLOCK_BYTES`] as offsets.
    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()>;
}

/// Producers are asked for blocks of this many bytes, the last one shorter.
pub const BLOCK_BYTES: usize = 1 << 20;

/// What a tensor becomes.
pub enum Content<'a> {
    /// As it was, byte for byte, in whatever encoding the input had.
    Same,
    /// The same dtype and shape, with these bytes, little-endian (dense: a packed input becomes plain).
    Dense(&'a dyn Blocks),
    /// Packed in pieces.
    Packed(&'a Packed<'a>),
}

/// A tensor as a sum of packed terms, with the bytes of their arrays; the meaning is defined in [`crate::encode`].
pub struct Packed<'a> {
    /// The dtype that it decodes to.
    pub dtype: Dtype,
    /// The shape that it decodes to.
    pub shape: Vec<u64>,
    /// The terms.
    pub terms: Vec<PackedTerm<'a>>,
}

impl Packed<'_> {
    /// What it is made of, without the bytes.
    pub fn outline(&self) -> Outline {
        let piece = |p: &Piece<'_>| PieceOutline { role: p.role, dtype: p.dtype.clone(), shape: p.shape.clone() };
        let term = |t: &PackedTerm<'_>| TermOutline {
            layout: t.layout,
            values: t.values,
            pieces: t.pieces.iter().map(piece).collect(),
        };
        let terms = self.terms.iter().map(term).collect();
        Outline { dtype: self.dtype.clone(), shape: self.shape.clone(), terms }
    }
}

/// One term of a packed tensor.
pub struct PackedTerm<'a> {
    /// Where the values lie.
    pub layout: PackedLayout,
    /// How they are coded.
    pub values: ValueCoding,
    /// The arrays, in the order that [`crate::encode`] gives.
    pub pieces: Vec<Piece<'a>>,
}

/// One array of a packed term.
pub struct Piece<'a> {
    /// Which one: see [`crate::encode`].
    pub role: &'static str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub data: Box<dyn Blocks + 'a>,
}

/// Where a model goes. Nothing under the final name changes before [`Staged::commit`]; dropping a sink or a staged
/// model removes its temp files.
pub trait Sink: Send {
    /// Gives a tensor its content. Tensors may come in file order only; those that are left out stay the same.
    fn put(&mut self, id: TensorId, content: Content<'_>) -> Result<()>;
    /// Writes what is left, syncs to disk.
    fn finish(self: Box<Self>) -> Result<Box<dyn Staged>>;
}

/// A model that is written and synced but not yet under its name.
pub trait Staged: Send + Sync {
    /// The files with their final names (relative to the output's folder, or within the output folder) and bytes.
    fn files(&self) -> Vec<StagedFile>;
    /// What the user should know of it: changes beside the tensors.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// Opens what was written, for comparison with what was meant.
    fn reopen(&self) -> Result<Box<dyn Source>>;
    /// Waits until all of it is on disk. It may be read meanwhile.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    /// Puts it under its name, atomically, and removes what it replaces. What was not synced is synced before.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// A file of a staged model.
#[derive(Clone, Debug)]
pub struct StagedFile {
    /// Name relative to the output's folder (one file) or inside the output folder.
    pub name: String,
    /// Where its bytes are now.
    pub path: PathBuf,
    /// How many.
    pub bytes: u64,
}
