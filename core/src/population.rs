//! Populations: which parts compete with each other, and for how many places.

use std::sync::Arc;

use crate::amount::{Amount, Quantity};
use crate::class::resolve::ClassMap;
use crate::convert::CHUNK_ELEMENTS;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ordered::try_map;
use crate::progress::Watch;
use crate::recipe::{Amounts, Scheme};
use crate::select::{KeyBlock, KeyStream, Norm};
use crate::weights::{Keys, PartPlace, Weights};

/// Weights a block: at most 1 MB of f32.
pub const BLOCK_WEIGHTS: u64 = 256 * 1024;

/// Parts that compete with each other.
#[derive(Clone, Debug)]
pub struct Population {
    /// Indices into [`ClassMap::parts`], in file order.
    pub parts: Vec<usize>,
    /// All of their weights.
    pub weights: u64,
    /// How many are to be pruned after the stage.
    pub target: u64,
}

/// Populations of a stage and the parts that have no amount.
#[derive(Clone, Debug, Default)]
pub struct Populations {
    /// In the order of the amounts' globs, then of classes.
    pub list: Vec<Population>,
    /// Selected parts that no glob of the amounts matches.
    pub without_amount: Vec<usize>,
}

impl Populations {
    /// Cuts the selected parts into populations and gives each its count. All classes under one glob of the amounts
    /// are one population, except under class-uniform, where each class is one.
    pub fn new(map: &ClassMap, parts: &[usize], scheme: Scheme, amounts: &Amounts) -> Result<Populations> {
        let mut result = Populations::default();
        let entries: Vec<(&str, &Amount)> = match amounts {
            Amounts::All(amount) => vec![("*", amount)],
            Amounts::ByClass(list) => list.iter().map(|(g, a)| (g.as_str(), a)).collect(),
        };
        let mut under: Vec<Vec<usize>> = vec![Vec::new(); entries.len()];
        for part in parts {
            match entries.iter().position(|(glob, _)| map.part_matches(*part, glob)) {
                Some(i) => under[i].push(*part),
                None => result.without_amount.push(*part),
            }
        }
        for ((glob, amount), parts) in entries.iter().zip(under) {
            if parts.is_empty() {
                if !(0..map.parts.len()).any(|p| map.part_matches(p, glob)) {
                    return Err(map.no_match(glob).at("amount"));
                }
                return Err(Error::usage(format!(
                    "amount: the glob \"{glob}\" has no effect: everything that it matches belongs to an earlier glob \
                     or is outside the stage's classes"
                )));
            }
            result.list.extend(split(map, parts, scheme, amount).map_err(|e| match amounts {
                Amounts::All(_) => e,
                Amounts::ByClass(_) => e.at(format!("\"{glob}\"")),
            })?);
        }
        Ok(result)
    }
}

fn split(map: &ClassMap, parts: Vec<usize>, scheme: Scheme, amount: &Amount) -> Result<Vec<Population>> {
    let weigh = |parts: &[usize]| parts.iter().map(|p| map.parts[*p].spec.weights()).sum::<u64>();
    let total = weigh(&parts);
    let whole = amount.count(total)?;
    if scheme != Scheme::ClassUniform {
        return Ok(vec![Population { parts, weights: total, target: whole }]);
    }
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); map.classes.len()];
    parts.iter().for_each(|p| groups[map.parts[*p].class].push(*p));
    groups.retain(|g| !g.is_empty());
    let sizes: Vec<u64> = groups.iter().map(|g| weigh(g)).collect();
    let targets = match amount.quantity {
        Quantity::Count(_) => apportion(whole, &sizes),
        _ => sizes.iter().map(|n| amount.count(*n)).collect::<Result<Vec<_>>>()?,
    };
    let make = |((parts, weights), target)| Population { parts, weights, target };
    Ok(groups.into_iter().zip(sizes).zip(targets).map(make).collect())
}

/// Shares `count` out in proportion to `sizes`, to the unit (largest remainders first, ties to the earlier).
fn apportion(count: u64, sizes: &[u64]) -> Vec<u64> {
    let total: u128 = sizes.iter().map(|s| u128::from(*s)).sum::<u128>().max(1);
    let exact = |size: u64| u128::from(count) * u128::from(size);
    let mut shares: Vec<u64> = sizes.iter().map(|s| (exact(*s) / total) as u64).collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(exact(sizes[*i]) % total));
    let left = (count - shares.iter().sum::<u64>()) as usize;
    order.into_iter().take(left).for_each(|i| shares[i] += 1);
    shares
}

