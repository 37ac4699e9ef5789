//! Methods that encode parts anew or choose weights themselves, through plan and driver: what they are given, what
//! becomes of what they give back, and a sentence for everything that goes wrong.
#![allow(clippy::unwrap_used)]

use compress_core::drive::{self, RunOptions};
use compress_core::format::Format;
use compress_core::model::Model;
use compress_core::plan::{Plan, Setup};
use compress_core::progress::Watch;
use compress_core::recipe::Recipe;
use compress_core::registry::Registry;
use compress_core::report::Report;
use compress_core::weights::Weights;
use compress_sdk::{
    Bitmap, Card, Encoded, Encoding, Entry, Error, Evidence, EvidenceKind, Keep, Layout, Method, Need, OptionKind,
    OptionSpec, Options, Part, Reach, Result, Scores, Term, easy, entry,
};

use common::{Folder, Seeded, st};

mod common;

const BASE: Card = Card { meaning: "m", citation: "c", equation: "e", ..Card::ENCODES_PARTS };

fn dense(part: &Part<'_>, f: impl Fn(usize, usize, f32) -> f32) -> Term {
    let at = |i: usize| (i / part.cols, i % part.cols);
    let values = (0..part.rows * part.cols).map(|i| f(at(i).0, at(i).1, part.at(at(i).0, at(i).1))).collect();
    Term { layout: Layout::Dense, values }
}

/// Every weight halved.
struct Halves;

impl Method for Halves {
    const CARD: Card = Card { name: "halves", ..BASE };
    fn create(_: &Options, _: u64) -> Result<Self> {
        Ok(Halves)
    }
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, _: &Evidence<'_>) -> Result<Encoded> {
        easy::encoded(part, keep, vec![dense(part, |_, _, w| w / 2.0)])
    }
}

/// The part back as it was where it has more columns than rows, else the product of its first column and ones.
struct FirstColumn;

impl Method for FirstColumn {
    const CARD: Card = Card { name: "first-column", ..BASE };
    fn create(_: &Options, _: u64) -> Result<Self> {
        Ok(FirstColumn)
    }
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, _: &Evidence<'_>) -> Result<Encoded> {
        if part.cols > part.rows {
            return easy::encoded(part, keep, vec![dense(part, |_, _, w| w)]);
        }
        let mut values: Vec<f32> = (0..part.rows).map(|r| part.at(r, 0)).collect();
        values.extend(vec![1.0; part.cols]);
        let kept = Bitmap::new(part.rows * part.cols, true);
        let kept = if let Keep::Mask(mask) = keep { mask.clone() } else { kept };
        let terms = vec![Term { layout: Layout::Factored { rank: 1 }, values }];
        Ok(Encoded { kept, encoding: Encoding { rows: part.rows, cols: part.cols, terms } })
    }
}

/// Prunes the largest weights of the quota and adds 1 to the others, in a sparse term.
struct Largest;

impl Method for Largest {
    const CARD: Card = Card {
        name: "largest",
        selects: true,
        evidence: &[(EvidenceKind::Gram, Need::Optional)],
        options: &[OptionSpec {
            name: "allocate",
            meaning: "whose scores give the counts",
            kind: OptionKind::Text { default: "magnitude" },
        }],
        ..BASE
    };
    fn create(_: &Options, _: u64) -> Result<Self> {
        Ok(Largest)
    }
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, evidence: &Evidence<'_>) -> Result<Encoded> {
        let Keep::Quota { eligible, pruned, n, m } = keep else { return Err(Error::new("no quota")) };
        if let Some(gram) = evidence.get(EvidenceKind::Gram) {
            assert_eq!(gram.shape, [part.cols as u64, part.cols as u64]);
        }
        let count = part.rows * part.cols;
        let value = |i: usize| part.at(i / part.cols, i % part.cols);
        let mut kept = eligible.clone();
        if m > 0 {
            for first in (0..count).step_by(m) {
                let mut places: Vec<usize> = (first..first + m).filter(|i| kept.get(*i)).collect();
                places.sort_by(|a, b| value(*b).abs().total_cmp(&value(*a).abs()));
                let more = places.len().saturating_sub(n);
                places[..more].iter().for_each(|i| kept.set(*i, false));
            }
        } else {
            let mut places: Vec<usize> = (0..count).filter(|i| kept.get(*i)).collect();
            places.sort_by(|a, b| value(*b).abs().total_cmp(&value(*a).abs()));
            let gone = pruned as usize - (count - places.len());
            places[..gone].iter().for_each(|i| kept.set(*i, false));
        }
        let values = (0..count).filter(|i| kept.get(*i)).map(|i| value(i) + 1.0).collect();
        let terms = vec![Term { layout: Layout::Sparse(kept.clone()), values }];
        Ok(Encoded { kept, encoding: Encoding { rows: part.rows, cols: part.cols, terms } })
    }
}

