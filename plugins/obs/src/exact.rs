//! The exact form: again and again the weight of least cost goes, the rest of its row is updated, and H⁻¹ loses a row and a
//! column (Frantar & Alistarh, "Optimal Brain Compression", NeurIPS 2022, arXiv 2208.11580, algorithms 1 and 2).
//!
//! H⁻¹ ← H⁻¹ − H⁻¹ e_q e_qᵀ H⁻¹ / [H⁻¹]_qq   without row and column q   (lemma 1)
//!
//! | symbol | variable | shape | meaning |
//! |---|---|---|---|
//! | w | `w` | k | a row's weights that are still there |
//! | H⁻¹ | `a`, `diagonal` | k × k | inverse over those, its lower triangle and its diagonal |
//! | q | `q` | | the weight that goes |
//! | L_q | `losses` | | what it costs |
//!
//! Rows do not touch each other, so each is taken apart to its end by itself (its *trace*). Then the weights of all rows
//! compete: the row whose next weight costs least gives it away, until the quota is met. What stays of a row is then
//! solved for at once from H, which is where the updates lead without their rounding:
//!
//! ŵ_K = (H_KK)⁻¹ H_K: w   over the kept K   (eq. 5 of Hassibi & Stork, for all that went together)

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use compress_sdk::{Result, host};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, MatMut, MatRef, Par};

use crate::hessian::{Hessian, Inputs, Slice, not_positive};
use crate::kernels::{cholesky, solve, subtract, vectorised};
use crate::layer::{Choice, Layer, Quota};
use crate::slices;

/// Rows that one thread takes apart before it asks whether to go on.
const ROWS: usize = 8;

/// The order in which a row's weights go, and what each costs.
#[derive(Default)]
struct Trace {
    columns: Vec<u32>,
    losses: Vec<f64>,
}

/// Chooses by the exact form.
pub fn choose(layer: &Layer, inputs: &Inputs<'_>, quota: &Quota) -> Result<Choice> {
    let groups: Vec<Group> = (0..inputs.groups()).map(|g| Group::new(inputs.hessian(g)?)).collect::<Result<_>>()?;
    let slices = inputs.slices(layer.rows, ROWS);
    let mut traces: Vec<Trace> = (0..layer.rows).map(|_| Trace::default()).collect();
    let pieces = slices::cut(&mut traces, 1, slices.iter().map(|s| s.rows.len()));
    slices::run(pieces.into_iter().zip(&slices).collect(), |(traces, slice)| {
        let group = &groups[slice.group];
        let mut row = Row::default();
        for (trace, r) in traces.iter_mut().zip(slice.rows.clone()) {
            let at = r * layer.cols..(r + 1) * layer.cols;
            *trace = vectorised(|| row.take_apart(group, &layer.weights[at.clone()], &layer.eligible[at], quota))?;
        }
        host::progress(0.9 * slice.rows.end as f64 / layer.rows as f64);
        Ok(())
    })?;
    let counts = shares(&traces, quota);
    solve_for_the_rest(layer, &groups, &slices, &traces, &counts)
}

/// How many weights each row gives away: under n:m all of its trace, else those of the least next cost.
fn shares(traces: &[Trace], quota: &Quota) -> Vec<usize> {
    if quota.m > 0 {
        return traces.iter().map(|t| t.columns.len()).collect();
    }
    let mut counts = vec![0; traces.len()];
    // Costs are not negative, so their bits have their order.
    let next = |row: usize, count: usize| traces[row].losses.get(count).map(|loss| Reverse((loss.to_bits(), row)));
    let mut heap: BinaryHeap<_> = (0..traces.len()).filter_map(|row| next(row, 0)).collect();
    for _ in 0..quota.remaining {
        let Some(Reverse((_, row))) = heap.pop() else { break };
        counts[row] += 1;
        heap.extend(next(row, counts[row]));
    }
    counts
}

