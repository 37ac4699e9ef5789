//! What a host promises a method and a method promises a host, as checks. Every host runs them on every call, so that
//! a mistake ends in a sentence and not in a wrong model.

use crate::{Array, Bitmap, Encoded, Evidence, EvidenceKind, Keep, Layout, Part};

/// Whether a block is laid out as [`Part`] says, and its evidence fits it. An error is the host's own mistake.
pub fn check_input(part: &Part<'_>, evidence: &Evidence<'_>) -> Result<(), String> {
    let count = part.rows.checked_mul(part.cols);
    let last = |count: usize, step: usize| count.saturating_sub(1).checked_mul(step);
    let end =
        last(part.rows, part.row_stride).zip(last(part.cols, part.col_stride)).and_then(|(a, b)| a.checked_add(b));
    match (count, end) {
        (Some(0), _) if part.data.is_empty() => {}
        (Some(n), Some(end)) if n == part.data.len() && end < n => {}
        _ => {
            return Err(format!(
                "a block of {} × {} weights with strides {} and {} cannot lie in {} elements",
                part.rows,
                part.cols,
                part.row_stride,
                part.col_stride,
                part.data.len()
            ));
        }
    }
    evidence.arrays.iter().try_for_each(|array| check_evidence(part, array))
}

fn check_evidence(part: &Part<'_>, array: &Array<'_>) -> Result<(), String> {
    let count = array.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    let cols = part.part_cols as u64;
    let fits = match array.kind {
        EvidenceKind::FisherDiag | EvidenceKind::HessianDiag => array.shape == [part.rows as u64, part.cols as u64],
        EvidenceKind::RowCount => array.shape == [part.rows as u64],
        EvidenceKind::Gram => match array.shape {
            [a, b] => *a == cols && *b == cols,
            [groups, a, b] => *groups > 0 && *a == cols && *b == cols,
            _ => false,
        },
    };
    if fits && count == Some(array.data.len() as u64) {
        return Ok(());
    }
    Err(format!(
        "evidence {} of shape {:?} with {} numbers does not fit a block of {} × {} of a part of {} × {}",
        array.kind.name(),
        array.shape,
        array.data.len(),
        part.rows,
        part.cols,
        part.part_rows,
        part.part_cols
    ))
}

/// Whether all scores of a block are finite.
pub fn check_scores(part: &Part<'_>, scores: &[f32]) -> Result<(), String> {
    let Some(i) = first_not_finite(scores) else { return Ok(()) };
    let whole_rows = part.cols == part.part_cols && part.first_element == part.first_row as u64 * part.cols as u64;
    if !whole_rows {
        let index = part.first_element + i as u64;
        return Err(format!("its score of weight {index} of the part, as stored, is {}", scores[i]));
    }
    let (row, col) = match part.col_stride {
        1 => (i / part.cols, i % part.cols),
        _ => (i % part.rows, i / part.rows),
    };
    Err(format!("its score of weight ({}, {col}) is {}", row + part.first_row, scores[i]))
}

/// Position of the first NaN or infinity.
pub fn first_not_finite(values: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    let odd = |chunk: &[f32]| chunk.iter().fold(false, |any, v| any | (v.to_bits() & EXPONENT == EXPONENT));
    let chunk = values.chunks(1024).position(odd)?;
    let within = values[chunk * 1024..].iter().position(|v| !v.is_finite())?;
    Some(chunk * 1024 + within)
}

/// Whether an encoding fits its part, keeps what it was told to keep and prunes what it was told to prune.
pub fn check_encoded(part: &Part<'_>, keep: Keep<'_>, encoded: &Encoded) -> Result<(), String> {
    check_terms(part, encoded)?;
    check_keep(part, keep, &encoded.kept)?;
    // Of a sum, and of a product, the zeros are not there to be seen.
    if let [term] = &encoded.encoding.terms[..] {
        let stray = match &term.layout {
            Layout::Dense => stray(&term.values, &encoded.kept),
            Layout::Sparse(bits) => outside(bits, &encoded.kept),
            Layout::Factored { .. } | Layout::Hashed { .. } => None,
        };
        if let Some(i) = stray {
            return Err(format!("weight ({}, {}) has a value though it is pruned", i / part.cols, i % part.cols));
        }
    }
    Ok(())
}

