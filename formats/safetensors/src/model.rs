//! An open model: one file, or the shards that an index names.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compress_core::class::Roles;
use compress_core::encode::Decoder;
use compress_core::encode::outline::{Outline, PackedLayout};
use compress_core::format::{CreateOptions, Sink, Source, SourceFile};
use compress_core::stfile::{Entry, StFile, quoted};
use compress_core::tensor::{TensorId, TensorInfo};
use compress_core::{Error, Result};

use crate::folder::{self, Extra};
use crate::index::Index;
use crate::legacy;
use crate::packed::{self, Stored};
use crate::pairs::{self, At, Pair};
use crate::sink;

/// Where a tensor's bytes are.
#[derive(Clone, Copy, Debug)]
pub enum Slot {
    /// One entry.
    Stored(At),
    /// The product of two.
    Pair {
        /// `X_orig`.
        orig: At,
        /// `X_mask`.
        mask: At,
    },
    /// In pieces: position in [`Inner::packed`], and the shard that it is written to.
    Packed(usize, usize),
}

impl Slot {
    /// The shard that the tensor is written to.
    pub fn shard(self) -> usize {
        match self {
            Slot::Stored((shard, _)) | Slot::Pair { orig: (shard, _), .. } | Slot::Packed(_, shard) => shard,
        }
    }
}

/// What a folder has beside its shards.
#[derive(Debug)]
pub struct Folder {
    /// Where it is.
    pub root: PathBuf,
    /// Its index; none where the folder's only safetensors file is the model.
    pub index: Option<Index>,
    /// The files to carry along.
    pub extras: Vec<Extra>,
}

/// An open model; clones share it.
#[derive(Clone)]
pub struct Model(pub Arc<Inner>);

/// What the clones share.
pub struct Inner {
    /// The files of tensors, by name.
    pub shards: Vec<Arc<StFile>>,
    /// Tensors that are stored in pieces.
    pub packed: Vec<Stored>,
    /// Whether tensors of compressed-tensors' sparse formats were met.
    pub legacy: bool,
    /// One a tensor.
    pub slots: Vec<Slot>,
    /// One a tensor, sorted by shard, then position.
    pub tensors: Vec<TensorInfo>,
    /// Set for a folder.
    pub folder: Option<Folder>,
    /// The shards, then the index.
    pub files: Vec<SourceFile>,
    warnings: Vec<String>,
}

impl Inner {
    /// The entry at a position.
    pub fn entry(&self, at: At) -> &Entry {
        &self.shards[at.0].entries()[at.1]
    }

    /// A pair's two sides.
    pub fn pair(&self, orig: At, mask: At) -> Pair<'_> {
        let side = |at: At| (self.shards[at.0].as_ref(), self.entry(at));
        Pair { orig: side(orig), mask: side(mask) }
    }

    /// A tensor as it is written when it is not packed; its position is yet to be set.
    pub fn planned(&self, id: TensorId) -> Entry {
        let info = &self.tensors[id];
        match self.slots[id] {
            Slot::Stored(at) | Slot::Pair { orig: at, .. } => {
                Entry { name: info.name.clone(), ..self.entry(at).clone() }
            }
            Slot::Packed(..) => Entry {
                name: info.name.clone(),
                dtype: info.dtype.clone(),
                shape: info.shape.clone(),
                elements: info.elements,
                start: 0,
                end: info.dense_bytes(),
            },
        }
    }

    /// What a tensor stays packed as, if nothing is put in its place.
    pub fn outline(&self, id: TensorId) -> Option<&Outline> {
        match self.slots[id] {
            Slot::Packed(i, _) => self.packed[i].outline.as_ref(),
            _ => None,
        }
    }
}

impl Inner {
    /// What reads a tensor that stays packed.
    pub fn decoder(&self, id: TensorId) -> Option<&Decoder> {
        match self.slots[id] {
            Slot::Packed(i, _) => self.packed[i].decoder.as_deref(),
            _ => None,
        }
    }
}

