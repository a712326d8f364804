//! A file for the operations of `xip-core`: in place where its blocks are pages that the CPU can address, cached
//! otherwise. Decided here, when it is opened, by its type (contract 2).

use crate::blockmap::Goal;
use crate::error::Error;
use crate::inode::{Inode, InodeNo, Kind, without_set_id};
use crate::intent::Intent;
use crate::raw::{INODE_MODE, INODE_SIZE, INODE_SIZE_HIGH};
use crate::record::Record;
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
    /// Byte address of its inode.
    pub(crate) at: u64,
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

/// An inode, and where it stands: on one volume always the same.
#[derive(Clone, Copy, Debug)]
pub struct Handle {
    number: InodeNo,
    at: u64,
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Opens a regular file: in place when [`Volume::in_place`] holds, else cached.
    ///
    /// # Errors
    /// [`Error::IsDirectory`], [`Error::WrongKind`]; as [`Volume::inode`].
    pub fn file(&self, number: InodeNo) -> Result<File<'_, D, E>, Error> {
        Ok(self.opened(self.regular(number, Goal::default())?))
    }

    /// Where an inode stands, for one who opens a file often: [`Volume::file_again`].
    ///
    /// # Errors
    /// There is no such number.
    pub fn handle(&self, number: InodeNo) -> Result<Handle, Error> {
        Ok(Handle { number, at: self.inode_at(number)? })
    }

    /// As [`Volume::file`], for one who has seen that it is a regular file, and has kept it in use since.
    #[inline]
    pub fn file_again(&self, Handle { number, at }: Handle) -> File<'_, D, E> {
        self.opened(self.blocks(number, at))
    }

    #[inline]
    fn opened<'v>(&'v self, blocks: Blocks<'v, D, E>) -> File<'v, D, E> {
        if self.in_place { File::InPlace(InPlace::new(blocks)) } else { File::Cached(Cached::new(blocks)) }
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
            Kind::Regular => Ok(Blocks { goal: Cell::new(goal), ..self.blocks(number, self.inode_at(number)?) }),
            Kind::Directory => Err(Error::IsDirectory),
            _ => Err(Error::WrongKind),
        }
    }

    /// The blocks of any inode that has some, which stands at `at`: for directories and symbolic links.
    pub(crate) fn blocks(&self, number: InodeNo, at: u64) -> Blocks<'_, D, E> {
        Blocks { volume: self, number, at, goal: Cell::new(Goal::default()) }
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
        let record = self.volume.record(self.at);
        let (low, high) = (record.u32(INODE_SIZE)?, record.u32(INODE_SIZE_HIGH)?);
        let size = u64::from(high) << 32 | u64::from(low);
        if size > self.largest() {
            return Err(self.corrupt("the size is beyond what the format can hold", size));
        }
        Ok(size)
    }

    fn largest(&self) -> u64 {
        self.volume.geometry.largest_written()
    }

    fn accessed(&self) {
        const DAY: i64 = 86_400;
        if self.volume.read_only.is_some() || !self.volume.env.access_times() {
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
        // Readers do not wait for each other here either: who does it beside us stores a time that is as right. Of two that cross, the
        // second of one and its parts of the other may stay: a time of this moment, within a second.
        let _guard = self.shared();
        let _ = self.volume.put_access_time(self.at, now);
    }

    fn drop_set_id(&self, keep_set_id: bool) -> Result<(), Error> {
        self.volume.check_writable()?;
        self.drop_set_id_of(&self.volume.record(self.at), keep_set_id)
    }

    fn will_change(&self, keep_set_id: bool) -> Result<(), Error> {
        self.volume.check_writable()?;
        let record = self.volume.record(self.at);
        self.drop_set_id_of(&record, keep_set_id)?;
        self.volume.stamp_record(&record, true)
    }

    fn publish_size(&self, size: u64) -> Result<(), Error> {
        self.volume.env.moved(self.number.0);
        let durable = self.volume.fence()?;
        let high: [u8; 4] = self.volume.load(self.at + INODE_SIZE_HIGH)?;
        let [a, b, c, d, rest @ ..] = size.to_le_bytes();
        if rest == high {
            return self.volume.publish(&durable, self.at + INODE_SIZE, &[a, b, c, d]);
        }
        // The halves of the size do not lie together.
        let old = self.volume.raw_inode_at(self.at)?;
        let mut new = old;
        new.set_size(size);
        let mut intent = Intent::new();
        intent.inode(self.at, &old, &new)?;
        self.volume.apply(durable, &mut intent)
    }

    fn shrink(&self, size: u64) -> Result<(), Error> {
        self.cut(size)
    }

    fn free_pages(&self, first: PageIndex, count: u64) -> Result<(), Error> {
        self.free_range(first.0, first.0.saturating_add(count))
    }

    fn settle(&self) -> Result<(), Error> {
        self.volume.fence()?;
        Ok(())
    }

    fn free_from(&self, first: PageIndex) -> Result<(), Error> {
        self.free_range(first.0, u64::MAX)
    }

    /// What was written and the metadata were flushed as they were stored, when storage is persistent. Else the device may
    /// still have a way to keep things, and decides what that costs.
    fn sync(&self, _data_only: bool) -> Result<(), Error> {
        if self.volume.persistent { self.settle() } else { self.volume.sync() }
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

    fn fill(&self, index: PageIndex, want: u64, within: usize, from: &[u8]) -> Result<usize, Error> {
        let run = self.fill_hole(index, want, within, from)?;
        let room = run.count.saturating_mul(PAGE_SIZE as u64) - within as u64;
        Ok(from.len().min(usize::try_from(room).unwrap_or(usize::MAX)))
    }
}

impl<D: Device, E: Env> Blocks<'_, D, E> {
    #[inline]
    fn drop_set_id_of(&self, record: &Record<'_, D, E>, keep_set_id: bool) -> Result<(), Error> {
        let old = record.u16(INODE_MODE)?;
        // Contract 3, write.
        let new = without_set_id(old);
        if keep_set_id || new == old {
            return Ok(());
        }
        self.volume.put(self.at + INODE_MODE, &new.to_le_bytes())?;
        self.volume.fence()?;
        Ok(())
    }

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
        // Only volumes whose blocks are pages are written.
        match self.map(index, 1, Create::No)? {
            Extent::Storage(Run { first: PageNo(block), .. }) => {
                self.volume.put_data(block * PAGE_SIZE as u64 + within as u64, from)
            }
            Extent::Hole(_) => self.fill_hole(index, 1, within, from).map(drop),
        }
    }

    fn allocate_pages(&self, index: PageIndex, want: u64) -> Result<u64, Error> {
        match self.map(index, want, Create::Yes)? {
            Extent::Storage(run) => Ok(run.count.min(want)),
            Extent::Hole(_) => Err(xip_core::Error::Lost { index }.into()),
        }
    }

    fn pages_have_storage(&self, index: PageIndex, want: u64) -> Result<(bool, u64), Error> {
        // A page is data when one of its blocks is.
        let in_page = PAGE_SIZE as u64 / u64::from(self.volume.geometry.block_size);
        let first = PageIndex(index.0.saturating_mul(in_page));
        Ok(match self.map(first, want.saturating_mul(in_page), Create::No)? {
            Extent::Storage(run) => (true, run.count.div_ceil(in_page).min(want)),
            Extent::Hole(count) if count >= in_page => (false, (count / in_page).min(want)),
            Extent::Hole(_) => (true, 1),
        })
    }
}
