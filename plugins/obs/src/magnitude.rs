//! Magnitude at the same count: what Optimal Brain Surgeon must beat.

use crate::layer::{Choice, Layer, Quota, least};

/// The smallest |w| go; nothing is updated.
pub fn choose(layer: &Layer, quota: &Quota) -> Choice {
    by_score(layer, quota, |i| layer.weights[i])
}

/// The smallest |score| of an index go, in the quota's pattern; nothing is updated.
pub fn by_score(layer: &Layer, quota: &Quota, score: impl Fn(usize) -> f32) -> Choice {
    let candidates = |range: std::ops::Range<usize>| {
        range.filter(|i| layer.eligible[*i]).map(|i| (score(i), layer.weights[i], i as u32))
    };
    if quota.m == 0 {
        return Choice::without(layer, least(candidates(0..layer.len()), quota.remaining));
    }
    let groups = layer.cols / quota.m;
    let mut more = Vec::with_capacity(quota.remaining);
    for i in 0..layer.rows * groups {
        let first = i / groups * layer.cols + i % groups * quota.m;
        let gone = layer.eligible[first..first + quota.m].iter().filter(|e| !**e).count();
        more.extend(least(candidates(first..first + quota.m), quota.of_group(gone)));
    }
    Choice::without(layer, more)
}
