//! The entrypoint: whether it can be what it says, and whether it is in the code. A mistake here is found before anything
//! is sent, not by a node a minute later.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use protocol::message::program::Interface;

use crate::failure::{Code, Failure};

/// The files of a package by path, and whether they can be executed.
pub type Listing = BTreeMap<String, bool>;

/// How much of a module is searched for the application's name.
const MODULE_BYTES: u64 = 1 << 20;

/// How many candidates a hint names.
const CANDIDATES: usize = 5;

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entrypoint {
    /// A Python ASGI application.
    Asgi {
        /// As Python imports it, with dots.
        module: String,
        /// The application's name in it.
        attribute: String,
    },
    /// A file to execute.
    Binary {
        /// Its path in the package.
        path: String,
    },
}

impl Entrypoint {
    /// Reads an entrypoint: with a colon it is an ASGI application, unless the interface is stated.
    ///
    /// # Errors
    /// [`Failure`] with [`Code::BadEntrypoint`] that says what to write instead.
    pub fn parse(text: &str, interface: Option<Interface>) -> Result<Self, Failure> {
        let asgi = match interface {
            Some(interface) => interface == Interface::Asgi,
            None => text.contains(':'),
        };
        if asgi { Self::parse_asgi(text) } else { Self::parse_binary(text) }
    }

    fn parse_asgi(text: &str) -> Result<Self, Failure> {
        let Some((module, attribute)) = text.split_once(':') else {
            return Err(bad(format!("'{text}' does not name an application"))
                .hint("write MODULE:NAME, as main:app for the object `app` in main.py"));
        };
        if !is_identifier(attribute) {
            return Err(bad(format!("'{attribute}' cannot be the name of an application"))
                .hint("write MODULE:NAME, as main:app for the object `app` in main.py"));
        }
        let named = module.strip_prefix("./").unwrap_or(module);
        let named = named.strip_suffix(".py").unwrap_or(named).replace('/', ".");
        if !module.split('.').all(is_identifier) || module.ends_with(".py") {
            let failure = bad(format!("'{module}' cannot be the name of a Python module"));
            return Err(match named.split('.').all(is_identifier) {
                true => failure.hint(format!("write it as Python imports it: {named}:{attribute}")),
                false => failure.hint("names of modules have letters, digits and underscores; dots separate packages"),
            });
        }
        Ok(Self::Asgi { module: module.to_owned(), attribute: attribute.to_owned() })
    }

    fn parse_binary(text: &str) -> Result<Self, Failure> {
        let path = text.trim_start_matches("./");
        if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == ".." || part.is_empty()) {
            return Err(bad(format!("'{text}' is no file in the code")).hint(
                "write the path of the executable inside PATH, as bin/server, or MODULE:NAME for a Python application",
            ));
        }
        Ok(Self::Binary { path: path.to_owned() })
    }

    /// The entrypoint as messages have it.
    pub fn as_text(&self) -> String {
        match self {
            Self::Asgi { module, attribute } => format!("{module}:{attribute}"),
            Self::Binary { path } => path.clone(),
        }
    }

    /// How requests reach it.
    pub fn interface(&self) -> Interface {
        match self {
            Self::Asgi { .. } => Interface::Asgi,
            Self::Binary { .. } => Interface::Binary,
        }
    }

    /// Finds its file in the package. `root` is what people call the package.
    ///
    /// # Errors
    /// [`Failure`] with [`Code::BadEntrypoint`] that says what is missing and what to write instead.
    pub fn find(&self, files: &Listing, root: &Path) -> Result<String, Failure> {
        match self {
            Self::Asgi { module, attribute } => find_module(module, attribute, files, root),
            Self::Binary { path } => find_binary(path, files, root),
        }
    }

    /// What is odd about its file, without being certainly wrong.
    pub fn oddity(&self, source: &Path, file: &str) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(source).ok()?.take(MODULE_BYTES).read_to_end(&mut bytes).ok()?;
        match self {
            Self::Asgi { attribute, .. } if file.ends_with(".py") => {
                let text = String::from_utf8_lossy(&bytes);
                // Modules may get names by `from x import *`.
                let mut words = text.split(|c: char| !is_word(c));
                (!words.any(|word| word == attribute) && !text.contains("import *"))
                    .then(|| format!("{file} does not mention `{attribute}`; is that the application's name?"))
            }
            Self::Binary { .. } if !bytes.starts_with(b"\x7fELF") && !bytes.starts_with(b"#!") => {
                Some(format!("{file} is neither a Linux executable nor a script that starts with `#!`"))
            }
            _ => None,
        }
    }
}

fn find_module(module: &str, attribute: &str, files: &Listing, root: &Path) -> Result<String, Failure> {
    let base = module.replace('.', "/");
    let found = [format!("{base}.py"), format!("{base}/__init__.py")].into_iter().find(|path| files.contains_key(path));
    let compiled = || {
        let start = format!("{base}.");
        files.keys().find(|path| path.starts_with(&start) && path.ends_with(".so")).cloned()
    };
    if let Some(path) = found.or_else(compiled) {
        return Ok(path);
    }
    let failure = bad(format!("{} has neither {base}.py nor {base}/__init__.py", root.display()));
    let deeper = format!("/{base}.py");
    if let Some(path) = files.keys().find(|path| path.ends_with(&deeper)) {
        let folder = &path[..path.len() - deeper.len()];
        return Err(failure.hint(format!(
            "there is {path}: name the folder {}, or the module {}:{attribute}",
            root.join(folder).display(),
            folder.replace('/', ".") + "." + module
        )));
    }
    let modules = files.keys().filter(|path| !path.contains('/')).filter_map(|path| path.strip_suffix(".py"));
    let modules: Vec<&str> = modules.take(CANDIDATES).collect();
    Err(match modules[..] {
        [] => failure.hint("there are no Python modules at its top; name the folder that holds them"),
        _ => failure.hint(format!("it has the modules {}", modules.join(", "))),
    })
}

