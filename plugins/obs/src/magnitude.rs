//! Magnitude at the same count: what Optimal Brain Surgeon must beat.

use std::ops::Range;

use compress_sdk::Result;

use crate::layer::{Choice, Layer, Quota};
use crate::select::{self, Key};
use crate::slices;

/// The smallest |w| go; nothing is updated.
pub fn choose(layer: &Layer, quota: &Quota) -> Result<Choice> {
    by_score(layer, quota, |i| layer.weights[i])
}

/// The smallest |score| of an index go, in the quota's pattern; nothing is updated.
pub fn by_score(layer: &Layer, quota: &Quota, score: impl Fn(usize) -> f32 + Sync) -> Result<Choice> {
    let key = |i: usize, weight: f32| select::key(score(i), weight, i);
    let candidates = |range: Range<usize>| {
        let all = layer.weights[range.clone()].iter().zip(&layer.eligible[range.clone()]).zip(range);
        all.filter(|((_, eligible), _)| **eligible).map(|((w, _), i)| key(i, *w))
    };
    if quota.m == 0 {
        let last = select::last(quota.remaining, slices::of_list(layer.len()).collect(), candidates)?;
        return Choice::up_to(layer, last, key);
    }
    let groups = layer.cols / quota.m;
    let mut more = Vec::with_capacity(quota.remaining);
    for i in 0..layer.rows * groups {
        let first = i / groups * layer.cols + i % groups * quota.m;
        let mut keys: Vec<Key> = candidates(first..first + quota.m).collect();
        keys.sort_unstable();
        more.extend(keys.iter().take(quota.of_group(quota.m - keys.len())).map(|(_, _, i)| *i));
    }
    Ok(Choice::without(layer, more))
}
