//! Sorting that leaves equal elements in the order in which etcd leaves them.
//!
//! A range sorted by version, revision or value has ties, and a limit cuts somewhere among them. The API does not say in which order tied
//! keys come; etcd gives them as Go's unstable `sort.Sort` happens to leave them. So that an answer, and the keys a limit lets through, are
//! the same as etcd 3.5.1's, this takes the same steps as that version's library (Go 1.16): quicksort with a median of three or nine as
//! pivot, heapsort when it goes too deep, and one shell pass before insertion sort for up to twelve elements. Up to six elements it is
//! stable. Elements that do not compare equal come in the one right order, as with any sort.

/// Up to so many elements, no quicksort.
const SMALL: usize = 12;

/// The step of the shell pass.
const SHELL_GAP: usize = 6;

/// From so many elements on, the pivot is the median of three medians.
const NINTHER_FROM: usize = 41;

/// Sorts by `less`, which must be a strict weak order.
pub fn sort_like_go<T>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let depth = 2 * (usize::BITS - items.len().leading_zeros()) as usize;
    let end = items.len();
    Sorter { items, less }.quick(0, end, depth);
}

/// Works on ranges `from..to` of its elements, naming them by position as the original does.
struct Sorter<'a, T, L> {
    items: &'a mut [T],
    less: L,
}

