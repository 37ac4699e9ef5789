//! Every layout × coding is built, decoded, and decoded again after it was coded anew.

use std::sync::Arc;

use compress_sdk::bitmap::Bitmap;
use compress_sdk::encoding::{Encoding, Layout, Term};
use proptest::prelude::*;
use rayon::prelude::*;

use super::decode::{Decoder, ReadAt};
use super::outline::{PackedLayout, ValueCoding};
use super::pack::{Packing, Sums, possible};
use super::survey::Survey;
use super::terms::{Values, collect, pack, recode};
use super::{Outline, Pieces, fit};
use crate::convert::to_f32;
use crate::error::Result;
use crate::format::{BLOCK_BYTES, Packed};
use crate::progress::Watch;
use crate::tensor::Dtype;

const CODINGS: [ValueCoding; 8] = [
    ValueCoding::Plain,
    ValueCoding::F16,
    ValueCoding::Bf16,
    ValueCoding::Int8,
    ValueCoding::Codebook(1),
    ValueCoding::Codebook(3),
    ValueCoding::Codebook(4),
    ValueCoding::Codebook(8),
];

fn decoder(packed: &Packed<'_>, max_expand: u64) -> Result<Decoder> {
    let read = |t: &crate::format::PackedTerm<'_>| {
        t.pieces
            .iter()
            .map(|p| {
                let bytes = collect(p.data.as_ref()).unwrap();
                assert_eq!(
                    bytes.len() as u64,
                    p.shape.iter().product::<u64>() * u64::from(p.dtype.bits()) / 8,
                    "{}",
                    p.role
                );
                Box::new(bytes) as Box<dyn ReadAt>
            })
            .collect()
    };
    Decoder::new(packed.outline(), packed.terms.iter().map(read).collect(), max_expand)
}

/// All bytes, and the same read in crooked pieces.
fn decode(packed: &Packed<'_>) -> Vec<u8> {
    let decoder = decoder(packed, u64::MAX).unwrap();
    let n = packed.shape.iter().product::<u64>() * packed.dtype.float_bytes().unwrap() as u64;
    let mut whole = vec![1; n as usize];
    decoder.read_at(0, &mut whole).unwrap();
    for (start, len) in [(0, 1), (1, 3), (n / 2, n / 3), (n.saturating_sub(5), 5)] {
        let end = (start + len).min(n);
        let mut some = vec![1; (end - start.min(end)) as usize];
        decoder.read_at(start.min(end), &mut some).unwrap();
        assert!(some == whole[start.min(end) as usize..end as usize], "from {start} on");
    }
    whole
}

/// Packs in all layouts that are possible; each must decode to exactly the rounded bytes.
fn every_layout(mut dense: Values, coding: ValueCoding) -> Vec<(PackedLayout, u64)> {
    let mut seen = Vec::new();
    for sparse in [true, false] {
        let Ok(fitted) = fit::fit(&dense, coding, sparse, Watch::silent()) else { return seen };
        fitted.round_trip(&dense.dtype.clone(), false, 0, &mut dense.bytes);
        let survey = Survey::of(&dense, Watch::silent()).unwrap();
        for outline in possible(&dense, &survey, &fitted) {
            let layout = outline.terms[0].layout;
            let packed = Packing { dense: &dense, survey: &survey, layout, fitted: &fitted }.packed();
            assert_eq!(packed.outline(), outline);
            assert!(decode(&packed) == dense.bytes, "{coding} {layout:?}");
            seen.push((layout, outline.bytes()));
        }
    }
    seen
}

fn weights(n: usize, share: f64, seed: u64) -> Vec<f32> {
    (0..n as u64)
        .map(|i| {
            let draw = |k: u64| (super::hash::coefficients(seed ^ (i * 2 + k))[0] as f64) / (super::hash::PRIME as f64);
            if draw(0) < share { (draw(1) - 0.5) as f32 } else { 0.0 }
        })
        .collect()
}

