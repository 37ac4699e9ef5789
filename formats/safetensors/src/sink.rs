//! Writing a model like the one that was read.
//!
//! All space is reserved at the start and every byte is written once, at its place: tensors that stay the same are
//! copied by the kernel, the others are pumped.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use compress_core::files::{self, TempDir, TempFile};
use compress_core::format::{Content, CreateOptions, Sink, Staged, StagedFile};
use compress_core::progress::Watch;
use compress_core::pump::pump;
use compress_core::stfile::quoted;
use compress_core::tensor::TensorId;
use compress_core::{Error, Result};

use crate::model::{Folder, Model, Slot};
use crate::shard::Shard;
use crate::staged::{Place, StagedModel, check_output};

/// The writer of a model.
pub struct ModelSink {
    model: Model,
    output: PathBuf,
    place: Place,
    shards: Vec<Shard>,
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
            shards.push(Shard::create(&model.0, s, file, path)?);
        }
        Ok(ModelSink { model, output: output.to_path_buf(), place, shards, next: 0 })
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
            (Content::Packed(_), _) => {
                return Err(named(Error::failed("packed tensors cannot be written as safetensors yet")));
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
            let mut changes = BTreeMap::new();
            for (slot, info) in self.model.0.slots.iter().zip(&self.model.0.tensors) {
                if let Slot::Pair { orig, mask } = slot {
                    changes.insert(self.model.0.entry(*orig).name.as_str(), Some(info.name.as_str()));
                    changes.insert(self.model.0.entry(*mask).name.as_str(), None);
                }
            }
            let total = self.shards.iter().map(Shard::payload).sum();
            let kept = changes.is_empty() && index.total_size.is_none_or(|t| t == total);
            let text = if kept { index.text.clone() } else { index.rewritten(&changes, total)? };
            let name = Path::new(index.path.file_name().unwrap_or_default());
            let (file, path) = (new_file(dir, name, &self.output)?, self.output.join(name));
            let io = |e| Error::io("write", &path, &e);
            files::write_all_at(&file, &text, 0).map_err(io)?;
            file.sync_all().map_err(io)?;
        }
        for extra in &folder.extras {
            let from_path = folder.root.join(extra);
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
        for shard in &this.shards {
            shard.sync()?;
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
        let ModelSink { output, place, .. } = *self;
        Ok(Box::new(StagedModel { output, place, files: staged }))
    }
}

/// A new file in the folder that is being built; errors show the name that it will have.
fn new_file(dir: &Path, name: &Path, output: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create_new(true).open(dir.join(name));
    file.map_err(|e| Error::io("write", &output.join(name), &e))
}
