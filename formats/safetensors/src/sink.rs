//! Writing a model like the one that was read.
//!
//! All space is reserved at the start and every byte is written once, at its place: tensors that stay the same are
//! copied by the kernel, the others are pumped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use compress_core::encode::{Outline, ReadAt};
use compress_core::files::{self, TempDir, TempFile};
use compress_core::format::{Blocks, Content, CreateOptions, Sink, Staged, StagedFile};
use compress_core::progress::Watch;
use compress_core::pump::pump;
use compress_core::stfile::{encode_header, quoted};
use compress_core::tensor::TensorId;
use compress_core::{Error, Result};

use crate::index::Index;
use crate::legacy;
use crate::model::{Folder, Inner, Model, Slot};
use crate::packed;
use crate::pairs::At;
use crate::shard::{Plan, Shard, becomes};
use crate::staged::{Place, StagedModel, check_output};

/// The writer of a model.
pub struct ModelSink {
    model: Model,
    output: PathBuf,
    place: Place,
    shards: Vec<Shard>,
    options: CreateOptions,
    next: TensorId,
}

impl ModelSink {
    /// Checks the output and reserves the space of all shards.
    pub fn create(model: Model, output: &Path, options: &CreateOptions) -> Result<ModelSink> {
        check_output(&model, output, options.force)?;
        let place = match &model.0.folder {
            None => Place::File(TempFile::create(output)?),
            Some(_) => Place::Folder(TempDir::create(output)?),
        };
        let mut shards = Vec::new();
        for s in 0..model.0.shards.len() {
            let (file, path) = match &place {
                Place::File(temp) => {
                    let file = temp.file().try_clone().map_err(|e| Error::io("write", output, &e))?;
                    (file, output.to_path_buf())
                }
                Place::Folder(dir) => {
                    let name = Path::new(&model.0.files[s].name);
                    (new_file(dir.path(), name, output)?, output.join(name))
                }
            };
            shards.push(Shard::create(&model.0, s, options, file, path)?);
        }
        let options = options.clone();
        Ok(ModelSink { model, output: output.to_path_buf(), place, shards, options, next: 0 })
    }

    /// Gives the tensors up to `end` their old content.
    fn keep_until(&mut self, end: TensorId) -> Result<()> {
        while self.next < end {
            self.write(self.next, Content::Same)?;
        }
        Ok(())
    }

    fn write(&mut self, id: TensorId, content: Content<'_>) -> Result<()> {
        let model = &self.model.0;
        let (slot, info) = (model.slots[id], &model.tensors[id]);
        let shard = &mut self.shards[slot.shard()];
        let named = |e: Error| e.at(format_args!("tensor {}", quoted(&info.name)));
        // Whoever makes the blocks counts them, and hears of Ctrl-C.
        let watch = Watch::silent();
        match (content, slot) {
            (Content::Same, Slot::Stored(at)) => shard.keep(&model.shards[at.0], model.entry(at))?,
            (Content::Same, Slot::Packed(i, _)) if model.packed[i].outline.is_some() => {
                if self.options.dense.contains(&id) || self.options.outlines.contains_key(&id) {
                    return Err(named(Error::failed("it was to become something else, but nothing was given")));
                }
                for at in &model.packed[i].entries {
                    shard.keep(&model.shards[at.0], model.entry(*at))?;
                }
            }
            (Content::Same, Slot::Packed(i, _)) => {
                let at = shard.append(model.planned(id))?;
                let unpacked = Unpacked(model.packed[i].reader.as_ref(), info.dense_bytes());
                pump(&unpacked, &shard.file, &shard.path, at, &watch).map_err(named)?;
            }
            (Content::Same, Slot::Pair { orig, mask }) => {
                let at = shard.append(model.planned(id))?;
                pump(&model.pair(orig, mask), &shard.file, &shard.path, at, &watch).map_err(named)?;
            }
            (Content::Dense(blocks), _) => {
                let planned = model.planned(id);
                if blocks.bytes() != planned.bytes() {
                    let text = format!("{} bytes were given for its {}", blocks.bytes(), planned.bytes());
                    return Err(named(Error::failed(text)));
                }
                let at = shard.append(planned)?;
                pump(blocks, &shard.file, &shard.path, at, &watch).map_err(named)?;
            }
            (Content::Packed(packed), _) => {
                let outline = packed.outline();
                if self.options.outlines.get(&id) != Some(&outline) {
                    return Err(named(Error::failed("packed in another way than was announced")));
                }
                let entries = packed::entries(&info.name, &outline);
                let pieces = packed.terms.iter().flat_map(|t| &t.pieces);
                for (entry, piece) in entries.into_iter().zip(pieces) {
                    let at = shard.append(entry)?;
                    pump(piece.data.as_ref(), &shard.file, &shard.path, at, &watch).map_err(named)?;
                }
            }
        }
        self.next = id + 1;
        // The disk works on a shard that is complete while the next one is made.
        let complete = model.slots.get(id + 1).is_none_or(|s| s.shard() != slot.shard());
        shard.start_writeback(complete);
        Ok(())
    }

