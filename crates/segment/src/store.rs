//! The segments of a user, by name.
//!
//! Lock order: one name's lock at a time. Where a second name comes into it (a socket without a holder is found), its
//! lock is only tried, so nobody waits for a lock while holding one.

use crate::directory::{Directory, Lock, default_directory};
use crate::error::{Error, Result};
use crate::exclusive;
use crate::file::{Access, MappedFile};
use crate::holder::{self, Answer, Lease, Task};
use crate::load::{Check, Image, Progress};
use crate::memory::is_sealed;
use crate::name;
use crate::segment::{Info, Record, Segment, Stamp, VERSION, id_of};
use crate::stat;
use rustix::io::{Errno, Result as SysResult};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The segments in one directory.
#[derive(Debug)]
pub struct Store {
    pub(crate) directory: Directory,
    program: PathBuf,
    limit: u64,
    temporary: bool,
    replacing: bool,
    exclusive: bool,
}

/// How often is asked again when a newer generation took a name over meanwhile, which takes some microseconds each time.
const TRIES: usize = 5;

/// What [`Store::list`] gives.
#[derive(Debug, Default)]
pub struct Listing {
    /// The segments, by name.
    pub segments: Vec<Segment>,
    /// For each name whose holder could not be asked, why: worth a warning, and no reason to give up on the others.
    pub problems: Vec<Error>,
}

/// What [`Store::load`] gives.
#[derive(Debug)]
pub struct Loaded {
    /// The segment.
    pub segment: Segment,
    /// Whether it was there before.
    pub outcome: Outcome,
    /// The name that was asked for, or follows from the image's. Without a name given, the segment may have another: then
    /// it was in memory under that, and another image has this one.
    pub wanted: String,
    /// The name under which it was in memory, when this load gave it one more.
    pub also: Option<String>,
    /// What keeps its name, if this load gave it and the store's segments are [temporary](Store::temporary).
    pub lease: Option<Lease>,
    /// The generation that had the name until now.
    pub replaced: Option<Replaced>,
}

impl Loaded {
    fn same(segment: Segment, wanted: String) -> Self {
        Self { segment, outcome: Outcome::Same, wanted, also: None, lease: None, replaced: None }
    }
}

/// A generation whose name a newer one has.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Replaced {
    /// The name it has until its last user ends. `None`: nobody used it, and it is gone.
    pub kept_as: Option<String>,
}

/// Whether a load took memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The image was loaded.
    New,
    /// The image was in memory already: no second copy was made.
    Same,
}

impl Store {
    /// The segments of this user: in `$XIP_DIR`, or `$XDG_RUNTIME_DIR/xip`, `/run/user/UID/xip`, `/tmp/xip-UID`.
    ///
    /// # Errors
    /// The directory cannot be made, or others can write to it.
    pub fn open_default() -> Result<Self> {
        Self::open(default_directory())
    }

