//! Every layout with every coding: θ stands for what the decoder reads, gradients are those of finite differences, zeros
//! stay, and what is written back is read as what was trained.

use compress_sdk::{Bitmap, Encoding, Layout, Term};

use super::*;
use crate::encode::terms::{collect, pack};
use crate::encode::{Decoder, ReadAt};

const ROWS: usize = 9;
const COLS: usize = 40;

/// Numbers between −1 and 1 that no coding has.
fn number(i: usize) -> f32 {
    let z = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn numbers(n: usize, from: usize) -> Vec<f32> {
    (from..from + n).map(number).collect()
}

/// One weight in `one_in` is kept; with 1 in 300 there are gaps over 255.
fn sparse(one_in: usize) -> Term {
    let mut bits = Bitmap::new(ROWS * COLS, false);
    let kept: Vec<usize> = (0..ROWS * COLS).filter(|i| i % one_in == one_in - 1).collect();
    kept.iter().for_each(|i| bits.set(*i, true));
    Term { layout: Layout::Sparse(bits), values: numbers(kept.len(), 7) }
}

fn layouts() -> Vec<(&'static str, Vec<Term>)> {
    let dense = || Term { layout: Layout::Dense, values: numbers(ROWS * COLS, 0) };
    let factored = || Term { layout: Layout::Factored { rank: 3 }, values: numbers(3 * (ROWS + COLS), 50) };
    let hashed = || Term { layout: Layout::Hashed { seed: 5 }, values: numbers(17, 90) };
    vec![
        ("dense", vec![dense()]),
        ("mask", vec![sparse(3)]),
        ("rice", vec![sparse(9)]),
        ("deltas", vec![sparse(60)]),
        ("deltas with fillers", vec![sparse(300)]),
        ("factored", vec![factored()]),
        ("hashed", vec![hashed()]),
        ("factored and sparse", vec![factored(), sparse(50)]),
    ]
}

const CODINGS: [ValueCoding; 6] = [
    ValueCoding::Plain,
    ValueCoding::F16,
    ValueCoding::Bf16,
    ValueCoding::Int8,
    ValueCoding::Codebook(2),
    ValueCoding::Codebook(5),
];

struct Case {
    name: String,
    encoding: Encoding,
    outline: Outline,
    coding: ValueCoding,
    data: Vec<Vec<Vec<u8>>>,
}

fn cases(dtype: &Dtype) -> Vec<Case> {
    let mut all = Vec::new();
    for (name, terms) in layouts() {
        for coding in CODINGS {
            let encoding = Encoding { rows: ROWS, cols: COLS, terms: terms.clone() };
            // A coding that a layout cannot have (a codebook of two entries for fillers, say) is no case.
            let Ok(packed) = pack(&encoding, dtype, &[ROWS as u64, COLS as u64], coding) else { continue };
            let bytes = |t: &crate::format::PackedTerm<'_>| {
                t.pieces.iter().map(|p| collect(p.data.as_ref()).unwrap()).collect::<Vec<_>>()
            };
            let data = packed.terms.iter().map(bytes).collect();
            all.push(Case { name: format!("{name} × {coding}"), encoding, outline: packed.outline(), coding, data });
        }
    }
    assert!(all.len() >= 44, "{}", all.len());
    all
}

impl Case {
    fn slices(&self) -> Vec<Vec<&[u8]>> {
        self.data.iter().map(|t| t.iter().map(|p| &p[..]).collect()).collect()
    }

    fn decoded(&self, data: &[Vec<Vec<u8>>]) -> Vec<f32> {
        let read = |p: &Vec<u8>| Box::new(p.clone()) as Box<dyn ReadAt>;
        let data = data.iter().map(|t| t.iter().map(read).collect()).collect();
        let decoder = Decoder::new(self.outline.clone(), data, u64::MAX).unwrap();
        let mut bytes = vec![0; ROWS * COLS * self.outline.dtype.float_bytes().unwrap()];
        decoder.read_at(0, &mut bytes).unwrap();
        let mut out = vec![0.0; ROWS * COLS];
        to_f32(&self.outline.dtype, &bytes, &mut out);
        out
    }
}

fn near(a: &[f32], b: &[f32], tolerance: f32) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance * (1.0 + b.abs()))
}

