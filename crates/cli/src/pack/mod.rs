//! Packs code for upload: the same tree gives the same bytes, whenever, wherever and by whomever it is packed.

mod archive;
pub mod entrypoint;
mod excludes;
mod squashfs;
mod walk;
mod zip;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use protocol::message::program::Encoding;
use protocol::{FileCheck, FileHash, FileHasher, FileName};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::failure::{Code, Failure};
use archive::Archive;
pub use entrypoint::Entrypoint;
use walk::Tree;

/// What PATH turned out to be.
#[derive(Debug)]
pub enum Source {
    /// Files to pack.
    Tree(Tree),
    /// Packed already.
    Archive(Archive),
}

/// Code that is ready to be uploaded.
#[derive(Debug)]
pub struct Packed {
    file: PackedFile,
    /// How it is packed.
    pub encoding: Encoding,
    /// The SHA-256 of its bytes.
    pub hash: FileHash,
    /// Its length.
    pub bytes: u64,
    /// What is in it, in words.
    pub contents: String,
}

#[derive(Debug)]
enum PackedFile {
    Made(NamedTempFile),
    Given(PathBuf),
}

impl Packed {
    /// Where it is. It is removed with this value when it was made by packing.
    pub fn path(&self) -> &Path {
        match &self.file {
            PackedFile::Made(file) => file.path(),
            PackedFile::Given(path) => path,
        }
    }

    /// What IPFS calls it. Reads it to the end.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be read.
    pub fn cid(&self) -> Result<FileName, Failure> {
        let mut hasher = FileHasher::new();
        read(self.path(), |bytes| hasher.update(bytes)).map_err(|e| cannot_read(self.path(), &e))?;
        Ok(hasher.finish().v0)
    }

    /// Whether this is a name of it, a SHA-256 or a CID.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be read.
    pub fn is_called(&self, name: &str) -> Result<bool, Failure> {
        match name.parse() {
            Ok(FileName::Sha256(hash)) => Ok(hash == self.hash),
            Ok(name) => {
                let mut check = FileCheck::new(name);
                read(self.path(), |bytes| check.update(bytes)).map_err(|e| cannot_read(self.path(), &e))?;
                Ok(check.finish().is_ok())
            }
            Err(_) => Ok(false),
        }
    }
}

impl Source {
    /// Looks at what PATH names: a folder, a single file, or an archive.
    ///
    /// # Errors
    /// [`Failure`] when it does not exist, cannot be read, or holds what cannot be packed.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let metadata = fs::metadata(path).map_err(|e| cannot_read(path, &e))?;
        if metadata.is_dir() {
            return walk::folder(path).map(Self::Tree);
        }
        if !metadata.is_file() {
            return Err(bad_path(format!("{} is neither a folder nor a file", path.display())));
        }
        match archive::open(path)? {
            Some(archive) => Ok(Self::Archive(archive)),
            None => walk::single_file(path, &metadata).map(Self::Tree),
        }
    }

    /// The name of the only file, when PATH is one.
    pub fn single_file(&self) -> Option<&str> {
        match self {
            Self::Tree(tree) if tree.is_single_file => tree.entries.first().map(|entry| entry.path.as_str()),
            _ => None,
        }
    }

    /// Files that look like secrets.
    pub fn secrets(&self) -> Vec<&str> {
        match self {
            Self::Tree(tree) => tree.secrets(),
            Self::Archive(_) => Vec::new(),
        }
    }

    /// Checks that the entrypoint is in the code. Returns what is odd, but no error.
    ///
    /// # Errors
    /// [`Failure`] with [`Code::BadEntrypoint`] that says what is missing and what to write instead.
    pub fn check_entrypoint(&self, entrypoint: &Entrypoint, path: &Path) -> Result<Option<String>, Failure> {
        let listing = match self {
            Self::Tree(tree) => tree.listing(),
            Self::Archive(archive) => match &archive.listing {
                Some(listing) => listing.clone(),
                None => return Ok(None),
            },
        };
        let file = entrypoint.find(&listing, path)?;
        let Self::Tree(tree) = self else { return Ok(None) };
        let source = tree.entries.iter().find(|entry| entry.path == file).map(|entry| entry.source.as_path());
        Ok(source.and_then(|source| entrypoint.oddity(source, &file)))
    }

    /// Packs it. Without a wanted encoding it is squashfs where `mksquashfs` is installed, otherwise zip.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be packed that way.
    pub fn pack(&self, wanted: Option<Encoding>) -> Result<Packed, Failure> {
        let tree = match self {
            Self::Archive(archive) => return archive.as_packed(wanted),
            Self::Tree(tree) => tree,
        };
        let encoding = match wanted {
            Some(Encoding::Plain) => return Err(Failure::usage("code is packed as squashfs or zip")),
            Some(encoding) => encoding,
            None if squashfs::is_installed() => Encoding::Squashfs,
            None => Encoding::Zip,
        };
        let failure = |e: io::Error| bad_path(format!("cannot pack the code: {e}"));
        let file = NamedTempFile::with_prefix("aleph-code-").map_err(failure)?;
        match encoding {
            Encoding::Squashfs => squashfs::write(tree, file.path())?,
            _ => zip::write(tree, file.as_file())?,
        }
        let (hash, bytes) = digest(file.path()).map_err(failure)?;
        Ok(Packed { file: PackedFile::Made(file), encoding, hash, bytes, contents: tree.to_string() })
    }
}

