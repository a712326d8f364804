//! A volume and the reference side by side: each operation is done to both, and they must agree. What is done is decided by the
//! test here, and by the fuzz target `facade` (`fuzz/src/facade.rs`).

use super::judge::{Judged, agree, both, compare, is_full, same, wrote};
use super::op::{ATTRIBUTES, Op, PATHS, SLOTS, filled};
use super::reference::{FileModel, Id, MapModel, Model, Node, PAGE, TARGET};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xip::aio::{Aio, Operation};
use xip::{File, InodeNo, Map, OpenOptions, PageIndex, Placed, Rename, Sharing, Volume};
use xip_segment::{Access, PlainFile};

struct Opened {
    id: Id,
    append: bool,
    file: Arc<File>,
}

struct Mapped {
    id: Id,
    shown: MapModel,
    sharing: Sharing,
    map: Map,
    ino: InodeNo,
    /// Pages of the volume that it showed when it was used last: pinned (contract 6).
    pinned: Vec<u64>,
}

impl Mapped {
    /// After it was used.
    fn look(&mut self, volume: &Volume) -> Judged {
        let (first, pages) = (PageIndex(self.shown.first as u64), self.shown.pages as u64);
        let placed = volume.inodes().file(self.ino)?.layout(first, pages)?;
        self.pinned =
            placed.iter().flat_map(|placed| placed.run.first.0..placed.run.first.0 + placed.run.count).collect();
        Ok(())
    }
}

/// Where the volume is, and how it is opened.
pub struct Place {
    pub image: PathBuf,
    /// For what a killed program leaves.
    pub spare: PathBuf,
    pub in_place: bool,
    /// Judges a volume that was closed.
    pub judge: fn(&Path),
}

impl Place {
    fn open(&self, image: &Path, access: Access) -> xip::Result<Volume> {
        let write = access == Access::ReadWrite;
        match (self.in_place, write) {
            (true, true) => return Volume::open_writable(image),
            (true, false) => return Volume::open(image),
            _ => {}
        }
        let plain = PlainFile::open(std::fs::File::options().read(true).write(write).open(image)?, access)?;
        if write { Volume::writable(plain) } else { Volume::from_device(plain) }
    }
}

pub struct World {
    place: Place,
    model: Model,
    // In the order in which they go.
    maps: [Option<Mapped>; SLOTS],
    open: [Option<Opened>; SLOTS],
    aio: Option<Aio>,
    /// `None` only while it is opened again.
    volume: Option<Volume>,
}

impl World {
    pub fn new(place: Place) -> Judged<Self> {
        let volume = Some(place.open(&place.image, Access::ReadWrite)?);
        Ok(Self { place, model: Model::new(), maps: [const { None }; _], open: [const { None }; _], aio: None, volume })
    }

