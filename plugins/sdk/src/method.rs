//! The one trait.

use crate::{Bitmap, Card, Encoding, Error, Evidence, Options, Part, Result, Scores};

/// A compression method. Implement [`Method::score`], or [`Method::encode`], or both, and say so in the CARD.
pub trait Method: Sized + Send + Sync + 'static {
    /// What the method says of itself.
    const CARD: Card;

    /// Makes the state for one stage. The options were checked against the CARD.
    fn create(options: &Options, seed: u64) -> Result<Self>;

    /// Writes the score of every weight of the block: low = dispensable, finite, the same for any number of threads.
    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        let _ = (part, evidence, out);
        Err(Error::new("this method gives no scores"))
    }

    /// Encodes a whole part anew. A part that is not to be changed is given back as it was, as one dense term.
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded> {
        let _ = (part, keep, evidence);
        Err(Error::new("this method gives no encodings"))
    }
}

/// Which weights an encoding may keep. Bitmaps are row-major over the part's rows × cols.
#[derive(Clone, Copy, Debug)]
pub enum Keep<'a> {
    /// All of them: nothing was pruned and nothing is to be.
    All,
    /// Exactly these: the host selected them by the method's scores.
    Mask(&'a Bitmap),
    /// For a method whose CARD says `selects`: `pruned` weights of the part must be zero afterwards, those outside
    /// `eligible` (pruned before) among them. The host counts.
    Quota {
        /// 1 = not pruned yet.
        eligible: &'a Bitmap,
        /// Weights that must be pruned in total.
        pruned: u64,
        /// 0, or n of an n:m pattern along the columns: n are kept of each m.
        n: usize,
        /// 0, or m of an n:m pattern.
        m: usize,
    },
}

/// The result of [`Method::encode`].
#[derive(Clone, PartialEq, Debug)]
pub struct Encoded {
    /// 1 = kept, row-major; for `Keep::All` of an encoding that prunes nothing all are 1.
    pub kept: Bitmap,
    /// The part's new encoding.
    pub encoding: Encoding,
}