fn check_terms(part: &Part<'_>, encoded: &Encoded) -> Result<(), String> {
    let (rows, cols, weights) = (part.rows, part.cols, part.rows * part.cols);
    let e = &encoded.encoding;
    if (e.rows, e.cols) != (rows, cols) {
        return Err(format!("its encoding is {} × {}, the part is {rows} × {cols}", e.rows, e.cols));
    }
    if e.terms.is_empty() {
        return Err("its encoding has no terms".into());
    }
    for (i, term) in e.terms.iter().enumerate() {
        let needed = match &term.layout {
            Layout::Dense => Some(weights),
            Layout::Sparse(bits) if bits.len() == weights => Some(bits.count_ones() as usize),
            Layout::Sparse(bits) => {
                return Err(format!("the bitmap of term {i} has {} bits, the part has {weights} weights", bits.len()));
            }
            Layout::Factored { rank } => rows.checked_add(cols).and_then(|n| n.checked_mul(*rank)),
            Layout::Hashed { .. } => Some(term.values.len().max(1)),
        };
        if needed != Some(term.values.len()) {
            let needed = needed.map_or("more than can be".to_string(), |n| n.to_string());
            return Err(format!("term {i} has {} values where its layout needs {needed}", term.values.len()));
        }
        if let Some(k) = first_not_finite(&term.values) {
            return Err(format!("value {k} of term {i} is {}", term.values[k]));
        }
    }
    Ok(())
}

fn check_keep(part: &Part<'_>, keep: Keep<'_>, kept: &Bitmap) -> Result<(), String> {
    let weights = part.rows * part.cols;
    if kept.len() != weights {
        return Err(format!("its bitmap of kept weights has {} bits, the part has {weights} weights", kept.len()));
    }
    match keep {
        Keep::All => Ok(()),
        Keep::Mask(mask) if mask == kept => Ok(()),
        Keep::Mask(_) => Err("it keeps other weights than it was told to keep".into()),
        Keep::Quota { eligible, pruned, n, m } => {
            let achieved = weights as u64 - kept.count_ones();
            if achieved != pruned {
                return Err(format!("it pruned {achieved} weights where {pruned} were asked for"));
            }
            if let Some(i) = outside(kept, eligible) {
                return Err(format!("it keeps weight ({}, {}), which was pruned before", i / part.cols, i % part.cols));
            }
            check_groups(part, kept, n, m)
        }
    }
}

fn check_groups(part: &Part<'_>, kept: &Bitmap, n: usize, m: usize) -> Result<(), String> {
    if m == 0 {
        return Ok(());
    }
    for row in 0..part.rows {
        for group in 0..part.cols / m {
            let first = row * part.cols + group * m;
            let count = (first..first + m).filter(|i| kept.get(*i)).count();
            if count > n {
                return Err(format!("it keeps {count} of the {m} weights from ({row}, {}), not {n}", group * m));
            }
        }
    }
    Ok(())
}

/// First value that is not zero and not in `kept`.
fn stray(values: &[f32], kept: &Bitmap) -> Option<usize> {
    let bits = |run: &[f32]| run.iter().enumerate().fold(0, |bits, (i, v)| bits | u8::from(*v != 0.0) << i);
    let stray = |(run, kept): (&[f32], &u8)| bits(run) & !kept;
    let byte = values.chunks(8).zip(kept.as_bytes()).position(|pair| stray(pair) != 0)?;
    Some(
        byte * 8
            + stray((&values[byte * 8..(byte * 8 + 8).min(values.len())], &kept.as_bytes()[byte])).trailing_zeros()
                as usize,
    )
}

