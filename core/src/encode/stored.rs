//! Encodings and bits between the order in which a method sees a part (outputs × inputs, row-major) and the order in
//! which the tensor is stored. They differ where the file has the matrix column by column (the weight of an ONNX
//! MatMul): stored, it is the transpose.

use compress_sdk::{Bitmap, Encoding, Layout, Term};

/// An encoding of the matrix as one of the stored tensor. Hashed terms are by the stored position already.
pub fn stored_order(encoding: Encoding, column_major: bool) -> Encoding {
    if !column_major {
        return encoding;
    }
    let (rows, cols) = (encoding.rows, encoding.cols);
    let term = |term: Term| match term.layout {
        Layout::Dense => Term { layout: Layout::Dense, values: transpose(&term.values, rows, cols) },
        Layout::Sparse(bits) => sparse(&spread(&bits, &term.values, rows, cols, true)),
        // (U·V)ᵀ = Vᵀ·Uᵀ
        Layout::Factored { rank } => {
            let (u, v) = term.values.split_at(rows * rank);
            let mut values = transpose(v, rank, cols);
            values.extend(transpose(u, rows, rank));
            Term { layout: Layout::Factored { rank }, values }
        }
        Layout::Hashed { seed } => Term { layout: Layout::Hashed { seed }, values: term.values },
    };
    Encoding { rows: cols, cols: rows, terms: encoding.terms.into_iter().map(term).collect() }
}

/// The values of a matrix in stored order, where they stand for themselves: of a single dense or sparse term.
pub fn as_dense(encoding: &Encoding, column_major: bool) -> Option<Vec<f32>> {
    let (rows, cols) = (encoding.rows, encoding.cols);
    match &encoding.terms[..] {
        [Term { layout: Layout::Dense, values }] if column_major => Some(transpose(values, rows, cols)),
        [Term { layout: Layout::Dense, values }] => Some(values.clone()),
        [Term { layout: Layout::Sparse(bits), values }] => {
            Some(spread(bits, values, rows, cols, column_major).iter().map(|v| v.unwrap_or(0.0)).collect())
        }
        _ => None,
    }
}

/// Values that are not zero as a sparse term, or as a dense one where all are.
pub fn nonzero_term(values: Vec<f32>) -> Term {
    if values.iter().all(|v| *v != 0.0) {
        return Term { layout: Layout::Dense, values };
    }
    sparse(&values.into_iter().map(|v| Some(v).filter(|v| *v != 0.0)).collect::<Vec<_>>())
}

/// Bits as stored, as bits of the matrix.
pub fn matrix_bits(stored: Vec<u8>, rows: usize, cols: usize, column_major: bool) -> Option<Bitmap> {
    let bits = Bitmap::from_bytes(stored, rows * cols)?;
    if !column_major {
        return Some(bits);
    }
    let mut turned = Bitmap::new(rows * cols, false);
    for r in 0..rows {
        for c in 0..cols {
            if bits.get(c * rows + r) {
                turned.set(r * cols + c, true);
            }
        }
    }
    Some(turned)
}

fn sparse(values: &[Option<f32>]) -> Term {
    let mut bits = Bitmap::new(values.len(), false);
    values.iter().enumerate().filter(|(_, v)| v.is_some()).for_each(|(i, _)| bits.set(i, true));
    Term { layout: Layout::Sparse(bits), values: values.iter().flatten().copied().collect() }
}

/// The values of a sparse term at their places; transposed where the matrix is stored column by column.
fn spread(bits: &Bitmap, values: &[f32], rows: usize, cols: usize, turn: bool) -> Vec<Option<f32>> {
    let mut all = vec![None; rows * cols];
    let places = bits.iter().enumerate().filter(|(_, kept)| *kept).map(|(i, _)| i);
    for (i, v) in places.zip(values) {
        all[if turn { i % cols * rows + i / cols } else { i }] = Some(*v);
    }
    all
}

