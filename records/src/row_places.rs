//! Which rows of a file are wanted.

/// Rows by their numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowPlaces<'a> {
    /// Every row.
    All,
    /// Those with these numbers, which rise.
    These(&'a [usize]),
}

/// What comes next: some rows that are passed over, then some that are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowSpan {
    pub(crate) passed: usize,
    /// One at least where none is passed.
    pub(crate) taken: usize,
}

impl RowPlaces<'_> {
    /// Of the `left` rows from `row` on.
    pub(crate) fn span(self, row: usize, left: usize) -> RowSpan {
        let places = match self {
            Self::All => return RowSpan { passed: 0, taken: left },
            Self::These(places) => &places[places.partition_point(|&place| place < row)..],
        };
        let Some(&first) = places.first() else { return RowSpan { passed: left, taken: 0 } };
        let passed = (first - row).min(left);
        let following = places.iter().zip(first..).take_while(|&(&place, expected)| place == expected);
        RowSpan { passed, taken: following.count().min(left - passed) }
    }

    /// Whether no row from `row` on is wanted.
    pub(crate) fn ends_before(self, row: usize) -> bool {
        match self {
            Self::All => false,
            Self::These(places) => places.last().is_none_or(|&last| last < row),
        }
    }

    /// Whether this row is wanted.
    pub(crate) fn has(self, row: usize) -> bool {
        match self {
            Self::All => true,
            Self::These(places) => places.binary_search(&row).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_pass_over_gaps_and_join_neighbours() {
        let these = RowPlaces::These(&[2, 3, 7]);
        let span = |passed, taken| RowSpan { passed, taken };
        assert_eq!(these.span(0, 10), span(2, 2));
        assert_eq!(these.span(2, 1), span(0, 1));
        assert_eq!(these.span(3, 7), span(0, 1));
        assert_eq!(these.span(4, 2), span(2, 0));
        assert_eq!(these.span(8, 5), span(5, 0));
        assert_eq!(RowPlaces::All.span(3, 5), span(0, 5));
        assert!(these.has(7) && !these.has(4) && RowPlaces::All.has(4));
        assert!(these.ends_before(8) && !these.ends_before(7) && !RowPlaces::All.ends_before(100));
    }
}
