//! Whether a try that failed may be followed by another: by what went wrong, by how many retries
//! there were lately, and after which pause. Pure: time and chance are arguments. Called by
//! `proxy::connect`.

pub use crate::types::Fault;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A fault, and what it says of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub fault: Fault,
    /// When the endpoint may be asked again, where it said so.
    pub retry_after: Option<Duration>,
    /// It won't be otherwise in a moment: a certificate, a name, an address that isn't allowed.
    pub lasting: bool,
}

/// Which faults are followed by another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults(u8);

/// How a route's requests are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Further tries after the first.
    pub retries: u32,
    /// What they follow, where the operator said so; `None` is [`Faults::after`].
    pub on: Option<Faults>,
}

/// What a retry would cost where it went wrong the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// A second try does no harm: the request only asks (a safe or idempotent method, RFC 9110, section
    /// 9.2.2), or only computes an answer.
    pub repeatable: bool,
}

// === impl Fault ===

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Reset,
        Self::Timeout,
        Self::Busy,
        Self::Error,
        Self::Account,
    ];

    /// What an answer's status says of a request of this nature. `own_account` tells whether weir used
    /// its own credential: what becomes of a client's is the client's affair.
    pub fn of_status(status: u16, nature: Nature, own_account: bool) -> Option<Self> {
        match status {
            401..=403 if own_account => Some(Self::Account),
            // A lock that wasn't had in time; where something is kept, a conflict.
            409 => nature.repeatable.then_some(Self::Busy),
            // 529 is Anthropic's "overloaded".
            408 | 429 | 503 | 529 => Some(Self::Busy),
            500..=599 => Some(Self::Error),
            _ => None,
        }
    }

    /// Whether the upstream may have done what was asked.
    fn may_have_acted(self) -> bool {
        matches!(self, Self::Reset | Self::Timeout | Self::Error)
    }
}

impl Failure {
    /// Whether the endpoint itself may be asked again by the same request: who was too slow once isn't
    /// waited for twice, and an account that isn't accepted won't be.
    pub fn may_pass(&self) -> bool {
        !self.lasting && !matches!(self.fault, Fault::Timeout | Fault::Account)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            retry_after: None,
            lasting: false,
        }
    }
}

// === impl Faults ===

impl Faults {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// These.
    pub fn of(faults: impl IntoIterator<Item = Fault>) -> Self {
        let bits = faults.into_iter().map(|fault| 1 << fault as u8);
        Self(bits.fold(0, |all, bit: u8| all | bit))
    }

    /// What may be followed by another try of a request of this nature: all, but for one that would do
    /// harm twice where the upstream may have acted.
    pub fn after(nature: Nature) -> Self {
        let all = Fault::ALL.into_iter();
        Self::of(all.filter(|fault| nature.repeatable || !fault.may_have_acted()))
    }

    /// Whether this is one of them.
    pub fn contain(self, fault: Fault) -> bool {
        self.0 & 1 << fault as u8 != 0
    }
}

impl Policy {
    /// Whether this fault of a request of this nature is followed by another try.
    pub fn follows(&self, fault: Fault, nature: Nature) -> bool {
        self.on.unwrap_or(Faults::after(nature)).contain(fault)
    }
}

/// How many retries a route's requests may have together, so that an upstream that is slow under its
/// load isn't given more of it: a share of the requests, and some that come back with time. Tries that
/// never reached an upstream are no load and take nothing of it.
#[derive(Debug)]
pub struct Budget {
    /// Thousandths of a retry that each request brings.
    share: u64,
    requests: AtomicU64,
    purse: Mutex<Purse>,
}

#[derive(Debug)]
struct Purse {
    /// Thousandths of a retry.
    left: u64,
    /// Requests that are in it.
    counted: u64,
    filled: Instant,
}

impl Budget {
    /// So many retries may come at once after a pause, and come back in [`Self::REFILL`].
    const RESERVE: u64 = 10;
    /// The time in which the reserve comes back.
    const REFILL: Duration = Duration::from_secs(10);
    /// Retries that are kept of a share that wasn't used.
    const KEPT_MAX: u64 = 100;

