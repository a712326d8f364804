//! Symbolic links: a short target stands in the inode, a longer one in a block.

use crate::error::Error;
use crate::inode::{InodeNo, Kind};
use crate::raw::{INODE_BLOCKS, INODE_BLOCKS_LEN};
use crate::volume::Volume;
use xip_core::{Create, Device, Env, Extent, LockId, PageIndex};

/// Bytes of a target that fit into the inode: one of the 60 is kept for the zero that ends it. A target of so many stands there, as ext4
/// and e2fsck have it. Linux's ext2 asks whether the inode counts blocks, which a crash may leave too high: the target would be taken for
/// pointers then.
pub(crate) const FAST: usize = INODE_BLOCKS_LEN - 1;

impl<D: Device, E: Env> Volume<D, E> {
    /// Copies the target of a symbolic link into `to`; how many bytes: what fits.
    ///
    /// # Errors
    /// [`Error::WrongKind`] for anything else; [`Error::Corrupt`] for a target longer than a block.
    pub fn read_link(&self, number: InodeNo, to: &mut [u8]) -> Result<usize, Error> {
        let _guard = self.env.shared(LockId::Inode(number.0));
        let node = self.node(number)?;
        if node.kind != Kind::Symlink {
            return Err(Error::WrongKind);
        }
        let corrupt = |what| Error::Corrupt { what, inode: number.0, at: node.size };
        let len = usize::try_from(node.size).map_err(|_| corrupt("a target longer than a block"))?;
        if len >= self.geometry.block_size as usize {
            return Err(corrupt("a target longer than a block"));
        }
        if len == 0 {
            return Err(corrupt("an empty target"));
        }
        let count = len.min(to.len());
        if len <= FAST {
            let raw = self.raw_inode_at(node.at)?;
            to[..count].copy_from_slice(&raw.0[INODE_BLOCKS..INODE_BLOCKS + count]);
        } else {
            match self.blocks(number, node.at).map(PageIndex(0), 1, Create::No)? {
                Extent::Storage(run) => {
                    self.device.read(run.first.0 * u64::from(self.geometry.block_size), &mut to[..count])?
                }
                Extent::Hole(_) => return Err(corrupt("a target without storage")),
            }
        }
        Ok(count)
    }
}