impl Model {
    /// Opens a file, a folder or an index, and checks all headers against each other.
    pub fn open(path: &Path, max_expand: u64) -> Result<Model> {
        let is_folder = path.is_dir();
        let entry = if is_folder { folder::entry_file(path)? } else { path.to_path_buf() };
        let mut warnings = Vec::new();
        let is_index = entry.to_string_lossy().ends_with(crate::index::SUFFIX);
        let index = if is_index { Some(Index::open(&entry)?) } else { None };
        let shards = match &index {
            None => vec![Arc::new(StFile::open(&entry)?)],
            Some(index) => open_shards(index, &mut warnings)?,
        };
        let mut files = Vec::new();
        for path in shards.iter().map(|s| s.path()).chain(index.as_ref().map(|i| i.path.as_path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = std::fs::metadata(path).map_err(|e| Error::io("read", path, &e))?.len();
            files.push(SourceFile { path: path.to_path_buf(), name, bytes });
        }
        let folder = if is_folder || index.is_some() {
            let root = compress_core::files::folder_of(&entry).to_path_buf();
            let own: Vec<&str> = files.iter().map(|f| f.name.as_str()).collect();
            let extras = folder::extras(&root, &own, &mut warnings)?;
            Some(Folder { root, index, extras })
        } else {
            None
        };
        let Numbered { slots, tensors, packed, legacy } = number(&shards, max_expand, &mut warnings)?;
        let inner = Inner { shards, packed, legacy, slots, tensors, folder, files, warnings: Vec::new() };
        if let Some(total) = inner.folder.as_ref().and_then(|f| f.index.as_ref()?.total_size) {
            let right: u64 = inner.shards.iter().flat_map(|s| s.entries()).map(Entry::bytes).sum();
            if total != right {
                warnings.push(format!("the index says \"total_size\" {total}, the tensors have {right} bytes"));
            }
        }
        Ok(Model(Arc::new(Inner { warnings, ..inner })))
    }
}

/// Opens the shards of an index; each tensor must be where the index says.
fn open_shards(index: &Index, warnings: &mut Vec<String>) -> Result<Vec<Arc<StFile>>> {
    let root = compress_core::files::folder_of(&index.path);
    let place = format!("\"{}\"", index.path.display());
    let names = index.shards();
    let open = |name: &String| StFile::open(&root.join(name)).map(Arc::new).map_err(|e| e.at(&place));
    let shards: Vec<Arc<StFile>> = names.iter().map(open).collect::<Result<_>>()?;
    let mut wanted: Vec<(&String, &String)> = index.weight_map.iter().collect();
    wanted.sort();
    for (tensor, shard) in wanted {
        let held = names.binary_search(shard).is_ok_and(|i| shards[i].entry(tensor).is_some());
        if !held {
            let text = format!("tensor {} is not in the shard {}", quoted(tensor), quoted(shard));
            return Err(Error::failed(text).at(&place));
        }
    }
    for (name, shard) in names.iter().zip(&shards) {
        for tensor in shard.entries().iter().filter(|t| !index.weight_map.contains_key(&t.name)) {
            warnings.push(format!("tensor {} of {} is not in the index", quoted(&tensor.name), quoted(name)));
        }
    }
    Ok(shards)
}

/// The tensors of all shards.
struct Numbered {
    slots: Vec<Slot>,
    tensors: Vec<TensorInfo>,
    packed: Vec<Stored>,
    legacy: bool,
}

/// Numbers the tensors in file order, joins pairs and pieces.
fn number(shards: &[Arc<StFile>], max_expand: u64, warnings: &mut Vec<String>) -> Result<Numbered> {
    let mut by_name: HashMap<&str, At> = HashMap::new();
    for (s, shard) in shards.iter().enumerate() {
        for (e, entry) in shard.entries().iter().enumerate() {
            if let Some((other, _)) = by_name.insert(&entry.name, (s, e)) {
                let text = format!("the tensor is in \"{}\" too", shards[other].path().display());
                return Err(Error::failed(text).at(shard.place(&entry.name)));
            }
        }
    }
    let mut named = Vec::new();
    for (s, shard) in shards.iter().enumerate() {
        named.extend(packed::find(s, shard, max_expand)?);
    }
    let old = legacy::find(shards, &by_name, max_expand)?;
    let legacy = !old.is_empty();
    named.extend(old.into_iter().map(|l| (l.name.clone(), l.stored)));
    // A packed tensor stands where its values are; the other pieces stand for nothing else.
    let mut names = HashSet::new();
    let (mut first, mut pieces, mut packed, mut infos) = (HashMap::new(), HashSet::new(), Vec::new(), Vec::new());
    for (name, stored) in named {
        if by_name.contains_key(name.as_str()) || !names.insert(name.clone()) {
            return Err(Error::failed(format!("tensor {} is there twice", quoted(&name))));
        }
        let places = stored.entries.clone();
        let bytes = |at: &At| shards[at.0].entries()[at.1].bytes();
        infos.push(TensorInfo {
            elements: stored.shape.iter().product(),
            shape: stored.shape.clone(),
            dtype: stored.dtype.clone(),
            stored_bytes: places.iter().map(bytes).sum(),
            file: places.first().map_or(0, |at| at.0),
            not_a_weight: None,
            name,
        });
        if let Some(at) = places.first() {
            first.insert(*at, packed.len());
        }
        for at in places {
            if !pieces.insert(at) {
                let text = "it is a piece of two tensors";
                return Err(Error::failed(text).at(shards[at.0].place(&shards[at.0].entries()[at.1].name)));
            }
        }
        packed.push(stored);
    }
    let pairs = pairs::find(shards, &by_name);
    let masks: HashSet<At> = pairs.values().map(|(_, mask)| *mask).collect();
    let (mut slots, mut tensors) = (Vec::new(), Vec::new());
    for (s, shard) in shards.iter().enumerate() {
        for (e, entry) in shard.entries().iter().enumerate().filter(|(e, _)| !masks.contains(&(s, *e))) {
            if let Some(i) = first.get(&(s, e)) {
                slots.push(Slot::Packed(*i, s));
                tensors.push(infos[*i].clone());
            }
            if pieces.contains(&(s, e)) {
                continue;
            }
            let mut info = TensorInfo {
                name: entry.name.clone(),
                shape: entry.shape.clone(),
                dtype: entry.dtype.clone(),
                elements: entry.elements,
                stored_bytes: entry.bytes(),
                file: s,
                not_a_weight: None,
            };
            if let Some((name, mask)) = pairs.get(&(s, e)) {
                info.name.clone_from(name);
                info.stored_bytes += shards[mask.0].entries()[mask.1].bytes();
                slots.push(Slot::Pair { orig: (s, e), mask: *mask });
            } else {
                slots.push(Slot::Stored((s, e)));
            }
            tensors.push(info);
        }
    }
    if legacy {
        restore_order(shards, &mut slots, &mut tensors);
    }
    if let Some(i) = slots.iter().position(|s| matches!(s, Slot::Pair { .. })) {
        let name = &tensors[i].name;
        let count = if pairs.len() == 1 { "a pair".into() } else { format!("{} pairs", pairs.len()) };
        let text = "of torch.nn.utils.prune read as the pruned tensors that they stand for, and written as such";
        let example = format!(
            "{} from {} and {}",
            quoted(name),
            quoted(&(name.clone() + "_orig")),
            quoted(&(name.clone() + "_mask"))
        );
        warnings.push(format!("{count} {text}: {example}{}", if pairs.len() > 1 { ", …" } else { "" }));
    }
    Ok(Numbered { slots, tensors, packed, legacy })
}

/// Writers sort a file's tensors by type, then name. Where an input of the legacy formats is sorted so, a weight that
/// stands where its values are, which are called otherwise, goes to the place that its own name had.
fn restore_order(shards: &[Arc<StFile>], slots: &mut Vec<Slot>, tensors: &mut Vec<TensorInfo>) {
    let sorted = |shard: &Arc<StFile>| {
        shard.entries().windows(2).all(|pair| pair[0].dtype != pair[1].dtype || pair[0].name < pair[1].name)
    };
    let mut both: Vec<(Slot, TensorInfo)> = slots.drain(..).zip(tensors.drain(..)).collect();
    let like = |a: &(Slot, TensorInfo), b: &(Slot, TensorInfo)| a.0.shard() == b.0.shard() && a.1.dtype == b.1.dtype;
    for run in both.chunk_by_mut(like).filter(|run| sorted(&shards[run[0].0.shard()])) {
        run.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    }
    (*slots, *tensors) = both.into_iter().unzip();
}

impl Source for Model {
    fn format(&self) -> &'static str {
        "safetensors"
    }

