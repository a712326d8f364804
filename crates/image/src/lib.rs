//! Images laid out for execution in place, built without root.
//!
//! [`Build`] makes an image of a directory; [`info`] says what is in one, and [`check()`] what is wrong with it.
//!
//! | module | what it knows |
//! |---|---|
//! | `source`, `directory`, `xattrs`, `pattern`, `owner` | what an image is made of |
//! | [`layout`], `size` | where everything is to stand, and how much room that takes: pure functions |
//! | `build`, `names`, `data` | the steps of a build; all that is written goes through `xip-ext2` |
//! | `output` | the image file while it has no name yet |
//! | `info` | an image that is there |
//! | `check` | what is wrong with one, and how it is repaired |
//! | `save` | a segment becomes an image file again |
//!
//! `docs/build.md` is the page for users.
#![forbid(unsafe_code)]

mod build;
mod check;
mod data;
mod directory;
mod error;
mod info;
pub mod layout;
mod names;
mod output;
mod owner;
mod pattern;
mod progress;
mod save;
mod size;
mod source;
mod xattrs;

pub use build::{Build, Summary};
pub use check::{check, check_device};
pub use directory::Directory;
pub use error::Error;
pub use info::{Density, Files, Info, Runs, Shape, info};
pub use owner::{IdRange, Owner};
pub use pattern::Pattern;
pub use progress::{Phase, Progress};
pub use save::save;
pub use source::{Attribute, Name, Node, NodeId, NodeKind, Note, Sink, Source, Tree};
