//! Schemes, amounts and patterns against a naive sort, through the binary, on small models of mixed types.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::Value;

use common::{Folder, Seeded, st};

mod common;

/// A weight matrix of a random model; matrix i is `m<i>.weight`, and so the class `m<i>`.
#[derive(Clone, Debug)]
struct Matrix {
    rows: u64,
    cols: u64,
    dtype: &'static str,
    values: Vec<f64>,
}

impl Matrix {
    fn tensor(&self, i: usize) -> st::Tensor {
        st::tensor(&format!("m{i}.weight"), self.dtype, &[self.rows, self.cols], &self.values)
    }
}

fn matrix() -> impl Strategy<Value = Matrix> {
    let side = prop_oneof![1u64..4, 4u64..10];
    let dtype = prop::sample::select(vec!["F64", "F32", "F16", "BF16"]);
    (side.clone(), side, dtype, 0u8..7, any::<u64>()).prop_map(|(rows, cols, dtype, kind, seed)| {
        let mut random = Seeded(seed);
        let values: Vec<f64> = (0..rows * cols)
            .map(|_| match kind {
                0 => 0.25,                                             // all alike
                1 => 0.0,                                              // nothing there
                2 => [0.5, -0.5, 0.25, 0.0][random.below(4) as usize], // ties
                3 => [0.0, -0.0, 1.0, random.float()][random.below(4) as usize],
                _ => random.float() * 4.0,
            })
            .collect();
        let values = st::decode(dtype, &st::encode(dtype, &values));
        Matrix { rows, cols, dtype, values }
    })
}

/// An amount as the recipe writes it, and what it means.
#[derive(Clone, Copy, Debug)]
enum Amount {
    /// Millionths, as `"12.3456%"`.
    Percent(u64),
    /// Millionths, as `0.123456`.
    Float(u64),
    /// This share of the weights, in thousandths, as a count.
    Count(u64),
}

fn amount() -> impl Strategy<Value = Amount> {
    let share = prop_oneof![Just(0u64), Just(1_000_000), Just(500_000), 0u64..=1_000_000];
    prop_oneof![
        share.clone().prop_map(Amount::Percent),
        share.prop_map(Amount::Float),
        (0u64..=1000).prop_map(Amount::Count)
    ]
}

impl Amount {
    fn text(self, all: u64) -> String {
        match self {
            Amount::Percent(x) => format!("\"{}.{:04}%\"", x / 10_000, x % 10_000),
            Amount::Float(x) => format!("{}.{:06}", x / 1_000_000, x % 1_000_000),
            Amount::Count(_) => self.of(all).to_string(),
        }
    }

