//! The curvature of a layer's loss, from the Gram matrix of its inputs.

use std::ops::Range;

use compress_sdk::contract::first_not_finite;
use compress_sdk::{Array, Error, Result};

use crate::layer::Layer;

/// The inputs of a layer: one Gram matrix, or one for each group of rows.
pub struct Inputs<'a> {
    grams: &'a [f32],
    cols: usize,
    rows_a_group: usize,
    damping: f64,
}

/// Rows that share a Gram matrix, or a run of them.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The rows.
    pub rows: Range<usize>,
    /// Their group.
    pub group: usize,
}

/// H of the inputs that are not dead, row by row.
pub struct Curvature<'a> {
    gram: &'a [f32],
    cols: usize,
    /// λ.
    pub lambda: f64,
    /// The columns that it is of.
    pub live: Vec<usize>,
}

/// H of the inputs that are not dead.
pub struct Hessian {
    /// k × k over `live`, symmetric.
    pub h: Vec<f64>,
    /// The columns that it is of.
    pub live: Vec<usize>,
}

impl<'a> Inputs<'a> {
    /// Takes evidence `gram`.
    pub fn new(layer: &Layer, gram: &Array<'a>, damping: f64) -> Result<Inputs<'a>> {
        let cols = layer.cols;
        let groups = if let [groups, _, _] = gram.shape { (*groups as usize).max(1) } else { 1 };
        if !layer.rows.is_multiple_of(groups) {
            return Err(Error::new(format!(
                "its evidence \"gram\" has {groups} groups, which do not divide its {} rows",
                layer.rows
            )));
        }
        if let Some(i) = first_not_finite(gram.data) {
            let (row, col) = (i / cols % cols, i % cols);
            return Err(Error::new(format!(
                "its evidence \"gram\" is {} at ({row}, {col}): measure it again",
                gram.data[i]
            )));
        }
        Ok(Inputs { grams: gram.data, cols, rows_a_group: layer.rows / groups, damping })
    }

    /// Runs of at most `most` rows, none of them across two groups.
    pub fn slices(&self, rows: usize, most: usize) -> Vec<Slice> {
        let groups = rows / self.rows_a_group.max(1);
        let of_group = |group: usize| {
            let rows = group * self.rows_a_group..(group + 1) * self.rows_a_group;
            rows.clone().step_by(most).map(move |first| Slice { rows: first..(first + most).min(rows.end), group })
        };
        (0..groups).flat_map(of_group).collect()
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.grams.len() / (self.cols * self.cols)
    }

    /// G of a group.
    pub fn gram(&self, group: usize) -> &'a [f32] {
        &self.grams[group * self.cols * self.cols..][..self.cols * self.cols]
    }

    /// H of a group. Inputs that were always zero are left out: their weights change nothing.
    pub fn curvature(&self, group: usize) -> Result<Curvature<'a>> {
        let (gram, cols) = (self.gram(group), self.cols);
        let diagonal = |j: usize| f64::from(gram[j * cols + j]);
        if let Some(j) = (0..cols).find(|j| diagonal(*j) < 0.0) {
            return Err(Error::new(format!(
                "its evidence \"gram\" is {:e} on the diagonal at {j}; a mean square is at least 0: measure it again",
                diagonal(j)
            )));
        }
        let live: Vec<usize> = (0..cols).filter(|j| diagonal(*j) > 0.0).collect();
        let mean = live.iter().map(|j| 2.0 * diagonal(*j)).sum::<f64>() / live.len().max(1) as f64;
        Ok(Curvature { gram, cols, lambda: self.damping * mean, live })
    }

    /// The same as a whole matrix.
    pub fn hessian(&self, group: usize) -> Result<Hessian> {
        let curvature = self.curvature(group)?;
        let k = curvature.live.len();
        let mut h = vec![0f64; k * k];
        for a in 0..k {
            for (b, value) in (a..k).zip(curvature.upper_row(a)) {
                (h[a * k + b], h[b * k + a]) = (value, value);
            }
        }
        Ok(Hessian { h, live: curvature.live })
    }
}

impl Curvature<'_> {
    /// Row `a` of H from its diagonal on. The two halves of G differ in rounding at most: the upper one is read.
    pub fn upper_row(&self, a: usize) -> impl DoubleEndedIterator<Item = f64> {
        let row = &self.gram[self.live[a] * self.cols..][..self.cols];
        let lambda = move |b: usize| if b == a { self.lambda } else { 0.0 };
        (a..self.live.len()).map(move |b| 2.0 * f64::from(row[self.live[b]]) + lambda(b)) // eq. 1
    }
}

/// The sentence for a pivot that is not positive.
pub fn not_positive(column: usize, pivot: f64) -> Error {
    Error::new(format!("Hessian diagonal is {pivot:.1e} at {column}; raise \"damping\""))
}
