//! Where the client finds its key and its servers.
//!
//! Each setting is taken from the first of: the flag, the environment, `aleph.toml` in the client's home. The key's last
//! sources are the Python client's: `config.json`, then `private-keys/ethereum.key`. That file is read, and written by
//! `account create` only, in its own format; settings of ours never go into it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use crate::failure::{Code, Failure};
use crate::keys::{PYTHON_CONFIG, PythonConfig};

/// The message node of a network on this machine.
pub const DEFAULT_API_HOST: &str = "http://127.0.0.1:4024";

/// Our settings file, in the client's home.
const CONFIG_FILE: &str = "aleph.toml";

/// The flags that name a setting.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--api-host`
    pub api_host: Option<String>,
    /// `--scheduler-url`
    pub scheduler_url: Option<String>,
    /// `--gateway-url`
    pub gateway_url: Option<String>,
    /// `--private-key`
    pub private_key: Option<Zeroizing<String>>,
    /// `--private-key-file`
    pub private_key_file: Option<PathBuf>,
}

/// The environment's variables. Empty ones count as absent.
#[derive(Debug, Clone, Default)]
pub struct Environment(HashMap<OsString, OsString>);

impl Environment {
    /// The process's.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        let not_text = |_| Failure::new(Code::Config, format!("the environment variable {name} is not UTF-8 text"));
        self.get(name).map(|value| value.clone().into_string().map_err(not_text)).transpose()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Our settings file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    api_host: Option<String>,
    scheduler_url: Option<String>,
    gateway_url: Option<String>,
}

/// Who made a setting what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This flag.
    Flag(&'static str),
    /// This environment variable.
    Variable(&'static str),
    /// Our settings file.
    ConfigFile,
    /// The Python client's settings file.
    PythonConfig,
    /// Nobody.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag(name) | Self::Variable(name) => name,
            Self::ConfigFile => CONFIG_FILE,
            Self::PythonConfig => PYTHON_CONFIG,
            Self::Default => "the default",
        })
    }
}

/// Where the key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Hexadecimal digits, and where they were given.
    Text(Zeroizing<String>, Origin),
    /// A file, and who named it.
    File(PathBuf, Origin),
}

impl KeySource {
    /// Who named the key.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Text(_, origin) | Self::File(_, origin) => *origin,
        }
    }

    /// The key's file, when it is in one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Text(..) => None,
            Self::File(path, _) => Some(path),
        }
    }
}

/// All settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the client's files.
    pub home: PathBuf,
    /// Base URL of the message node.
    pub api_host: String,
    /// Who named the message node.
    pub api_host_origin: Origin,
    /// Base URL of the scheduler, when it is not to be asked from the network.
    pub scheduler_url: Option<String>,
    /// Base URL of the gateway, when it is not to be asked from the network.
    pub gateway_url: Option<String>,
    /// Where the key comes from.
    pub key: KeySource,
    /// What `config.json` says.
    pub python: Option<PythonConfig>,
}

impl Settings {
    /// Puts the settings together.
    ///
    /// # Errors
    /// [`Failure`] that names the file, flag or variable that is wrong.
    pub fn load(flags: &Flags, env: &Environment) -> Result<Self, Failure> {
        let home = home(env)?;
        let file = read_config_file(&home.join(CONFIG_FILE))?;
        let pick = |name: &'static str, flag: &'static str, given: &Option<String>, filed: Option<String>| {
            let found = match (given, env.text(name)?) {
                (Some(url), _) => Some((url.clone(), Origin::Flag(flag))),
                (None, Some(url)) => Some((url, Origin::Variable(name))),
                (None, None) => filed.map(|url| (url, Origin::ConfigFile)),
            };
            found.map(|(url, origin)| Ok((checked_url(&url, origin)?, origin))).transpose()
        };
        let api_host = pick("ALEPH_API_HOST", "--api-host", &flags.api_host, file.api_host)?;
        let (api_host, api_host_origin) = api_host.unwrap_or_else(|| (DEFAULT_API_HOST.to_owned(), Origin::Default));
        let scheduler = pick("ALEPH_SCHEDULER_URL", "--scheduler-url", &flags.scheduler_url, file.scheduler_url)?;
        let gateway = pick("ALEPH_GATEWAY_URL", "--gateway-url", &flags.gateway_url, file.gateway_url)?;
        let python = PythonConfig::read(&home)?;
        Ok(Self {
            key: key_source(flags, env, &home, python.as_ref())?,
            home,
            api_host,
            api_host_origin,
            scheduler_url: scheduler.map(|(url, _)| url),
            gateway_url: gateway.map(|(url, _)| url),
            python,
        })
    }

