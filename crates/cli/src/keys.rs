//! Key files and `config.json`, in the Python client's format: either client reads what the other wrote.
//!
//! A key file is 32 raw bytes in `private-keys/<name>.key`. `config.json` names the one in use and its chain.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use chrono::Utc;
use protocol::Account;
use protocol::account::AccountError;
use protocol::message::Chain;
use serde::{Deserialize, Serialize};

use crate::failure::{Code, Failure};
use crate::settings::{KeySource, Origin, Settings};

/// The folder of key files, in the client's home.
const KEYS_FOLDER: &str = "private-keys";
/// The key that is used when none is named.
const DEFAULT_KEY: &str = "ethereum.key";
/// A link to the first key; the Python client makes it too.
const DEFAULT_LINK: &str = "default.key";
/// The Python client's settings.
pub const PYTHON_CONFIG: &str = "config.json";

/// The key file that is used when none is named.
pub fn default_file(home: &Path) -> PathBuf {
    home.join(KEYS_FOLDER).join(DEFAULT_KEY)
}

/// The file of a key that is named as the Python client allows: `name`, `name.key` or a path.
pub fn named_file(home: &Path, name: &Path) -> PathBuf {
    let mut file = name.as_os_str().to_owned();
    if name.extension().is_none_or(|extension| extension != "key") {
        file.push(".key");
    }
    let file = PathBuf::from(file);
    if is_bare(&file) { home.join(KEYS_FOLDER).join(file) } else { file }
}

/// The file that is meant for reading: the path itself when it is there, otherwise the key of that name.
pub fn existing_or_named(home: &Path, path: &Path) -> PathBuf {
    let by_name = named_file(home, path);
    if path.exists() || (!is_bare(path) && !by_name.exists()) { path.to_owned() } else { by_name }
}

fn is_bare(path: &Path) -> bool {
    path.parent().is_none_or(|parent| parent.as_os_str().is_empty())
}

/// What `config.json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonConfig {
    /// The key file in use.
    pub path: Option<PathBuf>,
    /// The chain's name as it is written.
    pub chain: Option<String>,
    /// Whether the key is in a hardware wallet, which this client cannot use.
    pub hardware: bool,
}

/// `config.json` as it is on disk. All five fields are written, as the Python client does.
#[derive(Debug, Serialize, Deserialize)]
struct RawConfig {
    #[serde(default)]
    path: Option<PathBuf>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    chain: Option<String>,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    derivation_path: Option<String>,
}

impl PythonConfig {
    /// Reads `config.json`; `None` when there is none, or an empty one.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be read: guessing another key would sign with the wrong one.
    pub fn read(home: &Path) -> Result<Option<Self>, Failure> {
        let file = home.join(PYTHON_CONFIG);
        let failure = |why: String| {
            Failure::new(Code::Config, format!("cannot use {}: {why}", file.display()))
                .hint("correct it, or remove it and run `aleph account create`")
        };
        let text = match fs::read_to_string(&file) {
            Ok(text) if text.trim().is_empty() => return Ok(None),
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failure(e.to_string())),
        };
        let raw: RawConfig = serde_json::from_str(&text).map_err(|e| failure(e.to_string()))?;
        // `external` and `internal` are what older versions wrote. Without a type, an address alone means a wallet.
        let hardware = match raw.kind.as_deref() {
            Some(kind) => kind.eq_ignore_ascii_case("hardware") || kind.eq_ignore_ascii_case("external"),
            None => raw.path.is_none() && raw.address.is_some(),
        };
        Ok(Some(Self { path: raw.path.filter(|_| !hardware), chain: raw.chain, hardware }))
    }

    /// Makes a key file the one in use.
    ///
    /// # Errors
    /// [`Failure`] when `config.json` cannot be written; it is then as it was before.
    pub fn write(home: &Path, key: &Path, chain: &Chain) -> Result<(), Failure> {
        let raw = RawConfig {
            path: Some(key.to_owned()),
            kind: Some("imported".to_owned()),
            chain: Some(chain.to_string()),
            address: None,
            derivation_path: None,
        };
        let write = || -> io::Result<()> {
            create_private_folder(home)?;
            let mut file = tempfile::NamedTempFile::new_in(home)?;
            let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            raw.serialize(&mut serde_json::Serializer::with_formatter(&mut file, format))?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(home.join(PYTHON_CONFIG))?;
            Ok(())
        };
        let file = home.join(PYTHON_CONFIG);
        write().map_err(|e| Failure::new(Code::Config, format!("cannot write {}: {e}", file.display())))
    }
}

