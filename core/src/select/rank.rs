//! The k-th of a stream of keys, exactly, in bounded memory.

use std::ops::Range;

use super::key::{Cut, Norm, count_below};
use crate::error::{Error, Result};
use crate::ordered::try_map;
use crate::simd::scan;

/// A block of a population: weights that lie side by side in one part.
#[derive(Clone, Copy, Debug)]
pub struct KeyBlock {
    /// Position of its first weight in the order that breaks ties; blocks come in rising order of position.
    pub first: u64,
    /// Number of weights (fewer than 2^32).
    pub len: usize,
    /// The normalisation of its class.
    pub norm: Norm,
}

/// The keys of a population, block by block, as often as asked and from any thread.
pub trait KeyStream: Sync {
    /// The blocks in order of position.
    fn blocks(&self) -> &[KeyBlock];
    /// Hands the keys of a range of a block to `visit`, in runs, each with its start within the block.
    fn visit(&self, block: usize, range: Range<usize>, visit: &mut dyn FnMut(usize, &[u32])) -> Result<()>;
    /// For each bound how many keys of a block are below it.
    fn count_below(&self, block: usize, bounds: &[u32]) -> Result<Vec<u64>> {
        let mut counts = vec![0; bounds.len()];
        self.visit(block, 0..self.blocks()[block].len, &mut |_, keys| {
            counts.iter_mut().zip(bounds).for_each(|(count, bound)| *count += count_below(keys, *bound));
        })?;
        Ok(counts)
    }
    /// Whether counting is much cheaper than visiting.
    fn counts_cheaply(&self) -> bool {
        false
    }
    /// How many neighbours to sample together: few are better, many are cheaper where each visit is dear.
    fn sample_run(&self) -> usize {
        256
    }
    /// Called once a pass and block, for progress and cancellation.
    fn tick(&self, weights: usize) -> Result<()> {
        let _ = weights;
        Ok(())
    }
}

/// The result of a selection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selected {
    /// Where the order is cut.
    pub cut: Cut,
    /// How many weights of each block go, those that were zero before among them.
    pub pruned: Vec<u64>,
    /// How many weights of each block were zero before.
    pub zeros: Vec<u64>,
}

/// Limits of memory; smaller ones in tests.
#[derive(Clone, Copy)]
struct Limits {
    /// Populations up to this size are collected whole.
    small: u64,
    /// At most this many (key, position) pairs are collected.
    collect: u64,
    /// At most 2^this bins.
    bins_log2: u32,
    /// Most sampled keys.
    sample: u64,
}

const LIMITS: Limits = Limits { small: 1 << 20, collect: 4 << 20, bins_log2: 16, sample: 2 << 20 };

/// Likely orders that are counted in one pass.
const MOST_LIKELY: usize = 6;

/// Selects the `target` lowest of the population; zero weights go in any case, so the result may be more than
/// `target`, and is exactly `target` otherwise. `target` must not exceed the population.
pub fn select(stream: &dyn KeyStream, target: u64) -> Result<Selected> {
    select_within(stream, target, LIMITS)
}