/// Scores by |w| and doubles what is kept.
struct Doubles;

impl Method for Doubles {
    const CARD: Card = Card { name: "doubles", scores: true, reach: Reach::Row, ..BASE };
    fn create(_: &Options, _: u64) -> Result<Self> {
        Ok(Doubles)
    }
    fn score(&self, part: &Part<'_>, _: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        out.data.iter_mut().zip(part.data).for_each(|(s, w)| *s = w.abs());
        Ok(())
    }
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, _: &Evidence<'_>) -> Result<Encoded> {
        easy::encoded(part, keep, vec![dense(part, |_, _, w| w * 2.0)])
    }
}

/// Everything that can be wrong with an answer.
struct Faulty(String);

impl Method for Faulty {
    const CARD: Card = Card {
        name: "faulty",
        options: &[OptionSpec { name: "what", meaning: "what is wrong", kind: OptionKind::Text { default: "" } }],
        ..BASE
    };
    fn create(options: &Options, _: u64) -> Result<Self> {
        Ok(Faulty(options.text("what").into()))
    }
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, _: &Evidence<'_>) -> Result<Encoded> {
        let mut encoded = easy::encoded(part, Keep::All, vec![dense(part, |_, _, w| w)])?;
        let term = &mut encoded.encoding.terms[0];
        match self.0.as_str() {
            "nan" => term.values[2] = f32::NAN,
            "short" => term.values.truncate(1),
            "rows" => encoded.encoding.rows += 1,
            "none" => encoded.encoding.terms.clear(),
            "mask" => encoded.kept = Bitmap::new(part.rows * part.cols, true),
            "huge" => term.values[0] = 1e38,
            "words" => return Err(Error::new("it is Monday")),
            "panic" => panic!("out of tea"),
            other => unreachable!("{other}"),
        }
        let _ = keep;
        Ok(encoded)
    }
}

/// Everything that can be wrong with a choice within a quota.
struct Chooser(String);

impl Method for Chooser {
    const CARD: Card = Card { name: "chooser", selects: true, ..Faulty::CARD };
    fn create(options: &Options, _: u64) -> Result<Self> {
        Ok(Chooser(options.text("what").into()))
    }
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, _: &Evidence<'_>) -> Result<Encoded> {
        let Keep::Quota { eligible, pruned, .. } = keep else { return Err(Error::new("no quota")) };
        let count = part.rows * part.cols;
        let mut kept = Bitmap::new(count, true);
        (0..pruned as usize).for_each(|i| kept.set(count - 1 - i, false));
        let mut values: Vec<f32> = (0..count).map(|i| part.at(i / part.cols, i % part.cols)).collect();
        let factored = vec![1.0; part.rows + part.cols];
        match self.0.as_str() {
            "fewer" => kept = eligible.clone(),
            "returned" => {}
            "stray" => {}
            "pattern" => {}
            "product" => {}
            other => unreachable!("{other}"),
        }
        if self.0 != "stray" {
            (0..count).filter(|i| !kept.get(*i)).for_each(|i| values[i] = 0.0);
        }
        let term = match self.0.as_str() {
            "product" => Term { layout: Layout::Factored { rank: 1 }, values: factored },
            _ => Term { layout: Layout::Dense, values },
        };
        Ok(Encoded { kept, encoding: Encoding { rows: part.rows, cols: part.cols, terms: vec![term] } })
    }
}

static ENTRIES: [Entry; 6] = [
    entry::<Halves>(),
    entry::<FirstColumn>(),
    entry::<Largest>(),
    entry::<Doubles>(),
    entry::<Faulty>(),
    entry::<Chooser>(),
];

