//! What is in a folder: the files to pack, in a fixed order.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use super::entrypoint::Listing;
use super::excludes::Excludes;
use super::{bad_path, cannot_read};
use crate::failure::Failure;
use crate::publish;

/// The most that is packed, before compression. Message nodes take far less; this only keeps the temporary folder from
/// filling up when somebody names the wrong folder.
const MAX_TREE_BYTES: u64 = 4 << 30;
/// The most files and folders that are packed.
const MAX_ENTRIES: usize = 200_000;

/// The files to pack.
#[derive(Debug)]
pub struct Tree {
    /// Folders before what is in them, siblings by name.
    pub entries: Vec<Entry>,
    /// How many files and folders were left out.
    pub excluded: usize,
    /// Whether PATH was a file and not a folder.
    pub is_single_file: bool,
}

/// A file, folder or link.
#[derive(Debug)]
pub struct Entry {
    /// Its path in the package, with `/`.
    pub path: String,
    /// Where it is now.
    pub source: PathBuf,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file.
    File {
        /// Its length.
        bytes: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A symbolic link to something in the tree.
    Link {
        /// What it points to, relative to where it is.
        target: String,
    },
}

/// Walks a folder.
///
/// # Errors
/// [`Failure`] when something cannot be read or packed, or nothing is left to pack.
pub(super) fn folder(root: &Path) -> Result<Tree, Failure> {
    let mut walk = Walk { tree: Tree { entries: Vec::new(), excluded: 0, is_single_file: false }, bytes: 0 };
    walk.folder(root, "", &Excludes::of_root(root)?)?;
    if walk.tree.files() == 0 {
        let left_out = match walk.tree.excluded {
            0 => String::new(),
            n => format!(" ({n} left out by ignore files)"),
        };
        return Err(bad_path(format!("{} has no files to pack{left_out}", root.display())));
    }
    Ok(walk.tree)
}

/// A tree of a single file.
///
/// # Errors
/// [`Failure`] when its name cannot be packed.
pub(super) fn single_file(path: &Path, metadata: &Metadata) -> Result<Tree, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| not_text(path))?;
    let entry = Entry { path: name.to_owned(), source: path.to_owned(), kind: file_kind(metadata) };
    Ok(Tree { entries: vec![entry], excluded: 0, is_single_file: true })
}

fn file_kind(metadata: &Metadata) -> Kind {
    Kind::File { bytes: metadata.len(), executable: metadata.permissions().mode() & 0o100 != 0 }
}

fn not_text(path: &Path) -> Failure {
    bad_path(format!("the name of {} is not UTF-8 text; rename it or list it in .alephignore", path.display()))
}

struct Walk {
    tree: Tree,
    bytes: u64,
}

impl Walk {
    fn folder(&mut self, folder: &Path, inside: &str, excludes: &Excludes) -> Result<(), Failure> {
        let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>();
        let mut paths = read().map_err(|e| cannot_read(folder, &e))?;
        paths.sort();
        for path in paths {
            let metadata = fs::symlink_metadata(&path).map_err(|e| cannot_read(&path, &e))?;
            if excludes.excludes(&path, metadata.is_dir()) {
                self.tree.excluded += 1;
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| not_text(&path))?;
            let inside = if inside.is_empty() { name.to_owned() } else { format!("{inside}/{name}") };
            let kind = self.kind(&path, &inside, &metadata)?;
            let is_folder = kind == Kind::Folder;
            self.tree.entries.push(Entry { path: inside.clone(), source: path.clone(), kind });
            self.check_size(&path)?;
            if is_folder {
                self.folder(&path, &inside, &excludes.of_folder(&path)?)?;
            }
        }
        Ok(())
    }

    fn kind(&mut self, path: &Path, inside: &str, metadata: &Metadata) -> Result<Kind, Failure> {
        if metadata.is_dir() {
            return Ok(Kind::Folder);
        }
        if metadata.is_file() {
            self.bytes += metadata.len();
            return Ok(file_kind(metadata));
        }
        if !metadata.is_symlink() {
            let text = format!("{} is neither a file, nor a folder, nor a link", path.display());
            return Err(bad_path(text).hint("remove it, or list it in .alephignore"));
        }
        let target = fs::read_link(path).map_err(|e| cannot_read(path, &e))?;
        if leaves_tree(inside, &target) {
            let text = format!("the link {} leads out of the folder, to {}", path.display(), target.display());
            return Err(bad_path(text).hint("replace it by a copy, or list it in .alephignore"));
        }
        let target = target.to_str().ok_or_else(|| not_text(path))?.to_owned();
        Ok(Kind::Link { target })
    }

