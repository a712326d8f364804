//! The image file while it is not there yet.
//!
//! It has no name until it is complete: a build that is killed, at any instant, leaves nothing, since the system gives
//! back a file without a name by itself. Where the file system knows no such files it has a hidden name beside the
//! image, which is taken away on every error, and left only by a kill that no program can answer.

use crate::error::Error;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid, XattrFlags, fchown, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use xip_segment::Access;

pub(crate) struct Output {
    image: PathBuf,
    directory: OwnedFd,
    name: Vec<u8>,
    file: File,
    temporary: Option<Vec<u8>>,
}

impl Output {
    /// A file that will be `image`.
    pub(crate) fn create(image: &Path) -> Result<Self, Error> {
        let fail = |what, error: Errno| Error::Image { image: image.into(), what, error: error.into() };
        // An image that is a link: what it leads to is replaced, not the link.
        let target = match std::fs::symlink_metadata(image) {
            Ok(meta) if meta.is_symlink() => std::fs::canonicalize(image).map_err(|error| Error::Image {
                image: image.into(),
                what: "follow the link",
                error,
            })?,
            _ => image.to_path_buf(),
        };
        match std::fs::metadata(&target) {
            Ok(meta) if meta.is_dir() => return Err(fail("write the image: it is a directory", Errno::ISDIR)),
            Ok(meta) if !meta.is_file() => return Err(fail("replace it: it is not a regular file", Errno::INVAL)),
            _ => {}
        }
        let name = target.file_name().ok_or_else(|| fail("write the image: it has no name", Errno::INVAL))?;
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| fail("open the directory of the image", error))?;
        let old = rustix::fs::statat(&directory, name, AtFlags::empty()).ok();
        // What replaces another is nobody else's before it is known whose that was.
        let mode = Mode::from_raw_mode(if old.is_some() { 0o600 } else { 0o666 });
        let (file, temporary) = unnamed(&directory, mode)
            .or_else(|error| match error {
                Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL => named(&directory, mode),
                error => Err(error),
            })
            .map_err(|error| fail("make the image", error))?;
        let output =
            Self { image: image.into(), directory, name: name.as_bytes().into(), file: file.into(), temporary };
        if let Some(old) = old {
            output.be_as(&old).map_err(|error| fail("make the image", error))?;
        }
        Ok(output)
    }

    /// Owner, group and permissions of what it will replace, before there is a byte in it: who could not read that does not read this.
    fn be_as(&self, old: &Stat) -> Result<(), Errno> {
        let permit = |bits: u32| rustix::fs::fchmod(&self.file, Mode::from_raw_mode(old.st_mode & bits));
        let directory = rustix::fs::fstat(&self.directory)?;
        // Where everybody can make files, one that waits under this name is not to become whose this is.
        let trusted = [rustix::process::geteuid().as_raw(), directory.st_uid];
        if directory.st_mode & 0o022 != 0 && !trusted.contains(&old.st_uid) {
            return permit(0o700);
        }
        let (owner, group) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
        // Others than root cannot give it away; the group may be one of theirs.
        let of_group = fchown(&self.file, Some(owner), Some(group)).or_else(|_| fchown(&self.file, None, Some(group)));
        let mut acl = vec![0; 64 << 10];
        let len = self.open_old().and_then(|old| fgetxattr(old, ACL, &mut acl[..]));
        match len {
            // There the bits of the group are those of all who are named, which it sets itself.
            Ok(len) => permit(0o600)
                .and_then(|()| fsetxattr(&self.file, ACL, &acl[..len], XattrFlags::empty()).or_else(|_| permit(0o707))),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {
                // One that it may have from its directory.
                let _ = fremovexattr(&self.file, ACL);
                permit(if of_group.is_ok() { 0o777 } else { 0o707 })
            }
            Err(_) => permit(0o700),
        }
    }

    /// To be read by its owner alone.
    pub(crate) fn keep_to_owner(&self) -> Result<(), Error> {
        rustix::fs::fchmod(&self.file, Mode::RUSR | Mode::WUSR).map_err(|error| self.fail("make the image", error))
    }

    /// The file, to be written.
    pub(crate) fn file(&self) -> Result<File, Error> {
        let fail = |error| Error::Image { image: self.image.clone(), what: "use the image", error };
        self.file.try_clone().map_err(fail)
    }

    /// The error for storage that cannot take the image, which has so many bytes.
    pub(crate) fn no_room(&self, needs: u64) -> Error {
        let free = rustix::fs::fstatvfs(&self.directory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
        // What the image has taken so far comes back.
        let taken = rustix::fs::fstat(&self.file).map_or(0, |stat| stat.st_blocks.unsigned_abs() * 512);
        let free = free + taken;
        Error::NoRoom { image: self.image.clone(), needs, free }
    }

    /// Device and inode of what is not to be read as part of the source: this file, and what it will replace.
    pub(crate) fn identities(&self) -> Vec<(u64, u64)> {
        let old = rustix::fs::statat(&self.directory, &*self.name, AtFlags::SYMLINK_NOFOLLOW);
        [rustix::fs::fstat(&self.file), old].into_iter().flatten().map(|stat| (stat.st_dev, stat.st_ino)).collect()
    }

    /// Waits until the bytes are on storage.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        rustix::fs::fdatasync(&self.file).map_err(|error| self.fail("sync the image", error))
    }

    /// What the file will replace, locked so that nobody begins to use it meanwhile.
    pub(crate) fn lock_old(&self) -> Result<Option<OwnedFd>, Error> {
        match self.open_old() {
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.fail("look at what is there", error)),
            Ok(_) => self.lock_named(Access::ReadWrite),
        }
    }

    /// What the file will replace, locked so that nobody begins to write it meanwhile: what a mount is told would be
    /// lost with it. Those who read it keep what they have. What cannot be opened is replaced as it is.
    pub(crate) fn lock_old_from_writers(&self) -> Result<Option<OwnedFd>, Error> {
        if self.open_old().is_ok() { self.lock_named(Access::ReadOnly) } else { Ok(None) }
    }

    fn open_old(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, &*self.name, flags, Mode::empty())
    }

    fn lock_named(&self, access: Access) -> Result<Option<OwnedFd>, Error> {
        let open = || self.open_old().map_err(|error| self.fail("look at what is there", error));
        let stat = || rustix::fs::statat(&self.directory, &*self.name, AtFlags::empty());
        match xip_segment::open_locked(&self.image, access, open, stat) {
            // Removed meanwhile.
            Err(_) if matches!(self.open_old(), Err(Errno::NOENT)) => Ok(None),
            locked => locked.map(Some),
        }
    }

    /// Gives the file its name, in place of what had it. With `durable`, waits until the name is on storage.
    pub(crate) fn publish(mut self, durable: bool) -> Result<(), Error> {
        self.name_it()?;
        if durable {
            rustix::fs::fsync(&self.directory).map_err(|error| self.fail("sync the directory of the image", error))?;
        }
        Ok(())
    }

    fn name_it(&mut self) -> Result<(), Error> {
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => match self.link(&self.name) {
                Ok(()) => return Ok(()),
                // There is no call that puts an unnamed file in place of another, so it is named in between.
                Err(Errno::EXIST) => self.temporary_link()?,
                Err(error) => return Err(self.fail("name the image", error)),
            },
        };
        // From here on `drop` takes the name away if this fails.
        self.temporary = Some(temporary.clone());
        rustix::fs::renameat(&self.directory, &*temporary, &self.directory, &*self.name)
            .map_err(|error| self.fail("replace the image", error))?;
        self.temporary = None;
        Ok(())
    }

    fn link(&self, name: &[u8]) -> Result<(), Errno> {
        let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, file, &self.directory, name, AtFlags::SYMLINK_FOLLOW)
    }

    fn temporary_link(&self) -> Result<Vec<u8>, Error> {
        for name in temporary_names() {
            match self.link(&name) {
                Ok(()) => return Ok(name),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(self.fail("name the image", error)),
            }
        }
        Err(self.fail("name the image", Errno::EXIST))
    }

    fn fail(&self, what: &'static str, error: Errno) -> Error {
        Error::Image { image: self.image.clone(), what, error: error.into() }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // Nothing more can be done about it here.
            let _ = rustix::fs::unlinkat(&self.directory, &**name, AtFlags::empty());
        }
    }
}

