//! Numbers that sandboxes of this machine must not share: each gets a slot, and with it user ids and addresses of its own.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use ipnet::Ipv4Net;
use sandbox::container::IDS_PER_CONTAINER;

/// The slots of this node.
#[derive(Debug)]
pub(crate) struct Slots {
    first_uid: u32,
    network: Ipv4Net,
    count: u32,
    taken: Mutex<BTreeSet<u32>>,
}

/// A taken slot, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u32,
    slots: Arc<Slots>,
}

impl Slots {
    /// As many slots as ids, addresses and `wanted` allow.
    pub(crate) fn new(first_uid: u32, network: Ipv4Net, wanted: u32) -> Arc<Self> {
        let by_ids = (u32::MAX - first_uid) / IDS_PER_CONTAINER;
        let by_addresses = 1_u32.checked_shl(30 - u32::from(network.prefix_len()).min(30)).unwrap_or(u32::MAX);
        let count = wanted.min(by_ids).min(by_addresses);
        Arc::new(Self { first_uid, network, count, taken: Mutex::default() })
    }

    /// A free slot; `None` when all are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut taken = self.taken.lock().expect("no code panics while it holds this lock");
        let number = (0..self.count).find(|number| !taken.contains(number))?;
        taken.insert(number);
        Some(Slot { number, slots: self.clone() })
    }

    /// The slot of a sandbox that was found, by its first user id; `None` when it is none of ours or taken.
    pub(crate) fn take_by_uid(self: &Arc<Self>, first_uid: u32) -> Option<Slot> {
        let number = first_uid.checked_sub(self.first_uid)? / IDS_PER_CONTAINER;
        let mut taken = self.taken.lock().expect("no code panics while it holds this lock");
        (number < self.count && taken.insert(number)).then(|| Slot { number, slots: self.clone() })
    }
}

impl Slot {
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn first_uid(&self) -> u32 {
        self.slots.first_uid + self.number * IDS_PER_CONTAINER
    }

    /// The machine's and the sandbox's address in the slot's network of four.
    pub(crate) fn addresses(&self) -> (Ipv4Addr, Ipv4Addr) {
        let base = u32::from(self.slots.network.network()) + self.number * 4;
        (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.taken.lock().expect("no code panics while it holds this lock").remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shared_by_nobody_and_come_back() {
        let slots = Slots::new(1_000_000, "100.96.0.0/29".parse().unwrap(), 100);
        let (a, b) = (slots.take().unwrap(), slots.take().unwrap());
        assert!(slots.take().is_none(), "eight addresses are two networks of four");
        assert_eq!((a.first_uid(), b.first_uid()), (1_000_000, 1_065_536));
        assert_eq!(b.addresses(), (Ipv4Addr::new(100, 96, 0, 5), Ipv4Addr::new(100, 96, 0, 6)));
        drop(a);
        assert_eq!(slots.take_by_uid(1_000_000).unwrap().number(), 0);
        assert!(slots.take_by_uid(b.first_uid()).is_none());
        assert!(slots.take_by_uid(5).is_none());
    }
}
