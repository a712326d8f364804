//! Names of segments: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot. They are names of files too, and the ones
//! with a dot in front are for locks.
//!
//! `NAME@1`, `NAME@2` and so on are generations of NAME that newer ones have replaced: nobody can give such a name.

use crate::error::{Error, Result};
use std::path::Path;

const LONGEST: usize = 64;

/// Whether `name` may be given to a segment.
///
/// # Errors
/// [`Error::BadName`].
pub(crate) fn check(name: &str) -> Result<()> {
    let good = (1..=LONGEST).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed);
    if good { Ok(()) } else { Err(Error::BadName { name: name.into() }) }
}

/// Whether there may be a segment of this name: one that was given, or that of a generation that was replaced.
///
/// # Errors
/// [`Error::BadName`].
pub(crate) fn check_any(name: &str) -> Result<()> {
    match name.split_once('@') {
        Some((given, _)) if number(name).is_some() => check(given),
        _ => check(name),
    }
}

/// The name that was given to the segment, without the number of a generation that was replaced.
pub(crate) fn given(name: &str) -> &str {
    name.split_once('@').map_or(name, |(given, _)| given)
}

/// The name that a generation of `given` has when the next one replaces it, beside `names`: their highest number and one.
pub(crate) fn replaced(given: &str, names: &[String]) -> String {
    let highest = names.iter().filter(|name| self::given(name) == given).filter_map(|name| number(name)).max();
    format!("{given}@{}", highest.unwrap_or(0).saturating_add(1))
}

fn number(name: &str) -> Option<u64> {
    let digits = name.split_once('@')?.1;
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

/// The name that a segment of this image gets when none is given: that of the file, without its extension.
pub(crate) fn from_image(image: &Path) -> String {
    let stem = image.file_stem().unwrap_or_default().to_string_lossy();
    let name: String = stem.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let name: String = name.trim_start_matches('.').chars().take(LONGEST).collect();
    if name.is_empty() { "image".into() } else { name }
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for good in ["a", "bookworm-12.1_x", &"x".repeat(64)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".lock", "a/b", "a b", "é", "a\0", &"x".repeat(65)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn generations_that_were_replaced_have_names_that_nobody_can_give() {
        for name in ["a@1", "b.c-d@42", &format!("{}@18446744073709551615", "x".repeat(64))] {
            assert!(check(name).is_err() && check_any(name).is_ok(), "{name}");
        }
        for bad in ["a@", "@1", "a@0", "a@01", "a@+1", "a@1@2", "a@x", "a@18446744073709551616", ".a@1", "a/b@1"] {
            assert!(check_any(bad).is_err(), "{bad}");
        }
        let names = ["a", "a@2", "a@10", "ab@77", "b@5"].map(String::from);
        assert_eq!((replaced("a", &names), replaced("c", &names)), ("a@11".into(), "c@1".into()));
        assert_eq!((given("a@10"), given("a")), ("a", "a"));
    }

    #[test]
    fn every_image_gets_a_good_name() {
        for (image, name) in [
            ("/x/deb.img", "deb"),
            ("a b.ext2", "a-b"),
            (".hidden", "hidden"),
            ("/", "image"),
            ("..x.y", "x"),
            ("é", "-"),
        ] {
            assert_eq!(from_image(Path::new(image)), name);
            check(name).unwrap();
        }
        check(&from_image(Path::new(&"y".repeat(200)))).unwrap();
    }
}