    fn files(&self) -> &[SourceFile] {
        &self.0.files
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.0.tensors
    }

    fn read_at(&self, id: TensorId, offset: u64, out: &mut [u8]) -> Result<()> {
        match self.0.slots[id] {
            Slot::Stored(at) => self.0.shards[at.0].read_at(self.0.entry(at), offset, out),
            Slot::Pair { orig, mask } => self.0.pair(orig, mask).read_at(offset, out),
            Slot::Packed(i, _) => {
                let info = &self.0.tensors[id];
                let place = |e: Error| e.at(self.0.shards[info.file].place(&info.name));
                self.0.packed[i].reader.read_at(offset, out).map_err(place)
            }
        }
    }

    fn packed(&self, id: TensorId) -> Option<PackedLayout> {
        match self.0.slots[id] {
            Slot::Packed(i, _) => {
                let outline = self.0.packed[i].outline.as_ref();
                Some(outline.and_then(|o| o.terms.first()).map_or(PackedLayout::Mask, |t| t.layout))
            }
            _ => None,
        }
    }

    fn decoder(&self, id: TensorId) -> Option<&Decoder> {
        self.0.decoder(id)
    }

    fn predict(&self, _: &Path, options: &CreateOptions) -> Result<u64> {
        sink::predict(&self.0, options)
    }

    fn overhead(&self, id: TensorId, outline: &Outline, _: &Path) -> Result<i64> {
        Ok(sink::overhead(&self.0, id, outline))
    }

    fn roles(&self) -> Option<&Roles> {
        None
    }

    fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    fn create(&self, output: &Path, options: &CreateOptions) -> Result<Box<dyn Sink>> {
        Ok(Box::new(sink::ModelSink::create(self.clone(), output, options)?))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
