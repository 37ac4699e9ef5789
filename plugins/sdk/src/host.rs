//! What a method may ask of the host while it works. Call these on the thread that the method was called on; on
//! other threads, and outside a call, they do nothing.
#![allow(unsafe_code)]

use std::cell::Cell;

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

/// Whether the user wants to stop. A method that works for long asks now and then, and returns any error.
pub fn cancelled() -> bool {
    let host = CURRENT.get();
    // SAFETY: a host that is not null is live (see `Guard::enter`), and hosts keep the door's rules.
    unsafe { host.as_ref() }.and_then(|h| h.cancelled).is_some_and(|f| unsafe { f(host) } != 0)
}

/// Tells how much of the call is done, from 0 to 1.
pub fn progress(fraction: f64) {
    let host = CURRENT.get();
    // SAFETY: as in `cancelled`.
    if let Some(f) = unsafe { host.as_ref() }.and_then(|h| h.progress) {
        // SAFETY: as in `cancelled`.
        unsafe { f(host, fraction) }
    }
}

/// Shows the user a line that is no error.
pub fn log(line: &str) {
    let host = CURRENT.get();
    // SAFETY: as in `cancelled`.
    if let Some(f) = unsafe { host.as_ref() }.and_then(|h| h.log) {
        // SAFETY: as in `cancelled`; the text outlives the call.
        unsafe { f(host, Str::new(line)) }
    }
}