    /// A budget of this share of the requests, 0 to 1.
    pub fn new(share: f64, now: Instant) -> Self {
        Self {
            share: (share.clamp(0.0, 1.0) * 1000.0) as u64,
            requests: AtomicU64::new(0),
            purse: Mutex::new(Purse {
                left: Self::RESERVE * 1000,
                counted: 0,
                filled: now,
            }),
        }
    }

    /// Counts a request.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a retry, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        let mut purse = self.purse.lock();
        let requests = self.requests.load(Ordering::Relaxed);
        let shared = (requests - purse.counted).saturating_mul(self.share);
        let rest = now.saturating_duration_since(purse.filled);
        let rested =
            Self::RESERVE * 1000 * rest.as_millis() as u64 / Self::REFILL.as_millis() as u64;
        purse.counted = requests;
        if rested > 0 {
            purse.filled = now;
        }
        // What rests fills the reserve only; what requests brought may be more.
        let refilled = match purse.left < Self::RESERVE * 1000 {
            true => (purse.left + rested).min(Self::RESERVE * 1000),
            false => purse.left,
        };
        purse.left = refilled.saturating_add(shared).min(Self::KEPT_MAX * 1000);
        let paid = purse.left >= 1000;
        if paid {
            purse.left -= 1000;
        }
        paid
    }
}

/// The pause before the same endpoint is asked again: twice as long each time, and anything between half
/// and all of it, so that those who failed together don't come back together. An upstream that says when
/// to come back is asked no sooner; `None` where that is too long to keep a client waiting for.
pub fn pause(round: u32, retry_after: Option<Duration>, chance: f64) -> Option<Duration> {
    /// The first pause.
    const FIRST: Duration = Duration::from_millis(100);
    /// The longest.
    const MAX: Duration = Duration::from_secs(2);
    /// Who is to come back later than this had better be told.
    const PATIENCE: Duration = Duration::from_secs(5);
    if retry_after.is_some_and(|after| after > PATIENCE) {
        return None;
    }
    let longest = FIRST.saturating_mul(1 << round.min(10)).min(MAX);
    let jittered = longest.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
    Some(jittered.max(retry_after.unwrap_or_default()))
}

