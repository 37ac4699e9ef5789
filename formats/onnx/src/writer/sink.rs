//! What core gives tensors to.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compress_core::files;
use compress_core::format::{
    Blocks, Content, CreateOptions, Outline, Packed, PackedTerm, Piece, PieceOutline, Sink, Staged, TermOutline,
};
use compress_core::tensor::TensorId;
use compress_core::{Error, Result};

use super::data::DataFile;
use super::edits::Segment;
use super::packed::Pending;
use super::rewrite::{PROTOBUF_LIMIT, Rewrite};
use super::staged::OnnxStaged;
use crate::list::Site;
use crate::model::{MessageId, Place, SparseRef, TensorRef, encode_entries, field};
use crate::source::Shared;
use crate::wire::Message;

/// Initialisers below this size stay in the model when it moves its data to another file.
pub(super) const SMALL: u64 = 1024;

/// An ONNX model that is being written.
pub struct OnnxSink {
    pub(super) rewrite: Rewrite,
    output: PathBuf,
    data: Option<DataFile>,
    /// Tensors that lie in the file of external data, by place there. Behind the numbers that core knows come the parts
    /// of packed tensors.
    pub(super) homes: HashMap<TensorId, Home>,
    pub(super) given: Vec<bool>,
    /// What is put in place when the name of the data's file is known.
    pub(super) pending: Vec<Pending>,
    /// Whether initialisers move out to the file of external data.
    pub(super) moves: bool,
    /// The IR version of before it was raised.
    pub(super) raised: Option<i64>,
    /// Weights that were graph inputs too and are no longer.
    pub(super) no_inputs: Vec<String>,
    /// Prefixes of names of packed weights that the model has otherwise.
    pub(super) prefixes: Option<HashSet<String>>,
    /// Nodes that were changed since a weight's factors are used, or no longer.
    pub(super) split: HashSet<MessageId>,
}

/// Where a tensor of external data lies in the output's file.
#[derive(Clone, Copy)]
pub(super) struct Home {
    /// `None`: it shares the bytes of another tensor, and will get its own if one of them changes.
    offset: Option<u64>,
    /// The tensor that it shares bytes with.
    owner: TensorId,
}

impl OnnxSink {
    pub(crate) fn create(shared: Arc<Shared>, output: &Path, options: &CreateOptions) -> Result<Self> {
        files::refuse_if_input(output, shared.files.iter().map(|f| f.path.as_path()))?;
        if !options.force && std::fs::symlink_metadata(output).is_ok() {
            return Err(Error::usage(format!("\"{}\" exists already (--force replaces it)", output.display())));
        }
        OnnxSink::begin(shared, output, options, false)
    }

    fn begin(shared: Arc<Shared>, output: &Path, options: &CreateOptions, dry: bool) -> Result<Self> {
        let given = vec![false; shared.list.infos.len() + shared.list.parts.len()];
        let rewrite = Rewrite::new(shared, output, dry)?;
        let (data, homes) = (None, HashMap::new());
        let mut sink = OnnxSink {
            rewrite,
            output: output.to_path_buf(),
            data,
            homes,
            given,
            pending: Vec::new(),
            moves: false,
            raised: None,
            no_inputs: Vec::new(),
            prefixes: None,
            split: HashSet::new(),
        };
        sink.plan_external(options)?;
        Ok(sink)
    }

    /// The bytes of all files that would be written: the same steps, but nothing is read or written.
    pub(crate) fn predict(shared: Arc<Shared>, output: &Path, options: &CreateOptions) -> Result<u64> {
        let mut sink = OnnxSink::begin(shared.clone(), output, options, true)?;
        for (id, info) in shared.list.infos.iter().enumerate() {
            if let Some(outline) = options.outlines.get(&id) {
                sink.put(id, Content::Packed(&unread(outline)))?;
            } else if options.dense.contains(&id) {
                sink.put(id, Content::Dense(&Unread(info.dense_bytes())))?;
            }
        }
        let data = sink.finish_external()?.map_or(0, |d| d.bytes);
        Ok(data + sink.rewrite.bytes()?)
    }

    /// The model as it is rewritten.
    pub fn rewrite(&mut self) -> &mut Rewrite {
        &mut self.rewrite
    }

