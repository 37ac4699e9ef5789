//! A temp file with a lock, and the removal of what killed runs left behind.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};

use super::{folder, folder_of, os};
use crate::error::{Error, Result};

/// What the names of all temp files and folders end in.
pub(super) const SUFFIX: &str = ".compress-tmp";

/// A file that will stand under a final name, or nowhere: it is removed on drop unless persisted. Locked all its life.
#[derive(Debug)]
pub struct TempFile {
    file: Option<File>,
    path: PathBuf,
    /// What it is for: the name that errors show.
    output: PathBuf,
    /// The name without [`SUFFIX`].
    stem: OsString,
}

impl TempFile {
    /// Creates an empty file beside `output`, to be persisted under that name or another one in the same folder.
    pub fn create(output: &Path) -> Result<TempFile> {
        let prefix = prefix(output)?;
        let failed = |e: &std::io::Error| Error::io("write", output, e);
        // A second try is for the moment between creation and lock, in which another run's cleaner may remove the file.
        for _ in 0..100 {
            let mut stem = prefix.clone();
            stem.push(token());
            let path = folder_of(output).join(join(&stem, ""));
            let file = match File::options().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(failed(&e)),
            };
            match file.try_lock() {
                Err(std::fs::TryLockError::WouldBlock) => continue,
                Err(std::fs::TryLockError::Error(e)) if e.kind() != std::io::ErrorKind::Unsupported => {
                    let _ = std::fs::remove_file(&path);
                    return Err(failed(&e));
                }
                _ if os::still_named(&file, &path) => {
                    return Ok(TempFile { file: Some(file), path, output: output.to_path_buf(), stem });
                }
                _ => {}
            }
        }
        Err(Error::failed(format!("cannot write \"{}\": no temp file of it stays in place", output.display())))
    }

    /// The open file, for positioned reads and writes from any thread.
    pub fn file(&self) -> &File {
        self.file.as_ref().expect("the file is only taken on drop")
    }

    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the length and reserves the blocks.
    pub fn preallocate(&self, bytes: u64) -> Result<()> {
        os::preallocate(self.file(), bytes).map_err(|e| self.failed(&e))
    }

    /// Writes all of `data` at byte `at`, from any thread.
    pub fn write_all_at(&self, data: &[u8], at: u64) -> Result<()> {
        os::write_all_at(self.file(), data, at).map_err(|e| self.failed(&e))
    }

    /// Waits until everything written is on disk.
    pub fn sync(&self) -> Result<()> {
        self.file().sync_all().map_err(|e| self.failed(&e))
    }

    /// Puts the file under its final name, in one step, replacing what is there. Call [`TempFile::sync`] before.
    pub fn persist(mut self, output: &Path) -> Result<()> {
        std::fs::rename(&self.path, output).map_err(|e| Error::io("write", output, &e))?;
        self.file = None;
        super::sync_folder(folder_of(output))
    }

    /// The temp name with a kind put in, for what this file's lock guards.
    pub(super) fn sibling(&self, kind: &str) -> PathBuf {
        self.path.with_file_name(join(&self.stem, kind))
    }

    fn failed(&self, e: &std::io::Error) -> Error {
        Error::io("write", &self.output, e)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // Removed while still locked, so that no cleaner can come between.
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the temp files and folders that killed runs left beside `output`, and finishes or undoes a swap of folders
/// that was cut off. What belongs to a live run stays. Called at the start of each run, for each of its outputs.
pub fn clean_stale(output: &Path) -> Result<()> {
    let parent = folder_of(output);
    let Ok(entries) = std::fs::read_dir(parent) else { return Ok(()) };
    let prefix = prefix(output)?;
    let mut tokens: Vec<String> = entries.flatten().filter_map(|e| Some(parse(&prefix, &e.file_name())?.0)).collect();
    tokens.sort();
    tokens.dedup();
    for token in tokens {
        clean_one(output, parent, &prefix, &token)?;
    }
    Ok(())
}

/// All leftovers of one token: the lock file, which may be the data itself, and the folders that it guards.
fn clean_one(output: &Path, parent: &Path, prefix: &OsStr, token: &str) -> Result<()> {
    let mut stem = prefix.to_os_string();
    stem.push(token);
    let lock = parent.join(join(&stem, ""));
    let held = match std::fs::symlink_metadata(&lock) {
        Ok(m) if m.is_file() => match File::options().read(true).write(true).open(&lock) {
            Ok(file) => match file.try_lock() {
                Ok(()) if os::still_named(&file, &lock) => Some(file),
                _ => return Ok(()), // a live run's, or on its way into place
            },
            Err(_) => return Ok(()), // another user's
        },
        Ok(_) => return Ok(()),
        Err(_) => None, // the guard of a folder is removed last, so no live run has folders without it
    };
    folder::clean(output, &parent.join(join(&stem, folder::NEW)), &parent.join(join(&stem, folder::OLD)))?;
    if held.is_some() {
        let _ = std::fs::remove_file(&lock);
    }
    Ok(())
}

/// `.<name>.`, the name cut and given a hash where it would be too long for a file name.
fn prefix(output: &Path) -> Result<OsString> {
    let Some(name) = output.file_name() else {
        return Err(Error::usage(format!("the output \"{}\" has no file name", output.display())));
    };
    let mut prefix = OsString::from(".");
    if name.len() <= 180 {
        prefix.push(name);
    } else {
        let text = name.to_string_lossy();
        let cut = (0..=120).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        let hash = name.as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3) // FNV-1a
        });
        prefix.push(format!("{}~{hash:016x}", &text[..cut]));
    }
    prefix.push(".");
    Ok(prefix)
}

