//! A file for the operations of `xip-core`: in place where its blocks are pages that the CPU can address, cached
//! otherwise. Decided here, when it is opened, by its type (contract 2).

use crate::blockmap::Goal;
use crate::error::Error;
use crate::geometry::feature;
use crate::inode::{Inode, InodeNo, Kind, SetAttributes};
use crate::volume::Volume;
use core::cell::Cell;
use xip_core::{
    Cached, Create, Device, Env, Extent, Host, InPlace, LockId, Mapping, PAGE_SIZE, PageIndex, PageIo, PageNo, Run,
};

/// The blocks of one file: its mapping.
#[derive(Debug)]
pub struct Blocks<'v, D, E> {
    pub(crate) volume: &'v Volume<D, E>,
    pub(crate) number: InodeNo,
    pub(crate) goal: Cell<Goal>,
}

/// A regular file, opened.
#[derive(Debug)]
pub enum File<'v, D, E> {
    /// Its storage is used where it is.
    InPlace(InPlace<Blocks<'v, D, E>>),
    /// It goes through copies.
    Cached(Cached<Blocks<'v, D, E>>),
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Opens a regular file: in place when [`Volume::in_place`] holds, else cached.
    ///
    /// # Errors
    /// [`Error::IsDirectory`], [`Error::WrongKind`]; as [`Volume::inode`].
    pub fn file(&self, number: InodeNo) -> Result<File<'_, D, E>, Error> {
        let blocks = self.regular(number, Goal::default())?;
        Ok(match self.in_place() {
            Ok(()) => File::InPlace(InPlace::new(blocks)),
            Err(_) => File::Cached(Cached::new(blocks)),
        })
    }

    /// Opens a regular file in place, and new blocks of it will stand at `goal`.
    ///
    /// # Errors
    /// As [`Volume::file`], and the reason of [`Volume::in_place`].
    pub fn file_in_place(&self, number: InodeNo, goal: Goal) -> Result<InPlace<Blocks<'_, D, E>>, Error> {
        self.in_place()?;
        Ok(InPlace::new(self.regular(number, goal)?))
    }

    fn regular(&self, number: InodeNo, goal: Goal) -> Result<Blocks<'_, D, E>, Error> {
        match self.inode(number)?.kind {
            Kind::Regular => Ok(Blocks { volume: self, number, goal: Cell::new(goal) }),
            Kind::Directory => Err(Error::IsDirectory),
            _ => Err(Error::WrongKind),
        }
    }

    /// The blocks of any inode that has some: for directories and symbolic links.
    pub(crate) fn blocks(&self, number: InodeNo) -> Blocks<'_, D, E> {
        Blocks { volume: self, number, goal: Cell::new(Goal::default()) }
    }
}

