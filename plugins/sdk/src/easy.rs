//! The easy rung: a method that is one function. For options, evidence or state implement [`Method`](crate::Method).
//!
//! Each macro makes a method and its `ENTRY`, so one a module. The fields must stand in the order shown.

use crate::{Bitmap, Encoded, Encoding, Error, Keep, Layout, Part, Result, Scores, Term};

/// A method that scores each weight by itself: low = dispensable.
///
/// ```
/// compress_sdk::score_weights! {
///     name: "cubic",
///     meaning: "the cube of the weight",
///     citation: "nobody yet",
///     equation: "s(w) = |w|³",
///     |w| w.abs().min(1e12).powi(3)
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! score_weights {
    (name: $name:expr, meaning: $meaning:expr, citation: $citation:expr, equation: $equation:expr,
     |$w:ident| $score:expr $(,)?) => {
        struct ScoreWeights;

        impl $crate::Method for ScoreWeights {
            const CARD: $crate::Card = $crate::Card {
                name: $name,
                meaning: $meaning,
                citation: $citation,
                equation: $equation,
                ..$crate::Card::SCORES_WEIGHTS
            };

            fn create(_: &$crate::Options, _: u64) -> $crate::Result<Self> {
                Ok(ScoreWeights)
            }

            fn score(
                &self,
                part: &$crate::Part<'_>,
                _: &$crate::Evidence<'_>,
                out: &mut $crate::Scores<'_>,
            ) -> $crate::Result<()> {
                for (score, w) in out.data.iter_mut().zip(part.data) {
                    let $w: f32 = *w;
                    *score = $score;
                }
                Ok(())
            }
        }

        $crate::export_method!(ScoreWeights);
    };
}

/// A method that scores a row (all weights into one output) at a time: a row of weights and as many scores to fill.
///
/// ```
/// compress_sdk::score_rows! {
///     name: "row-relative",
///     meaning: "the weight relative to its row's norm",
///     citation: "nobody yet",
///     equation: "s(w_ij) = |w_ij| / ‖w_i‖",
///     |row, scores| {
///         let norm = row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
///         for (score, w) in scores.iter_mut().zip(row) {
///             *score = (f64::from(w.abs()) / norm) as f32;
///         }
///     }
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! score_rows {
    (name: $name:expr, meaning: $meaning:expr, citation: $citation:expr, equation: $equation:expr,
     |$row:ident, $scores:ident| $body:expr $(,)?) => {
        struct ScoreRows;

        impl $crate::Method for ScoreRows {
            const CARD: $crate::Card = $crate::Card {
                name: $name,
                meaning: $meaning,
                citation: $citation,
                equation: $equation,
                reach: $crate::Reach::Row,
                ..$crate::Card::SCORES_WEIGHTS
            };

            fn create(_: &$crate::Options, _: u64) -> $crate::Result<Self> {
                Ok(ScoreRows)
            }

            fn score(
                &self,
                part: &$crate::Part<'_>,
                _: &$crate::Evidence<'_>,
                out: &mut $crate::Scores<'_>,
            ) -> $crate::Result<()> {
                $crate::easy::by_row(part, out, |$row: &[f32], $scores: &mut [f32]| $body);
                Ok(())
            }
        }

        $crate::export_method!(ScoreRows);
    };
}

/// A method that encodes a whole part anew: from the part to the terms of its encoding, or an error.
///
/// ```
/// use compress_sdk::{Layout, Term};
///
/// compress_sdk::encode_parts! {
///     name: "signs",
///     meaning: "every weight becomes its sign times the mean magnitude",
///     citation: "Rastegari et al., XNOR-Net, ECCV 2016, arXiv:1603.05279",
///     equation: "W ≈ α·sign(W), α = mean |w|",
///     |part| {
///         let sum: f64 = part.data.iter().map(|w| f64::from(w.abs())).sum();
///         let mean = (sum / part.data.len().max(1) as f64) as f32;
///         let at = |i| mean * part.at(i / part.cols, i % part.cols).signum();
///         Ok(vec![Term { layout: Layout::Dense, values: (0..part.data.len()).map(at).collect() }])
///     }
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! encode_parts {
    (name: $name:expr, meaning: $meaning:expr, citation: $citation:expr, equation: $equation:expr,
     |$part:ident| $body:expr $(,)?) => {
        struct EncodeParts;

        impl $crate::Method for EncodeParts {
            const CARD: $crate::Card = $crate::Card {
                name: $name,
                meaning: $meaning,
                citation: $citation,
                equation: $equation,
                ..$crate::Card::ENCODES_PARTS
            };

            fn create(_: &$crate::Options, _: u64) -> $crate::Result<Self> {
                Ok(EncodeParts)
            }

            fn encode(
                &self,
                $part: &$crate::Part<'_>,
                keep: $crate::Keep<'_>,
                _: &$crate::Evidence<'_>,
            ) -> $crate::Result<$crate::Encoded> {
                let terms: $crate::Result<Vec<$crate::Term>> = $body;
                $crate::easy::encoded($part, keep, terms?)
            }
        }

        $crate::export_method!(EncodeParts);
    };
}