    /// The index with what changed, and the extra files.
    fn write_folder(&self, dir: &Path, folder: &Folder) -> Result<()> {
        if let Some(index) = &folder.index {
            let total = self.shards.iter().map(Shard::payload).sum();
            let text = index_text(&self.model.0, index, &self.options, total)?;
            let name = Path::new(index.path.file_name().unwrap_or_default());
            let (file, path) = (new_file(dir, name, &self.output)?, self.output.join(name));
            let io = |e| Error::io("write", &path, &e);
            files::write_all_at(&file, &text, 0).map_err(io)?;
            file.sync_all().map_err(io)?;
        }
        for extra in &folder.extras {
            let from_path = folder.root.join(extra);
            if self.model.0.legacy && extra == Path::new("config.json") {
                let text = legacy::config_without_sparsity(&from_path)?;
                let (to, path) = (new_file(dir, extra, &self.output)?, self.output.join(extra));
                files::write_all_at(&to, &text, 0).map_err(|e| Error::io("write", &path, &e))?;
                to.sync_all().map_err(|e| Error::io("write", &path, &e))?;
                continue;
            }
            let from = files::open(&from_path)?;
            let (to_path, below) = (self.output.join(extra), dir.join(files::folder_of(extra)));
            let to_io = |e: std::io::Error| Error::io("write", &to_path, &e);
            std::fs::create_dir_all(below).map_err(to_io)?;
            let to = new_file(dir, extra, &self.output)?;
            let bytes = from.metadata().map_err(|e| Error::io("read", &from_path, &e))?.len();
            files::copy_range(&from, 0, &to, 0, bytes).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Error::io("read", &from_path, &e),
                _ => to_io(e),
            })?;
            to.sync_all().map_err(to_io)?;
        }
        Ok(())
    }
}

impl Sink for ModelSink {
    fn put(&mut self, id: TensorId, content: Content<'_>) -> Result<()> {
        if id < self.next || id >= self.model.0.tensors.len() {
            let text = format!("tensor {id} was put after tensor {} of {}", self.next, self.model.0.tensors.len());
            return Err(Error::failed(text));
        }
        self.keep_until(id)?;
        self.write(id, content)
    }

    fn finish(mut self: Box<Self>) -> Result<Box<dyn Staged>> {
        let this = &mut *self;
        this.keep_until(this.model.0.tensors.len())?;
        for (source, shard) in this.model.0.shards.iter().zip(&mut this.shards) {
            shard.finish(source)?;
        }
        if let (Place::Folder(dir), Some(folder)) = (&this.place, &this.model.0.folder) {
            this.write_folder(dir.path(), folder)?;
        }
        let mut staged = Vec::new();
        for file in &this.model.0.files {
            let (name, path) = match &this.place {
                Place::File(temp) => {
                    let name = this.output.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    (name, temp.path().to_path_buf())
                }
                Place::Folder(dir) => (file.name.clone(), dir.path().join(&file.name)),
            };
            let bytes = std::fs::metadata(&path).map_err(|e| Error::io("read", &path, &e))?.len();
            staged.push(StagedFile { name, path, bytes });
        }
        let ModelSink { output, place, shards, .. } = *self;
        Ok(Box::new(StagedModel { output, place, files: staged, shards }))
    }
}

