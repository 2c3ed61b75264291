use super::*;

/// A breaker that is led through time.
struct Story {
    state: State,
    rules: Rules,
    now: Instant,
}

fn story(of: settings::Breaker) -> Story {
    let now = Instant::now();
    Story {
        state: State::new(now),
        rules: Rules::of_endpoint(of),
        now,
    }
}

impl Story {
    fn pass(&mut self) -> Option<Pass> {
        let (state, pass) = self.state.clone().enter(&self.rules, self.now);
        self.state = state;
        pass
    }

    fn tell(&mut self, pass: Pass, event: Event) -> Look {
        let state = self.state.clone();
        self.state = state.handle(&self.rules, pass, event, 0, self.now, 0.5);
        self.state.look(self.now)
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
    }

    /// Opens it.
    fn fail(&mut self) {
        for _ in 0..5 {
            self.tell(Pass::Free, Event::Bad);
        }
        assert_eq!(self.state.look(self.now), Look::Open);
    }

    fn probe(&mut self) -> Pass {
        let pass = self.pass().expect("a probe");
        assert!(matches!(pass, Pass::Probe(_)), "{pass:?}");
        pass
    }
}

const SECOND: Duration = Duration::from_secs(1);
const GOOD: Event = Event::Good(Duration::from_millis(10));

#[test]
fn so_many_failures_open_it_and_one_less_doesnt() {
    let mut it = story(settings::Breaker::default());
    for _ in 0..4 {
        assert_eq!(it.tell(Pass::Free, Event::Bad), Look::Closed);
    }
    assert_eq!(it.tell(Pass::Free, Event::Bad), Look::Open);
    assert_eq!(it.pass(), None);
}

#[test]
fn failures_that_are_few_among_many_dont() {
    let mut it = story(settings::Breaker::default());
    for _ in 0..6 {
        it.tell(Pass::Free, GOOD);
    }
    for _ in 0..5 {
        assert_eq!(it.tell(Pass::Free, Event::Bad), Look::Closed);
    }
    assert_eq!(it.tell(Pass::Free, Event::Bad), Look::Open, "half of all");
}

#[test]
fn failures_that_are_long_ago_dont() {
    let mut it = story(settings::Breaker::default());
    for _ in 0..50 {
        assert_eq!(it.tell(Pass::Free, Event::Bad), Look::Closed);
        it.later(SECOND * 5 / 2);
    }
}

#[test]
fn what_is_not_known_counts_for_nothing() {
    let mut it = story(settings::Breaker::default());
    for _ in 0..100 {
        assert_eq!(it.tell(Pass::Free, Event::Lost), Look::Closed);
    }
}

#[test]
fn a_stream_that_breaks_counts_once_and_as_a_failure() {
    let mut it = story(settings::Breaker {
        failure_rate: 1.0,
        ..Default::default()
    });
    for _ in 0..5 {
        assert_eq!(it.state.look(it.now), Look::Closed);
        it.tell(Pass::Free, GOOD);
        it.tell(Pass::Free, Event::Broken);
    }
    assert_eq!(it.state.look(it.now), Look::Open);
}

#[test]
fn slow_answers_open_it_where_that_is_asked_for() {
    let late = Event::Good(SECOND * 3);
    let mut it = story(settings::Breaker::default());
    for _ in 0..100 {
        assert_eq!(it.tell(Pass::Free, late), Look::Closed, "off");
    }
    let mut it = story(settings::Breaker {
        slow: SECOND * 2,
        ..Default::default()
    });
    it.tell(Pass::Free, Event::Good(SECOND * 2));
    for _ in 0..4 {
        assert_eq!(it.tell(Pass::Free, late), Look::Closed);
    }
    assert_eq!(it.tell(Pass::Free, late), Look::Open, "5 of 6");
}

#[test]
fn one_probe_at_a_time_finds_out() {
    let mut it = story(settings::Breaker::default());
    it.fail();
    it.later(SECOND * 15 - Duration::from_nanos(1));
    assert_eq!(it.pass(), None);
    assert_eq!(
        it.state.wait(&it.rules, it.now),
        Some(Duration::from_nanos(1))
    );
    it.later(Duration::from_nanos(1));
    let probe = it.probe();
    assert_eq!(it.pass(), None, "one is under way");
    assert_eq!(it.tell(probe, GOOD), Look::Closed);
    assert_eq!(it.pass(), Some(Pass::Free));
    assert_eq!(
        it.tell(Pass::Free, Event::Bad),
        Look::Closed,
        "counted anew"
    );
}