/// The places of parts, for methods.
pub fn places(model: &Model, map: &ClassMap, parts: &[usize]) -> Vec<PartPlace> {
    parts
        .iter()
        .map(|p| {
            let info = &map.parts[*p];
            let name: Arc<str> = info.name.as_str().into();
            let tensor_name: Arc<str> = model.tensors()[info.tensor].name.as_str().into();
            PartPlace {
                tensor: info.tensor,
                name: if info.spec.below.is_empty() { tensor_name.clone() } else { name },
                tensor_name,
                shape: model.tensors()[info.tensor].shape.as_slice().into(),
                class: map.classes[info.class].name.as_str().into(),
                offset: info.spec.offset,
                rows: info.spec.rows,
                cols: info.spec.cols,
                column_major: info.spec.order == crate::class::Order::ColumnMajor,
                position: model.position(info.tensor) + info.spec.offset,
            }
        })
        .collect()
}

/// The keys of a population as a stream for the selection.
pub struct PopulationKeys<'a> {
    weights: &'a Weights<'a>,
    keys: &'a dyn Keys,
    places: &'a [PartPlace],
    watch: Watch<'a>,
    blocks: Vec<KeyBlock>,
    /// For each block its place and its first element there.
    origins: Vec<(usize, u64)>,
    counts_cheaply: bool,
}

impl<'a> PopulationKeys<'a> {
    /// The stream over `places`, each with the normalisation of its class.
    pub fn new(
        weights: &'a Weights<'a>,
        keys: &'a dyn Keys,
        places: &'a [PartPlace],
        norms: &[Norm],
        watch: Watch<'a>,
    ) -> PopulationKeys<'a> {
        let (mut blocks, mut origins) = (Vec::new(), Vec::new());
        for (index, (place, norm)) in places.iter().zip(norms).enumerate() {
            for (start, len) in cut_blocks(place.len()) {
                blocks.push(KeyBlock { first: place.position + start, len: len as usize, norm: *norm });
                origins.push((index, start));
            }
        }
        let total: u64 = places.iter().map(PartPlace::len).sum();
        let known: u64 = places.iter().filter(|p| weights.magnitudes(keys, p).is_some()).map(PartPlace::len).sum();
        // What the few parts cost whose keys must be visited does not matter.
        let counts_cheaply = known > total / 2;
        PopulationKeys { weights, keys, places, watch, blocks, origins, counts_cheaply }
    }

    /// The numbers of a place's blocks, of those of all.
    pub fn of_place(&self, place: usize, numbers: &[u64]) -> Vec<u64> {
        let from = self.origins.partition_point(|(p, _)| *p < place);
        let upto = self.origins.partition_point(|(p, _)| *p <= place);
        numbers[from..upto].to_vec()
    }

    /// Sums of a number a block, by place.
    pub fn by_place(&self, numbers: &[u64]) -> Vec<u64> {
        let mut sums = vec![0; self.places.len()];
        self.origins.iter().zip(numbers).for_each(|((place, _), n)| sums[*place] += n);
        sums
    }
}

/// Cuts `len` weights into blocks (start, length).
pub fn cut_blocks(len: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..len.div_ceil(BLOCK_WEIGHTS)).map(move |i| (i * BLOCK_WEIGHTS, BLOCK_WEIGHTS.min(len - i * BLOCK_WEIGHTS)))
}

impl KeyStream for PopulationKeys<'_> {
    fn blocks(&self) -> &[KeyBlock] {
        &self.blocks
    }

    fn visit(&self, block: usize, range: std::ops::Range<usize>, visit: &mut dyn FnMut(usize, &[u32])) -> Result<()> {
        let (place, start) = self.origins[block];
        let first = start + range.start as u64;
        let count = (range.end - range.start) as u64;
        self.weights.visit_keys(self.keys, &self.places[place], first, count, &mut |at, keys| {
            visit((at - start) as usize, keys);
        })
    }

    fn count_below(&self, block: usize, bounds: &[u32]) -> Result<Vec<u64>> {
        let (place, start) = self.origins[block];
        self.weights.count_below(self.keys, &self.places[place], start, self.blocks[block].len as u64, bounds)
    }

    fn counts_cheaply(&self) -> bool {
        self.counts_cheaply
    }

    fn sample_run(&self) -> usize {
        if self.keys.block_weights() > CHUNK_ELEMENTS { 4096 } else { 256 }
    }

    fn tick(&self, weights: usize) -> Result<()> {
        self.watch.tick(weights as u64)
    }
}

