//! Timed rounds, taken in turns so that whatever else the machine does falls on all alike, and what they come to.

use super::interrupt;
use anyhow::Result;

/// Something that can be timed: its name, and one round of it in seconds.
pub(crate) type Contender<'a> = (&'static str, Box<dyn FnMut() -> Result<f64> + 'a>);

/// One contender's rounds, in seconds.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) rounds: Vec<f64>,
}

impl Series {
    pub(crate) fn median(&self) -> f64 {
        median(self.rounds.clone())
    }

    /// How many times as long as `other` this takes: the median over pairs of rounds that were run next to each other.
    pub(crate) fn ratio(&self, other: &Self) -> f64 {
        median(self.rounds.iter().zip(&other.rounds).map(|(ours, theirs)| ours / theirs).collect())
    }
}

/// What we aim at: at most so many times as long as `against`.
pub(crate) struct Goal {
    pub(crate) against: String,
    pub(crate) at_most: f64,
}

/// The same work done by several; the first is ours.
pub(crate) struct Comparison {
    pub(crate) title: String,
    pub(crate) series: Vec<Series>,
    pub(crate) goal: Option<Goal>,
}

/// Times all in turn, `rounds` times, after one round that does not count.
pub(crate) fn in_turns(rounds: usize, mut contenders: Vec<Contender<'_>>) -> Result<Vec<Series>> {
    let mut series: Vec<_> =
        contenders.iter().map(|(name, _)| Series { name: (*name).to_owned(), rounds: Vec::new() }).collect();
    for round in 0..=rounds {
        for ((_, run), series) in contenders.iter_mut().zip(&mut series) {
            let seconds = run();
            interrupt::check()?;
            let seconds = seconds?;
            if round > 0 {
                series.rounds.push(seconds);
            }
        }
    }
    Ok(series)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_pair_by_pair_so_that_a_slow_moment_counts_for_both() {
        let ours = Series { name: "ours".into(), rounds: vec![1.0, 10.0, 1.0] };
        let theirs = Series { name: "theirs".into(), rounds: vec![2.0, 20.0, 20.0] };
        assert_eq!(ours.ratio(&theirs), 0.5);
        assert_eq!(ours.median(), 1.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
    }
}
