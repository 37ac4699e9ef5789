//! Scores: finite, all written, nothing else written, and the same however the work is cut.

use compress_sdk::caller::Failure;
use compress_sdk::{Array, Evidence, EvidenceKind, Part, Reach};

use crate::inputs::{Fill, Input, Measured, SHAPES};
use crate::{Complaints, Instance, Subject};

pub fn check(subject: &dyn Subject, wrong: &mut Complaints) {
    let card = subject.card();
    let Some(instance) = wrong.create(subject, 1) else { return };
    let kinds: Vec<EvidenceKind> = card.evidence.iter().map(|(k, _)| *k).collect();
    let sets = crate::inputs::enough(card);
    let input = Input::new(33, 64, Fill::Normal, Measured::Well, &kinds);
    if !repeats(subject, &*instance, &input, wrong) {
        return;
    }
    seeds(subject, &*instance, &input, wrong);
    for (rows, cols) in SHAPES {
        for fill in Fill::ALL {
            for kinds in &sets {
                finite(&*instance, &Input::new(rows, cols, fill, Measured::Well, kinds), false, wrong);
            }
        }
        finite(&*instance, &Input::new(rows, cols, Fill::Normal, Measured::Zero, &kinds), true, wrong);
        let input = Input::new(rows, cols, Fill::Normal, Measured::Well, &kinds);
        slices(&*instance, card.reach, &input, wrong);
        if card.reach == Reach::Weight && !card.random && sets.iter().any(Vec::is_empty) {
            values(&*instance, &input, wrong);
        }
        if !card.random {
            strides(&*instance, card.reach, &input, wrong);
        }
    }
}

/// Scores of a block, with a wall around them and weights that must not change.
fn score(instance: &dyn Instance, part: &Part<'_>, arrays: &[Array<'_>]) -> Result<Vec<f32>, Failure> {
    const WALL: f32 = 1.25e-7;
    let count = part.data.len();
    let mut out = vec![WALL; count + 16];
    out[8..8 + count].fill(f32::NAN);
    let before = hash(part.data);
    instance.score(part, &Evidence { arrays }, &mut out[8..8 + count])?;
    if out[..8].iter().chain(&out[8 + count..]).any(|w| w.to_bits() != WALL.to_bits()) {
        return Err(Failure::Panicked("it writes beyond its scores".into()));
    }
    if hash(part.data) != before {
        return Err(Failure::Panicked("it changes the weights that it is given".into()));
    }
    Ok(out[8..8 + count].to_vec())
}

fn hash(data: &[f32]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |h, w| (h ^ u64::from(w.to_bits())).wrapping_mul(0x0100_0000_01b3))
}

fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|s| s.to_bits()).collect()
}

/// That all are finite and written is the contract, which is checked in every call.
fn finite(instance: &dyn Instance, input: &Input, may_give_up: bool, wrong: &mut Complaints) {
    match score(instance, &input.part(), &input.arrays()) {
        Ok(_) => {}
        Err(Failure::Failed(_)) if may_give_up || input.fill == Fill::Largest => {}
        Err(e) => wrong.add(format_args!("it cannot score {}: {e}", input.describe())),
    }
}

/// A method that sees weights or rows by themselves gives each the score that it has within the whole part.
fn slices(instance: &dyn Instance, reach: Reach, input: &Input, wrong: &mut Complaints) {
    let (part, arrays) = (input.part(), input.arrays());
    let (rows, cols) = (part.rows, part.cols);
    let Ok(whole) = score(instance, &part, &arrays) else { return };
    let (unit, count) = match reach {
        Reach::Weight => (1, rows * cols),
        Reach::Row => (cols, rows),
        Reach::Part => return,
    };
    let step = (count / 3).max(1);
    for first in (0..count).step_by(step) {
        let at = first * unit..((first + step).min(count) * unit);
        let block = match reach {
            Reach::Weight => {
                Part { rows: 1, cols: at.len(), row_stride: at.len(), first_element: at.start as u64, ..part }
            }
            _ => Part { rows: at.len() / cols.max(1), first_row: first, ..part },
        };
        let block = Part { data: &part.data[at.clone()], ..block };
        let shapes: Vec<Vec<u64>> = arrays.iter().map(|a| block_shape(a, &block)).collect();
        let cut: Vec<Array<'_>> = (arrays.iter().zip(&shapes))
            .map(|(array, shape)| {
                let data = match array.kind {
                    EvidenceKind::FisherDiag | EvidenceKind::HessianDiag => &array.data[at.clone()],
                    EvidenceKind::RowCount => &array.data[first..first + block.rows],
                    EvidenceKind::Gram => array.data,
                };
                Array { shape, data, ..*array }
            })
            .collect();
        match score(instance, &block, &cut) {
            Ok(scores) if bits(&scores) == bits(&whole[at.clone()]) => {}
            Ok(_) => wrong.add(format_args!(
                "its scores of {} depend on how the part is cut, but its CARD says reach {reach:?}",
                input.describe()
            )),
            Err(e) => wrong.add(format_args!("it cannot score a block of {}: {e}", input.describe())),
        }
    }
}