fn of(values: &[f32], dtype: Dtype, shape: &[u64]) -> Values {
    let mut bytes = vec![0; values.len() * dtype.float_bytes().unwrap()];
    crate::convert::from_f32(&dtype, values, &mut bytes);
    Values { dtype, shape: shape.to_vec(), bytes }
}

#[test]
fn every_pair_at_every_size_and_type() {
    for n in [0usize, 1, 2, 63, 64, 65, 700] {
        for share in [0.0, 0.003, 0.2, 1.0] {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64] {
                for coding in CODINGS {
                    every_layout(of(&weights(n, share, 7), dtype.clone(), &[n as u64]), coding);
                    if n == 700 {
                        every_layout(of(&weights(n, share, 8), dtype.clone(), &[1, 70, 10]), coding);
                    }
                }
            }
        }
    }
}

#[test]
fn many_blocks() {
    for coding in CODINGS {
        for share in [0.0005, 0.2] {
            let seen = every_layout(of(&weights(1000 * 900, share, 3), Dtype::F32, &[1000, 900]), coding);
            assert!(seen.len() >= 4, "{coding}: {seen:?}");
        }
    }
}

#[test]
fn sparse_sizes_are_those_of_the_entropy_but_for_a_few_percent() {
    let n = 1 << 20;
    for (kept, plain, int8) in [(0.2, 0.2235, 0.0745), (0.1, 0.1155, 0.0412), (0.05, 0.0595, 0.0227)] {
        let least = |coding| {
            every_layout(of(&weights(n, kept, 5), Dtype::F32, &[1024, 1024]), coding).iter().map(|s| s.1).min().unwrap()
        };
        let dense = n as f64 * 4.0;
        assert!((least(ValueCoding::Plain) as f64) < plain * dense, "{kept}");
        assert!((least(ValueCoding::Int8) as f64) < int8 * dense, "{kept} {}", least(ValueCoding::Int8) as f64 / dense);
    }
}

proptest! {
    #[test]
    fn any_bits_survive(bits in prop::collection::vec(prop_oneof![4 => Just(0u32), 1 => Just(1u32 << 31), 2 => any::<u32>()], 0..3000)) {
        let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        every_layout(Values { dtype: Dtype::F32, shape: vec![bits.len() as u64], bytes: bytes.clone() }, ValueCoding::Plain);
        let half = bits.len() as u64 * 2;
        every_layout(Values { dtype: Dtype::Bf16, shape: vec![half], bytes: bytes.clone() }, ValueCoding::Plain);
        every_layout(Values { dtype: Dtype::F16, shape: vec![half], bytes }, ValueCoding::Plain);
    }
}

fn encoding(rows: usize, cols: usize, layouts: Vec<Layout>) -> Encoding {
    let terms = layouts.into_iter().enumerate().map(|(i, layout)| {
        let count = match &layout {
            Layout::Dense => rows * cols,
            Layout::Sparse(b) => b.count_ones() as usize,
            Layout::Factored { rank } => rank * (rows + cols),
            Layout::Hashed { .. } => 37,
        };
        Term { layout, values: weights(count, 1.0, i as u64 + 1) }
    });
    Encoding { rows, cols, terms: terms.collect() }
}

fn sparse(n: usize) -> Layout {
    let mut bits = Bitmap::new(n, false);
    (0..n).step_by(7).for_each(|i| bits.set(i, true));
    Layout::Sparse(bits)
}

/// What the encoding means, in f64.
fn meaning(e: &Encoding) -> Vec<f64> {
    let mut all = vec![0f64; e.rows * e.cols];
    for term in &e.terms {
        let v = |k: usize| f64::from(term.values[k]);
        match &term.layout {
            Layout::Dense => all.iter_mut().enumerate().for_each(|(i, o)| *o += v(i)),
            Layout::Sparse(bits) => {
                let mut k = 0;
                for (i, o) in all.iter_mut().enumerate().filter(|(i, _)| bits.get(*i)) {
                    (*o, k) = (*o + v(k), k + 1);
                    let _ = i;
                }
            }
            Layout::Factored { rank } => {
                for (i, o) in all.iter_mut().enumerate() {
                    let (row, col) = (i / e.cols, i % e.cols);
                    *o += (0..*rank).map(|k| v(row * rank + k) * v(e.rows * rank + k * e.cols + col)).sum::<f64>();
                }
            }
            Layout::Hashed { seed } => {
                let c = super::hash::coefficients(u64::from(*seed));
                for (i, o) in all.iter_mut().enumerate() {
                    let (b, minus) = super::hash::bucket(&c, i as u64, term.values.len() as u64);
                    *o += if minus { -v(b) } else { v(b) };
                }
            }
        }
    }
    all
}

