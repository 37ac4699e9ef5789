//! A model's folder: where its index is, and the files beside the shards, which are carried along.

use std::path::{Path, PathBuf};

use compress_core::{Error, Result};

use crate::index;

/// A file to carry along: relative to the folder.
pub type Extra = PathBuf;

/// Whether a folder has an index, or safetensors files.
pub fn looks_like_model(folder: &Path) -> bool {
    let Ok(names) = names(folder) else { return false };
    names.iter().any(|n| n.ends_with(index::SUFFIX) || n.ends_with(".safetensors"))
}

/// The file by which a folder's model is opened: its index, or its one safetensors file.
pub fn entry_file(folder: &Path) -> Result<PathBuf> {
    let names = names(folder)?;
    let show = folder.display();
    let with = |suffix: &str| names.iter().filter(|n| n.ends_with(suffix)).collect::<Vec<_>>();
    let (indexes, files) = (with(index::SUFFIX), with(".safetensors"));
    let usual = format!("model{}", index::SUFFIX);
    let name = match (&indexes[..], &files[..]) {
        (many, _) if many.contains(&&usual) => &usual,
        ([one], _) | ([], [one]) => *one,
        ([], []) => return Err(Error::failed(format!("the folder \"{show}\" holds no safetensors file"))),
        ([], many) => {
            let text = format!("the folder \"{show}\" holds {} safetensors files and no index", many.len());
            return Err(Error::failed(format!("{text} (*{}); name one of the files", index::SUFFIX)));
        }
        (many, _) => {
            let text = format!("the folder \"{show}\" holds {} indexes; name one of them", many.len());
            return Err(Error::failed(text));
        }
    };
    Ok(folder.join(name))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let io = |e: std::io::Error| Error::io("read the folder", folder, &e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        // Temp files of runs, and what an archiver of another system adds (`._model.safetensors`), are hidden.
        names.extend(name.into_string().ok().filter(|n| !n.starts_with('.')));
    }
    names.sort();
    Ok(names)
}

/// All files to carry along, sorted: ordinary files and links to such, in sub-folders too. Left behind: `own` (the
/// model's own files), other runs' temp files and state, hidden folders (`.git`, `.cache`), links to folders.
pub fn extras(folder: &Path, own: &[&str], warnings: &mut Vec<String>) -> Result<Vec<Extra>> {
    let mut found = Vec::new();
    walk(folder, Path::new(""), &mut found, warnings)?;
    found.retain(|p| !own.iter().any(|o| p == Path::new(o)));
    found.sort();
    Ok(found)
}

fn walk(root: &Path, below: &Path, found: &mut Vec<Extra>, warnings: &mut Vec<String>) -> Result<()> {
    let folder = root.join(below);
    let io = |e: std::io::Error| Error::io("read the folder", &folder, &e);
    for entry in std::fs::read_dir(&folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let (name, kind) = (entry.file_name(), entry.file_type().map_err(io)?);
        let (path, bytes) = (below.join(&name), name.as_encoded_bytes());
        if bytes.ends_with(b".compress-tmp") || bytes.ends_with(b".state") {
            continue;
        }
        let is_folder = std::fs::metadata(entry.path()).is_ok_and(|m| m.is_dir());
        if kind.is_dir() && !bytes.starts_with(b".") {
            walk(root, &path, found, warnings)?;
        } else if is_folder {
            let what = if kind.is_symlink() { "link to a folder" } else { "hidden folder" };
            warnings.push(format!("the {what} \"{}\" is not carried along", path.display()));
        } else if std::fs::metadata(entry.path()).is_ok_and(|m| m.is_file()) {
            found.push(path);
        } else {
            warnings.push(format!("\"{}\" is no ordinary file and is not carried along", path.display()));
        }
    }
    Ok(())
}
