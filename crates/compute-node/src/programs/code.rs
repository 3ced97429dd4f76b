//! A program's code, from the file that its message names to something that can be mounted into a sandbox.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use protocol::message::program::{Code, Encoding, Interface};
use protocol::{FileHash, FileName};
use sandbox::spec::CodeSource;
use tempfile::TempDir;
use zip::ZipArchive;

use super::pins::{Pin, Pins};

/// Bytes that an archive may unpack to.
const MAX_UNPACKED_BYTES: u64 = 2 << 30;

/// Files that an archive may hold.
const MAX_FILES: usize = 100_000;

/// Why code cannot be unpacked. The sentence is for the program's owner.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodeError {
    /// It is not what its encoding says.
    #[error("{0}")]
    Bad(String),
    /// This machine failed.
    #[error("cannot unpack the code: {0}")]
    Disk(#[from] io::Error),
}

/// Code that can be mounted. It stays as long as this is held.
#[derive(Debug, Clone)]
pub(crate) struct OpenedCode {
    pub(crate) source: CodeSource,
    _pin: Option<Pin<FileHash>>,
}

/// Unpacked code, a directory each, once for each file and entrypoint.
#[derive(Debug)]
pub(crate) struct CodeCache {
    directory: PathBuf,
    max_bytes: u64,
    pins: Pins<FileHash>,
}

impl CodeCache {
    /// A cache in this directory. What an interrupted unpacking left there is removed.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub(crate) fn open(directory: PathBuf, max_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if parse_name(&path).is_none() {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(Self { directory, max_bytes, pins: Pins::default() })
    }

    /// Makes code mountable. Blocks.
    ///
    /// # Errors
    /// [`CodeError`].
    pub(crate) fn unpack(&self, code: &Code, hash: FileName, file: &Path) -> Result<OpenedCode, CodeError> {
        if code.encoding == Encoding::Squashfs {
            return Ok(OpenedCode { source: CodeSource::Squashfs(file.to_owned()), _pin: None });
        }
        // The entrypoint is part of the key: it is made executable, or names the single file.
        let key = FileHash::of(format!("{hash}\n{:?}\n{}", code.encoding, code.entrypoint).as_bytes());
        let pin = self.pins.pin(key);
        let directory = match self.find(key)? {
            Some(directory) => directory,
            None => self.unpack_as(code, key, file)?,
        };
        // Only the order of eviction depends on it.
        let _ = File::open(&directory).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(OpenedCode { source: CodeSource::Directory(directory), _pin: Some(pin) })
    }

    /// Keeps unpacked code that a sandbox uses which was found running.
    pub(crate) fn hold(&self, source: &CodeSource) -> OpenedCode {
        let pin = match source {
            CodeSource::Directory(directory) => parse_name(directory).map(|(key, _)| self.pins.pin(key)),
            // A mounted file outlives its name.
            CodeSource::Squashfs(_) => None,
        };
        OpenedCode { source: source.clone(), _pin: pin }
    }

    fn unpack_as(&self, code: &Code, key: FileHash, file: &Path) -> Result<PathBuf, CodeError> {
        let work = TempDir::new_in(&self.directory)?;
        fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755))?;
        let bytes = match code.encoding {
            Encoding::Zip => unzip(file, work.path())?,
            Encoding::Plain => place_single_file(code, file, work.path())?,
            Encoding::Squashfs => unreachable!("images are not unpacked"),
        };
        if code.interface() == Interface::Binary
            && let Some(path) = inside(work.path(), Path::new(&code.entrypoint))
            && path.is_file()
        {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        let directory = self.directory.join(format!("{key}.{bytes}"));
        match fs::rename(work.path(), &directory) {
            // Somebody else was quicker; theirs is the same.
            Err(_) if directory.exists() => {}
            result => result?,
        }
        self.evict()?;
        Ok(directory)
    }

    fn find(&self, key: FileHash) -> io::Result<Option<PathBuf>> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if parse_name(&path).is_some_and(|(found, _)| found == key) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Removes what nobody uses, the longest unused first, until the rest fits.
    fn evict(&self) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if let Some((key, bytes)) = parse_name(&entry.path()) {
                all.push((entry.metadata()?.modified()?, key, bytes, entry.path()));
            }
        }
        let mut total: u64 = all.iter().map(|(_, _, bytes, _)| bytes).sum();
        let held = self.pins.held();
        all.sort();
        for (_, key, bytes, path) in all {
            if total > self.max_bytes && !held.contains(&key) {
                fs::remove_dir_all(path)?;
                total -= bytes;
            }
        }
        Ok(())
    }
}

