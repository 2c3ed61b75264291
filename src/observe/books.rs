//! Metrics of the ledger: handles that whoever keeps it is given at build.

use super::names;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// What the ledger counts. By default it counts for nobody.
#[derive(Clone, Debug)]
pub struct Books {
    /// Settled requests that were written down, or wait to be.
    pub appended: IntCounter,
    /// Those that are lost, for too many wait.
    pub dropped: IntCounter,
    /// Lines that were carried into the store.
    pub carried: IntCounter,
    /// Lines that were no entries, and were set aside.
    pub torn: IntCounter,
    failures: IntCounterVec,
    waiting: IntGauge,
    uncarried: IntGauge,
    lag: Gauge,
}

impl Books {
    /// The same, told by this registry.
    pub(super) fn registered(registry: &Registry) -> Self {
        let books = Self::default();
        for counter in [&books.appended, &books.dropped, &books.carried, &books.torn] {
            super::metrics::kept(registry, Ok(counter.clone()));
        }
        super::metrics::kept(registry, Ok(books.failures.clone()));
        super::metrics::kept(registry, Ok(books.waiting.clone()));
        super::metrics::kept(registry, Ok(books.uncarried.clone()));
        super::metrics::kept(registry, Ok(books.lag.clone()));
        books
    }

    /// Something didn't take what it should; `place` is `journal` or `store`.
    pub fn failed(&self, place: &str) {
        self.failures.with_label_values(&[place]).inc();
    }

    /// Bytes of lines that wait for the disk.
    pub fn waiting(&self, bytes: usize) {
        self.waiting.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Bytes of lines that wait for the store, and since when it had all.
    pub fn lags(&self, bytes: u64, seconds: f64) {
        self.uncarried.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.lag.set(seconds);
    }
}

impl Default for Books {
    fn default() -> Self {
        const VALID: &str = "names and labels are constants that follow Prometheus' rules";
        let counter = |name, help| IntCounter::new(name, help).expect(VALID);
        let failures = IntCounterVec::new(
            Opts::new(
                names::LEDGER_FAILURES,
                "Writes of usage that failed, by place.",
            ),
            &["place"],
        )
        .expect(VALID);
        for place in ["journal", "store"] {
            failures.with_label_values(&[place]).reset();
        }
        Self {
            appended: counter(names::LEDGER_APPENDED, "Settled requests in the ledger."),
            dropped: counter(
                names::LEDGER_DROPPED,
                "Settled requests that the ledger lost: the disk took nothing for too long.",
            ),
            carried: counter(
                names::LEDGER_CARRIED,
                "Lines carried into the store of usage.",
            ),
            torn: counter(
                names::LEDGER_TORN,
                "Lines of the journal that can't be read and were set aside.",
            ),
            failures,
            waiting: IntGauge::new(
                names::LEDGER_WAITING,
                "Bytes of usage that wait in memory for the disk.",
            )
            .expect(VALID),
            uncarried: IntGauge::new(
                names::LEDGER_UNCARRIED,
                "Bytes of the journal that wait for the store.",
            )
            .expect(VALID),
            lag: Gauge::new(names::LEDGER_LAG, "How long ago the store had everything.")
                .expect(VALID),
        }
    }
}