/// Calls `work` with every row of a block and the place for its scores, side by side whatever the strides are.
pub fn by_row(part: &Part<'_>, out: &mut Scores<'_>, mut work: impl FnMut(&[f32], &mut [f32])) {
    if part.cols == 0 {
        return;
    }
    if part.col_stride == 1 {
        for r in 0..part.rows {
            let at = r * part.row_stride..r * part.row_stride + part.cols;
            work(&part.data[at.clone()], &mut out.data[at]);
        }
        return;
    }
    let (mut row, mut scores) = (vec![0.0; part.cols], vec![0.0; part.cols]);
    for r in 0..part.rows {
        row.iter_mut().enumerate().for_each(|(c, w)| *w = part.at(r, c));
        work(&row, &mut scores);
        scores.iter().enumerate().for_each(|(c, s)| out.set(r, c, *s));
    }
}

/// An encoding out of its terms. Where weights were pruned before, a single dense term loses their values; another
/// layout cannot hold a mask and is refused.
pub fn encoded(part: &Part<'_>, keep: Keep<'_>, mut terms: Vec<Term>) -> Result<Encoded> {
    let (rows, cols) = (part.rows, part.cols);
    let kept = match keep {
        Keep::All => Bitmap::new(rows * cols, true),
        Keep::Mask(mask) => match &mut terms[..] {
            [Term { layout: Layout::Dense, values }] => {
                values.iter_mut().zip(mask.iter()).filter(|(_, kept)| !kept).for_each(|(v, _)| *v = 0.0);
                mask.clone()
            }
            _ => return Err(Error::new("it cannot keep pruned weights at zero; prune after it, not before")),
        },
        Keep::Quota { .. } => return Err(Error::new("it does not choose weights itself")),
    };
    Ok(Encoded { kept, encoding: Encoding { rows, cols, terms } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rows_in_either_order() {
        let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let row_major = Part::whole("w", 2, 3, &data);
        let column_major = Part { row_stride: 1, col_stride: 2, ..row_major };
        for (part, rows) in [(row_major, [[1., 2., 3.], [4., 5., 6.]]), (column_major, [[1., 3., 5.], [2., 4., 6.]])] {
            let mut scores = [0.0; 6];
            let (row_stride, col_stride) = (part.row_stride, part.col_stride);
            let mut seen = Vec::new();
            by_row(&part, &mut Scores { data: &mut scores, row_stride, col_stride }, |row, scores| {
                seen.push(row.to_vec());
                scores.copy_from_slice(row);
            });
            assert_eq!(seen, rows);
            assert_eq!(scores, data);
        }
    }

    #[test]
    fn a_mask_is_kept_by_dense_terms_alone() {
        let part = Part::whole("w", 1, 3, &[1.0, 2.0, 3.0]);
        let mut mask = Bitmap::new(3, true);
        mask.set(1, false);
        let term = |layout, values: &[f32]| vec![Term { layout, values: values.to_vec() }];
        let dense = encoded(&part, Keep::Mask(&mask), term(Layout::Dense, &[1., 2., 3.])).unwrap();
        assert_eq!(dense.encoding.terms[0].values, [1., 0., 3.]);
        assert!(encoded(&part, Keep::Mask(&mask), term(Layout::Factored { rank: 1 }, &[1.; 4])).is_err());
        assert!(encoded(&part, Keep::All, term(Layout::Factored { rank: 1 }, &[1.; 4])).is_ok());
    }
}
