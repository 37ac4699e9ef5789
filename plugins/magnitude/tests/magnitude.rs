//! The method against its equation and against the conformance suite.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use compress_magnitude::ENTRY;
use compress_sdk::caller::{Caller, Deaf};
use compress_sdk::{Evidence, Part};

#[test]
fn conforms() {
    compress_testkit::conformance(&ENTRY);
}

/// s(w) = |w|
#[test]
fn the_score_is_the_absolute_value() {
    let method = Caller::linked(&ENTRY).unwrap();
    let instance = method.create(&method.card().defaults(), 1, Arc::new(Deaf)).unwrap();
    let mut scores = [f32::NAN; 5];
    let part = Part::whole("w", 1, 5, &[0.5, -2.0, 0.0, -0.0, 3e38]);
    instance.score(&part, &Evidence::default(), &mut scores).unwrap();
    assert_eq!(scores, [0.5, 2.0, 0.0, 0.0, 3e38]);
    assert!(scores.iter().all(|s| s.is_sign_positive()));
}