/// rows × cols, row-major, as cols × rows. In tiles, so that neither side is walked across the cache.
fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for top in (0..rows).step_by(TILE) {
        for left in (0..cols).step_by(TILE) {
            for r in top..(top + TILE).min(rows) {
                for c in left..(left + TILE).min(cols) {
                    out[c * rows + r] = values[r * cols + c];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes the slow way.
    fn decode(e: &Encoding) -> Vec<f32> {
        let mut sum = vec![0.0; e.rows * e.cols];
        for term in &e.terms {
            match &term.layout {
                Layout::Dense => sum.iter_mut().zip(&term.values).for_each(|(s, v)| *s += v),
                Layout::Sparse(bits) => {
                    let kept = bits.iter().enumerate().filter(|(_, k)| *k);
                    kept.zip(&term.values).for_each(|((i, _), v)| sum[i] += v);
                }
                Layout::Factored { rank } => {
                    for (i, s) in sum.iter_mut().enumerate() {
                        let (r, c) = (i / e.cols, i % e.cols);
                        let v = |k: usize| term.values[e.rows * rank + k * e.cols + c];
                        *s += (0..*rank).map(|k| term.values[r * rank + k] * v(k)).sum::<f32>();
                    }
                }
                Layout::Hashed { .. } => {}
            }
        }
        sum
    }

    #[test]
    fn every_layout_is_transposed() {
        let mut bits = Bitmap::new(6, false);
        [0, 2, 5].into_iter().for_each(|i| bits.set(i, true));
        for layout in [Layout::Dense, Layout::Sparse(bits), Layout::Factored { rank: 2 }] {
            let count = match &layout {
                Layout::Dense => 6,
                Layout::Sparse(_) => 3,
                _ => 10,
            };
            let values: Vec<f32> = (1..=count).map(|i| i as f32).collect();
            let encoding = Encoding { rows: 2, cols: 3, terms: vec![Term { layout, values }] };
            let seen = decode(&encoding);
            let expected: Vec<f32> = (0..6).map(|i| seen[i % 2 * 3 + i / 2]).collect();
            if let Some(dense) = as_dense(&encoding, true) {
                assert_eq!(dense, expected);
                assert_eq!(as_dense(&encoding, false).unwrap(), seen);
            }
            assert_eq!(stored_order(encoding.clone(), false), encoding);
            let stored = stored_order(encoding, true);
            assert_eq!((stored.rows, stored.cols, decode(&stored)), (3, 2, expected));
        }
    }

    #[test]
    fn large_matrices_are_transposed_in_tiles() {
        let values: Vec<f32> = (0..33 * 70).map(|i| i as f32).collect();
        let turned = transpose(&values, 33, 70);
        assert!((0..70 * 33).all(|i| turned[i] == values[i % 33 * 70 + i / 33]));
        assert_eq!(transpose(&turned, 70, 33), values);
    }

    #[test]
    fn bits_are_turned() {
        // 2 × 3 stored column by column: (0,0) (1,0) (0,1) (1,1) (0,2) (1,2)
        let turned = matrix_bits(vec![0b01_0110], 2, 3, true).unwrap();
        assert_eq!(turned.iter().collect::<Vec<_>>(), [false, true, true, true, false, false]);
        assert_eq!(matrix_bits(vec![0b01_0110], 2, 3, false).unwrap().as_bytes(), [0b01_0110]);
        assert!(matrix_bits(vec![0, 0], 2, 3, false).is_none());
    }

    #[test]
    fn what_is_left_becomes_a_term() {
        let term = nonzero_term(vec![0.0, 2.0, -0.0, 3.0]);
        assert_eq!(term.values, [2.0, 3.0]);
        assert!(matches!(term.layout, Layout::Sparse(bits) if bits.as_bytes() == [0b1010]));
        assert_eq!(nonzero_term(vec![1.0]).layout, Layout::Dense);
    }
}