/// A run in a folder; the recipe names `m.safetensors` and `out.safetensors`.
fn run_with(folder: &Folder, stages: &str, options: &RunOptions) -> compress_core::Result<Report> {
    let mut registry = Registry::new();
    registry.add_builtin(&compress_magnitude::ENTRY)?;
    ENTRIES.iter().try_for_each(|e| registry.add_builtin(e))?;
    let path = folder.write("p.toml", format!("model = \"m.safetensors\"\noutput = \"out.safetensors\"\n{stages}"));
    let recipe = Recipe::load(&path)?;
    let formats: [&dyn Format; 1] = [&compress_safetensors::Safetensors];
    let setup = Setup { formats: &formats, registry: &registry, open: Default::default(), force: true, engine: None };
    let plan = Plan::new(&setup, &recipe, true)?;
    drive::run(&plan, options, Watch::silent())
}

fn run(folder: &Folder, stages: &str) -> compress_core::Result<Report> {
    run_with(folder, stages, &RunOptions { force: true, ..RunOptions::default() })
}

/// The dense values of a tensor of a file, packed or not.
fn values(folder: &Folder, file: &str, name: &str) -> Vec<f32> {
    let formats: [&dyn Format; 1] = [&compress_safetensors::Safetensors];
    let model = Model::open(&formats, &[folder.path(file)], &Default::default()).unwrap();
    let id = model.tensors().iter().position(|t| t.name == name).unwrap();
    let mut all = Vec::new();
    Weights::new(&model)
        .visit(id, 0, model.tensors()[id].elements, &mut |_, run| {
            all.extend_from_slice(run);
            Ok(())
        })
        .unwrap();
    all
}

/// The same of the output of a run.
fn out(folder: &Folder, name: &str) -> Vec<f32> {
    values(folder, "out.safetensors", name)
}

fn zeros(values: &[f32]) -> usize {
    values.iter().filter(|v| **v == 0.0).count()
}

/// A square, a tall and a wide matrix, random.
fn model() -> Folder {
    let folder = Folder::new();
    let mut random = Seeded(5);
    let mut tensor = |name: &str, rows: u64, cols: u64| {
        st::tensor(name, "F32", &[rows, cols], &random.floats((rows * cols) as usize))
    };
    let tensors = [tensor("a.weight", 8, 8), tensor("b.weight", 16, 4), tensor("c.weight", 4, 16)];
    folder.write("m.safetensors", st::file(&tensors, &[]));
    folder
}

#[test]
fn new_values_are_written_and_pruned_weights_stay_so() {
    let folder = model();
    let before = values(&folder, "m.safetensors", "a.weight");
    let report = run(
        &folder,
        "[[stage]]\nmethod = \"magnitude\"\namount = \"50%\"\nclasses = [\"a\"]\n[[stage]]\nmethod = \"halves\"\n",
    )
    .unwrap();
    let after = out(&folder, "a.weight");
    assert_eq!(zeros(&after), 32);
    assert!(after.iter().zip(&before).all(|(a, b)| *a == 0.0 || *a == b / 2.0));
    let stage = &report.stages[1];
    assert_eq!(stage.achieved.as_ref().unwrap().pruned, 32);
    assert_eq!(stage.parts.len(), 3);
    assert_eq!(stage.parts[1].relative_error, Some(0.5));
    assert_eq!((stage.parts[0].layout.as_str(), stage.parts[0].parameters), ("dense", 32));
}

#[test]
fn a_product_stays_a_product_and_what_is_given_back_is_left_alone() {
    let folder = model();
    let before = values(&folder, "m.safetensors", "b.weight");
    let report = run(&folder, "[[stage]]\nmethod = \"first-column\"\n").unwrap();
    let after = out(&folder, "b.weight");
    assert!((0..64).all(|i| after[i] == before[i / 4 * 4]));
    assert_eq!(out(&folder, "c.weight"), values(&folder, "m.safetensors", "c.weight"));
    let stage = &report.stages[0];
    assert_eq!(stage.parts.len(), 2);
    assert_eq!((stage.parts[1].layout.as_str(), stage.parts[1].parameters), ("factored", 20));
    let left: Vec<&str> = stage.untouched.iter().map(|u| u.reason.as_str()).collect();
    assert_eq!(left, ["method \"first-column\" gives it back as it is"]);
}

#[test]
fn columns_that_lie_side_by_side_are_seen_as_outputs_by_inputs() {
    let folder = Folder::new();
    let name = "h.0.attn.c_attn.weight"; // GPT-2 stores [in, out]
    let weights: Vec<f64> = (0..48).map(f64::from).collect();
    folder.write("m.safetensors", st::file(&[st::tensor(name, "F32", &[4, 12], &weights)], &[]));
    run(&folder, "[[stage]]\nmethod = \"first-column\"\n").unwrap();
    // 12 outputs × 4 inputs: of each output the weight of the first input.
    assert_eq!(out(&folder, name), (0..48).map(|i| (i % 12) as f32).collect::<Vec<_>>());
}

