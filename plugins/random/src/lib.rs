//! Random pruning: the baseline that every study needs.
//!
//! A method that does no better than chance has found nothing. See for instance Frankle, Dziugaite, Roy & Carbin,
//! "Pruning Neural Networks at Initialization: Why Are We Missing the Mark?", ICLR 2021, arXiv 2009.08576.
//!
//! s(w_k) = u_k,  u_k uniform in (0, 1)
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | k | `position` | | position of the weight within its part, as stored |
//! | u | `uniform` | rows × cols | numbers drawn from the seed, the part's name and k alone |
//! | s | `score` | rows × cols | the scores, low = dispensable |
//!
//! Nothing else decides a score, so neither the number of threads nor the way a part is cut into blocks changes it.

use compress_sdk::{Card, Evidence, Method, Options, Part, Result, Scores};

/// Scores weights by chance.
pub struct Random {
    seed: u64,
}

impl Method for Random {
    const CARD: Card = Card {
        name: "random",
        meaning: "weights go by chance: the baseline of every study",
        citation: "Frankle, Dziugaite, Roy & Carbin, Pruning Neural Networks at Initialization: Why Are We Missing the \
                   Mark?, ICLR 2021, arXiv:2009.08576",
        equation: "s(w_k) = u_k,  u_k uniform in (0, 1), drawn from the seed, the part's name and the position k",
        random: true,
        ..Card::SCORES_WEIGHTS
    };

    fn create(_: &Options, seed: u64) -> Result<Self> {
        Ok(Random { seed })
    }

    fn score(&self, part: &Part<'_>, _: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        let key = mix(self.seed ^ name_hash(part.name));
        for (position, score) in (part.first_element..).zip(out.data.iter_mut()) {
            *score = uniform(key, position); // eq. 1
        }
        Ok(())
    }
}

/// Between 0 and 1, both left out.
fn uniform(key: u64, position: u64) -> f32 {
    let bits = mix(key.wrapping_add(position.wrapping_mul(GOLDEN))) >> 32;
    // 2^32 values and not 2^24: ties would favour early weights.
    ((bits as f64 + 0.5) / 4_294_967_296.0).min(f64::from(1f32.next_down())) as f32
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

compress_sdk::export_method!(Random);
