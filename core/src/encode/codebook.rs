//! One-dimensional k-means (Lloyd 1982) over a histogram, so that memory does not grow with the tensor and the result
//! does not depend on the number of threads.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of an f32 that make its bin: sign, exponent, 12 bits of the mantissa.
const SHIFT: u32 = 11;
const BINS: usize = 1 << (32 - SHIFT);
const ROUNDS: usize = 100;

/// How often which values occur, to 13 bits of precision; exact where a bin has one value only.
pub struct Histogram {
    counts: Vec<AtomicU64>,
    least: Vec<AtomicU32>,
    most: Vec<AtomicU32>,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: (0..BINS).map(|_| AtomicU64::new(0)).collect(),
            least: (0..BINS).map(|_| AtomicU32::new(u32::MAX)).collect(),
            most: (0..BINS).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

/// Integers that order as floats do.
fn ordered(v: f32) -> u32 {
    let bits = v.to_bits();
    bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000)
}

fn unordered(key: u32) -> f32 {
    f32::from_bits(if key & 0x8000_0000 != 0 { key ^ 0x8000_0000 } else { !key })
}

impl Histogram {
    /// Counts a finite value.
    pub fn add(&self, v: f32) {
        let key = ordered(v);
        let bin = (key >> SHIFT) as usize;
        self.counts[bin].fetch_add(1, Ordering::Relaxed);
        if self.least[bin].load(Ordering::Relaxed) > key {
            self.least[bin].fetch_min(key, Ordering::Relaxed);
        }
        if self.most[bin].load(Ordering::Relaxed) < key {
            self.most[bin].fetch_max(key, Ordering::Relaxed);
        }
    }

    /// Values and their counts, rising.
    pub fn values(&self) -> Vec<(f64, u64)> {
        let load = |list: &[AtomicU32], i: usize| f64::from(unordered(list[i].load(Ordering::Relaxed)));
        let count = |i: usize| self.counts[i].load(Ordering::Relaxed);
        let used = (0..BINS).filter(|i| count(*i) > 0);
        used.map(|i| ((load(&self.least, i) + load(&self.most, i)) / 2.0, count(i))).collect()
    }
}

/// At most `k` centres that make the sum of squared distances small: begun at quantiles of density^⅓ (Panter & Dite
/// 1951), then Lloyd's rounds. As many values as centres are kept exactly.
pub fn kmeans(values: &[(f64, u64)], k: usize) -> Vec<f32> {
    if values.len() <= k {
        return values.iter().map(|(v, _)| *v as f32).collect();
    }
    // Sums before each bin: weights, weights · values.
    let (mut counts, mut sums) = (vec![0f64], vec![0f64]);
    for (v, n) in values {
        counts.push(counts[counts.len() - 1] + *n as f64);
        sums.push(sums[sums.len() - 1] + *n as f64 * v);
    }
    let mut centres = begin(values, k);
    for _ in 0..ROUNDS {
        let mut edges = vec![0];
        edges.extend(centres.windows(2).map(|p| values.partition_point(|(v, _)| *v <= (p[0] + p[1]) / 2.0)));
        edges.push(values.len());
        let mut next = centres.clone();
        for (centre, edge) in next.iter_mut().zip(edges.windows(2)) {
            let count = counts[edge[1]] - counts[edge[0]];
            if count > 0.0 {
                *centre = (sums[edge[1]] - sums[edge[0]]) / count;
            }
        }
        let moved = centres.iter().zip(&next).any(|(a, b)| (a - b).abs() > 1e-7 * a.abs());
        centres = next;
        if !moved {
            break;
        }
    }
    centres.into_iter().map(|c| c as f32).collect()
}

/// Centres at the middles of k equal shares of ∫ density^⅓, the density taken in 4096 equal intervals.
fn begin(values: &[(f64, u64)], k: usize) -> Vec<f64> {
    const INTERVALS: usize = 4096;
    let (low, high) = (values[0].0, values[values.len() - 1].0);
    let step = (high - low) / INTERVALS as f64;
    let mut density = vec![0f64; INTERVALS];
    for (v, n) in values {
        density[(((v - low) / step) as usize).min(INTERVALS - 1)] += *n as f64;
    }
    let total: f64 = density.iter().map(|d| d.cbrt()).sum();
    let (mut centres, mut seen) = (Vec::with_capacity(k), 0.0);
    for (i, d) in density.iter().enumerate() {
        seen += d.cbrt();
        while centres.len() < k && seen >= total * (centres.len() as f64 + 0.5) / k as f64 {
            centres.push(low + (i as f64 + 0.5) * step);
        }
    }
    centres.resize(k, high);
    centres
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_are_kept_exactly() {
        let histogram = Histogram::default();
        for v in [0.1f32, -0.3, 0.1, -0.0, 1e-40, f32::MAX] {
            histogram.add(v);
        }
        let got = kmeans(&histogram.values(), 8);
        assert_eq!(
            got.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            [-0.3f32, -0.0, 1e-40, 0.1, f32::MAX].map(f32::to_bits)
        );
    }

    #[test]
    fn centres_are_the_means_of_their_clusters() {
        let values: Vec<(f64, u64)> = [(0.0, 1), (1.0, 3), (10.0, 1), (12.0, 1)].to_vec();
        assert_eq!(kmeans(&values, 2), [0.75, 11.0]);
    }

    #[test]
    fn a_normal_distribution_comes_near_the_best_quantiser() {
        // Max 1960: 16 levels of a normal distribution, mean squared error 0.009497.
        let values: Vec<(f64, u64)> = (-4000..=4000)
            .map(|i| (f64::from(i) / 1000.0, (1e6 * (-f64::from(i) * f64::from(i) / 2e6).exp()) as u64))
            .collect();
        let centres = kmeans(&values, 16);
        let (mut error, mut count) = (0.0, 0.0);
        for (v, n) in values {
            let near = centres.iter().map(|c| (f64::from(*c) - v).powi(2)).fold(f64::MAX, f64::min);
            (error, count) = (error + near * n as f64, count + n as f64);
        }
        assert!((error / count) < 0.0097, "{}", error / count);
    }
}