    /// Gives every tensor of external data its place: those of the input in their order, and if the model would be
    /// too large for one file, the initialisers that lie in it.
    fn plan_external(&mut self, options: &CreateOptions) -> Result<()> {
        let shared = self.rewrite.shared.clone();
        let mut found = Vec::new();
        for (id, site) in shared.list.sites.iter().enumerate() {
            let stays = !options.outlines.contains_key(&id);
            if let Some(Place::External(e)) = stored(site).map(|t| &t.place).filter(|_| stays) {
                found.push((shared.list.infos[id].file, e.range.start, e.range.end, id));
            }
        }
        found.sort_unstable();
        // The last tensor that owns its bytes, per input file, by where it ends.
        let mut last: Option<(usize, u64, u64, TensorId)> = None;
        for (file, start, end, id) in found {
            let same = last.filter(|l| (l.0, l.1, l.2) == (file, start, end));
            let offset = match same {
                Some(_) => None,
                None => Some(self.data_file()?.reserve(end - start, Some(start))),
            };
            let owner = same.map_or(id, |l| l.3);
            self.homes.insert(id, Home { offset, owner });
            if offset.is_some() {
                last = Some((file, start, end, id));
            }
        }
        // Parts of packed tensors find their places at the end: a tensor may be unpacked.
        for (i, (part, _)) in shared.list.parts.iter().enumerate() {
            if matches!(part.place, Place::External(_)) {
                self.data_file()?;
                let id = shared.list.infos.len() + i;
                self.homes.insert(id, Home { offset: None, owner: id });
            }
        }
        let external: u64 = shared.files[1..].iter().map(|f| f.bytes).sum();
        let inline = match options.expected_bytes {
            Some(bytes) => bytes.saturating_sub(external),
            None => shared.files[0].bytes + self.sparse_growth(),
        };
        if inline > PROTOBUF_LIMIT {
            self.move_initializers_out(options)?;
        }
        Ok(())
    }

    fn sparse_growth(&self) -> u64 {
        let sparse = |site: &Site| if let Site::Sparse(s, true) = site { s.dense_bytes() } else { 0 };
        self.rewrite.shared.list.sites.iter().map(sparse).sum()
    }

    fn move_initializers_out(&mut self, options: &CreateOptions) -> Result<()> {
        let shared = self.rewrite.shared.clone();
        self.moves = true;
        for (i, (part, _)) in shared.list.parts.iter().enumerate() {
            let inline = matches!(part.place, Place::Raw { .. } | Place::Typed(_));
            if inline && part.dense_bytes() >= SMALL {
                self.data_file()?;
                let id = shared.list.infos.len() + i;
                self.homes.insert(id, Home { offset: None, owner: id });
            }
        }
        for (id, site) in shared.list.sites.iter().enumerate() {
            let large = |t: &&TensorRef| t.dense_bytes() >= SMALL && !options.outlines.contains_key(&id);
            let Some(tensor) = stored(site).filter(large) else { continue };
            let inline = matches!(tensor.place, Place::Raw { .. } | Place::Typed(_));
            if inline && is_initializer(&shared, tensor.message) {
                let offset = Some(self.data_file()?.reserve(tensor.dense_bytes(), None));
                self.homes.insert(id, Home { offset, owner: id });
            }
        }
        Ok(())
    }

    pub(super) fn data_file(&mut self) -> Result<&mut DataFile> {
        if self.data.is_none() {
            if self.output.file_name().and_then(|n| n.to_str()).is_none() {
                return Err(Error::usage(format!(
                    "\"{}\" would keep data in a file of like name, which must be UTF-8",
                    self.output.display()
                )));
            }
            self.data = Some(DataFile::create(&self.output, self.rewrite.is_dry())?);
        }
        self.data.as_mut().ok_or_else(|| Error::failed("no data file"))
    }

    pub(super) fn put_dense(&mut self, id: TensorId, blocks: &dyn Blocks) -> Result<()> {
        let shared = self.rewrite.shared.clone();
        let info = &shared.list.infos[id];
        if blocks.bytes() != info.dense_bytes() {
            return Err(Error::failed(format!("given {} bytes for {}", blocks.bytes(), info.dense_bytes())));
        }
        let tensor = match &shared.list.sites[id] {
            Site::Tensor(tensor) | Site::Pair(tensor, _) if matches!(tensor.place, Place::Packed(_)) => {
                return self.put_unpacked(id, blocks);
            }
            Site::Tensor(tensor) | Site::Pair(tensor, _) => tensor,
            Site::Sparse(sparse, true) => return self.put_sparse(sparse, blocks),
            _ => return Err(Error::failed("a constant of this kind cannot be changed")),
        };
        if let Some(home) = self.homes.get(&id).copied() {
            let data = self.data_file()?;
            let offset = home.offset.unwrap_or_else(|| data.reserve(blocks.bytes(), None));
            self.homes.insert(id, Home { offset: Some(offset), owner: id });
            return self.data_file()?.write(offset, blocks);
        }
        match &tensor.place {
            Place::Raw { body, .. } => self.rewrite.overwrite(tensor.message, body.clone(), blocks),
            Place::Typed(typed) => match typed.plain() {
                Some(body) => self.rewrite.overwrite(tensor.message, body, blocks),
                None => self.put_typed(tensor, blocks),
            },
            Place::Empty => Ok(()),
            Place::External(_) | Place::Packed(_) | Place::Opaque { .. } => Err(Error::failed("it cannot be changed")),
        }
    }