fn find_binary(path: &str, files: &Listing, root: &Path) -> Result<String, Failure> {
    match files.get(path) {
        Some(true) => return Ok(path.to_owned()),
        Some(false) => {
            let failure = bad(format!("{path} in {} is not executable", root.display()));
            return Err(match path.strip_suffix(".py") {
                Some(module) => failure.hint(format!(
                    "for a Python application write {}:NAME; a script needs `#!` and `chmod +x`",
                    module.replace('/', ".")
                )),
                None if root.is_dir() => failure.hint(format!("run `chmod +x {}`", root.join(path).display())),
                None => failure.hint(format!("run `chmod +x {}`", root.display())),
            });
        }
        None => {}
    }
    let failure = bad(format!("{} has no file {path}", root.display()));
    if files.contains_key(&format!("{path}.py")) {
        return Err(failure.hint(format!("for the Python module {path}.py write {}:NAME", path.replace('/', "."))));
    }
    if path.contains(' ') {
        return Err(failure.hint("the entrypoint is a file without arguments; pass settings with --env"));
    }
    let executables: Vec<&str> = files.iter().filter(|(_, x)| **x).map(|(path, _)| &**path).take(CANDIDATES).collect();
    Err(match executables[..] {
        [] => failure.hint("nothing in it is executable; for a Python application write MODULE:NAME, as main:app"),
        _ => failure.hint(format!("it has the executables {}", executables.join(", "))),
    })
}

fn is_identifier(text: &str) -> bool {
    text.chars().all(is_word) && text.chars().next().is_some_and(|c| !c.is_numeric())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn bad(message: String) -> Failure {
    Failure::new(Code::BadEntrypoint, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(text: &str) -> String {
        Entrypoint::parse(text, None).unwrap_err().hint.unwrap()
    }

    fn find(text: &str, files: &[(&str, bool)]) -> Result<String, String> {
        let files = files.iter().map(|(path, executable)| ((*path).to_owned(), *executable)).collect();
        let found = Entrypoint::parse(text, None).unwrap().find(&files, Path::new("src"));
        found.map_err(|failure| format!("{failure} / {}", failure.hint.as_deref().unwrap_or_default()))
    }

    #[test]
    fn mistakes_in_writing_have_a_hint() {
        assert_eq!(hint("main.py:app"), "write it as Python imports it: main:app");
        assert_eq!(hint("./pkg/main:app"), "write it as Python imports it: pkg.main:app");
        for text in ["main:", "main:a b", "main:1app", "main:app.x", "ma-in:app", ":app"] {
            assert!(!hint(text).is_empty(), "{text}");
        }
        for text in ["/bin/sh", "../x", "", "a//b"] {
            assert!(hint(text).contains("MODULE:NAME"), "{text}");
        }
        assert!(Entrypoint::parse("main", Some(Interface::Asgi)).unwrap_err().hint.unwrap().contains("main:app"));
        assert_eq!(Entrypoint::parse("./bin/a", None).unwrap().as_text(), "bin/a");
        assert_eq!(Entrypoint::parse("a.b:app", None).unwrap().as_text(), "a.b:app");
    }

    #[test]
    fn modules_are_files_or_packages() {
        assert_eq!(find("main:app", &[("main.py", false)]).unwrap(), "main.py");
        assert_eq!(find("a.b:app", &[("a/b/__init__.py", false)]).unwrap(), "a/b/__init__.py");
        assert_eq!(find("m:app", &[("m.cpython-311.so", false)]).unwrap(), "m.cpython-311.so");
        let error = find("main:app", &[("src/main.py", false)]).unwrap_err();
        assert!(error.contains("src/src") && error.contains("src.main:app"), "{error}");
        let error = find("main:app", &[("app.py", false), ("util.py", false)]).unwrap_err();
        assert!(error.contains("neither main.py nor main/__init__.py") && error.contains("app, util"), "{error}");
        assert!(find("main:app", &[("README", false)]).unwrap_err().contains("no Python modules"));
    }

    #[test]
    fn binaries_are_executable_files() {
        assert_eq!(find("server", &[("server", true)]).unwrap(), "server");
        assert!(find("server", &[("server", false)]).unwrap_err().contains("chmod +x"));
        assert!(find("main.py", &[("main.py", false)]).unwrap_err().contains("main:NAME"));
        assert!(find("main", &[("main.py", false)]).unwrap_err().contains("main:NAME"));
        assert!(find("server -p 1", &[("server", true)]).unwrap_err().contains("--env"));
        assert!(find("server", &[("bin/server", true)]).unwrap_err().contains("bin/server"));
    }

    #[test]
    fn oddities_are_remarked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("main.py");
        let oddity = |text: &str, entrypoint: &str| {
            std::fs::write(&file, text).unwrap();
            Entrypoint::parse(entrypoint, None).unwrap().oddity(&file, "main.py")
        };
        assert_eq!(oddity("app = FastAPI()", "main:app"), None);
        assert!(oddity("application = FastAPI()", "main:app").unwrap().contains("`app`"));
        assert_eq!(oddity("from x import *", "main:app"), None);
        assert!(oddity("MZ", "main.py").unwrap().contains("Linux executable"));
        assert_eq!(oddity("#!/bin/sh", "main.py"), None);
    }
}
