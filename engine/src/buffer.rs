//! Recycled memory. A training step asks for the same sizes again and again; taking them from the system each time
//! costs page faults that are a tenth of the step.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Buffers below this many bytes are left to the allocator.
const SMALL_BYTES: usize = 32 << 10;
/// At most this many free bytes are kept for each element type.
const KEPT_BYTES: usize = 512 << 20;

/// Free buffers by capacity.
pub struct Pool<T>(Mutex<(BTreeMap<usize, Vec<Vec<T>>>, usize)>);

impl<T> Pool<T> {
    const fn new() -> Self {
        Pool(Mutex::new((BTreeMap::new(), 0)))
    }

    /// A free buffer with room for `len` elements, at most a quarter larger.
    fn take(&self, len: usize) -> Option<Vec<T>> {
        let mut guard = self.0.lock().ok()?;
        let (free, bytes) = &mut *guard;
        let (&capacity, list) = free.range_mut(len..=len + len / 4).next()?;
        let found = list.pop();
        if list.is_empty() {
            free.remove(&capacity);
        }
        *bytes -= capacity * size_of::<T>();
        found
    }

    fn give(&self, v: Vec<T>) {
        let Ok(mut guard) = self.0.lock() else { return };
        let (free, bytes) = &mut *guard;
        let added = v.capacity() * size_of::<T>();
        if *bytes + added <= KEPT_BYTES {
            *bytes += added;
            free.entry(v.capacity()).or_default().push(v);
        }
    }
}

/// An element type of tensors.
pub trait Elem: Copy + Default + PartialEq + Send + Sync + 'static {
    /// Where its buffers are recycled.
    fn pool() -> &'static Pool<Self>;
}

macro_rules! elem {
    ($($t:ty),*) => { $(impl Elem for $t {
        fn pool() -> &'static Pool<$t> {
            static POOL: Pool<$t> = Pool::new();
            &POOL
        }
    })* };
}
elem!(f32, f64, i64, bool, usize, u8);

/// A vector that returns to its pool.
#[derive(Debug)]
pub struct Buf<T: Elem>(Vec<T>);

impl<T: Elem> Buf<T> {
    /// `len` elements of any value: for callers that write all of them.
    pub fn stale(len: usize) -> Buf<T> {
        if len * size_of::<T>() >= SMALL_BYTES
            && let Some(mut v) = T::pool().take(len)
        {
            v.resize(len, T::default());
            return Buf(v);
        }
        Buf(vec![T::default(); len])
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Buf<T> {
        Buf::full(len, T::default())
    }

    /// `len` times `v`.
    pub fn full(len: usize, v: T) -> Buf<T> {
        if len * size_of::<T>() >= SMALL_BYTES
            && let Some(mut b) = T::pool().take(len)
        {
            b.clear();
            b.resize(len, v);
            return Buf(b);
        }
        Buf(vec![v; len])
    }
}

impl<T: Elem> From<Vec<T>> for Buf<T> {
    fn from(v: Vec<T>) -> Self {
        Buf(v)
    }
}

impl<T: Elem> Clone for Buf<T> {
    fn clone(&self) -> Self {
        let mut b = Buf::stale(self.len());
        b.copy_from_slice(self);
        b
    }
}

impl<T: Elem> Drop for Buf<T> {
    fn drop(&mut self) {
        if self.0.capacity() * size_of::<T>() >= SMALL_BYTES {
            T::pool().give(std::mem::take(&mut self.0));
        }
    }
}

impl<T: Elem> Deref for Buf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Elem> DerefMut for Buf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}