    fn check_size(&self, path: &Path) -> Result<(), Failure> {
        let count = self.tree.entries.len();
        if self.bytes > MAX_TREE_BYTES || count > MAX_ENTRIES {
            let text = format!(
                "there is too much to pack: {} in {count} files and folders up to {}",
                publish::size(self.bytes),
                path.display()
            );
            return Err(publish::too_large(text));
        }
        Ok(())
    }
}

/// Whether a link at this path of the tree leads out of it. Absolute links always do: the tree is somewhere else when the
/// program runs.
fn leaves_tree(inside: &str, target: &Path) -> bool {
    let mut depth = inside.matches('/').count();
    for component in target.components() {
        match component {
            Component::RootDir | Component::Prefix(_) => return true,
            Component::CurDir => {}
            Component::Normal(_) => depth += 1,
            Component::ParentDir => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return true,
            },
        }
    }
    false
}

impl Tree {
    /// How many files there are, links included.
    fn files(&self) -> usize {
        self.entries.iter().filter(|entry| entry.kind != Kind::Folder).count()
    }

    /// The files by path, and whether they can be executed. Links count as what they point to, which is not looked up.
    pub fn listing(&self) -> Listing {
        let files = self.entries.iter().filter_map(|entry| match entry.kind {
            Kind::Folder => None,
            Kind::File { executable, .. } => Some((entry.path.clone(), executable)),
            Kind::Link { .. } => Some((entry.path.clone(), true)),
        });
        files.collect()
    }

    /// Files that look like secrets.
    pub fn secrets(&self) -> Vec<&str> {
        let paths = self.entries.iter().filter(|entry| entry.kind != Kind::Folder).map(|entry| entry.path.as_str());
        paths.filter(|path| looks_secret(path.rsplit('/').next().unwrap_or(path))).collect()
    }
}

fn looks_secret(name: &str) -> bool {
    let is_environment = name == ".env" || (name.starts_with(".env.") && !name.ends_with("example"));
    is_environment
        || [".key", ".pem", ".p12", ".pfx"].iter().any(|end| name.ends_with(end))
        || ["id_rsa", "id_ed25519", "id_ecdsa", ".netrc", ".pypirc", ".npmrc"].contains(&name)
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.entries.iter().map(|entry| if let Kind::File { bytes, .. } = entry.kind { bytes } else { 0 });
        let files = self.files();
        write!(f, "{files} file{}, {}", if files == 1 { "" } else { "s" }, publish::size(bytes.sum()))?;
        match self.excluded {
            0 => Ok(()),
            n => write!(f, " ({n} left out)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn paths(root: &Path) -> Vec<String> {
        folder(root).unwrap().entries.into_iter().map(|entry| entry.path).collect()
    }

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn rubbish_and_ignored_files_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("main.py", ""),
                (".gitignore", "*.log\n/local/\n!keep.log\n"),
                (".alephignore", "tests/\n!venv/\n"),
                (".git/config", ""),
                ("__pycache__/main.pyc", ""),
                (".venv/pyvenv.cfg", ""),
                ("env311/pyvenv.cfg", ""),
                ("venv/wanted.py", ""),
                ("local/a", ""),
                ("sub/local/a", ""),
                ("sub/x.log", ""),
                ("sub/keep.log", ""),
                ("sub/.gitignore", "!x.log\n"),
                ("tests/test_main.py", ""),
                ("node_modules/lib/index.js", ""),
            ],
        );
        let expected = [
            "main.py",
            "node_modules",
            "node_modules/lib",
            "node_modules/lib/index.js",
            "sub",
            "sub/keep.log",
            "sub/local",
            "sub/local/a",
            "sub/x.log",
            "venv",
            "venv/wanted.py",
        ];
        assert_eq!(paths(root.path()), expected);
    }

    #[test]
    fn links_stay_inside() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &[("lib/a.py", ""), ("main.py", "")]);
        symlink("../main.py", root.path().join("lib/up.py")).unwrap();
        assert_eq!(paths(root.path()), ["lib", "lib/a.py", "lib/up.py", "main.py"]);
        for target in ["../../main.py", "/etc/passwd", "../lib/../../x"] {
            let link = root.path().join("lib/out");
            symlink(target, &link).unwrap();
            let failure = folder(root.path()).unwrap_err();
            assert!(failure.message.contains("leads out of the folder"), "{target}: {failure}");
            fs::remove_file(link).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_packed_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert!(folder(root.path()).unwrap_err().message.contains("no files"));
        write(root.path(), &[("main.py", "")]);
        let socket = root.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let failure = folder(root.path()).unwrap_err();
        assert!(failure.message.contains("socket") && failure.hint.unwrap().contains(".alephignore"));
        drop(listener);
    }

    #[test]
    fn secrets_are_noticed() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[("main.py", ""), (".env", ""), (".env.example", ""), ("sub/eth.key", ""), ("keys.py", "")],
        );
        assert_eq!(folder(root.path()).unwrap().secrets(), [".env", "sub/eth.key"]);
    }
}
