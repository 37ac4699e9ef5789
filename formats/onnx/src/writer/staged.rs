//! A model that is written and synced but not yet under its name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use compress_core::files::{self, TempFile};
use compress_core::format::{Source, Staged, StagedFile};
use compress_core::{Error, Result};

use super::sink::StagedData;
use crate::source::{OnnxSource, Shared};

/// A written model and its data.
pub(super) struct OnnxStaged {
    pub(super) shared: Arc<Shared>,
    pub(super) output: PathBuf,
    pub(super) model: TempFile,
    pub(super) data: Option<StagedData>,
    pub(super) warnings: Vec<String>,
}

impl Staged for OnnxStaged {
    fn files(&self) -> Vec<StagedFile> {
        let name = self.output.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = self.model.file().metadata().map_or(0, |m| m.len());
        let mut files = vec![StagedFile { name, path: self.model.path().to_path_buf(), bytes }];
        if let Some(data) = &self.data {
            let path = data.temp.as_ref().map(|t| t.path().to_path_buf()).unwrap_or_default();
            files.push(StagedFile { name: data.name.clone(), path, bytes: data.bytes });
        }
        files
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn reopen(&self) -> Result<Box<dyn Source>> {
        let redirect: BTreeMap<String, PathBuf> =
            self.data.iter().filter_map(|d| Some((d.name.clone(), d.temp.as_ref()?.path().to_path_buf()))).collect();
        Ok(Box::new(OnnxSource::open_redirected(self.model.path(), &self.shared.options, redirect)?))
    }

    /// Data first, under a name that nothing refers to yet; then the model, which is the commit; then what the model
    /// before it and killed runs left behind.
    fn commit(self: Box<Self>) -> Result<()> {
        let folder = files::folder_of(&self.output).to_path_buf();
        let new = self.data.as_ref().map(|data| data.name.clone());
        if let Some(data) = self.data
            && let Some(temp) = data.temp
        {
            temp.persist(&folder.join(&data.name))?;
        }
        self.model.persist(&self.output)?;
        let Some(name) = self.output.file_name() else { return Ok(()) };
        let entries = std::fs::read_dir(&folder).map_err(|e| Error::io("read the folder", &folder, &e))?;
        for entry in entries.flatten() {
            let file = entry.file_name();
            let is_new = new.as_deref().is_some_and(|new| file == *new);
            if !is_data_of(name, &file) || is_new || !entry.file_type().is_ok_and(|t| t.is_file()) {
                continue;
            }
            let identity = entry.metadata().ok().map(|m| (m.dev(), m.ino()));
            if self.shared.inputs.iter().all(|input| Some(input.identity()) != identity) {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(|e| Error::io("remove the old data", &path, &e))?;
            }
        }
        files::sync_folder(&folder)
    }
}

/// Whether a file name is `<model>.<16 hexadecimal digits>.data`.
fn is_data_of(model: &OsStr, file: &OsStr) -> bool {
    let middle = file
        .as_encoded_bytes()
        .strip_prefix(model.as_encoded_bytes())
        .and_then(|rest| rest.strip_prefix(b"."))
        .and_then(|rest| rest.strip_suffix(b".data"));
    middle.is_some_and(|m| m.len() == 16 && m.iter().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_data_files_are_ours() {
        for (file, ours) in [
            ("a.onnx.0123456789abcdef.data", true),
            ("a.onnx.0123456789ABCDEF.data", false),
            ("a.onnx.0123456789abcde.data", false),
            ("a.onnx.data", false),
            ("a.onnx", false),
            ("b.onnx.0123456789abcdef.data", false),
            ("aa.onnx.0123456789abcdef.data", false),
        ] {
            assert_eq!(is_data_of(OsStr::new("a.onnx"), OsStr::new(file)), ours, "{file}");
        }
    }
}
