//! A tensor's bytes on their way into a survey, and what was seen of them: zeros of each part, and what a coding loses.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::class::resolve::PartInfo;
use crate::convert::{CHUNK_ELEMENTS, count_zeros, to_f32};
use crate::encode::Fitted;
use crate::encode::survey::Dense;
use crate::error::Result;
use crate::tensor::Dtype;

/// What becomes of the bytes that are read.
pub enum Change<'a> {
    /// Nothing.
    None,
    /// They are coded and decoded; with the flag, what is not zero stays so.
    Coded(&'a Fitted, bool),
    /// Those of another tensor take their place.
    Other(&'a dyn Dense),
}

/// What was counted of a part. Differences are between weights before and after.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Stats {
    /// Zeros after.
    pub zeros: u64,
    /// The greatest difference.
    pub most: f64,
    /// Sum of squared differences.
    pub lost: f64,
    /// Sum of squared weights before.
    pub whole: f64,
}

impl Stats {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Stats) -> Stats {
        Stats {
            zeros: self.zeros + other.zeros,
            most: self.most.max(other.most),
            lost: self.lost + other.lost,
            whole: self.whole + other.whole,
        }
    }
}

/// A tensor that is watched while it is read, each block once.
pub struct Seen<'a> {
    old: &'a dyn Dense,
    change: Change<'a>,
    parts: &'a [PartInfo],
    /// By offset, so that sums do not depend on the order of reading.
    found: Mutex<BTreeMap<u64, Vec<(usize, Stats)>>>,
}

impl<'a> Seen<'a> {
    /// Watches a tensor of these parts.
    pub fn new(old: &'a dyn Dense, change: Change<'a>, parts: &'a [PartInfo]) -> Seen<'a> {
        Seen { old, change, parts, found: Mutex::default() }
    }

    /// What was seen of each part.
    pub fn stats(self) -> Vec<Stats> {
        let mut sums = vec![Stats::default(); self.parts.len()];
        for (part, stats) in self.found.into_inner().unwrap_or_else(|e| e.into_inner()).into_values().flatten() {
            sums[part] = sums[part].plus(stats);
        }
        sums
    }
}

impl Dense for Seen<'_> {
    fn dtype(&self) -> &Dtype {
        self.old.dtype()
    }

    fn shape(&self) -> &[u64] {
        self.old.shape()
    }

    fn elements(&self) -> u64 {
        self.old.elements()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (dtype, width) = (self.dtype(), self.width());
        self.old.read(offset, out)?;
        let first = offset / width as u64;
        let before = match self.change {
            Change::None => None,
            Change::Coded(fitted, keeps) => {
                let before = out.to_vec();
                fitted.round_trip(dtype, keeps, first, out);
                Some(before)
            }
            Change::Other(other) => {
                let before = out.to_vec();
                other.read(offset, out)?;
                Some(before)
            }
        };
        let end = first + (out.len() / width) as u64;
        let begin = self.parts.partition_point(|p| p.spec.offset + p.spec.weights() <= first);
        let mut found = Vec::new();
        for (part, info) in self.parts.iter().enumerate().skip(begin).take_while(|(_, p)| p.spec.offset < end) {
            let (from, upto) = (info.spec.offset.max(first), (info.spec.offset + info.spec.weights()).min(end));
            let range = (from - first) as usize * width..(upto - first) as usize * width;
            let mut stats = Stats { zeros: count_zeros(dtype, &out[range.clone()]), ..Stats::default() };
            if let Some(before) = &before {
                differences(dtype, width, &before[range.clone()], &out[range], &mut stats);
            }
            found.push((part, stats));
        }
        self.found.lock().unwrap_or_else(|e| e.into_inner()).insert(offset, found);
        Ok(())
    }
}

/// Adds the differences of two runs of weights; what is not finite is left out.
fn differences(dtype: &Dtype, width: usize, before: &[u8], after: &[u8], stats: &mut Stats) {
    let (mut old, mut new) = ([0f32; CHUNK_ELEMENTS], [0f32; CHUNK_ELEMENTS]);
    for (a, b) in before.chunks(CHUNK_ELEMENTS * width).zip(after.chunks(CHUNK_ELEMENTS * width)) {
        let n = a.len() / width;
        to_f32(dtype, a, &mut old[..n]);
        to_f32(dtype, b, &mut new[..n]);
        for (a, b) in old[..n].iter().zip(&new[..n]).filter(|(a, b)| a.is_finite() && b.is_finite()) {
            let (a, difference) = (f64::from(*a), (f64::from(*a) - f64::from(*b)).abs());
            stats.most = stats.most.max(difference);
            stats.lost += difference * difference;
            stats.whole += a * a;
        }
    }
}
