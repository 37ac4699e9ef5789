//! An open model as core sees it: a list of tensors, their bytes, their roles.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use compress_core::class::Roles;
use compress_core::encode::Decoder;
use compress_core::format::{CreateOptions, OpenOptions, PackedLayout, Sink, Source, SourceFile};
use compress_core::tensor::{TensorId, TensorInfo};
use compress_core::{Error, Result};

use crate::list::{List, Site};
use crate::model::{Model, Place, TensorRef};
use crate::wire::Input;
use crate::{pair, roles, writer};

/// An open ONNX model.
#[derive(Debug)]
pub struct OnnxSource {
    shared: Arc<Shared>,
    roles: Roles,
    warnings: Vec<String>,
}

/// What a source and the sinks made from it have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) model: Model,
    pub(crate) list: List,
    pub(crate) files: Vec<SourceFile>,
    pub(crate) inputs: Vec<Arc<Input>>,
    pub(crate) options: OpenOptions,
}

impl OnnxSource {
    /// Opens a model.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<OnnxSource> {
        Self::open_redirected(path, options, BTreeMap::new())
    }

    pub(crate) fn open_redirected(
        path: &Path,
        options: &OpenOptions,
        redirect: BTreeMap<String, PathBuf>,
    ) -> Result<OnnxSource> {
        let model = Model::open_redirected(path, options, redirect)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut inputs = vec![model.input.clone()];
        let mut files = vec![SourceFile { path: path.to_path_buf(), name, bytes: model.input.bytes() }];
        for (name, input) in model.externals.files() {
            if inputs.iter().all(|other| other.identity() != input.identity()) {
                files.push(SourceFile { path: input.path().to_path_buf(), name, bytes: input.bytes() });
                inputs.push(input);
            }
        }
        let file_of = |tensor: &TensorRef| match &tensor.place {
            Place::External(e) => inputs.iter().position(|i| i.identity() == e.input.identity()).unwrap_or(0),
            _ => 0,
        };
        let file_of = |tensor: &TensorRef| match &tensor.place {
            Place::Packed(packed) => packed.parts.iter().map(file_of).max().unwrap_or(0),
            _ => file_of(tensor),
        };
        let list = List::of(&model, file_of);
        let shared = Shared { model, list, files, inputs, options: *options };
        let (roles, warnings) = roles::of(&shared.model, &shared.list)?;
        Ok(OnnxSource { shared: Arc::new(shared), roles, warnings })
    }

    /// What sinks are made from.
    #[cfg(test)]
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The parsed model: its graph, for the engine.
    pub fn model(&self) -> &Model {
        &self.shared.model
    }

    /// The tensor that core knows under a number, where it is an ordinary one.
    pub fn tensor(&self, id: TensorId) -> Option<&TensorRef> {
        match &self.shared.list.sites[id] {
            Site::Tensor(tensor) | Site::Pair(tensor, _) => Some(tensor),
            _ => None,
        }
    }

    /// The number under which core knows a tensor of the model; its inverse is [`OnnxSource::tensor`].
    pub fn tensor_id(&self, tensor: &TensorRef) -> Option<TensorId> {
        self.shared.list.by_message.get(&tensor.message).copied()
    }
}

impl Shared {
    /// Fills `out` with a tensor's dense bytes.
    pub(crate) fn read_at(&self, id: TensorId, offset: u64, out: &mut [u8]) -> Result<()> {
        let info = &self.list.infos[id];
        let bytes = match &self.list.sites[id] {
            Site::Memory(bytes) => bytes.len() as u64,
            _ => info.dense_bytes(),
        };
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > bytes) {
            return Err(Error::failed(format!("tensor \"{}\": a read beyond its end", info.name)));
        }
        match &self.list.sites[id] {
            Site::Tensor(tensor) => tensor.read_at(offset, out),
            Site::Sparse(sparse, _) => sparse.read_at(offset, out),
            Site::Pair(orig, mask) => pair::read_at(orig, mask, offset, out),
            Site::Memory(bytes) => {
                out.copy_from_slice(&bytes[offset as usize..][..out.len()]);
                Ok(())
            }
        }
    }
}

impl Source for OnnxSource {
    fn format(&self) -> &'static str {
        "onnx"
    }

    fn files(&self) -> &[SourceFile] {
        &self.shared.files
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.shared.list.infos
    }

    fn read_at(&self, id: TensorId, offset: u64, out: &mut [u8]) -> Result<()> {
        self.shared.read_at(id, offset, out)
    }

    fn roles(&self) -> Option<&Roles> {
        Some(&self.roles)
    }

    fn packed(&self, id: TensorId) -> Option<PackedLayout> {
        match &self.tensor(id)?.place {
            Place::Packed(packed) => packed.outline.terms.first().map(|t| t.layout),
            _ => None,
        }
    }

    fn folded(&self, id: TensorId) -> bool {
        self.packed(id).is_some() || matches!(self.shared.list.sites[id], Site::Sparse(_, true))
    }

    fn multiplies(&self, id: TensorId) -> Option<bool> {
        match &self.tensor(id)?.place {
            Place::Packed(packed) => {
                let factored = packed.outline.terms.iter().any(|t| t.layout == PackedLayout::Factored);
                factored.then_some(!packed.uses.is_empty())
            }
            _ => None,
        }
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn decoder(&self, id: TensorId) -> Option<&Decoder> {
        match &self.tensor(id)?.place {
            Place::Packed(packed) => Some(&packed.decoder),
            _ => None,
        }
    }

    fn predict(&self, output: &Path, options: &CreateOptions) -> Result<u64> {
        writer::OnnxSink::predict(self.shared.clone(), output, options)
    }

    fn create(&self, output: &Path, options: &CreateOptions) -> Result<Box<dyn Sink>> {
        Ok(Box::new(writer::OnnxSink::create(self.shared.clone(), output, options)?))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
