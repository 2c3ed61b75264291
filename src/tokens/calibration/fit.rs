//! A line through what is reported for what was counted: a ratio, and so many tokens that come with
//! each request whatever its length (a template, an introduction of tools).
//!
//! Least squares with a weight of 1/count, so that the sum of all estimates is the sum of all reports;
//! old samples fade, and a prior keeps the line where it is assumed to be until there are some.

use serde_json::{Value, json};

/// Decayed sums over the samples (x counted, y reported).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Fit {
    /// How many.
    n: f64,
    /// Of x.
    x: f64,
    /// Of 1/x.
    inverse: f64,
    /// Of y.
    y: f64,
    /// Of y/x.
    ratio: f64,
}

/// After so many samples one counts half.
const HALF_LIFE: f64 = 200.0;
/// So many samples make an expectation.
const SETTLED: f64 = 16.0;
/// Longer prompts weigh no more than this.
const WEIGHT_TOKENS_MAX: f64 = 4096.0;
/// The ratio that is assumed weighs as much as samples of so many tokens together.
const PRIOR_TOKENS: f64 = 1000.0;
/// That there is nothing beside the ratio weighs as much as one sample of so many tokens.
const PRIOR_NOTHING: f64 = 50.0;
/// What is learned stays within these; no vocabulary is so different.
const RATIO_MIN: f64 = 0.5;
const RATIO_MAX: f64 = 3.0;
const BESIDE_MIN: f64 = -64.0;
const BESIDE_MAX: f64 = 8192.0;

// === impl Fit ===

impl Fit {
    /// One sample. One that is out of all proportion is taken for as much as is possible; once there
    /// is something to compare it with, for twice or half of what was to be expected.
    pub(super) fn learn(&mut self, counted: u64, reported: u64) {
        let x = counted as f64;
        let mut y = (reported as f64).clamp(x * RATIO_MIN / 2.0, x * RATIO_MAX + BESIDE_MAX);
        if self.n >= SETTLED {
            let (ratio, beside) = self.line(1.0);
            let expected = (x * ratio + beside).max(1.0);
            y = y.clamp(expected / 2.0, expected * 2.0);
        }
        // No prompt weighs as much as all others.
        let weight = (WEIGHT_TOKENS_MAX / x).min(1.0);
        let fade = 0.5_f64.powf(1.0 / HALF_LIFE);
        for (sum, sample) in self.sums().into_iter().zip([1.0, x, 1.0 / x, y, y / x]) {
            *sum = *sum * fade + sample * weight;
        }
    }

    /// What is reported for `counted`, where `seed` is the ratio that is assumed.
    pub(super) fn apply(&self, seed: f64, counted: u64) -> u64 {
        let (ratio, beside) = self.line(seed);
        if counted == 0 {
            return 0;
        }
        // As a number that is no number is 0.
        (counted as f64 * ratio + beside).round().max(1.0) as u64
    }

    pub(super) fn ratio(&self, seed: f64) -> f64 {
        self.line(seed).0
    }

    fn line(&self, seed: f64) -> (f64, f64) {
        let x = self.x + PRIOR_TOKENS;
        let inverse = self.inverse + 1.0 / PRIOR_NOTHING;
        let y = self.y + PRIOR_TOKENS * seed;
        let determinant = x * inverse - self.n * self.n;
        let ratio = (y * inverse - self.n * self.ratio) / determinant;
        let ratio = ratio.clamp(RATIO_MIN, RATIO_MAX);
        let beside = (self.ratio - self.n * ratio) / inverse;
        (ratio, beside.clamp(BESIDE_MIN, BESIDE_MAX))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.n == 0.0
    }

    pub(super) fn is_heavier(&self, other: &Self) -> bool {
        self.n > other.n
    }

    pub(super) fn written(&self) -> Value {
        json!([self.n, self.x, self.inverse, self.y, self.ratio])
    }

    /// `None` for what no samples can add up to.
    pub(super) fn read(state: &Value) -> Option<Self> {
        let mut fit = Self::default();
        for (at, sum) in fit.sums().into_iter().enumerate() {
            *sum = state[at]
                .as_f64()
                .filter(|it| it.is_finite() && *it >= 0.0)?;
        }
        // Cauchy and Schwarz: else the line would have no bottom.
        (fit.n * fit.n <= fit.x * fit.inverse * 1.001).then_some(fit)
    }

    fn sums(&mut self) -> [&mut f64; 5] {
        [
            &mut self.n,
            &mut self.x,
            &mut self.inverse,
            &mut self.y,
            &mut self.ratio,
        ]
    }
}