fn solve_for_the_rest(
    layer: &Layer,
    groups: &[Group],
    slices: &[Slice],
    traces: &[Trace],
    counts: &[usize],
) -> Result<Choice> {
    let gone_now = traces
        .iter()
        .zip(counts)
        .enumerate()
        .flat_map(|(r, (trace, count))| trace.columns[..*count].iter().map(move |c| (r * layer.cols) as u32 + c));
    let mut choice = Choice::without(layer, gone_now);
    let Choice { gone, weights } = &mut choice;
    let pieces = slices::cut(weights, layer.cols, slices.iter().map(|s| s.rows.len()));
    slices::run(pieces.into_iter().zip(slices).collect(), |(weights, slice)| {
        let group = &groups[slice.group];
        for (new, r) in weights.chunks_exact_mut(layer.cols).zip(slice.rows.clone()) {
            if counts[r] > 0 {
                let at = r * layer.cols..(r + 1) * layer.cols;
                vectorised(|| group.refit(&layer.weights[at.clone()], &gone[at], new))?;
            }
        }
        Ok(())
    })?;
    Ok(choice)
}

/// H and H⁻¹ that rows share.
struct Group {
    hessian: Hessian,
    /// k × k, row-major, its lower triangle valid.
    h_inv: Vec<f64>,
}

impl Group {
    fn new(hessian: Hessian) -> Result<Group> {
        let k = hessian.live.len();
        let mut l = hessian.h.clone();
        vectorised(|| cholesky(&mut l, k)).map_err(|(i, pivot)| not_positive(hessian.live[i], pivot))?;
        let l = MatRef::from_row_major_slice(&l, k, k);
        let mut l_inv = vec![0f64; k * k];
        (0..k).for_each(|i| l_inv[i * k + i] = 1.0);
        let mut h_inv = vec![0f64; k * k];
        solve_lower_triangular_in_place(l, MatMut::from_row_major_slice_mut(&mut l_inv, k, k), Par::Seq);
        let l_inv = MatRef::from_row_major_slice(&l_inv, k, k);
        let into = MatMut::from_row_major_slice_mut(&mut h_inv, k, k);
        matmul(into, Accum::Replace, l_inv.transpose(), l_inv, 1.0, Par::Seq);
        Ok(Group { hessian, h_inv })
    }

    /// The kept weights of a row, solved for at once. Weights of dead inputs stay as they are.
    #[inline(always)]
    fn refit(&self, old: &[f32], gone: &[bool], new: &mut [f32]) -> Result<()> {
        let Hessian { h, live } = &self.hessian;
        let k = live.len();
        let kept: Vec<usize> = (0..k).filter(|i| !gone[live[*i]]).collect();
        let n = kept.len();
        let mut corner = vec![0f64; n * n];
        let mut right = vec![0f64; n];
        for (a, i) in kept.iter().enumerate() {
            let row = &h[i * k..(i + 1) * k];
            kept[..=a].iter().enumerate().for_each(|(b, j)| corner[a * n + b] = row[*j]);
            right[a] = row.iter().zip(live).map(|(h, c)| h * f64::from(old[*c])).sum();
        }
        cholesky(&mut corner, n).map_err(|(i, pivot)| not_positive(live[kept[i]], pivot))?;
        solve(&corner, n, &mut right);
        kept.iter().zip(right).for_each(|(i, w)| new[live[*i]] = w as f32);
        Ok(())
    }
}

/// A row while it is taken apart. What goes is replaced by the last of what is still there.
#[derive(Default)]
struct Row {
    a: Vec<f64>,
    stride: usize,
    diagonal: Vec<f64>,
    w: Vec<f64>,
    /// The column of each.
    columns: Vec<u32>,
    /// Column q of H⁻¹.
    h_inv_q: Vec<f64>,
}

impl Row {
    /// Takes weights until none is left, or none that n:m allows.
    #[inline(always)]
    fn take_apart(&mut self, group: &Group, weights: &[f32], eligible: &[bool], quota: &Quota) -> Result<Trace> {
        let live = &group.hessian.live;
        self.fill(group, weights, eligible)?;
        let mut room = Room::new(quota, eligible);
        let mut trace = Trace::default();
        // Weights of dead inputs cost nothing and change nothing.
        let mut is_live = vec![false; weights.len()];
        live.iter().for_each(|c| is_live[*c] = true);
        let mut dead: Vec<u32> =
            (0..weights.len()).filter(|c| !is_live[*c] && eligible[*c]).map(|c| c as u32).collect();
        dead.sort_by(|a, b| weights[*a as usize].abs().total_cmp(&weights[*b as usize].abs()));
        for column in dead {
            if room.take(column) {
                trace.columns.push(column);
                trace.losses.push(0.0);
            }
        }
        while let Some((q, loss)) = self.cheapest(&room)? {
            let column = self.columns[q];
            room.take(column);
            trace.columns.push(column);
            trace.losses.push(loss);
            self.remove(q);
        }
        Ok(trace)
    }

