//! An environment that remembers every name and place that it is told, as that of the library does until it needs the room.

use crate::NOW;
use std::cell::RefCell;
use std::collections::HashMap;
use xip_core::{Dentry, Env, LockId, Timestamp};

/// For one thread.
#[derive(Debug, Default)]
pub struct Remembering {
    names: RefCell<HashMap<(u32, Vec<u8>), Option<Dentry>>>,
    places: RefCell<HashMap<(u32, u32), u16>>,
}

impl Env for Remembering {
    type Guard<'a> = ();

    fn now(&self) -> Timestamp {
        NOW
    }

    fn shared(&self, _: LockId) {}

    fn exclusive(&self, _: LockId) {}

    fn recall(&self, directory: u32, name: &[u8]) -> Option<Option<Dentry>> {
        self.names.borrow().get(&(directory, name.to_vec())).copied()
    }

    fn remember(&self, directory: u32, name: &[u8], what: Option<Dentry>) {
        self.names.borrow_mut().insert((directory, name.to_vec()), what);
    }

    fn forget(&self, directory: u32, name: &[u8]) {
        self.names.borrow_mut().remove(&(directory, name.to_vec()));
    }

    fn recall_place(&self, directory: u32, block: u32) -> Option<u16> {
        self.places.borrow().get(&(directory, block)).copied()
    }

    fn remember_place(&self, directory: u32, block: u32, at: Option<u16>) {
        let mut places = self.places.borrow_mut();
        match at {
            Some(at) => places.insert((directory, block), at),
            None => places.remove(&(directory, block)),
        };
    }
}
