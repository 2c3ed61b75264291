//! What goes wrong with model servers: with one answer, or for a while with all of a server.

use super::dice::Dice;
use super::plan::Id;
use std::time::Duration;

/// One way in which a model server fails, or only looks odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    None,
    // It ends the connection.
    ResetBeforeHead,
    CloseBeforeHead,
    ResetInHead,
    CloseInHead,
    ResetInBody,
    CloseInBody,
    HalfCloseInBody,
    CloseAfterAnswer,
    // It is silent, or slow.
    HangUnread,
    HangBeforeHead,
    HangInHead,
    HangAfterHead,
    HangInBody,
    SlowHead,
    SlowBody,
    TrickleHead,
    TrickleBody,
    // It lies about what it sends.
    Garbage,
    LengthTooLong,
    LengthTooShort,
    LengthAndChunks,
    BadChunk,
    UntilClose,
    BodyWith204,
    Unasked101,
    SecondAnswer,
    // It sends too much.
    Continue100,
    Flood1xx,
    HugeHead,
    ManyHeaders,
    GzipBomb,
    Endless,
    // It doesn't read.
    EarlyAnswer,
    EarlyRefusal,
    // It refuses.
    RetryAfterSeconds,
    RetryAfterDate,
    Status(u16),
    Html502,
    Html200,
    // Its streams end badly.
    EmptyStream,
    NoEndMark,
    CutStream,
    CutInEvent,
    ErrorInStream,
}

const FAULTS: &[(Fault, u64)] = &[
    (Fault::ResetBeforeHead, 3),
    (Fault::CloseBeforeHead, 3),
    (Fault::ResetInHead, 2),
    (Fault::CloseInHead, 2),
    (Fault::ResetInBody, 4),
    (Fault::CloseInBody, 4),
    (Fault::HalfCloseInBody, 2),
    (Fault::CloseAfterAnswer, 4),
    (Fault::HangUnread, 2),
    (Fault::HangBeforeHead, 3),
    (Fault::HangInHead, 1),
    (Fault::HangAfterHead, 2),
    (Fault::HangInBody, 3),
    (Fault::SlowHead, 5),
    (Fault::SlowBody, 4),
    (Fault::TrickleHead, 1),
    (Fault::TrickleBody, 2),
    (Fault::Garbage, 2),
    (Fault::LengthTooLong, 2),
    (Fault::LengthTooShort, 2),
    (Fault::LengthAndChunks, 2),
    (Fault::BadChunk, 3),
    (Fault::UntilClose, 3),
    (Fault::BodyWith204, 1),
    (Fault::Unasked101, 1),
    (Fault::SecondAnswer, 3),
    (Fault::Continue100, 2),
    (Fault::Flood1xx, 2),
    (Fault::HugeHead, 2),
    (Fault::ManyHeaders, 2),
    (Fault::GzipBomb, 1),
    (Fault::Endless, 2),
    (Fault::EarlyAnswer, 3),
    (Fault::EarlyRefusal, 3),
    (Fault::RetryAfterSeconds, 3),
    (Fault::RetryAfterDate, 3),
    (Fault::Status(401), 1),
    (Fault::Status(402), 1),
    (Fault::Status(403), 1),
    (Fault::Status(408), 1),
    (Fault::Status(409), 1),
    (Fault::Status(429), 1),
    (Fault::Status(500), 2),
    (Fault::Status(502), 1),
    (Fault::Status(503), 2),
    (Fault::Status(504), 1),
    (Fault::Status(529), 1),
    (Fault::Html502, 2),
    (Fault::Html200, 1),
    (Fault::EmptyStream, 2),
    (Fault::NoEndMark, 3),
    (Fault::CutStream, 3),
    (Fault::CutInEvent, 3),
    (Fault::ErrorInStream, 4),
];

impl Fault {
    /// What goes wrong with try `round` of a request at a server, in mixed weather.
    pub fn draw(seed: u32, server: usize, id: Id, round: u64) -> Fault {
        let mut dice = Dice::of(seed.into(), &[2, server as u64, id.number, round]);
        match dice.percent(50) {
            true => Fault::None,
            false => dice.pick(FAULTS),
        }
    }

    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The answer ends in good form too early: only who knows what it says can tell.
    pub fn looks_whole(self) -> bool {
        matches!(
            self,
            Fault::LengthTooShort | Fault::LengthAndChunks | Fault::UntilClose
        )
    }
}

/// What a whole server does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Weather {
    /// Answers all.
    Fair,
    /// Each answer has a fault of its own, or none.
    Mixed,
    /// Refuses connections.
    Refuses,
    /// Takes connections, and reads nothing.
    Deaf,
    /// Reads requests, and answers none.
    Hangs,
    /// Answers 429 to all.
    Storm,
    /// Answers 503 to all.
    Down,
}

impl Weather {
    /// Window `number` of a server, and how long it lasts.
    pub fn draw(seed: u32, server: usize, number: u64) -> (Weather, Duration) {
        let mut dice = Dice::of(seed.into(), &[3, server as u64, number]);
        let weather = dice.pick(&[
            (Weather::Fair, 20),
            (Weather::Mixed, 52),
            (Weather::Refuses, 7),
            (Weather::Deaf, 5),
            (Weather::Hangs, 5),
            (Weather::Storm, 6),
            (Weather::Down, 5),
        ]);
        (weather, Duration::from_millis(dice.between(1000, 4000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_faults_and_each_comes() {
        let draw = |seed| -> Vec<Fault> {
            let ids = (0..5000).map(|act| Id::of(seed, act, 0));
            ids.map(|id| Fault::draw(seed, 1, id, 0)).collect()
        };
        let drawn = draw(1);
        assert_eq!(drawn, draw(1));
        assert_ne!(drawn, draw(2));
        assert!(FAULTS.iter().all(|(fault, _)| drawn.contains(fault)));
    }
}