fn select_within(stream: &dyn KeyStream, target: u64, limits: Limits) -> Result<Selected> {
    let total: u64 = stream.blocks().iter().map(|b| b.len as u64).sum();
    assert!(target <= total, "{target} of {total} weights");
    let (mut low, mut high) = (0, u64::MAX);
    let mut guess = 0;
    let mut collect = total <= limits.small;
    if !collect && target > 0 {
        let sample = Sample::draw(stream, target, total, limits.sample)?;
        (low, high, guess) = (sample.low, sample.high, sample.guess);
        collect = sample.expected <= limits.collect;
        let likely = match sample.between(MOST_LIKELY) {
            Some(orders) if stream.counts_cheaply() => orders,
            _ if collect => Vec::new(),
            _ => sample.around(),
        };
        if !likely.is_empty()
            && let Some(selected) = Ties::run(stream, target, &likely)?
        {
            return Ok(selected);
        }
    }
    loop {
        let pass = Pass::run(stream, low, high, guess, collect, limits)?;
        let (below, within) = (pass.sum(|b| b.below), pass.sum(|b| b.within));
        if target == 0 || pass.sum(|b| b.zeros) >= target {
            let zeros: Vec<u64> = pass.blocks.iter().map(|b| b.zeros).collect();
            return Ok(Selected { cut: Cut::NOTHING_NEW, pruned: zeros.clone(), zeros });
        }
        if target <= below {
            (high, low) = (low - 1, 0);
            collect = false;
        } else if target > below + within {
            (low, high) = (high + 1, u64::MAX);
            collect = false;
        } else if collect && !pass.overflow {
            return Ok(pass.cut_collected(stream, target - below));
        } else if collect {
            collect = false;
        } else {
            let bin = pass.bin_of(target - below, low);
            if bin.low == bin.high {
                return pass.cut_exact(stream, target, bin.low, guess, limits);
            }
            (low, high) = (bin.low, bin.high);
            guess = if guess < low || guess > high { low } else { guess };
            collect = bin.count <= limits.collect;
        }
    }
}

/// What sampled orders tell of where the target lies.
struct Sample {
    /// Orders between which it lies with near certainty.
    low: u64,
    high: u64,
    /// The likeliest one.
    guess: u64,
    /// The sampled orders from `low` to `high`, rising, and the nearest on either side.
    within: Vec<u64>,
    before: Option<u64>,
    after: Option<u64>,
    /// How many weights are expected from `low` to `high`.
    expected: u64,
}

impl Sample {
    fn draw(stream: &dyn KeyStream, target: u64, total: u64, most: u64) -> Result<Sample> {
        let wanted = (total / 256).max(1 << 16).min(most).min(total);
        let run = stream.sample_run();
        let runs = wanted.div_ceil(run as u64).max(1);
        let mut places = Vec::new();
        let (mut next, mut seen) = (0u64, 0u64);
        for (index, block) in stream.blocks().iter().enumerate() {
            let end = seen + block.len as u64;
            while next < runs {
                let at = (u128::from(next) * u128::from(total) / u128::from(runs)) as u64;
                if at >= end {
                    break;
                }
                let start = (at - seen) as usize;
                places.push((index, start..(start + run).min(block.len)));
                next += 1;
            }
            seen = end;
        }
        let orders = try_map(places, |(index, range)| {
            let norm = stream.blocks()[index].norm;
            let mut orders = Vec::with_capacity(range.len());
            stream.visit(index, range, &mut |_, keys| orders.extend(keys.iter().map(|k| norm.order(*k))))?;
            Ok(orders)
        })?;
        Ok(Sample::of(orders.concat(), target, total))
    }

    /// Sampled runs are neighbours and so alike: the spread is taken wider than that of independent draws.
    fn of(mut orders: Vec<u64>, target: u64, total: u64) -> Sample {
        let n = orders.len() as f64;
        let p = target as f64 / total as f64;
        let centre = p * n;
        let spread = 4.0 * (p * (1.0 - p) * n).sqrt() * 1.5 + 16.0;
        let mut nth = |i: f64| (i < n).then(|| *orders.select_nth_unstable(i as usize).1);
        let low = if centre - spread < 0.0 { 0 } else { nth(centre - spread).unwrap_or(0) };
        let high = nth(centre + spread).unwrap_or(u64::MAX);
        let guess = nth(centre.min(n - 1.0)).unwrap_or(low);
        let before = orders.iter().copied().filter(|o| *o < low).max();
        let after = orders.iter().copied().filter(|o| *o > high).min();
        orders.retain(|o| (low..=high).contains(o));
        orders.sort_unstable();
        let expected = (orders.len() as f64 / n * total as f64) as u64;
        Sample { low, high, guess, within: orders, before, after, expected }
    }

