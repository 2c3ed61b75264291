//! Which choice of a route is tried first, and which next. Pure: how the choices stand, time and chance
//! are arguments.
//!
//! The selections of `pingora-load-balancing` aren't used: they can't leave out a choice that is paused
//! without giving its turns to one neighbour, know no load, and tell backends apart by address alone.

use parking_lot::Mutex;

/// Orders the choices of a route.
#[derive(Debug)]
pub enum Balancer {
    /// In turns by weight, as evenly spread as can be (nginx's smooth weighted round robin). Holds what
    /// each choice is owed, in thousandths of a unit of weight.
    RoundRobin(Mutex<Vec<i64>>),
    /// By chance, by weight.
    Random,
    /// The better of two that are drawn (Mitzenmacher, "The power of two choices"): by first-byte time
    /// times what it carries, by weight.
    LeastLoaded,
    /// By what the request has in common with others; see [`struct@Hash`].
    Hash(Hash),
}

/// Weighted rendezvous hashing (Thaler and Ravishankar): each choice draws a number from the request's
/// value and its own name, and the luckiest has it. Where a choice joins or leaves, only what it has or
/// had moves. A ring (ketama) would do that too, with more memory, less exact shares, and no order of
/// what comes second.
///
/// Loads are bounded (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads"): a
/// choice that would carry more than `bound` times its share, and more than two, is passed over.
#[derive(Debug)]
pub struct Hash {
    /// A number made of each choice's name.
    pub seeds: Vec<u64>,
    /// How many times its share of what all carry a choice may carry; 1 or more.
    pub bound: f64,
}

/// How turns are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// In turns.
    RoundRobin,
    /// By chance.
    Random,
    /// By load.
    LeastLoaded,
    /// By what requests have in common.
    Hash {
        /// See [`Hash::bound`].
        bound: f64,
    },
}

/// How a choice stands, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is tried in its turn.
    #[default]
    Fine,
    /// It carries more than its share: tried after those that don't.
    Laden,
    /// It said that it has no time: tried after those that have.
    Resting,
    /// It doesn't accept weir's account: tried after those that do.
    Unaccepted,
    /// It isn't tried.
    Paused,
}

/// A choice, and what is known of it now.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which choice.
    pub number: usize,
    /// How it stands.
    pub standing: Standing,
    /// Its share relative to the others', in thousandths of a unit of weight; 1 or more.
    pub weight: i64,
    /// What it carries.
    pub in_flight: usize,
    /// How soon it is expected to begin its answer, in seconds.
    pub pace: f64,
    /// The less the sooner.
    score: f64,
}

/// A unit of weight.
pub const UNIT: i64 = 1000;

impl Candidate {
    /// A choice.
    pub fn new(number: usize, standing: Standing, weight: i64, in_flight: usize) -> Self {
        Self {
            number,
            standing,
            weight: weight.max(1),
            in_flight,
            pace: 0.0,
            score: 0.0,
        }
    }
}

impl Balancer {
    /// A balancer over choices of these names.
    pub fn new(order: Order, names: impl ExactSizeIterator<Item = String>) -> Self {
        match order {
            Order::RoundRobin => Self::RoundRobin(Mutex::new(vec![0; names.len()])),
            Order::Random => Self::Random,
            Order::LeastLoaded => Self::LeastLoaded,
            Order::Hash { bound } => Self::Hash(Hash {
                seeds: names.map(|name| hash(name.as_bytes())).collect(),
                bound,
            }),
        }
    }

    /// How turns are taken.
    pub fn order(&self) -> Order {
        match self {
            Self::RoundRobin(_) => Order::RoundRobin,
            Self::Random => Order::Random,
            Self::LeastLoaded => Order::LeastLoaded,
            Self::Hash(Hash { bound, .. }) => Order::Hash { bound: *bound },
        }
    }

