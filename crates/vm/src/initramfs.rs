//! The guest's first file system, as the kernel unpacks it: a `cpio` archive of the kind `newc`
//! (Documentation/driver-api/early-userspace/buffer-format.rst of Linux).

/// An archive that grows.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

impl Archive {
    pub(crate) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, &[]);
    }

    pub(crate) fn program(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, content);
    }

    pub(crate) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, FILE, content);
    }

    /// The whole of it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// Numbers have eight hexadecimal digits; a name and a content each end at a multiple of four.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        self.bytes.extend_from_slice(b"070701");
        // Inode, mode, owner, group, links, time, size, device, device of the inode, size of the name, check.
        for number in [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// What `cpio` itself reads from it.
    #[test]
    fn the_archive_is_one_for_cpio() {
        let mut archive = Archive::default();
        archive.directory("modules");
        archive.program("init", b"#!");
        archive.file("modules/abc.ko", &[7; 4097]);
        let mut listing = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio: run cargo xtask setup");
        listing.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let output = listing.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let found: Vec<_> = lines.iter().map(|words| (words[0], words[4], words[words.len() - 1])).collect();
        assert_eq!(
            found,
            [("drwxr-xr-x", "0", "modules"), ("-rwxr-xr-x", "2", "init"), ("-rw-r--r--", "4097", "modules/abc.ko")]
        );
    }
}
