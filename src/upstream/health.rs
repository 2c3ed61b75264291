//! Whether an endpoint lives, as it is asked from time to time. Pure; `app::probing` asks.

use super::settings;

/// What is known of an endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It lives; the last so many answers were bad.
    Up(u32),
    /// It doesn't; the last so many answers were good.
    Down(u32),
}

impl Default for Health {
    fn default() -> Self {
        Self::Up(0)
    }
}

impl Health {
    /// With one more answer.
    #[must_use]
    pub fn told(self, good: bool, rules: &settings::Health) -> Self {
        match (self, good) {
            (Self::Up(_), true) => Self::Up(0),
            (Self::Up(bad), false) if bad + 1 >= rules.fall => Self::Down(0),
            (Self::Up(bad), false) => Self::Up(bad + 1),
            (Self::Down(_), false) => Self::Down(0),
            (Self::Down(good), true) if good + 1 >= rules.rise => Self::Up(0),
            (Self::Down(good), true) => Self::Down(good + 1),
        }
    }

    /// Whether it lives.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Up(_))
    }
}

/// Whether a status says that the endpoint can serve: whoever answers with less than 500 does, and
/// a model server without such a page (404) too. 401 and 403 are an account's trouble, which is noticed
/// when a request meets it.
pub fn is_good(status: u16) -> bool {
    (200..500).contains(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_and_rises_after_so_many_in_a_row() {
        let rules = settings::Health::default();
        let after = |answers: &str| {
            let answers = answers.chars().map(|it| it == '+');
            answers.fold(Health::default(), |health, good| health.told(good, &rules))
        };
        for (answers, up) in [
            ("", true),
            ("--", true),
            ("---", false),
            ("--+--+--", true),
            ("---+", false),
            ("---+-+-", false),
            ("---++", true),
            ("---++--", true),
            ("---++---", false),
        ] {
            assert_eq!(after(answers).is_up(), up, "{answers}");
        }
    }
}
