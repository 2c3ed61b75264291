//! Chance that a seed decides: the same seed draws the same, in every run and on every machine.

/// A source of draws. Each noun of a run (an act, a fault, a window of weather) has one of its own, so
/// that none depends on when another draws.
pub struct Dice(u64);

impl Dice {
    /// The dice of what these numbers name.
    pub fn of(seed: u64, name: &[u64]) -> Dice {
        let mut dice = Dice(seed);
        for part in name {
            dice.0 = dice.next() ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        dice
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        match end {
            0 => 0,
            end => self.next() % end,
        }
    }

    /// A number from `low` up to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in so many of a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of several, each as likely as its weight.
    pub fn pick<T: Copy>(&mut self, weighted: &[(T, u64)]) -> T {
        let mut at = self.below(weighted.iter().map(|(_, weight)| weight).sum());
        for (choice, weight) in weighted {
            if at < *weight {
                return *choice;
            }
            at -= weight;
        }
        weighted[0].0
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_again_and_another_one_differs() {
        let draws = |seed| -> Vec<u64> {
            let mut dice = Dice::of(seed, &[3, 4]);
            (0..50).map(|_| dice.below(1000)).collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn each_choice_comes_and_none_without_weight() {
        let mut dice = Dice::of(1, &[]);
        let drawn: Vec<char> = (0..200)
            .map(|_| dice.pick(&[('a', 1), ('b', 0), ('c', 3)]))
            .collect();
        assert!(drawn.contains(&'a') && drawn.contains(&'c') && !drawn.contains(&'b'));
    }
}