    pub fn apply(&mut self, op: &Op) -> Judged {
        let (Some(volume), model) = (&self.volume, &mut self.model) else { return Ok(()) };
        match *op {
            Op::Create(path) => {
                let made = OpenOptions::new().write(true).create_new(true).open(volume, PATHS[path]);
                both(volume, made, || model.make(PATHS[path], Node::File(FileModel::default())))
            }
            Op::Mkdir(path) => both(volume, volume.create_dir(PATHS[path]), || {
                model.make(PATHS[path], Node::Directory(BTreeMap::new()))
            }),
            Op::Symlink(path) => {
                both(volume, volume.symlink(TARGET, PATHS[path]), || model.make(PATHS[path], Node::Symlink))
            }
            Op::Link(from, to) => {
                both(volume, volume.hard_link(PATHS[from], PATHS[to]), || model.link(PATHS[from], PATHS[to]))
            }
            Op::Unlink(path) => agree(volume.remove_file(PATHS[path]), model.remove(PATHS[path], false)),
            Op::Rmdir(path) => agree(volume.remove_dir(PATHS[path]), model.remove(PATHS[path], true)),
            Op::RemoveAll(path) => agree(volume.remove_dir_all(PATHS[path]), model.remove_all(PATHS[path])),
            Op::Rename(from, to, how) => {
                let (from, to) = (PATHS[from], PATHS[to]);
                let (moved, how) = match how {
                    0 => (volume.rename(from, to), Rename::Replace),
                    1 => (volume.rename_no_replace(from, to), Rename::NoReplace),
                    _ => (volume.exchange(from, to), Rename::Exchange),
                };
                both(volume, moved, || model.rename(from, to, how))
            }
            Op::SetAttribute(path, name, len) => {
                let value = filled(len, name as u8);
                both(volume, volume.set_xattr(PATHS[path], ATTRIBUTES[name], &value), || {
                    let id = model.find(PATHS[path]);
                    id.map(|id| model.attributes[id].insert(ATTRIBUTES[name].into(), value)).is_some()
                })
            }
            Op::RemoveAttribute(path, name) => both(volume, volume.remove_xattr(PATHS[path], ATTRIBUTES[name]), || {
                let id = model.find(PATHS[path]);
                id.is_some_and(|id| model.attributes[id].remove(ATTRIBUTES[name]).is_some())
            }),
            Op::Open(slot, path, how) => {
                let [append, create, truncate] = [1, 2, 4].map(|bit| how & bit != 0);
                let truncate = truncate && !append;
                let mut options = OpenOptions::new();
                options.read(true).write(true).append(append).create(create).truncate(truncate);
                let opened = options.open(volume, PATHS[path]);
                if is_full(volume, &opened)? {
                    return Ok(());
                }
                if create && model.find(PATHS[path]).is_none() {
                    model.make(PATHS[path], Node::File(FileModel::default()));
                }
                match (opened, model.open(PATHS[path])) {
                    (Ok(file), Some(id)) => {
                        let model = model.file(id);
                        model.truncate(if truncate { 0 } else { model.size });
                        assert_eq!(file.len(), model.size as u64);
                        self.open[slot] = Some(Opened { id, append, file: Arc::new(file) });
                        Ok(())
                    }
                    (opened, id) => agree(opened, id.is_some()),
                }
            }
            Op::OpenUnnamed(slot, path) => {
                let opened = OpenOptions::new().read(true).write(true).open_unnamed(volume, PATHS[path]);
                if is_full(volume, &opened)? {
                    return Ok(());
                }
                match (opened, model.make_unnamed(PATHS[path])) {
                    (Ok(file), Some(id)) => {
                        self.open[slot] = Some(Opened { id, append: false, file: Arc::new(file) });
                        Ok(())
                    }
                    (opened, id) => agree(opened, id.is_some()),
                }
            }
            Op::LinkOpen(slot, path) => {
                let Some(Opened { id, file, .. }) = &self.open[slot] else { return Ok(()) };
                both(volume, file.link(PATHS[path]), || model.link_open(*id, PATHS[path]))
            }
            Op::Close(slot) => {
                self.open[slot] = None;
                Ok(())
            }
            Op::Unmap(slot) => {
                self.maps[slot] = None;
                Ok(())
            }
            Op::MapRead(slot, at, len) => {
                let Some(mapped) = &mut self.maps[slot] else { return Ok(()) };
                let mut to = vec![0xee; len];
                let read = mapped.map.read(at, &mut to);
                mapped.look(volume)?;
                let expected = mapped.shown.range(model.file(mapped.id), at, len);
                if let Some(expected) = &expected {
                    assert!(read.is_err() || to == *expected, "what a map shows");
                }
                agree(read, expected.is_some())
            }
            Op::MapWrite(slot, at, len, byte) => {
                let Some(mapped) = &mut self.maps[slot] else { return Ok(()) };
                let bytes = filled(len, byte);
                let written = mapped.map.write(at, &bytes);
                let file = model.file(mapped.id);
                if is_full(volume, &written)? {
                    // Storage that holes got before space gave out is not in the map.
                    mapped.pinned.clear();
                    file.vague = true;
                    return Ok(());
                }
                if mapped.sharing != Sharing::Read {
                    mapped.look(volume)?;
                }
                agree(written, mapped.sharing != Sharing::Read && mapped.shown.write(file, at, &bytes))
            }
            Op::MapTail(slot, byte) => {
                let Some(Mapped { id, shown, .. }) = &self.maps[slot] else { return Ok(()) };
                let file = model.file(*id);
                let (at, left) = (file.size.checked_sub(shown.first * PAGE), file.pages.len() - file.size);
                at.map_or(Ok(()), |at| self.apply(&Op::MapWrite(slot, at, left.min(100), byte)))
            }
            Op::Kill => self.kill(),
            Op::Reopen => self.reopen(),
            _ => self.apply_to_file(op),
        }
    }

