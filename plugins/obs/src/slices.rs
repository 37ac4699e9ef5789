//! Work cut into slices whose number does not depend on the number of threads, so that results do not either.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use compress_sdk::{Error, Result, host};

/// Rows of a slice of a layer.
pub const ROWS: usize = 128;

/// Elements of a slice of a list.
pub const ELEMENTS: usize = 1 << 17;

/// Does each task once, on as many threads as the host allows. Tasks begin in order; of several errors the one of the
/// earliest task is returned.
pub fn run<T: Send>(tasks: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    let threads = host::threads().min(tasks.len());
    let queue = Mutex::new(tasks.into_iter().enumerate());
    let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let fail = |index: usize, error: Error| {
        let mut failed = lock(&failed);
        if failed.as_ref().is_none_or(|(first, _)| index < *first) {
            *failed = Some((index, error));
        }
    };
    let next = || if lock(&failed).is_some() { None } else { lock(&queue).next() };
    let worker = |asks: bool| {
        while let Some((index, task)) = next() {
            if let Err(error) = work(task) {
                fail(index, error);
            } else if asks && host::cancelled() {
                fail(usize::MAX, Error::new("interrupted"));
            }
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| worker(false))).collect();
        worker(true); // The host listens on the thread that it called.
        for other in others {
            if let Err(panic) = other.join() {
                resume_unwind(panic);
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts a matrix of `width` columns into these runs of rows, which follow each other.
pub fn cut<T>(mut data: &mut [T], width: usize, lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    let mut pieces = Vec::new();
    for length in lengths {
        let (piece, rest) = data.split_at_mut(length * width);
        pieces.push(piece);
        data = rest;
    }
    pieces
}

/// The slices of a list of so many elements.
pub fn of_list(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(ELEMENTS).map(move |first| first..(first + ELEMENTS).min(len))
}
