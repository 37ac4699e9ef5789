//! Reads `X_orig` · `X_mask` as the pruned X that they stand for.

use compress_core::{Error, Result};

use crate::model::TensorRef;

/// Bytes of the mask that are read at once.
const BLOCK: usize = 64 << 10;

/// Fills `out` with X from byte `offset`. A mask holds zeros and ones only: X is written back as `X_orig`, and any other
/// factor would then apply twice.
pub(crate) fn read_at(orig: &TensorRef, mask: &TensorRef, offset: u64, out: &mut [u8]) -> Result<()> {
    let width = orig.data_type.bits() as usize / 8;
    let first = offset - offset % width as u64;
    let skip = (offset - first) as usize;
    let end = (offset + out.len() as u64).next_multiple_of(width as u64);
    if skip > 0 || end != offset + out.len() as u64 {
        let mut whole = vec![0; (end - first) as usize];
        read_at(orig, mask, first, &mut whole)?;
        out.copy_from_slice(&whole[skip..skip + out.len()]);
        return Ok(());
    }
    orig.read_at(offset, out)?;
    let one = one(orig.data_type.0);
    let mut factors = vec![0; BLOCK.min(out.len())];
    for (i, values) in out.chunks_mut(BLOCK).enumerate() {
        let factors = &mut factors[..values.len()];
        mask.read_at(offset + (i * BLOCK) as u64, factors)?;
        for (value, factor) in values.chunks_exact_mut(width).zip(factors.chunks_exact(width)) {
            if factor == one {
                continue;
            }
            let (sign, rest) = factor.split_at(width - 1);
            if sign.iter().any(|b| *b != 0) || rest[0] & 0x7f != 0 {
                return Err(Error::failed(format!("\"{}\" holds values other than 0 and 1", mask.name)));
            }
            // Zero times a value keeps the value's sign, as the graph's own product does.
            let sign = value[width - 1] & 0x80;
            value.fill(0);
            value[width - 1] = sign;
        }
    }
    Ok(())
}

/// The bytes of 1.
fn one(data_type: i32) -> &'static [u8] {
    match data_type {
        1 => &[0, 0, 0x80, 0x3f],
        10 => &[0, 0x3c],
        16 => &[0x80, 0x3f],
        _ => &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
    }
}
