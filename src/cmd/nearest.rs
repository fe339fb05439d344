//! What somebody may have meant who has mistyped a word.

/// The known words that a given one begins, or else the one that is at most two slips from it, a third of its length at
/// most; for the end of a message, with `before` in front of each. Empty if there is none.
pub fn did_you_mean<'a>(given: &str, before: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let begun = |word: &&&str| !given.is_empty() && word.starts_with(given);
    let mut meant: Vec<&str> = known.iter().filter(begun).copied().collect();
    if meant.is_empty() {
        let slips_max = 2.min(given.chars().count() / 3 + 1);
        let near = known.iter().map(|word| (slips(given, word), *word));
        let near = near.filter(|near| near.0 <= slips_max);
        meant.extend(near.min_by_key(|near| near.0).map(|near| near.1));
    }
    let meant: Vec<String> = meant.iter().map(|word| format!("{before}{word}")).collect();
    match &meant[..] {
        [] => String::new(),
        [word] => format!(" (did you mean {word}?)"),
        [words @ .., last] => format!(" (did you mean {} or {last}?)", words.join(", ")),
    }
}

/// How many letters have to be added, dropped, replaced or swapped with the next to make the one word the other
/// (optimal string alignment).
fn slips(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, with) in other.iter().enumerate() {
            let mut least = (last[j] + usize::from(letter != with)).min(last[j + 1] + 1);
            least = least.min(row[j] + 1);
            let is_swapped = i > 0 && j > 0 && *letter == other[j - 1] && one[i - 1] == *with;
            if is_swapped {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        let cases = [
            ("", "", 0),
            ("share", "share", 0),
            ("shaer", "share", 1),
            ("sahre", "share", 1),
            ("hare", "share", 1),
            ("shared", "share", 1),
            ("spare", "share", 1),
            ("fetch", "share", 5),
        ];
        for (one, other, count) in cases {
            assert_eq!(slips(one, other), count, "{one} {other}");
        }
    }

    #[test]
    fn words_that_are_begun_or_the_nearest_are_named_and_far_ones_are_not() {
        let known = || ["copies", "min-copies", "pin"].into_iter();
        assert_eq!(
            did_you_mean("copeis", "--", known()),
            " (did you mean --copies?)"
        );
        assert_eq!(
            did_you_mean("min", "--", known()),
            " (did you mean --min-copies?)"
        );
        let commands = ["share", "ls", "serve", "status"];
        assert_eq!(
            did_you_mean("s", "", commands.into_iter()),
            " (did you mean share, serve or status?)"
        );
        assert_eq!(did_you_mean("frobnicate", "--", known()), "");
        assert_eq!(did_you_mean("x", "--", known()), "");
    }
}
