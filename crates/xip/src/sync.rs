//! The locks of what threads share here, by one name, so that a test can put in their place those of a tool that tries the
//! orders in which threads can run (`tests/interleavings.rs`).

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
