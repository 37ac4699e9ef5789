//! The method against its equations, against a numpy transcription of them, and against the conformance suite.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use compress_obs::ENTRY;
use compress_sdk::caller::{Caller, Failure, Listener};
use compress_sdk::{Array, Bitmap, Encoded, Evidence, EvidenceKind, Keep, OptionValue, Options, Part};
use serde_json::Value;

#[test]
fn conforms() {
    compress_testkit::conformance(&ENTRY);
}

/// Keeps what the method says.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Listener for Said {
    fn log(&self, line: &str) {
        self.0.lock().unwrap().push(line.into());
    }
}

struct Job<'a> {
    form: &'a str,
    damping: f64,
    block: i64,
    rows: usize,
    cols: usize,
    weights: &'a [f32],
    evidence: Array<'a>,
    eligible: Bitmap,
    pruned: u64,
    n: usize,
    m: usize,
}

impl<'a> Job<'a> {
    fn new(form: &'a str, rows: usize, cols: usize, weights: &'a [f32], evidence: Array<'a>, pruned: u64) -> Job<'a> {
        let eligible = Bitmap::new(rows * cols, true);
        Job { form, damping: 0.0, block: 128, rows, cols, weights, evidence, eligible, pruned, n: 0, m: 0 }
    }

    fn run(&self) -> Result<(Encoded, Vec<String>), Failure> {
        let method = Caller::linked(&ENTRY).unwrap();
        let Options(mut options) = method.card().defaults();
        for (name, value) in &mut options {
            match name.as_str() {
                "form" => *value = OptionValue::Text(self.form.into()),
                "damping" => *value = OptionValue::Float(self.damping),
                "block" => *value = OptionValue::Integer(self.block),
                _ => {}
            }
        }
        let said = Arc::new(Said::default());
        let instance = method.create(&Options(options), 1, said.clone()).unwrap();
        let keep = Keep::Quota { eligible: &self.eligible, pruned: self.pruned, n: self.n, m: self.m };
        let part = Part::whole("fc1.weight", self.rows, self.cols, self.weights);
        let arrays = [self.evidence];
        let encoded = instance.encode(&part, keep, &Evidence { arrays: &arrays })?;
        let lines = said.0.lock().unwrap().clone();
        Ok((encoded, lines))
    }

    fn values(&self) -> Vec<f32> {
        self.run().unwrap().0.encoding.terms.swap_remove(0).values
    }
}

fn gram<'a>(shape: &'a [u64], data: &'a [f32]) -> Array<'a> {
    Array { kind: EvidenceKind::Gram, shape, data, model_mean: 0.0 }
}

const TWO: &[u64] = &[2, 2];

/// H = 2G = [[2, 1], [1, 2]], so H⁻¹ = ⅓ [[2, −1], [−1, 2]]. w = (1, 3): L = (¾, 6¾), so the first goes, and
/// δw = −1 / (2/3) · (2/3, −1/3) = (−1, ½).
#[test]
fn eq_5_takes_the_cheapest_weight_and_the_other_makes_up_for_it() {
    for form in ["exact", "blocked"] {
        let job = Job::new(form, 1, 2, &[1.0, 3.0], gram(TWO, &[1.0, 0.5, 0.5, 1.0]), 1);
        let (encoded, said) = job.run().unwrap();
        let values = &encoded.encoding.terms[0].values;
        assert_eq!(values[0], 0.0, "{form}");
        assert!((values[1] - 3.5).abs() < 1e-6, "{form}: {values:?}");
        // tr(ΔW·G·ΔWᵀ): (1, −½) G (1, −½)ᵀ = ¾, where magnitude's (1, 0) costs 1.
        assert!(said[0].contains("is 7.500e-1") && said[0].contains("magnitude's is 1.000e0"), "{said:?}");
    }
}

/// Inputs that nearly cancel: the larger weight is the cheaper one, as magnitude cannot see.
#[test]
fn a_large_weight_goes_where_others_can_say_the_same() {
    let g = [1.0, 0.99, 0.0, 0.99, 1.0, 0.0, 0.0, 0.0, 1.0];
    for form in ["exact", "blocked"] {
        let values = Job::new(form, 1, 3, &[2.0, 1.0, 0.5], gram(&[3, 3], &g), 1).values();
        assert_eq!(
            values.iter().position(|v| *v == 0.0),
            Some(if form == "exact" { 1 } else { 0 }),
            "{form}: {values:?}"
        );
        let sum = values[0] + values[1];
        assert!((sum - 3.0).abs() < 0.03, "{form}: {values:?}");
        assert_eq!(values[2], 0.5, "{form}: what is not correlated is not touched");
    }
}

/// n_row · w²: nothing makes up for anything.
#[test]
fn an_embedding_loses_what_is_small_or_seldom_read() {
    let counts = Array { kind: EvidenceKind::RowCount, shape: &[3], data: &[4.0, 1.0, 0.0], model_mean: 0.0 };
    let weights = [1.0, 3.0, 1.5, 1.9, 9.0, 8.0];
    assert_eq!(Job::new("auto", 3, 2, &weights, counts, 3).values(), [1.0, 3.0, 0.0, 1.9, 0.0, 0.0]);
}

#[test]
fn magnitude_is_kept_where_it_is_no_worse_and_that_is_said() {
    for form in ["exact", "blocked"] {
        let job = Job::new(form, 1, 2, &[3.0, -1.0], gram(TWO, &[0.0; 4]), 1);
        let (encoded, said) = job.run().unwrap();
        assert_eq!(encoded.encoding.terms[0].values, [3.0, 0.0], "{form}");
        assert!(said[0].contains("magnitude's choice is kept"), "{form}: {said:?}");
    }
}

#[test]
fn what_cannot_be_done_is_said_with_the_remedy() {
    let w = [1.0, 3.0];
    let singular = [1.0, 1.0, 1.0, 1.0];
    let job = |g: &'static [f32]| Job::new("exact", 1, 2, &w, gram(TWO, g), 1);
    for (case, job, text) in [
        ("exact", Job::new("exact", 1, 2, &w, gram(TWO, &singular), 1), "at 1; raise \"damping\""),
        ("blocked", Job::new("blocked", 1, 2, &w, gram(TWO, &singular), 1), "at 0; raise \"damping\""),
        ("not finite", job(&[1.0, f32::NAN, 0.0, 1.0]), "\"gram\" is NaN at (0, 1)"),
        ("negative", job(&[1.0, 0.0, 0.0, -2.0]), "\"gram\" is -2e0 on the diagonal at 1"),
        ("too many", Job { pruned: 3, ..job(&[1.0, 0.0, 0.0, 1.0]) }, "3 of 2 weights"),
        ("not 1:2", Job { pruned: 2, n: 1, m: 2, ..job(&[1.0, 0.0, 0.0, 1.0]) }, "1:2 takes 1"),
        (
            "no evidence",
            Job {
                evidence: Array { kind: EvidenceKind::FisherDiag, shape: &[1, 2], data: &w, model_mean: 0.0 },
                ..job(&[0.0; 4])
            },
            "measure = [\"gram\", \"row_count\"]",
        ),
    ] {
        let error = job.run().unwrap_err().to_string();
        assert!(error.contains(text), "{case}: {error}");
    }
}

/// A singular H needs damping and then works.
#[test]
fn damping_makes_twins_of_twins() {
    for form in ["exact", "blocked"] {
        let job = Job::new(form, 1, 2, &[1.0, 3.0], gram(TWO, &[1.0; 4]), 1);
        let values = Job { damping: 0.01, ..job }.values();
        assert!(values[0] == 0.0 && (values[1] - 4.0).abs() < 0.02, "{form}: {values:?}");
    }
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn bits(value: &Value) -> Bitmap {
    let text = value.as_str().unwrap();
    let mut map = Bitmap::new(text.len(), false);
    text.bytes().enumerate().for_each(|(i, b)| map.set(i, b == b'1'));
    map
}

/// reference.json is made by reference.py: the papers' algorithms in numpy, step by step.
#[test]
fn masks_and_weights_are_those_of_the_numpy_transcription() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("reference.json")).unwrap();
    assert_eq!(cases.len(), 9);
    for case in &cases {
        let count = |key: &str| case[key].as_u64().unwrap();
        let (rows, cols, name) = (count("rows") as usize, count("cols") as usize, case["name"].as_str().unwrap());
        let (weights, grams, updated) = (floats(&case["weights"]), floats(&case["gram"]), floats(&case["updated"]));
        let shape = [count("groups"), cols as u64, cols as u64];
        let shape = if shape[0] == 1 { &shape[1..] } else { &shape[..] };
        let job = Job {
            damping: case["damping"].as_f64().unwrap(),
            block: count("block") as i64,
            eligible: bits(&case["eligible"]),
            n: count("n") as usize,
            m: count("m") as usize,
            ..Job::new(case["form"].as_str().unwrap(), rows, cols, &weights, gram(shape, &grams), count("pruned"))
        };
        let (encoded, said) = job.run().unwrap();
        assert!(!said[0].contains("magnitude's choice is kept"), "{name}: {said:?}");
        assert_eq!(encoded.kept, bits(&case["kept"]), "{name}");
        let largest = updated.iter().fold(0f32, |m, w| m.max(w.abs()));
        for (i, (ours, theirs)) in encoded.encoding.terms[0].values.iter().zip(&updated).enumerate() {
            assert!((ours - theirs).abs() < 2e-4 * largest, "{name}: ({}, {}) {ours} {theirs}", i / cols, i % cols);
        }
    }
}

/// The weights may be stored by columns.
#[test]
fn a_part_stored_by_columns_is_the_same_part() {
    let (weights, turned) = ([1.0, 3.0, 2.0, -1.0], [1.0, 2.0, 3.0, -1.0]);
    let g = [1.0, 0.5, 0.5, 1.0];
    let arrays = [gram(TWO, &g)];
    let method = Caller::linked(&ENTRY).unwrap();
    let instance = method.create(&method.card().defaults(), 1, Arc::new(Said::default())).unwrap();
    let eligible = Bitmap::new(4, true);
    let go = |part: &Part<'_>| {
        let keep = Keep::Quota { eligible: &eligible, pruned: 2, n: 0, m: 0 };
        instance.encode(part, keep, &Evidence { arrays: &arrays }).unwrap()
    };
    let by_columns = Part { row_stride: 1, col_stride: 2, ..Part::whole("w", 2, 2, &turned) };
    assert_eq!(go(&by_columns), go(&Part::whole("w", 2, 2, &weights)));
}
