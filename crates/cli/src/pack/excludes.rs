//! What is left out of a package: what no program needs, and what ignore files inside the tree say.
//!
//! Ignore files above the tree and of the machine do not count, so that the same tree gives the same package everywhere.
//! The last word has the innermost `.alephignore`, then the innermost `.gitignore`, then the list below; `!name` takes a
//! file back in.

use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::bad_path;
use crate::failure::Failure;

/// What no program needs. `node_modules` is not among it: programs need it.
const RUBBISH: [&str; 16] = [
    ".git/",
    ".hg/",
    ".svn/",
    ".gitignore",
    ".alephignore",
    "__pycache__/",
    "*.pyc",
    ".venv/",
    "venv/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".tox/",
    ".idea/",
    ".vscode/",
    ".DS_Store",
];

/// The file that marks a Python virtual environment, whatever its folder is called.
const VIRTUAL_ENVIRONMENT: &str = "pyvenv.cfg";

/// The rules that hold in one folder.
#[derive(Debug, Clone)]
pub(super) struct Excludes {
    rubbish: Arc<Gitignore>,
    /// The outermost first.
    git: Vec<Arc<Gitignore>>,
    /// The outermost first.
    aleph: Vec<Arc<Gitignore>>,
}

impl Excludes {
    /// The rules of the tree's root.
    ///
    /// # Errors
    /// [`Failure`] when an ignore file cannot be read.
    pub(super) fn of_root(root: &Path) -> Result<Self, Failure> {
        let mut rubbish = GitignoreBuilder::new(root);
        for pattern in RUBBISH {
            rubbish.add_line(None, pattern).expect("the list has only valid patterns");
        }
        let rubbish = Arc::new(rubbish.build().expect("the list has only valid patterns"));
        Self { rubbish, git: Vec::new(), aleph: Vec::new() }.of_folder(root)
    }

    /// The rules of a folder below.
    ///
    /// # Errors
    /// [`Failure`] when an ignore file cannot be read.
    pub(super) fn of_folder(&self, folder: &Path) -> Result<Self, Failure> {
        let mut rules = self.clone();
        rules.git.extend(read(folder, ".gitignore")?);
        rules.aleph.extend(read(folder, ".alephignore")?);
        Ok(rules)
    }

    /// Whether this path is left out.
    pub(super) fn excludes(&self, path: &Path, is_folder: bool) -> bool {
        let files = self.aleph.iter().rev().chain(self.git.iter().rev());
        for rules in files {
            match rules.matched(path, is_folder) {
                Match::None => {}
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
            }
        }
        self.rubbish.matched(path, is_folder).is_ignore() || (is_folder && path.join(VIRTUAL_ENVIRONMENT).is_file())
    }
}

fn read(folder: &Path, name: &str) -> Result<Option<Arc<Gitignore>>, Failure> {
    let file = folder.join(name);
    if !file.is_file() {
        return Ok(None);
    }
    let mut builder = GitignoreBuilder::new(folder);
    let failure = |e: ignore::Error| bad_path(format!("cannot use {}: {e}", file.display()));
    match builder.add(&file) {
        None => builder.build().map(|rules| Some(Arc::new(rules))).map_err(failure),
        Some(error) => Err(failure(error)),
    }
}