/// Population standard deviation of the weights of each place's class, in file order (eq. of class-distribution):
/// means and squared deviations of fixed blocks are merged in order, so the result does not depend on threads.
pub fn deviations(weights: &Weights<'_>, places: &[PartPlace], watch: Watch<'_>) -> Result<Vec<f64>> {
    moments(places, watch, |place, start, len| {
        let mut total = Moments::default();
        weights.visit(place.tensor, place.offset + start, len, &mut |at, values| {
            if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                return Err(crate::weights::not_finite(place, at + i as u64, values[i], 0.0));
            }
            total = total.merge(Moments::of(values));
            Ok(())
        })?;
        Ok(total)
    })
    .map(|list| list.into_iter().map(|m| (m.squares / m.count.max(1.0)).sqrt()).collect())
}

/// Root mean square of the scores of each place's class, for methods whose scores are not in units of |w|. Scores are
/// taken from the keys, so weights that are zero already count as score 0.
pub fn score_rms(weights: &Weights<'_>, keys: &dyn Keys, places: &[PartPlace], watch: Watch<'_>) -> Result<Vec<f64>> {
    moments(places, watch, |place, start, len| {
        let mut total = Moments::default();
        weights.visit_keys(keys, place, start, len, &mut |_, keys| {
            let squares = keys.iter().map(|k| f64::from(crate::select::score_of(*k)).powi(2)).sum();
            total = total.merge(Moments { count: keys.len() as f64, mean: 0.0, squares });
        })?;
        Ok(total)
    })
    .map(|list| list.into_iter().map(|m| (m.squares / m.count.max(1.0)).sqrt()).collect())
}

/// Count, mean and sum of squared deviations.
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn of(values: &[f32]) -> Moments {
        let count = values.len() as f64;
        let mean = lanes(values, |v| v) / count.max(1.0);
        let squares = lanes(values, |v| (v - mean) * (v - mean));
        Moments { count, mean, squares }
    }

    fn merge(self, other: Moments) -> Moments {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let delta = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + delta * other.count / count,
            squares: self.squares + other.squares + delta * delta * self.count * other.count / count,
        }
    }
}

/// A sum in eight lanes of a fixed order, so that it vectorises.
fn lanes(values: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0f64; 8];
    for run in values.chunks(8) {
        run.iter().zip(&mut sums).for_each(|(v, s)| *s += f(f64::from(*v)));
    }
    sums.iter().sum()
}

/// Merges a function of blocks by class; the result has one entry a place.
fn moments(
    places: &[PartPlace],
    watch: Watch<'_>,
    block: impl Fn(&PartPlace, u64, u64) -> Result<Moments> + Sync,
) -> Result<Vec<Moments>> {
    let work: Vec<(usize, u64, u64)> =
        places.iter().enumerate().flat_map(|(i, p)| cut_blocks(p.len()).map(move |(s, l)| (i, s, l))).collect();
    let found = try_map(&work, |(i, start, len)| {
        watch.tick(*len)?;
        block(&places[*i], *start, *len)
    })?;
    let mut by_class = std::collections::BTreeMap::<Arc<str>, Moments>::new();
    for ((i, _, _), m) in work.iter().zip(found) {
        let total = by_class.entry(places[*i].class.clone()).or_default();
        *total = total.merge(m);
    }
    Ok(places.iter().map(|p| by_class.get(&p.class).copied().unwrap_or_default()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shared_out_to_the_unit() {
        assert_eq!(apportion(10, &[3, 3, 3]), [4, 3, 3]);
        assert_eq!(apportion(0, &[3, 3]), [0, 0]);
        assert_eq!(apportion(6, &[3, 3]), [3, 3]);
        assert_eq!(apportion(1, &[1, 2, 1]), [0, 1, 0]);
    }

    #[test]
    fn moments_merge_as_if_taken_at_once() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 * 0.01 + 5.0).collect();
        let whole = Moments::of(&values);
        let merged = values.chunks(77).map(Moments::of).fold(Moments::default(), Moments::merge);
        assert!((whole.squares - merged.squares).abs() < 1e-9 * whole.squares);
        assert_eq!(merged.count, 1000.0);
    }
}