/// Without evidence and chance a score depends on the weight's value alone, wherever in the part it stands: hosts may
/// ask for each value once.
fn values(instance: &dyn Instance, input: &Input, wrong: &mut Complaints) {
    let part = input.part();
    let turned: Vec<f32> = part.data.iter().rev().copied().collect();
    let both = (score(instance, &part, &[]), score(instance, &Part { data: &turned, ..part }, &[]));
    let (Ok(scores), Ok(mut of_turned)) = both else { return };
    of_turned.reverse();
    if bits(&scores) != bits(&of_turned) {
        wrong.add(format_args!(
            "its scores of {} depend on where a value stands, but its CARD says reach Weight and not random",
            input.describe()
        ));
    }
}

/// A part stored by columns has the scores of the part stored by rows, but for the order of its sums.
fn strides(instance: &dyn Instance, reach: Reach, input: &Input, wrong: &mut Complaints) {
    let turned = input.turned();
    let (rows, cols) = (input.rows, input.cols);
    let by_column = Part { row_stride: 1, col_stride: rows, ..turned.part() };
    let both = score(instance, &input.part(), &input.arrays()).and_then(|a| {
        score(instance, &by_column, &turned.arrays()).map(|b| (a, b)) //
    });
    let Ok((a, b)) = both.map_err(|e| wrong.add(format_args!("it cannot score {} by columns: {e}", input.describe())))
    else {
        return;
    };
    let scale = a.iter().fold(0.0f32, |m, s| m.max(s.abs()));
    let tolerance = if reach == Reach::Weight { 0.0 } else { 1e-3 * scale };
    let differs = |r: usize, c: usize| (a[r * cols + c] - b[c * rows + r]).abs() > tolerance;
    if let Some(i) = (0..rows * cols).find(|i| differs(i / cols, i % cols)) {
        let (r, c) = (i / cols, i % cols);
        wrong.add(format_args!(
            "weight ({r}, {c}) of {} scores {} stored by rows and {} stored by columns",
            input.describe(),
            a[r * cols + c],
            b[c * rows + r]
        ));
    }
}

/// The same again, in another state, and from several threads. Where that is not so, no other check says anything.
fn repeats(subject: &dyn Subject, instance: &dyn Instance, input: &Input, wrong: &mut Complaints) -> bool {
    let before = wrong.0.len();
    let go = |instance: &dyn Instance| score(instance, &input.part(), &input.arrays()).map(|s| bits(&s)).ok();
    let first = go(instance);
    if go(instance) != first {
        wrong.add(format_args!("called twice it gives different scores"));
    }
    if let Some(other) = wrong.create(subject, 1)
        && go(&*other) != first
    {
        wrong.add(format_args!("created twice it gives different scores"));
    }
    let same = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..8).all(|_| go(instance) == first))).collect();
        threads.into_iter().all(|t| t.join().unwrap_or(false))
    });
    if !same {
        wrong.add(format_args!("called from four threads it gives different scores"));
    }
    wrong.0.len() == before
}

/// The seed counts where the CARD says so, and nowhere else.
fn seeds(subject: &dyn Subject, instance: &dyn Instance, input: &Input, wrong: &mut Complaints) {
    let Some(other) = wrong.create(subject, 2) else { return };
    let go = |instance: &dyn Instance| score(instance, &input.part(), &input.arrays()).map(|s| bits(&s)).ok();
    match (go(instance) == go(&*other), subject.card().random) {
        (true, true) => wrong.add(format_args!("its CARD says random, but two seeds give the same scores")),
        (false, false) => wrong.add(format_args!("its scores depend on the seed, but its CARD does not say random")),
        _ => {}
    }
}

fn block_shape(array: &Array<'_>, block: &Part<'_>) -> Vec<u64> {
    match array.kind {
        EvidenceKind::FisherDiag | EvidenceKind::HessianDiag => vec![block.rows as u64, block.cols as u64],
        EvidenceKind::RowCount => vec![block.rows as u64],
        EvidenceKind::Gram => array.shape.to_vec(),
    }
}
