//! One layer from raw files, for `bench/obs.py`: what the method does to it, and in which time.
//!
//! ```sh
//! cargo run --release -p compress-obs --example layer -- ROWS COLS WEIGHTS GRAM PRUNED FORM RUNS OUT
//! ```
//!
//! WEIGHTS and GRAM are raw little-endian f32. It writes the new weights to OUT in the same way and prints the seconds of
//! each run, what the method said going to stderr.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use compress_obs::ENTRY;
use compress_sdk::caller::{Caller, Listener};
use compress_sdk::{Array, Bitmap, Evidence, EvidenceKind, Keep, OptionValue, Part};

struct Stderr;

impl Listener for Stderr {
    fn log(&self, line: &str) {
        eprintln!("{line}");
    }
}

fn read(path: &str) -> Vec<f32> {
    std::fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args[i].parse::<usize>().unwrap();
    let (rows, cols, weights, gram) = (number(0), number(1), read(&args[2]), read(&args[3]));
    let method = Caller::linked(&ENTRY).unwrap();
    let mut options = method.card().defaults();
    options.0.iter_mut().filter(|(n, _)| n == "form").for_each(|(_, v)| *v = OptionValue::Text(args[5].clone()));
    let instance = method.create(&options, 1, Arc::new(Stderr)).unwrap();
    let shape = [cols as u64, cols as u64];
    let arrays = [Array { kind: EvidenceKind::Gram, shape: &shape, data: &gram, model_mean: 0.0 }];
    let eligible = Bitmap::new(rows * cols, true);
    let part = Part::whole("layer", rows, cols, &weights);
    for _ in 0..number(6) {
        let keep = Keep::Quota { eligible: &eligible, pruned: number(4) as u64, n: 0, m: 0 };
        let begin = Instant::now();
        let encoded = instance.encode(&part, keep, &Evidence { arrays: &arrays }).unwrap();
        println!("{}", begin.elapsed().as_secs_f64());
        let bytes: Vec<u8> = encoded.encoding.terms[0].values.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(&args[7], bytes).unwrap();
    }
}
