//! What a part becomes: a list of terms to be summed, mostly one. A method gives values as f32; how they are coded
//! in the file (f16, int8, codebook …) is a later stage's business.

use crate::bitmap::Bitmap;

/// A part as a sum of terms, rows × cols.
#[derive(Clone, PartialEq, Debug)]
pub struct Encoding {
    /// Rows of the part.
    pub rows: usize,
    /// Columns of the part.
    pub cols: usize,
    /// The terms; their decoded matrices are added.
    pub terms: Vec<Term>,
}

/// One term: where values lie, and the values.
#[derive(Clone, PartialEq, Debug)]
pub struct Term {
    /// Where the values lie.
    pub layout: Layout,
    /// The values, in the order that the layout names.
    pub values: Vec<f32>,
}

/// How the values of a term make a matrix.
#[derive(Clone, PartialEq, Debug)]
pub enum Layout {
    /// rows · cols values, row-major.
    Dense,
    /// One value for each 1 of the bitmap (row-major, rows · cols bits); zero elsewhere.
    Sparse(Bitmap),
    /// W = U·V: U [rows, rank] row-major, then V [rank, cols] row-major.
    Factored {
        /// Columns of U.
        rank: usize,
    },
    /// w(r, c) = ξ(r, c) · b[h(r, c)]: the values are the buckets b. Both are hashes of the seed and the weight's position
    /// as stored, r · row_stride + c · col_stride of the whole part, by [`crate::hash`].
    Hashed {
        /// Seed of h and ξ.
        seed: u32,
    },
}
