//! What multiplying takes: a matrix beside its factors.

use std::hint::black_box;
use std::time::Instant;

use compress_core::report::ProductSeconds;

use crate::kernels::gemm::{Mat, matmul};

/// Rows of the input that is multiplied.
const POSITIONS: usize = 64;
/// Times that each product is measured, in turns.
const TURNS: usize = 9;

/// Measures x·W beside (x·U)·V on the calling thread, where W is rows × cols: medians of nine turns, after one that does
/// not count.
pub fn product_seconds(rows: usize, cols: usize, rank: usize) -> ProductSeconds {
    let numbers = |n: usize| (0..n).map(|i| (i % 13) as f32 - 6.0).collect::<Vec<_>>();
    let (x, w) = (numbers(POSITIONS * rows), numbers(rows * cols));
    let (u, v) = (numbers(rows * rank), numbers(rank * cols));
    let (mut middle, mut y) = (vec![0.0; POSITIONS * rank], vec![0.0; POSITIONS * cols]);
    let (mut dense, mut factors) = (Vec::with_capacity(TURNS), Vec::with_capacity(TURNS));
    for turn in 0..=TURNS {
        let began = Instant::now();
        matmul(&mut y, Mat::new(&x, POSITIONS, rows), Mat::new(&w, rows, cols));
        let first = began.elapsed();
        black_box(&y);
        let began = Instant::now();
        matmul(&mut middle, Mat::new(&x, POSITIONS, rows), Mat::new(&u, rows, rank));
        matmul(&mut y, Mat::new(&middle, POSITIONS, rank), Mat::new(&v, rank, cols));
        let second = began.elapsed();
        black_box(&y);
        if turn > 0 {
            dense.push(first.as_secs_f64());
            factors.push(second.as_secs_f64());
        }
    }
    let median = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[TURNS / 2]
    };
    ProductSeconds { positions: POSITIONS as u64, dense: median(dense), factors: median(factors) }
}
