//! A model on its way out: its temp file, and what changes.
//!
//! The temp file has two regions. Up to the input's length, a payload whose length does not change is written where it
//! lies in the input; beyond that, whatever is new is appended. If at the end every payload lies where the output has
//! it, the rest is filled in around the payloads and the file is ready: each byte was written once. Otherwise the output
//! is put together in a second temp file. A dry rewrite has no temp file: it only finds how many bytes there would be.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compress_core::files::TempFile;
use compress_core::format::Blocks;
use compress_core::progress::Watch;
use compress_core::pump::pump;
use compress_core::{Error, Result};

use super::edits::{Edits, Segment};
use crate::model::{DataType, Graph, MessageId, Model, field};
use crate::source::Shared;
use crate::wire::Message;

/// The largest file that protobuf readers take.
pub(crate) const PROTOBUF_LIMIT: u64 = i32::MAX as u64;

/// A model on its way out.
pub struct Rewrite {
    pub(crate) shared: Arc<Shared>,
    output: PathBuf,
    /// `None` in a dry rewrite.
    temp: Option<TempFile>,
    edits: Edits,
    scratch_end: u64,
    reserved: bool,
}

impl Rewrite {
    pub(crate) fn new(shared: Arc<Shared>, output: &Path, dry: bool) -> Result<Self> {
        let temp = if dry { None } else { Some(TempFile::create(output)?) };
        let scratch_end = shared.model.input.bytes();
        let (output, edits) = (output.to_path_buf(), Edits::default());
        Ok(Rewrite { shared, output, temp, edits, scratch_end, reserved: false })
    }

    /// The model as it was read.
    pub fn model(&self) -> &Model {
        &self.shared.model
    }

    /// Replaces a stretch of a message's body.
    pub(crate) fn replace(&mut self, message: MessageId, range: Range<u64>, with: Vec<Segment>) {
        self.edits.replace(message, range, with);
    }

    /// Replaces a stretch of a message's body by as many bytes, which are written where they will lie if nothing before
    /// them changes its length.
    pub(crate) fn overwrite(&mut self, message: MessageId, range: Range<u64>, blocks: &dyn Blocks) -> Result<()> {
        if let Some(temp) = &self.temp {
            if !self.reserved {
                temp.preallocate(self.scratch_end)?;
                self.reserved = true;
            }
            pump(blocks, temp.file(), temp.path(), range.start, &Watch::silent())?;
        }
        self.edits.replace(message, range.clone(), vec![Segment::Scratch(range)]);
        Ok(())
    }

    /// Writes a payload of known length behind everything else; the segment that stands for it.
    pub fn append(&mut self, blocks: &dyn Blocks) -> Result<Segment> {
        let at = self.scratch_end;
        if let Some(temp) = &self.temp {
            pump(blocks, temp.file(), temp.path(), at, &Watch::silent())?;
        }
        self.scratch_end += blocks.bytes();
        Ok(Segment::Scratch(at..self.scratch_end))
    }

