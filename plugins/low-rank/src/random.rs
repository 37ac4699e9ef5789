//! Normal random numbers from a seed.

/// SplitMix64 (Steele, Lea & Flood 2014) through Box & Muller (1958).
pub struct Normal {
    state: u64,
    second: Option<f32>,
}

impl Normal {
    /// From a seed.
    pub fn new(seed: u64) -> Normal {
        Normal { state: seed, second: None }
    }

    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number: mean 0, deviation 1.
    pub fn draw(&mut self) -> f32 {
        if let Some(second) = self.second.take() {
            return second;
        }
        let bits = self.bits();
        // Between 0, exclusive, and 1; 24 bits are what an f32 can tell apart.
        let u = ((bits >> 40) as f32 + 0.5) / (1u32 << 24) as f32;
        let angle = (bits & 0xff_ffff) as f32 / (1u32 << 24) as f32 * std::f32::consts::TAU;
        let radius = (-2.0 * u.ln()).sqrt();
        self.second = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// A seed of a stage and a name: FNV-1a (Fowler, Noll & Vo 1991).
pub fn seed_of(seed: u64, name: &str) -> u64 {
    name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normal() {
        let mut normal = Normal::new(1);
        let draws: Vec<f64> = (0..100_000).map(|_| f64::from(normal.draw())).collect();
        let moment = |p: i32| draws.iter().map(|x| x.powi(p)).sum::<f64>() / draws.len() as f64;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.15);
    }

    #[test]
    fn names_and_seeds_count() {
        assert_ne!(seed_of(1, "a"), seed_of(1, "b"));
        assert_ne!(seed_of(1, "a"), seed_of(2, "a"));
    }
}
