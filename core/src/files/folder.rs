//! A folder built beside its final name and swapped in.
//!
//! `.<name>.<token>.compress-tmp` is an empty file whose lock guards `.<name>.<token>.new.compress-tmp/`, the folder. Where
//! names can be exchanged in one step there is always a whole folder under the final name. Elsewhere the old one is
//! moved to `.<name>.<token>.old.compress-tmp` first; a run killed just then is undone by [`super::clean_stale`].

use std::path::{Path, PathBuf};

use super::temp::TempFile;
use super::{folder_of, os};
use crate::error::{Error, Result};

pub(super) const NEW: &str = ".new";
pub(super) const OLD: &str = ".old";

/// A folder that will stand under a final name, or nowhere: it is removed on drop unless swapped in.
#[derive(Debug)]
pub struct TempDir {
    new: PathBuf,
    old: PathBuf,
    // Dropped after the folders are gone: see `clean_one`.
    guard: TempFile,
}

impl TempDir {
    /// Creates an empty folder beside `output`.
    pub fn create(output: &Path) -> Result<TempDir> {
        let guard = TempFile::create(output)?;
        let dir = TempDir { new: guard.sibling(NEW), old: guard.sibling(OLD), guard };
        std::fs::create_dir(&dir.new).map_err(|e| Error::io("write", output, &e))?;
        Ok(dir)
    }

    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.new
    }

    /// Syncs the folder tree's entries (files are synced by who writes them) and puts the folder under its final name,
    /// in one step where the system can; then removes what it replaces.
    pub fn swap(self, output: &Path) -> Result<()> {
        self.swap_by(output, os::exchange)
    }

    fn swap_by(self, output: &Path, exchange: fn(&Path, &Path) -> std::io::Result<bool>) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("write", output, &e);
        sync_tree(&self.new).map_err(failed)?;
        if std::fs::symlink_metadata(output).is_err() {
            std::fs::rename(&self.new, output).map_err(failed)?;
            return super::sync_folder(folder_of(output));
        }
        if !exchange(&self.new, output).map_err(failed)? {
            std::fs::rename(output, &self.old).map_err(failed)?;
            if let Err(e) = std::fs::rename(&self.new, output) {
                let _ = std::fs::rename(&self.old, output);
                return Err(failed(e));
            }
        }
        super::sync_folder(folder_of(output))
    }
}

impl Drop for TempDir {
    /// Removes whichever folders are left under temp names: the unfinished one, or the one that was replaced.
    fn drop(&mut self) {
        let _ = (remove(&self.new), remove(&self.old), &self.guard);
    }
}

/// Clears the two folders of a run that is dead; brings back the old one if nothing stands under the final name.
pub(super) fn clean(output: &Path, new: &Path, old: &Path) -> Result<()> {
    if std::fs::symlink_metadata(old).is_ok() && std::fs::symlink_metadata(output).is_err() {
        std::fs::rename(old, output).map_err(|e| Error::io("restore", output, &e))?;
        super::sync_folder(folder_of(output))?;
    }
    for path in [new, old] {
        remove(path).map_err(|e| Error::io("remove what an earlier run left,", path, &e))?;
    }
    Ok(())
}

/// Removes a folder, file or link; nothing there is fine.
fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    os::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::super::clean_stale;
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn filled(output: &Path, text: &str) -> TempDir {
        let dir = TempDir::create(output).unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), text).unwrap();
        dir
    }

    #[test]
    fn a_folder_is_swapped_in_and_the_old_one_goes() {
        for exchange in [os::exchange, |_: &Path, _: &Path| Ok(false)] {
            let root = tempfile::tempdir().unwrap();
            let out = root.path().join("out");
            for text in ["one", "two", "three"] {
                filled(&out, text).swap_by(&out, exchange).unwrap();
                assert_eq!(std::fs::read_to_string(out.join("sub/file")).unwrap(), text);
                assert_eq!(names(root.path()), ["out"]);
            }
            drop(filled(&out, "never"));
            assert_eq!(names(root.path()), ["out"]);
        }
    }

    /// What a kill leaves: everything as it is at that moment, without destructors and with the lock released.
    fn kill(dir: TempDir) {
        let dir = std::mem::ManuallyDrop::new(dir);
        dir.guard.file().unlock().unwrap();
    }

    #[test]
    fn whatever_a_kill_leaves_is_cleaned_and_a_whole_folder_stays() {
        for step in 0..4 {
            let root = tempfile::tempdir().unwrap();
            let out = root.path().join("out");
            filled(&out, "old").swap(&out).unwrap();
            let dir = filled(&out, "new");
            if step == 1 {
                os::exchange(dir.path(), &out).unwrap();
            }
            if step >= 2 {
                std::fs::rename(&out, &dir.old).unwrap();
            }
            if step == 3 {
                std::fs::rename(&dir.new, &out).unwrap();
            }
            kill(dir);
            clean_stale(&out).unwrap();
            assert_eq!(names(root.path()), ["out"], "step {step}");
            let text = std::fs::read_to_string(out.join("sub/file")).unwrap();
            assert_eq!(text, ["old", "new", "old", "new"][step]);
        }
    }

    #[test]
    fn a_live_run_keeps_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let dir = filled(&out, "live");
        clean_stale(&out).unwrap();
        dir.swap(&out).unwrap();
        assert_eq!(std::fs::read_to_string(out.join("sub/file")).unwrap(), "live");
    }
}
