//! An environment that remembers names. The fuzz targets use it too.
#![allow(dead_code)] // They do not ask what was answered.

use crate::NOW;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use xip_core::{Dentry, Env, LockId, Timestamp};

type Key = (u32, Vec<u8>);

/// Remembers all names, as long as it lets go of none.
#[derive(Debug, Default)]
pub struct Remembering {
    pub names: RefCell<HashMap<Key, Option<Dentry>>>,
    pub places: RefCell<HashMap<(u32, u32), u16>>,
    /// Answers that said where an entry stands, and that a name is not there.
    pub answered: [Cell<u32>; 2],
}

impl Env for Remembering {
    type Guard<'a> = ();
    fn now(&self) -> Timestamp {
        NOW
    }
    fn shared(&self, _: LockId) {}
    fn exclusive(&self, _: LockId) {}
    fn recall(&self, directory: u32, name: &[u8]) -> Option<Option<Dentry>> {
        let answer = self.names.borrow().get(&(directory, name.to_vec())).copied();
        match answer {
            Some(Some(Dentry { at: 1.., .. })) => self.answered[0].update(|count| count + 1),
            Some(None) => self.answered[1].update(|count| count + 1),
            _ => {}
        }
        answer
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
