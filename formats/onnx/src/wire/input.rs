//! A file that is read at positions: any thread, no mapping, a sentence with its name where a read fails.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compress_core::files::{self, TempFile};
use compress_core::{Error, Result};

/// A regular file, opened for positioned reads.
#[derive(Debug)]
pub struct Input {
    /// `None`: opened anew for each read, because the model has more files than a process may hold open.
    handle: Option<File>,
    path: PathBuf,
    bytes: u64,
    identity: (u64, u64),
}

impl Input {
    /// Opens a regular file (through links).
    pub fn open(path: &Path) -> Result<Arc<Input>> {
        Self::open_as(path, true)
    }

    /// Opens a regular file; `keep_open = false` gives its handle back between reads.
    pub fn open_as(path: &Path, keep_open: bool) -> Result<Arc<Input>> {
        // Asked before opening, since opening a pipe waits for its other end.
        let meta = std::fs::metadata(path).map_err(|e| Error::io("open", path, &e))?;
        if !meta.is_file() {
            return Err(Error::failed(format!("\"{}\" is not a regular file", path.display())));
        }
        let file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
        let meta = file.metadata().map_err(|e| Error::io("open", path, &e))?;
        Ok(Arc::new(Input {
            handle: keep_open.then_some(file),
            path: path.to_path_buf(),
            bytes: meta.len(),
            identity: (meta.dev(), meta.ino()),
        }))
    }

    /// Where it is, as opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Device and inode: equal for every name of the same file.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Fills `out` from byte `offset`.
    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        match &self.handle {
            Some(file) => file.read_exact_at(out, offset),
            None => File::open(&self.path).and_then(|file| file.read_exact_at(out, offset)),
        }
        .map_err(|e| Error::io("read", &self.path, &e))
    }

    /// Copies bytes to another file.
    pub fn copy_to(&self, offset: u64, bytes: u64, to: &TempFile, to_offset: u64) -> Result<()> {
        let reopened;
        let file = match &self.handle {
            Some(file) => file,
            None => {
                reopened = File::open(&self.path).map_err(|e| Error::io("open", &self.path, &e))?;
                &reopened
            }
        };
        files::copy_range(file, offset, to.file(), to_offset, bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::io("read", &self.path, &e),
            _ => Error::io("write", to.path(), &e),
        })
    }

    /// An error about this file's content.
    pub fn broken(&self, what: impl std::fmt::Display) -> Error {
        Error::failed(format!("\"{}\" is not a valid ONNX model: {what}", self.path.display()))
    }
}
