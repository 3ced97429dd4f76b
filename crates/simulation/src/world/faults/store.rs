//! What happens to the schedulers' database.

use crate::store::Health;
use crate::trap::Trap;
use crate::world::World;

use super::Fault;

impl World {
    pub(super) fn strike_store(&mut self, fault: Fault) {
        let until = self.a_while();
        match fault {
            Fault::StoreOldCopy | Fault::StoreLost => {
                // Nobody exchanges the database below a scheduler that runs. A copy does not know what was assigned after it
                // was made: whoever restores one waits until the leases of that time have ended.
                let is_hasty = fault == Fault::StoreLost || self.has_trap(Trap::HastyRestore);
                for id in self.scheduler_ids() {
                    if !is_hasty {
                        self.host_mut(id).not_before = self.now + self.longest_lease(id);
                    }
                    self.scheduler_dies(id);
                    self.start_scheduler_in(id, until.since(self.now));
                }
                let is_other = fault == Fault::StoreOldCopy && self.store.put_back();
                if fault == Fault::StoreLost {
                    self.store.lose();
                }
                if is_other || fault == Fault::StoreLost {
                    self.checker.counts_again = true;
                    self.checker.data.doubt(self.message_node.all());
                }
            }
            Fault::StoreUnreadable => {
                // Another version of the scheduler starts, say, which reads less than the one before wrote.
                for id in self.scheduler_ids() {
                    self.scheduler_dies(id);
                    self.start_scheduler_in(id, until.since(self.now));
                }
                let unreadable: Vec<_> = self.message_node.all().filter(|_| self.chance.percent(50)).collect();
                self.store.make_unreadable(&unreadable);
            }
            _ => {
                let slow = self.chance.millis(100, 3000);
                self.store.health = match fault {
                    Fault::StoreRefuses => Health::Refuses,
                    Fault::StoreSlow => Health::Slow(slow),
                    _ => Health::FailsOver,
                };
                self.store.well_at = until;
            }
        }
    }

    /// Whether the store's trouble is over.
    pub(in crate::world) fn store_recovers(&mut self) {
        if self.store.well_at <= self.now {
            self.store.health = Health::Well;
        }
    }
}
