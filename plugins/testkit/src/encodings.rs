//! Encodings: they fit the part, keep what they are told to keep, and are the same each time.

use compress_sdk::caller::Failure;
use compress_sdk::{Bitmap, Evidence, EvidenceKind, Keep};

use crate::inputs::{Fill, Input, Measured, Numbers, SHAPES};
use crate::{Complaints, Instance, Subject};

pub fn check(subject: &dyn Subject, wrong: &mut Complaints) {
    let card = subject.card();
    let Some(instance) = wrong.create(subject, 1) else { return };
    let kinds: Vec<EvidenceKind> = card.evidence.iter().map(|(k, _)| *k).collect();
    let sets = crate::inputs::enough(card);
    for (rows, cols) in SHAPES {
        for fill in Fill::ALL {
            for kinds in &sets {
                let input = Input::new(rows, cols, fill, Measured::Well, kinds);
                each(subject, &*instance, &input, fill == Fill::Largest, wrong);
            }
        }
        let unmeasured = Input::new(rows, cols, Fill::Normal, Measured::Zero, &kinds);
        each(subject, &*instance, &unmeasured, true, wrong);
    }
    let input = Input::new(33, 64, Fill::Normal, Measured::Well, &kinds);
    repeats(subject, &*instance, &input, wrong);
}

/// What a host may ask of the method, each with what is asked in words.
fn asks(subject: &dyn Subject, count: usize) -> Vec<(&'static str, Ask)> {
    let card = subject.card();
    let mut asks = Vec::new();
    if !card.selects {
        asks.push(("all kept", Ask::All));
    }
    if card.scores && !card.selects {
        asks.push(("half masked", Ask::Mask(pattern(count, 2))));
        asks.push(("all masked", Ask::Mask(Bitmap::new(count, false))));
    }
    if card.selects {
        let n = count as u64;
        for (words, pruned) in [("a quota of none", 0), ("a quota of half", n / 2), ("a quota of all", n)] {
            asks.push((words, Ask::Quota(Bitmap::new(count, true), pruned)));
        }
        let eligible = pattern(count, 4);
        let gone = n - eligible.count_ones();
        asks.push(("a quota over pruned weights", Ask::Quota(eligible, gone + (n - gone) / 2)));
    }
    asks
}

enum Ask {
    All,
    Mask(Bitmap),
    Quota(Bitmap, u64),
}

impl Ask {
    fn keep(&self) -> Keep<'_> {
        match self {
            Ask::All => Keep::All,
            Ask::Mask(mask) => Keep::Mask(mask),
            Ask::Quota(eligible, pruned) => Keep::Quota { eligible, pruned: *pruned, n: 0, m: 0 },
        }
    }
}

/// About one bit in `every` is 0.
fn pattern(count: usize, every: u64) -> Bitmap {
    let mut numbers = Numbers(3);
    let mut map = Bitmap::new(count, true);
    (0..count).for_each(|i| map.set(i, !numbers.next().is_multiple_of(every)));
    map
}

/// That the result fits is the contract, which is checked in every call.
fn each(subject: &dyn Subject, instance: &dyn Instance, input: &Input, may_give_up: bool, wrong: &mut Complaints) {
    for (words, ask) in asks(subject, input.rows * input.cols) {
        match instance.encode(&input.part(), ask.keep(), &Evidence { arrays: &input.arrays() }) {
            Ok(_) => {}
            Err(Failure::Failed(_)) if may_give_up => {}
            Err(e) => wrong.add(format_args!("it cannot encode {}, {words}: {e}", input.describe())),
        }
    }
}

/// The same again, in another state, and from several threads.
fn repeats(subject: &dyn Subject, instance: &dyn Instance, input: &Input, wrong: &mut Complaints) {
    for (words, ask) in asks(subject, input.rows * input.cols) {
        let go = |instance: &dyn Instance| {
            instance.encode(&input.part(), ask.keep(), &Evidence { arrays: &input.arrays() }).ok()
        };
        let first = go(instance);
        if go(instance) != first {
            wrong.add(format_args!("called twice it gives different encodings ({words})"));
        }
        if let Some(other) = wrong.create(subject, 1)
            && go(&*other) != first
        {
            wrong.add(format_args!("created twice it gives different encodings ({words})"));
        }
        let same = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| go(instance) == first)).collect();
            threads.into_iter().all(|t| t.join().unwrap_or(false))
        });
        if !same {
            wrong.add(format_args!("called from four threads it gives different encodings ({words})"));
        }
    }
}
