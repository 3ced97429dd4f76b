//! Archives that somebody else packed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use protocol::message::program::Encoding;
use zip::ZipArchive;

use super::entrypoint::Listing;
use super::{Packed, PackedFile, bad_path, cannot_read, digest};
use crate::failure::Failure;

/// An archive, taken as it is.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    encoding: Encoding,
    /// Its files, and whether they can be executed; `None` when they cannot be listed here.
    pub listing: Option<Listing>,
}

/// Opens an archive; `None` when the file is none, by its first bytes.
///
/// # Errors
/// [`Failure`] when it cannot be read, or is not what its name says.
pub(super) fn open(path: &Path) -> Result<Option<Archive>, Failure> {
    let magic = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(4).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let magic = magic().map_err(|e| cannot_read(path, &e))?;
    let (encoding, listing) = match &magic[..] {
        b"PK\x03\x04" | b"PK\x05\x06" => (Encoding::Zip, Some(list_zip(path)?)),
        b"hsqs" => (Encoding::Squashfs, list_squashfs(path)),
        _ => {
            let named = |end: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(end));
            return match () {
                () if named("zip") => Err(bad_path(format!("{} is not a zip archive", path.display()))),
                () if named("squashfs") => Err(bad_path(format!("{} is not a squashfs image", path.display()))),
                () => Ok(None),
            };
        }
    };
    if listing.as_ref().is_some_and(Listing::is_empty) {
        return Err(bad_path(format!("{} has no files", path.display())));
    }
    Ok(Some(Archive { path: path.to_owned(), encoding, listing }))
}

impl Archive {
    /// The archive as it is.
    ///
    /// # Errors
    /// [`Failure`] when another encoding is wanted, or it cannot be read.
    pub fn as_packed(&self, wanted: Option<Encoding>) -> Result<Packed, Failure> {
        if wanted.is_some_and(|wanted| wanted != self.encoding) {
            let text = format!("{} is packed already, and not that way", self.path.display());
            return Err(Failure::usage(text).hint("name the folder with the code, or leave out --encoding"));
        }
        let (hash, bytes) = digest(&self.path).map_err(|e| cannot_read(&self.path, &e))?;
        let contents = match &self.listing {
            Some(listing) => format!("{} files, packed before", listing.len()),
            None => "packed before".to_owned(),
        };
        Ok(Packed { file: PackedFile::Given(self.path.clone()), encoding: self.encoding, hash, bytes, contents })
    }
}

fn list_zip(path: &Path) -> Result<Listing, Failure> {
    let broken = |e: &dyn std::fmt::Display| bad_path(format!("cannot read the archive {}: {e}", path.display()));
    let file = File::open(path).map_err(|e| cannot_read(path, &e))?;
    let mut zip = ZipArchive::new(io::BufReader::new(file)).map_err(|e| broken(&e))?;
    let mut listing = Listing::new();
    for i in 0..zip.len() {
        let file = zip.by_index_raw(i).map_err(|e| broken(&e))?;
        if !file.is_dir() {
            // Archives that were not made on Unix have no modes; programs are executed from them all the same.
            let executable = file.unix_mode().is_none_or(|mode| mode & 0o100 != 0);
            let name = file.name().map_err(|e| broken(&e))?.into_owned();
            listing.insert(name, executable);
        }
    }
    Ok(listing)
}

/// The files of an image, by `unsquashfs` where it is installed. The nodes check them anyhow.
fn list_squashfs(path: &Path) -> Option<Listing> {
    let output =
        Command::new("unsquashfs").arg("-lln").arg(path).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    // Lines as `-rwxr-xr-x 0/0   10 1970-01-01 00:00 squashfs-root/run`, links with ` -> target`.
    let files = text.lines().filter_map(|line| {
        let (mode, name) = (line.split(' ').next()?, line.split_once(" squashfs-root/")?.1);
        match mode.as_bytes() {
            [b'-', _, _, execute, ..] => Some((name.to_owned(), *execute == b'x' || *execute == b's')),
            [b'l', ..] => Some((name.split(" -> ").next()?.to_owned(), true)),
            _ => None,
        }
    });
    Some(files.collect())
}
