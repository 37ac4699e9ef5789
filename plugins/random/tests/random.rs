//! The method against its equation and against the conformance suite.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use compress_random::ENTRY;
use compress_sdk::caller::{Caller, Deaf};
use compress_sdk::{Evidence, Part};

#[test]
fn conforms() {
    compress_testkit::conformance(&ENTRY);
}

fn scores(seed: u64, name: &str, count: usize) -> Vec<f32> {
    let method = Caller::linked(&ENTRY).unwrap();
    let instance = method.create(&method.card().defaults(), seed, Arc::new(Deaf)).unwrap();
    let (weights, mut out) = (vec![1.0; count], vec![f32::NAN; count]);
    instance.score(&Part::whole(name, 1, count, &weights), &Evidence::default(), &mut out).unwrap();
    out
}

/// s(w_k) = u_k: mean 1/2, variance 1/12, as many below each tenth, no trace of the neighbour. Bounds of five standard
/// errors.
#[test]
fn the_scores_are_uniform() {
    const N: usize = 100_000;
    let s = scores(1, "w", N);
    let n = N as f64;
    assert!(s.iter().all(|s| *s > 0.0 && *s < 1.0));
    let mean = s.iter().map(|s| f64::from(*s)).sum::<f64>() / n;
    assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0 / n).sqrt(), "{mean}");
    for tenth in 0..10 {
        let inside = s.iter().filter(|s| (**s * 10.0) as usize == tenth).count() as f64;
        assert!((inside - n / 10.0).abs() < 5.0 * (n * 0.09).sqrt(), "{tenth}: {inside}");
    }
    let covariance = s.windows(2).map(|p| (f64::from(p[0]) - 0.5) * (f64::from(p[1]) - 0.5)).sum::<f64>() / n;
    assert!(covariance.abs() < 5.0 / 12.0 / n.sqrt(), "{covariance}");
}

#[test]
fn seed_and_name_decide() {
    let first = scores(1, "a", 64);
    assert_eq!(first, scores(1, "a", 64));
    for (seed, name) in [(2, "a"), (1, "b")] {
        let other = scores(seed, name, 64);
        assert!(first.iter().zip(&other).filter(|(a, b)| a == b).count() < 2, "seed {seed}, part {name}");
    }
}
