//! `torch.nn.utils.prune` keeps a pruned parameter `X` as `X_orig` and `X_mask`, and X = X_orig · X_mask. Such a pair is read
//! and written as the one tensor X.

use std::collections::HashMap;
use std::sync::Arc;

use compress_core::Result;
use compress_core::format::Blocks;
use compress_core::stfile::{Entry, StFile};
use compress_core::tensor::Dtype;
use half::{bf16, f16};

/// Position of an entry: shard, then entry.
pub type At = (usize, usize);

/// Finds the pairs: position of the original to (name, position of the mask). Equal shapes, an original that is a
/// float, a mask of the same type or of bytes, and no other tensor named X.
pub fn find(shards: &[Arc<StFile>], by_name: &HashMap<&str, At>) -> HashMap<At, (String, At)> {
    let entry = |at: At| &shards[at.0].entries()[at.1];
    let mut pairs = HashMap::new();
    for (name, &at) in by_name {
        let Some(base) = name.strip_suffix("_orig") else { continue };
        let Some(&mask_at) = by_name.get(format!("{base}_mask").as_str()) else { continue };
        let (orig, mask) = (entry(at), entry(mask_at));
        let bytes = matches!(&mask.dtype, Dtype::Other(n, _) if n == "BOOL" || n == "U8");
        let fits = orig.dtype.float_bytes().is_some() && (mask.dtype == orig.dtype || bytes);
        if fits && mask.shape == orig.shape && !by_name.contains_key(base) {
            pairs.insert(at, (base.to_string(), mask_at));
        }
    }
    pairs
}

/// An original and its mask, in their files.
pub struct Pair<'a> {
    /// File and entry of the original.
    pub orig: (&'a StFile, &'a Entry),
    /// File and entry of the mask.
    pub mask: (&'a StFile, &'a Entry),
}

impl Pair<'_> {
    /// Fills `out` with the product's bytes from byte `offset`.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (file, entry) = self.orig;
        let width = entry.dtype.float_bytes().unwrap_or(1);
        let (before, end) = ((offset % width as u64) as usize, offset + out.len() as u64);
        if before != 0 || end % width as u64 != 0 {
            let first = offset - before as u64;
            let mut whole = vec![0; (end.next_multiple_of(width as u64) - first) as usize];
            self.read_at(first, &mut whole)?;
            out.copy_from_slice(&whole[before..before + out.len()]);
            return Ok(());
        }
        file.read_at(entry, offset, out)?;
        let (mask_file, mask) = self.mask;
        let mask_width = mask.dtype.float_bytes().unwrap_or(1);
        let mut factors = vec![0; (1 << 16).min(out.len() / width * mask_width)];
        let mut at = offset / width as u64 * mask_width as u64;
        for values in out.chunks_mut((1 << 16) / mask_width * width) {
            let factors = &mut factors[..values.len() / width * mask_width];
            mask_file.read_at(mask, at, factors)?;
            at += factors.len() as u64;
            multiply(&entry.dtype, values, &mask.dtype, factors);
        }
        Ok(())
    }
}

impl Blocks for Pair<'_> {
    fn bytes(&self) -> u64 {
        self.orig.1.bytes()
    }

    fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read_at(offset, out)
    }
}

/// values ← values · factors, rounded as PyTorch rounds it.
fn multiply(dtype: &Dtype, values: &mut [u8], mask: &Dtype, factors: &[u8]) {
    macro_rules! each {
        ($n:literal, $value:ty, $wide:ty, $widen:expr, $narrow:expr) => {{
            let values = values.as_chunks_mut::<$n>().0.iter_mut();
            let product = |v: &mut [u8; $n], f: $wide| {
                let wide: $wide = $widen(<$value>::from_le_bytes(*v)) * f;
                let narrow: $value = $narrow(wide);
                *v = narrow.to_le_bytes();
            };
            if mask == dtype {
                let factors = factors.as_chunks::<$n>().0;
                values.zip(factors).for_each(|(v, f)| product(v, $widen(<$value>::from_le_bytes(*f))));
            } else {
                values.zip(factors).for_each(|(v, f)| product(v, if *f == 0 { 0.0 } else { 1.0 }));
            }
        }};
    }
    match dtype {
        Dtype::F64 => each!(8, f64, f64, |x| x, |x| x),
        Dtype::F32 => each!(4, f32, f32, |x| x, |x| x),
        Dtype::F16 => each!(2, f16, f32, f16::to_f32, f16::from_f32),
        Dtype::Bf16 => each!(2, bf16, f32, bf16::to_f32, bf16::from_f32),
        Dtype::Other(..) => {}
    }
}