/// First bit of `inner` that is not in `outer`.
fn outside(inner: &Bitmap, outer: &Bitmap) -> Option<usize> {
    let byte = inner.as_bytes().iter().zip(outer.as_bytes()).position(|(a, b)| a & !b != 0)?;
    Some(byte * 8 + (inner.as_bytes()[byte] & !outer.as_bytes()[byte]).trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoding, Term};

    const WEIGHTS: [f32; 8] = [1., 2., 3., 4., 5., 6., 7., 8.];

    fn part(rows: usize, cols: usize) -> Part<'static> {
        Part::whole("w", rows, cols, &WEIGHTS[..rows * cols])
    }

    fn bits(text: &str) -> Bitmap {
        let mut map = Bitmap::new(text.len(), false);
        text.bytes().enumerate().for_each(|(i, b)| map.set(i, b == b'1'));
        map
    }

    #[test]
    fn a_block_must_lie_in_its_elements() {
        let good = part(2, 4);
        for (case, change) in [
            ("too few elements", Part { data: &WEIGHTS[..7], ..good }),
            ("rows too far apart", Part { row_stride: 5, ..good }),
            ("columns too far apart", Part { col_stride: 2, ..good }),
            ("overflow", Part { rows: usize::MAX, ..good }),
            ("overflow of strides", Part { row_stride: usize::MAX, ..good }),
        ] {
            assert!(check_input(&change, &Evidence::default()).is_err(), "{case}");
        }
        for (case, part) in [
            ("row-major", good),
            ("column-major", Part { row_stride: 1, col_stride: 2, ..good }),
            ("empty", Part { rows: 0, data: &[], ..good }),
        ] {
            assert_eq!(check_input(&part, &Evidence::default()), Ok(()), "{case}");
        }
    }

    #[test]
    fn evidence_must_fit_the_block() {
        for (kind, shape, count, fits) in [
            (EvidenceKind::FisherDiag, &[2, 2][..], 4, true),
            (EvidenceKind::FisherDiag, &[4], 4, false),
            (EvidenceKind::RowCount, &[2], 2, true),
            (EvidenceKind::RowCount, &[2], 1, false),
            (EvidenceKind::Gram, &[2, 2], 4, true),
            (EvidenceKind::Gram, &[2, 2, 2], 8, true),
            (EvidenceKind::Gram, &[1, 4], 4, false),
        ] {
            let arrays = [Array { kind, shape, data: &WEIGHTS[..count], model_mean: 0.0 }];
            let result = check_input(&part(2, 2), &Evidence { arrays: &arrays });
            assert_eq!(result.is_ok(), fits, "{kind:?} {shape:?} {count}");
        }
    }

    #[test]
    fn the_first_score_that_is_not_finite_is_named() {
        let mut scores = vec![0.0; 3000];
        assert_eq!(first_not_finite(&scores), None);
        scores[2999] = f32::NEG_INFINITY;
        scores[1500] = f32::NAN;
        assert_eq!(first_not_finite(&scores), Some(1500));
        let mut scores = [0.0; 8];
        scores[5] = f32::NAN;
        let row_major = check_scores(&part(2, 4), &scores);
        assert_eq!(row_major, Err("its score of weight (1, 1) is NaN".into()));
        let column_major = Part { row_stride: 1, col_stride: 2, ..part(2, 4) };
        assert_eq!(check_scores(&column_major, &scores), Err("its score of weight (1, 2) is NaN".into()));
        let second_block = Part { first_row: 3, first_element: 12, part_rows: 5, ..part(2, 4) };
        assert_eq!(check_scores(&second_block, &scores), Err("its score of weight (4, 1) is NaN".into()));
        let slice = Part { first_element: 100, part_rows: 50, part_cols: 40, ..part(1, 8) };
        assert_eq!(check_scores(&slice, &scores), Err("its score of weight 105 of the part, as stored, is NaN".into()));
    }

    #[test]
    fn an_encoding_must_keep_what_it_was_told() {
        let mask = bits("1010");
        let all = bits("1111");
        let quota = |pruned, n, m| Keep::Quota { eligible: &all, pruned, n, m };
        let sparse = |kept: &str, values: &[f32]| Encoded {
            kept: bits(kept),
            encoding: Encoding {
                rows: 1,
                cols: 4,
                terms: vec![Term { layout: Layout::Sparse(bits(kept)), values: values.to_vec() }],
            },
        };
        let layout = |layout: Layout, values: usize| Encoded {
            kept: bits("1111"),
            encoding: Encoding { rows: 1, cols: 4, terms: vec![Term { layout, values: vec![1.0; values] }] },
        };
        for (case, keep, encoded, error) in [
            ("mask", Keep::Mask(&mask), sparse("1010", &[1., 2.]), ""),
            ("other mask", Keep::Mask(&mask), sparse("1100", &[1., 2.]), "other weights"),
            ("values missing", Keep::Mask(&mask), sparse("1010", &[1.]), "1 values where its layout needs 2"),
            ("not finite", Keep::Mask(&mask), sparse("1010", &[1., f32::NAN]), "value 1 of term 0 is NaN"),
            ("quota", quota(2, 0, 0), sparse("0110", &[1., 2.]), ""),
            ("quota not met", quota(3, 0, 0), sparse("0110", &[1., 2.]), "pruned 2 weights where 3"),
            ("came back", Keep::Quota { eligible: &mask, pruned: 2, n: 0, m: 0 }, sparse("0110", &[1., 2.]), "(0, 1)"),
            ("1 of 2", quota(2, 1, 2), sparse("0110", &[1., 2.]), ""),
            ("not 1 of 2", quota(2, 1, 2), sparse("0011", &[1., 2.]), "keeps 2 of the 2 weights from (0, 2)"),
            ("dense", Keep::All, layout(Layout::Dense, 4), ""),
            ("factored", Keep::All, layout(Layout::Factored { rank: 1 }, 5), ""),
            ("factored, short", Keep::All, layout(Layout::Factored { rank: 1 }, 4), "needs 5"),
            ("overflow", Keep::All, layout(Layout::Factored { rank: usize::MAX }, 4), "more than can be"),
            ("hashed", Keep::All, layout(Layout::Hashed { seed: 1 }, 2), ""),
            ("no buckets", Keep::All, layout(Layout::Hashed { seed: 1 }, 0), "needs 1"),
        ] {
            match check_encoded(&part(1, 4), keep, &encoded) {
                Ok(()) => assert_eq!(error, "", "{case}"),
                Err(text) => assert!(!error.is_empty() && text.contains(error), "{case}: {text}"),
            }
        }
        let stray = Encoded { kept: bits("1010"), ..layout(Layout::Dense, 4) };
        let text = check_encoded(&part(1, 4), Keep::Mask(&mask), &stray);
        assert_eq!(text, Err("weight (0, 1) has a value though it is pruned".into()));
    }
}