#[test]
fn a_residual_term_makes_up_for_what_the_product_lacks() {
    let folder = model();
    let stages = |amount: &str| {
        format!(
            "[[stage]]\nmethod = \"first-column\"\n[[stage]]\nmethod = \"magnitude\"\namount = \"{amount}\"\nresidual = true\n"
        )
    };
    let before = values(&folder, "m.safetensors", "b.weight");
    // Nothing of the residual is pruned: the sum is the weight, but for roundings.
    run(&folder, &stages("0%")).unwrap();
    assert!(out(&folder, "b.weight").iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-6));
    // The largest quarter of what is lacking is made up for; 8 · 1 + 16 · 1 weights lack nothing.
    let report = run(&folder, &stages("75%")).unwrap();
    let after = out(&folder, "b.weight");
    let lacks: Vec<f32> = before.iter().zip(&after).map(|(b, a)| (b - a).abs()).collect();
    let made_up = (0..64).filter(|i| lacks[*i] < 1e-6 && i % 4 != 0).count();
    let stage = &report.stages[1];
    assert_eq!(stage.achieved.as_ref().unwrap().pruned, 96);
    assert_eq!(stage.achieved.as_ref().unwrap().prunable, 128);
    let sum = stage.parts.iter().map(|p| p.parameters).sum::<u64>();
    assert_eq!(sum, 16 + 20 + 32);
    assert_eq!(stage.parts[1].layout, "factored + sparse");
    assert_eq!(made_up as u64, stage.parts[1].parameters - 20);
    assert!(stage.parts[1].relative_error < report.stages[0].parts[1].relative_error);
    assert_eq!(stage.untouched[0].reason, "it is neither factored nor hashed, so it has no residual");
    assert_eq!(stage.untouched[0].tensor, "c.weight");
}

#[test]
fn a_method_chooses_within_the_counts_that_another_ones_scores_give() {
    for (amount, scheme) in [("40%", "class-blind"), ("10%", "class-uniform"), ("73%", "class-distribution")] {
        let folder = model();
        let stage =
            |method: &str| format!("[[stage]]\nmethod = \"{method}\"\namount = \"{amount}\"\nscheme = \"{scheme}\"\n");
        let by_magnitude = run(&folder, &stage("magnitude")).unwrap();
        let counts = ["a.weight", "b.weight", "c.weight"].map(|n| zeros(&out(&folder, n)));
        let report = run(&folder, &stage("largest")).unwrap();
        assert_eq!(counts, ["a.weight", "b.weight", "c.weight"].map(|n| zeros(&out(&folder, n))), "{amount}");
        let achieved = |r: &Report| r.stages[0].achieved.as_ref().map(|a| (a.pruned, a.newly, a.prunable));
        assert_eq!(achieved(&report), achieved(&by_magnitude));
        // The smallest are kept, and 1 is added.
        let (before, after) = (values(&folder, "m.safetensors", "a.weight"), out(&folder, "a.weight"));
        assert!(after.iter().zip(&before).all(|(a, b)| *a == 0.0 || *a == b + 1.0));
        let kept = before.iter().zip(&after).filter(|(_, a)| **a != 0.0).map(|(b, _)| b.abs()).fold(0.0, f32::max);
        let gone = before.iter().zip(&after).filter(|(_, a)| **a == 0.0).map(|(b, _)| b.abs());
        assert!(gone.fold(f32::MAX, f32::min) >= kept);
        // What is pruned already counts, and a dry run counts the same.
        let twice = format!("{}{}", stage("magnitude"), stage("largest"));
        let report = run(&folder, &twice).unwrap();
        assert_eq!(report.stages[1].achieved.as_ref().unwrap().newly, 0);
        let options = RunOptions { dry_run: true, ..RunOptions::default() };
        let foreseen = run_with(&folder, &stage("largest"), &options).unwrap();
        assert_eq!(achieved(&foreseen), achieved(&by_magnitude));
    }
}

