//! What the fuzz targets do with an input. The targets themselves, in `targets/`, only hand it over.
//!
//! | module | what it knows |
//! |---|---|
//! | `disk` | memory that a volume is on, in place or through copies |
//! | `image` | an image as an input: written down short |
//! | `base` | images that inputs start from: one with something of everything, and that one after a crash |
//! | `walk` | everything that a volume says |
//! | `hostile` | the target: any bytes as an image |
//! | `model` | what a volume should hold |
//! | `change` | what changes bytes and storage of a file: on a volume, and in the model |
//! | `input` | what the bytes of an input of `operations` or `facade` stand for |
//! | `operations` | the target: any operations on a small volume |
//! | `facade` | the target: operations through the crate `xip`, with the reference of its own test |

#![forbid(unsafe_code)]

mod base;
mod change;
mod disk;
pub mod facade;
pub mod hostile;
pub mod image;
mod input;
mod model;
pub mod operations;
#[path = "../../crates/ext2/tests/support/remembering.rs"]
mod remembering;
mod walk;

use xip_core::Timestamp;

/// The only time there is.
const NOW: Timestamp = Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
