//! In which order addresses are tried (RFC 8305 section 4). Pure.

use std::net::IpAddr;

use super::memory::Family;

/// Addresses that are tried for one connection, at most.
pub(super) const ADDRESSES_MAX: usize = 64;

/// Those that work before those that failed lately; in each part the families take turns, the
/// preferred one first, or that of the answer's first address. Within a family `turn` says which is
/// first, so that the load is spread over equal addresses.
pub(super) fn ordered(
    answer: &[IpAddr],
    preferred: Option<Family>,
    turn: usize,
    failed: impl Fn(IpAddr) -> bool,
) -> Vec<IpAddr> {
    if let [only] = answer {
        return vec![*only];
    }
    let answer = &answer[..answer.len().min(ADDRESSES_MAX)];
    let (bad, good): (Vec<_>, Vec<_>) = answer.iter().partition(|address| failed(**address));
    let first = preferred.or_else(|| answer.first().map(|address| Family::of(*address)));
    let mut all = interleaved(good, first, turn);
    all.extend(interleaved(bad, first, turn));
    all
}

fn interleaved(addresses: Vec<IpAddr>, first: Option<Family>, turn: usize) -> Vec<IpAddr> {
    let count = addresses.len();
    let is_first = |address: &IpAddr| Some(Family::of(*address)) == first;
    let (mut one, mut other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_first);
    for family in [&mut one, &mut other] {
        let length = family.len().max(1);
        family.rotate_left(turn % length);
    }
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        all.extend(one.next());
        all.extend(other.next());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<IpAddr> {
        let parsed = texts.iter().map(|text| text.parse().expect("an IP"));
        parsed.collect()
    }

    fn order(
        answer: &[&str],
        preferred: Option<Family>,
        turn: usize,
        failed: &[&str],
    ) -> Vec<String> {
        let failed = all(failed);
        let ordered = ordered(&all(answer), preferred, turn, |it| failed.contains(&it));
        ordered.iter().map(ToString::to_string).collect()
    }

    const MIXED: &[&str] = &["::1", "::2", "::3", "10.0.0.1", "10.0.0.2"];

    #[test]
    fn families_take_turns_and_the_answers_first_is_first() {
        let expected = ["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"];
        assert_eq!(order(MIXED, None, 0, &[]), expected);
    }

    #[test]
    fn the_family_that_won_goes_first() {
        let expected = ["10.0.0.1", "::1", "10.0.0.2", "::2", "::3"];
        assert_eq!(order(MIXED, Some(Family::V4), 0, &[]), expected);
        let only = &["10.0.0.1", "10.0.0.2"];
        assert_eq!(order(only, Some(Family::V6), 0, &[]), *only);
    }

    #[test]
    fn who_failed_lately_is_last_whatever_its_family_and_never_left_out() {
        let expected = ["10.0.0.1", "::2", "10.0.0.2", "::3", "::1"];
        assert_eq!(order(MIXED, Some(Family::V4), 0, &["::1"]), expected);
        let expected = ["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"];
        assert_eq!(order(MIXED, None, 0, MIXED), expected, "all failed");
    }

    #[test]
    fn equal_addresses_take_turns() {
        let two = &["10.0.0.1", "10.0.0.2"];
        assert_eq!(order(two, None, 1, &[]), ["10.0.0.2", "10.0.0.1"]);
        assert_eq!(order(two, None, 2, &[]), *two);
        let expected = ["::2", "10.0.0.2", "::3", "10.0.0.1", "::1"];
        assert_eq!(order(MIXED, None, 1, &[]), expected);
    }

    #[test]
    fn no_answer_and_too_long_answers_are_no_trouble() {
        assert_eq!(order(&[], None, 3, &[]), Vec::<String>::new());
        let many: Vec<IpAddr> = (0..200).map(|it| [10, 0, 0, it].into()).collect();
        assert_eq!(ordered(&many, None, 0, |_| false).len(), ADDRESSES_MAX);
    }
}