/// A chain from the name that messages and the Python client use, as `ETH`.
///
/// # Errors
/// [`Failure`] when it is unknown or its keys are not Ethereum's.
pub fn parse_chain(name: &str) -> Result<Chain, Failure> {
    let failure = |why| {
        Failure::new(Code::Config, format!("the chain '{name}' {why}"))
            .hint("use ETH, or another chain with Ethereum's keys, as BASE, AVAX or ARB")
    };
    let chain: Chain = serde_json::from_value(name.to_ascii_uppercase().into()).map_err(|_| failure("is unknown"))?;
    if chain.is_evm() { Ok(chain) } else { Err(failure("has keys that this client cannot use")) }
}

/// Loads the account that the settings name; `None` when its key file does not exist.
///
/// # Errors
/// [`Failure`] when there is a key that cannot be used.
pub fn load(settings: &Settings) -> Result<Option<Account>, Failure> {
    let python = settings.python.as_ref();
    let origin = settings.key.origin();
    let key = match &settings.key {
        KeySource::Text(text, _) => Account::from_hex(text).map_err(|e| not_usable(&origin.to_string(), &e))?,
        KeySource::File(path, _) => match read_file(path, origin)? {
            Some(account) => account,
            None if python.is_some_and(|config| config.hardware) => return Err(hardware(&settings.home)),
            None => return Ok(None),
        },
    };
    let chain = match python.and_then(|config| config.chain.as_deref()).map(parse_chain) {
        Some(Ok(chain)) => chain,
        // The config speaks of its own key only.
        Some(Err(failure)) if matches!(origin, Origin::PythonConfig | Origin::Default) => return Err(failure),
        _ => Chain::Ethereum,
    };
    Account::on_chain(chain, &key.secret()[..]).map(Some).map_err(|e| not_usable(&origin.to_string(), &e))
}

fn read_file(path: &Path, origin: Origin) -> Result<Option<Account>, Failure> {
    match Account::from_file(path) {
        Ok(account) => Ok(Some(account)),
        Err(AccountError::File { source: e, .. }) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e @ AccountError::File { .. }) => Err(Failure::new(Code::NoKey, e.to_string())),
        Err(e) => Err(not_usable(&format!("{} ({origin})", path.display()), &e)),
    }
}

/// A key that is none.
pub fn not_usable(source: &str, error: &AccountError) -> Failure {
    Failure::new(Code::NoKey, format!("the key of {source} cannot be used: {error}"))
        .hint("a key is 64 hexadecimal digits, or a file of 32 bytes; `aleph account create` makes one")
}

fn hardware(home: &Path) -> Failure {
    Failure::new(
        Code::NoKey,
        format!("{} names a hardware wallet, which this client cannot use", home.join(PYTHON_CONFIG).display()),
    )
    .hint("name a key file with --private-key-file, or make one with `aleph account create`")
}

/// What to say when there is no key.
pub fn no_key(settings: &Settings) -> Failure {
    let message = match &settings.key {
        KeySource::File(path, origin) => format!("there is no key: {} ({origin}) does not exist", path.display()),
        KeySource::Text(_, origin) => format!("there is no key in {origin}"),
    };
    Failure::new(Code::NoKey, message).hint(
        "run `aleph account create`, or name a key with --private-key-file FILE or the variable ALEPH_PRIVATE_KEY_STRING",
    )
}

/// Writes a new key file that only its owner can read. An existing file is kept under another name when `replace` says
/// so; its new name is returned.
///
/// # Errors
/// [`Failure`] with [`Code::KeyExists`] when the file exists and must not be replaced, or when it cannot be written.
pub fn store(account: &Account, path: &Path, replace: bool) -> Result<Option<PathBuf>, Failure> {
    let failure = |e: &dyn std::fmt::Display| Failure::new(Code::Failed, format!("cannot write the key: {e}"));
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        create_private_folder(folder).map_err(|e| failure(&e))?;
    }
    let mut kept = None;
    if fs::symlink_metadata(path).is_ok() {
        if !replace {
            return Err(Failure::new(Code::KeyExists, format!("there is a key already: {}", path.display())).hint(
                "use it as it is, name another with --private-key-file NAME, or pass --replace (the old key is kept under another name)",
            ));
        }
        let backup = free_backup_name(path);
        fs::rename(path, &backup).map_err(|e| failure(&e))?;
        kept = Some(backup);
    }
    if let Err(e) = account.write_file(path) {
        if let Some(backup) = &kept {
            fs::rename(backup, path).map_err(|e| failure(&e))?;
        }
        return Err(failure(&e));
    }
    Ok(kept)
}

/// Links `default.key` to this key, as the Python client does for its first key. An existing link that works stays.
///
/// # Errors
/// [`io::Error`] when the link cannot be made.
pub fn link_default(home: &Path, key: &Path) -> io::Result<()> {
    let link = home.join(KEYS_FOLDER).join(DEFAULT_LINK);
    if link.exists() {
        return Ok(());
    }
    if fs::symlink_metadata(&link).is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(key, link)
}

