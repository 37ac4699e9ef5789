//! Stored bytes as f32, and zeros put into stored bytes.

use half::slice::HalfFloatSliceExt;

use crate::simd::wide;
use crate::tensor::Dtype;

/// Elements that are converted, scored and compared at once: small enough for the first- and second-level caches.
pub const CHUNK_ELEMENTS: usize = 4 * 1024;

/// Widens or narrows little-endian elements to f32. f64 beyond the range of f32 saturates, NaN stays NaN, and a
/// non-zero f64 never becomes zero: a weight that is there is not taken for a pruned one. `bytes` holds `out.len()`
/// elements of a type with [`Dtype::float_bytes`].
pub fn to_f32(dtype: &Dtype, bytes: &[u8], out: &mut [f32]) {
    // Each loop by itself: a closure with all of them is not inlined into the wide function.
    match dtype {
        Dtype::F32 => wide(|| {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }),
        Dtype::Bf16 => wide(|| {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }),
        Dtype::F16 => {
            let mut half = [half::f16::ZERO; 256];
            for (o, b) in out.chunks_mut(256).zip(bytes.chunks(512)) {
                for (h, b) in half.iter_mut().zip(b.as_chunks::<2>().0) {
                    *h = half::f16::from_le_bytes(*b);
                }
                half[..o.len()].convert_to_f32_slice(o);
            }
        }
        Dtype::F64 => wide(|| {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *o = narrow(f64::from_le_bytes(*b));
            }
        }),
        Dtype::Other(name, _) => unreachable!("{name} is never converted: plan leaves it untouched"),
    }
}

#[inline(always)]
fn narrow(v: f64) -> f32 {
    let f = v as f32;
    if v.is_nan() || v.is_infinite() {
        f
    } else if f.is_infinite() {
        f32::MAX.copysign(f)
    } else if f == 0.0 && v != 0.0 {
        f32::from_bits(1).copysign(v as f32)
    } else {
        f
    }
}

/// Rounds f32 to the stored type, little-endian, to nearest even.
pub fn from_f32(dtype: &Dtype, values: &[f32], out: &mut [u8]) {
    match dtype {
        Dtype::F32 => {
            for (v, b) in values.iter().zip(out.as_chunks_mut::<4>().0) {
                *b = v.to_le_bytes();
            }
        }
        Dtype::Bf16 => {
            for (v, b) in values.iter().zip(out.as_chunks_mut::<2>().0) {
                *b = half::bf16::from_f32(*v).to_le_bytes();
            }
        }
        Dtype::F16 => {
            for (v, b) in values.iter().zip(out.as_chunks_mut::<2>().0) {
                *b = half::f16::from_f32(*v).to_le_bytes();
            }
        }
        Dtype::F64 => {
            for (v, b) in values.iter().zip(out.as_chunks_mut::<8>().0) {
                *b = f64::from(*v).to_le_bytes();
            }
        }
        Dtype::Other(name, _) => unreachable!("{name} is never converted: plan leaves it untouched"),
    }
}

/// Sets every element to +0.0 for which `prune` says so. `width` is the bytes of an element.
pub fn zero_where(width: usize, bytes: &mut [u8], prune: impl Fn(usize) -> bool) {
    #[inline(always)]
    fn each<const W: usize>(bytes: &mut [u8], prune: impl Fn(usize) -> bool) {
        for (i, b) in bytes.as_chunks_mut::<W>().0.iter_mut().enumerate() {
            *b = if prune(i) { [0; W] } else { *b };
        }
    }
    match width {
        2 => wide(|| each::<2>(bytes, prune)),
        4 => wide(|| each::<4>(bytes, prune)),
        8 => wide(|| each::<8>(bytes, prune)),
        _ => unreachable!("no floating-point type has {width} bytes"),
    }
}

/// How many elements are zero (+0.0 or −0.0).
pub fn count_zeros(dtype: &Dtype, bytes: &[u8]) -> u64 {
    /// Sums as wide as the elements vectorise best; runs are short enough for them.
    const RUN: usize = 32 * 1024;
    let runs = bytes.chunks(RUN);
    match dtype {
        Dtype::F32 => {
            runs.map(|run| u64::from(wide(|| zeros(run, |b| u32::from(u32::from_le_bytes(b) << 1 == 0))))).sum()
        }
        Dtype::Bf16 | Dtype::F16 => {
            runs.map(|run| u64::from(wide(|| zeros(run, |b| u16::from(u16::from_le_bytes(b) << 1 == 0))))).sum()
        }
        Dtype::F64 => runs.map(|run| wide(|| zeros(run, |b| u64::from(u64::from_le_bytes(b) << 1 == 0)))).sum(),
        Dtype::Other(..) => 0,
    }
}

#[inline(always)]
fn zeros<const W: usize, S: std::iter::Sum>(run: &[u8], is_zero: impl Fn([u8; W]) -> S) -> S {
    run.as_chunks::<W>().0.iter().map(|b| is_zero(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_round_trips() {
        let values = [0.0f32, -0.0, 1.5, -2.25, 1e-3, 3.0e4];
        for (dtype, width) in [(Dtype::F32, 4), (Dtype::Bf16, 2), (Dtype::F16, 2), (Dtype::F64, 8)] {
            let mut bytes = vec![0; values.len() * width];
            from_f32(&dtype, &values, &mut bytes);
            let mut back = [0f32; 6];
            to_f32(&dtype, &bytes, &mut back);
            for (a, b) in values.iter().zip(back) {
                assert!((a - b).abs() <= a.abs() * 0.004, "{} {a} {b}", dtype.name());
            }
            assert_eq!(count_zeros(&dtype, &bytes), 2);
            zero_where(width, &mut bytes, |i| i == 2);
            assert_eq!(count_zeros(&dtype, &bytes), 3);
        }
    }

    #[test]
    fn f64_out_of_the_range_of_f32_stays_a_weight() {
        for (v, expected) in [(1e300, f32::MAX), (-1e300, -f32::MAX), (1e-300, f32::from_bits(1)), (0.0, 0.0)] {
            assert_eq!(narrow(v), expected);
        }
        assert!(narrow(f64::NAN).is_nan());
        assert!(narrow(f64::INFINITY).is_infinite());
    }
}
