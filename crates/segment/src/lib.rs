//! Segments: images held once in shared memory, and who shares them.
//!
//! Two questions are answered here: *where do the bytes live*, and *who else has them*.
//!
//! * [`Memory`], [`MappedFile`] and [`PlainFile`] are devices: storage of this process, of a file or shared-memory
//!   object mapped into it, and of a file that is only read and written.
//!
//! `docs/segments.md` is the page for users.
#![deny(unsafe_code)]

mod error;
mod file;
mod memory;
mod plain;

pub use error::{Error, Result};
pub use file::{Access, MappedFile};
pub use memory::Memory;
pub use plain::PlainFile;