#[test]
fn terms_of_methods_and_a_sum() {
    let (rows, cols) = (30, 50);
    let cases = [
        vec![Layout::Dense],
        vec![sparse(rows * cols)],
        vec![Layout::Factored { rank: 4 }],
        vec![Layout::Hashed { seed: 9 }],
        vec![Layout::Factored { rank: 3 }, sparse(rows * cols)],
    ];
    for layouts in cases {
        let encoding = encoding(rows, cols, layouts);
        let meant = meaning(&encoding);
        for coding in CODINGS {
            let packed = pack(&encoding, &Dtype::F32, &[rows as u64, cols as u64], coding).unwrap();
            let bytes = decode(&packed);
            let mut got = vec![0f32; rows * cols];
            to_f32(&Dtype::F32, &bytes, &mut got);
            let error = got.iter().zip(&meant).map(|(g, m)| (f64::from(*g) - m).abs()).fold(0.0, f64::max);
            let bound = match coding {
                ValueCoding::Plain => 1e-6,
                ValueCoding::F16 => 2e-3,
                ValueCoding::Bf16 | ValueCoding::Int8 | ValueCoding::Codebook(8) => 0.02,
                ValueCoding::Codebook(4) => 0.15,
                _ => 1.0,
            };
            assert!(error < bound, "{} {error}", packed.outline().describe());
            // The terms that a file has, coded anew: within both codings' error, the layouts as they were.
            let held = Pieces::of(&packed).unwrap();
            for other in [ValueCoding::Plain, ValueCoding::Int8, ValueCoding::Codebook(8)] {
                let recoded = Pieces::of(&recode(held.decoder(), other).unwrap()).unwrap();
                let layouts = |p: &Pieces| p.outline().terms.iter().map(|t| t.layout).collect::<Vec<_>>();
                assert_eq!(layouts(&recoded).len(), layouts(&held).len());
                assert!(recoded.outline().terms.iter().all(|t| t.values == other));
                let mut again = vec![0; bytes.len()];
                recoded.fill(0, &mut again).unwrap();
                let mut values = vec![0f32; rows * cols];
                to_f32(&Dtype::F32, &again, &mut values);
                let bound = if other == ValueCoding::Plain { 1e-6 } else { 0.05 };
                let error = values.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error < bound, "{} to {other}: {error}", packed.outline().describe());
            }
            // Coded anew from what it decodes to.
            every_layout(Values { dtype: Dtype::F32, shape: vec![rows as u64, cols as u64], bytes }, coding);
        }
    }
}

