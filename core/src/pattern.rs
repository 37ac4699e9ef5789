//! Weights that go together: n:m, whole rows, whole columns, blocks. Rows are outputs, columns inputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::class::Order;
use crate::error::Result;
use crate::ordered::try_map;
use crate::population::cut_blocks;
use crate::prune::{PartCount, Pruning};
use crate::recipe::Pattern;
use crate::select::{KeyCut, Norm, key, score_of};
use crate::spool::Scratch;
use crate::tensor::TensorId;
use crate::weights::{Bits, Keys, PartPlace, Rule};

/// The rules of a patterned stage.
pub struct Masks {
    /// One a tensor or part.
    pub rules: Vec<(TensorId, Rule)>,
    /// What happened to each part.
    pub parts: Vec<PartCount>,
}

/// Keeps n of each m weights along the columns (inputs) of every row; a tail shorter than m is kept. Among equal scores
/// the earlier go.
pub fn n_of_m(
    job: &Pruning<'_>,
    keys: &dyn Keys,
    parts: &[usize],
    places: &[PartPlace],
    n: u32,
    m: u32,
) -> Result<Masks> {
    let mut starts = BTreeMap::new();
    let mut at = 0;
    for place in places {
        starts.insert((place.tensor, place.offset), at);
        at += place.len().div_ceil(8);
    }
    let scratch = Arc::new(Scratch::beside(job.output)?);
    let counts = try_map(places.par_iter().zip(parts), |(place, part)| {
        let order = job.map.parts[*part].spec.order;
        let start = starts[&(place.tensor, place.offset)];
        // Panels of whole runs of m, and of whole bytes of bits.
        let (unit, run) = match order {
            Order::RowMajor => (place.cols.max(1), place.cols),
            Order::ColumnMajor => (place.rows.max(1) * u64::from(m), place.cols),
        };
        let panel = unit * 8 * ((1 << 18) / (unit * 8)).max(1);
        let (mut before, mut pruned) = (0, 0);
        let mut first = 0;
        while first < place.len() {
            let count = panel.min(place.len() - first);
            let mut found = Vec::with_capacity(count as usize);
            job.weights.visit_keys(keys, place, first, count, &mut |_, k| found.extend_from_slice(k))?;
            before += found.iter().filter(|k| **k == 0).count() as u64;
            let mut bits = vec![0u8; (count as usize).div_ceil(8)];
            let stride = match order {
                Order::RowMajor => 1,
                Order::ColumnMajor => place.rows as usize,
            };
            let kept = keep_n_of_m(&found, order, place, run as usize, stride, n as usize, m as usize);
            for (i, keep) in kept.iter().enumerate() {
                bits[i / 8] |= u8::from(*keep) << (i % 8);
                pruned += u64::from(!keep);
            }
            scratch.write_at(&bits, start + first / 8)?;
            job.watch.tick(count)?;
            first += count;
        }
        Ok((before, pruned))
    })?;
    let file: Arc<dyn Keys> = Arc::new(BitKeys { scratch, starts });
    let cut = KeyCut { below: STAYS, upto: STAYS, last: 0 };
    let mut masks = Masks { rules: Vec::new(), parts: Vec::new() };
    for ((place, part), (before, pruned)) in places.iter().zip(parts).zip(counts) {
        masks.parts.push(PartCount { part: *part, weights: place.len(), before, pruned });
        masks.rules.push((place.tensor, Rule::Cut(file.clone(), Arc::new(vec![(place.clone(), cut)]))));
    }
    Ok(masks)
}

const GOES: u32 = 1;
const STAYS: u32 = 2;

/// Which of a panel's weights stay. In a row-major panel the runs lie along the storage, in a column-major one every
/// `stride`-th element, m storage rows at a time.
fn keep_n_of_m(
    keys: &[u32],
    order: Order,
    place: &PartPlace,
    run: usize,
    stride: usize,
    n: usize,
    m: usize,
) -> Vec<bool> {
    let mut keep: Vec<bool> = keys.iter().map(|k| *k != 0).collect();
    let mut judge = |indices: &mut Vec<usize>| {
        if indices.len() == m {
            indices.sort_by_key(|i| (keys[*i], *i));
            indices[..m - n].iter().for_each(|i| keep[*i] = false);
        }
        indices.clear();
    };
    let mut group = Vec::with_capacity(m);
    match order {
        Order::RowMajor => {
            for row in (0..keys.len()).step_by(run.max(1)) {
                for start in (row..(row + run).min(keys.len())).step_by(m) {
                    group.extend(start..(start + m).min(row + run));
                    judge(&mut group);
                }
            }
        }
        Order::ColumnMajor => {
            let storage_rows = keys.len() / (place.rows as usize).max(1);
            for start in (0..storage_rows).step_by(m) {
                for r in 0..place.rows as usize {
                    group.extend((start..(start + m).min(storage_rows)).map(|c| c * stride + r));
                    judge(&mut group);
                }
            }
        }
    }
    keep
}

