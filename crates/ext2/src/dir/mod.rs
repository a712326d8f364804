//! Names in directories.
use crate::Error;
use crate::inode::{InodeNo, Kind};
/// An entry.
#[derive(Debug)]
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: InodeNo,
    pub kind: Option<Kind>,
    pub next: u64,
}
pub(crate) trait DirBlocks {
    fn ino(&self) -> u32;
    fn block_size(&self) -> usize;
    fn count(&self) -> u32;
    fn read(&self, n: u32, to: &mut [u8; 4096]) -> Result<(), Error>;
    fn write(&mut self, n: u32, at: usize, bytes: &[u8]) -> Result<(), Error>;
    fn append(&mut self) -> Result<u32, Error>;
    fn indexed(&self) -> bool;
    fn set_indexed(&mut self, b: bool) -> Result<(), Error>;
    fn hash_seed(&self) -> [u32; 4];
    fn default_hash(&self) -> u8;
    fn unsigned_hash(&self) -> bool;
    fn max_inode(&self) -> u32;
    fn index_allowed(&self) -> bool;
}

fn ent(b: &mut [u8], at: usize, ino: u32, rec: usize, name: &[u8], t: u8) {
    b[at..at + 4].copy_from_slice(&ino.to_le_bytes());
    b[at + 4..at + 6].copy_from_slice(&(rec as u16).to_le_bytes());
    b[at + 6] = name.len() as u8;
    b[at + 7] = t;
    b[at + 8..at + 8 + name.len()].copy_from_slice(name);
}
fn need(n: usize) -> usize {
    (8 + n + 3) / 4 * 4
}
pub(crate) fn init(b: &mut impl DirBlocks, s: u32, p: u32) -> Result<(), Error> {
    let mut x = [0u8; 4096];
    let bs = b.block_size();
    ent(&mut x, 0, s, 12, b".", 2);
    ent(&mut x, 12, p, bs - 12, b"..", 2);
    let n = b.append()?;
    b.write(n, 0, &x[..bs])
}
pub(crate) fn lookup(b: &impl DirBlocks, n: &[u8]) -> Result<Option<(u32, u8)>, Error> {
    let mut r = None;
    iterate(b, 0, &mut |e| {
        if e.name == n {
            r = Some((e.ino.0, 0));
            false
        } else {
            true
        }
    })?;
    Ok(r)
}
pub(crate) fn iterate(b: &impl DirBlocks, _c: u64, f: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Error> {
    let mut x = [0u8; 4096];
    for k in 0..b.count() {
        b.read(k, &mut x)?;
        let mut at = 0;
        while at < b.block_size() {
            let ino = u32::from_le_bytes([x[at], x[at + 1], x[at + 2], x[at + 3]]);
            let rec = u16::from_le_bytes([x[at + 4], x[at + 5]]) as usize;
            let nl = x[at + 6] as usize;
            if rec < 8 {
                return Err(Error::NotFound);
            }
            if ino != 0
                && !f(DirEntry {
                    name: &x[at + 8..at + 8 + nl],
                    ino: InodeNo(ino),
                    kind: Kind::from_entry_type(x[at + 7]),
                    next: 0,
                })
            {
                return Ok(());
            }
            at += rec;
        }
    }
    Ok(())
}
pub(crate) fn insert(b: &mut impl DirBlocks, n: &[u8], i: u32, t: u8) -> Result<(), Error> {
    let mut x = [0u8; 4096];
    let bs = b.block_size();
    for k in 0..b.count() {
        b.read(k, &mut x)?;
        let mut at = 0;
        while at < bs {
            let rec = u16::from_le_bytes([x[at + 4], x[at + 5]]) as usize;
            let nl = x[at + 6] as usize;
            let used = need(nl);
            if rec >= used + need(n.len()) {
                let (a, bb) = (used, rec - used);
                x[at + 4..at + 6].copy_from_slice(&(a as u16).to_le_bytes());
                ent(&mut x, at + a, i, bb, n, t);
                return b.write(k, 0, &x[..bs]);
            }
            at += rec;
        }
    }
    let k = b.append()?;
    let mut x = [0u8; 4096];
    ent(&mut x, 0, i, bs, n, t);
    b.write(k, 0, &x[..bs])
}
pub(crate) fn check_new_name(n: &[u8]) -> Result<(), Error> {
    if n.is_empty() { Err(Error::InvalidName) } else { Ok(()) }
}