    /// How to name another message node.
    pub fn how_to_name_a_node(&self) -> String {
        let file = self.home.join(CONFIG_FILE);
        format!("--api-host URL, the variable ALEPH_API_HOST, or `api_host = \"URL\"` in {}", file.display())
    }
}

/// The folder of the client's files: the same rule as the Python client's.
fn home(env: &Environment) -> Result<PathBuf, Failure> {
    if let Some(home) = env.path("ALEPH_CONFIG_HOME") {
        return Ok(home);
    }
    let parent = env.path("XDG_DATA_HOME").or_else(|| env.path("HOME"));
    parent.map(|parent| parent.join(".aleph-im")).ok_or_else(|| {
        Failure::new(Code::Config, "there is no home directory to keep keys in")
            .hint("set ALEPH_CONFIG_HOME to a folder of yours")
    })
}

fn read_config_file(path: &Path) -> Result<ConfigFile, Failure> {
    let failure = |why: String| Failure::new(Code::Config, format!("cannot use {}: {why}", path.display()));
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|e| {
            failure(e.to_string().trim_end().to_owned())
                .hint("it holds only `api_host`, `scheduler_url` and `gateway_url`, each a URL in quotes")
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(ConfigFile::default()),
        Err(e) => Err(failure(e.to_string())),
    }
}