#[test]
fn counts_of_kept_weights_are_enough_for_a_mask() {
    let plain = super::Fitted::Plain;
    for (dtype, share) in [(Dtype::F32, 0.9), (Dtype::F32, 0.2), (Dtype::Bf16, 0.5), (Dtype::Bf16, 0.0)] {
        let dense = of(&weights(1_200_000, share, 5), dtype, &[1_200_000]);
        let width = dense.bytes.len() / 1_200_000;
        let kept = |block: &[u8]| block.chunks(width).filter(|e| e.iter().any(|b| *b != 0)).count() as u64;
        let survey = Survey::of(&dense, Watch::silent()).unwrap();
        let counted = Survey::of_kept((BLOCK_BYTES / width) as u64, dense.bytes.chunks(BLOCK_BYTES).map(kept));
        let named = |s: &Survey| possible(&dense, s, &plain).iter().map(|o| o.terms[0].layout).collect::<Vec<_>>();
        assert!(!named(&counted).iter().any(|l| matches!(l, PackedLayout::Deltas | PackedLayout::Rice)));
        let sums = Arc::new(Sums::new(&counted));
        assert_eq!(sums.all(), None);
        let of = |survey| Packing { dense: &dense, survey, layout: PackedLayout::Mask, fitted: &plain };
        let (expected, packed) = (of(&survey).packed(), of(&counted).packed_summing(Some(&sums)));
        for (a, b) in expected.terms[0].pieces.iter().zip(&packed.terms[0].pieces) {
            let whole = collect(a.data.as_ref()).unwrap();
            let mut made = vec![1; whole.len()];
            let fill = |(i, out): (usize, &mut [u8])| b.data.fill((i * BLOCK_BYTES) as u64, out).unwrap();
            made.par_chunks_mut(BLOCK_BYTES).enumerate().for_each(fill);
            assert!(made == whole, "{}", a.role);
        }
        assert_eq!(sums.all(), survey.sums);
    }
}

