//! Writing the model, reading it again, and putting everything under its name in the order that loses nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::class::resolve::ClassMap;
use crate::convert::count_zeros;
use crate::encode::pack::{Bytes, Packing, Sums, changed};
use crate::encode::survey::Survey;
use crate::error::{Error, Result};
use crate::files::TempDir;
use crate::format::{BLOCK_BYTES, Blocks, Content, Packed, Staged, StagedFile};
use crate::hash::checksum;
use crate::model::Model;
use crate::packing::{Becomes, Outlook};
use crate::progress::{Unit, Watch};
use crate::tensor::TensorId;
use crate::weights::Weights;

/// Bytes of a piece, counted as they are made.
struct Counted<'a> {
    inner: Box<dyn Blocks + 'a>,
    watch: Watch<'a>,
}

impl Blocks for Counted<'_> {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.inner.fill(offset, out)?;
        self.watch.tick(out.len() as u64)
    }
}

/// A tensor's new bytes, with a checksum of each block as it was handed out.
struct Meant<'a> {
    weights: &'a Weights<'a>,
    tensor: TensorId,
    bytes: u64,
    sums: Vec<AtomicU64>,
    watch: Watch<'a>,
}

impl Meant<'_> {
    fn new<'a>(weights: &'a Weights<'a>, tensor: TensorId, watch: Watch<'a>) -> Meant<'a> {
        let bytes = weights.model.tensors()[tensor].dense_bytes();
        let blocks = bytes.div_ceil(BLOCK_BYTES as u64);
        Meant { weights, tensor, bytes, sums: (0..blocks).map(|_| AtomicU64::new(0)).collect(), watch }
    }
}

impl Blocks for Meant<'_> {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.weights.fill(self.tensor, offset, out)?;
        self.sums[(offset / BLOCK_BYTES as u64) as usize].store(checksum(out), Ordering::Relaxed);
        self.watch.tick(out.len() as u64)
    }
}

/// A model that is written and checked but not yet under its name.
pub struct Written {
    staged: Vec<Box<dyn Staged>>,
    /// Of a model of several files: the folder that they are in until it is swapped.
    folder: Option<(TempDir, PathBuf)>,
    /// Zeros of each part of [`ClassMap::parts`], counted in what was read again.
    pub zeros: Vec<u64>,
    /// Bytes that each tensor takes in the output.
    pub stored_bytes: Vec<u64>,
    /// Factored tensors, and whether the model multiplies with their factors.
    pub factored: Vec<(String, bool)>,
}

/// Writes the weights as a model like the input, then opens it again and compares it with what was meant.
pub fn write(
    weights: &Weights<'_>,
    map: &ClassMap,
    output: &Path,
    outlook: &Outlook,
    watch: Watch<'_>,
) -> Result<Written> {
    let model = weights.model;
    let folder = match model.sources() {
        [_] => None,
        _ => Some((TempDir::create(output)?, output.to_path_buf())),
    };
    let mut sums: BTreeMap<TensorId, Vec<u64>> = BTreeMap::new();
    let mut staged = Vec::new();
    watch.progress.begin("writing", outlook.bytes, Unit::Bytes);
    for (index, source) in model.sources().iter().enumerate() {
        let target = match &folder {
            None => output.to_path_buf(),
            Some((dir, _)) => dir.path().join(file_name(&model.paths()[index])),
        };
        let mut sink = source.create(&target, &outlook.options[index])?;
        for id in (0..model.tensors().len()).filter(|id| model.origin(*id).0 == index) {
            let inner = model.origin(id).1;
            let meant = match &outlook.becomes[id] {
                Becomes::Same => continue,
                Becomes::Dense => {
                    let meant = Meant::new(weights, id, watch);
                    sink.put(inner, Content::Dense(&meant))?;
                    meant.sums.into_iter().map(AtomicU64::into_inner).collect()
                }
                Becomes::Placed(decided, fitted, _) => {
                    let dense = weights.dense(id);
                    let (survey, layout) = (&decided.survey, decided.layout);
                    let made = survey.sums.is_none().then(|| Arc::new(Sums::new(survey)));
                    let packed = Packing { dense: &dense, survey, layout, fitted };
                    let packed = packed.packed_summing(made.as_ref());
                    sink.put(inner, Content::Packed(&counted(packed, watch)))?;
                    made.map_or_else(|| survey.sums.clone(), |made| made.all()).ok_or_else(changed)?
                }
                Becomes::Terms(held) => {
                    sink.put(inner, Content::Packed(&counted(held.pieces().packed()?, watch)))?;
                    Survey::of(&weights.dense(id), watch)?.sums.ok_or_else(changed)?
                }
            };
            sums.insert(id, meant);
        }
        staged.push(sink.finish()?);
        watch.check()?;
    }
    watch.progress.end();
    let mut written = Written {
        staged: Vec::new(),
        folder,
        zeros: vec![0; map.parts.len()],
        stored_bytes: vec![0; model.tensors().len()],
        factored: Vec::new(),
    };
    read_while_syncing(&staged, || written.verify(&staged, model, map, &sums, watch))?;
    written.staged = staged;
    Ok(written)
}

/// Reads again what was written while the disk takes it up.
pub fn read_while_syncing(staged: &[Box<dyn Staged>], read: impl FnOnce() -> Result<()>) -> Result<()> {
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| staged.iter().try_for_each(|s| s.sync()));
        let read = read();
        syncing.join().map_err(|_| Error::failed("syncing the output failed"))??;
        read
    })
}