#[test]
fn a_bad_probe_opens_it_for_twice_as_long_up_to_eight_times() {
    let mut it = story(settings::Breaker::default());
    it.fail();
    for seconds in [15, 30, 60, 120, 120, 120] {
        it.later(SECOND * seconds - Duration::from_nanos(1));
        assert_eq!(it.pass(), None, "{seconds}");
        it.later(Duration::from_nanos(1));
        let probe = it.probe();
        assert_eq!(it.tell(probe, Event::Bad), Look::Open);
    }
}

#[test]
fn a_probe_whose_client_left_gives_its_place_to_the_next() {
    let mut it = story(settings::Breaker::default());
    it.fail();
    it.later(SECOND * 15);
    for _ in 0..10 {
        let probe = it.probe();
        assert_eq!(it.tell(probe, Event::Lost), Look::HalfOpen);
    }
    let probe = it.probe();
    assert_eq!(it.tell(probe, GOOD), Look::Closed);
}

#[test]
fn a_probe_that_never_ends_gives_its_place_up() {
    let mut it = story(settings::Breaker::default());
    it.fail();
    it.later(SECOND * 15);
    let lost = it.probe();
    it.later(SECOND * 15 - Duration::from_nanos(1));
    assert_eq!(it.pass(), None);
    it.later(Duration::from_nanos(1));
    let next = it.probe();
    assert_eq!(it.pass(), None, "still one at a time");
    assert_eq!(it.tell(lost, Event::Bad), Look::Open, "it is heard late");
    assert_eq!(it.tell(next, GOOD), Look::Open, "of an earlier pause");
}

#[test]
fn several_probes_must_all_be_good() {
    let mut it = story(settings::Breaker {
        probes: 3,
        ..Default::default()
    });
    it.fail();
    it.later(SECOND * 15);
    let probes = [it.probe(), it.probe(), it.probe()];
    assert_eq!(it.pass(), None);
    assert_eq!(it.tell(probes[0], GOOD), Look::HalfOpen);
    assert_eq!(it.pass(), None, "three in all");
    assert_eq!(it.tell(probes[1], Event::Lost), Look::HalfOpen);
    let fourth = it.probe();
    assert_eq!(it.tell(probes[2], GOOD), Look::HalfOpen);
    assert_eq!(it.tell(fourth, GOOD), Look::Closed);
}

#[test]
fn who_was_let_through_before_decides_nothing() {
    let mut it = story(settings::Breaker::default());
    it.fail();
    assert_eq!(it.tell(Pass::Free, GOOD), Look::Open);
    it.later(SECOND * 15);
    let probe = it.probe();
    for event in [GOOD, Event::Bad, Event::Broken] {
        assert_eq!(it.tell(Pass::Free, event), Look::HalfOpen);
    }
    assert_eq!(it.tell(probe, GOOD), Look::Closed);
}

#[test]
fn a_provider_is_paused_when_half_of_it_fails_and_none_answers() {
    let now = Instant::now();
    let of = settings::Breaker::default();
    assert_eq!(Rules::of_provider(of, 1), None);
    let rules = Rules::of_provider(of, 4).expect("several");
    let after = |events: &[(Event, usize)]| {
        let state = events.iter().fold(State::new(now), |state, (event, who)| {
            state.handle(&rules, Pass::Free, *event, *who, now, 0.5)
        });
        state.look(now)
    };
    let bad = |who| (Event::Bad, who);
    assert_eq!(after(&[bad(0); 20]), Look::Closed, "only one of four");
    let two = [bad(0), bad(1), bad(0), bad(1), bad(0)];
    assert_eq!(after(&two), Look::Open);
    let one_answers: Vec<_> = [(GOOD, 2)].into_iter().chain(two).collect();
    assert_eq!(after(&one_answers), Look::Closed);
}
