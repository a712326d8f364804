//! A volume as it will be when the record of a crash is completed ([`crate::intent`]): what is checked, so that names
//! that are under way are not taken for damage.

use crate::error::Error;
use crate::intent::Intent;
use crate::volume::Volume;
use xip_core::{Device, Frozen, PAGE_SIZE, Properties};

pub(super) struct Completed<'a, D> {
    device: &'a D,
    intent: Option<Intent>,
}

impl<'a, D: Device> Completed<'a, D> {
    pub(super) fn new(device: &'a D) -> Result<Self, Error> {
        let intent = match Volume::open(device, Frozen) {
            Ok(volume) if volume.geometry().block_size as usize == PAGE_SIZE => volume.pending_intent()?,
            // Something else stands in its place; or there is damage to be named.
            _ => None,
        };
        Ok(Self { device, intent })
    }

    pub(super) fn has_intent(&self) -> bool {
        self.intent.is_some()
    }
}

impl<D: Device> Device for Completed<'_, D> {
    fn pages(&self) -> u64 {
        self.device.pages()
    }

    fn properties(&self) -> Properties {
        Properties { not_in_place: Some("it is only checked"), ..self.device.properties() }
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), xip_core::Error> {
        self.device.read(at, to)?;
        let end = at.saturating_add(to.len() as u64);
        for (start, _, new) in self.intent.iter().flat_map(|intent| intent.stores().flatten()) {
            // The part that both have; addresses of stores are inside the volume.
            let (from, until) = (start.max(at), (start + new.len() as u64).min(end));
            for byte in from..until {
                // Both differences are less than a length in memory.
                if let (Ok(to_at), Ok(new_at)) = (usize::try_from(byte - at), usize::try_from(byte - start)) {
                    to[to_at] = new[new_at];
                }
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), xip_core::Error> {
        self.device.write(at, from)
    }

    fn flush(&self, at: u64, len: u64) -> Result<(), xip_core::Error> {
        self.device.flush(at, len)
    }

    fn fence(&self) -> Result<(), xip_core::Error> {
        self.device.fence()
    }
}