    /// Elements that stay in their typed field, as one packed run.
    fn put_typed(&mut self, tensor: &TensorRef, blocks: &dyn Blocks) -> Result<()> {
        let Place::Typed(typed) = &tensor.place else { return Ok(()) };
        if self.rewrite.is_dry() {
            return Ok(()); // its length depends on its values
        }
        let start = self.rewrite.scratch_position();
        let block = compress_core::format::BLOCK_BYTES as u64;
        let (mut dense, mut coded) = (Vec::new(), Vec::new());
        for offset in (0..blocks.bytes()).step_by(block as usize) {
            dense.resize((blocks.bytes() - offset).min(block) as usize, 0);
            blocks.fill(offset, &mut dense)?;
            coded.clear();
            encode_entries(tensor.data_type, &dense, &mut coded);
            self.rewrite.append_bytes(&coded)?;
        }
        let payload = start..self.rewrite.scratch_position();
        let head = Message::new().header(typed.field, payload.end - payload.start).into_bytes();
        let mut with = vec![Segment::Bytes(head), Segment::Scratch(payload)];
        for run in &typed.runs {
            self.rewrite.replace(tensor.message, run.span.clone(), std::mem::take(&mut with));
        }
        Ok(())
    }

    /// A sparse initialiser that gets dense content becomes a dense one.
    fn put_sparse(&mut self, sparse: &SparseRef, blocks: &dyn Blocks) -> Result<()> {
        self.rewrite.remove(sparse.message);
        let graph = self.rewrite.model().spans.get(sparse.message).parent.unwrap_or(0);
        let (name, data_type) = (sparse.values.name.clone(), sparse.values.data_type);
        self.rewrite.add_initializer(graph, &name, data_type, &sparse.dims, blocks)
    }

    /// Copies what nobody gave, and points the model at its new place.
    fn finish_external(&mut self) -> Result<Option<StagedData>> {
        let Some(mut data) = self.data.take() else {
            self.place_pending("");
            return Ok(None);
        };
        if self.homes.is_empty() && data.is_empty() {
            self.place_pending("");
            return Ok(None);
        }
        let shared = self.rewrite.shared.clone();
        let mut ids: Vec<TensorId> = self.homes.keys().copied().collect();
        // Owners first: whoever shares their bytes looks them up.
        ids.sort_by_key(|id| (self.homes[id].owner != *id, *id));
        for id in &ids {
            let home = self.homes[id];
            if self.given[*id] {
                continue;
            }
            let owner_kept = home.owner != *id && !self.given[home.owner];
            let offset = match home.offset {
                Some(offset) => offset,
                None if owner_kept => match self.homes[&home.owner].offset {
                    Some(offset) => {
                        self.homes.insert(*id, Home { offset: Some(offset), ..home });
                        continue;
                    }
                    None => return Err(Error::failed("a tensor without a place (a mistake of this program)")),
                },
                None => data.reserve(slot(&shared, *id).map_or(0, TensorRef::dense_bytes), None),
            };
            if let Some(tensor) = slot(&shared, *id) {
                data.write(offset, &Unchanged(tensor))?;
            }
            self.homes.insert(*id, Home { offset: Some(offset), ..home });
        }
        let (temp, bytes, hash) = data.finish()?;
        let name = format!("{}.{hash}.data", self.output.file_name().unwrap_or_default().to_string_lossy());
        for id in ids {
            let (Some(tensor), Some(offset)) = (slot(&shared, id), self.homes[&id].offset) else {
                continue;
            };
            self.point(tensor, &name, offset);
        }
        self.place_pending(&name);
        let path = files::folder_of(&self.output).join(&name);
        files::refuse_if_input(&path, shared.files.iter().map(|f| f.path.as_path()))?;
        Ok(Some(StagedData { temp, name, bytes }))
    }

    fn place_pending(&mut self, file: &str) {
        for pending in std::mem::take(&mut self.pending) {
            let (graph, at, with) = pending.resolve(file);
            self.rewrite.replace(graph, at, with);
        }
    }

