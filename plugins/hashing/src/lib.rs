//! Hashed weight sharing.
//!
//! Chen, Wilson, Tyree, Weinberger & Chen, "Compressing Neural Networks with the Hashing Trick", ICML 2015,
//! arXiv 1504.04788, sections 4.2 and 4.3: weights share K buckets, drawn by a hash that costs no memory, and a second
//! hash ξ gives each weight a sign, which takes the bias out of inner products.
//!
//! ```text
//! w_ij = ξ(i, j) · b[h(i, j)]                                                        (1)
//! b = argmin ‖W − Ŵ(b)‖²:   b_k = mean of ξ(i, j) · w_ij over all (i, j) with h(i, j) = k      (2)
//! ```
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | W | `part` | rows × cols | the trained weights, n = rows · cols |
//! | K | `buckets` | 1 | how many values they share |
//! | h | `bucket(…).0` | – | bucket of a weight, 0 … K − 1 |
//! | ξ | `bucket(…).1` | – | its sign |
//! | b | `values` | K | the shared values |
//!
//! The paper trains b from the start. Here (2) begins at the trained weights (each weight lies in one bucket, so the
//! normal equations are diagonal), and a `retrain` stage goes on from there. Both hashes are one cubic polynomial of the
//! position as stored, [`compress_sdk::hash`], since the small file must say them in ordinary operators; the paper's
//! xxHash could not be said.

use compress_sdk::{
    Card, Encoded, Encoding, Error, Evidence, Keep, Layout, Method, OptionKind, OptionSpec, Options, Part, Result,
    Term, easy, hash, host,
};

/// What a hashed part stores beside its buckets: five numbers of 8 bytes, as many bytes as ten f32.
const DESCRIPTION: u64 = 10;

/// Shares the weights of a part among buckets.
pub struct Hashing {
    buckets: Buckets,
    seed: u32,
}

/// How many buckets a part gets.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Buckets {
    /// So many.
    Count(u64),
    /// One for so many weights.
    Ratio(f64),
}

impl Buckets {
    /// K for a part of `n` weights.
    fn of(self, n: u64) -> u64 {
        let count = match self {
            Buckets::Count(count) => count,
            Buckets::Ratio(ratio) => (n as f64 / ratio).round() as u64,
        };
        count.clamp(1, hash::MAX_BUCKETS)
    }
}

impl Method for Hashing {
    const CARD: Card = Card {
        name: "hashing",
        meaning: "weights share the values of a few buckets, drawn by a hash",
        citation: "Chen, Wilson, Tyree, Weinberger & Chen, Compressing Neural Networks with the Hashing Trick, ICML 2015, \
                   arXiv:1504.04788",
        equation: "w_ij = ξ(i, j) · b[h(i, j)]",
        random: true,
        options: &[
            OptionSpec {
                name: "ratio",
                meaning: "weights that share a bucket, on average",
                kind: OptionKind::Float { default: 16.0, min: 1.0, max: 1e9 },
            },
            OptionSpec {
                name: "buckets",
                meaning: "buckets of each part, in place of ratio; 0 = by ratio",
                kind: OptionKind::Integer { default: 0, min: 0, max: hash::MAX_BUCKETS as i64 },
            },
        ],
        ..Card::ENCODES_PARTS
    };

    fn create(options: &Options, seed: u64) -> Result<Self> {
        let buckets = match options.integer("buckets") {
            0 => Buckets::Ratio(options.float("ratio")),
            count => Buckets::Count(count as u64),
        };
        // A file has room for 32 bits of it; of small seeds, which is all that people write, none is lost.
        Ok(Hashing { buckets, seed: (seed ^ (seed >> 32)) as u32 })
    }

    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, _: &Evidence<'_>) -> Result<Encoded> {
        let n = part.data.len() as u64;
        let buckets = self.buckets.of(n);
        if buckets.saturating_add(DESCRIPTION) >= n {
            if n > 0 {
                host::log(&format!(
                    "\"{}\" stays dense: {buckets} buckets for its {n} weights gain nothing",
                    part.name
                ));
            }
            let all = (0..part.data.len()).map(|i| part.at(i / part.cols, i % part.cols)).collect();
            return easy::encoded(part, keep, vec![Term { layout: Layout::Dense, values: all }]);
        }
        let values = means(&hash::coefficients(u64::from(self.seed)), part.data, buckets as usize)?;
        let layout = Layout::Hashed { seed: self.seed };
        let encoding = Encoding { rows: part.rows, cols: part.cols, terms: vec![Term { layout, values }] };
        easy::encoded(part, keep, encoding.terms)
    }
}

/// The bucket values nearest to weights that lie in the order in which they are stored (a part has no gaps, so the
/// position of the hash is the place in the slice). A bucket that nothing falls into is 0.
fn means(c: &[i64; 4], weights: &[f32], buckets: usize) -> Result<Vec<f32>> {
    let mut sums = vec![(0f64, 0u64); buckets];
    for (block, weights) in weights.chunks(BLOCK).enumerate() {
        if host::cancelled() {
            return Err(Error::new("it was interrupted"));
        }
        for (i, w) in weights.iter().enumerate() {
            let (k, minus) = hash::bucket(c, (block * BLOCK + i) as u64, buckets as u64);
            let (sum, count) = &mut sums[k];
            *sum += f64::from(if minus { -w } else { *w });
            *count += 1;
        }
    }
    Ok(sums.into_iter().map(|(sum, count)| if count == 0 { 0.0 } else { (sum / count as f64) as f32 }).collect()) // eq. 2
}

/// Weights between two questions whether to stop.
const BLOCK: usize = 1 << 20;

compress_sdk::export_method!(Hashing);

#[cfg(test)]
mod tests {
    use super::*;

    /// b_k = mean of ξ·w: with t = x and K = 2, u = x mod 4 is 0 1 2 3 0, so the buckets are 0 1 0 1 0, the signs + + − − +.
    #[test]
    fn bucket_values_are_the_means_of_signed_weights() {
        let b = means(&[0, 0, 1, 0], &[3.0, 5.0, -1.0, 7.0, 2.0], 2).unwrap();
        assert_eq!(b, [(3.0 + 1.0 + 2.0) / 3.0, (5.0 - 7.0) / 2.0]);
    }

    #[test]
    fn a_bucket_that_nothing_falls_into_is_zero() {
        assert_eq!(means(&[0, 0, 1, 0], &[3.0], 2).unwrap(), [3.0, 0.0]);
    }

    #[test]
    fn buckets_by_ratio_or_count() {
        for (buckets, n, count) in [
            (Buckets::Ratio(16.0), 1600, 100),
            (Buckets::Ratio(16.0), 7, 1),
            (Buckets::Ratio(1.0), 1 << 40, 1 << 30),
            (Buckets::Count(5), 1600, 5),
        ] {
            assert_eq!(buckets.of(n), count, "{buckets:?} of {n}");
        }
    }
}