    /// Writes bytes behind everything else; they follow on what was written last.
    pub(crate) fn append_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(temp) = &self.temp {
            temp.write_all_at(bytes, self.scratch_end)?;
        }
        self.scratch_end += bytes.len() as u64;
        Ok(())
    }

    /// Where the next appended byte will lie.
    pub(crate) fn scratch_position(&self) -> u64 {
        self.scratch_end
    }

    /// Removes a field that is a message: a tensor, a sparse tensor.
    pub fn remove(&mut self, message: MessageId) {
        let span = self.model().spans.get(message).clone();
        self.edits.replace(span.parent.unwrap_or(0), span.field, Vec::new());
    }

    /// Adds an initialiser to a graph, with its elements in `raw_data`.
    pub fn add_initializer(
        &mut self,
        graph: MessageId,
        name: &str,
        data_type: DataType,
        dims: &[u64],
        blocks: &dyn Blocks,
    ) -> Result<()> {
        let bytes = blocks.bytes();
        let head = Message::new()
            .packed(field::TENSOR_DIMS, dims.iter().map(|d| *d as i64))
            .int(field::TENSOR_TYPE, i64::from(data_type.0))
            .bytes(field::TENSOR_NAME, name)
            .header(field::TENSOR_RAW, bytes)
            .into_bytes();
        let field = Message::new().header(field::GRAPH_INITIALIZER, head.len() as u64 + bytes).into_bytes();
        let payload = self.append(blocks)?;
        let end = self.model().spans.get(graph).body.end;
        self.edits.replace(graph, end..end, vec![Segment::Bytes([field, head].concat()), payload]);
        Ok(())
    }

    /// Adds a node before all others of a graph, behind those that were added so before.
    pub fn add_node_first(&mut self, graph: MessageId, node: Message) {
        let field = Message::new().message(field::GRAPH_NODE, node).into_bytes();
        let start = self.model().spans.get(graph).body.start;
        self.edits.replace(graph, start..start, vec![Segment::Bytes(field)]);
    }

    /// Removes a graph's input of that name, if there is one: files of IR version 3 list initialisers there.
    pub fn remove_graph_input(&mut self, graph: &Graph, name: &str) -> bool {
        let spans: Vec<_> = graph.inputs.iter().filter(|i| i.name == name).map(|i| i.span.clone()).collect();
        let found = !spans.is_empty();
        spans.into_iter().for_each(|span| self.edits.replace(graph.message, span, Vec::new()));
        found
    }

    /// Raises the file's IR version, if it is lower.
    pub fn raise_ir_version(&mut self, version: i64) -> bool {
        let (old, span) = (self.model().ir_version, self.model().ir_version_span.clone());
        if old >= version {
            return false;
        }
        let field = Message::new().int(field::MODEL_IR_VERSION, version).into_bytes();
        self.edits.replace(0, span, vec![Segment::Bytes(field)]);
        true
    }

    /// Whether nothing is written.
    pub(crate) fn is_dry(&self) -> bool {
        self.temp.is_none()
    }

    /// How many bytes the output has as things stand.
    pub(crate) fn bytes(&self) -> Result<u64> {
        let layout = self.edits.layout(&self.shared.model.input, &self.shared.model.spans)?;
        Ok(layout.iter().map(Segment::bytes).sum())
    }

    /// Puts the output together and syncs it.
    pub(crate) fn finish(self) -> Result<TempFile> {
        let input = self.shared.model.input.clone();
        let layout = self.edits.layout(&input, &self.shared.model.spans)?;
        let total: u64 = layout.iter().map(Segment::bytes).sum();
        let temp = self.temp.ok_or_else(|| Error::failed("a dry rewrite has no file"))?;
        if total > PROTOBUF_LIMIT {
            return Err(Error::failed(format!(
                "\"{}\" would have {total} bytes in one file, more than the 2 GB that ONNX readers take",
                self.output.display()
            )));
        }
        let in_place = in_place(&layout);
        let target = if in_place { None } else { Some(TempFile::create(&self.output)?) };
        let out = target.as_ref().unwrap_or(&temp);
        let mut at = 0;
        for segment in &layout {
            match segment {
                Segment::Source(range) => input.copy_to(range.start, range.end - range.start, out, at)?,
                Segment::Bytes(bytes) => out.write_all_at(bytes, at)?,
                Segment::Scratch(_) if in_place => {}
                Segment::Scratch(range) => {
                    let (from, bytes) = (temp.file(), range.end - range.start);
                    compress_core::files::copy_range(from, range.start, out.file(), at, bytes)
                        .map_err(|e| Error::io("write", out.path(), &e))?;
                }
            }
            at += segment.bytes();
        }
        out.file().set_len(total).map_err(|e| Error::io("write", out.path(), &e))?;
        out.sync()?;
        Ok(target.unwrap_or(temp))
    }
}

/// Whether every payload was written where the output has it.
fn in_place(layout: &[Segment]) -> bool {
    let mut at = 0;
    layout.iter().all(|segment| {
        let start = at;
        at += segment.bytes();
        !matches!(segment, Segment::Scratch(range) if range.start != start)
    })
}
