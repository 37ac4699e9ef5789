//! The method against its equations and against the conformance suite.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use compress_low_rank::ENTRY;
use compress_sdk::caller::{Caller, Deaf, Failure};
use compress_sdk::{Array, Encoded, Evidence, EvidenceKind, Keep, Layout, OptionValue, Part};

#[test]
fn conforms() {
    compress_testkit::conformance(&ENTRY);
}

type Given<'a> = &'a [(&'a str, OptionValue)];

fn encode_with(part: &Part<'_>, options: Given<'_>, arrays: &[Array<'_>]) -> Result<Encoded, Failure> {
    let method = Caller::linked(&ENTRY).unwrap();
    let mut all = method.card().defaults();
    for (name, value) in options {
        all.0.iter_mut().find(|(n, _)| n == name).unwrap().1 = value.clone();
    }
    method.create(&all, 1, Arc::new(Deaf))?.encode(part, Keep::All, &Evidence { arrays })
}

fn rank(rank: i64) -> (&'static str, OptionValue) {
    ("rank", OptionValue::Integer(rank))
}

const WHITEN: (&str, OptionValue) = ("whiten", OptionValue::Flag(true));
/// So little that results by hand hold.
const HARDLY: (&str, OptionValue) = ("damping", OptionValue::Float(1e-6));

/// U·V, row-major, and the rank; the weights themselves and 0 where it stayed dense.
fn decoded(encoded: &Encoded) -> (Vec<f32>, usize) {
    let e = &encoded.encoding;
    let [term] = &e.terms[..] else { panic!("one term") };
    let Layout::Factored { rank } = term.layout else { return (term.values.clone(), 0) };
    let (u, v) = term.values.split_at(e.rows * rank);
    let at = |r: usize, c: usize| (0..rank).map(|k| u[r * rank + k] * v[k * e.cols + c]).sum::<f32>();
    ((0..e.rows * e.cols).map(|i| at(i / e.cols, i % e.cols)).collect(), rank)
}

fn near(a: &[f32], b: &[f32]) {
    let size = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    let off = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(a.len() == b.len() && off <= 1e-3 * size, "{a:?} and {b:?}");
}

/// W ≈ U·V: of diag(5, 3, 1) and a zero row the first singular triplet is the 5, the first two are 5 and 3.
#[test]
fn eq_1_the_largest_singular_values_stay() {
    let mut weights = [0.0; 12];
    (weights[0], weights[4], weights[8]) = (1.0, 5.0, -3.0);
    let part = Part::whole("w", 4, 3, &weights);
    let (product, r) = decoded(&encode_with(&part, &[rank(1)], &[]).unwrap());
    let mut wanted = [0.0; 12];
    wanted[4] = 5.0;
    assert_eq!(r, 1);
    near(&product, &wanted);
    // 2·(4 + 3) ≥ 12: nothing is gained.
    let (product, r) = decoded(&encode_with(&part, &[rank(2)], &[]).unwrap());
    assert_eq!((product.as_slice(), r), (&weights[..], 0));
}

/// ‖(W − Ŵ)·L‖²: W = [3 0; 0 2] of inputs with E x·xᵀ = diag(1, 9): the second column weighs 2·3 = 6 > 3, so it stays.
/// Four rows more that are zero make a rank of 1 worth while.
#[test]
fn eq_3_what_the_inputs_use_stays() {
    let mut weights = [0.0; 12];
    (weights[0], weights[3]) = (3.0, 2.0);
    let part = Part::whole("w", 6, 2, &weights);
    let gram = [1.0, 0.0, 0.0, 9.0];
    let arrays = [Array { kind: EvidenceKind::Gram, shape: &[2, 2], data: &gram, model_mean: 0.0 }];
    let mut wanted = [0.0; 12];
    wanted[3] = 2.0;
    near(&decoded(&encode_with(&part, &[rank(1), WHITEN, HARDLY], &arrays).unwrap()).0, &wanted);
    // Of two groups the mean counts.
    let grams = [2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 18.0];
    let arrays = [Array { kind: EvidenceKind::Gram, shape: &[2, 2, 2], data: &grams, model_mean: 0.0 }];
    near(&decoded(&encode_with(&part, &[rank(1), WHITEN, HARDLY], &arrays).unwrap()).0, &wanted);
    let mut plain = [0.0; 12];
    plain[0] = 3.0;
    near(&decoded(&encode_with(&part, &[rank(1)], &arrays).unwrap()).0, &plain);
}

/// With inputs that depend on each other, x₂ = x₁: G = [1 1; 1 1], so only w₁ + w₂ of each row counts, and rank 1 gives
/// W·x without error though W = [1 0; 0 1] has rank 2.
#[test]
fn eq_2_nothing_is_lost_on_dependent_inputs() {
    let mut weights = [0.0; 12];
    (weights[0], weights[3]) = (1.0, 1.0);
    let part = Part::whole("w", 6, 2, &weights);
    let arrays = [Array { kind: EvidenceKind::Gram, shape: &[2, 2], data: &[1.0; 4], model_mean: 0.0 }];
    let (product, r) = decoded(&encode_with(&part, &[rank(1), WHITEN, HARDLY], &arrays).unwrap());
    assert_eq!(r, 1);
    let sums: Vec<f32> = product.chunks(2).map(|row| row[0] + row[1]).collect();
    near(&sums, &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
}

/// ‖D·(W − Ŵ)‖²: rows [3 0] and [0 2], the second read nine times as often: it stays.
#[test]
fn eq_4_rows_that_are_read_stay() {
    let mut weights = [0.0; 12];
    (weights[0], weights[3]) = (3.0, 2.0);
    let part = Part::whole("w", 6, 2, &weights);
    let counts = [1.0, 9.0, 0.0, 0.0, 4.0, 4.0];
    let arrays = [Array { kind: EvidenceKind::RowCount, shape: &[6], data: &counts, model_mean: 0.0 }];
    let mut wanted = [0.0; 12];
    wanted[3] = 2.0;
    near(&decoded(&encode_with(&part, &[rank(1), WHITEN, HARDLY], &arrays).unwrap()).0, &wanted);
}

/// Σ σ² of diag(4, 2, 1, 1) is 22: 16/22 = 0.727, 20/22 = 0.909.
#[test]
fn eq_5_the_smallest_rank_that_keeps_the_energy() {
    let mut weights = [0.0; 12 * 4];
    for (i, w) in [4.0, 2.0, 1.0, 1.0].into_iter().enumerate() {
        weights[i * 4 + i] = w;
    }
    let part = Part::whole("w", 12, 4, &weights);
    for (share, r) in [(0.5, 1), (0.72, 1), (0.73, 2), (0.9, 2), (0.92, 0)] {
        let given = [("energy", OptionValue::Float(share))];
        assert_eq!(decoded(&encode_with(&part, &given, &[]).unwrap()).1, r, "{share}");
    }
}

#[test]
fn ranks_by_bytes_and_by_share() {
    let weights = noise(30 * 20, 4);
    let part = Part::whole("w", 30, 20, &weights);
    for (name, value, r) in [
        ("bytes", OptionValue::Integer(600), 3),
        ("bytes", OptionValue::Integer(1), 1),
        ("share", OptionValue::Float(0.5), 6),
        ("share", OptionValue::Float(1.0), 0),
        ("rank", OptionValue::Integer(11), 11),
        ("rank", OptionValue::Integer(12), 0),
    ] {
        assert_eq!(decoded(&encode_with(&part, &[(name, value.clone())], &[]).unwrap()).1, r, "{name} {value:?}");
    }
}

#[test]
fn stored_by_columns_it_is_the_same_part() {
    let weights = noise(40 * 30, 4);
    let turned: Vec<f32> = (0..1200).map(|i| weights[(i % 40) * 30 + i / 40]).collect();
    let by_rows = Part::whole("w", 40, 30, &weights);
    let by_columns = Part { row_stride: 1, col_stride: 40, data: &turned, ..by_rows };
    assert_eq!(encode_with(&by_rows, &[rank(5)], &[]).unwrap(), encode_with(&by_columns, &[rank(5)], &[]).unwrap());
}

#[test]
fn sizes_of_weights_do_not_matter() {
    let weights = noise(40 * 30, 4);
    let part = Part::whole("w", 40, 30, &weights);
    let plain = decoded(&encode_with(&part, &[rank(5)], &[]).unwrap()).0;
    for exponent in [-120, -60, 60, 120] {
        let scale = 2f32.powi(exponent);
        let scaled: Vec<f32> = weights.iter().map(|w| w * scale).collect();
        let (product, r) = decoded(&encode_with(&Part { data: &scaled, ..part }, &[rank(5)], &[]).unwrap());
        assert_eq!(r, 5);
        near(&product.iter().map(|w| w / scale).collect::<Vec<_>>(), &plain);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let weights = noise(12, 1);
    let part = Part::whole("w", 6, 2, &weights);
    let text = |result: Result<Encoded, Failure>| result.unwrap_err().to_string();
    assert!(text(encode_with(&part, &[rank(1), WHITEN], &[])).contains("measure"));
    assert!(
        text(encode_with(&part, &[rank(1), ("share", OptionValue::Float(0.5))], &[])).contains("exclude each other")
    );
    let holes = [1.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert!(text(encode_with(&Part { data: &holes, ..part }, &[rank(1)], &[])).contains("NaN"));
}

/// The same bits with one thread and with eight, for a part that is large enough to be cut.
#[test]
fn threads_change_nothing() {
    let weights = noise(600 * 512, 2);
    let part = Part::whole("w", 600, 512, &weights);
    let gram: Vec<f32> = (0..512 * 512).map(|i| if i % 513 == 0 { 2.0 } else { 0.001 }).collect();
    let arrays = [Array { kind: EvidenceKind::Gram, shape: &[512, 512], data: &gram, model_mean: 0.0 }];
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| encode_with(&part, &[rank(24), WHITEN], &arrays).unwrap())
    };
    assert_eq!(with(1), with(8));
}

/// Large parts by random products keep as much as the full decomposition, but for a hundredth of the error.
#[test]
fn large_parts_are_within_a_hundredth_of_the_best() {
    let (rows, cols) = (500, 400);
    let (left, right) = (noise(rows * 40, 5), noise(40 * cols, 6));
    let mut weights = noise(rows * cols, 7);
    for (i, w) in weights.iter_mut().enumerate() {
        let (r, c) = (i / cols, i % cols);
        *w += (0..40).map(|k| left[r * 40 + k] * right[k * cols + c] / (k + 1) as f32).sum::<f32>();
    }
    let part = Part::whole("w", rows, cols, &weights);
    let error = |given: Given<'_>| -> (f64, usize) {
        let (product, r) = decoded(&encode_with(&part, given, &[]).unwrap());
        (product.iter().zip(&weights).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt(), r)
    };
    let exact = ("exact", OptionValue::Flag(true));
    for r in [4, 20, 60] {
        let (quick, full) = (error(&[rank(r)]).0, error(&[rank(r), exact.clone()]).0);
        assert!(quick <= 1.01 * full && quick >= 0.9999 * full, "rank {r}: {quick} and {full}");
    }
    // The rank that an energy asks for is found by doubling, at most one too large.
    for share in [0.3, 0.5] {
        let energy = || ("energy", OptionValue::Float(share));
        let (quick, full) = (error(&[energy()]).1, error(&[energy(), exact.clone()]).1);
        assert!(quick == full || quick == full + 1, "{share}: {quick} and {full}");
    }
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut fraction = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)) >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| fraction()).sum::<f32>() - 6.0).collect()
}
