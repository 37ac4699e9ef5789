//! The files through which numbers cross: raw, in this machine's byte order. The other side maps them; this side writes
//! and reads, so that a file that is cut short there is an error here and not a signal.
//!
//! On Linux they are files of memory without a name: two to three times as fast as files of a disk, and nothing remains
//! of a run that was killed. Elsewhere they lie in a private folder.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::files;

/// A private folder that goes with its owner.
pub struct Folder {
    path: PathBuf,
    count: AtomicU64,
}

impl Folder {
    pub fn new() -> Result<Folder> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("compress-door-{}-{next}", std::process::id()));
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            match builder.create(&path) {
                Ok(()) => return Ok(Folder { path, count: AtomicU64::new(0) }),
                // Of a killed run whose number came again.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create the folder", &path, &e)),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is in the system's folder for what may be removed.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Bytes of an area.
#[derive(Clone, Copy)]
pub struct Place {
    pub at: u64,
    pub bytes: u64,
}

/// A file for one call at a time. Its path may go as soon as the other side has it open.
pub struct Area {
    file: File,
    path: PathBuf,
    used: u64,
    bytes: u64,
    linked: bool,
}

/// Numbers begin at multiples of this.
const ALIGN: u64 = 64;

impl Area {
    pub fn new(folder: &Folder) -> Result<Area> {
        if let Some((file, path)) = in_memory() {
            return Ok(Area { file, path, used: 0, bytes: 0, linked: false });
        }
        let path = folder.path.join(folder.count.fetch_add(1, Ordering::Relaxed).to_string());
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|e| Error::io("create", &path, &e))?;
        Ok(Area { file, path, used: 0, bytes: 0, linked: true })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets what lies in it.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Room for so many numbers.
    pub fn reserve<T: Plain>(&mut self, count: usize) -> Result<Place> {
        let place = Place { at: self.used, bytes: (count * size_of::<T>()) as u64 };
        self.used = (place.at + place.bytes).next_multiple_of(ALIGN);
        Ok(place)
    }

    /// Puts numbers behind what there is.
    pub fn write<T: Plain>(&mut self, data: &[T]) -> Result<Place> {
        let place = self.reserve::<T>(data.len())?;
        // SAFETY: a `Plain` has no padding, so all of its bytes are there; they are borrowed as long as `data` is.
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), size_of_val(data)) };
        files::write_all_at(&self.file, bytes, place.at).map_err(|e| Error::io("write", &self.path, &e))?;
        self.bytes = self.bytes.max(place.at + place.bytes);
        Ok(place)
    }

    /// Makes the file as long as what was reserved.
    pub fn settle(&mut self) -> Result<()> {
        if self.used > self.bytes {
            self.file.set_len(self.used).map_err(|e| Error::io("write", &self.path, &e))?;
            self.bytes = self.used;
        }
        Ok(())
    }

    /// The other side may have made the file longer.
    pub fn refresh(&mut self) -> Result<()> {
        self.bytes = self.file.metadata().map_err(|e| Error::io("read", &self.path, &e))?.len();
        Ok(())
    }

    /// The other side answered, so it has the file open.
    pub fn seen(&mut self, answered: bool) {
        if answered && self.linked {
            self.linked = fs::remove_file(&self.path).is_err();
        }
    }

    /// Whether a place lies in the file.
    pub fn check(&self, place: Place) -> std::result::Result<(), String> {
        match place.at.checked_add(place.bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(format!("its answer has {} bytes at {}, beyond its file's {}", place.bytes, place.at, self.bytes)),
        }
    }

    /// Fetches numbers.
    pub fn read<T: Plain>(&self, at: u64, out: &mut [T]) -> Result<()> {
        // SAFETY: a `Plain` has no padding and any bytes make one; they are borrowed as long as `out` is.
        let bytes = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), size_of_val(out)) };
        files::read_exact_at(&self.file, bytes, at).map_err(|e| Error::io("read", &self.path, &e))
    }
}

/// A file of memory and the path by which a child can open it.
#[cfg(target_os = "linux")]
fn in_memory() -> Option<(File, PathBuf)> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    // SAFETY: the name is a C text that lives for ever.
    let fd = unsafe { libc::memfd_create(c"compress-door".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
    // Without /proc, or where it is closed to us, a child cannot open it.
    path.exists().then_some((file, path))
}

#[cfg(not(target_os = "linux"))]
fn in_memory() -> Option<(File, PathBuf)> {
    None
}

/// Types without padding that any bytes make.
///
/// # Safety
/// They really must be so.
pub unsafe trait Plain: Copy {}

// SAFETY: as it says.
unsafe impl Plain for u8 {}
// SAFETY: as it says.
unsafe impl Plain for f32 {}
