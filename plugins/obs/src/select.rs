//! The weights of least score. Scores are counted by their first bits, so that only those that share the bits of the last
//! one are compared; on all threads.

use std::ops::Range;

use compress_sdk::Result;

use crate::slices;

/// |score|, |weight| as bits, which have the order of numbers that are not negative, and the index.
pub type Key = (u32, u32, u32);

/// The key of a weight.
pub fn key(score: f32, weight: f32, index: usize) -> Key {
    (score.abs().to_bits(), weight.abs().to_bits(), index as u32)
}

/// First bits of a score after its sign: the exponent and four of the mantissa.
const BITS: u32 = 12;

fn bin(key: &Key) -> usize {
    (key.0 >> (31 - BITS)) as usize
}

/// The last of the `count` least of these keys: none where `count` is 0, and where there are fewer keys one that is beyond
/// all.
pub fn last<I: Iterator<Item = Key>>(
    count: usize,
    runs: Vec<Range<usize>>,
    keys: impl Fn(Range<usize>) -> I + Sync,
) -> Result<Option<Key>> {
    if count == 0 {
        return Ok(None);
    }
    let mut counted: Vec<Vec<u32>> = vec![Vec::new(); runs.len()];
    slices::run(counted.iter_mut().zip(runs.iter().cloned()).collect(), |(counted, run)| {
        counted.resize(1 << BITS, 0);
        keys(run).for_each(|key| counted[bin(&key)] += 1);
        Ok(())
    })?;
    let mut before = 0;
    let found = (0..1 << BITS).find(|b| {
        let here: usize = counted.iter().map(|c| c[*b] as usize).sum();
        let found = before + here >= count;
        before += if found { 0 } else { here };
        found
    });
    let Some(found) = found else { return Ok(Some((u32::MAX, u32::MAX, u32::MAX))) };
    let mut close: Vec<Vec<Key>> = vec![Vec::new(); runs.len()];
    slices::run(close.iter_mut().zip(runs).collect(), |(close, run)| {
        close.extend(keys(run).filter(|key| bin(key) == found));
        Ok(())
    })?;
    let mut close = close.concat();
    Ok(Some(*close.select_nth_unstable(count - before - 1).1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_is_that_of_a_sorted_list() {
        for (len, levels) in [(1, 1), (2, 1), (65, 3), (1000, 7), (1000, 1 << 20)] {
            let score = |i: usize| (i * 7919 % levels) as f32 / 3.0;
            let weight = |i: usize| (i * 31 % 5) as f32 - 2.0;
            let keys = |range: Range<usize>| range.map(|i| key(score(i), weight(i), i));
            let mut sorted: Vec<Key> = keys(0..len).collect();
            sorted.sort_unstable();
            for count in [0, 1, len / 2, len] {
                let runs = (0..len).step_by(64).map(|first| first..(first + 64).min(len)).collect();
                let expected = count.checked_sub(1).map(|at| sorted[at]);
                assert_eq!(last(count, runs, keys).unwrap(), expected, "{count} of {len}, {levels} scores");
            }
            let beyond = last(len + 1, std::iter::once(0..len).collect(), keys).unwrap();
            assert!(sorted.iter().all(|key| Some(*key) <= beyond));
        }
    }
}