/// A new file in the folder that is being built; errors show the name that it will have.
fn new_file(dir: &Path, name: &Path, output: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(dir.join(name));
    file.map_err(|e| Error::io("write", &output.join(name), &e))
}

/// A legacy tensor, unpacked.
struct Unpacked<'a>(&'a dyn ReadAt, u64);

impl Blocks for Unpacked<'_> {
    fn bytes(&self) -> u64 {
        self.1
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, out)
    }
}

/// The index's text after pairs and pieces took their new form.
fn index_text(model: &Inner, index: &Index, options: &CreateOptions, total: u64) -> Result<Vec<u8>> {
    let mut changes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (id, (slot, info)) in model.slots.iter().zip(&model.tensors).enumerate() {
        let now = match becomes(model, id, options) {
            Some(outline) => packed::entries(&info.name, outline).into_iter().map(|e| e.name).collect(),
            None => vec![info.name.clone()],
        };
        let before: Vec<At> = match slot {
            Slot::Stored(at) => vec![*at],
            Slot::Pair { orig, mask } => vec![*orig, *mask],
            // The first stands for the tensor, in whose shard it is written.
            Slot::Packed(i, _) => model.packed[*i].entries.clone(),
        };
        let names: Vec<&str> = before.iter().map(|at| model.entry(*at).name.as_str()).collect();
        if names.iter().all(|n| now.iter().any(|m| m == n)) && names.len() == now.len() {
            continue;
        }
        for (k, name) in names.into_iter().enumerate() {
            changes.insert(name, if k == 0 { now.clone() } else { Vec::new() });
        }
    }
    let kept = changes.is_empty() && index.total_size.is_none_or(|t| t == total);
    if kept { Ok(index.text.clone()) } else { index.rewritten(&changes, total) }
}

/// Bytes of all files that would be written.
pub fn predict(model: &Inner, options: &CreateOptions) -> Result<u64> {
    let plans: Vec<Plan> = (0..model.shards.len()).map(|s| Plan::of(model, s, options)).collect();
    let total = plans.iter().map(Plan::payload).sum();
    let mut bytes: u64 = plans.iter().zip(&model.shards).map(|(p, s)| p.bytes(s)).sum();
    if let Some(index) = model.folder.as_ref().and_then(|f| f.index.as_ref()) {
        bytes += index_text(model, index, options, total)?.len() as u64;
    }
    Ok(bytes)
}

/// What packing a tensor adds to header, index and padding; to a few bytes, which depend on the other tensors.
pub fn overhead(model: &Inner, id: TensorId, outline: &Outline) -> i64 {
    let (name, planned) = (&model.tensors[id].name, model.planned(id));
    let mut at = model.files.iter().map(|f| f.bytes).max().unwrap_or(0);
    let mut entries = packed::entries(name, outline);
    let mut padding = 0i64 - outline.bytes() as i64;
    for entry in &mut entries {
        padding += entry.bytes() as i64;
        (entry.start, entry.end) = (at, at + entry.bytes());
        at = entry.end;
    }
    let header = encode_header(&[packed::metadata(name, outline)], &entries).len() as i64
        - encode_header(&[], &[planned]).len() as i64;
    let indexed = model.folder.as_ref().is_some_and(|f| f.index.is_some());
    let shard = model.files[model.slots[id].shard()].name.len();
    let line = |n: &str| if indexed { (n.len() + shard + 12) as i64 } else { 0 };
    padding + header + entries.iter().map(|e| line(&e.name)).sum::<i64>() - line(name)
}
