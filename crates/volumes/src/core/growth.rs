//! When the file of a pool grows, and how far.

/// How full things are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// How large the file is.
    pub size: u64,
    /// What the file system in it has left.
    pub free: u64,
    /// How much of the file has been written so far, and so is on the disk.
    pub on_disk: u64,
    /// What the disk that holds the file has left.
    pub disk_free: u64,
}

/// What an operator allows, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How large the file may become.
    pub limit: u64,
    /// What should be free, so that programs do not wait for the file to grow.
    pub headroom: u64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// There is room.
    Enough,
    /// Let the file have this many bytes.
    To(u64),
    /// It has grown as far as it may.
    AtLimit,
    /// The disk that holds the file could not take what the file promises. A file system in a file that its disk cannot
    /// hold loses writes, which is worse than a full one.
    DiskIsShort,
}

/// What the pool never takes of the disk that holds its file, in bytes.
pub const KEPT_FREE_ON_DISK: u64 = 64 << 20;

/// File systems are resized in steps of this size, in bytes.
const STEP: u64 = 1 << 20;

/// Decides.
pub fn grow(levels: Levels, bounds: Bounds) -> Growth {
    if levels.free >= bounds.headroom {
        return Growth::Enough;
    }
    // A quarter more at least, so that a large pool does not grow all the time.
    let wanted = levels.size.saturating_add((bounds.headroom - levels.free).max(levels.size / 4));
    let wanted = wanted.min(bounds.limit) / STEP * STEP;
    if wanted <= levels.size {
        return Growth::AtLimit;
    }
    let possible = levels.on_disk.saturating_add(levels.disk_free.saturating_sub(KEPT_FREE_ON_DISK)) / STEP * STEP;
    match wanted.min(possible) {
        size if size > levels.size => Growth::To(size),
        _ => Growth::DiskIsShort,
    }
}
