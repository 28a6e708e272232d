//! What is told of several measurements of one thing: the median and the ends, and ratios within a round.

/// The median and the ends of some measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// How many there are.
    pub count: usize,
}

/// The spread of these; nothing without measurements.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    };
    Some(Spread {
        median,
        least,
        most,
        count: values.len(),
    })
}

/// Between which values the median of all measurements that could have been taken lies, 19 times in 20, whatever their distribution: the
/// number of those below it is that of heads when coins are tossed. Of five or fewer these are the least and the most.
pub fn median_interval(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    // The chance of so few heads, and of one more, and of one more ..
    let (mut heads, mut chance) = (0.0, 0.5_f64.powi(values.len() as i32));
    let mut cut = 0;
    loop {
        heads += chance;
        if heads > 0.025 {
            break;
        }
        chance *= (values.len() - cut) as f64 / (cut + 1) as f64;
        cut += 1;
    }
    let cut = cut.saturating_sub(1).min(last / 2);
    Some((values[cut], values[last - cut]))
}

/// The ratios of what was measured in the same round. Rounds that one of them lacks, or in which the second is zero, are left out.
pub fn ratios(of: &[(u32, f64)], over: &[(u32, f64)]) -> Vec<f64> {
    let in_round = |round: u32| {
        over.iter()
            .find(|(other, value)| *other == round && *value != 0.0)
    };
    of.iter()
        .filter_map(|(round, value)| Some(value / in_round(*round)?.1))
        .collect()
}

/// The smallest of `values` that at least `per_mille` thousandths of them do not exceed; nothing without values.
pub fn quantile(values: &mut [f64], per_mille: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let wanted = (values.len() * per_mille).div_ceil(1000).max(1);
    values.get(wanted - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        let odd = spread([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.least, odd.most), (2.0, 1.0, 3.0));
        assert_eq!(spread([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(spread([7.0]).unwrap().median, 7.0);
        assert_eq!(spread([]), None);
    }

    #[test]
    fn the_interval_of_a_median_narrows_with_the_number() {
        let of = |count: u32| median_interval((1..=count).map(f64::from));
        assert_eq!(of(0), None);
        assert_eq!(of(1), Some((1.0, 1.0)));
        assert_eq!(of(5), Some((1.0, 5.0)));
        // As in any table of the sign test.
        assert_eq!(of(6), Some((1.0, 6.0)));
        assert_eq!(of(9), Some((2.0, 8.0)));
        assert_eq!(of(15), Some((4.0, 12.0)));
        assert_eq!(of(20), Some((6.0, 15.0)));
    }

    #[test]
    fn ratios_are_made_within_a_round() {
        let ours = [(1, 10.0), (2, 30.0), (3, 5.0)];
        let theirs = [(2, 10.0), (1, 20.0), (4, 1.0)];
        assert_eq!(ratios(&ours, &theirs), [0.5, 3.0]);
        assert!(ratios(&ours, &[(1, 0.0)]).is_empty());
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 500), Some(50.0));
        assert_eq!(quantile(&mut values, 990), Some(99.0));
        assert_eq!(quantile(&mut values, 1000), Some(100.0));
        assert_eq!(quantile(&mut [], 500), None);
    }
}
