//! Which weights go: the exact selection of the `target` lowest scores of a population.
//!
//! A scheme is a scope (which population) and a normalisation (what divides a score), so selection stands here once.
//! A score and its position make a total order: `(score / normaliser, position)`, position = (tensor in file order,
//! flat index as stored). Weights that are zero already come before all others. The result is a [`Cut`] in that order,
//! so that no mask needs to be kept: whoever can score a weight again can tell whether it goes.
//!
//! Cost: a sample brackets the cut; one pass over all scores counts what lies below the bracket and collects what lies
//! within; the rest is a selection among those few. Where many weights share few scores (bf16, all-equal weights) the
//! pass makes a histogram over the bracket instead, so that memory stays bounded whatever the input.

mod key;
mod magnitudes;
mod rank;

pub use key::{Cut, KeyCut, Norm, count_below, key, keys_of, score_of, zero_below};
pub use magnitudes::Magnitudes;
pub use rank::{KeyBlock, KeyStream, Selected, select};
