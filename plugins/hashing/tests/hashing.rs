//! The method against its equations and against the conformance suite.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use compress_hashing::ENTRY;
use compress_sdk::caller::{Caller, Deaf, Failure};
use compress_sdk::{Encoded, Evidence, Keep, Layout, OptionValue, Part, hash};

#[test]
fn conforms() {
    compress_testkit::conformance(&ENTRY);
}

fn encode(part: &Part<'_>, options: &[(&str, OptionValue)], seed: u64) -> Result<Encoded, Failure> {
    let method = Caller::linked(&ENTRY).unwrap();
    let mut all = method.card().defaults();
    for (name, value) in options {
        all.0.iter_mut().find(|(n, _)| n == name).unwrap().1 = value.clone();
    }
    method.create(&all, seed, Arc::new(Deaf)).unwrap().encode(part, Keep::All, &Evidence::default())
}

fn buckets(count: i64) -> [(&'static str, OptionValue); 1] {
    [("buckets", OptionValue::Integer(count))]
}

/// Ŵ of an encoding with one hashed term.
fn decoded(part: &Part<'_>, encoded: &Encoded) -> Vec<f32> {
    let [term] = &encoded.encoding.terms[..] else { panic!("one term") };
    let Layout::Hashed { seed } = term.layout else { panic!("hashed") };
    let c = hash::coefficients(u64::from(seed));
    (0..part.data.len())
        .map(|i| {
            let at = hash::position(part, i / part.cols, i % part.cols);
            let (k, minus) = hash::bucket(&c, at, term.values.len() as u64);
            if minus { -term.values[k] } else { term.values[k] }
        })
        .collect()
}

/// w_ij = ξ(i, j) · b[h(i, j)]: weights that are of that form come back as they are, stored by rows or by columns.
#[test]
fn weights_that_share_buckets_are_found_again() {
    let c = hash::coefficients(7);
    let stored: Vec<f32> = (0..600)
        .map(|i| {
            let (k, minus) = hash::bucket(&c, i, 5);
            if minus { -(k as f32) } else { k as f32 }
        })
        .collect();
    let by_rows = Part::whole("w", 20, 30, &stored);
    let by_columns = Part { row_stride: 1, col_stride: 20, ..by_rows };
    for part in [by_rows, by_columns] {
        let encoded = encode(&part, &buckets(5), 7).unwrap();
        assert_eq!(encoded.encoding.terms[0].values, [0.0, 1.0, 2.0, 3.0, 4.0]);
        let weights: Vec<f32> = (0..600).map(|i| part.at(i / 30, i % 30)).collect();
        assert_eq!(decoded(&part, &encoded), weights);
    }
}

/// Nothing nearer than the means: moving any bucket makes the error larger.
#[test]
fn no_other_buckets_are_nearer() {
    let weights: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
    let part = Part::whole("w", 10, 100, &weights);
    let encoded = encode(&part, &buckets(9), 3).unwrap();
    let error =
        |e: &Encoded| -> f64 { decoded(&part, e).iter().zip(&weights).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
    let best = error(&encoded);
    for k in 0..9 {
        for step in [-0.01, 0.01] {
            let mut moved = encoded.clone();
            moved.encoding.terms[0].values[k] += step;
            assert!(error(&moved) > best, "bucket {k} {step}");
        }
    }
}

#[test]
fn what_gains_nothing_stays_dense() {
    let weights: Vec<f32> = (0..100).map(|i| i as f32).collect();
    for (rows, cols, count, dense) in [
        (10, 10, 89, false),
        (10, 10, 90, true),
        (10, 10, 100, true),
        (1, 1, 1, true),
        (2, 5, 1, true),
        (0, 7, 1, true),
    ] {
        let part = Part::whole("w", rows, cols, &weights[..rows * cols]);
        let encoded = encode(&part, &buckets(count), 1).unwrap();
        let term = &encoded.encoding.terms[0];
        assert_eq!(term.layout == Layout::Dense, dense, "{rows} × {cols}, {count}");
        if dense {
            assert_eq!(term.values, part.data, "{rows} × {cols}, {count}");
        }
    }
}

#[test]
fn the_seed_and_the_ratio_count() {
    let weights: Vec<f32> = (0..1600).map(|i| (i as f32).sin()).collect();
    let part = Part::whole("w", 40, 40, &weights);
    let one = encode(&part, &[], 1).unwrap();
    assert_eq!(one.encoding.terms[0].layout, Layout::Hashed { seed: 1 });
    assert_eq!(one.encoding.terms[0].values.len(), 100);
    assert_ne!(one, encode(&part, &[], 2).unwrap());
    let half = encode(&part, &[("ratio", OptionValue::Float(2.0))], 1).unwrap();
    assert_eq!(half.encoding.terms[0].values.len(), 800);
}
