//! Patterns for `--exclude`: what a shell's user expects, over bytes, since names are bytes.

/// One pattern. `*` and `?` stand for anything but a slash, `**` for anything, `[a-z]` and `[!a-z]` for one byte, `\`
/// takes the next byte as it is. Without a slash it is compared with the name alone, wherever in the tree that is; with
/// one, with the whole path below the root of the tree. A slash at the end asks for a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    parts: Vec<Part>,
    whole_path: bool,
    directory: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Byte(u8),
    Any,
    Set { ranges: Vec<(u8, u8)>, negated: bool },
    Star,
    StarStar,
}

impl Pattern {
    /// Takes a pattern apart.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(text: &[u8]) -> Result<Self, String> {
        let mut text = text;
        let directory = text.len() > 1 && text.ends_with(b"/");
        if directory {
            text = &text[..text.len() - 1];
        }
        let whole_path = text.contains(&b'/');
        let text = text.strip_prefix(b"/").unwrap_or(text);
        if text.is_empty() {
            return Err("the pattern is empty".into());
        }
        let mut parts = Vec::new();
        let mut at = 0;
        while at < text.len() {
            match text[at] {
                b'*' if text[at..].starts_with(b"**") => {
                    parts.push(Part::StarStar);
                    at += 1;
                    // `a/**/b` is also `a/b`.
                    if text[at + 1..].starts_with(b"/")
                        && matches!(parts.iter().nth_back(1), None | Some(Part::Byte(b'/')))
                    {
                        at += 1;
                    }
                }
                b'*' => parts.push(Part::Star),
                b'?' => parts.push(Part::Any),
                b'[' => {
                    let (set, len) = set(&text[at..]).ok_or("a '[' without its ']'")?;
                    parts.push(set);
                    at += len - 1;
                }
                b'\\' => {
                    at += 1;
                    parts.push(Part::Byte(*text.get(at).ok_or("a backslash at the end")?));
                }
                byte => parts.push(Part::Byte(byte)),
            }
            at += 1;
        }
        Ok(Self { parts, whole_path, directory })
    }

    /// Whether the entry at `path` (below the root, no slash in front) is meant.
    pub fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        if self.directory && !is_directory {
            return false;
        }
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
        self.accepts(if self.whole_path { path } else { name })
    }

    /// All states at once, so that no pattern takes more than length times length.
    fn accepts(&self, text: &[u8]) -> bool {
        let mut at = vec![false; self.parts.len() + 1];
        at[0] = true;
        self.skip_stars(&mut at);
        for &byte in text {
            let mut next = vec![false; at.len()];
            for (n, part) in self.parts.iter().enumerate().filter(|(n, _)| at[*n]) {
                match part {
                    Part::Byte(b) => next[n + 1] |= byte == *b,
                    Part::Any => next[n + 1] |= byte != b'/',
                    Part::Set { ranges, negated } => {
                        let inside = ranges.iter().any(|&(low, high)| (low..=high).contains(&byte));
                        next[n + 1] |= byte != b'/' && inside != *negated;
                    }
                    Part::Star => next[n] |= byte != b'/',
                    Part::StarStar => next[n] = true,
                }
            }
            self.skip_stars(&mut next);
            at = next;
        }
        at[self.parts.len()]
    }

    fn skip_stars(&self, at: &mut [bool]) {
        for (n, part) in self.parts.iter().enumerate() {
            if at[n] && matches!(part, Part::Star | Part::StarStar) {
                at[n + 1] = true;
            }
        }
    }
}

/// The set at the start of `text`, and how many bytes it takes.
fn set(text: &[u8]) -> Option<(Part, usize)> {
    let negated = matches!(text.get(1), Some(b'!' | b'^'));
    let start = if negated { 2 } else { 1 };
    // A ']' in the first place is one of the set.
    let end = start + 1 + text.get(start + 1..)?.iter().position(|&b| b == b']')?;
    let mut ranges = Vec::new();
    let mut at = start;
    while at < end {
        if at + 2 < end && text[at + 1] == b'-' {
            ranges.push((text[at], text[at + 2]));
            at += 3;
        } else {
            ranges.push((text[at], text[at]));
            at += 1;
        }
    }
    Some((Part::Set { ranges, negated }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_a_shell_means() {
        for (pattern, path, directory, expected) in [
            ("*.o", "a/b/c.o", false, true),
            ("*.o", "c.oo", false, false),
            ("/var/cache/*", "var/cache/x", false, true),
            ("/var/cache/*", "var/cache/x/y", false, false),
            ("var/cache/**", "var/cache/x/y", false, true),
            ("**/x", "x", false, true),
            ("a/**/b", "a/b", false, true),
            ("a/**/b", "a/c/d/b", false, true),
            ("a/**/b", "ab", false, false),
            ("tmp/", "tmp", false, false),
            ("tmp/", "x/tmp", true, true),
            ("/tmp", "x/tmp", true, false),
            ("?[a-c]", "zb", false, true),
            ("?[!a-c]", "zb", false, false),
            ("[]x]", "]", false, true),
            ("\\*", "*", false, true),
            ("\\*", "a", false, false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false, false),
        ] {
            let matched = Pattern::new(pattern.as_bytes()).unwrap().matches(path.as_bytes(), directory);
            assert_eq!(matched, expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for pattern in ["", "/", "[a", "a\\"] {
            assert!(Pattern::new(pattern.as_bytes()).is_err(), "{pattern}");
        }
    }
}