const ACL: &str = "system.posix_acl_access";

fn unnamed(directory: &OwnedFd, mode: Mode) -> Result<(OwnedFd, Option<Vec<u8>>), Errno> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok((rustix::fs::openat(directory, ".", flags, mode)?, None))
}

fn named(directory: &OwnedFd, mode: Mode) -> Result<(OwnedFd, Option<Vec<u8>>), Errno> {
    for name in temporary_names() {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match rustix::fs::openat(directory, &*name, flags, mode) {
            Ok(file) => return Ok((file, Some(name))),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST)
}

fn temporary_names() -> impl Iterator<Item = Vec<u8>> {
    (0..100).map(|n| format!(".xip-build-{}-{n}", std::process::id()).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// Where the file system knows no unnamed files.
    fn create_named(image: &Path) -> Output {
        let mut output = Output::create(image).unwrap();
        let (file, temporary) = named(&output.directory, Mode::RUSR | Mode::WUSR).unwrap();
        (output.file, output.temporary) = (file.into(), temporary);
        output
    }

    fn names(directory: &Path) -> Vec<std::ffi::OsString> {
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_named_file_is_gone_when_the_build_fails_and_is_the_image_when_it_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        drop(create_named(&image));
        assert_eq!(names(directory.path()).len(), 0);
        for content in ["first", "second"] {
            let output = create_named(&image);
            output.file().unwrap().write_all(content.as_bytes()).unwrap();
            output.publish(true).unwrap();
            assert_eq!(names(directory.path()), ["image"]);
            assert_eq!(std::fs::read_to_string(&image).unwrap(), content);
        }
    }

    /// The file that replaces another, and who may read it: as permissions and, where the file system has them, ACLs say.
    #[test]
    fn who_could_not_read_what_is_replaced_cannot_read_what_replaces_it() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        let replaced = |prepare: &dyn Fn(&File)| {
            let _ = std::fs::remove_file(&image);
            prepare(&File::create(&image).unwrap());
            Output::create(&image).unwrap().publish(false).unwrap();
            std::fs::metadata(&image).unwrap()
        };
        for mode in [0o600, 0o640, 0o664] {
            let found = replaced(&|old| old.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap());
            assert_eq!(found.mode() & 0o7777, mode);
        }
        // One user's entry and a mask: what stands for the group in the mode is the mask.
        let entry = |tag: u16, bits: u16, id: u32| {
            [tag.to_le_bytes(), bits.to_le_bytes()].concat().into_iter().chain(id.to_le_bytes())
        };
        let entries = [(1, 6, u32::MAX), (2, 6, 1002), (4, 0, u32::MAX), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)];
        let acl: Vec<u8> = 2u32
            .to_le_bytes()
            .into_iter()
            .chain(entries.into_iter().flat_map(|(tag, bits, id)| entry(tag, bits, id)))
            .collect();
        let set = |old: &File| fsetxattr(old, ACL, &acl, XattrFlags::empty());
        if set(&File::create(&image).unwrap()).is_ok() {
            assert_eq!(replaced(&|old| set(old).unwrap()).mode() & 0o7777, 0o660);
            let mut now = vec![0; 1024];
            let len = fgetxattr(File::open(&image).unwrap(), ACL, &mut now[..]).unwrap();
            assert_eq!(&now[..len], acl);
        }
        if rustix::process::geteuid().is_root() {
            let give = |uid| move |old: &File| std::os::unix::fs::fchown(old, Some(uid), Some(uid)).unwrap();
            assert_eq!(replaced(&give(1002)).uid(), 1002);
            // In a directory where all may make files, it is nobody's who was there first.
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
            let found = replaced(&give(1002));
            assert_eq!((found.uid(), found.mode() & 0o077), (0, 0));
        }
    }

    #[test]
    fn what_a_link_leads_to_is_replaced_and_not_the_link() {
        let directory = tempfile::tempdir().unwrap();
        let (image, link) = (directory.path().join("image"), directory.path().join("link"));
        std::fs::write(&image, "old").unwrap();
        std::os::unix::fs::symlink("image", &link).unwrap();
        Output::create(&link).unwrap().publish(false).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&image).unwrap(), b"");
    }
}
