//! The suite finds what it is there to find.
#![allow(clippy::unwrap_used)]

use compress_sdk::caller::Caller;
use compress_sdk::*;

const BASE: Card = Card { name: "bad", meaning: "m", citation: "c", equation: "e", ..Card::SCORES_WEIGHTS };

macro_rules! method {
    ($type:ident, $card:expr, |$part:ident, $evidence:ident, $out:ident| $body:expr) => {
        struct $type(u64);
        impl Method for $type {
            const CARD: Card = $card;
            fn create(_: &Options, seed: u64) -> Result<Self> {
                Ok($type(seed))
            }
            fn score(&self, $part: &Part<'_>, $evidence: &Evidence<'_>, $out: &mut Scores<'_>) -> Result<()> {
                let _ = self.0;
                #[allow(unused_mut)]
                let mut work = || $body;
                work();
                Ok(())
            }
        }
    };
}

fn every(out: &mut Scores<'_>, part: &Part<'_>, score: impl Fn(usize, f32) -> f32) {
    out.data.iter_mut().zip(part.data).enumerate().for_each(|(i, (s, w))| *s = score(i, *w));
}

method!(Good, BASE, |part, _e, out| every(out, part, |_, w| w.abs()));
method!(Square, BASE, |part, _e, out| every(out, part, |_, w| w * w * w));
method!(ByPlace, BASE, |part, _e, out| every(out, part, |i, _| i as f32));
method!(ByPosition, BASE, |part, _e, out| every(out, part, |i, _| (part.first_element + i as u64) as f32));
method!(Ones, Card { reach: Reach::Row, ..BASE }, |part, _e, out| every(out, part, |_, _| part.rows as f32));
method!(FirstOnly, BASE, |part, _e, out| if let Some(s) = out.data.first_mut() {
    *s = part.data[0]
});
method!(Indexes, BASE, |part, _e, out| out.data[0] = part.data[0]);
method!(NotRandom, Card { random: true, ..BASE }, |part, _e, out| every(out, part, |_, w| w.abs()));

struct Seeded(u64);
impl Method for Seeded {
    const CARD: Card = BASE;
    fn create(_: &Options, seed: u64) -> Result<Self> {
        Ok(Seeded(seed))
    }
    fn score(&self, part: &Part<'_>, _: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        every(out, part, |_, w| w.abs() + self.0 as f32);
        Ok(())
    }
}

struct Counting(std::sync::atomic::AtomicU32);
impl Method for Counting {
    const CARD: Card = BASE;
    fn create(_: &Options, _: u64) -> Result<Self> {
        Ok(Counting(0.into()))
    }
    fn score(&self, part: &Part<'_>, _: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        let count = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        every(out, part, |_, _| count as f32);
        Ok(())
    }
}

struct Fussy;
impl Method for Fussy {
    const CARD: Card = Card {
        options: &[OptionSpec {
            name: "rank",
            meaning: "columns",
            kind: OptionKind::Integer { default: 1, min: 0, max: 4 },
        }],
        ..BASE
    };
    fn create(options: &Options, _: u64) -> Result<Self> {
        assert!(options.integer("rank") > 0, "division by zero");
        Ok(Fussy)
    }
    fn score(&self, part: &Part<'_>, _: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        every(out, part, |_, w| w.abs());
        Ok(())
    }
}

struct Keeps;
impl Method for Keeps {
    const CARD: Card = Card { scores: true, ..Card { name: "bad", ..Card { encodes: true, ..BASE } } };
    fn create(_: &Options, _: u64) -> Result<Self> {
        Ok(Keeps)
    }
    fn score(&self, part: &Part<'_>, _: &Evidence<'_>, out: &mut Scores<'_>) -> Result<()> {
        every(out, part, |_, w| w.abs());
        Ok(())
    }
    fn encode(&self, part: &Part<'_>, _: Keep<'_>, _: &Evidence<'_>) -> Result<Encoded> {
        let terms = vec![Term { layout: Layout::Dense, values: part.data.to_vec() }];
        Ok(Encoded {
            kept: Bitmap::new(part.data.len(), true),
            encoding: Encoding { rows: part.rows, cols: part.cols, terms },
        })
    }
}

fn complaints<M: Method>() -> Vec<String> {
    let entry = Box::leak(Box::new(entry::<M>()));
    compress_testkit::complaints(&Caller::linked(entry).unwrap())
}

#[test]
fn each_mistake_is_found() {
    assert_eq!(complaints::<Good>(), [""; 0]);
    for (found, part) in [
        (complaints::<Square>(), "(Huge): its score of weight"),
        (complaints::<ByPlace>(), "depend on how the part is cut, but its CARD says reach Weight"),
        (complaints::<ByPosition>(), "depend on where a value stands, but its CARD says reach Weight"),
        (complaints::<Ones>(), "depend on how the part is cut, but its CARD says reach Row"),
        (complaints::<FirstOnly>(), "is NaN"),
        (complaints::<Indexes>(), "it panicked: index out of bounds"),
        (complaints::<NotRandom>(), "two seeds give the same scores"),
        (complaints::<Seeded>(), "depend on the seed"),
        (complaints::<Counting>(), "called twice it gives different scores"),
        (complaints::<Fussy>(), "option \"rank\" = Integer(0) makes it panic: division by zero"),
        (complaints::<Keeps>(), "half masked: it keeps other weights than it was told to keep"),
    ] {
        assert!(found.iter().any(|f| f.contains(part)), "{part}: {found:?}");
    }
}

#[test]
fn a_card_that_says_nothing_is_refused() {
    method!(Nameless, Card { name: "", ..BASE }, |_p, _e, _o| ());
    method!(Unexplained, Card { equation: " ", ..BASE }, |_p, _e, _o| ());
    method!(Idle, Card { scores: false, ..BASE }, |_p, _e, _o| ());
    method!(Odd, Card { evidence: &[(EvidenceKind::Gram, Need::Required)], ..BASE }, |_p, _e, _o| ());
    for (entry, sentence) in [
        (entry::<Nameless>(), "its name \"\" is not made of lower case letters, digits and hyphens"),
        (entry::<Unexplained>(), "its CARD has no equation"),
        (entry::<Idle>(), "it gives neither scores nor encodings"),
        (entry::<Odd>(), "it reads gram, so its reach cannot be a single weight"),
    ] {
        assert_eq!(Caller::linked(Box::leak(Box::new(entry))).err().as_deref(), Some(sentence));
    }
}