    /// Makes a tensor's message point into the file of external data.
    fn point(&mut self, tensor: &TensorRef, name: &str, offset: u64) {
        let mut bytes = external_fields(name, offset, tensor.dense_bytes());
        let old = match &tensor.place {
            Place::External(external) => {
                // A checksum would be that of other bytes.
                for (key, value) in external.other_keys.iter().filter(|(key, _)| key != "checksum") {
                    bytes.extend(external_entry(key, value));
                }
                external.fields.clone()
            }
            Place::Raw { field, .. } => vec![field.clone()],
            Place::Typed(typed) => typed.runs.iter().map(|run| run.span.clone()).collect(),
            Place::Empty | Place::Packed(_) | Place::Opaque { .. } => return,
        };
        bytes.extend(Message::new().int(field::TENSOR_LOCATION, 1).into_bytes());
        let mut with = vec![Segment::Bytes(bytes)];
        for span in old {
            self.rewrite.replace(tensor.message, span, std::mem::take(&mut with));
        }
    }
}

impl Sink for OnnxSink {
    fn put(&mut self, id: TensorId, content: Content<'_>) -> Result<()> {
        let name = self.rewrite.shared.list.infos[id].name.clone();
        if self.given[id] {
            return Err(Error::failed(format!("tensor \"{name}\" was given twice")));
        }
        match content {
            Content::Same => return Ok(()),
            Content::Dense(blocks) => self.put_dense(id, blocks),
            Content::Packed(packed) => self.put_packed(id, packed),
        }
        .map_err(|e| e.at(format_args!("tensor \"{name}\"")))?;
        self.given[id] = true;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Box<dyn Staged>> {
        let data = self.finish_external()?;
        let shared = self.rewrite.shared.clone();
        let warnings = self.warnings();
        let model = self.rewrite.finish()?;
        Ok(Box::new(OnnxStaged { shared, output: self.output, model, data, warnings }))
    }
}

/// A written file of external data.
pub(super) struct StagedData {
    /// `None` in a dry run.
    pub(super) temp: Option<files::TempFile>,
    pub(super) name: String,
    pub(super) bytes: u64,
}

/// A number of bytes that nobody reads.
struct Unread(u64);

impl Blocks for Unread {
    fn bytes(&self) -> u64 {
        self.0
    }

    fn fill(&self, _: u64, _: &mut [u8]) -> Result<()> {
        Err(Error::failed("a dry run reads nothing"))
    }
}

fn unread(outline: &Outline) -> Packed<'static> {
    let piece = |p: &PieceOutline| Piece {
        role: p.role,
        dtype: p.dtype.clone(),
        shape: p.shape.clone(),
        data: Box::new(Unread(p.bytes())),
    };
    let term = |t: &TermOutline| PackedTerm {
        layout: t.layout,
        values: t.values,
        pieces: t.pieces.iter().map(piece).collect(),
    };
    let terms = outline.terms.iter().map(term).collect();
    Packed { dtype: outline.dtype.clone(), shape: outline.shape.clone(), terms }
}

/// A tensor's bytes as the input has them.
struct Unchanged<'a>(&'a TensorRef);

impl Blocks for Unchanged<'_> {
    fn bytes(&self) -> u64 {
        self.0.dense_bytes()
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, out)
    }
}

/// The fields that say where external data lie.
pub(super) fn external_fields(file: &str, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = external_entry("location", file);
    bytes.extend(external_entry("offset", &offset.to_string()));
    bytes.extend(external_entry("length", &length.to_string()));
    bytes
}

fn external_entry(key: &str, value: &str) -> Vec<u8> {
    let entry = Message::new().bytes(field::ENTRY_KEY, key).bytes(field::ENTRY_VALUE, value);
    Message::new().message(field::TENSOR_EXTERNAL, entry).into_bytes()
}

/// A tensor, or behind those that core knows a part of a packed one.
fn slot(shared: &Shared, id: TensorId) -> Option<&TensorRef> {
    match id.checked_sub(shared.list.infos.len()) {
        Some(part) => shared.list.parts.get(part).map(|(t, _)| t),
        None => stored(&shared.list.sites[id]),
    }
}

fn stored(site: &Site) -> Option<&TensorRef> {
    match site {
        Site::Tensor(tensor) | Site::Pair(tensor, _) => Some(tensor),
        Site::Sparse(..) | Site::Memory(_) => None,
    }
}

/// Whether a tensor is an initialiser of a graph: runtimes look for external data only there.
fn is_initializer(shared: &Shared, message: MessageId) -> bool {
    let spans = &shared.model.spans;
    let parent = spans.get(message).parent;
    parent.is_some_and(|p| spans.is_graph(p))
}