    /// The guess and its neighbours, rising.
    fn around(&self) -> Vec<u64> {
        let upto = self.within.partition_point(|o| *o <= self.guess);
        let from = self.within.partition_point(|o| *o < self.guess);
        let before = from.checked_sub(1).map(|i| self.within[i]).or(self.before);
        let after = self.within.get(upto).copied().or(self.after);
        before.into_iter().chain([self.guess]).chain(after).collect()
    }

    /// The orders from `low` to `high`, rising, where they are at most so many.
    fn between(&self, most: usize) -> Option<Vec<u64>> {
        let (mut orders, mut at) = (Vec::new(), 0);
        while let Some(order) = self.within.get(at) {
            if orders.len() == most {
                return None;
            }
            orders.push(*order);
            at += self.within[at..].partition_point(|o| o == order);
        }
        Some(orders)
    }
}

/// One pass for populations in which many weights share few scores, such as bf16: counts what lies below and at each of
/// a few likely orders. Where the cut is one of them, nothing more needs to be read.
struct Ties;

/// Of a block: zeros, and for each likely order how many weights are less and how many equal.
type TieCounts = (u64, Vec<(u64, u64)>);

impl Ties {
    fn run(stream: &dyn KeyStream, target: u64, orders: &[u64]) -> Result<Option<Selected>> {
        let blocks = stream.blocks();
        let found: Vec<TieCounts> = try_map(0..blocks.len(), |index| {
            let norm = blocks[index].norm;
            let cuts = orders.iter().map(|o| Cut { order: *o, last: 0 }.for_norm(norm));
            let bounds: Vec<u32> = [1].into_iter().chain(cuts.flat_map(|c| [c.below, c.upto])).collect();
            let counts = stream.count_below(index, &bounds)?;
            stream.tick(blocks[index].len)?;
            Ok((counts[0], counts[1..].chunks(2).map(|c| (c[0], c[1] - c[0])).collect()))
        })?;
        if found.iter().map(|(zeros, _)| zeros).sum::<u64>() >= target {
            return Ok(None);
        }
        for (i, order) in orders.iter().enumerate() {
            let less: u64 = found.iter().map(|(_, counts)| counts[i].0).sum();
            let equal: u64 = found.iter().map(|(_, counts)| counts[i].1).sum();
            if less < target && target <= less + equal {
                let counts = found.iter().map(|(_, counts)| counts[i]);
                let zeros = found.iter().map(|(zeros, _)| *zeros).collect();
                return cut_ties(stream, target, *order, counts, zeros).map(Some);
            }
        }
        Ok(None)
    }
}

/// The cut at a known order, from counts of lesser and equal weights in each block: finds the position of the last
/// tied weight that goes.
fn cut_ties(
    stream: &dyn KeyStream,
    target: u64,
    order: u64,
    counts: impl Iterator<Item = (u64, u64)>,
    zeros: Vec<u64>,
) -> Result<Selected> {
    let counts: Vec<(u64, u64)> = counts.collect();
    let mut pruned: Vec<u64> = counts.iter().map(|(less, _)| *less).collect();
    let mut ties = target.checked_sub(pruned.iter().sum()).filter(|t| *t > 0).ok_or_else(changed)?;
    for (index, (_, equal)) in counts.iter().enumerate() {
        let here = (*equal).min(ties);
        pruned[index] += here;
        ties -= here;
        if ties == 0 {
            let last = nth_tie(stream, index, order, here)?.ok_or_else(changed)? + stream.blocks()[index].first;
            return Ok(Selected { cut: Cut { order, last }, pruned, zeros });
        }
    }
    Err(changed())
}

/// What one pass found in a block.
#[derive(Default)]
struct BlockCount {
    zeros: u64,
    below: u64,
    within: u64,
    less_than_guess: u64,
    equal_to_guess: u64,
    /// Collected (key, index within the block).
    items: Vec<(u32, u32)>,
}

