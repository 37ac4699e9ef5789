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
fn asks(subject: &dyn Subject, rows: usize, cols: usize) -> Vec<(&'static str, Ask)> {
    let (card, count) = (subject.card(), rows * cols);
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
            asks.push((words, Ask::Quota(Bitmap::new(count, true), pruned, (0, 0))));
        }
        let some = || pattern(count, 4);
        let gone = n - some().count_ones();
        asks.push(("a quota over pruned weights", Ask::Quota(some(), gone + (n - gone) / 2, (0, 0))));
        for (words, eligible) in [("a quota of 2:4", Bitmap::new(count, true)), ("2:4 over pruned weights", some())] {
            let pruned = n - kept_of_groups(&eligible, rows, cols, (2, 4));
            asks.push((words, Ask::Quota(eligible, pruned, (2, 4))));
        }
    }
    asks
}

enum Ask {
    All,
    Mask(Bitmap),
    /// Eligible weights, how many go, n:m.
    Quota(Bitmap, u64, (usize, usize)),
}

impl Ask {
    fn keep(&self) -> Keep<'_> {
        match self {
            Ask::All => Keep::All,
            Ask::Mask(mask) => Keep::Mask(mask),
            Ask::Quota(eligible, pruned, (n, m)) => Keep::Quota { eligible, pruned: *pruned, n: *n, m: *m },
        }
    }
}

/// How many weights n:m keeps: at most n of each whole group of m along a row, and the rest of the row.
fn kept_of_groups(eligible: &Bitmap, rows: usize, cols: usize, (n, m): (usize, usize)) -> u64 {
    let group = |row: usize, first: usize| {
        let count = (first..cols.min(first + m)).filter(|c| eligible.get(row * cols + c)).count();
        if first + m <= cols { count.min(n) } else { count }
    };
    (0..rows).map(|row| (0..cols).step_by(m).map(|first| group(row, first) as u64).sum::<u64>()).sum()
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
    for (words, ask) in asks(subject, input.rows, input.cols) {
        match instance.encode(&input.part(), ask.keep(), &Evidence { arrays: &input.arrays() }) {
            Ok(_) => {}
            Err(Failure::Failed(_)) if may_give_up => {}
            Err(e) => wrong.add(format_args!("it cannot encode {}, {words}: {e}", input.describe())),
        }
    }
}

/// The same again, in another state, and from several threads.
fn repeats(subject: &dyn Subject, instance: &dyn Instance, input: &Input, wrong: &mut Complaints) {
    for (words, ask) in asks(subject, input.rows, input.cols) {
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
