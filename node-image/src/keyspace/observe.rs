//! Showing the keyspace as it was at one moment, while it goes on to change.

use kv_core::slot::Slot;

use super::value::{Part, Value, Whereabouts};
use super::{Keyspace, Page};

/// Is told of changes before they happen.
pub trait WriteObserver: Send {
    /// An entry of this page is about to be added, changed or removed, and the observer has not seen the page yet.
    fn before_write(&mut self, db: usize, slot: Slot, page: &mut Page);

    /// Whole databases are about to be emptied or to change places.
    fn before_flush(&mut self, dbs: &[usize]);
}

impl Keyspace {
    /// Sets who is told of changes; returns who was until now. No page counts as seen by a new one.
    pub fn observe(&mut self, observer: Option<Box<dyn WriteObserver>>) -> Option<Box<dyn WriteObserver>> {
        if observer.is_some() {
            self.version = self.version.wrapping_add(1);
        }
        std::mem::replace(&mut self.observer, observer)
    }

    /// Shows a page to the observer's owner, unless that has seen it already. Returns whether there is such a page.
    pub fn visit_page(&mut self, db: usize, slot: Slot, page: usize, show: impl FnOnce(&mut Page)) -> bool {
        let version = self.version;
        let found = self.db_mut(db).and_then(|db| db.slot_mut(slot)?.page_mut(page));
        let Some(page) = found else { return false };
        if page.version != version {
            page.version = version;
            show(page);
        }
        true
    }

    /// Shows a bit more of a collection that is shown in parts. Returns whether there was something left to look at.
    pub fn show_more(&mut self, part: &Part) -> bool {
        match part.whereabouts() {
            Whereabouts::Key(db, key) => {
                let Some((address, place, _)) = self.locate(db, &key) else { return false };
                let table = self.db_mut(db).and_then(|db| db.slot_mut(address.slot));
                let page = table.and_then(|table| table.page_mut(place.page));
                page.and_then(|page| page.change_object(place.index, Value::show_more)) == Some(true)
            }
            Whereabouts::Removed(mut value) => {
                let more = value.show_more();
                if more && part.left() > 0 {
                    part.keep(value);
                } else {
                    self.freer.value(Some(value), true);
                }
                more
            }
        }
    }
}