impl<D: Device, E: Env> Host for Blocks<'_, D, E> {
    type Error = Error;
    type Guard<'a>
        = E::Guard<'a>
    where
        Self: 'a;

    fn shared(&self) -> E::Guard<'_> {
        self.volume.env.shared(LockId::Inode(self.number.0))
    }

    fn exclusive(&self) -> E::Guard<'_> {
        self.volume.env.exclusive(LockId::Inode(self.number.0))
    }

    fn size(&self) -> Result<u64, Error> {
        let at = self.volume.inode_at(self.number)?;
        let (mut low, mut high) = ([0; 4], [0; 4]);
        self.volume.device.read(at + 4, &mut low)?;
        self.volume.device.read(at + 108, &mut high)?;
        let size = u64::from(u32::from_le_bytes(high)) << 32 | u64::from(u32::from_le_bytes(low));
        if size > self.largest() {
            return Err(self.corrupt("the size is beyond what the format can hold", size));
        }
        Ok(size)
    }

    fn largest(&self) -> u64 {
        let largest = self.volume.geometry.largest_file();
        // Without the feature, a size of 2 GiB or more is one that other implementations would misread.
        if self.volume.geometry.ro_compat & feature::RO_COMPAT_LARGE_FILE == 0 {
            largest.min(0x7fff_ffff)
        } else {
            largest
        }
    }

    fn accessed(&self) {
        const DAY: i64 = 86_400;
        if self.volume.read_only.is_some() {
            return;
        }
        // `relatime`: only when it would otherwise lie before the last change, or by more than a day. Reading has
        // succeeded; a failure here is not the reader's.
        let now = self.volume.env.now();
        let due = |inode: &Inode| {
            inode.atime != now
                && (inode.atime <= inode.mtime
                    || inode.atime <= inode.ctime
                    || now.seconds.saturating_sub(inode.atime.seconds) >= DAY)
        };
        if !self.volume.inode(self.number).is_ok_and(|inode| due(&inode)) {
            return;
        }
        // Once more under the lock: the ctime that is kept must be that of the last change.
        let _guard = self.exclusive();
        if let (Ok(inode), Ok(mut raw)) = (self.volume.inode(self.number), self.volume.raw_inode(self.number)) {
            let change = SetAttributes { atime: Some(now), ctime: Some(inode.ctime), ..SetAttributes::default() };
            change.apply(&mut raw, now);
            let _ = self.volume.write_raw_inode(self.number, &raw);
        }
    }

    fn will_change(&self, keep_set_id: bool) -> Result<(), Error> {
        const SET_UID: u16 = 0o4000;
        const SET_GID: u16 = 0o2000;
        const GROUP_EXECUTE: u16 = 0o010;
        self.volume.check_writable()?;
        let now = self.volume.env.now();
        let mut raw = self.volume.raw_inode(self.number)?;
        if !keep_set_id {
            // setuid always, setgid where it means set-id and not mandatory locking (contract 3, write).
            let drop = SET_UID | if raw.mode() & GROUP_EXECUTE != 0 { SET_GID } else { 0 };
            raw.set_mode(raw.mode() & !drop);
        }
        SetAttributes { mtime: Some(now), ..SetAttributes::default() }.apply(&mut raw, now);
        self.volume.write_raw_inode(self.number, &raw)
    }

    fn publish_size(&self, size: u64) -> Result<(), Error> {
        self.volume.device.fence()?;
        let mut raw = self.volume.raw_inode(self.number)?;
        raw.set_size_low((size & 0xffff_ffff) as u32);
        raw.set_size_high((size >> 32) as u32);
        self.volume.write_raw_inode(self.number, &raw)
    }

    fn free_from(&self, first: PageIndex) -> Result<(), Error> {
        self.free_blocks_from(first.0)
    }

    fn sync(&self, _data_only: bool) -> Result<(), Error> {
        self.volume.sync()
    }
}

impl<D: Device, E: Env> Mapping for Blocks<'_, D, E> {
    type Device = D;

    fn device(&self) -> &D {
        &self.volume.device
    }

    #[inline]
    fn get_xip_pages(&self, index: PageIndex, want: u64, create: Create) -> Result<Extent, Error> {
        // A block is a page here: `in_place` was asked before this file was made.
        self.map(index, want, create)
    }
}

impl<D: Device, E: Env> Blocks<'_, D, E> {
    /// The parts of the volume that hold `[within, within + len)` of a page: byte addresses, `None` for a hole.
    fn parts(
        &self,
        index: PageIndex,
        within: usize,
        len: usize,
        create: Create,
        mut each: impl FnMut(core::ops::Range<usize>, Option<u64>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let block_size = self.volume.geometry.block_size as usize;
        let first = index.0 * (PAGE_SIZE / block_size) as u64;
        let mut done = 0;
        while done < len {
            let (block, inside) = ((within + done) / block_size, (within + done) % block_size);
            let count = (block_size - inside).min(len - done);
            let at = match self.map(PageIndex(first + block as u64), 1, create)? {
                Extent::Storage(Run { first: PageNo(block), .. }) => Some(block * block_size as u64 + inside as u64),
                Extent::Hole(_) => None,
            };
            each(done..done + count, at)?;
            done += count;
        }
        Ok(())
    }
}

impl<D: Device, E: Env> PageIo for Blocks<'_, D, E> {
    fn read_page(&self, index: PageIndex, within: usize, to: &mut [u8]) -> Result<(), Error> {
        self.parts(index, within, to.len(), Create::No, |part, at| {
            match at {
                Some(at) => self.volume.device.read(at, &mut to[part])?,
                None => to[part].fill(0),
            }
            Ok(())
        })
    }

    fn write_page(&self, index: PageIndex, within: usize, from: &[u8]) -> Result<(), Error> {
        self.parts(index, within, from.len(), Create::Yes, |part, at| match at {
            Some(at) => Ok(self.volume.device.write(at, &from[part])?),
            None => Err(xip_core::Error::Lost { index }.into()),
        })
    }
}
