//! The method against its equation and against the conformance suite.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use compress_obd::ENTRY;
use compress_sdk::caller::{Caller, Deaf, Failure};
use compress_sdk::{Array, Evidence, EvidenceKind, OptionValue, Part};

#[test]
fn conforms() {
    compress_testkit::conformance(&ENTRY);
}

fn score(curvature: &str, arrays: &[(EvidenceKind, [f32; 4])]) -> Result<[f32; 4], Failure> {
    damped(curvature, 0.0, arrays)
}

/// Where the mean of the evidence over the model is 2.
fn damped(curvature: &str, damping: f64, arrays: &[(EvidenceKind, [f32; 4])]) -> Result<[f32; 4], Failure> {
    let method = Caller::linked(&ENTRY).unwrap();
    let mut options = method.card().defaults();
    options.0[0].1 = OptionValue::Text(curvature.into());
    options.0[1].1 = OptionValue::Float(damping);
    let instance = method.create(&options, 1, Arc::new(Deaf)).unwrap();
    let part = Part::whole("w", 2, 2, &[2.0, -2.0, 3.0, 0.5]);
    let arrays: Vec<Array<'_>> =
        arrays.iter().map(|(kind, data)| Array { kind: *kind, shape: &[2, 2], data, model_mean: 2.0 }).collect();
    let mut scores = [f32::NAN; 4];
    instance.score(&part, &Evidence { arrays: &arrays }, &mut scores).map(|()| scores)
}

/// s_k = h_kk u_k² / 2: a large weight in a flat direction goes before a small one in a steep direction, and a row
/// that the data never reached (h = 0) goes first.
#[test]
fn the_saliency_is_half_curvature_times_square() {
    let h = (EvidenceKind::HessianDiag, [1.0, 3.0, 0.0, 16.0]);
    assert_eq!(score("hessian_diag", &[h]), Ok([2.0, 6.0, 0.0, 2.0]));
}

/// s_k = (h_kk + λ) u_k² / 2 with λ = ½ · 2: what the data never reached is not free any more.
#[test]
fn damping_is_a_share_of_the_mean_over_the_model() {
    let h = (EvidenceKind::HessianDiag, [1.0, 3.0, 0.0, 16.0]);
    assert_eq!(damped("hessian_diag", 0.5, &[h]), Ok([4.0, 8.0, 4.5, 2.125]));
}

#[test]
fn the_option_names_the_evidence() {
    let both = [(EvidenceKind::HessianDiag, [1.0; 4]), (EvidenceKind::FisherDiag, [2.0; 4])];
    assert_eq!(score("hessian_diag", &both), Ok([2.0, 2.0, 4.5, 0.125]));
    assert_eq!(score("fisher_diag", &both), Ok([4.0, 4.0, 9.0, 0.25]));
    let missing = score("fisher_diag", &both[..1]).unwrap_err().to_string();
    assert!(missing.contains("measure = [\"fisher_diag\"]"), "{missing}");
    let card = Caller::linked(&ENTRY).unwrap().card().clone();
    let mut options = card.defaults();
    assert_eq!(card.lacks(&options, |k| k == EvidenceKind::FisherDiag), Some("\"hessian_diag\"".into()));
    options.0[0].1 = OptionValue::Text("fisher_diag".into());
    assert_eq!(card.lacks(&options, |k| k == EvidenceKind::FisherDiag), None);
}

#[test]
fn a_negative_curvature_is_refused_with_its_place() {
    let text = score("hessian_diag", &[(EvidenceKind::HessianDiag, [1.0, 1.0, -0.5, 1.0])]).unwrap_err().to_string();
    assert!(text.contains("-5e-1 at index 2"), "{text}");
}