fn free_backup_name(path: &Path) -> PathBuf {
    let stamp = Utc::now().format("%Y%m%dT%H%M%SZ");
    (0u32..)
        .map(|n| {
            let mut name = path.as_os_str().to_owned();
            name.push(if n == 0 { format!(".{stamp}.bak") } else { format!(".{stamp}-{n}.bak") });
            PathBuf::from(name)
        })
        .find(|name| fs::symlink_metadata(name).is_err())
        .expect("one of four billion names is free")
}

fn create_private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::settings::{Environment, Flags};

    fn settings(home: &Path) -> Settings {
        Settings::load(&Flags::default(), &Environment::from([("ALEPH_CONFIG_HOME", home.to_str().unwrap())])).unwrap()
    }

    #[test]
    fn names_become_files_of_the_keys_folder() {
        let home = Path::new("/h");
        assert_eq!(named_file(home, Path::new("test")), Path::new("/h/private-keys/test.key"));
        assert_eq!(named_file(home, Path::new("test.key")), Path::new("/h/private-keys/test.key"));
        assert_eq!(named_file(home, Path::new("./test.key")), Path::new("./test.key"));
        assert_eq!(named_file(home, Path::new("/k/a")), Path::new("/k/a.key"));
    }

    #[test]
    fn the_config_is_what_the_python_client_writes() {
        let home = tempfile::tempdir().unwrap();
        PythonConfig::write(home.path(), Path::new("/k/test.key"), &Chain::Ethereum).unwrap();
        let text = fs::read_to_string(home.path().join("config.json")).unwrap();
        let expected = "{\n    \"path\": \"/k/test.key\",\n    \"type\": \"imported\",\n    \"chain\": \"ETH\",\n    \
                        \"address\": null,\n    \"derivation_path\": null\n}";
        assert_eq!(text, expected);
        let read = PythonConfig::read(home.path()).unwrap().unwrap();
        let expected = PythonConfig { path: Some("/k/test.key".into()), chain: Some("ETH".into()), hardware: false };
        assert_eq!(read, expected);
    }

    #[test]
    fn older_configs_and_wallets_are_understood() {
        let home = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            fs::write(home.path().join("config.json"), text).unwrap();
            PythonConfig::read(home.path())
        };
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read(r#"{"path": "/k", "chain": "ETH"}"#).unwrap().unwrap().path, Some("/k".into()));
        assert!(
            read(r#"{"path": null, "type": "hardware", "chain": "ETH", "address": "0x1"}"#).unwrap().unwrap().hardware
        );
        assert!(read("{").unwrap_err().message.contains("config.json"));

        read(r#"{"path": null, "type": "hardware", "chain": "ETH", "address": "0x1"}"#).unwrap();
        assert!(load(&settings(home.path())).unwrap_err().message.contains("hardware wallet"));
    }

    #[test]
    fn keys_are_loaded_with_the_chain_of_the_config() {
        let home = tempfile::tempdir().unwrap();
        assert!(load(&settings(home.path())).unwrap().is_none(), "no key is made silently");
        assert!(!default_file(home.path()).exists());

        let account = Account::generate();
        store(&account, &default_file(home.path()), false).unwrap();
        let loaded = load(&settings(home.path())).unwrap().unwrap();
        assert_eq!((loaded.address(), loaded.chain()), (account.address(), Chain::Ethereum));

        let config = |chain: &str| {
            let text = format!(r#"{{"path": null, "type": "imported", "chain": "{chain}"}}"#);
            fs::write(home.path().join("config.json"), text).unwrap();
            load(&settings(home.path()))
        };
        assert_eq!(config("AVAX").unwrap().unwrap().chain(), Chain::Avax);
        assert!(config("SOL").unwrap_err().message.contains("SOL"));
        assert!(config("MOON").unwrap_err().message.contains("MOON"));
    }

    #[test]
    fn replaced_keys_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = default_file(home.path());
        let (first, second) = (Account::generate(), Account::generate());
        assert_eq!(store(&first, &path, false).unwrap(), None);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(store(&second, &path, false).unwrap_err().code, Code::KeyExists);
        let backup = store(&second, &path, true).unwrap().unwrap();
        assert_eq!(Account::from_file(&backup).unwrap().address(), first.address());
        assert_eq!(Account::from_file(&path).unwrap().address(), second.address());
        let other = store(&first, &path, true).unwrap().unwrap();
        assert_ne!(other, backup);

        link_default(home.path(), &path).unwrap();
        link_default(home.path(), Path::new("/elsewhere")).unwrap();
        assert_eq!(fs::read_link(home.path().join("private-keys/default.key")).unwrap(), path);
    }
}