    fn apply_to_file(&mut self, op: &Op) -> Judged {
        let (Op::Write(slot, ..)
        | Op::Writev(slot, ..)
        | Op::Stream(slot, ..)
        | Op::Aio(slot, ..)
        | Op::Read(slot, ..)
        | Op::Readv(slot, ..)
        | Op::Seek(slot, ..)
        | Op::Truncate(slot, ..)
        | Op::Punch(slot, ..)
        | Op::Allocate(slot, ..)
        | Op::Sync(slot)
        | Op::Map(slot, ..)) = *op
        else {
            return Ok(());
        };
        let Some(Opened { id, append, file }) = &self.open[slot] else { return Ok(()) };
        let model = self.model.file(*id);
        let end = |model: &FileModel, at| if *append { model.size } else { at };
        match op {
            Op::Write(_, at, len, byte) => {
                let bytes = filled(*len, *byte);
                wrote(file, model, end(model, *at), &bytes, file.write_at(&bytes, *at as u64))?;
            }
            Op::Writev(_, at, lens, byte) => {
                let bytes = filled(lens.iter().sum(), *byte);
                let mut rest = &bytes[..];
                let parts: Vec<_> = lens.iter().map(|&len| rest.split_off(..len).unwrap()).collect();
                wrote(file, model, end(model, *at), &bytes, file.writev_at(&parts, *at as u64))?;
            }
            Op::Stream(_, at, len, byte) => {
                let (bytes, mut stream, from) = (filled(*len, *byte), &**file, end(model, *at));
                stream.seek(SeekFrom::Start(*at as u64))?;
                let written = stream.write(&bytes).map_err(xip::Error::from);
                let done = wrote(file, model, from, &bytes, written)?;
                // Nothing written leaves it, also where it would be at the end.
                let position = done.filter(|done| *done > 0).map_or(*at, |done| from + done);
                assert_eq!(stream.stream_position()?, position as u64, "the position");
                stream.seek(SeekFrom::Start(*at as u64))?;
                let mut to = vec![0xee; *len];
                let count = stream.read(&mut to)?;
                assert!(to[..count] == *model.range(*at, *len), "what is read from a stream");
            }
            Op::Aio(_, at, len, byte) => {
                let aio = match &mut self.aio {
                    Some(aio) => aio,
                    none => none.insert(Aio::new(1, 2)?),
                };
                let bytes = filled(*len, *byte);
                let written = aio.start(file, Operation::write(*at as u64, bytes.clone()))?.wait().result;
                wrote(file, model, end(model, *at), &bytes, written)?;
                aio.submit(7, file, Operation::read(*at as u64, bytes))?;
                for done in aio.reap(1) {
                    assert!(done.buffers[0][..done.result?] == *model.range(*at, *len), "what is read elsewhere");
                }
            }
            Op::Read(_, at, len) => {
                let mut to = vec![0xee; *len];
                let count = file.read_at(&mut to, *at as u64)?;
                assert!(to[..count] == *model.range(*at, *len), "what is read");
                assert!(to[count..].iter().all(|&byte| byte == 0xee), "not a byte more");
            }
            Op::Readv(_, at, lens) => {
                let mut parts: Vec<_> = lens.iter().map(|&len| vec![0xee; len]).collect();
                let mut to: Vec<_> = parts.iter_mut().map(|part| &mut part[..]).collect();
                let count = file.readv_at(&mut to, *at as u64)?;
                assert!(parts.concat()[..count] == *model.range(*at, lens.iter().sum()), "what is read in parts");
            }
            Op::Seek(_, at) if !model.vague => {
                let found = [file.seek_data(*at as u64)?, file.seek_hole(*at as u64)?];
                assert_eq!(found, [true, false].map(|data| model.seek(*at, data)), "storage and holes from {at}");
            }
            Op::Truncate(_, size) => {
                file.set_len(*size as u64)?;
                model.truncate(*size);
            }
            Op::Punch(_, at, len) => return agree(file.punch_hole(*at as u64, *len as u64), model.punch(*at, *len)),
            Op::Allocate(_, at, len, keep, zero) => {
                let how = if *zero { File::zero_range } else { File::allocate };
                let done = how(file, *at as u64, *len as u64, *keep);
                if is_full(file.volume(), &done)? {
                    model.zero(*at, if *zero { at + len } else { 0 });
                    model.failed(file.tail_is_zero().unwrap_or(true));
                    model.vague = true;
                } else {
                    agree(done, model.allocate(*at, *len, *keep, *zero))?;
                }
            }
            Op::Sync(_) => {
                file.sync_all()?;
                file.sync_data()?;
                self.maps[slot].as_ref().map_or(Ok(()), |mapped| mapped.map.sync())?;
                file.volume().sync()?;
            }
            Op::Map(_, first, pages, how) => {
                let sharing = [Sharing::Read, Sharing::Write, Sharing::Private][usize::from(*how)];
                match file.map((*first * PAGE) as u64, pages * PAGE, sharing) {
                    Ok(map) if file.in_place() => {
                        let private = sharing == Sharing::Private;
                        let shown = MapModel { first: *first, pages: *pages, private, own: BTreeMap::new() };
                        let mut mapped = Mapped { id: *id, shown, sharing, map, ino: file.ino(), pinned: Vec::new() };
                        mapped.look(file.volume())?;
                        self.maps[slot] = Some(mapped);
                    }
                    other => return agree(other, file.in_place()),
                }
            }
            _ => {}
        }
        if !file.in_place() {
            return Ok(());
        }
        // What a map shows is reused by no other file, whatever became of its own.
        let others = || self.maps.iter().flatten().filter(|mapped| mapped.id != *id);
        for Placed { run, .. } in file.extents()? {
            let taken = run.first.0..run.first.0 + run.count;
            assert!(!others().any(|other| other.pinned.iter().any(|page| taken.contains(page))), "{run:?} is pinned");
        }
        Ok(())
    }

