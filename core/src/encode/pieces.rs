//! A packed tensor in memory.

use std::sync::Arc;

use super::decode::{Decoder, ReadAt};
use super::outline::Outline;
use super::terms::collect;
use crate::error::{Error, Result};
use crate::format::{Blocks, Packed, PackedTerm, Piece};

/// The arrays of a packed tensor and what reads them.
pub struct Pieces {
    data: Vec<Vec<Arc<Vec<u8>>>>,
    decoder: Decoder,
}

/// An array that several hold.
struct Shared(Arc<Vec<u8>>);

impl ReadAt for Shared {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.as_ref().read_at(offset, out)
    }
}

impl Blocks for Shared {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read_at(offset, out)
    }
}

impl Pieces {
    /// Takes all bytes of a packed tensor.
    pub fn of(packed: &Packed<'_>) -> Result<Pieces> {
        let piece = |p: &Piece<'_>| collect(p.data.as_ref()).map(Arc::new);
        let term = |t: &PackedTerm<'_>| t.pieces.iter().map(piece).collect::<Result<Vec<_>>>();
        let data = packed.terms.iter().map(term).collect::<Result<Vec<_>>>()?;
        let read = |bytes: &Arc<Vec<u8>>| Box::new(Shared(bytes.clone())) as Box<dyn ReadAt>;
        let readers = data.iter().map(|t| t.iter().map(read).collect()).collect();
        Ok(Pieces { decoder: Decoder::new(packed.outline(), readers, u64::MAX)?, data })
    }

    /// What it is made of.
    pub fn outline(&self) -> &Outline {
        self.decoder.outline()
    }

    /// What reads it.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The bytes of each term's arrays.
    pub fn slices(&self) -> Vec<Vec<&[u8]>> {
        self.data.iter().map(|term| term.iter().map(|piece| piece.as_slice()).collect()).collect()
    }

    /// Fills `out` with dense bytes from byte `offset`.
    pub fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.decoder.read_at(offset, out)
    }

    /// The arrays, for writing.
    pub fn packed(&self) -> Result<Packed<'static>> {
        let outline = self.outline();
        let mut terms = Vec::new();
        for (term, data) in outline.terms.iter().zip(&self.data) {
            if term.pieces.len() != data.len() {
                return Err(Error::failed("a packed tensor lacks a piece"));
            }
            let piece = |(p, bytes): (&super::outline::PieceOutline, &Arc<Vec<u8>>)| Piece {
                role: p.role,
                dtype: p.dtype.clone(),
                shape: p.shape.clone(),
                data: Box::new(Shared(bytes.clone())),
            };
            let pieces = term.pieces.iter().zip(data).map(piece).collect();
            terms.push(PackedTerm { layout: term.layout, values: term.values, pieces });
        }
        Ok(Packed { dtype: outline.dtype.clone(), shape: outline.shape.clone(), terms })
    }
}
