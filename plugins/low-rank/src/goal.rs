//! Which rank a part gets.

use compress_sdk::{Error, OptionKind, OptionSpec, Options, Result};

/// Bytes of an f32.
const WIDTH: f64 = 4.0;
/// `energy` where a recipe says nothing.
const ENERGY: f64 = 0.9;

/// What the recipe asks for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// This rank.
    Rank(usize),
    /// The smallest rank that keeps this share of Σ σ².
    Energy(f64),
    /// The largest rank whose factors take at most so many bytes as f32.
    Bytes(u64),
    /// The largest rank whose factors have at most this share of the part's values.
    Share(f64),
}

/// The options that say the goal.
pub const OPTIONS: [OptionSpec; 4] = [
    OptionSpec {
        name: "rank",
        meaning: "the rank; 0 = by another option",
        kind: OptionKind::Integer { default: 0, min: 0, max: 1 << 31 },
    },
    OptionSpec {
        name: "energy",
        meaning: "share of the squared singular values that the smallest rank must keep",
        kind: OptionKind::Float { default: ENERGY, min: 0.0, max: 1.0 },
    },
    OptionSpec {
        name: "bytes",
        meaning: "bytes that the factors of each part may take as f32; 0 = by another option",
        kind: OptionKind::Integer { default: 0, min: 0, max: 1 << 53 },
    },
    OptionSpec {
        name: "share",
        meaning: "share of each part's values that the factors may have; 0 = by another option",
        kind: OptionKind::Float { default: 0.0, min: 0.0, max: 1.0 },
    },
];

impl Goal {
    /// From the options; two goals at once are refused.
    pub fn of(options: &Options) -> Result<Goal> {
        let (rank, bytes) = (options.integer("rank"), options.integer("bytes"));
        let (energy, share) = (options.float("energy"), options.float("share"));
        let given: Vec<Goal> = [
            (rank > 0).then_some(Goal::Rank(rank as usize)),
            (bytes > 0).then_some(Goal::Bytes(bytes as u64)),
            (share > 0.0).then_some(Goal::Share(share)),
            (energy != ENERGY).then_some(Goal::Energy(energy)),
        ]
        .into_iter()
        .flatten()
        .collect();
        match given[..] {
            [] => Ok(Goal::Energy(ENERGY)),
            [goal] => Ok(goal),
            _ => Err(Error::new("\"rank\", \"energy\", \"bytes\" and \"share\" exclude each other; give one")),
        }
    }

    /// The rank for a part of rows × cols where it is known without looking at the part; at least 1.
    pub fn rank(self, rows: usize, cols: usize) -> Option<usize> {
        let (weights, sum) = (rows as f64 * cols as f64, rows as f64 + cols as f64);
        let rank = match self {
            Goal::Rank(rank) => rank,
            Goal::Energy(_) => return None,
            Goal::Bytes(bytes) => (bytes as f64 / WIDTH / sum) as usize,
            Goal::Share(share) => (share * weights / sum) as usize,
        };
        Some(rank.max(1))
    }
}

/// The largest rank of which the factors have fewer values than the part: r·(m + n) < m·n.
pub fn most(rows: usize, cols: usize) -> usize {
    (rows * cols).saturating_sub(1).checked_div(rows + cols).unwrap_or(0)
}

/// The smallest rank that keeps a share of the energy, of falling singular values that need not be all.
pub fn reaching(s: &[f32], total: f64, share: f64) -> Option<usize> {
    let mut kept = 0.0;
    // Sums of f32 values: what differs by less is the same.
    let wanted = share * total * (1.0 - 1e-6);
    s.iter()
        .position(|s| {
            kept += f64::from(*s).powi(2);
            kept >= wanted
        })
        .map(|i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use compress_sdk::OptionValue::{Float, Integer};

    fn options(rank: i64, energy: f64, bytes: i64, share: f64) -> Options {
        let pairs =
            [("rank", Integer(rank)), ("energy", Float(energy)), ("bytes", Integer(bytes)), ("share", Float(share))];
        Options(pairs.map(|(name, value)| (name.to_string(), value)).into())
    }

    #[test]
    fn one_goal_at_a_time() {
        assert_eq!(Goal::of(&options(0, 0.9, 0, 0.0)), Ok(Goal::Energy(0.9)));
        assert_eq!(Goal::of(&options(3, 0.9, 0, 0.0)), Ok(Goal::Rank(3)));
        assert_eq!(Goal::of(&options(0, 0.5, 0, 0.0)), Ok(Goal::Energy(0.5)));
        assert_eq!(Goal::of(&options(0, 0.9, 100, 0.0)), Ok(Goal::Bytes(100)));
        assert_eq!(Goal::of(&options(0, 0.9, 0, 0.25)), Ok(Goal::Share(0.25)));
        assert!(Goal::of(&options(3, 0.5, 0, 0.0)).is_err());
        assert!(Goal::of(&options(0, 0.9, 100, 0.25)).is_err());
    }

    #[test]
    fn ranks_by_hand() {
        // 30 × 20: a rank takes 50 values, 200 bytes; the part has 600.
        for (goal, rank) in [
            (Goal::Rank(7), Some(7)),
            (Goal::Bytes(600), Some(3)),
            (Goal::Bytes(599), Some(2)),
            (Goal::Bytes(10), Some(1)),
            (Goal::Share(0.5), Some(6)),
            (Goal::Share(0.249), Some(2)),
            (Goal::Energy(0.5), None),
        ] {
            assert_eq!(goal.rank(30, 20), rank, "{goal:?}");
        }
        assert_eq!(most(30, 20), 11);
        assert_eq!(most(2, 2), 0);
        assert_eq!(most(4, 4), 1);
        assert_eq!(most(0, 0), 0);
        assert_eq!(most(0, 5), 0);
    }

    #[test]
    fn energy_by_hand() {
        // σ² = 9, 4, 1, 1, 1: 9/16, 13/16, …
        let s = [3.0, 2.0, 1.0, 1.0, 1.0];
        for (share, rank) in [(0.0, Some(1)), (0.5, Some(1)), (0.57, Some(2)), (13.0 / 16.0, Some(2)), (1.0, Some(5))] {
            assert_eq!(reaching(&s, 16.0, share), rank, "{share}");
        }
        assert_eq!(reaching(&s[..2], 16.0, 0.9), None);
    }
}
