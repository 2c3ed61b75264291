//! What the programs of `perf/` share: HTTP/1.1 framing, what simulator and generator agree to say
//! to each other, and what the kernel knows of a proxy's processes. Nothing here is part of weir.
//!
//! - [`client`] sends a request and checks all that comes back.
//! - [`http`] reads messages, whole and in pieces, and accepts no framing that is not exact.
//! - [`scene`] writes the simulator's answers and checks that they arrived as they were sent.
//! - [`chaos`] troubles weir with broken model servers and broken clients, and checks what must hold.
//! - [`process`] reads CPU time and memory of a process tree.

pub mod chaos;
pub mod client;
pub mod http;
pub mod process;
pub mod scene;
pub mod text;

/// Anything that makes a run worthless; the text says what was expected.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The host's monotonic clock in nanoseconds: the same for every process on it.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec that the call fills in.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps the thread until [`now_ns`] reaches `due_ns`, to some microseconds.
pub fn sleep_until(due_ns: u64) {
    let time = libc::timespec {
        tv_sec: (due_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (due_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: `time` is valid, and a null remainder is allowed. A signal that cuts the sleep short
    // only makes one send early.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &time,
            std::ptr::null_mut(),
        )
    };
}

/// Lets this thread's timers fire when they are due, not up to 50 µs later.
pub fn exact_timers() {
    // SAFETY: changes the slack of the calling thread and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}
