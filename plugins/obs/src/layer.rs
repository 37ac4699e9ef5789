//! A layer's weights, how many of them must go, and which went.

use compress_sdk::contract::first_not_finite;
use compress_sdk::{Bitmap, Error, Part, Result};

use crate::select::Key;
use crate::slices;

/// A part, row-major. What was pruned before is zero and stays it.
pub struct Layer {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// rows × cols.
    pub weights: Vec<f32>,
    /// Whether each weight is still there.
    pub eligible: Vec<bool>,
}

impl Layer {
    /// Reads a part, however it is stored.
    pub fn read(part: &Part<'_>, eligible: &Bitmap) -> Result<Layer> {
        let (rows, cols) = (part.rows, part.cols);
        if u32::try_from(rows * cols).is_err() {
            return Err(Error::new(format!(
                "its {rows} × {cols} weights are more than 2^32, which this method cannot hold"
            )));
        }
        let eligible: Vec<bool> = eligible.iter().collect();
        let mut weights = Vec::with_capacity(rows * cols);
        for r in 0..rows {
            match part.row(r) {
                Some(row) => weights.extend_from_slice(row),
                None => weights.extend((0..cols).map(|c| part.at(r, c))),
            }
        }
        if let Some(i) = first_not_finite(&weights) {
            return Err(Error::new(format!("weight ({}, {}) is {}", i / cols, i % cols, weights[i])));
        }
        weights.iter_mut().zip(&eligible).for_each(|(w, e)| *w = if *e { *w } else { 0.0 });
        Ok(Layer { rows, cols, weights, eligible })
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }
}

/// How many weights must go.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Weights that must go beside those that are gone already.
    pub remaining: usize,
    /// n of an n:m pattern, or 0.
    pub n: usize,
    /// m of an n:m pattern, or 0: n are kept of each m along a row; a shorter tail is kept.
    pub m: usize,
}

impl Quota {
    /// Checks that the layer can meet it.
    pub fn new(layer: &Layer, pruned: u64, n: usize, m: usize) -> Result<Quota> {
        let gone = layer.eligible.iter().filter(|e| !**e).count() as u64;
        let wrong =
            |why: String| Err(Error::new(format!("it cannot prune {pruned} of {} weights: {why}", layer.len())));
        if pruned < gone {
            return wrong(format!("{gone} are pruned already"));
        }
        if pruned > layer.len() as u64 {
            return wrong("there are no more".into());
        }
        let quota = Quota { remaining: (pruned - gone) as usize, n, m };
        if m > 0 {
            let all: usize =
                (0..layer.rows).map(|r| quota.of_row(&layer.eligible[r * layer.cols..][..layer.cols])).sum();
            if all != quota.remaining {
                return wrong(format!("{n}:{m} takes {}", gone + all as u64));
            }
        }
        Ok(quota)
    }

    /// Weights that must go from a row under n:m.
    fn of_row(&self, eligible: &[bool]) -> usize {
        let gone = |group: &[bool]| group.iter().filter(|e| !**e).count();
        eligible.chunks_exact(self.m).map(|group| self.of_group(gone(group))).sum()
    }

    /// Weights that must go from a whole group of which `gone` went already.
    pub fn of_group(&self, gone: usize) -> usize {
        self.m.saturating_sub(self.n).saturating_sub(gone)
    }
}

/// Which weights went, those that had gone before among them, and what the others became.
pub struct Choice {
    /// rows × cols.
    pub gone: Vec<bool>,
    /// rows × cols; zero where gone.
    pub weights: Vec<f32>,
}

impl Choice {
    /// Nothing more goes.
    pub fn untouched(layer: &Layer) -> Choice {
        Choice { gone: layer.eligible.iter().map(|e| !e).collect(), weights: layer.weights.clone() }
    }

    /// What is up to `last` goes too; the others stay as they are.
    pub fn up_to(layer: &Layer, last: Option<Key>, key: impl Fn(usize, f32) -> Key + Sync) -> Result<Choice> {
        let (mut gone, mut weights) = (vec![false; layer.len()], vec![0f32; layer.len()]);
        let pieces = gone.chunks_mut(slices::ELEMENTS).zip(weights.chunks_mut(slices::ELEMENTS));
        slices::run(pieces.zip(slices::of_list(layer.len())).collect(), |((gone, weights), range)| {
            let old = layer.weights[range.clone()].iter().zip(&layer.eligible[range.clone()]);
            for (((gone, weight), (old, eligible)), i) in gone.iter_mut().zip(weights).zip(old).zip(range) {
                *gone = !eligible || Some(key(i, *old)) <= last;
                *weight = if *gone { 0.0 } else { *old };
            }
            Ok(())
        })?;
        Ok(Choice { gone, weights })
    }

    /// These go too; the others stay as they are.
    pub fn without(layer: &Layer, more: impl IntoIterator<Item = u32>) -> Choice {
        let mut choice = Choice::untouched(layer);
        for i in more {
            choice.gone[i as usize] = true;
            choice.weights[i as usize] = 0.0;
        }
        choice
    }
}
