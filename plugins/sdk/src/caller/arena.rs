//! Memory that the host gives a method during a call, and what the method left in it.
#![allow(unsafe_code)]

use std::alloc::{Layout as Memory, alloc_zeroed, dealloc};
use std::sync::Mutex;

use super::lock;
use crate::abi::*;
use crate::{Bitmap, Encoded, Encoding, Layout, Part, Term};

/// Blocks of zeroed memory, aligned to 8, freed together.
#[derive(Default)]
pub struct Arena {
    blocks: Mutex<Vec<Block>>,
}

struct Block {
    start: *mut u8,
    memory: Memory,
}

// SAFETY: a block is owned by its arena.
unsafe impl Send for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once.
        unsafe { dealloc(self.start, self.memory) }
    }
}

impl Arena {
    /// A new block; null where there is no memory.
    pub fn alloc(&self, bytes: u64) -> *mut () {
        let bytes = usize::try_from(bytes.max(8)).ok();
        let Some(memory) = bytes.and_then(|n| Memory::from_size_align(n, 8).ok()) else { return std::ptr::null_mut() };
        // SAFETY: at least 8 bytes.
        let start = unsafe { alloc_zeroed(memory) };
        if !start.is_null() {
            lock(&self.blocks).push(Block { start, memory });
        }
        start.cast()
    }

    /// Elements that a method left, if they lie within one block.
    fn slice<T: Plain>(&self, what: &str, start: *const T, count: u64) -> Result<&[T], String> {
        if count == 0 {
            return Ok(&[]);
        }
        let wanted = usize::try_from(count).ok().and_then(|n| n.checked_mul(size_of::<T>()));
        let address = start.addr();
        let inside = |b: &Block| {
            let offset = address.checked_sub(b.start.addr());
            offset.zip(wanted).and_then(|(o, w)| o.checked_add(w)).is_some_and(|end| end <= b.memory.size())
        };
        if !address.is_multiple_of(align_of::<T>()) || !lock(&self.blocks).iter().any(inside) {
            return Err(format!("the {what} of its result do not lie in memory that the host gave it"));
        }
        // SAFETY: the elements lie in a block of this arena, which is zeroed at first and lives as long as the arena;
        // any bytes make a `T`; the call that wrote them is over.
        Ok(unsafe { std::slice::from_raw_parts(start, count as usize) })
    }

    /// What a method left as its encoding, copied out.
    pub fn read_encoded(&self, part: &Part<'_>, raw: &RawEncoded) -> Result<Encoded, String> {
        let (rows, cols) = (part.rows, part.cols);
        let weights = rows * cols;
        let bits = |what, start| -> Result<Bitmap, String> {
            let bytes = self.slice::<u8>(what, start, weights.div_ceil(8) as u64)?;
            Ok(Bitmap::from_bytes(bytes.to_vec(), weights).unwrap_or_default())
        };
        let kept = if raw.kept.is_null() { Bitmap::new(weights, true) } else { bits("kept bits", raw.kept)? };
        let mut terms = Vec::new();
        for pointer in self.slice("terms", raw.terms, raw.term_count)? {
            let term = self.term(*pointer)?;
            let layout = match term.layout {
                LAYOUT_DENSE => Layout::Dense,
                LAYOUT_SPARSE => Layout::Sparse(bits("bits", term.bits)?),
                LAYOUT_FACTORED => Layout::Factored { rank: usize::try_from(term.rank).unwrap_or(usize::MAX) },
                LAYOUT_HASHED => Layout::Hashed {
                    seed: u32::try_from(term.seed)
                        .map_err(|_| format!("the seed {} of its result is above 2³² − 1", term.seed))?,
                },
                other => return Err(format!("its result has an unknown layout {other}")),
            };
            terms.push(Term { layout, values: self.slice("values", term.values, term.value_count)?.to_vec() });
        }
        Ok(Encoded { kept, encoding: Encoding { rows, cols, terms } })
    }

    /// A term as far as its `size` goes, the rest as zero.
    fn term(&self, pointer: *const RawTerm) -> Result<RawTerm, String> {
        let size = *self.slice("terms", pointer.cast::<u32>(), 1)?.first().unwrap_or(&0);
        let bytes = self.slice("terms", pointer.cast::<u8>(), u64::from(size))?;
        let count = bytes.len().min(size_of::<RawTerm>());
        let mut term = std::mem::MaybeUninit::<RawTerm>::zeroed();
        // SAFETY: no more bytes are written than fit; any bytes make a `RawTerm`.
        Ok(unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), term.as_mut_ptr().cast::<u8>(), count);
            term.assume_init()
        })
    }
}

/// Types that any bytes make.
///
/// # Safety
/// They really must.
unsafe trait Plain: Copy {}

// SAFETY: any bytes make one.
unsafe impl Plain for u8 {}
// SAFETY: any bytes make one.
unsafe impl Plain for u32 {}
// SAFETY: any bytes make one.
unsafe impl Plain for f32 {}
// SAFETY: any bytes make one; it is checked before it is followed.
unsafe impl Plain for *const RawTerm {}
