//! Segments: images held once in shared memory, and who shares them.
//!
//! Two questions are answered here: *where do the bytes live*, and *who else has them*.
//!
//! * [`Memory`], [`MappedFile`] and [`PlainFile`] are devices: storage of this process, of a file or shared-memory
//!   object mapped into it, and of a file that is only read and written.
//! * A [`Window`] is address space in which runs of such storage stand in the order of a file.
//! * A [`Store`] is a user's segments by name: [`Store::load`] brings an image into memory that nobody can write or
//!   shrink, [`Store::get`] gives it to whoever the directory allows, and [`holder`] says what keeps it there.
//! * [`lock`] sees to it that one writes an image, or many read it, and names whoever has it.
//! * [`Segment::stat`] tells who shares a segment, and what that saves, in the kernel's figures.
//!
//! `docs/segments.md` is the page for users.
#![deny(unsafe_code)]

mod directory;
mod error;
mod exclusive;
mod file;
pub mod holder;
mod load;
mod lock;
mod memory;
mod name;
pub mod nvdimm;
mod plain;
mod proc;
mod segment;
mod space;
pub mod stat;
mod store;
mod wire;

pub use directory::default_directory;
pub use error::{Error, Result};
pub use file::{Access, MappedFile};
pub use holder::Lease;
pub use load::{Check, Progress};
pub use lock::{lock, open_locked};
pub use memory::window::{Part, Sharing, Window};
pub use memory::{Memory, is_sealed};
pub use plain::PlainFile;
pub use segment::{Info, Segment};
pub use stat::Stat;
pub use store::{Listing, Loaded, Outcome, Replaced, Store};