/// When an upstream says that it may be asked again: `retry-after-ms` (OpenAI), else `Retry-After` in
/// either form (RFC 9110, section 10.2.3). `now` is the time that a date is compared with.
pub fn retry_after(
    millis: Option<&str>,
    header: Option<&str>,
    now: chrono::DateTime<chrono::Utc>,
) -> Option<Duration> {
    /// A longer one is a slip of the upstream's.
    const MAX: Duration = Duration::from_secs(24 * 3600);
    let in_millis = millis.and_then(|text| text.trim().parse::<f64>().ok());
    let in_millis = in_millis.map(|millis| millis / 1000.0);
    let seconds = |text: &str| {
        let text = text.trim();
        let date = || {
            let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
            let wait = date.with_timezone(&chrono::Utc) - now;
            Some(wait.num_milliseconds().max(0) as f64 / 1000.0)
        };
        text.parse::<f64>().ok().or_else(date)
    };
    let wait = in_millis.or_else(|| header.and_then(seconds))?;
    Duration::try_from_secs_f64(wait)
        .ok()
        .map(|wait| wait.min(MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPEATABLE: Nature = Nature { repeatable: true };
    const ACTS: Nature = Nature { repeatable: false };

    fn policy(on: Option<Faults>) -> Policy {
        Policy { retries: 2, on }
    }

    #[test]
    fn what_may_have_acted_is_not_repeated_where_that_does_harm() {
        for fault in Fault::ALL {
            assert!(policy(None).follows(fault, REPEATABLE), "{fault:?}");
            let harmless = [Fault::Connect, Fault::Busy, Fault::Account].contains(&fault);
            assert_eq!(policy(None).follows(fault, ACTS), harmless, "{fault:?}");
            let only = Faults::of([fault]);
            assert!(
                policy(Some(only)).follows(fault, ACTS),
                "the operator said so"
            );
            assert!(
                !policy(Some(Faults::NONE)).follows(fault, REPEATABLE),
                "{fault:?}"
            );
        }
    }

    #[test]
    fn a_clients_own_credential_is_its_own_affair() {
        let of = |status, own| Fault::of_status(status, REPEATABLE, own);
        for status in [401, 402, 403] {
            assert_eq!(of(status, true), Some(Fault::Account));
            assert_eq!(of(status, false), None);
        }
        for status in [200, 301, 400, 404, 413, 422, 431] {
            assert_eq!(of(status, true), None, "{status}");
        }
        for status in [408, 409, 429, 503, 529] {
            assert_eq!(of(status, false), Some(Fault::Busy));
        }
        for status in [500, 502, 504, 524] {
            assert_eq!(of(status, false), Some(Fault::Error));
        }
        assert_eq!(Fault::of_status(409, ACTS, true), None, "a conflict");
    }

    #[test]
    fn retries_are_a_share_of_the_requests_and_a_reserve() {
        let start = Instant::now();
        let budget = Budget::new(0.2, start);
        let taken = |requests: usize, now| {
            (0..requests).for_each(|_| budget.request());
            (0..1000).take_while(|_| budget.take(now)).count()
        };
        assert_eq!(taken(0, start), 10, "the reserve");
        assert_eq!(taken(100, start), 20, "a fifth");
        assert_eq!(taken(4, start), 0);
        assert_eq!(taken(1, start), 1, "five make one");
        assert_eq!(
            taken(0, start + Duration::from_secs(1)),
            1,
            "one comes back in a second"
        );
        assert_eq!(
            taken(0, start + Duration::from_secs(3600)),
            10,
            "never more than all"
        );
        assert_eq!(
            taken(1_000_000, start + Duration::from_secs(3600)),
            100,
            "bounded"
        );
    }

    #[test]
    fn many_short_rests_bring_no_less_than_a_long_one() {
        let start = Instant::now();
        let budget = Budget::new(0.0, start);
        while budget.take(start) {}
        let taken = (0..10_000_u64)
            .filter(|ms| budget.take(start + Duration::from_millis(*ms)))
            .count();
        assert!((9..=10).contains(&taken), "{taken}");
    }

    #[test]
    fn pauses_grow_and_differ_and_respect_what_was_said() {
        let ms = Duration::from_millis;
        assert_eq!(pause(0, None, 0.0), Some(ms(50)));
        assert_eq!(pause(0, None, 1.0), Some(ms(100)));
        assert_eq!(pause(3, None, 1.0), Some(ms(800)));
        assert_eq!(pause(40, None, 1.0), Some(ms(2000)));
        assert_eq!(pause(0, Some(ms(3000)), 0.5), Some(ms(3000)));
        assert_eq!(
            pause(0, Some(ms(5000)), 0.5),
            Some(ms(5000)),
            "at the limit"
        );
        assert_eq!(pause(0, Some(ms(5001)), 0.5), None, "one past it");
    }

    #[test]
    fn both_forms_of_retry_after_are_understood() {
        let now = "1994-11-06T08:49:30Z".parse().expect("a date");
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let secs = |seconds| Some(Duration::from_secs_f64(seconds));
        assert_eq!(retry_after(None, Some("7"), now), secs(7.0));
        assert_eq!(retry_after(None, Some(date), now), secs(7.0));
        assert_eq!(retry_after(Some("250"), Some("7"), now), secs(0.25));
        assert_eq!(retry_after(Some("x"), Some(" 0.5 "), now), secs(0.5));
        let later = now + chrono::TimeDelta::seconds(60);
        assert_eq!(
            retry_after(None, Some(date), later),
            secs(0.0),
            "it has passed"
        );
        for wrong in ["", "soon", "-1", "NaN", "inf"] {
            assert_eq!(retry_after(None, Some(wrong), now), None, "{wrong}");
        }
        assert_eq!(retry_after(None, Some("99999999"), now), secs(86_400.0));
    }
}