/// The key and the size of a directory of the cache, both in its name.
fn parse_name(path: &Path) -> Option<(FileHash, u64)> {
    let (key, bytes) = path.file_name()?.to_str()?.split_once('.')?;
    Some((key.parse().ok()?, bytes.parse().ok()?))
}

/// A `plain` file: the module of an ASGI entrypoint, or the binary itself. Says how many bytes it has.
fn place_single_file(code: &Code, file: &Path, directory: &Path) -> Result<u64, CodeError> {
    let name = match code.interface() {
        Interface::Asgi => {
            // An attribute alone, as the first clients wrote it, is one of `main`.
            let module = code.entrypoint.split_once(':').map_or("main", |(module, _)| module);
            format!("{}.py", module.replace('.', "/"))
        }
        Interface::Binary => code.entrypoint.clone(),
    };
    let path = inside(directory, Path::new(&name)).ok_or_else(|| {
        CodeError::Bad(format!("the entrypoint '{}' must be a path inside the code", code.entrypoint))
    })?;
    fs::create_dir_all(path.parent().expect("it is below the directory"))?;
    let bytes = fs::copy(file, &path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    Ok(bytes)
}

/// Unpacks an archive and says how many bytes that gave.
fn unzip(file: &Path, directory: &Path) -> Result<u64, CodeError> {
    let bad = |why: String| CodeError::Bad(format!("the code is no usable zip archive: {why}"));
    let mut archive = ZipArchive::new(File::open(file)?).map_err(|e| bad(e.to_string()))?;
    if archive.len() > MAX_FILES {
        return Err(bad(format!("it has {} files, at most {MAX_FILES} are unpacked", archive.len())));
    }
    let mut left = MAX_UNPACKED_BYTES;
    // Links are made last, so that nothing is written through one.
    let mut links: Vec<(PathBuf, String)> = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|e| bad(e.to_string()))?;
        let path = entry
            .enclosed_name()
            .and_then(|name| inside(directory, &name))
            .ok_or_else(|| bad("a name in it leads out of it".to_owned()))?;
        if entry.is_dir() {
            fs::create_dir_all(&path)?;
            continue;
        }
        fs::create_dir_all(path.parent().expect("it is below the directory"))?;
        if entry.is_symlink() {
            let mut target = String::new();
            entry.by_ref().take(4096).read_to_string(&mut target).map_err(|e| bad(e.to_string()))?;
            links.push((path, target));
            continue;
        }
        let mode = if entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0) { 0o755 } else { 0o644 };
        let mut output = File::create(&path)?;
        let written = io::copy(&mut entry.take(left + 1), &mut output).map_err(|e| match e.kind() {
            io::ErrorKind::StorageFull => CodeError::Disk(e),
            _ => bad(e.to_string()),
        })?;
        left = left
            .checked_sub(written)
            .ok_or_else(|| bad(format!("it unpacks to more than {} MiB", MAX_UNPACKED_BYTES >> 20)))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for (path, target) in links {
        // It is followed inside the sandbox only, where it can lead to nothing but the sandbox.
        std::os::unix::fs::symlink(target, path)?;
    }
    Ok(MAX_UNPACKED_BYTES - left)
}

