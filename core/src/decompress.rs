//! `compress decompress`: what is stored packed becomes plain and dense again, exactly what the small file means. All else
//! is copied as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::files::{TempDir, clean_stale};
use crate::format::{BLOCK_BYTES, Blocks, Content, CreateOptions, Source, Staged};
use crate::hash::checksum;
use crate::model::Model;
use crate::output::read_while_syncing;
use crate::progress::{Unit, Watch};
use crate::tensor::TensorId;

/// How to decompress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Decode everything, write nothing.
    pub dry_run: bool,
    /// Replace what is there.
    pub force: bool,
}

/// A tensor that was unpacked.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// Its name.
    pub name: String,
    /// How it was stored.
    pub layout: &'static str,
    /// Bytes that it took.
    pub stored_bytes: u64,
    /// Bytes that it takes now.
    pub dense_bytes: u64,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Decompressed {
    /// The tensors, in file order.
    pub tensors: Vec<Unpacked>,
    /// Bytes of all files before.
    pub bytes_before: u64,
    /// Bytes of all files after; `None` in a dry run.
    pub bytes_after: Option<u64>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Writes a model like this one with every tensor dense, reads it again, and puts it under its name.
pub fn decompress(model: &Model, output: &Path, options: &Options, watch: Watch<'_>) -> Result<Decompressed> {
    check_output(model, output, options.force)?;
    let folded: Vec<TensorId> = (0..model.tensors().len()).filter(|id| is_folded(model, *id)).collect();
    let unpacked = |id: &TensorId| {
        let ((source, inner), info) = (model.origin(*id), &model.tensors()[*id]);
        Unpacked {
            name: info.name.clone(),
            layout: model.sources()[source].packed(inner).map_or("sparse", |l| l.name()),
            stored_bytes: info.stored_bytes,
            dense_bytes: info.dense_bytes(),
        }
    };
    let tensors: Vec<Unpacked> = folded.iter().map(unpacked).collect();
    let mut done = Decompressed { tensors, bytes_before: model.bytes(), bytes_after: None, warnings: Vec::new() };
    done.warnings.extend(model.warnings().cloned());
    if options.dry_run {
        read_all(model, &folded, watch)?;
        return Ok(done);
    }
    clean_stale(output)?;
    let folder = if model.sources().len() > 1 { Some(TempDir::create(output)?) } else { None };
    let mut staged = Vec::new();
    let mut sums = BTreeMap::new();
    watch.progress.begin("writing", folded.iter().map(|id| model.tensors()[*id].dense_bytes()).sum(), Unit::Bytes);
    for (index, source) in model.sources().iter().enumerate() {
        let target = match &folder {
            None => output.to_path_buf(),
            Some(dir) => dir.path().join(model.paths()[index].file_name().unwrap_or_default()),
        };
        let mine: Vec<TensorId> = folded.iter().copied().filter(|id| model.origin(*id).0 == index).collect();
        let create = create_options(source.as_ref(), &mine, model, options.force);
        let mut sink = source.create(&target, &create)?;
        for id in mine {
            let meant = Meant::new(model, id, watch);
            sink.put(model.origin(id).1, Content::Dense(&meant))?;
            sums.insert(id, meant.sums);
        }
        staged.push(sink.finish()?);
        watch.check()?;
    }
    watch.progress.end();
    read_while_syncing(&staged, || verify(model, &staged, &sums, watch))?;
    done.bytes_after = Some(staged.iter().flat_map(|s| s.files()).map(|f| f.bytes).sum());
    done.warnings.extend(staged.iter().flat_map(|s| s.warnings()));
    watch.check()?;
    staged.into_iter().try_for_each(Staged::commit)?;
    folder.map_or(Ok(()), |dir| dir.swap(output))?;
    Ok(done)
}

fn create_options(source: &dyn Source, mine: &[TensorId], model: &Model, force: bool) -> CreateOptions {
    let grown: u64 = mine
        .iter()
        .map(|id| &model.tensors()[*id])
        .map(|t| t.dense_bytes() - t.stored_bytes.min(t.dense_bytes()))
        .sum();
    CreateOptions {
        force,
        expected_bytes: Some(source.files().iter().map(|f| f.bytes).sum::<u64>() + grown),
        dense: mine.iter().map(|id| model.origin(*id).1).collect::<BTreeSet<_>>(),
        ..CreateOptions::default()
    }
}

fn is_folded(model: &Model, id: TensorId) -> bool {
    let (source, inner) = model.origin(id);
    model.sources()[source].folded(inner)
}

/// What a recipe's plan refuses as well: an output that is an input, exists, or has the form of something else.
fn check_output(model: &Model, output: &Path, force: bool) -> Result<()> {
    crate::files::refuse_if_input(output, model.files().map(|f| f.path.as_path()))?;
    let (show, folder) = (output.display(), crate::files::folder_of(output));
    if !folder.is_dir() {
        return Err(Error::usage(format!("the folder \"{}\" does not exist; create it first", folder.display())));
    }
    if !force && std::fs::symlink_metadata(output).is_ok() {
        return Err(Error::usage(format!("\"{show}\" exists already; --force replaces it")));
    }
    let other = match model.format() {
        "onnx" => "safetensors",
        _ => "onnx",
    };
    if output.extension().is_some_and(|e| e == other) {
        let format = model.format();
        return Err(Error::usage(format!(
            "\"{show}\" is named as an {other} file, but a {format} model is written as {format} again"
        )));
    }
    if model.sources().len() > 1 && output.is_file() {
        return Err(Error::usage(format!("a model of several files becomes a folder, but \"{show}\" is a file")));
    }
    Ok(())
}

/// A tensor's dense bytes, with a checksum of each block as it was handed out.
struct Meant<'a> {
    model: &'a Model,
    tensor: TensorId,
    bytes: u64,
    sums: Vec<AtomicU64>,
    watch: Watch<'a>,
}

