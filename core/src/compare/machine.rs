//! What the machine has: memory, and what processes take of it. From /proc; elsewhere nothing is known, and memory
//! limits nothing.

use std::time::Duration;

/// Bytes that new processes may take without others being pushed out.
pub fn available_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Bytes of a process that are in memory now.
pub fn resident_bytes(process: u32) -> Option<u64> {
    field(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmRSS:")
}

/// Most bytes of this process that were ever in memory.
pub fn peak_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// `Name:   123 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Processor time of this process, user and system, all threads.
#[allow(unsafe_code)]
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes into the struct that it is given, which is ours.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    match status {
        0 => Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   19000000 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(19_000_000 * 1024));
        assert_eq!(field(text, "VmRSS:"), None);
        assert_eq!(field("VmRSS: many kB", "VmRSS:"), None);
    }

    #[test]
    fn time_goes_on() {
        let before = cpu_time();
        let mut x = 1u64;
        while cpu_time() == before {
            x = x.wrapping_mul(3);
        }
        assert!(x != 0 && cpu_time() > before);
    }
}