#[test]
fn n_of_m_is_a_quota_too() {
    let folder = model();
    let report = run(&folder, "[[stage]]\nmethod = \"largest\"\npattern = \"2:4\"\n").unwrap();
    assert_eq!(report.stages[0].achieved.as_ref().unwrap().pruned, 96);
    let after = out(&folder, "c.weight");
    assert!(after.chunks(4).all(|group| zeros(group) == 2));
}

#[test]
fn gates_are_chosen_within_one_by_one_and_encoded_together() {
    let folder = Folder::new();
    let mut random = Seeded(9);
    let tensors = [
        st::tensor("lstm.weight_ih_l0", "F32", &[12, 5], &random.floats(60)),
        st::tensor("lstm.weight_hh_l0", "F32", &[12, 3], &random.floats(36)),
    ];
    folder.write("m.safetensors", st::file(&tensors, &[]));
    let before = values(&folder, "m.safetensors", "lstm.weight_ih_l0");
    let one = "[[stage]]\nmethod = \"largest\"\namount = \"40%\"\nclasses = [\"*/forget/below\"]\n";
    let report = run(&folder, one).unwrap();
    let after = out(&folder, "lstm.weight_ih_l0");
    let changed: Vec<usize> = (0..60).filter(|i| after[*i] != before[*i]).collect();
    assert_eq!((changed.len(), changed[0], zeros(&after)), (15, 15, 6));
    assert_eq!(report.stages[0].parts[0].part, "layer1/forget/below");
    let whole = run(&folder, "[[stage]]\nmethod = \"halves\"\n").unwrap();
    let parts: Vec<&str> = whole.stages[0].parts.iter().map(|p| p.part.as_str()).collect();
    assert_eq!(parts, ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]);
    let error = run(&folder, "[[stage]]\nmethod = \"halves\"\nclasses = [\"*/forget/*\"]\n").unwrap_err();
    assert_eq!(error.status(), 2);
    let text = error.to_string();
    assert!(text.contains("\"lstm.weight_ih_l0\" is encoded as a whole, but the stage's classes leave out"), "{text}");
}

#[test]
fn core_selects_by_the_scores_of_a_method_that_also_encodes() {
    let folder = model();
    let before = values(&folder, "m.safetensors", "b.weight");
    let report =
        run(&folder, "[[stage]]\nmethod = \"doubles\"\namount = \"25%\"\nscheme = \"class-uniform\"\n").unwrap();
    let after = out(&folder, "b.weight");
    assert_eq!(zeros(&after), 16);
    let least_kept = before.iter().zip(&after).filter(|(_, a)| **a != 0.0).map(|(b, _)| b.abs()).fold(9.0, f32::min);
    assert!(before.iter().zip(&after).all(|(b, a)| if *a == 0.0 { b.abs() <= least_kept } else { *a == b * 2.0 }));
    assert_eq!(report.stages[0].achieved.as_ref().unwrap().newly, 48);
}

