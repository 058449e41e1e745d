//! Ranges of sequences, looked up in logarithmic time: an archive may be full of holes and of gap records that explain them.

/// Ranges in order, both ends included; none touches another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges(Vec<(u64, u64)>);

impl From<Vec<(u64, u64)>> for Ranges {
    fn from(mut ranges: Vec<(u64, u64)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|(from, to), (_, before)| {
            let touches = *from <= before.saturating_add(1);
            if touches {
                *before = (*before).max(*to);
            }
            touches
        });
        Self(ranges)
    }
}

impl Ranges {
    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// The parts of `first..=last` that are in none of the ranges, in order.
    pub fn outside(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let start = self.0.partition_point(|(_, to)| *to < first);
        let mut covered = self.0[start..].iter().take_while(move |(from, _)| *from <= last);
        let mut next = Some(first);
        std::iter::from_fn(move || {
            loop {
                let from = next.filter(|next| *next <= last)?;
                let Some((begin, end)) = covered.next() else {
                    next = None;
                    return Some((from, last));
                };
                next = end.checked_add(1);
                if *begin > from {
                    return Some((from, begin - 1));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_is_what_no_range_holds() {
        let ranges = Ranges::from(vec![(8, 9), (2, 4), (3, 5), (6, 6), (20, u64::MAX)]);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(2, 6), (8, 9), (20, u64::MAX)]);
        for first in 0..24 {
            for last in 0..24 {
                let expected: Vec<u64> =
                    (first..=last).filter(|n| !matches!(n, 2..=6 | 8..=9 | 20..)).collect();
                let outside = ranges.outside(first, last).flat_map(|(a, b)| a..=b);
                assert_eq!(outside.collect::<Vec<_>>(), expected, "{first} to {last}");
            }
        }
        assert_eq!(ranges.outside(9, u64::MAX).collect::<Vec<_>>(), [(10, 19)]);
        assert_eq!(Ranges::default().outside(0, u64::MAX).collect::<Vec<_>>(), [(0, u64::MAX)]);
    }
}