    /// ⌊x·n + ½⌋ in whole numbers.
    fn of(self, n: u64) -> u64 {
        match self {
            Amount::Percent(x) | Amount::Float(x) => (2 * x * n + 1_000_000) / 2_000_000,
            Amount::Count(x) => x * n / 1000,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scheme {
    Blind,
    Uniform,
    Distribution,
}

const SCHEMES: [(Scheme, &str); 3] =
    [(Scheme::Blind, "class-blind"), (Scheme::Uniform, "class-uniform"), (Scheme::Distribution, "class-distribution")];

fn scheme() -> impl Strategy<Value = (Scheme, &'static str)> {
    prop::sample::select(SCHEMES.to_vec())
}

/// What a method of magnitude sees: f32, saturated, and nothing that is there becomes zero.
fn score(v: f64) -> f32 {
    let s = v.abs().min(f32::MAX.into()) as f32;
    if v != 0.0 && s == 0.0 { f32::from_bits(1) } else { s }
}

/// The least `target` of all weights go, zeros first whatever their number; ties by position.
fn cut(model: &mut [Matrix], target: u64) {
    let mut all: Vec<(bool, f32, usize, usize)> = Vec::new();
    for (m, matrix) in model.iter().enumerate() {
        all.extend(matrix.values.iter().enumerate().map(|(i, v)| (*v != 0.0, score(*v), m, i)));
    }
    all.sort_by(|a, b| a.partial_cmp(b).unwrap());
    for (_, _, m, i) in all.into_iter().take(target as usize) {
        model[m].values[i] = 0.0;
    }
}

/// Counts shared out in proportion to the classes' sizes: largest remainders first, ties to the earlier.
fn shared_out(count: u64, model: &[Matrix]) -> Vec<u64> {
    let sizes: Vec<u64> = model.iter().map(|m| m.rows * m.cols).collect();
    let all: u64 = sizes.iter().sum();
    let mut shares: Vec<u64> = sizes.iter().map(|n| n * count / all).collect();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(sizes[*i] * count % all), *i));
    let left = count - shares.iter().sum::<u64>();
    order.into_iter().take(left as usize).for_each(|i| shares[i] += 1);
    shares
}

fn sigma(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let seen: Vec<f64> = values.iter().map(|v| f64::from(score(*v)).copysign(*v)).collect();
    let mean = seen.iter().sum::<f64>() / n;
    (seen.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Of class-distribution: the count is exact, within each class the least go, and one λ parts the classes.
fn check_distribution(before: &[Matrix], after: &[Matrix], target: u64) {
    let zeros = |model: &[Matrix]| model.iter().flat_map(|m| &m.values).filter(|v| **v == 0.0).count() as u64;
    assert_eq!(zeros(after), target.max(zeros(before)));
    let (mut most_pruned, mut least_kept) = (0f64, f64::INFINITY);
    for (b, a) in before.iter().zip(after) {
        let gone = |i: usize| a.values[i] == 0.0;
        let mut order: Vec<usize> = (0..b.values.len()).filter(|i| b.values[*i] != 0.0).collect();
        order.sort_by(|x, y| (score(b.values[*x]), x).partial_cmp(&(score(b.values[*y]), y)).unwrap());
        assert!(order.is_sorted_by_key(|i| !gone(*i)), "not the least of their class: {before:?} {after:?}");
        let sigma = sigma(&b.values);
        for i in order {
            let ratio = if sigma == 0.0 { f64::MAX } else { f64::from(score(b.values[i])) / sigma };
            if gone(i) { most_pruned = most_pruned.max(ratio) } else { least_kept = least_kept.min(ratio) }
        }
    }
    assert!(most_pruned <= least_kept * (1.0 + 1e-6), "λ: {most_pruned} gone, {least_kept} kept");
}

/// Runs the recipe's rest on the model; what came out, and the report.
fn prune(folder: &Folder, model: &[Matrix], rest: &str) -> (Vec<Matrix>, Value) {
    let mut tensors: Vec<st::Tensor> = model.iter().enumerate().map(|(i, m)| m.tensor(i)).collect();
    let others = [st::tensor("m0.bias", "F32", &[3], &[1e-9, 0.0, 7.0]), st::i64s("ids", &[0, 1, -1])];
    tensors.extend(others.clone());
    folder.write("in.safetensors", st::file(&tensors, &[("format", "pt")]));
    let top = "model = \"in.safetensors\"\noutput = \"out.safetensors\"\nmask = \"m.safetensors\"\n";
    folder.recipe(&format!("{top}{rest}"), &["--report", "r.json", "--force", "--threads", "2"]).ok();
    let bytes = folder.read("out.safetensors");
    let found = st::read(&bytes);
    assert_eq!(found.len(), tensors.len());
    assert_eq!(st::metadata(&bytes)["format"], "pt");
    for t in &others {
        assert_eq!(found[&t.name].2, t.bytes, "{}: not to be touched", t.name);
    }
    let mut out = model.to_vec();
    let masks = st::masks(&folder.read("m.safetensors"));
    for (i, m) in out.iter_mut().enumerate() {
        let name = format!("m{i}.weight");
        let (dtype, shape, bytes) = &found[&name];
        assert_eq!((dtype.as_str(), &shape[..]), (m.dtype, &[m.rows, m.cols][..]));
        let after = st::decode(m.dtype, bytes);
        for (b, a) in m.values.iter().zip(&after) {
            assert!(a.to_bits() == b.to_bits() || *a == 0.0, "{name}: {b} became {a}");
        }
        if let Some((shape, kept)) = masks.get(&name) {
            assert_eq!(shape[..], [m.rows, m.cols]);
            assert!(kept.iter().zip(&after).all(|(k, v)| *k == (*v != 0.0)), "{name}: the mask is not what is zero");
        }
        m.values = after;
    }
    (out, folder.json("r.json"))
}

fn zeros(model: &[Matrix]) -> u64 {
    model.iter().flat_map(|m| &m.values).filter(|v| **v == 0.0).count() as u64
}

/// The same zeros in both.
fn assert_same(found: &[Matrix], meant: &[Matrix]) {
    for (i, (f, m)) in found.iter().zip(meant).enumerate() {
        assert_eq!(f.values, m.values, "m{i} {} {}×{}", f.dtype, f.rows, f.cols);
    }
}

fn stage(scheme: &str, rest: &str) -> String {
    format!("[[stage]]\nmethod = \"magnitude\"\nscheme = \"{scheme}\"\nallow_empty = [\"*\"]\n{rest}\n")
}

/// The naive stage, in place; class-distribution is only checked against `found`.
fn naive(model: &mut Vec<Matrix>, scheme: Scheme, amount: Amount, found: Option<&[Matrix]>) {
    let all = model.iter().map(|m| m.rows * m.cols).sum();
    match (scheme, amount) {
        (Scheme::Blind, _) => cut(model, amount.of(all)),
        (Scheme::Uniform, Amount::Count(_)) => {
            let shares = shared_out(amount.of(all), model);
            model.chunks_mut(1).zip(shares).for_each(|(m, n)| cut(m, n));
        }
        (Scheme::Uniform, _) => model.chunks_mut(1).for_each(|m| cut(m, amount.of(m[0].rows * m[0].cols))),
        (Scheme::Distribution, _) => {
            let found = found.expect("class-distribution stands last");
            check_distribution(model, found, amount.of(all));
            *model = found.to_vec();
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn every_scheme_takes_the_least(
        model in prop::collection::vec(matrix(), 1..5), (scheme, name) in scheme(), amount in amount()
    ) {
        let folder = Folder::new();
        let all = model.iter().map(|m| m.rows * m.cols).sum();
        let (found, report) = prune(&folder, &model, &stage(name, &format!("amount = {}", amount.text(all))));
        let mut meant = model.clone();
        naive(&mut meant, scheme, amount, Some(&found));
        assert_same(&found, &meant);
        let achieved = &report["stages"][0]["achieved"];
        prop_assert_eq!(&achieved["pruned"], zeros(&found));
        prop_assert_eq!(&achieved["newly"], zeros(&found) - zeros(&model));
        prop_assert_eq!(&achieved["prunable"], all);
        for (i, class) in report["classes"].as_array().unwrap().iter().enumerate() {
            prop_assert_eq!(&class["name"], &format!("m{i}"));
            prop_assert_eq!(&class["pruned"], zeros(&found[i..=i]));
        }
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn what_is_pruned_already_counts(
        model in prop::collection::vec(matrix(), 1..4),
        (first, second) in (prop::sample::select(SCHEMES[..2].to_vec()), scheme()),
        (one, two) in (amount(), amount()),
        seed in any::<u64>(),
        with_masks in any::<bool>(),
    ) {
        let folder = Folder::new();
        let all = model.iter().map(|m| m.rows * m.cols).sum();
        let mut meant = model.clone();
        let mut rest = String::new();
        if with_masks {
            let mut random = Seeded(seed);
            let kept: Vec<bool> = (0..model[0].values.len()).map(|_| random.below(3) > 0).collect();
            let masks = [("m0.weight", &[model[0].rows, model[0].cols][..], kept.clone())];
            folder.write("from.safetensors", st::mask_file(&masks));
            rest = "from = \"from.safetensors\"\n".into();
            meant[0].values.iter_mut().zip(kept).filter(|(_, k)| !k).for_each(|(v, _)| *v = 0.0);
        }
        rest += &stage(first.1, &format!("amount = {}", one.text(all)));
        rest += &stage(second.1, &format!("amount = {}", two.text(all)));
        let (found, report) = prune(&folder, &model, &rest);
        naive(&mut meant, first.0, one, None);
        let between = zeros(&meant);
        naive(&mut meant, second.0, two, Some(&found));
        assert_same(&found, &meant);
        prop_assert_eq!(&report["stages"][0]["achieved"]["pruned"], between);
        prop_assert_eq!(&report["stages"][1]["achieved"]["newly"], zeros(&found) - between);
    }

    #[test]
    fn classes_under_one_glob_are_one_population(
        model in prop::collection::vec(matrix(), 3..5), (scheme, name) in scheme(), (one, two) in (amount(), amount())
    ) {
        // m0 has an amount of its own, the others share one; "m1*" is written last and never wins over "*"? It is not
        // written at all: what a later glob could take is tested with the contract.
        let folder = Folder::new();
        let size = |m: &[Matrix]| m.iter().map(|m| m.rows * m.cols).sum::<u64>();
        let (one_text, two_text) = (one.text(size(&model[..1])), two.text(size(&model[1..])));
        let rest = stage(name, &format!("amount = {{ \"m0\" = {one_text}, \"*\" = {two_text} }}"));
        let (found, _) = prune(&folder, &model, &rest);
        let mut meant = model.clone();
        let (mut first, mut others) = (meant[..1].to_vec(), meant[1..].to_vec());
        naive(&mut first, scheme, one, Some(&found[..1]));
        naive(&mut others, scheme, two, Some(&found[1..]));
        meant = [first, others].concat();
        assert_same(&found, &meant);
    }

    #[test]
    fn a_stage_leaves_other_classes_alone(
        model in prop::collection::vec(matrix(), 2..4), (scheme, name) in scheme(), amount in amount()
    ) {
        let folder = Folder::new();
        let size = model[1].rows * model[1].cols;
        let rest = stage(name, &format!("classes = [\"m1\"]\namount = {}", amount.text(size)));
        let (found, report) = prune(&folder, &model, &rest);
        let mut meant = model.clone();
        let mut one = meant[1..2].to_vec();
        naive(&mut one, scheme, amount, Some(&found[1..2]));
        meant[1] = one.remove(0);
        assert_same(&found, &meant);
        let untouched = report["stages"][0]["untouched"].as_array().unwrap();
        let named = |name: &str| untouched.iter().any(|u| u["tensor"] == name && u["reason"].is_string());
        prop_assert!(named("m0.weight") && named("m0.bias") && named("ids") && !named("m1.weight"));
    }
}

/// Groups of a pattern: of each the matrix and the flat indices.
fn groups(model: &[Matrix], pattern: &str) -> Vec<(usize, Vec<usize>)> {
    let mut all = Vec::new();
    for (m, matrix) in model.iter().enumerate() {
        let (rows, cols) = (matrix.rows as usize, matrix.cols as usize);
        let (high, wide) = match pattern {
            "row" => (1, cols),
            "column" => (rows, 1),
            block => block.split_once('x').map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap(),
        };
        for top in (0..rows).step_by(high) {
            for left in (0..cols).step_by(wide) {
                let (bottom, right) = ((top + high).min(rows), (left + wide).min(cols));
                let indices = (top..bottom).flat_map(|r| (left..right).map(move |c| r * cols + c)).collect();
                all.push((m, indices));
            }
        }
    }
    all
}

/// Whole groups by their mean magnitude, as near to the target as they allow (half goes up).
fn cut_groups(model: &mut [Matrix], pattern: &str, target: u64) {
    let groups = groups(model, pattern);
    let mut order: Vec<(bool, f32, usize)> = groups
        .iter()
        .enumerate()
        .map(|(g, (m, indices))| {
            let values = indices.iter().map(|i| model[*m].values[*i]);
            let sum: f64 = values.clone().map(|v| f64::from(score(v))).sum();
            (values.clone().any(|v| v != 0.0), (sum / indices.len() as f64) as f32, g)
        })
        .collect();
    order.sort_by(|a, b| a.partial_cmp(b).unwrap());
    let mut total = zeros(model);
    for (_, _, g) in order {
        let (m, indices) = &groups[g];
        let next = total + indices.iter().filter(|i| model[*m].values[**i] != 0.0).count() as u64;
        if next > target && next - target > target.saturating_sub(total) {
            break;
        }
        indices.iter().for_each(|i| model[*m].values[*i] = 0.0);
        total = next;
    }
}

proptest! {
    #![proptest_config(config(70))]

    #[test]
    fn whole_rows_columns_and_blocks_go(
        model in prop::collection::vec(matrix(), 1..4),
        pattern in prop::sample::select(vec!["row", "column", "4x1", "1x4", "2x3"]),
        uniform in any::<bool>(),
        share in 0u64..=1_000_000,
    ) {
        let folder = Folder::new();
        let amount = Amount::Percent(share);
        let name = if uniform { "class-uniform" } else { "class-blind" };
        let rest = stage(name, &format!("pattern = \"{pattern}\"\namount = {}", amount.text(0)));
        let (found, report) = prune(&folder, &model, &rest);
        let mut meant = model.clone();
        if uniform {
            meant.chunks_mut(1).for_each(|m| cut_groups(m, pattern, amount.of(m[0].rows * m[0].cols)));
        } else {
            let all = model.iter().map(|m| m.rows * m.cols).sum();
            cut_groups(&mut meant, pattern, amount.of(all));
            prop_assert_eq!(&report["stages"][0]["asked"]["count"], amount.of(all));
        }
        assert_same(&found, &meant);
        prop_assert_eq!(&report["stages"][0]["achieved"]["pruned"], zeros(&found));
    }

    #[test]
    fn two_of_four_stay_along_the_inputs(
        model in prop::collection::vec(matrix(), 1..4), (n, m) in prop::sample::select(vec![(2usize, 4usize), (1, 4), (1, 2), (3, 8)])
    ) {
        let folder = Folder::new();
        let (found, report) = prune(&folder, &model, &stage("class-blind", &format!("pattern = \"{n}:{m}\"")));
        let mut meant = model.clone();
        for matrix in &mut meant {
            for row in matrix.values.chunks_mut(matrix.cols as usize) {
                for run in row.chunks_exact_mut(m) {
                    let mut order: Vec<usize> = (0..m).collect();
                    order.sort_by(|a, b| (score(run[*a]), a).partial_cmp(&(score(run[*b]), b)).unwrap());
                    order.into_iter().take(m - n).for_each(|i| run[i] = 0.0);
                }
            }
        }
        assert_same(&found, &meant);
        prop_assert_eq!(&report["stages"][0]["achieved"]["pruned"], zeros(&found));
    }
}

#[test]
fn amounts_round_in_decimal_half_up() {
    // 7 weights 1..7; floats would say 3 for 0.35 × 10 and 28.999… for 0.29 × 100.
    for (n, amount, expected) in [
        (7u64, "\"50%\"", 4u64), // 3.5
        (7, "0.5", 4),
        (10, "0.35", 4), // 3.5
        (10, "\"34.999999999999999999999%\"", 3),
        (100, "0.29", 29),
        (1000, "0.0005", 1), // 0.5
        (1000, "0.00049999", 0),
        (7, "1", 1),
        (7, "1.0", 7),
        (7, "0", 0),
        (7, "0.0", 0),
        (7, "\"100%\"", 7),
        (7, "\"0%\"", 0),
        (1, "\"50%\"", 1),
        (1, "\"49.9%\"", 0),
    ] {
        let folder = Folder::new();
        let values = (1..=n).map(|v| v as f64).collect();
        let model = [Matrix { rows: 1, cols: n, dtype: "F64", values }];
        let (found, report) = prune(&folder, &model, &stage("class-blind", &format!("amount = {amount}")));
        assert_eq!(zeros(&found), expected, "{amount} of {n}");
        assert_eq!(report["stages"][0]["asked"]["count"], expected, "{amount} of {n}");
    }
}

#[test]
fn extremes_of_a_type_are_ordinary_weights() {
    let folder = Folder::new();
    let values = vec![1e-300, 5e-324, 0.0, -0.0, 1e300, -1e300, 1.0, -1.0];
    let model = [Matrix { rows: 2, cols: 4, dtype: "F64", values }];
    let (found, report) = prune(&folder, &model, &stage("class-blind", "amount = 2"));
    assert_eq!(found[0].values, [1e-300, 5e-324, 0.0, 0.0, 1e300, -1e300, 1.0, -1.0]);
    assert_eq!(report["stages"][0]["achieved"]["newly"], 0);
    let (found, _) = prune(&folder, &model, &stage("class-blind", "amount = 4"));
    assert_eq!(found[0].values, [0.0, 0.0, 0.0, 0.0, 1e300, -1e300, 1.0, -1.0]);
}
