//! Parts and evidence to try methods on, the same on every machine.

use compress_sdk::caller::MethodCard;
use compress_sdk::{Array, EvidenceKind, Part};

/// SplitMix64: numbers that look random.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and 1.
    pub fn fraction(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// About a normal distribution with deviation 1.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.fraction()).sum::<f32>() - 6.0
    }
}

/// What the weights of a part look like.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fill {
    Normal,
    Zeros,
    Equal,
    OneNotZero,
    Huge,
    Subnormal,
    /// The largest numbers there are: a method may give up on them, with a sentence.
    Largest,
}

impl Fill {
    pub const ALL: [Fill; 7] =
        [Fill::Normal, Fill::Zeros, Fill::Equal, Fill::OneNotZero, Fill::Huge, Fill::Subnormal, Fill::Largest];

    fn weights(self, count: usize) -> Vec<f32> {
        let mut numbers = Numbers(7);
        let signed = |numbers: &mut Numbers, x: f32| if numbers.next() & 1 == 0 { x } else { -x };
        (0..count)
            .map(|i| match self {
                Fill::Normal => 0.1 * numbers.normal(),
                Fill::Zeros => signed(&mut numbers, 0.0),
                Fill::Equal => 0.25,
                Fill::OneNotZero => f32::from(i == count / 2),
                Fill::Huge => {
                    let size = 1e15 * (1.0 + numbers.fraction());
                    signed(&mut numbers, size)
                }
                Fill::Subnormal => signed(&mut numbers, f32::from_bits(1 + i as u32)),
                Fill::Largest => signed(&mut numbers, f32::MAX),
            })
            .collect()
    }
}

/// How the evidence looks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Measured {
    /// As measured on good data.
    Well,
    /// All zero, as of a layer that the data never reached: a method may give up, with a sentence.
    Zero,
}

/// A part with its evidence.
pub struct Input {
    pub rows: usize,
    pub cols: usize,
    pub fill: Fill,
    weights: Vec<f32>,
    evidence: Vec<(EvidenceKind, Vec<u64>, Vec<f32>)>,
}

impl Input {
    pub fn new(rows: usize, cols: usize, fill: Fill, measured: Measured, kinds: &[EvidenceKind]) -> Input {
        let scale = f32::from(measured == Measured::Well);
        let evidence = kinds.iter().map(|kind| evidence(*kind, rows, cols, scale)).collect();
        Input { rows, cols, fill, weights: fill.weights(rows * cols), evidence }
    }

    /// The whole part, rows side by side.
    pub fn part(&self) -> Part<'_> {
        Part::whole("test.weight", self.rows, self.cols, &self.weights)
    }

    pub fn arrays(&self) -> Vec<Array<'_>> {
        self.evidence.iter().map(|(kind, shape, data)| Array { kind: *kind, shape, data, model_mean: 0.5 }).collect()
    }

    /// The same part stored column after column.
    pub fn turned(&self) -> Input {
        let turn = |data: &[f32]| {
            (0..data.len()).map(|i| data[(i % self.rows) * self.cols + i / self.rows]).collect::<Vec<f32>>()
        };
        let evidence = self.evidence.iter().map(|(kind, shape, data)| match kind {
            EvidenceKind::FisherDiag | EvidenceKind::HessianDiag => (*kind, shape.clone(), turn(data)),
            EvidenceKind::Gram | EvidenceKind::RowCount => (*kind, shape.clone(), data.clone()),
        });
        Input { weights: turn(&self.weights), evidence: evidence.collect(), ..*self }
    }

    pub fn describe(&self) -> String {
        format!("a part of {} × {} ({:?})", self.rows, self.cols, self.fill)
    }
}

fn evidence(kind: EvidenceKind, rows: usize, cols: usize, scale: f32) -> (EvidenceKind, Vec<u64>, Vec<f32>) {
    let mut numbers = Numbers(11 + kind as u64);
    let (r, c) = (rows as u64, cols as u64);
    match kind {
        EvidenceKind::FisherDiag | EvidenceKind::HessianDiag => {
            (kind, vec![r, c], (0..rows * cols).map(|_| scale * numbers.normal().powi(2)).collect())
        }
        EvidenceKind::RowCount => (kind, vec![r], (0..rows).map(|_| scale * (numbers.next() % 100) as f32).collect()),
        EvidenceKind::Gram => {
            let positions = cols + 8;
            let inputs: Vec<f32> = (0..positions * cols).map(|_| numbers.normal()).collect();
            let product = |a: usize, b: usize| {
                (0..positions).map(|p| inputs[p * cols + a] * inputs[p * cols + b]).sum::<f32>() / positions as f32
            };
            (kind, vec![c, c], (0..cols * cols).map(|i| scale * product(i / cols, i % cols)).collect())
        }
    }
}

/// Sets of evidence with which a method must work under its default options: all that it reads, no more than it needs,
/// and each kind that is enough by itself.
pub fn enough(card: &MethodCard) -> Vec<Vec<EvidenceKind>> {
    let all: Vec<EvidenceKind> = card.evidence.iter().map(|(k, _)| *k).collect();
    let options = card.defaults();
    let works = |kinds: &[EvidenceKind]| card.lacks(&options, |k| kinds.contains(&k)).is_none();
    let mut least = all.clone();
    for kind in all.iter().rev() {
        let without: Vec<EvidenceKind> = least.iter().copied().filter(|k| k != kind).collect();
        if works(&without) {
            least = without;
        }
    }
    let mut sets = vec![all.clone()];
    for set in std::iter::once(least).chain(all.iter().map(|k| vec![*k]).filter(|set| works(set))) {
        if !sets.contains(&set) {
            sets.push(set);
        }
    }
    sets
}

/// Shapes at the edges of what code is written for.
pub const SHAPES: [(usize, usize); 13] =
    [(0, 0), (0, 5), (5, 0), (1, 1), (1, 2), (2, 1), (1, 64), (63, 1), (3, 5), (8, 8), (4, 65), (65, 3), (33, 64)];