    /// The segments in a directory. It is made when it is not there.
    ///
    /// # Errors
    /// As [`Store::open_default`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = Directory::open(directory.as_ref())?;
        Ok(Self {
            directory,
            program: "/proc/self/exe".into(),
            limit: u64::MAX,
            temporary: false,
            replacing: false,
            exclusive: false,
        })
    }

    /// Starts `program` to keep new segments, not this program itself. It calls [`crate::holder::main_if_asked`].
    #[must_use]
    pub fn with_holder(self, program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), ..self }
    }

    /// Takes no more than `bytes` of memory for a new segment, even if more is free.
    #[must_use]
    pub fn with_memory_limit(self, bytes: u64) -> Self {
        Self { limit: bytes, ..self }
    }

    /// New segments go when the [`Lease`] that comes with them is dropped, or this process ends, however it does, and
    /// nobody uses them.
    #[must_use]
    pub fn temporary(self) -> Self {
        Self { temporary: true, ..self }
    }

    /// Loads an image under a name that has another image, too: as a newer generation, like that of a changed image.
    #[must_use]
    pub fn replacing(self) -> Self {
        Self { replacing: true, ..self }
    }

    /// New segments can be written: by one who has them to himself, or they are read by many. Such a segment is a copy of the image of
    /// its own, and has one name.
    #[must_use]
    pub fn exclusive(self) -> Self {
        Self { exclusive: true, ..self }
    }

    /// Where the segments are.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Brings an image into memory under a name: that of the image file, without its extension, if none is given
    /// (with `-` for every character that names cannot have, and at most 64).
    ///
    /// An image that is in memory already is not loaded again: under another name than it has there, this is one more name
    /// for the same memory. (Where no name was given and another image has the one that follows from the file's, the segment that
    /// has this image is the answer.) A [temporary](Store::temporary) segment that has the name stays from then on, unless this
    /// store's are temporary too. `check` looks into the image before it gets its name. Two who load one name at once wait for each
    /// other.
    ///
    /// When the image file has changed since a segment of this name was loaded from it, its new content is a newer generation: it
    /// takes the name over in one step, and stays as long as that was to stay. Whoever uses the older one goes on with it; until the
    /// last of them ends it is a segment of the name [`Replaced::kept_as`]. (Where there are other names for its memory, their users are
    /// among them.)
    ///
    /// # Errors
    /// The image cannot be read, is not whole pages, changed meanwhile, or `check` refused it; the name is not one or
    /// belongs to another image, and the store is not [replacing](Store::replacing), or to a segment while either of the two is
    /// [exclusive](Store::exclusive); memory is short, of which both generations need their own.
    pub fn load(&self, image: &Path, name: Option<&str>, progress: Progress<'_>, check: Check<'_>) -> Result<Loaded> {
        if holder::is_asked() {
            let why = "the program does not call xip_segment::holder::main_if_asked first thing in main".into();
            return Err(Error::Holder { name: name.unwrap_or_default().into(), program: self.program.clone(), why });
        }
        let image = Image::open(image)?;
        let wanted = match name {
            Some(name) => {
                name::check(name)?;
                name.to_owned()
            }
            None => name::from_image(&image.path),
        };
        let lock = self.directory.lock(&wanted)?;
        let here = self.find(&wanted, Some(&lock))?;
        let exclusive = || Error::Exclusive { name: wanted.clone(), image: image.path.clone() };
        if here.is_some() && self.exclusive {
            return Err(exclusive());
        }
        // One that can be written has its name to itself, and is no copy of an image.
        let is_exclusive = here.as_ref().is_some_and(|segment| segment.info().exclusive);
        let here = here.filter(|_| !is_exclusive);
        // A quick answer first: the file has not changed since it was loaded. The hash is the judge otherwise.
        let known = |segment: &Segment| segment.stamp() == Some(image.stamp);
        let enough = self.exclusive || here.as_ref().is_some_and(known);
        let mut alike = if enough { Vec::new() } else { self.list()?.segments };
        alike.retain(|segment| segment.info().size == image.size && !segment.info().exclusive);
        // Those that are to stay first.
        alike.sort_by_key(|segment| segment.info().replaced);
        let content = match here.iter().chain(&alike).find(|segment| known(segment)) {
            Some(segment) => Some(segment.info().content.clone()),
            None if alike.is_empty() => None,
            None => Some(image.hash(progress)?),
        };
        let is_it = |segment: &Segment| Some(&segment.info().content) == content.as_ref();
        let other = here.as_ref().filter(|segment| !is_it(segment));
        let other = other.map(|segment| (segment.info().image.clone(), segment.is_temporary()));
        // Drops the one that has the name: it is not in use by us.
        let same = here.into_iter().chain(alike).find(is_it);
        let mut place = Place { lock: &lock, temporary: self.temporary, over: None };
        match other {
            None if !is_exclusive => {}
            Some((other, temporary)) if self.replacing || other == image.path => {
                place.temporary &= temporary;
                place.over = Some(name::replaced(&wanted, &self.directory.names()?));
            }
            other => {
                return match (same, other) {
                    // This one may be there under another name.
                    (Some(segment), _) if name.is_none() && !segment.info().replaced => {
                        Ok(Loaded::same(segment, wanted))
                    }
                    (_, Some((other, _))) => Err(Error::NameTaken { name: wanted, other }),
                    (_, None) => Err(exclusive()),
                };
            }
        }
        let mut info = Info {
            name: wanted.clone(),
            image: image.path.to_string_lossy().into_owned().into(),
            size: image.size,
            content: String::new(),
            created: 0,
            holder: 0,
            replaced: false,
            exclusive: self.exclusive,
        };
        if let Some(segment) = same {
            let mut also = Some(segment.name().to_owned()).filter(|name| *name != wanted);
            if also.is_none() && self.stays(&segment, &lock)? {
                return Ok(Loaded::same(segment, wanted));
            }
            // One more name for the same memory, which is there as long as we have it, whatever its holder does.
            info = Info { name: info.name, image: info.image, replaced: false, ..segment.info().clone() };
            let lease = self.publish(&place, segment.fd(), info, None)?;
            // An older generation that has come back has its own name again.
            if let Some(older) = also.take_if(|also| name::given(also) == wanted) {
                let _ = holder::quit(&self.directory, &older);
            }
            let replaced = self.replaced(&place);
            return Ok(Loaded { lease, also, replaced, ..Loaded::same(self.get(&wanted)?, wanted) });
        }
        let (memory, content) = image.fill(&info.name, self.exclusive, self.limit, progress)?;
        info.content = content;
        info.created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let stamp = Some(image.stamp).filter(|stamp| stamp.is_settled(info.created));
        let device = MappedFile::open(memory, Access::ReadOnly)?;
        check(&device).map_err(|why| Error::Refused { image: image.path.clone(), why })?;
        let lease = self.publish(&place, device.fd(), info, stamp)?;
        let replaced = self.replaced(&place);
        Ok(Loaded { outcome: Outcome::New, lease, replaced, ..Loaded::same(self.get(&wanted)?, wanted) })
    }

    /// The segment of that name.
    ///
    /// # Errors
    /// There is none; its holder does not answer.
    pub fn get(&self, name: &str) -> Result<Segment> {
        name::check_any(name)?;
        for _ in 0..TRIES {
            match self.find(name, None)? {
                Some(segment) if segment.name() == name => return Ok(segment),
                Some(_) => {}
                None => break,
            }
        }
        Err(Error::NoSegment { name: name.into(), directory: self.directory.path().into() })
    }

    /// All segments. Holders that do not answer take 2 seconds, however many they are.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Listing> {
        let mut tries = 1;
        loop {
            let (listing, moved) = self.list_once()?;
            if !moved || tries == TRIES {
                return Ok(listing);
            }
            tries += 1;
        }
    }

    /// All segments, and whether a name was found to be another generation's than that which was asked.
    fn list_once(&self) -> Result<(Listing, bool)> {
        let names = self.directory.names()?;
        let answers = holder::ask_all(&self.directory, &names, holder::GET);
        let mut listing = Listing::default();
        let mut moved = false;
        for (name, answer) in names.iter().zip(answers) {
            match self.answered(name, answer, None).and_then(|answer| segment(name, answer)) {
                Ok(segment) => {
                    moved |= segment.as_ref().is_some_and(|segment| segment.name() != name);
                    listing.segments.extend(segment);
                }
                Err(problem) => listing.problems.push(problem),
            }
        }
        Ok((listing, moved))
    }

    /// Takes a segment away. Its memory is free when its last user ends; so, unless `force` is given, one that has users
    /// is left alone, if this is the memory's only name, and so is an exclusive one whose image does not have what is in it. Users
    /// keep every byte in any case.
    ///
    /// # Errors
    /// There is none; it is in use, or not saved; its holder does not answer and `force` is not given.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        name::check_any(name)?;
        let lock = self.directory.lock(name)?;
        // What the holder says of the segment does not matter, so that those of other versions can go too.
        let (header, memory) = match self.ask(name, Some(&lock)) {
            Ok(Some((header, mut fds))) => (header, fds.pop()),
            Ok(None) => {
                return Err(Error::NoSegment { name: name.into(), directory: self.directory.path().into() });
            }
            // The holder ends when it finds that its name is gone.
            Err(Error::Silent { .. }) if force => return self.directory.unlink(name),
            Err(error) => return Err(error),
        };
        // Nobody opens it between the look at it and the end of its name.
        let alone = match memory {
            Some(memory) if !is_sealed(&memory) => exclusive::last_look(name, &header, memory, force)?,
            Some(memory) if !force => {
                let users = stat::users(&memory, None);
                if !users.is_empty() && self.names_of(id_of(&memory))?.iter().all(|other| other == name) {
                    return Err(Error::InUse { name: name.into(), users });
                }
                None
            }
            None if !force => return Err(Error::Silent { name: name.into(), why: "it sent no descriptor".into() }),
            _ => None,
        };
        let gone = match holder::quit(&self.directory, name) {
            Ok(()) => Ok(()),
            Err(Errno::CONNREFUSED | Errno::NOENT | Errno::CONNRESET) => self.directory.unlink(name),
            Err(errno) if !force => Err(Error::Silent { name: name.into(), why: errno.to_string() }),
            Err(_) => self.directory.unlink(name),
        };
        if let (Ok(()), Some(alone)) = (&gone, &alone) {
            Segment::retire(alone);
        }
        gone
    }

    /// The names of a memory: see [`Segment::id`].
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn names_of(&self, id: (u64, u64)) -> Result<Vec<String>> {
        let segments = self.list()?.segments.into_iter();
        Ok(segments.filter(|segment| segment.id() == id).map(|segment| segment.name().to_owned()).collect())
    }

    /// Gives a memory a name. The lease is there if it is a temporary one.
    fn publish(
        &self,
        place: &Place<'_>,
        memory: BorrowedFd<'_>,
        info: Info,
        stamp: Option<Stamp>,
    ) -> Result<Option<Lease>> {
        let temporary = place.temporary;
        let record = Record { version: VERSION, info, stamp, temporary, loader: std::process::id() };
        let task = Task { record, over: place.over.clone() };
        let lease = holder::start(&self.program, &self.directory, place.lock.fd(), memory, &task)?;
        Ok(temporary.then_some(lease))
    }

    /// What became of the generation that had this place. Its holder would notice by itself, after some seconds.
    fn replaced(&self, place: &Place<'_>) -> Option<Replaced> {
        let name = place.over.as_ref()?;
        let _ = holder::ask(&self.directory, name, holder::LOOK);
        let gone = matches!(self.find(name, Some(place.lock)), Ok(None));
        Some(Replaced { kept_as: Some(name.clone()).filter(|_| !gone) })
    }

    /// Whether a segment that is there will be as long as this store's are: if these are to stay, so is it from now on. If not,
    /// it went meanwhile.
    fn stays(&self, segment: &Segment, lock: &Lock<'_>) -> Result<bool> {
        if self.temporary || !segment.is_temporary() {
            return Ok(true);
        }
        let answer = holder::ask(&self.directory, segment.name(), holder::KEEP);
        Ok(self.answered(segment.name(), answer, Some(lock))?.is_some())
    }

    /// The segment of that name, if there is one. A socket that has lost its holder is cleared away.
    fn find(&self, name: &str, lock: Option<&Lock<'_>>) -> Result<Option<Segment>> {
        segment(name, self.ask(name, lock)?)
    }

    /// The answer of its holder, if it has one.
    fn ask(&self, name: &str, lock: Option<&Lock<'_>>) -> Result<Option<Answer>> {
        self.answered(name, holder::ask(&self.directory, name, holder::GET), lock)
    }

    fn answered(&self, name: &str, answer: SysResult<Answer>, lock: Option<&Lock<'_>>) -> Result<Option<Answer>> {
        let silent = |why: String| Error::Silent { name: name.into(), why };
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Errno::NOENT) => Ok(None),
            // CONNRESET, PIPE: it ended just now.
            Err(Errno::CONNREFUSED | Errno::CONNRESET | Errno::PIPE) => {
                let held = if lock.is_some() { None } else { self.directory.try_lock(name)? };
                // Under the lock nobody gives the name to a new holder.
                if lock.is_some() || held.is_some() {
                    let again = holder::ask(&self.directory, name, holder::GET);
                    if again.is_err_and(|errno| errno == Errno::CONNREFUSED) {
                        self.directory.unlink(name)?;
                    }
                }
                Ok(None)
            }
            Err(Errno::AGAIN) => Err(silent("no answer for 2 seconds".into())),
            Err(errno) => Err(silent(errno.to_string())),
        }
    }
}

/// Where a memory gets its name.
struct Place<'a> {
    /// The name's.
    lock: &'a Lock<'a>,
    temporary: bool,
    /// The name that is left to whoever has it now.
    over: Option<String>,
}

fn segment(name: &str, answer: Option<Answer>) -> Result<Option<Segment>> {
    answer.map(|(header, mut fds)| Segment::new(name, &header, fds.pop())).transpose()
}
