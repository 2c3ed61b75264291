//! What is done to weir: each act of a client, drawn from the seed by its number alone.

use super::dice::Dice;
use std::fmt;

/// A request's `x-request-id`: the seed, and a number that clients, model servers and records share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub seed: u32,
    pub number: u64,
}

/// Requests of one act have numbers side by side.
const PARTS: u64 = 16;
/// Marks the numbers of requests that are to be held until all of their wave are there.
const MUSTER: u64 = 1 << 47;

impl Id {
    /// The request `part` of an act.
    pub fn of(seed: u32, act: u64, part: u64) -> Id {
        let number = act * PARTS + part.min(PARTS - 1);
        Id { seed, number }
    }

    /// One of `size` requests of a wave that must all be in flight at once.
    pub fn of_muster(seed: u32, wave: u64, size: u64, index: u64) -> Id {
        let number = MUSTER | wave << 32 | size << 16 | index;
        Id { seed, number }
    }

    /// Of which wave a request is, and how large that is.
    pub fn muster(self) -> Option<(u64, u64)> {
        let wave = (self.number & !MUSTER) >> 32;
        (self.number & MUSTER != 0).then_some((wave, (self.number >> 16) & 0xffff))
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Id> {
        let seed = u32::from_str_radix(text.get(..8)?, 16).ok()?;
        let number = u64::from_str_radix(text.get(24..36)?, 16).ok()?;
        let id = Id { seed, number };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-0000-4000-8000-{:012x}", self.seed, self.number)
    }
}

/// Which API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    Chat,
    Messages,
    Embeddings,
}

impl Surface {
    pub fn path(self) -> &'static str {
        match self {
            Surface::Chat => "/v1/chat/completions",
            Surface::Messages => "/v1/messages",
            Surface::Embeddings => "/v1/embeddings",
        }
    }

    pub fn of(path: &str) -> Option<Surface> {
        let all = [Surface::Chat, Surface::Messages, Surface::Embeddings];
        all.into_iter().find(|surface| surface.path() == path)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Team {
    /// Behaves, and asks the steady model server only. Has no limits.
    Steady,
    /// Has no limits.
    Wild,
    /// May have few requests in flight, and not many a minute.
    Busy,
    /// Has a budget that is soon spent.
    Poor,
    /// May use few tokens a minute.
    Thrifty,
    /// Has a key that nobody knows.
    Stranger,
}

impl Team {
    pub const KNOWN: [Team; 5] = [
        Team::Steady,
        Team::Wild,
        Team::Busy,
        Team::Poor,
        Team::Thrifty,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Team::Steady => "steady",
            Team::Wild => "wild",
            Team::Busy => "busy",
            Team::Poor => "poor",
            Team::Thrifty => "thrifty",
            Team::Stranger => "stranger",
        }
    }

    pub fn key(self) -> String {
        format!("sk-chaos-{}-0123456789abcdef0123456789abcdef", self.name())
    }
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Sends at once and reads to the end.
    Behave,
    /// So, several times on one connection.
    KeepAlive(u64),
    /// Several requests in one write; then reads all answers.
    Pipeline(u64),
    /// Several at once, each on a connection of its own; some of them leave.
    Together(u64),
    /// In chunks.
    Chunked,
    /// Waits for `100 Continue`.
    Expect,
    /// Sends its body in pieces, in time.
    SendSlowly,
    /// Reads in small pieces with pauses.
    ReadSlowly,
    /// Leaves after this share of its head, in percent.
    LeaveInHead(u64),
    /// Leaves after this share of its body, in percent.
    LeaveInBody(u64),
    /// Leaves so many ms after it was all sent, whatever came.
    LeaveAfter(u64),
    /// Leaves after so many bytes of the answer's body.
    LeaveInAnswer(u64),
    /// Says that it sends no more, and reads to the end.
    HalfClose,
    /// Stops reading after so many bytes of the answer's body, stays, and leaves.
    StopReading(u64),
    /// Stops sending in its head and waits.
    StallInHead,
    /// Stops sending in its body and waits.
    StallInBody,
    /// Sends more than a body may have.
    TooLarge,
    /// Sends what is no HTTP.
    Garbage,
    /// Sends a body that is no JSON.
    NoJson,
    /// Asks for a model that doesn't exist.
    NoModel,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Behave => "behaves",
            Way::KeepAlive(_) => "several on one connection",
            Way::Pipeline(_) => "pipelines",
            Way::Together(_) => "several at once",
            Way::Chunked => "sends chunks",
            Way::Expect => "expects 100",
            Way::SendSlowly => "sends slowly",
            Way::ReadSlowly => "reads slowly",
            Way::LeaveInHead(_) => "leaves in its head",
            Way::LeaveInBody(_) => "leaves in its body",
            Way::LeaveAfter(_) => "leaves after its request",
            Way::LeaveInAnswer(_) => "leaves in the answer",
            Way::HalfClose => "half-closes",
            Way::StopReading(_) => "stops reading",
            Way::StallInHead => "stalls in its head",
            Way::StallInBody => "stalls in its body",
            Way::TooLarge => "sends too much",
            Way::Garbage => "sends garbage",
            Way::NoJson => "sends no JSON",
            Way::NoModel => "asks for no model",
        }
    }

    /// It can be done over HTTP/2 as well.
    fn is_of_any_protocol(self) -> bool {
        matches!(
            self,
            Way::Behave
                | Way::SendSlowly
                | Way::ReadSlowly
                | Way::LeaveInBody(_)
                | Way::LeaveAfter(_)
                | Way::LeaveInAnswer(_)
                | Way::StopReading(_)
                | Way::StallInBody
                | Way::TooLarge
                | Way::NoJson
                | Way::NoModel
        )
    }

    /// It does all that a client should, so weir owes it an answer.
    pub fn behaves(self) -> bool {
        matches!(
            self,
            Way::Behave
                | Way::KeepAlive(_)
                | Way::Chunked
                | Way::Expect
                | Way::SendSlowly
                | Way::ReadSlowly
                | Way::TooLarge
                | Way::NoJson
                | Way::NoModel
        )
    }
}

