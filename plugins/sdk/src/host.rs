//! What a method may ask of the host while it works. Call these on the thread that the method was called on; on
//! other threads, and outside a call, they do nothing.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::thread::available_parallelism;

use crate::abi::{RawHost, Str};

thread_local! {
    static CURRENT: Cell<*const RawHost> = const { Cell::new(std::ptr::null()) };
}

/// Makes `host` the one that this thread's calls go to, until the guard is dropped.
pub(crate) struct Guard {
    outer: *const RawHost,
}

impl Guard {
    /// # Safety
    /// `host` must be null or live, as the door's rules say, until the guard is dropped.
    pub(crate) unsafe fn enter(host: *const RawHost) -> Guard {
        Guard { outer: CURRENT.replace(host) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}

/// Whether a method's call is running on this thread.
pub(crate) fn inside() -> bool {
    CURRENT.try_with(|c| !c.get().is_null()).unwrap_or(false)
}

/// The host of this thread's call, and what it offers: what an older one does not have yet is zero.
fn current() -> Option<(*const RawHost, RawHost)> {
    let host = CURRENT.get();
    if host.is_null() {
        return None;
    }
    let mut known = MaybeUninit::<RawHost>::zeroed();
    // SAFETY: a host that is not null is live (see `Guard::enter`) and has as many bytes as it says first; zeros are a
    // host that offers nothing.
    unsafe {
        let bytes = (host.cast::<u32>().read() as usize).min(size_of::<RawHost>());
        host.cast::<u8>().copy_to_nonoverlapping(known.as_mut_ptr().cast(), bytes);
        Some((host, known.assume_init()))
    }
}

/// Whether the user wants to stop. A method that works for long asks now and then, and returns any error.
pub fn cancelled() -> bool {
    // SAFETY: hosts keep the door's rules.
    current().is_some_and(|(host, known)| known.cancelled.is_some_and(|f| unsafe { f(host) } != 0))
}

/// Tells how much of the call is done, from 0 to 1.
pub fn progress(fraction: f64) {
    if let Some((host, RawHost { progress: Some(f), .. })) = current() {
        // SAFETY: as in `cancelled`.
        unsafe { f(host, fraction) }
    }
}

/// Shows the user a line that is no error.
pub fn log(line: &str) {
    if let Some((host, RawHost { log: Some(f), .. })) = current() {
        // SAFETY: as in `cancelled`; the text outlives the call.
        unsafe { f(host, Str::new(line)) }
    }
}

/// How many threads the call may keep busy just now, its own among them: `--threads`, shared with the calls that run beside
/// it. It changes while others begin and end, so a method that works in steps asks before each. As many as there are cores
/// where nobody says.
pub fn threads() -> usize {
    // SAFETY: as in `cancelled`.
    let said = current().and_then(|(host, known)| known.threads.map(|f| unsafe { f(host) }));
    match said.unwrap_or(0) {
        0 => available_parallelism().map_or(1, NonZero::get),
        count => count as usize,
    }
}