/// Decisions as bits in a file (1 = stays), one run of whole bytes a part, given as keys.
struct BitKeys {
    scratch: Arc<Scratch>,
    starts: BTreeMap<(TensorId, u64), u64>,
}

impl Keys for BitKeys {
    fn keys(&self, place: &PartPlace, start: u64, values: &[f32], keys: &mut [u32]) -> Result<()> {
        let base = self.starts[&(place.tensor, place.offset)];
        let shift = (start % 8) as usize;
        let mut bits = vec![0u8; (shift + keys.len()).div_ceil(8)];
        self.scratch.read_at(&mut bits, base + start / 8)?;
        for (i, (key, value)) in keys.iter_mut().zip(values).enumerate() {
            let stays = bits[(i + shift) / 8] >> ((i + shift) % 8) & 1 == 1;
            *key = if *value == 0.0 {
                0
            } else if stays {
                STAYS
            } else {
                GOES
            };
        }
        Ok(())
    }
}

impl Bits for BitKeys {
    fn read(&self, first: u64, out: &mut [u8]) -> Result<()> {
        self.scratch.read_at(out, first / 8)
    }
}

/// How the weights of a part fall into groups.
#[derive(Clone, Copy)]
struct Grid {
    rows: u64,
    cols: u64,
    order: Order,
    /// Rows and columns of a group.
    block: (u64, u64),
}

impl Grid {
    fn new(pattern: Pattern, place: &PartPlace, order: Order) -> Grid {
        let block = match pattern {
            Pattern::Row => (1, place.cols),
            Pattern::Column => (place.rows, 1),
            Pattern::Block { rows, cols } => (u64::from(rows), u64::from(cols)),
            Pattern::Free | Pattern::NofM { .. } => (1, 1),
        };
        Grid { rows: place.rows, cols: place.cols, order, block: (block.0.max(1), block.1.max(1)) }
    }

    fn across(&self) -> u64 {
        self.cols.div_ceil(self.block.1)
    }

    fn groups(&self) -> usize {
        (self.rows.div_ceil(self.block.0) * self.across()) as usize
    }

    /// The group of the element at a place in storage.
    fn of(&self, element: u64) -> usize {
        let (r, c) = match self.order {
            Order::RowMajor => (element / self.cols, element % self.cols),
            Order::ColumnMajor => (element % self.rows, element / self.rows),
        };
        (r / self.block.0 * self.across() + c / self.block.1) as usize
    }

    /// Hands (index within the run, length, group) of each stretch of one group to `f`, for a run in storage.
    fn stretches(&self, start: u64, len: usize, mut f: impl FnMut(usize, usize, usize)) {
        let (minor, along) = match self.order {
            Order::RowMajor => (self.cols, self.block.1),
            Order::ColumnMajor => (self.rows, self.block.0),
        };
        let mut i = 0;
        while i < len {
            let at = start + i as u64;
            let within = at % minor;
            let upto = ((within / along + 1) * along).min(minor);
            let n = ((upto - within) as usize).min(len - i);
            f(i, n, self.of(at));
            i += n;
        }
    }
}

/// What is known of a group.
#[derive(Clone, Copy, Default)]
struct Group {
    sum: f64,
    weights: u64,
    zeros: u64,
}

/// Prunes whole rows, columns or blocks: a group's score is the mean of its weights' scores. Groups go in order of
/// (mean score / normaliser, position) until the count of pruned weights is as near to `target` as whole groups allow.
/// Memory: 24 bytes a group.
pub fn groups(
    job: &Pruning<'_>,
    keys: &dyn Keys,
    parts: &[usize],
    places: &[PartPlace],
    norms: &[Norm],
    target: u64,
) -> Result<Masks> {
    let grids: Vec<Grid> = places
        .iter()
        .zip(parts)
        .map(|(place, part)| Grid::new(job.stage.pattern, place, job.map.parts[*part].spec.order))
        .collect();
    let found = try_map(places.par_iter().zip(&grids), |(place, grid)| sum_groups(job, keys, place, grid))?;
    let mut order: Vec<(u64, u32, u32)> = Vec::new();
    for (index, (groups, norm)) in found.iter().zip(norms).enumerate() {
        for (g, group) in groups.iter().enumerate() {
            let mean = (group.sum / group.weights.max(1) as f64) as f32;
            let value = if group.zeros == group.weights { 0.0 } else { 1.0 };
            order.push((norm.order(key(value, mean)), index as u32, g as u32));
        }
    }
    order.sort_unstable();
    let zeros: u64 = found.iter().flatten().map(|g| g.zeros).sum();
    let mut goes: Vec<Vec<bool>> = found.iter().map(|groups| vec![false; groups.len()]).collect();
    let mut total = zeros;
    for (_, index, g) in order {
        let group = found[index as usize][g as usize];
        let next = total + group.weights - group.zeros;
        // Nearest: stop where going on would lead further away than staying (half rounds up).
        if next > target && next - target > target.saturating_sub(total) {
            break;
        }
        goes[index as usize][g as usize] = true;
        total = next;
    }
    let mut masks = Masks { rules: Vec::new(), parts: Vec::new() };
    let cut = KeyCut { below: STAYS, upto: STAYS, last: 0 };
    for ((((place, part), grid), groups), goes) in places.iter().zip(parts).zip(grids).zip(&found).zip(goes) {
        let before: u64 = groups.iter().map(|g| g.zeros).sum();
        let pruned: u64 = groups.iter().zip(&goes).map(|(g, goes)| if *goes { g.weights } else { g.zeros }).sum();
        masks.parts.push(PartCount { part: *part, weights: place.len(), before, pruned });
        let keys: Arc<dyn Keys> = Arc::new(GroupKeys { grid, goes });
        masks.rules.push((place.tensor, Rule::Cut(keys, Arc::new(vec![(place.clone(), cut)]))));
    }
    Ok(masks)
}