#[test]
fn parameters_stand_for_what_the_decoder_reads_and_are_written_back() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for case in cases(&dtype) {
            let parameters = Parameters::of_packed(&case.outline, &case.slices()).unwrap();
            let mut weights = vec![f32::NAN; ROWS * COLS];
            parameters.expand(parameters.start(), &mut weights);
            // bf16 weights may round to either side where a sum lies between two of them
            let tolerance = if dtype == Dtype::F32 { 1e-6 } else { 1e-2 };
            assert!(near(&weights, &case.decoded(&case.data), tolerance), "{}", case.name);
            // every parameter moved, zeros of a codebook excepted
            let moved: Vec<f32> = parameters.start().iter().map(|v| if *v == 0.0 { 0.0 } else { v * 0.75 }).collect();
            parameters.expand(&moved, &mut weights);
            let encoding = parameters.encoding(&case.encoding, &moved);
            let mut terms = Terms::new(encoding, &dtype, &case.outline.shape, None).unwrap();
            if case.coding != ValueCoding::Plain {
                terms = terms.recoded(case.coding).unwrap();
            }
            let written = terms.pieces().slices();
            assert_eq!(terms.pieces().outline(), &case.outline, "{}", case.name);
            let written: Vec<Vec<Vec<u8>>> = written.iter().map(|t| t.iter().map(|p| p.to_vec()).collect()).collect();
            assert!(near(&weights, &case.decoded(&written), tolerance), "{}", case.name);
        }
    }
}

/// The loss is Σ c·w. It is linear in the values and bilinear in the factors, so differences over a wide step are exact
/// but for rounding; where the values themselves are rounded the gradient passes straight through.
#[test]
fn gradients_are_those_of_finite_differences() {
    for case in cases(&Dtype::F32) {
        let parameters = Parameters::of_packed(&case.outline, &case.slices()).unwrap();
        let c = numbers(ROWS * COLS, 1000);
        let theta = parameters.start().to_vec();
        let mut got = vec![f32::NAN; theta.len()];
        parameters.gather(&theta, &c, &mut got);
        let rounded = case.name.ends_with("f16");
        let step = if rounded { 0.25 } else { 0.5 };
        let loss = |theta: &[f32]| {
            let mut w = vec![0.0; ROWS * COLS];
            parameters.expand(theta, &mut w);
            w.iter().zip(&c).map(|(w, c)| f64::from(*w) * f64::from(*c)).sum::<f64>()
        };
        let scale = got.iter().fold(0f32, |m, g| m.max(g.abs()));
        for k in 0..theta.len() {
            let at = |d: f32| {
                let mut moved = theta.clone();
                moved[k] += d;
                loss(&moved)
            };
            let numeric = ((at(step) - at(-step)) / f64::from(2.0 * step)) as f32;
            let held = theta[k].to_bits() == 0;
            let tolerance = if rounded { 2e-2 } else { 2e-5 };
            let right = if held { got[k] == 0.0 } else { (numeric - got[k]).abs() <= tolerance * scale };
            assert!(right, "{}: parameter {k}: {} and {numeric}", case.name, got[k]);
        }
    }
}

/// Of values that are coded where they stand: zeros stay zero, the coding keeps what was trained.
#[test]
fn coded_values_are_trained_where_they_stand() {
    let mut values = numbers(ROWS * COLS, 3);
    values.iter_mut().step_by(4).for_each(|v| *v = 0.0);
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let dense = crate::encode::terms::Values { dtype: Dtype::F32, shape: vec![ROWS as u64, COLS as u64], bytes };
    for coding in CODINGS {
        let fitted = crate::encode::fit::fit(&dense, coding, true, crate::progress::Watch::silent()).unwrap();
        let mut coded = dense.bytes.clone();
        fitted.round_trip(&Dtype::F32, true, 0, &mut coded);
        let mut before = vec![0.0; values.len()];
        to_f32(&Dtype::F32, &coded, &mut before);
        let parameters = Parameters::of_values(&before, &fitted, &Dtype::F32);
        let mut weights = vec![0.0; values.len()];
        parameters.expand(parameters.start(), &mut weights);
        assert_eq!(weights, before, "{coding}");
        let mut grad = vec![0.0; parameters.start().len()];
        parameters.gather(parameters.start(), &numbers(values.len(), 5), &mut grad);
        let moved: Vec<f32> = parameters.start().iter().zip(&grad).map(|(t, g)| t - 0.01 * g).collect();
        parameters.expand(&moved, &mut weights);
        assert!(weights.iter().step_by(4).all(|w| w.to_bits() == 0), "{coding}");
        assert!(weights != before, "{coding}");
        // Coded again with what was trained, nothing changes.
        let again = parameters.fitted(&fitted, &moved);
        let mut bytes: Vec<u8> = weights.iter().flat_map(|v| v.to_le_bytes()).collect();
        again.round_trip(&Dtype::F32, true, 0, &mut bytes);
        let mut after = vec![0.0; values.len()];
        to_f32(&Dtype::F32, &bytes, &mut after);
        assert_eq!(after, weights, "{coding}");
    }
}
