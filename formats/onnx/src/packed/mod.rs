//! Weights that are stored packed: pieces as ordinary initialisers, and a chain of standard operators that rebuilds the
//! weight from them. Runtimes fold the chain once, at load, since it hangs on no input of the graph.
//!
//! - [`chain`]: the operators and constants for an outline. They are the same at every opset from 11 on.
//! - [`find`]: chains in a file. A chain is recognised where it is what [`chain`] makes for the pieces that are there,
//!   operator by operator, and nothing else reads its values. It is then taken out of the graph, and the weight stands
//!   there as an initialiser.
//!
//! - [`forms`]: factored weights that are multiplied with and nothing else. They are not rebuilt: a node of the model is two
//!   in the file, which together multiply with the factors.
//!
//! Everything that belongs to the weight `W` is named `W__compress/…`: the pieces by term and role (`0.values`), the shape
//! by the weight's type (`F32`), other constants `k0` …, intermediate values `0` ….

pub(crate) mod chain;
mod decode;
pub(crate) mod find;
pub(crate) mod forms;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use compress_core::Result;
use compress_core::encode::Decoder;
use compress_core::format::Outline;

use crate::model::{MessageId, TensorRef};

/// What stands behind a weight's name, before the slash.
pub(crate) const MARK: &str = "__compress";

/// A packed weight of a file.
#[derive(Clone)]
pub(crate) struct PackedRef {
    /// What it is made of.
    pub(crate) outline: Outline,
    /// Its initialisers in file order: pieces and the chain's constants.
    pub(crate) parts: Vec<TensorRef>,
    /// The chain.
    pub(crate) nodes: Vec<MessageId>,
    /// The nodes that multiply with the factors, where the weight is not rebuilt.
    pub(crate) uses: Vec<forms::Pair>,
    pub(crate) decoder: Arc<Decoder>,
}

impl PackedRef {
    /// Fills `out` with dense bytes from byte `offset`.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.decoder.read_at(offset, out)
    }
}

impl std::fmt::Debug for PackedRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedRef").field("outline", &self.outline).field("nodes", &self.nodes.len()).finish()
    }
}
