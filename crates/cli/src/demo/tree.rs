//! The tree that the demo's image is built from: copies of the machine's own programs, at their own paths.
//! Symbolic links on the way to a file (`/bin` -> `usr/bin`) are made again, so every path means what it meant.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// More links than this on one path is a loop, as in the kernel (`ELOOP`).
const LINKS: u32 = 40;

/// A directory that becomes an image.
pub(crate) struct Tree {
    root: PathBuf,
    /// What stands in the tree already, by its path in the image.
    have: HashSet<PathBuf>,
    /// Files with more than one name, by device and inode: linked again, not copied twice.
    copied: HashMap<(u64, u64), PathBuf>,
    /// Bytes of content so far.
    pub(crate) bytes: u64,
}

impl Tree {
    /// Starts with the directories that a program expects at the root.
    pub(crate) fn new(root: PathBuf) -> io::Result<Self> {
        for name in ["dev", "proc", "sys", "tmp"] {
            fs::create_dir(root.join(name))?;
        }
        // Whatever the umask was: programs run in place with the credentials of whoever runs them.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        Ok(Tree { root, have: HashSet::new(), copied: HashMap::new(), bytes: 0 })
    }

    /// Adds `path` with the directories and links that lead to it. Of a directory only the name is taken.
    /// Gives the path without links.
    pub(crate) fn add(&mut self, path: &Path) -> io::Result<PathBuf> {
        let mut links = 0;
        let mut resolved = PathBuf::from("/");
        // What is left to walk, last component first.
        let mut left: Vec<_> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
        while let Some(part) = left.pop() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => resolved = PathBuf::from("/"),
                Some(Component::ParentDir) => {
                    resolved.pop();
                }
                Some(Component::Normal(name)) => {
                    let here = resolved.join(name);
                    let metadata = fs::symlink_metadata(&here)?;
                    if metadata.is_symlink() {
                        links += 1;
                        if links > LINKS {
                            return Err(rustix::io::Errno::LOOP.into());
                        }
                        let target = fs::read_link(&here)?;
                        if self.have.insert(here.clone()) {
                            symlink(&target, self.inside(&here))?;
                        }
                        left.extend(target.components().rev().map(|part| part.as_os_str().to_owned()));
                    } else {
                        self.copy(&here, &metadata)?;
                        resolved = here;
                    }
                }
                _ => {}
            }
        }
        Ok(resolved)
    }

    /// Makes a program known by a name in `/usr/bin`, where `PATH` finds it, if the tree has no such name.
    pub(crate) fn name(&mut self, name: &str, program: &Path) -> io::Result<()> {
        let link = self.add(Path::new("/usr/bin"))?.join(name);
        if self.have.insert(link.clone()) {
            symlink(program, self.inside(&link))?;
        }
        Ok(())
    }

    /// Adds a directory and what is below it, but for the entries that `skip` names.
    pub(crate) fn add_all(&mut self, path: &Path, skip: &dyn Fn(&OsStr) -> bool) -> io::Result<()> {
        let directory = self.add(path)?;
        let mut entries = fs::read_dir(&directory)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if skip(&entry.file_name()) {
                continue;
            }
            let added = if entry.file_type()?.is_dir() {
                self.add_all(&entry.path(), skip)
            } else {
                self.add(&entry.path()).map(drop)
            };
            match added {
                // A link to nowhere, or a file that only its owner reads, is no part of what a demo shows.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Adds the loader and the libraries that the kernel and the loader would find for `program`.
    pub(crate) fn add_libraries(&mut self, program: &Path) -> io::Result<()> {
        // A library has no interpreter of its own; it is loaded by the one of its program, added before.
        if let Some(loader) = interpreter(program)? {
            self.add(&loader)?;
            self.add_listed(&loader, program, OsStr::new(""))?;
        }
        Ok(())
    }

    /// Adds the libraries of every shared object in the tree below `directory`, as `program` would find them.
    pub(crate) fn add_libraries_below(&mut self, directory: &Path, program: &Path) -> io::Result<()> {
        let is_object = |path: &&PathBuf| path.starts_with(directory) && path.extension() == Some(OsStr::new("so"));
        let objects: Vec<&OsStr> = self.have.iter().filter(is_object).map(|path| path.as_os_str()).collect();
        let objects = objects.join(OsStr::new(":"));
        match interpreter(program)? {
            Some(loader) => self.add_listed(&loader, program, &objects),
            None => Ok(()),
        }
    }

    /// The dynamic loader knows best what it would load: `ld.so --list`, as `ldd` does. With `preload` it is asked
    /// about many objects at once.
    fn add_listed(&mut self, loader: &Path, program: &Path, preload: &OsStr) -> io::Result<()> {
        let mut list = Command::new(loader);
        let listing = list.arg("--list").arg(program).env("LD_PRELOAD", preload).stdin(Stdio::null()).output()?;
        for line in listing.stdout.split(|byte| *byte == b'\n') {
            if let Some(library) = library_in(line) {
                self.add(library)?;
            }
        }
        Ok(())
    }

    fn copy(&mut self, from: &Path, metadata: &fs::Metadata) -> io::Result<()> {
        if self.have.contains(from) {
            return Ok(());
        }
        let to = self.inside(from);
        if metadata.is_dir() {
            match fs::create_dir(&to) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        } else if metadata.is_file() {
            let same = (metadata.dev(), metadata.ino());
            match self.copied.get(&same) {
                Some(first) => fs::hard_link(first, &to)?,
                None => {
                    fs::copy(from, &to)?;
                    // Never set-id: the copy belongs to whoever runs the demo.
                    fs::set_permissions(
                        &to,
                        fs::Permissions::from_mode(metadata.permissions().mode() & 0o755 | 0o444),
                    )?;
                    self.bytes += metadata.len();
                    self.copied.insert(same, to);
                }
            }
        }
        self.have.insert(from.to_owned());
        Ok(())
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The path in one line of `ld.so --list`: `libc.so.6 => /lib/libc.so.6 (0x...)` or `/lib64/ld.so (0x...)`.
fn library_in(line: &[u8]) -> Option<&Path> {
    let line = line.trim_ascii();
    let line = line.windows(4).position(|part| part == b" => ").map_or(line, |at| &line[at + 4..]);
    let end = line.windows(4).rposition(|part| part == b" (0x")?;
    Some(Path::new(OsStr::from_bytes(&line[..end]))).filter(|path| path.is_absolute())
}

/// The program that loads `program` (ELF `PT_INTERP`), if it is a 64-bit little-endian one that has any.
fn interpreter(program: &Path) -> io::Result<Option<PathBuf>> {
    let mut start = Vec::new();
    fs::File::open(program)?.take(4096).read_to_end(&mut start)?;
    Ok(interpreter_in(&start))
}

fn interpreter_in(elf: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, entry, entries) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..entries {
        let at = usize::try_from(table.checked_add(index * entry)?).ok()?;
        if number(at, 4)? == PT_INTERP {
            let start = usize::try_from(number(at.checked_add(8)?, 8)?).ok()?;
            let length = usize::try_from(number(at.checked_add(32)?, 8)?).ok()?;
            let path = elf.get(start..start.checked_add(length)?)?;
            return Some(PathBuf::from(OsStr::from_bytes(path.strip_suffix(b"\0").unwrap_or(path))));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_list_is_read_with_and_without_an_arrow() {
        let path = |line: &'static str| library_in(line.as_bytes()).map(|path| path.to_str().unwrap());
        assert_eq!(path("\tlibc.so.6 => /lib/a b/libc.so.6 (0x00007f)"), Some("/lib/a b/libc.so.6"));
        assert_eq!(path("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(path("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(path("\tlibgone.so => not found"), None);
    }

    #[test]
    fn what_is_not_a_program_has_no_interpreter() {
        assert_eq!(interpreter_in(b""), None);
        assert_eq!(interpreter_in(b"#!/bin/sh\n"), None);
        let mut hostile = b"\x7fELF\x02\x01".to_vec();
        hostile.resize(64, 0xff);
        assert_eq!(interpreter_in(&hostile), None);
    }

    #[test]
    fn links_on_the_way_are_made_again_and_files_are_copied_once() {
        let from = tempfile::tempdir().unwrap();
        let from = from.path().canonicalize().unwrap();
        fs::create_dir_all(from.join("usr/lib")).unwrap();
        fs::write(from.join("usr/lib/one"), b"content").unwrap();
        fs::hard_link(from.join("usr/lib/one"), from.join("usr/lib/two")).unwrap();
        symlink("usr/lib", from.join("lib")).unwrap();
        symlink("loop", from.join("loop")).unwrap();
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(root.path().to_owned()).unwrap();
        assert_eq!(tree.add(&from.join("lib/one")).unwrap(), from.join("usr/lib/one"));
        tree.add_all(&from.join("usr"), &|_| false).unwrap();
        let copy = root.path().join(from.strip_prefix("/").unwrap());
        assert_eq!(fs::read_link(copy.join("lib")).unwrap(), Path::new("usr/lib"));
        assert_eq!(fs::read(copy.join("lib/one")).unwrap(), b"content");
        assert_eq!(fs::metadata(copy.join("lib/two")).unwrap().nlink(), 2);
        assert_eq!(tree.bytes, 7);
        assert!(tree.add(&from.join("loop")).is_err());
        assert!(tree.add(&from.join("absent")).is_err());
    }
}
