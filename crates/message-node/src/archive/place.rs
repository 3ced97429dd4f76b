//! Where the objects of a set are in the archive's place.
//!
//! ```text
//!  <program>/<set>/manifest.json            what the set is; it is written last
//!  <program>/<set>/<volume>.<upload>        the encrypted stream of a volume; names are hexadecimal digits
//! ```

use object_store::path::Path as Location;
use protocol::ProgramId;
use protocol::data::SnapshotId;

/// Where a set's objects are.
pub(crate) fn of_set(program: &ProgramId, set: SnapshotId) -> Location {
    Location::from_iter([program.to_string(), set.to_string()])
}

/// Where a set's manifest is.
pub(crate) fn of_manifest(program: &ProgramId, set: SnapshotId) -> Location {
    of_set(program, set).join("manifest.json")
}

/// Where an object of a set is.
pub(crate) fn of_object(program: &ProgramId, set: SnapshotId, object: &str) -> Location {
    of_set(program, set).join(object)
}