/// One act of a client.
#[derive(Clone, Debug)]
pub struct Act {
    pub number: u64,
    pub team: Team,
    pub surface: Surface,
    pub model: &'static str,
    pub stream: bool,
    /// Asks for usage in its stream.
    pub usage: bool,
    /// About the size of its prompt.
    pub prompt_bytes: usize,
    pub way: Way,
    /// Leaves with a reset instead of an orderly end.
    pub reset: bool,
    /// Speaks HTTP/2.
    pub h2: bool,
    /// How urgent it says that it is.
    pub priority: Option<&'static str>,
}

/// Routes that lead to troubled model servers, and one on which requests wait for their turn.
const WILD_MODELS: [(&str, u64); 13] = [
    ("red", 3),
    ("green", 3),
    ("blue", 3),
    ("twins", 3),
    ("mixed", 4),
    ("least", 3),
    ("hashed", 3),
    ("connected", 2),
    ("hedged", 5),
    ("batched", 3),
    ("both", 2),
    ("waiting", 2),
    ("steady", 1),
];
/// Of these, routes on which weir makes calls of its own for requests for embeddings.
const OF_EMBEDDINGS: [&str; 3] = ["hedged", "batched", "both"];

impl Act {
    /// Act `number`: of four one is a steady client's. In calm all behave.
    pub fn draw(seed: u32, number: u64, calm: bool) -> Act {
        let mut dice = Dice::of(seed.into(), &[1, number]);
        let surface = dice.pick(&[
            (Surface::Chat, 6),
            (Surface::Messages, 3),
            (Surface::Embeddings, 1),
        ]);
        let steady = Act {
            number,
            team: Team::Steady,
            surface,
            model: "steady",
            stream: surface != Surface::Embeddings && dice.percent(60),
            usage: dice.percent(40),
            prompt_bytes: dice.between(20, 4000) as usize,
            way: Way::Behave,
            reset: false,
            h2: dice.percent(25),
            priority: None,
        };
        if number.is_multiple_of(4) {
            return steady;
        }
        let wild = Act {
            team: dice.pick(&[
                (Team::Wild, 55),
                (Team::Busy, 15),
                (Team::Poor, 15),
                (Team::Thrifty, 12),
                (Team::Stranger, 3),
            ]),
            model: dice.pick(&WILD_MODELS),
            way: draw_way(&mut dice),
            reset: dice.percent(50),
            prompt_bytes: match dice.below(100) {
                0..4 => dice.between(256 << 10, 3 << 20) as usize,
                4..15 => dice.between(16 << 10, 256 << 10) as usize,
                _ => steady.prompt_bytes,
            },
            ..steady.clone()
        };
        let priorities = [(None, 6), (Some("batch"), 2), (Some("high"), 1)];
        let wild = Act {
            priority: dice.pick(&priorities),
            ..wild
        };
        let wild = match OF_EMBEDDINGS.contains(&wild.model) {
            false => wild,
            true => Act {
                surface: Surface::Embeddings,
                stream: false,
                way: match wild.way {
                    Way::Behave => Way::Together(dice.between(2, 8)),
                    other => other,
                },
                ..wild
            },
        };
        match calm {
            false => Act {
                h2: wild.h2 && wild.way.is_of_any_protocol(),
                ..wild
            },
            true => Act {
                team: Team::Wild,
                way: Way::Behave,
                prompt_bytes: steady.prompt_bytes,
                ..wild
            },
        }
    }
}