/// A path below a directory; `None` when it would leave it or is the directory itself.
fn inside(directory: &Path, relative: &Path) -> Option<PathBuf> {
    let mut path = directory.to_owned();
    for part in relative.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (path != directory).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn code(encoding: Encoding, entrypoint: &str) -> Code {
        Code {
            encoding,
            entrypoint: entrypoint.into(),
            reference: String::new(),
            interface: None,
            args: None,
            use_latest: false,
        }
    }

    fn open_bytes(code: &Code, bytes: &[u8]) -> (TempDir, Result<CodeSource, CodeError>) {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, bytes).unwrap();
        let cache = CodeCache::open(folder.path().join("unpacked"), 1 << 20).unwrap();
        let source = cache.unpack(code, FileHash::of(bytes).into(), &file).map(|code| code.source);
        (folder, source)
    }

    #[test]
    fn unused_code_makes_room_and_used_code_stays() {
        let folder = TempDir::new().unwrap();
        let cache = CodeCache::open(folder.path().join("unpacked"), 100).unwrap();
        let unpack = |text: &str| {
            let file = folder.path().join("file");
            fs::write(&file, zip(&[("main.py", text, 0o644)])).unwrap();
            cache.unpack(&code(Encoding::Zip, "main:app"), FileHash::of(text.as_bytes()).into(), &file).unwrap()
        };
        let exists = |code: &OpenedCode| match &code.source {
            CodeSource::Directory(directory) => directory.exists(),
            CodeSource::Squashfs(_) => unreachable!("it was a zip archive"),
        };
        let used = unpack(&"a".repeat(60));
        let unused = unpack(&"b".repeat(30)).source;
        let newer = unpack(&"c".repeat(30));
        assert!(exists(&used) && exists(&newer));
        assert!(!matches!(unused, CodeSource::Directory(directory) if directory.exists()));
    }

    fn zip(files: &[(&str, &str, u32)]) -> Vec<u8> {
        let mut archive = ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, text, mode) in files {
            archive.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
            archive.write_all(text.as_bytes()).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn zip_archives_are_unpacked_once_with_their_modes() {
        let bytes = zip(&[("main.py", "app = 1", 0o600), ("tools/run", "#!/bin/sh", 0o700)]);
        let (_folder, source) = open_bytes(&code(Encoding::Zip, "main:app"), &bytes);
        let CodeSource::Directory(directory) = source.unwrap() else { panic!("a directory") };
        assert_eq!(fs::read_to_string(directory.join("main.py")).unwrap(), "app = 1");
        assert_eq!((mode(&directory.join("main.py")), mode(&directory.join("tools/run"))), (0o644, 0o755));
    }

    #[test]
    fn the_entrypoint_of_a_binary_is_executable_whatever_the_archive_says() {
        let (_folder, source) = open_bytes(&code(Encoding::Zip, "server"), &zip(&[("server", "x", 0o644)]));
        let CodeSource::Directory(directory) = source.unwrap() else { panic!("a directory") };
        assert_eq!(mode(&directory.join("server")), 0o755);
    }

    #[test]
    fn single_files_become_the_module_or_the_binary() {
        let (_folder, source) = open_bytes(&code(Encoding::Plain, "pkg.main:app"), b"app = 1");
        let CodeSource::Directory(directory) = source.unwrap() else { panic!("a directory") };
        assert!(directory.join("pkg/main.py").is_file());
        let attribute = Code { interface: Some(Interface::Asgi), ..code(Encoding::Plain, "app") };
        let (_folder, source) = open_bytes(&attribute, b"app = 1");
        let CodeSource::Directory(directory) = source.unwrap() else { panic!("a directory") };
        assert!(directory.join("main.py").is_file());
        let (_folder, source) = open_bytes(&code(Encoding::Plain, "server"), b"\x7fELF");
        let CodeSource::Directory(directory) = source.unwrap() else { panic!("a directory") };
        assert_eq!(mode(&directory.join("server")), 0o755);
        let (_folder, source) = open_bytes(&code(Encoding::Plain, "../../etc/passwd"), b"x");
        assert!(matches!(source, Err(CodeError::Bad(_))));
    }

    #[test]
    fn archives_that_are_none_or_lead_outside_are_refused_and_leave_nothing() {
        for bytes in [b"hello".to_vec(), zip(&[("../evil", "x", 0o644)]), zip(&[("/etc/evil", "x", 0o644)])] {
            let (folder, source) = open_bytes(&code(Encoding::Zip, "main:app"), &bytes);
            match source {
                Err(CodeError::Bad(_)) => {}
                // An absolute name is taken as relative by some tools; inside is as good as refused.
                Ok(CodeSource::Directory(directory)) => assert!(directory.join("etc/evil").exists()),
                other => panic!("{other:?}"),
            }
            assert!(!folder.path().join("evil").exists() && !folder.path().join("unpacked/evil").exists());
        }
    }

    #[test]
    fn links_are_kept_as_links() {
        let mut archive = ZipWriter::new(io::Cursor::new(Vec::new()));
        archive.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        let bytes = archive.finish().unwrap().into_inner();
        let (_folder, source) = open_bytes(&code(Encoding::Zip, "main:app"), &bytes);
        let CodeSource::Directory(directory) = source.unwrap() else { panic!("a directory") };
        assert_eq!(fs::read_link(directory.join("link")).unwrap(), Path::new("/etc/passwd"));
    }
}
