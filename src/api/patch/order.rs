//! The order of a merged list: the patch's own order, with what only the live list has kept where it was.

/// Merges two orders. `live` is the live list's order and `patched` the wanted order of the items the patch names; items
/// are compared by `==`. Items of `live` that `patched` does not name keep their place before the next one it does.
pub fn merged<T: PartialEq + Clone>(live: &[T], patched: &[T]) -> Vec<T> {
    let place = |item: &T| live.iter().position(|l| l == item);
    let mut left = live.iter().filter(|l| !patched.contains(l)).peekable();
    let mut right = patched.iter().peekable();
    let mut out = Vec::with_capacity(live.len() + patched.len());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            // What is new in the patch comes after everything that was there.
            (Some(l), Some(r)) => place(r).is_none_or(|at| place(l) < Some(at)),
        };
        out.extend(if take_left { left.next() } else { right.next() }.cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn the_patch_decides_and_the_rest_keeps_its_place() {
        for (live, patched, want) in [
            ("abc", "", "abc"),
            ("", "ab", "ab"),
            ("abc", "ca", "bca"),
            ("axb", "ab", "axb"),
            ("ab", "nab", "nab"),
            ("ab", "an", "abn"),
        ] {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            let got: String = merged(&chars(live), &chars(patched)).into_iter().collect();
            assert_eq!(got, want, "{live} patched with {patched}");
        }
    }
}
