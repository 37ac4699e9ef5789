//! Core's decoder over the pieces as they lie in the file.

use compress_core::Result;
use compress_core::encode::{Decoder, Outline, ReadAt};

use crate::model::TensorRef;

/// A piece of the file.
struct Part(TensorRef);

impl ReadAt for Part {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, out)
    }
}

/// A decoder; what can be checked without reading is checked.
pub(crate) fn open(outline: Outline, pieces: &[Vec<TensorRef>], max_expand: u64) -> Result<Decoder> {
    let part = |t: &TensorRef| -> Box<dyn ReadAt> { Box::new(Part(t.clone())) };
    let data = pieces.iter().map(|term| term.iter().map(part).collect()).collect();
    Decoder::new(outline, data, max_expand)
}
