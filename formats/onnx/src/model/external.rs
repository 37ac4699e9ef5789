//! Files beside the model that hold tensors. They come from whoever made the model, so they may not lead elsewhere.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use compress_core::{Error, Result};

use crate::wire::Input;

/// Files that are held open at the same time; PyTorch's old exporter writes one a tensor.
const HANDLES: usize = 256;

/// The folder of a model, and the files in it that its tensors lie in.
#[derive(Debug)]
pub(crate) struct Externals {
    model: PathBuf,
    folder: PathBuf,
    follow_links: bool,
    /// Where a location is really, as of a model that is not yet under its name.
    redirect: BTreeMap<String, PathBuf>,
    open: Mutex<BTreeMap<String, Arc<Input>>>,
}

impl Externals {
    /// For a model in its folder. `redirect` says where locations are that do not lie under their names yet.
    pub(crate) fn new(model: &Path, follow_links: bool, redirect: BTreeMap<String, PathBuf>) -> Self {
        let folder = match model.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
            _ => PathBuf::from("."),
        };
        Externals { model: model.to_path_buf(), folder, follow_links, redirect, open: Mutex::default() }
    }

    /// The files that were opened, by location.
    pub(crate) fn files(&self) -> Vec<(String, Arc<Input>)> {
        let open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        open.iter().map(|(name, input)| (name.clone(), input.clone())).collect()
    }

    /// Opens a location.
    pub(crate) fn get(&self, location: &str) -> Result<Arc<Input>> {
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(input) = open.get(location) {
            return Ok(input.clone());
        }
        let path = match self.redirect.get(location) {
            Some(path) => path.clone(),
            None => self.resolve(location)?,
        };
        let input = Input::open_as(&path, open.len() < HANDLES)
            .map_err(|e| e.at(format_args!("external data of \"{}\"", self.model.display())))?;
        open.insert(location.to_string(), input.clone());
        Ok(input)
    }

    fn resolve(&self, location: &str) -> Result<PathBuf> {
        let refuse = |why: &str| {
            Err(Error::failed(format!(
                "\"{}\" keeps data in \"{location}\", which {why}; data must lie in the model's folder",
                self.model.display()
            )))
        };
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || location.contains('\0') || !Path::new(location).components().all(plain) {
            return refuse("is not a path below the model's folder");
        }
        let path = self.folder.join(location);
        let real = std::fs::canonicalize(&path).map_err(|e| {
            Error::io("open", &path, &e).at(format_args!("external data of \"{}\"", self.model.display()))
        })?;
        let folder = std::fs::canonicalize(&self.folder).map_err(|e| Error::io("open", &self.folder, &e))?;
        if real.starts_with(&folder) {
            return Ok(path);
        }
        match hugging_face_tree(&folder) {
            Some(tree) if real.starts_with(&tree) && self.follow_links => Ok(path),
            Some(tree) if real.starts_with(&tree) => {
                refuse("is a link out of the model's folder (inside its Hugging Face cache: --follow-links allows it)")
            }
            _ => refuse("is a link out of the model's folder"),
        }
    }
}

/// The folder `models--<owner>--<name>` around a snapshot of the Hugging Face cache.
fn hugging_face_tree(folder: &Path) -> Option<PathBuf> {
    let tree = |path: &&Path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("models--"));
    folder.ancestors().find(tree).map(Path::to_path_buf)
}