impl Meant<'_> {
    fn new<'a>(model: &'a Model, tensor: TensorId, watch: Watch<'a>) -> Meant<'a> {
        let bytes = model.tensors()[tensor].dense_bytes();
        let blocks = bytes.div_ceil(BLOCK_BYTES as u64);
        Meant { model, tensor, bytes, sums: (0..blocks).map(|_| AtomicU64::new(0)).collect(), watch }
    }
}

impl Blocks for Meant<'_> {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.model.read_at(self.tensor, offset, out)?;
        self.sums[(offset / BLOCK_BYTES as u64) as usize].store(checksum(out), Ordering::Relaxed);
        self.watch.tick(out.len() as u64)
    }
}

/// All blocks of some tensors.
fn blocks(model: &Model, ids: impl Iterator<Item = TensorId>) -> Vec<(TensorId, u64)> {
    ids.flat_map(|id| {
        let bytes = model.tensors()[id].dense_bytes();
        (0..bytes.div_ceil(BLOCK_BYTES as u64)).map(move |block| (id, block))
    })
    .collect()
}

fn read_all(model: &Model, ids: &[TensorId], watch: Watch<'_>) -> Result<()> {
    watch.progress.begin("decoding", ids.iter().map(|id| model.tensors()[*id].dense_bytes()).sum(), Unit::Bytes);
    blocks(model, ids.iter().copied()).into_par_iter().try_for_each_init(Vec::new, |buffer, (id, block)| {
        let offset = block * BLOCK_BYTES as u64;
        buffer.resize((model.tensors()[id].dense_bytes() - offset).min(BLOCK_BYTES as u64) as usize, 0);
        model.read_at(id, offset, buffer)?;
        watch.tick(buffer.len() as u64)
    })?;
    watch.progress.end();
    Ok(())
}

/// Opens what was written: the same tensors in the same order, none of them packed, unpacked ones with the bytes that were
/// handed out, all others with the input's.
fn verify(
    model: &Model,
    staged: &[Box<dyn Staged>],
    sums: &BTreeMap<TensorId, Vec<AtomicU64>>,
    watch: Watch<'_>,
) -> Result<()> {
    let sources = staged.iter().map(|s| s.reopen()).collect::<Result<Vec<_>>>()?;
    let differs = |id: TensorId, how: &str| {
        let name = &model.tensors()[id].name;
        let text = format!("\"{name}\" was read again and differs from what was meant: {how}");
        Error::failed(format!("{text}; nothing was put under the output's name"))
    };
    for (id, meant) in model.tensors().iter().enumerate() {
        let (source, inner) = model.origin(id);
        let name = &model.sources()[source].tensors()[inner].name;
        let found = sources[source].tensors().get(inner).filter(|t| t.name == *name);
        let found = found.ok_or_else(|| differs(id, "it is not in its place"))?;
        if found.shape != meant.shape || found.dtype != meant.dtype || sources[source].folded(inner) {
            return Err(differs(id, "its shape, type or form is another"));
        }
    }
    watch.progress.begin("checking", model.tensors().iter().map(|t| t.dense_bytes()).sum(), Unit::Bytes);
    blocks(model, 0..model.tensors().len()).into_par_iter().try_for_each_init(
        || (Vec::new(), Vec::new()),
        |(found, meant), (id, block)| {
            let ((source, inner), offset) = (model.origin(id), block * BLOCK_BYTES as u64);
            found.resize((model.tensors()[id].dense_bytes() - offset).min(BLOCK_BYTES as u64) as usize, 0);
            sources[source].read_at(inner, offset, found)?;
            let same = match sums.get(&id) {
                Some(sums) => sums[block as usize].load(Ordering::Relaxed) == checksum(found),
                None => {
                    meant.resize(found.len(), 0);
                    model.read_at(id, offset, meant)?;
                    found == meant
                }
            };
            if !same {
                return Err(differs(id, &format!("bytes from {offset} on are not what was written")));
            }
            watch.tick(found.len() as u64)
        },
    )?;
    watch.progress.end();
    Ok(())
}
