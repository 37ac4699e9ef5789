//! Methods of this file through the door: what works, and a sentence for all that goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use compress_sdk::{
    Bitmap, Card, Encoded, Encoding, Entry, Evidence, Keep, Layout, Method, Options, Part, Result, Scores, Term, entry,
    host,
};

use super::*;

const BASE: Card = Card { meaning: "for this test", citation: "none", equation: "none", ..Card::SCORES_WEIGHTS };

macro_rules! scorer {
    ($type:ident, $name:literal, |$part:ident, $out:ident| $body:expr) => {
        struct $type;
        impl Method for $type {
            const CARD: Card = Card { name: $name, ..BASE };
            fn create(_: &Options, _: u64) -> Result<Self> {
                Ok($type)
            }
            fn score(&self, $part: &Part<'_>, _: &Evidence<'_>, $out: &mut Scores<'_>) -> Result<()> {
                $body
            }
        }
    };
}

scorer!(Square, "square", |part, out| {
    out.data.iter_mut().zip(part.data).for_each(|(s, w)| *s = w * w);
    Ok(())
});
scorer!(Panics, "panics", |part, _out| panic!("no idea what to do with {} weights", part.data.len()));
scorer!(Nan, "nan", |part, out| {
    out.data[part.data.len() - 1] = f32::NAN;
    Ok(())
});
scorer!(Stops, "stops", |_part, _out| {
    host::log("working");
    host::progress(0.5);
    if host::cancelled() { Err(compress_sdk::Error::new("stopped")) } else { Ok(()) }
});
scorer!(Counts, "counts", |_part, out| {
    out.data.fill(host::threads() as f32);
    Ok(())
});
scorer!(Fails, "fails", |_part, _out| Err(compress_sdk::Error::new("the moon is full; wait a week")));

static SQUARE: Entry = entry::<Square>();
static PANICS: Entry = entry::<Panics>();
static NAN: Entry = entry::<Nan>();
static STOPS: Entry = entry::<Stops>();
static COUNTS: Entry = entry::<Counts>();
static FAILS: Entry = entry::<Fails>();