fn counted<'a>(packed: Packed<'a>, watch: Watch<'a>) -> Packed<'a> {
    let mut packed = packed;
    for piece in packed.terms.iter_mut().flat_map(|t| &mut t.pieces) {
        let inner = std::mem::replace(&mut piece.data, Box::new(Bytes(Vec::new())));
        piece.data = Box::new(Counted { inner, watch });
    }
    packed
}

fn file_name(path: &Path) -> &std::ffi::OsStr {
    path.file_name().unwrap_or(path.as_os_str())
}

impl Written {
    /// Reads everything again: tensors and shapes are those of the input, changed tensors hold the bytes that were
    /// handed out, all others the input's.
    fn verify(
        &mut self,
        staged: &[Box<dyn Staged>],
        model: &Model,
        map: &ClassMap,
        sums: &BTreeMap<TensorId, Vec<u64>>,
        watch: Watch<'_>,
    ) -> Result<()> {
        let sources = staged.iter().map(|s| s.reopen()).collect::<Result<Vec<_>>>()?;
        watch.progress.begin("checking", model.tensors().iter().map(|t| t.dense_bytes()).sum(), Unit::Bytes);
        let named: Vec<BTreeMap<&str, usize>> = sources
            .iter()
            .map(|s| s.tensors().iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect())
            .collect();
        let mut work = Vec::new();
        for (id, meant) in model.tensors().iter().enumerate() {
            let (source, inner) = model.origin(id);
            let name = model.sources()[source].tensors()[inner].name.as_str();
            let found = *named[source].get(name).ok_or_else(|| differs(&meant.name, "it is missing"))?;
            let info = &sources[source].tensors()[found];
            if info.shape != meant.shape || info.dtype != meant.dtype {
                return Err(differs(&meant.name, "its shape or type is another"));
            }
            self.stored_bytes[id] = info.stored_bytes;
            if let Some(multiplies) = sources[source].multiplies(found) {
                self.factored.push((meant.name.clone(), multiplies));
            }
            let blocks = meant.dense_bytes().div_ceil(BLOCK_BYTES as u64);
            work.extend((0..blocks).map(|block| (id, source, found, block)));
        }
        let counts: Result<Vec<Vec<(usize, u64)>>> = work
            .par_iter()
            .map_init(Buffers::default, |buffers, (id, source, found, block)| {
                let info = &model.tensors()[*id];
                let offset = block * BLOCK_BYTES as u64;
                let len = (info.dense_bytes() - offset).min(BLOCK_BYTES as u64) as usize;
                let bytes = buffers.first(len);
                sources[*source].read_at(*found, offset, bytes)?;
                let same = match sums.get(id) {
                    Some(sums) => checksum(bytes) == sums[*block as usize],
                    None => buffers.equals(len, |other| model.read_at(*id, offset, other))?,
                };
                if !same {
                    return Err(differs(&info.name, &format!("bytes from {offset} on are not what was written")));
                }
                watch.tick(len as u64)?;
                Ok(zeros_of_parts(
                    map,
                    map.part_range(*id),
                    info.dtype.float_bytes().map(|w| (&info.dtype, w)),
                    offset,
                    buffers.first(len),
                ))
            })
            .collect();
        for (part, zeros) in counts?.into_iter().flatten() {
            self.zeros[part] += zeros;
        }
        watch.progress.end();
        Ok(())
    }

    /// The files with their final names.
    pub fn files(&self) -> Vec<StagedFile> {
        self.staged.iter().flat_map(|s| s.files()).collect()
    }

    /// What the user should know of the files.
    pub fn warnings(&self) -> Vec<String> {
        self.staged.iter().flat_map(|s| s.warnings()).collect()
    }

    /// Total bytes.
    pub fn bytes(&self) -> u64 {
        self.files().iter().map(|f| f.bytes).sum()
    }

    /// Puts the model under its name.
    pub fn commit(self) -> Result<()> {
        for staged in self.staged {
            staged.commit()?;
        }
        match self.folder {
            Some((dir, output)) => dir.swap(&output),
            None => Ok(()),
        }
    }
}

fn zeros_of_parts(
    map: &ClassMap,
    mut parts: std::ops::Range<usize>,
    dtype: Option<(&crate::tensor::Dtype, usize)>,
    offset: u64,
    bytes: &[u8],
) -> Vec<(usize, u64)> {
    let Some((dtype, width)) = dtype else { return Vec::new() };
    let first = offset / width as u64;
    let end = first + (bytes.len() / width) as u64;
    // A stacked weight may have thousands of parts: go straight to the first that reaches into the block.
    parts.start += map.parts[parts.clone()].partition_point(|p| p.spec.offset + p.spec.weights() <= first);
    parts
        .map(|p| (p, &map.parts[p].spec))
        .take_while(|(_, spec)| spec.offset < end)
        .map(|(p, spec)| {
            let (from, upto) = (spec.offset.max(first), (spec.offset + spec.weights()).min(end));
            let piece = &bytes[(from - first) as usize * width..(upto - first) as usize * width];
            (p, count_zeros(dtype, piece))
        })
        .collect()
}

fn differs(tensor: &str, how: &str) -> Error {
    Error::failed(format!(
        "\"{tensor}\" was read again and differs from what was meant: {how}; nothing was put under the output's name"
    ))
}

#[derive(Default)]
struct Buffers {
    one: Vec<u8>,
    two: Vec<u8>,
}

impl Buffers {
    fn first(&mut self, len: usize) -> &mut [u8] {
        self.one.resize(self.one.len().max(len), 0);
        &mut self.one[..len]
    }

    fn equals(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<bool> {
        self.two.resize(self.two.len().max(len), 0);
        fill(&mut self.two[..len])?;
        Ok(self.one[..len] == self.two[..len])
    }
}