struct Pass {
    blocks: Vec<BlockCount>,
    bins: Vec<u64>,
    shift: u32,
    overflow: bool,
}

struct Bin {
    low: u64,
    high: u64,
    count: u64,
}

impl Pass {
    fn run(stream: &dyn KeyStream, low: u64, high: u64, guess: u64, collect: bool, limits: Limits) -> Result<Pass> {
        let span = high - low;
        let shift = (64 - span.leading_zeros()).saturating_sub(limits.bins_log2);
        let bins = if collect { 0 } else { (span >> shift) as usize + 1 };
        let collected = std::sync::atomic::AtomicU64::new(0);
        // Each of a fixed number of slices has its own histogram: integer sums do not depend on who adds them.
        let slices = rayon::current_num_threads().clamp(1, 16);
        let count = stream.blocks().len();
        let parts = try_map(0..slices, |slice| {
            let mut hist = vec![0u64; bins];
            let mut counts = Vec::new();
            for index in (count * slice / slices)..(count * (slice + 1) / slices) {
                let block = stream.blocks()[index];
                let scan = Scan::new(block.norm, low, high, guess, shift);
                let room = limits.collect.max(limits.small);
                let over = collected.load(std::sync::atomic::Ordering::Relaxed) > room;
                let mut found = BlockCount::default();
                stream.visit(index, 0..block.len, &mut |start, keys| {
                    scan.run(start, keys, &mut found, collect && !over, &mut hist);
                })?;
                collected.fetch_add(found.items.len() as u64, std::sync::atomic::Ordering::Relaxed);
                stream.tick(block.len)?;
                counts.push(found);
            }
            Ok((counts, hist))
        })?;
        let mut pass = Pass { blocks: Vec::with_capacity(count), bins: vec![0; bins], shift, overflow: false };
        for (counts, hist) in parts {
            pass.blocks.extend(counts);
            pass.bins.iter_mut().zip(hist).for_each(|(a, b)| *a += b);
        }
        pass.overflow = collect && pass.sum(|b| b.within) != pass.sum(|b| b.items.len() as u64);
        Ok(pass)
    }

    fn sum(&self, f: impl Fn(&BlockCount) -> u64) -> u64 {
        self.blocks.iter().map(f).sum()
    }

    /// The bin that holds the `rank`-th (from 1) order at or above `low`.
    fn bin_of(&self, rank: u64, low: u64) -> Bin {
        let mut seen = 0;
        for (index, count) in self.bins.iter().enumerate() {
            if seen + count >= rank {
                let start = low + ((index as u64) << self.shift);
                let high = start.saturating_add((1u64 << self.shift) - 1);
                return Bin { low: start, high, count: *count };
            }
            seen += count;
        }
        unreachable!("the caller checked that the rank lies within the bracket")
    }

    /// The cut at the `rank`-th (from 1) collected item.
    fn cut_collected(mut self, stream: &dyn KeyStream, rank: u64) -> Selected {
        let mut all: Vec<(u64, u64)> = Vec::with_capacity(self.sum(|b| b.items.len() as u64) as usize);
        for (found, block) in self.blocks.iter().zip(stream.blocks()) {
            all.extend(found.items.iter().map(|(k, i)| (block.norm.order(*k), block.first + u64::from(*i))));
        }
        let (_, last, _) = all.select_nth_unstable(rank as usize - 1);
        let cut = Cut { order: last.0, last: last.1 };
        let pruned = self.blocks.iter_mut().zip(stream.blocks()).map(|(found, block)| {
            let keys = cut.for_norm(block.norm);
            let goes = found.items.iter().filter(|(k, i)| keys.goes(*k, block.first + u64::from(*i))).count();
            found.below + goes as u64
        });
        let pruned = pruned.collect();
        Selected { cut, pruned, zeros: self.blocks.iter().map(|b| b.zeros).collect() }
    }

