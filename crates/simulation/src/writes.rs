//! What programs wrote, and what volumes and snapshots of them hold of it.
//!
//! Every write knows the one before it, so a content is no more than its last write: two programs that wrote on from the same
//! snapshot share what is in it, and copying costs nothing.

use protocol::Epoch;

use crate::time::Moment;

/// A write. Later ones have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WriteId(u64);

/// What a volume or a snapshot of it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// All writes up to this one; `None` is nothing.
    UpTo(Option<WriteId>),
    /// What no program ever wrote: a part of something, or a difference on top of something else.
    Mixed,
}

impl WriteId {
    /// See [`Content::generation`].
    pub(crate) fn generation(self) -> u64 {
        self.0
    }
}

impl Content {
    pub(crate) const EMPTY: Self = Self::UpTo(None);

    /// Grows with every write, as the generation of a btrfs subvolume does.
    pub(crate) fn generation(self) -> u64 {
        match self {
            Self::UpTo(last) => last.map_or(0, WriteId::generation),
            Self::Mixed => u64::MAX,
        }
    }

    /// What comes of this when the difference between two other contents is put on top of it.
    pub(crate) fn with_difference(self, parent: Self, whole: Self) -> Self {
        if self == parent { whole } else { Self::Mixed }
    }
}

#[derive(Debug)]
struct Written {
    before: Option<WriteId>,
    epoch: Epoch,
    at: Moment,
}

/// All writes of a world.
#[derive(Debug, Default)]
pub(crate) struct Writes(Vec<Written>);

/// A write that something lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// How many are missing in all.
    pub(crate) count: u64,
    /// The epoch of the first, and when it happened.
    pub(crate) epoch: Epoch,
    pub(crate) at: Moment,
}

impl Writes {
    /// A program writes once more.
    pub(crate) fn write(&mut self, to: Content, epoch: Epoch, at: Moment) -> Content {
        let Content::UpTo(before) = to else { return Content::Mixed };
        self.0.push(Written { before, epoch, at });
        Content::UpTo(Some(WriteId(self.0.len() as u64)))
    }

    fn written(&self, id: WriteId) -> &Written {
        let index = usize::try_from(id.0 - 1).expect("numbers are those of a list");
        &self.0[index]
    }

    /// Whether all of `part` is in `whole`, in the same order and from the beginning.
    pub(crate) fn is_prefix(&self, part: Option<WriteId>, whole: Option<WriteId>) -> bool {
        let Some(part) = part else { return true };
        let mut last = whole;
        while let Some(id) = last.filter(|id| *id > part) {
            last = self.written(id).before;
        }
        last == Some(part)
    }

    /// What `whole` has beyond `part`, which is a prefix of it; `None` when they are equal.
    pub(crate) fn missing(&self, part: Option<WriteId>, whole: Option<WriteId>) -> Option<Missing> {
        let (mut last, mut missing) = (whole, None);
        while let Some(id) = last.filter(|_| last != part) {
            let Written { before, epoch, at } = self.written(id);
            let count = missing.map_or(0, |missing: Missing| missing.count) + 1;
            missing = Some(Missing { count, epoch: *epoch, at: *at });
            last = *before;
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn last(content: Content) -> Option<WriteId> {
        let Content::UpTo(last) = content else { panic!("{content:?}") };
        last
    }

    #[test]
    fn two_that_wrote_on_from_one_snapshot_share_its_beginning_only() {
        let mut writes = Writes::default();
        let at = |seconds| Moment::ZERO + Duration::from_secs(seconds);
        let common = writes.write(Content::EMPTY, Epoch::new(1), at(1));
        let one = writes.write(common, Epoch::new(1), at(2));
        let other = writes.write(common, Epoch::new(2), at(3));
        let other = writes.write(other, Epoch::new(2), at(4));
        assert!(writes.is_prefix(None, None) && writes.is_prefix(None, last(one)));
        assert!(writes.is_prefix(last(common), last(one)) && writes.is_prefix(last(common), last(other)));
        assert!(!writes.is_prefix(last(one), last(other)) && !writes.is_prefix(last(one), last(common)));
        assert_eq!(writes.missing(last(one), last(one)), None);
        let missing = writes.missing(last(common), last(other));
        assert_eq!(missing, Some(Missing { count: 2, epoch: Epoch::new(2), at: at(3) }));
        assert!(other.generation() > common.generation());
    }

    #[test]
    fn a_difference_fits_on_its_parent_only() {
        let mut writes = Writes::default();
        let parent = writes.write(Content::EMPTY, Epoch::FIRST, Moment::ZERO);
        let whole = writes.write(parent, Epoch::FIRST, Moment::ZERO);
        assert_eq!(parent.with_difference(parent, whole), whole);
        assert_eq!(Content::EMPTY.with_difference(parent, whole), Content::Mixed);
        assert_eq!(writes.write(Content::Mixed, Epoch::FIRST, Moment::ZERO), Content::Mixed);
    }
}