fn digest(path: &Path) -> io::Result<(FileHash, u64)> {
    let mut hash = Sha256::new();
    let bytes = read(path, |bytes| hash.update(bytes))?;
    Ok((FileHash::from_bytes(hash.finalize().into()), bytes))
}

/// Reads a file part by part and says how long it is.
fn read(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let (mut file, mut bytes, mut buffer) = (File::open(path)?, 0, vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => {
                take(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

fn bad_path(message: String) -> Failure {
    Failure::new(Code::BadPath, message)
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let failure = bad_path(format!("cannot read {}: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::NotFound => {
            failure.hint("PATH is the folder with the program's code, or a packed archive of it")
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    const ENCODINGS: [Encoding; 2] = [Encoding::Squashfs, Encoding::Zip];

    /// The same tree, made in this order, with these modes and this age.
    fn make_tree(names: &[&str], mode: u32, age: Duration) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("lib")).unwrap();
        for name in names {
            let path = root.path().join(name);
            fs::write(&path, format!("content of {name}\n").repeat(100)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            File::open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        fs::write(root.path().join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.path().join("run"), fs::Permissions::from_mode(mode | 0o100)).unwrap();
        symlink("lib/a.py", root.path().join("link.py")).unwrap();
        root
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let one = make_tree(&["main.py", "lib/a.py", "lib/b.py", "z.txt"], 0o600, Duration::ZERO);
        let two = make_tree(&["z.txt", "lib/b.py", "lib/a.py", "main.py"], 0o664, Duration::from_secs(1_000_000));
        // Hard links are an accident of the disk, too.
        fs::remove_file(two.path().join("z.txt")).unwrap();
        fs::write(two.path().join("lib/z.tmp"), "content of z.txt\n".repeat(100)).unwrap();
        fs::hard_link(two.path().join("lib/z.tmp"), two.path().join("z.txt")).unwrap();
        fs::remove_file(two.path().join("lib/z.tmp")).unwrap();
        for encoding in ENCODINGS {
            let pack = |root: &Path| Source::open(root).unwrap().pack(Some(encoding)).unwrap();
            let (first, second) = (pack(one.path()), pack(two.path()));
            assert_eq!(first.hash, second.hash, "{encoding:?}");
            assert_eq!(first.bytes, fs::metadata(first.path()).unwrap().len());
            fs::write(one.path().join("lib/b.py"), "changed").unwrap();
            assert_ne!(pack(one.path()).hash, second.hash, "{encoding:?}");
            fs::write(one.path().join("lib/b.py"), "content of lib/b.py\n".repeat(100)).unwrap();
        }
    }

    #[test]
    fn what_is_packed_is_there_again_and_readable() {
        let root = make_tree(&["main.py", "lib/a.py"], 0o600, Duration::ZERO);
        let packed = Source::open(root.path()).unwrap().pack(Some(Encoding::Squashfs)).unwrap();
        let out = tempfile::tempdir().unwrap();
        let target = out.path().join("tree");
        let mut unpack = std::process::Command::new("unsquashfs");
        assert!(unpack.args(["-q", "-n", "-d"]).args([&target, packed.path()]).output().unwrap().status.success());
        let mode = |name: &str| fs::symlink_metadata(target.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("."), mode("lib"), mode("main.py"), mode("run")), (0o755, 0o755, 0o644, 0o755));
        assert_eq!(fs::read_link(target.join("link.py")).unwrap(), Path::new("lib/a.py"));

        let packed = Source::open(root.path()).unwrap().pack(Some(Encoding::Zip)).unwrap();
        let mut archive = ::zip::ZipArchive::new(File::open(packed.path()).unwrap()).unwrap();
        let mut modes = Vec::new();
        for i in 0..archive.len() {
            let file = archive.by_index(i).unwrap();
            modes.push((file.name().unwrap().into_owned(), file.unix_mode().unwrap()));
        }
        let expected = [
            ("lib/", 0o40755),
            ("lib/a.py", 0o100_644),
            ("link.py", 0o120_777),
            ("main.py", 0o100_644),
            ("run", 0o100_755),
        ];
        assert_eq!(modes, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }

    #[test]
    fn archives_are_taken_as_they_are() {
        let root = make_tree(&["main.py", "lib/a.py"], 0o644, Duration::ZERO);
        let folder = tempfile::tempdir().unwrap();
        for (encoding, name) in [(Encoding::Squashfs, "code.squashfs"), (Encoding::Zip, "code.zip")] {
            let packed = Source::open(root.path()).unwrap().pack(Some(encoding)).unwrap();
            let path = folder.path().join(name);
            fs::copy(packed.path(), &path).unwrap();
            let source = Source::open(&path).unwrap();
            let again = source.pack(None).unwrap();
            assert_eq!((again.hash, again.encoding), (packed.hash, encoding));
            let entrypoint = |text: &str| Entrypoint::parse(text, None).unwrap();
            assert_eq!(source.check_entrypoint(&entrypoint("main:app"), &path).unwrap(), None);
            assert_eq!(source.check_entrypoint(&entrypoint("run"), &path).unwrap(), None);
            let failure = source.check_entrypoint(&entrypoint("absent:app"), &path).unwrap_err();
            assert_eq!(failure.code, Code::BadEntrypoint);
            let other = if encoding == Encoding::Zip { Encoding::Squashfs } else { Encoding::Zip };
            assert_eq!(source.pack(Some(other)).unwrap_err().code, Code::Usage);
        }
        let broken = folder.path().join("broken.zip");
        fs::write(&broken, "PK\x03\x04 and nothing else").unwrap();
        assert!(Source::open(&broken).unwrap_err().message.contains("broken.zip"));
        fs::write(&broken, "text").unwrap();
        assert!(Source::open(&broken).unwrap_err().message.contains("not a zip archive"));
    }

    #[test]
    fn a_single_file_is_packed_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server");
        fs::write(&path, "\x7fELF").unwrap();
        fs::write(folder.path().join("other"), "").unwrap();
        let source = Source::open(&path).unwrap();
        assert_eq!(source.single_file(), Some("server"));
        assert_eq!(source.pack(None).unwrap().contents, "1 file, 4 B");
        let failure = source.check_entrypoint(&Entrypoint::parse("server", None).unwrap(), &path).unwrap_err();
        assert!(failure.message.contains("not executable") && failure.hint.unwrap().contains("chmod +x"));
        assert_eq!(Source::open(&folder.path().join("absent")).unwrap_err().code, Code::BadPath);
    }
}
