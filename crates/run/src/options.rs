//! What a caller may ask of a run.

use crate::error::Error;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What to run, and in what surroundings.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program: a path inside, or a name that is looked for on `PATH` inside.
    pub program: OsString,
    /// Its arguments, without its own name.
    pub arguments: Vec<OsString>,
    /// The whole environment of the program.
    pub env: Vec<(OsString, OsString)>,
    /// Directory inside in which it starts.
    pub workdir: PathBuf,
    /// Directories and files of the host that are shown inside.
    pub binds: Vec<Bind>,
    /// What the root directory is.
    pub root: Root,
    /// Do not trace the program: its files come from the mount's page cache, and none is mapped in place. For
    /// debuggers, which cannot trace a program that is traced already, and to compare.
    pub page_cache: bool,
    /// Told, at most once per kind, what the user of the program should know while it runs.
    pub notice: fn(&str),
}

impl Options {
    /// `program` without arguments, in the caller's environment, in `/`, on the image as it is.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            env: std::env::vars_os().collect(),
            workdir: PathBuf::from("/"),
            binds: Vec::new(),
            root: Root::ReadOnly,
            page_cache: false,
            notice: |text| eprintln!("xip: {text}"),
        }
    }

    /// Sets a variable in the program's environment; `None` removes it.
    pub fn set_env(&mut self, name: impl Into<OsString>, value: Option<OsString>) {
        let name = name.into();
        self.env.retain(|(known, _)| *known != name);
        if let Some(value) = value {
            self.env.push((name, value));
        }
    }
}

/// What the root directory of the program is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Root {
    /// The image, which cannot be written.
    #[default]
    ReadOnly,
    /// The image under a layer in memory that takes changes, and is gone afterwards.
    Overlay,
}

/// A directory or file of the host that is shown inside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bind {
    /// On the host.
    pub host: PathBuf,
    /// Where it is shown; an absolute path.
    pub inside: PathBuf,
    /// Whether the program may only read it.
    pub read_only: bool,
}

impl Bind {
    /// From `HOST:INSIDE` or `HOST:INSIDE:ro`.
    ///
    /// # Errors
    /// [`Error::Bind`] for anything else.
    pub fn parse(text: &OsStr) -> Result<Self, Error> {
        let wrong = || Error::Bind { text: text.into() };
        let bytes = text.as_bytes();
        let (bytes, read_only) = match bytes.strip_suffix(b":ro") {
            Some(rest) => (rest, true),
            None => (bytes.strip_suffix(b":rw").unwrap_or(bytes), false),
        };
        let colon = bytes.iter().position(|&byte| byte == b':').ok_or_else(wrong)?;
        let (host, inside) = (&bytes[..colon], &bytes[colon + 1..]);
        if host.is_empty() || inside.first() != Some(&b'/') || inside.contains(&b':') {
            return Err(wrong());
        }
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        Ok(Self { host: path(host), inside: path(inside), read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_host_and_inside_and_perhaps_read_only() {
        let bind = |host: &str, inside: &str, read_only| Bind { host: host.into(), inside: inside.into(), read_only };
        assert_eq!(Bind::parse(OsStr::new("/a:/b")).unwrap(), bind("/a", "/b", false));
        assert_eq!(Bind::parse(OsStr::new("a b:/c:ro")).unwrap(), bind("a b", "/c", true));
        for wrong in ["", "/a", "/a:", ":/b", "/a:b", "/a:/b:/c"] {
            assert!(matches!(Bind::parse(OsStr::new(wrong)), Err(Error::Bind { .. })), "{wrong}");
        }
    }
}
