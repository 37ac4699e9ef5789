//! Writing one file.
//!
//! Tensors are appended behind a space that is kept for the header; the header itself is written last, when it is known
//! what was appended. If that is what the input had, the input's header is copied byte for byte.

use std::fs::File;
use std::path::PathBuf;

use compress_core::encode::outline::Outline;
use compress_core::files;
use compress_core::format::CreateOptions;
use compress_core::stfile::{Entry, StFile, encode_header};
use compress_core::tensor::TensorId;
use compress_core::{Error, Result};

use crate::model::Inner;
use crate::packed;

/// The disk is set to work each time this many bytes more are written.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// A file being written.
pub struct Shard {
    /// The file.
    pub file: File,
    /// Its final name, for errors.
    pub path: PathBuf,
    /// Where the header's space ends and the tensors begin.
    data_at: u64,
    /// Where the file would end if nothing was packed.
    reserved: u64,
    metadata: Vec<(String, String)>,
    entries: Vec<Entry>,
    end: u64,
    /// A run of bytes to be copied: from, to, how many.
    run: (u64, u64, u64),
    /// All before this position is on its way to the disk.
    queued: u64,
}

/// What a shard will hold, by the outlines of [`CreateOptions`].
pub struct Plan {
    /// All entries, tensor by tensor.
    pub entries: Vec<Entry>,
    /// The metadata.
    pub metadata: Vec<(String, String)>,
}

impl Plan {
    /// Of shard `s`.
    pub fn of(model: &Inner, s: usize, options: &CreateOptions) -> Plan {
        let mut plan = Plan { entries: Vec::new(), metadata: packed::foreign_metadata(&model.shards[s]) };
        let (mut described, mut end) = (Vec::new(), 0);
        for id in (0..model.slots.len()).filter(|i| model.slots[*i].shard() == s) {
            let name = &model.tensors[id].name;
            let entries = match becomes(model, id, options) {
                Some(outline) => {
                    described.push(packed::metadata(name, outline));
                    packed::entries(name, outline)
                }
                None => vec![model.planned(id)],
            };
            for mut entry in entries {
                (entry.start, entry.end) = (end, end + entry.bytes());
                end = entry.end;
                plan.entries.push(entry);
            }
        }
        if !described.is_empty() {
            plan.metadata.push((packed::VERSION_KEY.into(), packed::VERSION.into()));
            let old = model.shards[s].metadata().iter().find(|(k, _)| k == packed::RECIPE_KEY);
            // Where no tensor becomes anything else, the recipe that made them stays.
            let changes = !options.outlines.is_empty() || !options.dense.is_empty();
            let new = options.recipe.clone().filter(|_| changes || old.is_none());
            let recipe = new.or_else(|| old.map(|(_, v)| v.clone()));
            plan.metadata.extend(recipe.map(|r| (packed::RECIPE_KEY.to_string(), r)));
            plan.metadata.extend(described);
        }
        plan
    }

    fn data_at(&self, source: &StFile) -> u64 {
        match self.entries == source.entries() && self.metadata == source.metadata() {
            true => source.data_at(),
            false => encode_header(&self.metadata, &self.entries).len() as u64,
        }
    }

    /// Bytes of the tensors.
    pub fn payload(&self) -> u64 {
        self.entries.last().map_or(0, |e| e.end)
    }

    /// Bytes of the file.
    pub fn bytes(&self, source: &StFile) -> u64 {
        self.data_at(source) + self.payload()
    }
}

/// What a tensor will be packed as.
pub fn becomes<'a>(model: &'a Inner, id: TensorId, options: &'a CreateOptions) -> Option<&'a Outline> {
    options.outlines.get(&id).or_else(|| model.outline(id).filter(|_| !options.dense.contains(&id)))
}

impl Shard {
    /// Reserves the space of shard `s`.
    pub fn create(model: &Inner, s: usize, options: &CreateOptions, file: File, path: PathBuf) -> Result<Shard> {
        let plan = Plan::of(model, s, options);
        let (data_at, reserved) = (plan.data_at(&model.shards[s]), plan.bytes(&model.shards[s]));
        files::preallocate(&file, reserved).map_err(|e| Error::io("write", &path, &e))?;
        let (entries, end, run, queued) = (Vec::new(), 0, (0, 0, 0), 0);
        Ok(Shard { file, path, data_at, reserved, metadata: plan.metadata, entries, end, run, queued })
    }

    /// Bytes of the tensors so far.
    pub fn payload(&self) -> u64 {
        self.end
    }

    /// Adds a tensor and says where its bytes go.
    pub fn append(&mut self, mut entry: Entry) -> Result<u64> {
        let start = self.end;
        self.end += entry.bytes();
        (entry.start, entry.end) = (start, self.end);
        self.entries.push(entry);
        Ok(self.data_at + start)
    }

    /// Adds a tensor as it is in `source`. Neighbours are copied together.
    pub fn keep(&mut self, source: &StFile, entry: &Entry) -> Result<()> {
        let from = source.data_at() + entry.start;
        let to = self.append(entry.clone())?;
        let (run_from, run_to, bytes) = self.run;
        if (run_from + bytes, run_to + bytes) == (from, to) {
            self.run.2 += entry.bytes();
        } else {
            self.copy_run(source)?;
            self.run = (from, to, entry.bytes());
        }
        Ok(())
    }

    fn copy_run(&mut self, source: &StFile) -> Result<()> {
        let (mut from, mut to, mut left) = std::mem::take(&mut self.run);
        while left > 0 {
            let n = left.min(WRITEBACK_BYTES);
            files::copy_range(source.file(), from, &self.file, to, n).map_err(|e| {
                // An early end is the source's, a full disk ours.
                let path = if e.kind() == std::io::ErrorKind::UnexpectedEof { source.path() } else { &self.path };
                Error::io("copy", path, &e)
            })?;
            files::start_writeback(&self.file, to, n);
            (from, to, left) = (from + n, to + n, left - n);
        }
        Ok(())
    }

    /// Sets the disk to work on what was appended; on all of it if the file is complete.
    pub fn start_writeback(&mut self, complete: bool) {
        let end = self.data_at + self.end - self.run.2;
        if end > self.queued && (complete || end - self.queued >= WRITEBACK_BYTES) {
            files::start_writeback(&self.file, self.queued, end - self.queued);
            self.queued = end;
        }
    }

    /// Writes the header.
    pub fn finish(&mut self, source: &StFile) -> Result<()> {
        self.copy_run(source)?;
        let io = |e: std::io::Error| Error::io("write", &self.path, &e);
        if self.data_at == source.data_at() && self.entries == source.entries() && self.metadata == source.metadata() {
            files::copy_range(source.file(), 0, &self.file, 0, self.data_at).map_err(io)?;
        } else {
            let mut header = encode_header(&self.metadata, &self.entries);
            if header.len() as u64 > self.data_at {
                return Err(Error::failed(format!("the header of \"{}\" outgrew its space", self.path.display())));
            }
            header.resize(self.data_at as usize, b' ');
            header[..8].copy_from_slice(&(self.data_at - 8).to_le_bytes());
            files::write_all_at(&self.file, &header, 0).map_err(io)?;
        }
        if self.data_at + self.end != self.reserved {
            self.file.set_len(self.data_at + self.end).map_err(io)?;
        }
        files::start_writeback(&self.file, 0, self.data_at + self.end);
        Ok(())
    }

    /// Waits until all of it is on disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("write", &self.path, &e))
    }
}