/// A base URL without a slash at the end, or why it is none.
fn checked_url(text: &str, origin: Origin) -> Result<String, Failure> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if url.is_none() {
        return Err(Failure::new(Code::Usage, format!("{origin} is '{text}', which is no URL of a server"))
            .hint(format!("write it with its scheme, as {DEFAULT_API_HOST}")));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn key_source(
    flags: &Flags,
    env: &Environment,
    home: &Path,
    python: Option<&PythonConfig>,
) -> Result<KeySource, Failure> {
    if let Some(key) = &flags.private_key {
        return Ok(KeySource::Text(key.clone(), Origin::Flag("--private-key")));
    }
    if let Some(path) = &flags.private_key_file {
        return Ok(KeySource::File(crate::keys::existing_or_named(home, path), Origin::Flag("--private-key-file")));
    }
    if let Some(key) = env.text("ALEPH_PRIVATE_KEY_STRING")? {
        return Ok(KeySource::Text(Zeroizing::new(key), Origin::Variable("ALEPH_PRIVATE_KEY_STRING")));
    }
    if let Some(path) = env.path("ALEPH_PRIVATE_KEY_FILE") {
        return Ok(KeySource::File(
            crate::keys::existing_or_named(home, &path),
            Origin::Variable("ALEPH_PRIVATE_KEY_FILE"),
        ));
    }
    if let Some(path) = python.and_then(|config| config.path.clone()) {
        return Ok(KeySource::File(path, Origin::PythonConfig));
    }
    Ok(KeySource::File(crate::keys::default_file(home), Origin::Default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &Flags, env: Environment) -> Settings {
        Settings::load(flags, &env).unwrap()
    }

    #[test]
    fn flags_win_over_the_environment_over_the_file_over_the_default() {
        let home = tempfile::tempdir().unwrap();
        let home_path = home.path().to_str().unwrap();
        let none = Flags::default();
        let settings = load(&none, [("ALEPH_CONFIG_HOME", home_path)].into());
        assert_eq!((settings.api_host.as_str(), settings.api_host_origin), (DEFAULT_API_HOST, Origin::Default));
        assert_eq!(settings.scheduler_url, None);

        let text = "api_host = \"http://file:1/\"\nscheduler_url = \"http://file:2\"\ngateway_url = \"https://file\"\n";
        fs::write(home.path().join("aleph.toml"), text).unwrap();
        let settings = load(&none, [("ALEPH_CONFIG_HOME", home_path), ("ALEPH_API_HOST", "")].into());
        assert_eq!((settings.api_host.as_str(), settings.api_host_origin), ("http://file:1", Origin::ConfigFile));
        assert_eq!(settings.scheduler_url.as_deref(), Some("http://file:2"));
        assert_eq!(settings.gateway_url.as_deref(), Some("https://file"));

        let env: Environment = [("ALEPH_CONFIG_HOME", home_path), ("ALEPH_API_HOST", "http://env:1")].into();
        assert_eq!(load(&none, env.clone()).api_host, "http://env:1");
        let flags = Flags { api_host: Some("http://flag:1".into()), ..Flags::default() };
        assert_eq!(load(&flags, env).api_host, "http://flag:1");
    }

    #[test]
    fn the_home_is_the_python_clients() {
        let of = |env: Environment| home(&env).unwrap();
        assert_eq!(of([("ALEPH_CONFIG_HOME", "/c"), ("XDG_DATA_HOME", "/x")].into()), Path::new("/c"));
        assert_eq!(of([("XDG_DATA_HOME", "/x"), ("HOME", "/h")].into()), Path::new("/x/.aleph-im"));
        assert_eq!(of([("HOME", "/h")].into()), Path::new("/h/.aleph-im"));
        assert!(home(&[].into()).unwrap_err().hint.unwrap().contains("ALEPH_CONFIG_HOME"));
    }

    #[test]
    fn mistakes_are_named() {
        let home = tempfile::tempdir().unwrap();
        let env: Environment = [("ALEPH_CONFIG_HOME", home.path().to_str().unwrap())].into();
        for url in ["localhost:4024", "127.0.0.1:4024", "ftp://x", "http://"] {
            let flags = Flags { api_host: Some(url.into()), ..Flags::default() };
            let failure = Settings::load(&flags, &env).unwrap_err();
            assert!(failure.message.contains("--api-host") && failure.code == Code::Usage, "{url}: {failure}");
        }
        fs::write(home.path().join("aleph.toml"), "api_hots = \"x\"\n").unwrap();
        let failure = Settings::load(&Flags::default(), &env).unwrap_err();
        assert!(failure.message.contains("aleph.toml") && failure.message.contains("api_hots"), "{failure}");
    }

    #[test]
    fn the_key_comes_from_the_first_source_that_names_one() {
        let home = tempfile::tempdir().unwrap();
        let home_path = home.path().to_str().unwrap();
        let of = |flags: &Flags, extra: &[(&str, &str)]| {
            let mut pairs: HashMap<OsString, OsString> = extra.iter().map(|(n, v)| (n.into(), v.into())).collect();
            pairs.insert("ALEPH_CONFIG_HOME".into(), home_path.into());
            Settings::load(flags, &Environment(pairs)).unwrap().key
        };
        let none = Flags::default();
        let default = home.path().join("private-keys/ethereum.key");
        assert_eq!(of(&none, &[]), KeySource::File(default, Origin::Default));

        fs::write(home.path().join("config.json"), r#"{"path": null, "type": "imported", "chain": "ETH"}"#).unwrap();
        assert!(matches!(of(&none, &[]), KeySource::File(_, Origin::Default)));
        fs::write(home.path().join("config.json"), r#"{"path": "/k/other.key", "type": "imported", "chain": "ETH"}"#)
            .unwrap();
        assert_eq!(of(&none, &[]), KeySource::File("/k/other.key".into(), Origin::PythonConfig));

        let file = [("ALEPH_PRIVATE_KEY_FILE", "/e.key")];
        assert_eq!(of(&none, &file), KeySource::File("/e.key".into(), Origin::Variable("ALEPH_PRIVATE_KEY_FILE")));
        let both = [("ALEPH_PRIVATE_KEY_FILE", "/e.key"), ("ALEPH_PRIVATE_KEY_STRING", "aa")];
        assert!(matches!(of(&none, &both), KeySource::Text(_, Origin::Variable(_))));
        let flags = Flags { private_key_file: Some("/f.key".into()), ..Flags::default() };
        assert_eq!(of(&flags, &both), KeySource::File("/f.key".into(), Origin::Flag("--private-key-file")));
        let flags = Flags { private_key: Some(Zeroizing::new("bb".into())), ..flags };
        assert!(matches!(of(&flags, &both), KeySource::Text(_, Origin::Flag("--private-key"))));
    }
}