    /// Everything that is open.
    fn compare_open(&self) -> Judged {
        for Opened { id, file, .. } in self.open.iter().flatten() {
            let Node::File(model) = &self.model.nodes[*id] else { return Err("what is open is a file".into()) };
            same(file, model)?;
        }
        Ok(())
    }

    /// What a finished call did is there, and all else is repaired (contract 7).
    fn kill(&mut self) -> Judged {
        let Place { image, spare, judge, .. } = &self.place;
        std::fs::copy(image, spare)?;
        let volume = self.place.open(spare, Access::ReadWrite)?;
        compare(&volume, &self.model)?;
        volume.close()?;
        judge(spare);
        Ok(())
    }

    /// All is compared, closed, judged, opened to be read and to be written, and compared again.
    pub fn reopen(&mut self) -> Judged {
        self.compare_open()?;
        (self.maps, self.open, self.aio) = ([const { None }; _], [const { None }; _], None);
        let Some(volume) = self.volume.take() else { return Ok(()) };
        compare(&volume, &self.model)?;
        volume.close()?;
        (self.place.judge)(&self.place.image);
        compare(&self.place.open(&self.place.image, Access::ReadOnly)?, &self.model)?;
        let volume = self.volume.insert(self.place.open(&self.place.image, Access::ReadWrite)?);
        compare(volume, &self.model)
    }

    /// The end of a case.
    pub fn close(mut self) -> Judged {
        self.reopen()?;
        Ok(self.volume.take().map_or(Ok(()), Volume::close)?)
    }
}
