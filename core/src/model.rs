//! A model: one file, a sharded folder, or a list of files judged as one population.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::class::{PartSpec, Role, Roles, names};
use crate::error::{Error, Result};
use crate::format::{Format, OpenOptions, Source, SourceFile};
use crate::tensor::{TensorId, TensorInfo};

/// An open model with all its tensors in one numbering.
pub struct Model {
    sources: Vec<Box<dyn Source>>,
    paths: Vec<PathBuf>,
    tensors: Vec<TensorInfo>,
    at: Vec<(usize, TensorId)>,
    positions: Vec<u64>,
    roles: Roles,
}

impl Model {
    /// Opens one path or several. Of several, a tensor or class name that occurs in more than one file is preceded by
    /// the file's name without its extension: `encoder/W`, `encoder.layer1`.
    pub fn open(formats: &[&dyn Format], paths: &[PathBuf], options: &OpenOptions) -> Result<Model> {
        let sources = paths.iter().map(|p| open_source(formats, p, options)).collect::<Result<Vec<_>>>()?;
        if let Some(other) = sources.iter().find(|s| s.format() != sources[0].format()) {
            return Err(Error::usage(format!(
                "the model's files have different formats ({} and {}); give files of one format",
                sources[0].format(),
                other.format()
            )));
        }
        let mut model = Model {
            paths: paths.to_vec(),
            tensors: Vec::new(),
            at: Vec::new(),
            positions: Vec::new(),
            roles: Roles::default(),
            sources,
        };
        model.join();
        Ok(model)
    }

    fn join(&mut self) {
        let stems: Vec<String> = self.paths.iter().map(|p| stem(p)).collect();
        let several = repeated(self.sources.iter().map(|s| s.tensors().iter().map(|t| t.name.clone()).collect()));
        let roles: Vec<Roles> =
            self.sources.iter().map(|s| s.roles().cloned().unwrap_or_else(|| names::roles(s.tensors()))).collect();
        let classes = repeated(roles.iter().map(|r| r.tensors.iter().flat_map(classes_of).collect()));
        let mut position = 0u64;
        let mut file_base = 0;
        for (index, (source, roles)) in self.sources.iter().zip(roles).enumerate() {
            for (id, (info, mut role)) in source.tensors().iter().zip(roles.tensors).enumerate() {
                let mut info = info.clone();
                info.file += file_base;
                if several.contains(&info.name) {
                    info.name = format!("{}/{}", stems[index], info.name);
                }
                for part in parts_mut(&mut role) {
                    if classes.contains(&part.class) {
                        part.class = format!("{}.{}", stems[index], part.class);
                    }
                }
                self.positions.push(position);
                position += info.elements;
                self.tensors.push(info);
                self.roles.tensors.push(role);
                self.at.push((index, id));
            }
            file_base += source.files().len();
        }
    }

    /// The format's name.
    pub fn format(&self) -> &'static str {
        self.sources[0].format()
    }

    /// The paths as given.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The files one by one, as opened.
    pub fn sources(&self) -> &[Box<dyn Source>] {
        &self.sources
    }

    /// Which source a tensor comes from, and its number there.
    pub fn origin(&self, id: TensorId) -> (usize, TensorId) {
        self.at[id]
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// What the tensors are.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// Position of a tensor's first element in the order that breaks ties.
    pub fn position(&self, id: TensorId) -> u64 {
        self.positions[id]
    }

    /// Reads dense bytes of a tensor.
    pub fn read_at(&self, id: TensorId, offset: u64, out: &mut [u8]) -> Result<()> {
        let (source, inner) = self.at[id];
        self.sources[source].read_at(inner, offset, out)
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &SourceFile> {
        self.sources.iter().flat_map(|s| s.files())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files().map(|f| f.bytes).sum()
    }

    /// Warnings met on opening.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.sources.iter().flat_map(|s| s.warnings())
    }
}

fn open_source(formats: &[&dyn Format], path: &Path, options: &OpenOptions) -> Result<Box<dyn Source>> {
    std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::usage(format!("the model \"{}\" does not exist", path.display())),
        _ => Error::io("open the model", path, &e),
    })?;
    let format = formats.iter().find(|f| f.recognises(path)).ok_or_else(|| {
        let known: Vec<&str> = formats.iter().map(|f| f.name()).collect();
        Error::failed(format!("\"{}\" is of no known format (known: {})", path.display(), known.join(", ")))
    })?;
    format.open(path, options)
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

fn classes_of(role: &Role) -> BTreeSet<String> {
    match role {
        Role::Weight(parts) | Role::OneDimensional(parts, _) => parts.iter().map(|p| p.class.clone()).collect(),
        Role::Never(_) => BTreeSet::new(),
    }
}

fn parts_mut(role: &mut Role) -> &mut [PartSpec] {
    match role {
        Role::Weight(parts) | Role::OneDimensional(parts, _) => parts,
        Role::Never(_) => &mut [],
    }
}

/// Names that occur in more than one of the sets.
fn repeated(sets: impl Iterator<Item = BTreeSet<String>>) -> BTreeSet<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    sets.flatten().for_each(|name| *counts.entry(name).or_default() += 1);
    counts.into_iter().filter(|(_, n)| *n > 1).map(|(name, _)| name).collect()
}
