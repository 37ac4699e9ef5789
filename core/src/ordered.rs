//! Work on all threads whose error is the same at every run.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::error::Result;

/// Works on all items on all threads. Of several errors the first item's is returned, whatever the number of threads;
/// items after one that has failed are no longer begun.
pub fn try_map<T: Send, R: Send>(
    items: impl IntoParallelIterator<Iter: IndexedParallelIterator<Item = T>, Item = T>,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    try_map_init(items, || (), |(), item| work(item))
}

/// [`try_map`] with something that a thread uses again, a buffer.
pub fn try_map_init<T: Send, S, R: Send>(
    items: impl IntoParallelIterator<Iter: IndexedParallelIterator<Item = T>, Item = T>,
    init: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let failed = AtomicUsize::new(usize::MAX);
    let done: Vec<Option<Result<R>>> = items
        .into_par_iter()
        .enumerate()
        .map_init(&init, |scratch, (index, item)| {
            // What comes before the first failure so far is always done: it may hold an earlier one.
            if failed.load(Ordering::Relaxed) < index {
                return None;
            }
            let result = work(scratch, item);
            if result.is_err() {
                failed.fetch_min(index, Ordering::Relaxed);
            }
            Some(result)
        })
        .collect();
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn of_several_errors_the_first_items_is_returned() {
        for _ in 0..200 {
            let found = try_map(0..64usize, |i| {
                // The earlier ones take longer.
                std::thread::sleep(std::time::Duration::from_micros(64 - i as u64));
                if i % 7 == 3 { Err(Error::failed(i.to_string())) } else { Ok(i) }
            });
            assert_eq!(found.unwrap_err().to_string(), "3");
        }
        assert_eq!(try_map(0..9usize, |i| Ok(i * i)).unwrap(), [0, 1, 4, 9, 16, 25, 36, 49, 64]);
    }
}
