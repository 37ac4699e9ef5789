//! The method against its equation and against the conformance suite.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use compress_activation_aware::ENTRY;
use compress_sdk::caller::{Caller, Deaf, Failure};
use compress_sdk::{Array, Evidence, EvidenceKind, OptionValue, Part};

#[test]
fn conforms() {
    compress_testkit::conformance(&ENTRY);
}

const W: [f32; 6] = [1.0, -2.0, 3.0, 4.0, -5.0, 0.0];

fn score(compare: &str, arrays: &[Array<'_>]) -> Result<[f32; 6], Failure> {
    let method = Caller::linked(&ENTRY).unwrap();
    let mut options = method.card().defaults();
    options.0[0].1 = OptionValue::Text(compare.into());
    let instance = method.create(&options, 1, Arc::new(Deaf)).unwrap();
    let mut scores = [f32::NAN; 6];
    instance.score(&Part::whole("w", 2, 3, &W), &Evidence { arrays }, &mut scores).map(|()| scores)
}

/// s_ij = |w_ij| · √G_jj: off the diagonal nothing counts.
#[test]
fn the_score_is_size_times_norm_of_the_input() {
    let gram = Array {
        kind: EvidenceKind::Gram,
        shape: &[3, 3],
        data: &[4.0, 9., 9., 9., 1.0, 9., 9., 9., 0.25],
        model_mean: 0.0,
    };
    assert_eq!(score("scheme", &[gram]), Ok([2.0, 2.0, 1.5, 8.0, 5.0, 0.0]));
}

/// The rows of a grouped convolution belong to their group's inputs.
#[test]
fn each_group_has_inputs_of_its_own() {
    let data = [1., 0., 0., 0., 1., 0., 0., 0., 1., 4., 0., 0., 0., 4., 0., 0., 0., 4.];
    let gram = Array { kind: EvidenceKind::Gram, shape: &[2, 3, 3], data: &data, model_mean: 0.0 };
    assert_eq!(score("scheme", &[gram]), Ok([1.0, 2.0, 3.0, 8.0, 10.0, 0.0]));
}

/// One-hot inputs: ‖x_i‖ = √(n_i / Σn).
#[test]
fn a_row_of_an_embedding_counts_by_how_often_it_is_read() {
    let count = Array { kind: EvidenceKind::RowCount, shape: &[2], data: &[1.0, 3.0], model_mean: 0.0 };
    let (once, often) = (0.5f32, 0.75f64.sqrt() as f32);
    assert_eq!(score("scheme", &[count]), Ok([once, 2.0 * once, 3.0 * once, 4.0 * often, 5.0 * often, 0.0]));
}

/// The paper's comparison group: the same share of every row has the lowest scores.
#[test]
fn within_rows_the_score_is_the_rank() {
    let gram = Array {
        kind: EvidenceKind::Gram,
        shape: &[3, 3],
        data: &[4.0, 9., 9., 9., 1.0, 9., 9., 9., 0.25],
        model_mean: 0.0,
    };
    let third = |rank: f32| (rank + 0.5) / 3.0;
    assert_eq!(score("row", &[gram]), Ok([1.0, 2.0, 0.0, 2.0, 1.0, 0.0].map(third)));
}

#[test]
fn without_evidence_the_remedy_is_named() {
    let text = score("scheme", &[]).unwrap_err().to_string();
    assert!(text.contains("measure = [\"gram\", \"row_count\"]"), "{text}");
    let gram = Array {
        kind: EvidenceKind::Gram,
        shape: &[3, 3],
        data: &[1., 0., 0., 0., -1., 0., 0., 0., 1.],
        model_mean: 0.0,
    };
    let text = score("scheme", &[gram]).unwrap_err().to_string();
    assert!(text.contains("-1 on the diagonal at 1"), "{text}");
}