#[test]
fn hostile_pieces_are_refused() {
    let dense = of(&weights(640, 0.2, 1), Dtype::F32, &[20, 32]);
    let survey = Survey::of(&dense, Watch::silent()).unwrap();
    let plain = super::Fitted::Plain;
    let make = |layout| Packing { dense: &dense, survey: &survey, layout, fitted: &plain }.packed();
    type Edit = fn(&mut Outline, &mut Vec<Vec<u8>>);
    let cases: [(&str, PackedLayout, Edit); 19] = [
        ("keeps", PackedLayout::Mask, |_, d| d[1][3] ^= 1),
        ("values", PackedLayout::Mask, |o, d| {
            o.terms[0].pieces[0].shape[0] -= 1;
            let left = d[0].len() - 4;
            d[0].truncate(left);
        }),
        ("\"mask\" is U8 [81]", PackedLayout::Mask, |o, _| o.terms[0].pieces[1].shape[0] += 1),
        ("lead to element", PackedLayout::Deltas, |_, d| d[1].iter_mut().for_each(|b| *b = 255)),
        ("is 0", PackedLayout::Deltas, |_, d| d[1][0] = 0),
        ("room for", PackedLayout::Rice, |_, d| d[1][0] ^= 1),
        ("room for", PackedLayout::Rice, |_, d| d[1].iter_mut().skip(1).for_each(|b| *b = 0)),
        ("more gaps than", PackedLayout::Rice, |_, d| d[1].iter_mut().for_each(|b| *b = 255)),
        ("leads to element", PackedLayout::Rice, |_, d| d[2].iter_mut().for_each(|b| *b = 0)),
        ("does not fit its values", PackedLayout::Rice, |o, _| o.terms[0].pieces[2].shape[1] = 9),
        ("does not fit its values", PackedLayout::Rice, |o, _| o.terms[0].pieces[2].shape[0] += 1),
        ("longer than 640", PackedLayout::Rice, |o, _| o.terms[0].pieces[1].shape[0] = 81),
        ("\"values\" is", PackedLayout::Deltas, |o, _| o.terms[0].pieces[1].shape[0] += 1),
        ("where F32 [640]", PackedLayout::Dense, |o, _| o.terms[0].pieces[0].shape[0] = 639),
        ("pieces", PackedLayout::Dense, |o, _| o.terms[0].pieces[0].role = "u"),
        ("pieces", PackedLayout::Dense, |o, _| o.terms[0].values = ValueCoding::Int8),
        ("0 terms", PackedLayout::Dense, |o, _| o.terms.clear()),
        ("too large", PackedLayout::Dense, |o, _| o.shape = vec![1 << 40, 1 << 40]),
        ("no floating-point", PackedLayout::Dense, |o, _| o.dtype = super::outline::u8_type()),
    ];
    for (expected, layout, edit) in cases {
        let packed = make(layout);
        let mut outline = packed.outline();
        let mut data: Vec<Vec<u8>> = packed.terms[0].pieces.iter().map(|p| collect(p.data.as_ref()).unwrap()).collect();
        edit(&mut outline, &mut data);
        let pieces = vec![data.into_iter().map(|d| Box::new(d) as Box<dyn ReadAt>).collect()];
        let read = Decoder::new(outline, pieces, 4096).and_then(|d| d.read_at(0, &mut [0; 64]));
        let error = read.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn hostile_factors_and_buckets_are_refused() {
    let piece = |role, shape: &[u64]| super::PieceOutline::new(role, Dtype::F32, shape.to_vec());
    let open = |layout, pieces: Vec<super::PieceOutline>, shape: &[u64]| {
        let term = super::TermOutline { layout, values: ValueCoding::Plain, pieces };
        let outline = Outline { dtype: Dtype::F32, shape: shape.to_vec(), terms: vec![term] };
        let hash = [1i64, 2, 3, 4, 0].iter().flat_map(|c| c.to_le_bytes()).collect::<Vec<u8>>();
        let data: Vec<Box<dyn ReadAt>> = vec![Box::new(vec![0u8; 4096]), Box::new(hash)];
        Decoder::new(outline, vec![data], 16).and_then(|d| d.read_at(0, &mut [0; 4])).unwrap_err().to_string()
    };
    let factored =
        |u: &[u64], v: &[u64], shape: &[u64]| open(PackedLayout::Factored, vec![piece("u", u), piece("v", v)], shape);
    assert!(factored(&[4, 2], &[3, 5], &[4, 5]).contains("do not multiply"));
    assert!(factored(&[4, 2], &[2, 5], &[4, 6]).contains("do not multiply"));
    assert!(factored(&[0, 2], &[2, 5], &[4, 5]).contains("do not multiply"));
    assert!(factored(&[4, 0], &[0, 5], &[4, 5]).contains("unfold"));
    assert!(factored(&[4096, 1], &[1, 4096], &[4096, 4096]).contains("unfold"));
    let hash = super::PieceOutline::new("hash", super::outline::i64_type(), vec![5]);
    assert!(open(PackedLayout::Hashed, vec![piece("values", &[0]), hash.clone()], &[4, 5]).contains("buckets"));
    assert!(open(PackedLayout::Hashed, vec![piece("values", &[7]), hash], &[4, 5]).contains("names 0 buckets"));
}

#[test]
fn what_is_kept_never_becomes_zero_and_zeros_stay() {
    // One weight above all others in each row: the others are below its step.
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64] {
        let values: Vec<f32> = (0..6400)
            .map(|i| match i % 64 {
                0 => 1000.0,
                1..40 => 0.0,
                k => (k as f32 - 52.0) * 1e-3,
            })
            .collect();
        let before = of(&values, dtype.clone(), &[100, 64]);
        for coding in CODINGS {
            let fitted = fit::fit(&before, coding, true, Watch::silent()).unwrap();
            let mut after = Values { dtype: dtype.clone(), shape: before.shape.clone(), bytes: before.bytes.clone() };
            fitted.round_trip(&dtype, true, 0, &mut after.bytes);
            let width = dtype.float_bytes().unwrap();
            let zero = |b: &[u8]| b.iter().all(|b| *b == 0);
            for (i, (a, b)) in before.bytes.chunks(width).zip(after.bytes.chunks(width)).enumerate() {
                assert_eq!(zero(a), zero(b), "{coding} {} at {i}: {a:?} {b:?}", dtype.name());
            }
            // What is written is what was shown, and a second coding changes nothing.
            let survey = Survey::of(&after, Watch::silent()).unwrap();
            for outline in possible(&after, &survey, &fitted) {
                let layout = outline.terms[0].layout;
                let packed = Packing { dense: &after, survey: &survey, layout, fitted: &fitted }.packed();
                assert!(decode(&packed) == after.bytes, "{}", outline.describe());
                let found = decoder(&packed, u64::MAX).unwrap().fitted().unwrap();
                assert_eq!(found.as_ref(), Some(&fitted), "{}", outline.describe());
            }
        }
    }
}
