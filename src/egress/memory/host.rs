//! One host over time: which family of addresses won, and whether it has moved. Pure; time is an
//! argument.
//!
//! A host *moves* when its DNS answer loses an address that connections go to. Then its generation
//! grows, which is part of the pool's key: no new request is given a connection that leads to where
//! the host was, whatever keeps that one open. A host that hands out another part of its addresses
//! each time moves no more than [`MOVES_MAX`] times in [`WINDOW`]; from then on its connections are
//! kept until their age ends them, unless an answer has nothing in common with all that were seen.
//!
//! Two things are no rotation, however many moves there were: that the one address of a host becomes
//! another one (failover by DNS), and that two answers in a row, or one for [`STANDS`], have none of
//! the addresses that connections go to.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_dns::Answer;

/// How long answers are remembered, and over which time moves are counted.
const WINDOW: Duration = Duration::from_secs(600);
/// More moves than this in [`WINDOW`] are a rotation.
const MOVES_MAX: usize = 3;
/// Addresses that are remembered of one host.
const ADDRESSES_MAX: usize = 64;
/// An answer that has stood for so long is none of a rotation.
const STANDS: Duration = Duration::from_secs(60);
/// How long a family that won goes first.
const FAMILY_LASTS: Duration = Duration::from_secs(600);

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::egress) enum Family {
    V4,
    V6,
}

#[derive(Debug)]
pub(super) struct Host {
    generation: u32,
    answer: Option<Answer>,
    /// Where connections of this generation go.
    used: Vec<IpAddr>,
    /// What answers had, and when last.
    seen: Vec<(IpAddr, Instant)>,
    moves: VecDeque<Instant>,
    /// The last answer has none of `used`: since when.
    all_gone: Option<Instant>,
    family: Option<(Family, Instant)>,
    /// Which of several equal addresses is next.
    turn: usize,
    /// When it was last asked for; the one that nobody asks for is forgotten first.
    pub(super) touched: Instant,
}

// === impl Family ===