impl<T, L: Fn(&T, &T) -> bool> Sorter<'_, T, L> {
    fn less(&self, a: usize, b: usize) -> bool {
        (self.less)(&self.items[a], &self.items[b])
    }

    fn swap_if_less(&mut self, a: usize, b: usize) -> bool {
        let swaps = self.less(a, b);
        if swaps {
            self.items.swap(a, b);
        }
        swaps
    }

    fn quick(&mut self, mut from: usize, mut to: usize, mut depth: usize) {
        while to - from > SMALL {
            if depth == 0 {
                return self.heap(from, to);
            }
            depth -= 1;
            let (middle_from, middle_to) = self.partition(from, to);
            // Recursing into the smaller side alone keeps the stack flat.
            if middle_from - from < to - middle_to {
                self.quick(from, middle_from, depth);
                from = middle_to;
            } else {
                self.quick(middle_to, to, depth);
                to = middle_from;
            }
        }
        for i in from + SHELL_GAP..to {
            self.swap_if_less(i, i - SHELL_GAP);
        }
        self.insertion(from, to);
    }

    fn insertion(&mut self, from: usize, to: usize) {
        for i in from + 1..to {
            let mut j = i;
            while j > from && self.swap_if_less(j, j - 1) {
                j -= 1;
            }
        }
    }

    fn heap(&mut self, from: usize, to: usize) {
        let len = to - from;
        for root in (0..=(len - 1) / 2).rev() {
            self.sift_down(from, root, len);
        }
        for last in (0..len).rev() {
            self.items.swap(from, from + last);
            self.sift_down(from, 0, last);
        }
    }

    fn sift_down(&mut self, from: usize, mut root: usize, len: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= len {
                return;
            }
            if child + 1 < len && self.less(from + child, from + child + 1) {
                child += 1;
            }
            if !self.swap_if_less(from + root, from + child) {
                return;
            }
            root = child;
        }
    }

    /// Sorts three elements; the median comes to `median`.
    fn median_of_three(&mut self, median: usize, low: usize, high: usize) {
        self.swap_if_less(median, low);
        if self.swap_if_less(high, median) {
            self.swap_if_less(median, low);
        }
    }

    /// Puts what is less than a pivot before what is greater; returns the range between, all equal to the pivot.
    fn partition(&mut self, from: usize, to: usize) -> (usize, usize) {
        let middle = (from + to) / 2;
        self.choose_pivot(from, middle, to);
        let pivot = from;
        // `from+1..low` is less than the pivot, `low..at` not greater, `high..to-1` greater; the last is not less.
        let (mut low, mut high) = (from + 1, to - 1);
        while low < high && self.less(low, pivot) {
            low += 1;
        }
        let mut at = low;
        loop {
            while at < high && !self.less(pivot, at) {
                at += 1;
            }
            while at < high && self.less(pivot, high - 1) {
                high -= 1;
            }
            if at >= high {
                break;
            }
            self.items.swap(at, high - 1);
            at += 1;
            high -= 1;
        }
        let few_greater = to - high < 5;
        let many_equal = few_greater
            || (to - high < (to - from) / 4
                && self.samples_equal(pivot, middle, to, &mut at, &mut high));
        if many_equal {
            at = self.gather_equal(pivot, low, at);
        }
        self.items.swap(pivot, at - 1);
        (at - 1, high)
    }

    fn choose_pivot(&mut self, from: usize, middle: usize, to: usize) {
        if to - from >= NINTHER_FROM {
            let step = (to - from) / 8;
            self.median_of_three(from, from + step, from + 2 * step);
            self.median_of_three(middle, middle - step, middle + step);
            self.median_of_three(to - 1, to - 1 - step, to - 1 - 2 * step);
        }
        self.median_of_three(from, middle, to - 1);
    }

    /// Tries three elements; says whether at least two are equal to the pivot, and moves those that are into the range between.
    fn samples_equal(
        &mut self,
        pivot: usize,
        middle: usize,
        to: usize,
        at: &mut usize,
        high: &mut usize,
    ) -> bool {
        let mut equal = 0;
        if !self.less(pivot, to - 1) {
            self.items.swap(*high, to - 1);
            *high += 1;
            equal += 1;
        }
        if !self.less(*at - 1, pivot) {
            *at -= 1;
            equal += 1;
        }
        if !self.less(middle, pivot) {
            self.items.swap(middle, *at - 1);
            *at -= 1;
            equal += 1;
        }
        equal > 1
    }

    /// Moves what is equal to the pivot to the end of `low..at`; returns where it begins.
    fn gather_equal(&mut self, pivot: usize, mut low: usize, mut at: usize) -> usize {
        loop {
            while low < at && !self.less(at - 1, pivot) {
                at -= 1;
            }
            while low < at && self.less(low, pivot) {
                low += 1;
            }
            if low >= at {
                return at;
            }
            self.items.swap(low, at - 1);
            low += 1;
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_sorts(mut items in prop::collection::vec(0..50u32, 0..500)) {
            let mut expected = items.clone();
            expected.sort();
            sort_like_go(&mut items, |a, b| a < b);
            prop_assert_eq!(items, expected);
        }

        #[test]
        fn up_to_six_elements_ties_stay(keys in prop::collection::vec(0..3u32, 0..7)) {
            let mut items: Vec<(u32, usize)> = keys.into_iter().zip(0..).collect();
            let mut expected = items.clone();
            expected.sort_by_key(|item| item.0);
            sort_like_go(&mut items, |a, b| a.0 < b.0);
            prop_assert_eq!(items, expected);
        }
    }

    #[test]
    fn it_sorts_when_quicksort_goes_too_deep() {
        let mut items: Vec<u32> = (0..1000).map(|i| i * 7919 % 1000).collect();
        let end = items.len();
        let less = |a: &u32, b: &u32| a < b;
        Sorter {
            items: &mut items,
            less,
        }
        .quick(0, end, 1);
        assert!(items.is_sorted());
    }

    /// Seen in an answer of etcd 3.5.1: seven keys sorted by value, descending.
    #[test]
    fn seven_ties_come_as_etcd_gives_them() {
        let mut items = [
            ("0", 1),
            ("a", 2),
            ("ab", 1),
            ("b", 1),
            ("b0", 3),
            ("bf", 1),
            ("c", 2),
        ];
        sort_like_go(&mut items, |a, b| b.1 < a.1);
        assert_eq!(
            items.map(|item| item.0),
            ["b0", "c", "a", "ab", "b", "bf", "0"]
        );
    }
}
