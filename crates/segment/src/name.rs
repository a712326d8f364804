//! Names of segments: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot. They are names of files too, and the ones
//! with a dot in front are for locks.

use crate::error::{Error, Result};
use std::path::Path;

const LONGEST: usize = 64;

/// Whether `name` may be the name of a segment.
///
/// # Errors
/// [`Error::BadName`].
pub(crate) fn check(name: &str) -> Result<()> {
    let good = (1..=LONGEST).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed);
    if good { Ok(()) } else { Err(Error::BadName { name: name.into() }) }
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
