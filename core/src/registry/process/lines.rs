//! Lines from a program, waited for no longer than told.
#![allow(unsafe_code)]

use std::process::ChildStdout;
use std::time::Duration;

/// The longest line that is read.
pub const LONGEST: usize = 1 << 24;

/// What came.
pub enum Next {
    /// A line without its end.
    Line(Vec<u8>),
    /// Nothing yet.
    Later,
    /// The other side closed.
    End,
    /// More than [`LONGEST`] bytes without an end of line.
    TooLong,
}

#[cfg(unix)]
pub use unix::Lines;

#[cfg(not(unix))]
pub use thread::Lines;

/// The caller itself waits and reads: with a thread between, every answer would cost another change of threads.
#[cfg(unix)]
mod unix {
    use std::io::{ErrorKind, Read};
    use std::os::fd::AsRawFd;

    use super::*;

    pub struct Lines {
        from: ChildStdout,
        buffer: Vec<u8>,
    }

    impl Lines {
        pub fn new(from: ChildStdout) -> Lines {
            Lines { from, buffer: Vec::new() }
        }

        pub fn next(&mut self, wait: Duration) -> Next {
            let mut seen = 0;
            loop {
                if let Some(end) = self.buffer[seen..].iter().position(|b| *b == b'\n') {
                    let mut line: Vec<u8> = self.buffer.drain(..=seen + end).collect();
                    line.pop();
                    return Next::Line(line);
                }
                if self.buffer.len() > LONGEST {
                    return Next::TooLong;
                }
                seen = self.buffer.len();
                let mut poll = libc::pollfd { fd: self.from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX).max(1);
                // SAFETY: one live pollfd, whose descriptor is open as long as `from`.
                if unsafe { libc::poll(&raw mut poll, 1, wait) } <= 0 {
                    return Next::Later;
                }
                let mut chunk = [0u8; 1 << 12];
                match self.from.read(&mut chunk) {
                    Ok(0) => return Next::End,
                    Ok(n) => self.buffer.extend(&chunk[..n]),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return Next::End,
                }
            }
        }
    }
}

#[cfg(not(unix))]
mod thread {
    use std::io::{BufRead, BufReader, Read};
    use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

    use super::*;

    pub struct Lines(Receiver<Next>);

    impl Lines {
        pub fn new(from: ChildStdout) -> Lines {
            let (send, receive) = sync_channel(1);
            std::thread::spawn(move || {
                let mut from = BufReader::new(from);
                loop {
                    let mut line = Vec::new();
                    let read = from.by_ref().take(LONGEST as u64 + 1).read_until(b'\n', &mut line);
                    let next = match read {
                        Ok(_) if line.pop() == Some(b'\n') => Next::Line(line),
                        Ok(n) if n > LONGEST => Next::TooLong,
                        _ => Next::End,
                    };
                    let last = !matches!(next, Next::Line(_));
                    if send.send(next).is_err() || last {
                        return;
                    }
                }
            });
            Lines(receive)
        }

        pub fn next(&mut self, wait: Duration) -> Next {
            match self.0.recv_timeout(wait) {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout) => Next::Later,
                Err(RecvTimeoutError::Disconnected) => Next::End,
            }
        }
    }
}