#[test]
fn values_of_any_type_keep_their_bits_where_they_are_kept() {
    let folder = Folder::new();
    // One third is no f32: halved it is rounded, left alone it is not.
    let wide = st::tensor("a.weight", "F64", &[2, 2], &[1.0 / 3.0, 0.1, 4.0, 0.0]);
    let half = st::tensor("b.weight", "BF16", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    folder.write("m.safetensors", st::file(&[wide.clone(), half], &[]));
    run(
        &folder,
        "[[stage]]\nmethod = \"halves\"\nclasses = [\"b\"]\n[[stage]]\nmethod = \"first-column\"\nclasses = [\"b\"]\n",
    )
    .unwrap();
    assert_eq!(out(&folder, "b.weight"), [0.5, 0.5, 1.5, 1.5]);
    run(&folder, "[[stage]]\nmethod = \"chooser\"\noptions = { what = \"returned\" }\namount = 2\nclasses = [\"a\"]\n")
        .unwrap();
    let read = st::read(&folder.read("out.safetensors"));
    assert_eq!(read["a.weight"].2[..16], wide.bytes[..16]);
}

/// Stages and what their error says, with its exit status.
#[test]
fn everything_that_goes_wrong_has_its_sentence() {
    let faulty = |what: &str| format!("method = \"faulty\"\noptions = {{ what = \"{what}\" }}\n");
    let chooser = |what: &str, more: &str| format!("method = \"chooser\"\noptions = {{ what = \"{what}\" }}\n{more}\n");
    let half = "amount = \"50%\"";
    let pruned = "method = \"magnitude\"\namount = \"50%\"\nclasses = [\"b\"]\n[[stage]]\n";
    let encoded = "method = \"first-column\"\nclasses = [\"b\"]\n[[stage]]\n";
    for (stages, status, words) in [
        (faulty("nan"), 1, "stage 1 (faulty): \"a.weight\": method \"faulty\": value 2 of term 0 is NaN"),
        (faulty("short"), 1, "term 0 has 1 values where its layout needs 64"),
        (faulty("rows"), 1, "its encoding is 9 × 8, the part is 8 × 8"),
        (faulty("none"), 1, "its encoding has no terms"),
        (faulty("words"), 1, "\"a.weight\": method \"faulty\": it is Monday"),
        (faulty("panic"), 1, "method \"faulty\" panicked: out of tea"),
        (format!("{pruned}{}", faulty("mask")), 1, "it keeps other weights than it was told to keep"),
        (chooser("fewer", half), 1, "weights where"),
        (format!("{pruned}{}classes = [\"b\"]\n", chooser("returned", half)), 1, "which was pruned before"),
        (chooser("stray", half), 1, "has a value though it is pruned"),
        (chooser("pattern", "pattern = \"2:4\""), 1, "it keeps 4 of the 4 weights from (0, 0), not 2"),
        (chooser("product", half), 1, "the method gave a sum or a product for a quota"),
        (chooser("fewer", ""), 2, "\"amount\" is missing"),
        (chooser("fewer", "amount = 3\npattern = \"row\""), 2, "not by the pattern \"row\""),
        (
            "method = \"largest\"\namount = 3\noptions = { allocate = \"magnitud\" }".into(),
            2,
            "did you mean \"magnitude\"?",
        ),
        (
            "method = \"largest\"\namount = 3\noptions = { allocate = \"halves\" }".into(),
            2,
            "\"halves\" gives no scores",
        ),
        ("method = \"halves\"\namount = \"50%\"".into(), 2, "\"amount\" has no effect: \"halves\" encodes whole parts"),
        ("method = \"halves\"\npattern = \"2:4\"".into(), 2, "\"pattern\" has no effect"),
        ("method = \"halves\"\nallow_empty = [\"a*\"]".into(), 2, "\"allow_empty\" has no effect"),
        ("method = \"halves\"\nresidual = true".into(), 1, "nothing in the stage's classes (*) was factored or hashed"),
        (format!("{pruned}method = \"first-column\""), 1, "would come back: a product cannot hold zeros"),
        (format!("{encoded}method = \"halves\""), 1, "\"b.weight\" is factored already, by an earlier stage"),
        (format!("{encoded}method = \"magnitude\"\namount = 1"), 1, "add a term for what it lacks by residual = true"),
        (
            format!("{encoded}reinitialise = {{ uniform = 0.1 }}"),
            1,
            "\"b.weight\" is factored, and a reinitialisation draws dense weights",
        ),
    ] {
        let folder = model();
        let error = run(&folder, &format!("[[stage]]\n{stages}")).err().unwrap_or_else(|| panic!("{stages} went well"));
        let text = error.to_string();
        assert!(text.contains(words), "{stages}: {text}");
        assert!(text.contains("p.toml: stage "), "{text}");
        assert_eq!(error.status(), status, "{text}");
        // A finished stage is kept for another try.
        let mut names = folder.names();
        names.retain(|n| n != "out.safetensors.state");
        assert_eq!(names, ["m.safetensors", "p.toml"], "{text}");
    }
}

#[test]
fn values_that_do_not_fit_the_type_are_refused() {
    let folder = Folder::new();
    folder.write("m.safetensors", st::file(&[st::tensor("a.weight", "F16", &[2, 2], &[1.0; 4])], &[]));
    let error =
        run(&folder, "[[stage]]\nmethod = \"faulty\"\noptions = { what = \"huge\" }\n").unwrap_err().to_string();
    assert!(error.contains("do not fit its type F16: the weight at index 0 would be inf"), "{error}");
    folder.write("m.safetensors", st::file(&[st::tensor("a.weight", "F32", &[2, 2], &[1.0, f64::NAN, 1.0, 1.0])], &[]));
    let error = run(&folder, "[[stage]]\nmethod = \"halves\"\n").unwrap_err().to_string();
    assert!(error.contains("\"a.weight\"") && error.contains("is NaN; repair the model"), "{error}");
}