    /// The cut at a known order: finds the position of the last tied weight that goes.
    fn cut_exact(
        self,
        stream: &dyn KeyStream,
        target: u64,
        order: u64,
        guess: u64,
        limits: Limits,
    ) -> Result<Selected> {
        let pass = if guess == order { self } else { Pass::run(stream, order, order, order, false, limits)? };
        let counts = pass.blocks.iter().map(|b| (b.less_than_guess, b.equal_to_guess));
        cut_ties(stream, target, order, counts, pass.blocks.iter().map(|b| b.zeros).collect())
    }
}

fn changed() -> Error {
    Error::failed(
        "the scores changed between two passes: the input was modified meanwhile, or the method is not deterministic",
    )
}

/// Index within the block of the `rank`-th (from 1) weight of an order.
fn nth_tie(stream: &dyn KeyStream, index: usize, order: u64, rank: u64) -> Result<Option<u64>> {
    let block = stream.blocks()[index];
    let keys = Cut { order, last: 0 }.for_norm(block.norm);
    let (mut seen, mut at) = (0, None);
    stream.visit(index, 0..block.len, &mut |start, run| {
        for (i, k) in run.iter().enumerate() {
            if *k >= keys.below && *k < keys.upto {
                seen += 1;
                if seen == rank {
                    at = Some((start + i) as u64);
                }
            }
        }
    })?;
    Ok(at)
}

/// The bracket and the guess in the keys of one class.
struct Scan {
    norm: Norm,
    low: u64,
    shift: u32,
    low_key: u32,
    high_key: u32,
    guess_low: u32,
    guess_high: u32,
}

impl Scan {
    fn new(norm: Norm, low: u64, high: u64, guess: u64, shift: u32) -> Scan {
        let above = |order: u64| order.checked_add(1).map_or(u32::MAX, |o| norm.least_key(o));
        Scan {
            norm,
            low,
            shift,
            low_key: norm.least_key(low),
            high_key: above(high),
            guess_low: norm.least_key(guess),
            guess_high: above(guess),
        }
    }

    fn run(&self, start: usize, keys: &[u32], found: &mut BlockCount, collect: bool, hist: &mut [u64]) {
        let span = self.high_key - self.low_key;
        let mut words = [0; SCAN / 64];
        for (index, run) in keys.chunks(SCAN).enumerate() {
            let words = &mut words[..run.len().div_ceil(64)];
            let counts = scan(run, self.low_key, span, words);
            found.zeros += counts.zeros;
            found.below += counts.below;
            found.within += counts.within;
            if counts.within == 0 || (!collect && hist.is_empty()) {
                continue;
            }
            for (w, mut left) in words.iter().copied().enumerate() {
                while left != 0 {
                    let i = w * 64 + left.trailing_zeros() as usize;
                    left &= left - 1;
                    if collect {
                        found.items.push((run[i], (start + index * SCAN + i) as u32));
                    } else {
                        hist[((self.norm.order(run[i]) - self.low) >> self.shift) as usize] += 1;
                    }
                }
            }
        }
        if !hist.is_empty() {
            let less = count_below(keys, self.guess_low);
            found.less_than_guess += less;
            found.equal_to_guess += count_below(keys, self.guess_high) - less;
        }
    }
}

