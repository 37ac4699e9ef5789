//! Magnitude pruning.
//!
//! See, Luong & Manning, "Compression of Neural Machine Translation Models via Pruning", CoNLL 2016, arXiv 1606.09274,
//! section 3.2: a weight is as dispensable as it is near to zero.
//!
//! s(w) = |w|
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | w | `w` | rows × cols | the weights |
//! | s | `score` | rows × cols | their scores, low = dispensable |
//!
//! How many weights go, and over which classes the amount is spread (the paper's class-blind, class-uniform and
//! class-distribution), is the stage's scheme and not the method's business.

use compress_sdk::{Card, Evidence, Method, Options, Part, Result, Scores, Units};

/// Scores weights by their absolute value.
pub struct Magnitude;

impl Method for Magnitude {
    const CARD: Card = Card {
        name: "magnitude",
        meaning: "the smallest weights go first",
        citation: "See, Luong & Manning, Compression of Neural Machine Translation Models via Pruning, CoNLL 2016, \
                   arXiv:1606.09274",
        equation: "s(w) = |w|",
        units: Units::Magnitude,
        ..Card::SCORES_WEIGHTS
    };

    fn create(_: &Options, _: u64) -> Result<Self> {
        Ok(Magnitude)
    }

    fn score(&self, part: &Part<'_>, _: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        for (score, w) in out.data.iter_mut().zip(part.data) {
            *score = w.abs();
        }
        Ok(())
    }
}

compress_sdk::export_method!(Magnitude);