fn sum_groups(job: &Pruning<'_>, keys: &dyn Keys, place: &PartPlace, grid: &Grid) -> Result<Vec<Group>> {
    let mut groups = vec![Group::default(); grid.groups()];
    for (start, len) in cut_blocks(place.len()) {
        job.weights.visit_keys(keys, place, start, len, &mut |at, keys| {
            grid.stretches(at, keys.len(), |i, n, g| {
                let group = &mut groups[g];
                for k in &keys[i..i + n] {
                    group.sum += f64::from(score_of(*k));
                    group.zeros += u64::from(*k == 0);
                }
                group.weights += n as u64;
            });
        })?;
        job.watch.tick(len)?;
    }
    Ok(groups)
}

/// Decisions a group, given as keys.
struct GroupKeys {
    grid: Grid,
    goes: Vec<bool>,
}

impl Keys for GroupKeys {
    fn keys(&self, _: &PartPlace, start: u64, values: &[f32], keys: &mut [u32]) -> Result<()> {
        self.grid.stretches(start, keys.len(), |i, n, g| {
            let decision = if self.goes[g] { GOES } else { STAYS };
            for (key, value) in keys[i..i + n].iter_mut().zip(&values[i..i + n]) {
                *key = if *value == 0.0 { 0 } else { decision };
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(rows: u64, cols: u64) -> PartPlace {
        PartPlace {
            tensor: 0,
            tensor_name: "w".into(),
            shape: [rows, cols].into(),
            name: "w".into(),
            class: "c".into(),
            offset: 0,
            rows,
            cols,
            column_major: false,
            position: 0,
        }
    }

    #[test]
    fn n_of_m_keeps_the_largest_and_the_tail() {
        let keys = [5, 1, 4, 2, 9, 9, 9, 9, 7, 8];
        let kept = keep_n_of_m(&keys, Order::RowMajor, &place(1, 10), 10, 1, 2, 4);
        assert_eq!(kept, [true, false, true, false, false, false, true, true, true, true]);
        let kept = keep_n_of_m(&keys, Order::RowMajor, &place(2, 5), 5, 1, 2, 4);
        assert_eq!(kept, [true, false, true, false, true, false, true, true, false, true]);
    }

    #[test]
    fn n_of_m_runs_along_the_inputs_of_a_transposed_weight() {
        // Stored [inputs 4, outputs 2]; output 0 has 1 2 3 4, output 1 has 8 7 6 5.
        let keys = [1, 8, 2, 7, 3, 6, 4, 5];
        let kept = keep_n_of_m(&keys, Order::ColumnMajor, &place(2, 4), 4, 2, 2, 4);
        assert_eq!(kept, [false, true, false, true, true, false, true, false]);
    }

    #[test]
    fn grids_cover_every_weight_once() {
        for order in [Order::RowMajor, Order::ColumnMajor] {
            for pattern in [
                Pattern::Row,
                Pattern::Column,
                Pattern::Block { rows: 4, cols: 1 },
                Pattern::Block { rows: 2, cols: 3 },
            ] {
                let place = place(7, 5);
                let grid = Grid::new(pattern, &place, order);
                let mut seen = vec![0; grid.groups()];
                let mut covered = 0;
                for start in [0u64, 10, 20, 30] {
                    let len = 10.min(35 - start as usize);
                    grid.stretches(start, len, |i, n, g| {
                        assert!((0..n).all(|k| grid.of(start + (i + k) as u64) == g));
                        seen[g] += n;
                        covered += n;
                    });
                }
                assert_eq!(covered, 35);
                assert!(seen.iter().all(|n| *n > 0));
            }
        }
    }
}