fn join(stem: &OsStr, kind: &str) -> OsString {
    let mut name = stem.to_os_string();
    name.push(kind);
    name.push(SUFFIX);
    name
}

/// Token and kind of a temp name of this prefix: `.<name>.<token><kind>.compress-tmp`.
fn parse(prefix: &OsStr, name: &OsStr) -> Option<(String, String)> {
    let middle = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes())?;
    let middle = std::str::from_utf8(middle.strip_suffix(SUFFIX.as_bytes())?).ok()?;
    let (token, kind) = middle.split_at(middle.find('.').unwrap_or(middle.len()));
    let hex = |t: &str| t.split('-').all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_hexdigit()));
    (["", folder::NEW, folder::OLD].contains(&kind) && token.contains('-') && hex(token))
        .then(|| (token.to_string(), kind.to_string()))
}

/// A name that no other run has: process, and a random number from the hash map's keys.
fn token() -> String {
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    format!("{:x}-{:x}", std::process::id(), hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["out.onnx".to_string(), "x".repeat(255), "ä".repeat(100)] {
            let out = dir.path().join(&name);
            let temp = TempFile::create(&out).unwrap();
            temp.preallocate(5).unwrap();
            temp.write_all_at(b"lo", 3).unwrap();
            temp.write_all_at(b"hel", 0).unwrap();
            assert!(!out.exists());
            clean_stale(&out).unwrap(); // a live run's file stays
            temp.sync().unwrap();
            temp.persist(&out).unwrap();
            assert_eq!(std::fs::read(&out).unwrap(), b"hello");
            drop(TempFile::create(&out).unwrap());
            assert_eq!(names(dir.path()), [name]);
            std::fs::remove_file(&out).unwrap();
        }
    }

    #[test]
    fn only_dead_temp_files_of_this_output_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a");
        let dead = [".a.1-2f.compress-tmp", ".a.1-2f.old.compress-tmp"];
        let others =
            [".a.b.1-2f.compress-tmp", ".a.notes.compress-tmp", "a.1-2f.compress-tmp", ".b.1-2.compress-tmp", "a"];
        for name in dead.iter().chain(&others) {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        clean_stale(&out).unwrap();
        let mut left = names(dir.path());
        left.sort();
        let mut expected: Vec<_> = others.iter().map(ToString::to_string).collect();
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_missing_folder_is_one_clear_sentence() {
        let error = TempFile::create(Path::new("/nowhere/at/all.onnx")).unwrap_err();
        assert_eq!(error.to_string(), "cannot write \"/nowhere/at/all.onnx\": there is no such file or folder");
        assert!(TempFile::create(Path::new("/")).unwrap_err().to_string().contains("has no file name"));
    }
}