fn registry(entries: &[&'static Entry]) -> Registry {
    let mut registry = Registry::new();
    entries.iter().for_each(|e| registry.add_builtin(e).unwrap());
    registry
}

fn score(entry: &'static Entry, weights: &[f32]) -> crate::Result<Vec<f32>> {
    let registry = registry(&[entry]);
    let method = registry.iter().next().unwrap();
    let instance = method.create(&method.card().defaults(), 1)?;
    let mut out = vec![0.0; weights.len()];
    instance.score(&Part::whole("fc1.weight", 1, weights.len(), weights), &Evidence::default(), &mut out)?;
    Ok(out)
}

#[test]
fn scores_come_through() {
    assert_eq!(score(&SQUARE, &[1.0, -2.0, 0.0]).unwrap(), [1.0, 4.0, 0.0]);
    assert!(score(&SQUARE, &[]).unwrap().is_empty());
}

#[test]
fn what_a_method_does_wrong_is_one_sentence() {
    for (entry, sentence) in [
        (&PANICS, "\"fc1.weight\": method \"panics\" panicked: no idea what to do with 2 weights (core/src/registry/"),
        (&NAN, "\"fc1.weight\": method \"nan\": its score of weight (0, 1) is NaN"),
        (&FAILS, "\"fc1.weight\": method \"fails\": the moon is full; wait a week"),
    ] {
        let error = score(entry, &[1.0, 2.0]).unwrap_err();
        assert!(error.to_string().starts_with(sentence), "{error}");
        assert_eq!(error.status(), 1);
    }
}

#[test]
fn names_are_unique_and_unknown_ones_get_the_nearest() {
    let mut registry = registry(&[&SQUARE, &NAN]);
    let error = registry.get("sqare").err().unwrap();
    assert_eq!(
        (error.status(), error.to_string().as_str()),
        (2, "unknown method \"sqare\" (did you mean \"square\"?); \"compress methods\" lists them all")
    );
    let error = registry.add_builtin(&SQUARE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "two methods are called \"square\": one is built-in, one built-in; leave one out or rename it"
    );
}

#[derive(Default)]
struct Ears {
    stop: AtomicBool,
    heard: AtomicUsize,
}

impl Listener for Ears {
    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
    fn progress(&self, fraction: f64) {
        assert_eq!(fraction, 0.5);
        self.heard.fetch_add(1, Ordering::Relaxed);
    }
    fn log(&self, line: &str) {
        assert_eq!(line, "working");
        self.heard.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn methods_talk_to_the_host_and_stop_when_told() {
    let ears = Arc::new(Ears::default());
    let mut registry = Registry::new().listened(ears.clone());
    registry.add_builtin(&STOPS).unwrap();
    let instance = registry.get("stops").unwrap().create(&Options::default(), 1).unwrap();
    let mut out = [0.0];
    let mut go = || instance.score(&Part::whole("w", 1, 1, &[1.0]), &Evidence::default(), &mut out);
    go().unwrap();
    assert_eq!(ears.heard.load(Ordering::Relaxed), 2);
    ears.stop.store(true, Ordering::Relaxed);
    assert!(matches!(go(), Err(Error::Interrupted)));
}

#[test]
fn methods_are_told_how_many_threads_the_run_has() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert_eq!(pool.install(|| score(&COUNTS, &[1.0])).unwrap(), [3.0]);
}

/// Not thread_safe, encodes what it is told to keep, remembers an option.
struct Keeper {
    rank: i64,
    busy: AtomicBool,
}

static ALIVE: AtomicUsize = AtomicUsize::new(0);

impl Drop for Keeper {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Method for Keeper {
    const CARD: Card = Card {
        name: "keeper",
        thread_safe: false,
        scores: true,
        options: &[
            compress_sdk::OptionSpec {
                name: "by",
                meaning: "what counts",
                kind: compress_sdk::OptionKind::Choice { default: "rank", choices: &["rank", "bytes"] },
            },
            compress_sdk::OptionSpec {
                name: "rank",
                meaning: "columns of U",
                kind: compress_sdk::OptionKind::Integer { default: 3, min: 1, max: 9 },
            },
            compress_sdk::OptionSpec {
                name: "with",
                meaning: "what helps",
                kind: compress_sdk::OptionKind::Choice { default: "b", choices: &["a", "b"] },
            },
        ],
        evidence: &[
            (compress_sdk::EvidenceKind::Gram, compress_sdk::Need::Required),
            (compress_sdk::EvidenceKind::RowCount, compress_sdk::Need::Optional),
        ],
        ..Card { meaning: "m", citation: "c", equation: "e", ..Card::ENCODES_PARTS }
    };
    fn create(options: &Options, seed: u64) -> Result<Self> {
        assert_eq!((options.text("by"), options.text("with"), seed), ("rank", "b", 7));
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Ok(Keeper { rank: options.integer("rank"), busy: AtomicBool::new(false) })
    }
    fn score(&self, part: &Part<'_>, evidence: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "called twice at once");
        std::thread::sleep(std::time::Duration::from_millis(2));
        let gram = evidence.get(compress_sdk::EvidenceKind::Gram).map_or(0.0, |g| g.data[0]);
        (0..part.rows).for_each(|r| (0..part.cols).for_each(|c| out.set(r, c, part.at(r, c) + gram)));
        self.busy.store(false, Ordering::SeqCst);
        Ok(())
    }
    fn encode(&self, part: &Part<'_>, keep: Keep<'_>, _: &Evidence<'_>) -> Result<Encoded> {
        let kept = match keep {
            Keep::All => Bitmap::new(part.rows * part.cols, true),
            Keep::Mask(mask) => mask.clone(),
            Keep::Quota { eligible, .. } => eligible.clone(),
        };
        let values = (0..kept.len()).filter(|i| kept.get(*i)).map(|i| part.data[i] * self.rank as f32).collect();
        let terms = vec![Term { layout: Layout::Sparse(kept.clone()), values }];
        Ok(Encoded { kept, encoding: Encoding { rows: part.rows, cols: part.cols, terms } })
    }
}

static KEEPER: Entry = entry::<Keeper>();

#[test]
fn the_card_comes_through_whole() {
    let registry = registry(&[&KEEPER]);
    let card = registry.get("keeper").unwrap().card();
    let names: Vec<&str> = card.options.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["by", "rank", "with"]);
    assert_eq!(card.options[1].kind, OptionKind::Integer { default: 3, min: 1, max: 9 });
    assert_eq!(card.options[2].kind, OptionKind::Choice { default: "b".into(), choices: vec!["a".into(), "b".into()] });
    assert_eq!(
        card.evidence,
        [
            (compress_sdk::EvidenceKind::Gram, compress_sdk::Need::Required),
            (compress_sdk::EvidenceKind::RowCount, compress_sdk::Need::Optional)
        ]
    );
    assert!(card.scores && card.encodes && !card.selects && !card.random && !card.thread_safe);
    assert_eq!((card.reach, card.units), (compress_sdk::Reach::Part, compress_sdk::Units::Other));
}

#[test]
fn state_evidence_encodings_and_turns() {
    let registry = registry(&[&KEEPER]);
    let method = registry.get("keeper").unwrap();
    let options = method.check_options(&toml::toml! { rank = 2 }).unwrap();
    let instance = method.create(&options, 7).unwrap();
    assert_eq!(ALIVE.load(Ordering::SeqCst), 1);

    let weights = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let part = Part::whole("w", 3, 2, &weights);
    let gram = [compress_sdk::Array {
        kind: compress_sdk::EvidenceKind::Gram,
        shape: &[2, 2],
        data: &[10.0, 0.0, 0.0, 10.0],
        model_mean: 0.0,
    }];
    let evidence = Evidence { arrays: &gram };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut out = [0.0; 6];
                instance.score(&part, &evidence, &mut out).unwrap();
                assert_eq!(out, weights.map(|w| w + 10.0));
            });
        }
    });

    let mask = Bitmap::from_bytes(vec![0b10_1010], 6).unwrap();
    let encoded = instance.encode(&part, Keep::Mask(&mask), &Evidence::default()).unwrap();
    assert_eq!((&encoded.kept, &encoded.encoding.terms[0].values[..]), (&mask, &[4.0, 8.0, 12.0][..]));
    let quota = Keep::Quota { eligible: &mask, pruned: 4, n: 0, m: 0 };
    let error = instance.encode(&part, quota, &Evidence::default()).unwrap_err().to_string();
    assert_eq!(error, "\"w\": method \"keeper\": it pruned 3 weights where 4 were asked for");

    let mut short = [0.0; 5];
    let error = instance.score(&part, &evidence, &mut short).unwrap_err().to_string();
    assert_eq!(error, "\"w\": method \"keeper\": 5 scores for 6 weights");
    drop(instance);
    assert_eq!(ALIVE.load(Ordering::SeqCst), 0);
}