fn draw_way(dice: &mut Dice) -> Way {
    let share = dice.between(1, 99);
    let way = [
        (Way::Behave, 30),
        (Way::KeepAlive(dice.between(2, 5)), 6),
        (Way::Pipeline(dice.between(2, 4)), 3),
        (Way::Chunked, 5),
        (Way::Expect, 3),
        (Way::SendSlowly, 4),
        (Way::ReadSlowly, 4),
        (Way::LeaveInHead(share), 3),
        (Way::LeaveInBody(share), 5),
        (
            Way::LeaveAfter(dice.pick(&[(0, 2), (5, 2), (50, 1), (1000, 1)])),
            9,
        ),
        (
            Way::LeaveInAnswer(dice.pick(&[(0, 1), (1, 1), (300, 2), (3000, 2)])),
            9,
        ),
        (Way::HalfClose, 3),
        (Way::StopReading(dice.between(0, 2000)), 3),
        (Way::StallInHead, 2),
        (Way::StallInBody, 3),
        (Way::TooLarge, 1),
        (Way::Garbage, 2),
        (Way::NoJson, 2),
        (Way::NoModel, 2),
    ];
    dice.pick(&way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_others_are_none() {
        for id in [Id::of(7, 123, 2), Id::of_muster(7, 3, 16, 15)] {
            assert_eq!(Id::parse(&id.to_string()), Some(id));
        }
        assert_eq!(Id::of(7, 1, 0).muster(), None);
        assert_eq!(Id::of_muster(7, 3, 16, 15).muster(), Some((3, 16)));
        assert_eq!(Id::parse("0193a5c1-0000-7000-8000-000000000000"), None);
        assert_eq!(Id::parse(""), None);
    }

    #[test]
    fn a_seed_draws_the_same_acts_and_calm_ones_behave() {
        let drawn = |seed, calm| -> String {
            (0..200)
                .map(|number| format!("{:?}", Act::draw(seed, number, calm)))
                .collect()
        };
        assert_eq!(drawn(1, false), drawn(1, false));
        assert_ne!(drawn(1, false), drawn(2, false));
        assert!((0..200).all(|number| Act::draw(1, number, true).way == Way::Behave));
    }
}