impl Family {
    pub(in crate::egress) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

// === impl Host ===

impl Host {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            generation: 0,
            answer: None,
            used: Vec::new(),
            seen: Vec::new(),
            moves: VecDeque::new(),
            all_gone: None,
            family: None,
            turn: 0,
            touched: now,
        }
    }

    /// The generation after this answer.
    pub(super) fn answered(&mut self, answer: &Answer, now: Instant) -> u32 {
        self.touched = now;
        let same = self
            .answer
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, answer) || last == answer);
        if !same {
            self.judge(answer, now);
            self.answer = Some(Arc::clone(answer));
        } else if let Some(then) = self.all_gone
            && now.saturating_duration_since(then) >= STANDS
        {
            self.moved(now);
        }
        self.generation
    }

    fn judge(&mut self, answer: &[IpAddr], now: Instant) {
        let is_recent = |then: Instant| now.saturating_duration_since(then) < WINDOW;
        self.seen.retain(|(_, then)| is_recent(*then));
        while self.moves.front().is_some_and(|then| !is_recent(*then)) {
            self.moves.pop_front();
        }
        let lost = self.used.iter().any(|address| !answer.contains(address));
        let known = |address: &IpAddr| self.seen.iter().any(|(seen, _)| seen == address);
        let all_gone = lost && !self.used.iter().any(|address| answer.contains(address));
        let again = all_gone && self.all_gone.is_some();
        let was_single = self.answer.as_ref().is_some_and(|last| last.len() == 1);
        let failover = all_gone && was_single && answer.len() == 1;
        self.all_gone = all_gone.then_some(now);
        let rotates = self.moves.len() >= MOVES_MAX && answer.iter().any(known);
        if lost && (!rotates || again || failover) {
            self.moved(now);
        }
        for address in answer.iter().take(ADDRESSES_MAX) {
            self.seen.retain(|(seen, _)| seen != address);
            self.seen.push((*address, now));
        }
        let over = self.seen.len().saturating_sub(ADDRESSES_MAX);
        self.seen.drain(..over);
    }

    fn moved(&mut self, now: Instant) {
        self.generation = self.generation.wrapping_add(1);
        self.used.clear();
        self.all_gone = None;
        if self.moves.len() == MOVES_MAX {
            self.moves.pop_front();
        }
        self.moves.push_back(now);
    }

    /// A connection was made.
    pub(super) fn connected(&mut self, address: IpAddr, now: Instant) {
        if self
            .answer
            .as_ref()
            .is_some_and(|last| last.contains(&address))
        {
            self.all_gone = None;
        }
        self.family = Some((Family::of(address), now));
        if !self.used.contains(&address) && self.used.len() < ADDRESSES_MAX {
            self.used.push(address);
        }
    }

    /// The family that goes first, if one has won lately.
    pub(super) fn family(&self, now: Instant) -> Option<Family> {
        let (family, then) = self.family?;
        (now.saturating_duration_since(then) < FAMILY_LASTS).then_some(family)
    }

    /// Counts up, so that equal addresses take turns.
    pub(super) fn turn(&mut self) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(last: &[u8]) -> Answer {
        last.iter()
            .map(|byte| IpAddr::from([192, 0, 2, *byte]))
            .collect()
    }

    /// Answers one after the other, a minute apart, each with a connection to its first address;
    /// the generations after each.
    fn generations(answers: &[&[u8]]) -> Vec<u32> {
        let mut now = Instant::now();
        let mut host = Host::new(now);
        let step = |bytes: &&[u8]| {
            let answer = answer(bytes);
            let generation = host.answered(&answer, now);
            host.connected(answer[0], now);
            now += Duration::from_secs(60);
            generation
        };
        answers.iter().map(step).collect()
    }

    #[test]
    fn a_host_that_loses_an_address_in_use_has_moved() {
        assert_eq!(generations(&[&[1], &[2], &[2]]), [0, 1, 1]);
        assert_eq!(generations(&[&[1, 2], &[2, 3], &[3, 2]]), [0, 1, 1]);
        assert_eq!(generations(&[&[1, 2], &[2]]), [0, 1]);
        // There and back: two moves.
        assert_eq!(generations(&[&[1], &[2], &[1]]), [0, 1, 2]);
    }

    #[test]
    fn what_only_grows_or_turns_has_not_moved() {
        assert_eq!(generations(&[&[1], &[1, 2], &[2, 1], &[1, 2, 3]]), [0; 4]);
        // 2 was never connected to.
        assert_eq!(generations(&[&[1, 2], &[1]]), [0, 0]);
    }

    #[test]
    fn a_rotation_is_found_out_and_then_keeps_its_connections() {
        let rotation: [&[u8]; 8] = [
            &[1, 2],
            &[3, 4],
            &[5, 6],
            &[1, 2],
            &[3, 4],
            &[5, 6],
            &[1, 2],
            &[3, 4],
        ];
        assert_eq!(generations(&rotation), [0, 1, 2, 3, 3, 3, 3, 3]);
        // Nothing in common with all that was seen: that is no rotation.
        let away: [&[u8]; 6] = [&[1, 2], &[3, 4], &[5, 6], &[1, 2], &[3, 4], &[9, 8]];
        assert_eq!(generations(&away), [0, 1, 2, 3, 3, 4]);
    }

    #[test]
    fn a_host_of_one_address_is_followed_however_often_it_moves() {
        let flips = [&[1][..], &[2], &[1], &[2], &[1], &[2], &[3], &[1]];
        assert_eq!(generations(&flips), [0, 1, 2, 3, 4, 5, 6, 7]);
        // One more address, and one less again, is no failover.
        let grows = [&[1][..], &[2], &[1], &[2], &[1, 3], &[2, 1], &[2]];
        assert_eq!(generations(&grows), [0, 1, 2, 3, 3, 3, 3]);
    }

    #[test]
    fn a_host_that_has_nothing_left_of_what_is_used_moves_at_the_second_answer() {
        let mut now = Instant::now();
        let mut host = Host::new(now);
        // As a rotation; all connections of the last generation go to 1.
        for bytes in [&[1, 2][..], &[3, 4], &[5, 6], &[1, 2]] {
            now += Duration::from_secs(1);
            let answer = answer(bytes);
            host.answered(&answer, now);
            host.connected(answer[0], now);
        }
        assert_eq!(host.answered(&answer(&[3, 4]), now), 3, "once");
        assert_eq!(host.answered(&answer(&[1, 3]), now), 3, "it is back");
        assert_eq!(host.answered(&answer(&[3, 4]), now), 3, "once");
        assert_eq!(host.answered(&answer(&[5, 6]), now), 4, "twice");
    }

    #[test]
    fn a_host_that_has_nothing_left_of_what_is_used_moves_when_that_stays_so() {
        let mut now = Instant::now();
        let mut host = Host::new(now);
        for bytes in [&[1, 2][..], &[3, 4], &[5, 6], &[1, 2]] {
            let answer = answer(bytes);
            host.answered(&answer, now);
            host.connected(answer[0], now);
        }
        let last = answer(&[3, 4]);
        assert_eq!(host.answered(&last, now), 3);
        now += STANDS - Duration::from_millis(1);
        assert_eq!(host.answered(&last, now), 3);
        now += Duration::from_millis(1);
        assert_eq!(host.answered(&last, now), 4);
        assert_eq!(host.answered(&last, now + STANDS), 4, "once");
    }

    #[test]
    fn moves_count_for_a_while_only() {
        let mut now = Instant::now();
        let mut host = Host::new(now);
        let mut last = 0;
        for round in 0..20_u8 {
            let answer = answer(&[1 + round % 2]);
            let generation = host.answered(&answer, now);
            assert!(round == 0 || generation == last + 1, "round {round}");
            last = generation;
            host.connected(answer[0], now);
            now += WINDOW / 3;
        }
    }

    #[test]
    fn what_is_remembered_of_a_host_is_bounded() {
        let now = Instant::now();
        let mut host = Host::new(now);
        for round in 0..1000_u32 {
            let addresses: Answer = (0..100)
                .map(|at| IpAddr::from((round * 100 + at).to_be_bytes()))
                .collect();
            host.answered(&addresses, now);
            for address in addresses.iter() {
                host.connected(*address, now);
            }
        }
        assert!(host.seen.len() <= ADDRESSES_MAX && host.used.len() <= ADDRESSES_MAX);
        assert!(host.moves.len() <= MOVES_MAX);
    }

    #[test]
    fn the_family_that_won_goes_first_for_ten_minutes() {
        let now = Instant::now();
        let mut host = Host::new(now);
        assert_eq!(host.family(now), None);
        host.connected("::1".parse().expect("an IP"), now);
        assert_eq!(host.family(now + FAMILY_LASTS / 2), Some(Family::V6));
        assert_eq!(host.family(now + FAMILY_LASTS), None);
        host.connected([127, 0, 0, 1].into(), now);
        assert_eq!(host.family(now), Some(Family::V4));
    }
}