#[test]
fn what_is_printed_comes_from_the_cards() {
    let registry = registry(&[&SQUARE, &KEEPER]);
    assert_eq!(
        print::list(&registry),
        "keeper  scores and encodes  m\n        c\n        built-in\n\
         square  scores              for this test\n        none\n        built-in\n"
    );
    let keeper = registry.get("keeper").unwrap();
    assert_eq!(
        print::detail(keeper),
        "keeper: m\n\n    e\n\npaper     c\nkind      scores and encodes\nsees      whole parts\n\
         evidence  gram, row_count (if there is any)\nrandom    no\nfrom      built-in\n\noptions\n  \
         by    what counts (one of \"rank\", \"bytes\"; default \"rank\")\n  \
         rank  columns of U (a whole number from 1 to 9; default 3)\n  \
         with  what helps (one of \"a\", \"b\"; default \"b\")\n\nexample\n\n    [[stage]]\n    measure = [\"gram\"]\n\n    \
         [[stage]]\n    method = \"keeper\"\n    amount = \"80%\"\n    \
         options = { by = \"rank\", rank = 3, with = \"b\" }\n"
    );
    let json = print::json(&registry);
    assert_eq!(json[0]["options"][1]["max"], 9);
    assert_eq!(json[0]["evidence"][0], serde_json::json!({ "kind": "gram", "required": true }));
    assert_eq!(json[1]["origin"]["kind"], "built-in");
    // The example is a recipe's text, and its options are the CARD's defaults.
    let example: toml::Table = print::example(keeper).parse().unwrap();
    let options = example["stage"][1]["options"].as_table().unwrap();
    assert_eq!(keeper.check_options(options).unwrap(), keeper.card().defaults());
}
