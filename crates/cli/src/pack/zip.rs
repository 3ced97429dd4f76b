//! Zip archives with fixed modes and times.

use std::fs::File;
use std::io::{self, BufWriter};

use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, DateTime, ZipWriter};

use super::bad_path;
use super::walk::{Entry, Kind, Tree};
use crate::failure::Failure;

/// Files of this size and more need zip's 64-bit fields.
const LARGE_FILE_BYTES: u64 = u32::MAX as u64;

/// Writes the tree as an archive.
///
/// # Errors
/// [`Failure`] when a file cannot be read or the archive not be written.
pub(super) fn write(tree: &Tree, file: &File) -> Result<(), Failure> {
    let mut zip = ZipWriter::new(BufWriter::new(file));
    for entry in &tree.entries {
        add(&mut zip, entry).map_err(|e| bad_path(format!("cannot pack {}: {e}", entry.source.display())))?;
    }
    let flush = |zip: ZipWriter<BufWriter<&File>>| -> io::Result<()> {
        zip.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()
    };
    flush(zip).map_err(|e| bad_path(format!("cannot pack the code: {e}")))
}

fn add(zip: &mut ZipWriter<BufWriter<&File>>, entry: &Entry) -> io::Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default());
    match &entry.kind {
        Kind::Folder => zip.add_directory(entry.path.as_str(), options.unix_permissions(0o755))?,
        Kind::Link { target } => zip.add_symlink(entry.path.as_str(), target.as_str(), options)?,
        Kind::File { bytes, executable } => {
            let options = options
                .unix_permissions(if *executable { 0o755 } else { 0o644 })
                .large_file(*bytes >= LARGE_FILE_BYTES);
            zip.start_file(entry.path.as_str(), options)?;
            io::copy(&mut File::open(&entry.source)?, zip)?;
        }
    }
    Ok(())
}
