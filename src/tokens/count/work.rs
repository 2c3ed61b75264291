//! How much work counting did, in steps: characters looked at, look-ups, pairs taken from a heap.
//! Tests bound it, because time can't be bounded on a shared machine. Costs nothing elsewhere.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
pub(super) fn spend(steps: u64) {
    STEPS.set(STEPS.get() + steps);
}

#[cfg(not(test))]
#[inline(always)]
pub(super) fn spend(_steps: u64) {}

/// The steps of this thread since the last call.
#[cfg(test)]
pub(in crate::tokens) fn spent() -> u64 {
    STEPS.replace(0)
}