    /// Sorts candidates, best first. `value` is what the request has in common with others; `chance`
    /// draws a number from 0 to 1.
    pub fn sort(
        &self,
        candidates: &mut [Candidate],
        value: Option<u64>,
        chance: &mut dyn FnMut() -> f64,
    ) {
        if candidates.len() < 2 {
            return;
        }
        let best = candidates.iter().map(|it| it.standing).min();
        let of_best = |it: &Candidate| Some(it.standing) == best;
        match self {
            Self::RoundRobin(owed) => take_turn(&mut owed.lock(), candidates, of_best),
            Self::Random => {
                for it in &mut *candidates {
                    it.score = lot(chance(), it.weight);
                }
            }
            Self::LeastLoaded => choose_of_two(candidates, of_best, chance),
            Self::Hash(hash) => {
                let value = value.unwrap_or_else(|| (chance() * u64::MAX as f64) as u64);
                hash.lay(candidates, of_best, value);
            }
        }
        candidates.sort_unstable_by(|a, b| {
            let by_score = || a.score.total_cmp(&b.score);
            let by_standing = a.standing.cmp(&b.standing);
            by_standing
                .then_with(by_score)
                .then(a.number.cmp(&b.number))
        });
    }
}

/// Who is owed most has the turn, and pays for it to all. Those that aren't tried neither earn nor pay.
fn take_turn(owed: &mut [i64], candidates: &mut [Candidate], of_best: impl Fn(&Candidate) -> bool) {
    let mut total = 0;
    let mut first: Option<(i64, usize)> = None;
    for it in candidates.iter_mut() {
        let owed = &mut owed[it.number];
        if of_best(it) {
            *owed += it.weight;
            total += it.weight;
            if first.is_none_or(|(most, _)| *owed > most) {
                first = Some((*owed, it.number));
            }
        }
        it.score = -(*owed as f64);
    }
    if let Some((_, number)) = first {
        owed[number] -= total;
        first_is(candidates, number);
    }
}

fn choose_of_two(
    candidates: &mut [Candidate],
    of_best: impl Fn(&Candidate) -> bool,
    chance: &mut dyn FnMut() -> f64,
) {
    /// No endpoint is quicker than this, in seconds: below it the load alone decides.
    const PACE_MIN: f64 = 0.001;
    let mut equals = 0;
    for it in candidates.iter_mut() {
        let load = (it.in_flight + 1) as f64 * it.pace.max(PACE_MIN);
        it.score = load / it.weight as f64;
        equals += usize::from(of_best(it));
    }
    if equals < 2 {
        return;
    }
    let draw = |among: usize, chance: f64| ((chance * among as f64) as usize).min(among - 1);
    let one = draw(equals, chance());
    let other = (one + 1 + draw(equals - 1, chance())) % equals;
    let drawn = candidates.iter().filter(|it| of_best(it)).enumerate();
    let drawn = drawn.filter(|(place, _)| *place == one || *place == other);
    let better = drawn.min_by(|(_, a), (_, b)| a.score.total_cmp(&b.score));
    if let Some(number) = better.map(|(_, it)| it.number) {
        first_is(candidates, number);
    }
}

fn first_is(candidates: &mut [Candidate], number: usize) {
    for it in candidates.iter_mut().filter(|it| it.number == number) {
        it.score = f64::NEG_INFINITY;
    }
}

impl Hash {
    fn lay(&self, candidates: &mut [Candidate], of_best: impl Fn(&Candidate) -> bool, value: u64) {
        /// So many are no load: else one more request of the same would be sent elsewhere where nothing
        /// goes on, or the next one of a conversation whose last answer has just ended.
        const LEAST: f64 = 2.0;
        let equals = || candidates.iter().filter(|it| of_best(it));
        let carried: usize = equals().map(|it| it.in_flight).sum();
        let weights: i64 = equals().map(|it| it.weight).sum();
        for it in candidates {
            it.score = lot(unit(mixed(value ^ self.seeds[it.number])), it.weight);
            let share = it.weight as f64 / weights as f64;
            let most = (self.bound * share * (carried + 1) as f64)
                .ceil()
                .max(LEAST);
            if it.standing == Standing::Fine && (it.in_flight + 1) as f64 > most {
                it.standing = Standing::Laden;
            }
        }
    }
}

/// The least of such lots is each one's in proportion to its weight; `drawn` is from 0 to 1.
fn lot(drawn: f64, weight: i64) -> f64 {
    -drawn.max(f64::MIN_POSITIVE).ln() / weight as f64
}

/// A number from 0 to 1 of 53 bits.
fn unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// A number made of bytes, the same in every process and on every host (FNV-1a, mixed).
pub fn hash(bytes: &[u8]) -> u64 {
    hash_on(0xcbf2_9ce4_8422_2325, bytes)
}

/// Goes on with more bytes.
pub fn hash_on(before: u64, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    mixed(bytes.iter().fold(before, step))
}

/// Lets each bit depend on all others (splitmix64).
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests;
