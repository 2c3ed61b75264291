//! Amounts of US dollars, in units small enough for the price of a single token.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

/// US dollars in picodollars (10⁻¹²), so that a price of 0.000001 dollars per million tokens is still
/// a whole number per token. At most about 9.2 million dollars; sums saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

/// One dollar.
const DOLLAR: i64 = 1_000_000_000_000;

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// More than any sum.
    pub const MAX: Self = Self(i64::MAX);

    /// That many picodollars.
    pub const fn from_pico(pico: i64) -> Self {
        Self(pico)
    }

    /// In picodollars.
    pub const fn pico(self) -> i64 {
        self.0
    }

    /// The nearest amount; `None` where it is no number or too large.
    pub fn from_usd(usd: f64) -> Option<Self> {
        let pico = (usd * DOLLAR as f64).round();
        (pico.abs() < i64::MAX as f64).then_some(Self(pico as i64))
    }

    /// The nearest amount that isn't less, where what a float can't tell apart is equal; `None` where it
    /// is no number or too large. For prices: what is rounded down is lost with each token.
    pub fn at_least(usd: f64) -> Option<Self> {
        const SAME: f64 = 1e-9;
        let pico = usd * DOLLAR as f64;
        let nearest = Self::from_usd(usd)?;
        let less = pico - nearest.0 as f64;
        let up = i64::from(less > SAME * pico.max(1.0));
        Some(nearest + Self(up))
    }

    /// In dollars, for reports and metrics.
    pub fn usd(self) -> f64 {
        self.0 as f64 / DOLLAR as f64
    }

    /// That many times as much.
    pub const fn times(self, count: u64) -> Self {
        let count = if count > i64::MAX as u64 {
            i64::MAX
        } else {
            count as i64
        };
        Self(self.0.saturating_mul(count))
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Money {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::add)
    }
}

/// Exact, in dollars, without zeros that say nothing, and with cents at least: `12.50`, `0.0000125`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.unsigned_abs() / DOLLAR.unsigned_abs();
        let part = format!("{:012}", self.0.unsigned_abs() % DOLLAR.unsigned_abs());
        let digits = part.trim_end_matches('0').len().max(2);
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{whole}.{}", &part[..digits])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_written_exactly() {
        for (usd, text) in [
            (0.0, "0.00"),
            (12.5, "12.50"),
            (-0.25, "-0.25"),
            (0.000_000_037_5, "0.0000000375"),
            (9_000_000.0, "9000000.00"),
        ] {
            assert_eq!(Money::from_usd(usd).unwrap().to_string(), text);
        }
        assert_eq!(Money::from_usd(f64::NAN), None);
        assert_eq!(Money::from_usd(1e9), None);
        let price = Money::from_usd(0.075).unwrap();
        assert_eq!(price.times(3).to_string(), "0.225");
    }

    #[test]
    fn sums_dont_overflow() {
        assert_eq!(Money::MAX + Money::MAX, Money::MAX);
        assert_eq!(Money::MAX.times(u64::MAX), Money::MAX);
        let all = [Money::from_pico(1), Money::from_pico(2)];
        assert_eq!(all.into_iter().sum::<Money>().pico(), 3);
    }
}
