//! A model that is written but not yet under its name, and what its name may be.

use std::path::{Path, PathBuf};

use compress_core::files::{self, TempDir, TempFile};
use compress_core::format::{Source, Staged, StagedFile};
use compress_core::{Error, Result};

use crate::folder;
use crate::model::Model;
use crate::shard::Shard;

/// What holds the output until it is committed.
pub enum Place {
    /// One file.
    File(TempFile),
    /// A folder.
    Folder(TempDir),
}

/// A model written.
pub struct StagedModel {
    /// Its final name.
    pub output: PathBuf,
    /// Where it is.
    pub place: Place,
    /// Its files.
    pub files: Vec<StagedFile>,
    /// Those of them that hold tensors.
    pub shards: Vec<Shard>,
}

impl Staged for StagedModel {
    fn files(&self) -> Vec<StagedFile> {
        self.files.clone()
    }

    fn reopen(&self) -> Result<Box<dyn Source>> {
        // The index by its name: a folder may hold several.
        let path = match &self.place {
            Place::File(temp) => temp.path(),
            Place::Folder(_) => &self.files[self.files.len() - 1].path,
        };
        Ok(Box::new(Model::open(path, u64::MAX)?))
    }

    fn sync(&self) -> Result<()> {
        self.shards.iter().try_for_each(Shard::sync)
    }

    fn commit(self: Box<Self>) -> Result<()> {
        self.sync()?;
        match self.place {
            Place::File(temp) => temp.persist(&self.output),
            Place::Folder(dir) => dir.swap(&self.output),
        }
    }
}

/// Refuses an output that is or holds an input, lies within the input's folder, stands in the way, or has the wrong form.
pub fn check_output(model: &Model, output: &Path, force: bool) -> Result<()> {
    files::refuse_if_input(output, model.0.files.iter().map(|f| f.path.as_path()))?;
    let show = output.display();
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let Some(input) = &model.0.folder else {
        if output.is_dir() {
            return Err(Error::usage(format!("the output \"{show}\" is a folder: name a file, as the model is one")));
        }
        return refuse_existing(output, force);
    };
    if name.ends_with(".safetensors") || name.ends_with(".json") {
        return Err(Error::usage(format!("the output \"{show}\" must be a folder, as the model is one")));
    }
    let inside = |p: &Path| p.canonicalize().is_ok_and(|p| input.root.canonicalize().is_ok_and(|r| p.starts_with(r)));
    if inside(files::folder_of(output)) {
        let text = format!("the output \"{show}\" lies within the model's folder \"{}\"", input.root.display());
        return Err(Error::usage(format!("{text}: give it a place outside")));
    }
    refuse_existing(output, force)?;
    // A folder is replaced as a whole, so it must be one that is a model's.
    if output.is_dir() && !folder::looks_like_model(output) && !is_empty(output) {
        let text = "exists and holds no safetensors model: it would be removed with all that is in it";
        return Err(Error::usage(format!("the output folder \"{show}\" {text}; name another one")));
    }
    if output.is_file() {
        return Err(Error::usage(format!("the output \"{show}\" is a file: name a folder, as the model is one")));
    }
    Ok(())
}

fn refuse_existing(output: &Path, force: bool) -> Result<()> {
    if !force && std::fs::symlink_metadata(output).is_ok() {
        let text = format!("the output \"{}\" exists: --force replaces it", output.display());
        return Err(Error::usage(text));
    }
    Ok(())
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}
