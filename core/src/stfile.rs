//! Plain safetensors files: masks, evidence and state are such files, and the format of the same name is built on them.
//!
//! `u64` header length, little-endian · header, JSON: `{"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},…}` with
//! strings under `"__metadata__"` · the tensors' bytes, without gaps. Only the header is held in memory; tensors are read
//! and written at their positions.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{self, TempFile};
use crate::tensor::Dtype;

mod header;

pub use header::{MAX_HEADER_BYTES, dtype_named, encode_header, quoted};

/// A tensor of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The product of the shape.
    pub elements: u64,
    /// First byte, counted from the end of the header.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
}

impl Entry {
    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// An open file.
#[derive(Debug)]
pub struct StFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    data_at: u64,
    metadata: Vec<(String, String)>,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

impl StFile {
    /// Reads and checks the header.
    pub fn open(path: &Path) -> Result<StFile> {
        let file = files::open(path)?;
        let io = |e: std::io::Error| Error::io("read", path, &e);
        let bytes = file.metadata().map_err(io)?.len();
        let wrong = |text: String| Error::failed(text).at(format_args!("\"{}\"", path.display()));
        let length = header::length(&file, bytes).map_err(io)?.map_err(wrong)?;
        let mut text = vec![0; length as usize];
        files::read_exact_at(&file, &mut text, 8).map_err(io)?;
        let (metadata, entries) = header::parse(&text, bytes - 8 - length).map_err(wrong)?;
        let by_name = entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect();
        Ok(StFile { file, path: path.to_path_buf(), bytes, data_at: 8 + length, metadata, entries, by_name })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for copies of whole ranges.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the header ends and the tensors begin.
    pub fn data_at(&self) -> u64 {
        self.data_at
    }

    /// The tensors in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The tensor of a name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|i| &self.entries[*i])
    }

    /// The strings under `__metadata__`, in the file's order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Fills `out` with a tensor's bytes from byte `offset` of it.
    pub fn read_at(&self, entry: &Entry, offset: u64, out: &mut [u8]) -> Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > entry.bytes()) {
            let text = format!("{} bytes at {offset} of its {} were asked for", out.len(), entry.bytes());
            return Err(Error::failed(text).at(self.place(&entry.name)));
        }
        files::read_exact_at(&self.file, out, self.data_at + entry.start + offset)
            .map_err(|e| Error::io("read", &self.path, &e).at(format_args!("tensor {}", quoted(&entry.name))))
    }

    /// `"file": tensor "name"`, for errors.
    pub fn place(&self, name: &str) -> String {
        format!("\"{}\": tensor {}", self.path.display(), quoted(name))
    }
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Its element type, of known size.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
}

/// Writes a file whose tensors are known, in any order of positions and from any thread.
#[derive(Debug)]
pub struct StWriter {
    temp: TempFile,
    data_at: u64,
    entries: Vec<Entry>,
}

impl StWriter {
    /// Creates a temp file beside `output`, reserves its space and writes the header. Tensors not written are zeros.
    pub fn create(output: &Path, tensors: &[Spec], metadata: &[(String, String)]) -> Result<StWriter> {
        let mut entries = Vec::with_capacity(tensors.len());
        let mut end = 0_u64;
        for t in tensors {
            let place = || format!("\"{}\": tensor {}", output.display(), quoted(&t.name));
            let (elements, bytes) = header::measure(&t.dtype, &t.shape).map_err(|e| Error::failed(e).at(place()))?;
            let start = end;
            end = start.checked_add(bytes).ok_or_else(|| Error::failed("the file would be too long").at(place()))?;
            let (name, dtype, shape) = (t.name.clone(), t.dtype.clone(), t.shape.clone());
            entries.push(Entry { name, dtype, shape, elements, start, end });
        }
        let header = encode_header(metadata, &entries);
        let temp = TempFile::create(output)?;
        let data_at = header.len() as u64;
        temp.preallocate(data_at + end)?;
        temp.write_all_at(&header, 0)?;
        Ok(StWriter { temp, data_at, entries })
    }

    /// The tensors, as they were given.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Writes bytes of tensor `i` from byte `offset` of it.
    pub fn write_at(&self, i: usize, offset: u64, data: &[u8]) -> Result<()> {
        debug_assert!(offset + data.len() as u64 <= self.entries[i].bytes());
        self.temp.write_all_at(data, self.position(i) + offset)
    }

    /// Where tensor `i` begins in the file, for [`crate::pump::pump`].
    pub fn position(&self, i: usize) -> u64 {
        self.data_at + self.entries[i].start
    }

    /// The temp file.
    pub fn temp(&self) -> &TempFile {
        &self.temp
    }

    /// The temp file, to be persisted.
    pub fn into_temp(self) -> TempFile {
        self.temp
    }

    /// Syncs to disk; the caller persists.
    pub fn finish(self) -> Result<TempFile> {
        self.temp.sync()?;
        Ok(self.temp)
    }
}