    /// H⁻¹ over the row's weights that are still there.
    #[inline(always)]
    fn fill(&mut self, group: &Group, weights: &[f32], eligible: &[bool]) -> Result<()> {
        let live = &group.hessian.live;
        let k = live.len();
        self.stride = k;
        self.a.clear();
        self.a.extend_from_slice(&group.h_inv);
        self.columns.clear();
        self.columns.extend(live.iter().map(|c| *c as u32));
        self.diagonal.clear();
        self.diagonal.extend((0..k).map(|i| group.h_inv[i * k + i]));
        self.w.clear();
        self.w.extend(live.iter().map(|c| f64::from(weights[*c])));
        self.h_inv_q.resize(k, 0.0);
        for i in (0..k).rev().filter(|i| !eligible[live[*i]]) {
            self.positive(i)?;
            self.remove(i);
        }
        Ok(())
    }

    fn positive(&self, q: usize) -> Result<f64> {
        let h = self.diagonal[q];
        if h > 0.0 && h.is_finite() { Ok(h) } else { Err(not_positive(self.columns[q] as usize, h)) }
    }

    /// The weight of least cost, of several the one of the first column.
    #[inline(always)]
    fn cheapest(&self, room: &Room) -> Result<Option<(usize, f64)>> {
        let mut best: Option<(usize, f64)> = None;
        for (i, (w, h)) in self.w.iter().zip(&self.diagonal).enumerate() {
            let loss = w * w / (2.0 * h); // eq. 5, cost
            let better = match best {
                Some((b, least)) => loss < least || (loss == least && self.columns[i] < self.columns[b]),
                None => true,
            };
            if better && room.allows(self.columns[i]) {
                best = Some((i, loss));
            }
        }
        if let Some((q, _)) = best {
            self.positive(q)?;
        }
        Ok(best)
    }

    /// Takes weight q away: the others are updated, and H⁻¹ loses its row and column.
    #[inline(always)]
    fn remove(&mut self, q: usize) {
        let (n, stride) = (self.w.len(), self.stride);
        let v = &mut self.h_inv_q[..n];
        v[..q].copy_from_slice(&self.a[q * stride..][..q]);
        for (i, v) in v.iter_mut().enumerate().skip(q + 1) {
            *v = self.a[i * stride + q];
        }
        v[q] = self.diagonal[q];
        let v = &self.h_inv_q[..n];
        let h = v[q];
        let step = self.w[q] / h;
        subtract(&mut self.w, step, v); // eq. 5, update
        for (i, row) in self.a.chunks_exact_mut(stride).take(n).enumerate() {
            let f = v[i] / h;
            subtract(&mut row[..i], f, &v[..i]); // lemma 1
            self.diagonal[i] -= f * v[i];
        }
        let last = n - 1;
        if q < last {
            let (before, row) = self.a.split_at_mut(last * stride);
            before[q * stride..][..q].copy_from_slice(&row[..q]);
            for i in q + 1..last {
                before[i * stride + q] = row[i];
            }
        }
        self.diagonal.swap_remove(q);
        self.w.swap_remove(q);
        self.columns.swap_remove(q);
    }
}

/// How many weights each group of an n:m pattern may still lose.
struct Room {
    m: usize,
    left: Vec<usize>,
}

impl Room {
    fn new(quota: &Quota, eligible: &[bool]) -> Room {
        if quota.m == 0 {
            return Room { m: 0, left: Vec::new() };
        }
        let gone = |group: &[bool]| group.iter().filter(|e| !**e).count();
        let left = eligible.chunks_exact(quota.m).map(|group| quota.of_group(gone(group))).collect();
        Room { m: quota.m, left }
    }

    #[inline(always)]
    fn allows(&self, column: u32) -> bool {
        self.m == 0 || self.left.get(column as usize / self.m).is_some_and(|left| *left > 0)
    }

    /// Takes a weight, if it may go.
    fn take(&mut self, column: u32) -> bool {
        let allowed = self.allows(column);
        if allowed && self.m > 0 {
            self.left[column as usize / self.m] -= 1;
        }
        allowed
    }
}
