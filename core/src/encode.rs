//! What a tensor becomes when it is packed: a sum of terms, each a layout (where the values lie) × a coding (how they
//! are written). Both formats store the same arrays ("pieces"); this is their definition, to the byte.
//!
//! A tensor is packed as a whole: its elements in the flat order in which they are stored, `n` of them, of a type
//! F32, F16, BF16 or F64 ("the tensor's type"). All numbers are little-endian.
//!
//! # Layouts
//!
//! | layout | pieces, in this order | meaning |
//! |---|---|---|
//! | [`Dense`](PackedLayout::Dense) | `values` | element i is value i; `count` = n values |
//! | [`Mask`](PackedLayout::Mask) | `values`, `mask` | U8 [ceil(n/8)]: bit i mod 8 (lowest first) of byte i/8 is 1 where element i is kept; spare bits are 0. `count` = number of ones; the kept elements take the values in order, all others are +0.0 |
//! | [`Deltas`](PackedLayout::Deltas) | `values`, `deltas` | U8 [count]: entry k lies at position Σ_{j≤k} deltas[j] − 1; deltas are 1…255, so positions rise. A gap over 255 has filler entries: delta 255, value zero. Elements without an entry are +0.0. `count` = entries, fillers among them |
//! | [`Rice`](PackedLayout::Rice) | `values`, `unary`, `rest` | Golomb–Rice code of the gaps (Golomb 1966, Rice 1979): gap k = position k − position k−1, the first from −1, is q_k·2^l − r_k with 0 ≤ r_k < 2^l. `unary` U8: q_k − 1 zeros and a one for each k, lowest bit of the lowest byte first; zeros to the end of the last byte. `rest` U8 [ceil(count/8), l], l = 1 … 8: r_k is bits k·l … k·l+l−1 of the stream. With z_k the bit of the k-th one, entry k lies at (z_k + 1)·2^l − Σ_{j≤k} r_j − 1. `count` = number of ones, no fillers; elements without an entry are +0.0 |
//! | [`Factored`](PackedLayout::Factored) | `u`, `v` | W = U·V as [rows, cols], rows · cols = n; `u` codes U [rows, rank], `v` codes V [rank, cols], both row-major |
//! | [`Hashed`](PackedLayout::Hashed) | `values`, `hash` | `hash` is I64 [5] = c₀ … c₃, K, see below; `count` = K buckets b (1 … 2³⁰), element i is ± a bucket |
//!
//! A kept value is any whose bits are not those of +0.0, so −0.0 and NaN are kept, bit for bit.
//!
//! # Codings of values
//!
//! `values` (and likewise `u` and `v`, with `u_scale`, `u_codebook` … in place of `scale`, `codebook`) are written as
//!
//! | coding | the array itself | companions after it | value k is |
//! |---|---|---|---|
//! | [`Plain`](ValueCoding::Plain) | the tensor's type | – | as it stands |
//! | [`F16`](ValueCoding::F16), [`Bf16`](ValueCoding::Bf16) | F16, BF16 | – | widened to f32, then rounded to the tensor's type |
//! | [`Int8`](ValueCoding::Int8) | I8, −127…127 | `scale`: F32 | q · scale in f32, then rounded to the tensor's type |
//! | [`Codebook(b)`](ValueCoding::Codebook) | U8 [ceil(count·b/8)]: index k is bits k·b … k·b+b−1 of the stream, lowest bit of the lowest byte first; spare bits 0 | `codebook`: the tensor's type [2^b] | codebook[index k] |
//!
//! Shapes: the array of `values` is [count], of `u` [rows, rank], of `v` [rank, cols]. Packed indices of `u`
//! and `v` begin a new byte in each row: U8 [rows, ceil(rank·b/8)] and U8 [rank, ceil(cols·b/8)].
//! `scale` of dense, mask, deltas and rice has the tensor's rank and is broadcast over the *tensor*, not over the values: all
//! dimensions are 1 (one scale), or all but one, which is the tensor's (a scale a row or a column). So value k at
//! element i is multiplied by the scale of element i, and a decoder may first put the q's in place and then multiply the
//! whole tensor. `scale` of hashed is [1], `u_scale` [rows, 1] or [1, 1], `v_scale` [1, cols] or [1, 1].
//!
//! With deltas a filler's value is the zero of its coding: +0.0, q = 0, or an index of an entry that is +0.0.
//!
//! # Hash
//!
//! With c the first four of `hash` (each 0 ≤ c < p = 2³¹ − 1) and x = i mod p for the flat element i, in int64:
//!
//! ```text
//! t = (c[0]·x + c[1]) mod p;  t = (t·x + c[2]) mod p;  t = (t·x + c[3]) mod p        (no product exceeds 2⁶²)
//! u = t mod 2K;   element i = b[u] where u < K, else −b[u − K]
//! ```
//! A cubic polynomial modulo a prime is 4-wise independent (Wegman & Carter 1981) and says in Mul, Add and Mod what
//! Chen et al. 2015 say with xxHash, so that ONNX from opset 11 on can compute it: `Gather(Concat(b, Neg(b)), u)`.
//! `c` comes from a seed by [`hash::coefficients`].
//!
//! # Sums
//!
//! One term of dense, mask, deltas or rice decodes as above. Hashed and factored terms and sums of several terms are
//! computed in f32 (Σ over the rank in rising order, terms in order), then rounded once to the tensor's type; another
//! order of summation differs in the last bits. A tensor with no element has one dense term with empty values.

pub mod codebook;
pub mod coding;
pub mod decode;
pub mod fit;
pub mod hash;
pub mod outline;
pub mod pack;
pub mod pieces;
pub mod stored;
pub mod survey;
pub mod terms;

pub use coding::Fitted;
pub use decode::{Decoder, ReadAt};
pub use outline::{Outline, PackedLayout, PieceOutline, TermOutline, ValueCoding};
pub use pieces::Pieces;

#[cfg(test)]
mod tests;