/// Keys that are scanned at once.
const SCAN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::super::key::key;
    use super::*;
    use proptest::prelude::*;

    struct Plain {
        blocks: Vec<KeyBlock>,
        keys: Vec<Vec<u32>>,
        cheap: bool,
    }

    impl KeyStream for Plain {
        fn blocks(&self) -> &[KeyBlock] {
            &self.blocks
        }
        fn visit(&self, block: usize, range: Range<usize>, visit: &mut dyn FnMut(usize, &[u32])) -> Result<()> {
            for start in range.clone().step_by(100) {
                visit(start, &self.keys[block][start..(start + 100).min(range.end)]);
            }
            Ok(())
        }
        fn counts_cheaply(&self) -> bool {
            self.cheap
        }
    }

    /// Weights in blocks; each block has its σ (0 = plain everywhere).
    fn stream(blocks: &[(Vec<f32>, f64)], plain: bool) -> Plain {
        let mut first = 0;
        let mut out = Plain { blocks: Vec::new(), keys: Vec::new(), cheap: false };
        for (weights, sigma) in blocks {
            let norm = if plain { Norm::Plain } else { Norm::By(*sigma) };
            out.blocks.push(KeyBlock { first, len: weights.len(), norm });
            out.keys.push(weights.iter().map(|w| key(*w, w.abs())).collect());
            first += weights.len() as u64 + 3;
        }
        out
    }

    /// What a plain sort would take: flags in order.
    fn naive(blocks: &[(Vec<f32>, f64)], plain: bool, target: u64) -> Vec<bool> {
        let mut all: Vec<(f64, usize)> = Vec::new();
        for (weights, sigma) in blocks {
            for w in weights {
                let m = f64::from(w.abs());
                let normalised = if m == 0.0 {
                    0.0
                } else if plain {
                    m
                } else {
                    m / sigma
                };
                all.push((normalised, all.len()));
            }
        }
        let mut flags: Vec<bool> = all.iter().map(|(m, _)| *m == 0.0).collect();
        let mut sorted = all.clone();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        sorted.iter().take(target as usize).for_each(|(_, i)| flags[*i] = true);
        flags
    }

    fn check(blocks: &[(Vec<f32>, f64)], plain: bool, target: u64, limits: Limits) {
        let mut stream = stream(blocks, plain);
        let selected = select_within(&stream, target, limits).unwrap();
        stream.cheap = true;
        assert_eq!(select_within(&stream, target, limits).unwrap(), selected);
        let expected = naive(blocks, plain, target);
        let mut got = Vec::new();
        for ((block, keys), pruned) in stream.blocks.iter().zip(&stream.keys).zip(&selected.pruned) {
            let cut = selected.cut.for_norm(block.norm);
            let flags: Vec<bool> = keys.iter().enumerate().map(|(i, k)| cut.goes(*k, block.first + i as u64)).collect();
            assert_eq!(flags.iter().filter(|f| **f).count() as u64, *pruned);
            got.extend(flags);
        }
        assert_eq!(got, expected, "target {target} of {}", expected.len());
    }

    const TIGHT: [Limits; 4] = [
        LIMITS,
        Limits { small: 0, collect: 1 << 20, bins_log2: 4, sample: 64 },
        Limits { small: 0, collect: 0, bins_log2: 3, sample: 64 },
        Limits { small: 0, collect: 5, bins_log2: 1, sample: 300 },
    ];

    #[test]
    fn degenerate_populations() {
        let cases: [Vec<f32>; 6] = [
            vec![1.0],
            vec![0.0],
            vec![0.5; 65],
            vec![-0.0, 0.0, 1.0, -1.0, 1.0],
            (0..130).map(|i| ((i * 7919) % 97) as f32 - 48.0).collect(),
            vec![f32::MAX, f32::MIN_POSITIVE, 1e-45, -1e-45, f32::MAX],
        ];
        for weights in cases {
            for target in 0..=weights.len() as u64 {
                for limits in TIGHT {
                    for plain in [true, false] {
                        check(&[(weights.clone(), 0.3)], plain, target, limits);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_sort(
            blocks in prop::collection::vec(
                (prop::collection::vec(prop_oneof![Just(0.0f32), -2.0f32..2.0, (-8i8..8).prop_map(f32::from)], 0..400),
                 0.01f64..10.0), 1..5),
            share in 0.0f64..=1.0,
            plain: bool,
        ) {
            let total: usize = blocks.iter().map(|b| b.0.len()).sum();
            let target = (share * total as f64).round() as u64;
            for limits in TIGHT {
                check(&blocks, plain, target, limits);
            }
        }
    }
}
