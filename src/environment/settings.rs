//! What a bootstrap does and how long it may take: the settings, and the table of their keys.
//!
//! A key is one entry of [`KEYS`]. From it come the reading of `bootstrap.toml` ([`super::toml_file`]), the flag `--set KEY=VALUE`,
//! the variable `CLUSTER_INIT_KEY` ([`super::overrides`]), and the reference in `docs/settings.md` ([`super::reference`]).

use std::time::Duration;

use super::error::nearest;
use crate::capi::Fence;
use crate::git;

/// The file's name, in the repository's root.
pub const SETTINGS: &str = "bootstrap.toml";

/// What makes the bootstrap cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Plain processes on this host.
    Local,
    /// Containers of the local Docker.
    Kind,
}

/// What the management cluster's machines are, as far as this host has to do with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Machines {
    /// Anything that needs nothing of this host beside the bootstrap cluster.
    Any,
    /// Containers of the local Docker.
    Docker,
}

/// How the commit reaches the clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// As an artifact in the registry of each cluster.
    Oci,
    /// From a Git server that every cluster reaches.
    Git,
}

/// Where a Git source is, as far as the settings say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSettings {
    /// The URL; without it that of the remote `origin`.
    pub url: Option<String>,
    /// The branch; without it the one that is checked out.
    pub branch: Option<String>,
    /// Whether the management cluster follows the branch once it manages itself.
    pub follow: bool,
    /// The file with the server's certificate authority, from the repository's root.
    pub ca_file: Option<String>,
    /// The file with the keys that the server is told by over SSH, from the repository's root.
    pub known_hosts_file: Option<String>,
}

/// What kind is told about its cluster, as far as the settings say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindSettings {
    /// The port of its API server on the daemon's host; 0 for any that is free.
    pub api_port: u16,
    /// Feature gates of Kubernetes (`NAME=true`).
    pub feature_gates: Vec<String>,
    /// Folders and files of the daemon's host in its node (`HOST:NODE` or `HOST:NODE:ro`).
    pub mounts: Vec<String>,
}

/// The settings of one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What makes the bootstrap cluster.
    pub backend: Backend,
    /// What the management cluster's machines are.
    pub machines: Machines,
    /// How the commit reaches the clusters.
    pub source: Source,
    /// Where it is, when the source is Git.
    pub git: GitSettings,
    /// What kind is told, when it makes the bootstrap cluster.
    pub kind: KindSettings,
    /// How long the whole bootstrap may take.
    pub deadline: Duration,
    /// How long nothing may change before the run counts as hanging.
    pub no_progress: Duration,
    /// The folders of the repository that make up the source artifact.
    pub publish: Vec<String>,
    /// How others are kept from the Cluster API objects while they move.
    pub fence: Fence,
    /// Preflight checks that are left out.
    pub skip_checks: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backend: Backend::Local,
            machines: Machines::Any,
            source: Source::Oci,
            git: GitSettings::default(),
            kind: KindSettings::default(),
            deadline: Duration::from_mins(45),
            no_progress: Duration::from_mins(10),
            publish: vec![crate::flux::COMPONENTS.into()],
            fence: Fence::default(),
            skip_checks: Vec::new(),
        }
    }
}

/// The preflight checks, in the order in which they are run; `cluster` is one of `apply` only.
pub const CHECKS: [&str; 9] =
    ["bundle", "environment", "source", "cluster", "disk", "inotify", "docker", "ports", "leftovers"];

/// The values of a key that has but a few, by their names.
type Choices<T> = [(&'static str, T)];

const BACKENDS: &Choices<Backend> = &[("local", Backend::Local), ("kind", Backend::Kind)];
const MACHINES: &Choices<Machines> = &[("any", Machines::Any), ("docker", Machines::Docker)];
const SOURCES: &Choices<Source> = &[("oci", Source::Oci), ("git", Source::Git)];
const FENCES: &Choices<Fence> = &[("pause", Fence::Pause), ("stop", Fence::Stop)];

/// A key of `bootstrap.toml`.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its values are, for the reference.
    pub takes: &'static str,
    /// What it is about, for the reference.
    pub says: &'static str,
    /// Its value as TOML.
    pub get: fn(&Settings) -> String,
    /// Takes a value over.
    pub(super) set: fn(&mut Settings, &Written) -> Result<(), Wrong>,
}

/// All keys, in the order of the reference.
pub const KEYS: &[Key] = &[
    Key {
        name: "backend",
        takes: "`local` or `kind`",
        says: "What makes the bootstrap cluster: plain processes on this host, or a container of the local Docker.",
        get: |all| name(BACKENDS, all.backend),
        set: |all, value| value.choice(BACKENDS).map(|backend| all.backend = backend),
    },
    Key {
        name: "machines",
        takes: "`any` or `docker`",
        says: "What the management cluster's machines are: `docker` for containers of the local Docker, which get a registry beside them.",
        get: |all| name(MACHINES, all.machines),
        set: |all, value| value.choice(MACHINES).map(|machines| all.machines = machines),
    },
    Key {
        name: "source",
        takes: "`oci` or `git`",
        says: "How the commit reaches the clusters: as an artifact in the registry of each, or from a Git server that all of them reach. With `oci` the chart's value `source` must say so, too.",
        get: |all| name(SOURCES, all.source),
        set: |all, value| value.choice(SOURCES).map(|source| all.source = source),
    },
    Key {
        name: "git_url",
        takes: "a URL of https or ssh",
        says: "The Git server's repository, without credentials: these are the variables GITLAB_USER and GITLAB_TOKEN, or GITLAB_SSH_KEY (a private key without passphrase, or the path of its file). Without it, that of the remote `origin`.",
        get: |all| text(all.git.url.as_ref()),
        set: |all, value| value.url().map(|url| all.git.url = url),
    },
    Key {
        name: "git_branch",
        takes: "a branch",
        says: "The branch that holds the commit. Without it, the one that is checked out.",
        get: |all| text(all.git.branch.as_ref()),
        set: |all, value| value.branch().map(|branch| all.git.branch = branch),
    },
    Key {
        name: "git_follow",
        takes: "`true` or `false`",
        says: "Whether the management cluster follows the branch once it manages itself.",
        get: |all| all.git.follow.to_string(),
        set: |all, value| value.switch().map(|follow| all.git.follow = follow),
    },
    Key {
        name: "git_ca_file",
        takes: "a file",
        says: "Certificates of the Git server's private authority in PEM, from the repository's root.",
        get: |all| text(all.git.ca_file.as_ref()),
        set: |all, value| value.some().map(|file| all.git.ca_file = file),
    },
    Key {
        name: "git_known_hosts_file",
        takes: "a file",
        says: "The Git server's host keys as in `~/.ssh/known_hosts`, from the repository's root. Over SSH it must be there.",
        get: |all| text(all.git.known_hosts_file.as_ref()),
        set: |all, value| value.some().map(|file| all.git.known_hosts_file = file),
    },
    Key {
        name: "kind_api_port",
        takes: "a port",
        says: "For backend `kind`: the port of its API server on the daemon's host; 0 for any that is free.",
        get: |all| all.kind.api_port.to_string(),
        set: |all, value| value.port().map(|port| all.kind.api_port = port),
    },
    Key {
        name: "kind_feature_gates",
        takes: "a list of `NAME=true` and `NAME=false`",
        says: "For backend `kind`: feature gates of Kubernetes.",
        get: |all| list(&all.kind.feature_gates),
        set: |all, value| value.gates().map(|gates| all.kind.feature_gates = gates),
    },
    Key {
        name: "kind_mounts",
        takes: "a list of `HOST:NODE` and `HOST:NODE:ro`",
        says: "For backend `kind`: files and folders of the daemon's host that its node has, too. The docker socket is there where machines are containers.",
        get: |all| list(&all.kind.mounts),
        set: |all, value| value.mounts().map(|mounts| all.kind.mounts = mounts),
    },
    Key {
        name: "publish",
        takes: "a list of folders",
        says: "The folders of the repository that make up the source artifact.",
        get: |all| list(&all.publish),
        set: |all, value| value.list().map(|folders| all.publish = folders),
    },
    Key {
        name: "deadline",
        takes: "a duration",
        says: "The whole bootstrap must be done by then.",
        get: |all| duration(all.deadline),
        set: |all, value| value.duration().map(|limit| all.deadline = limit),
    },
    Key {
        name: "no_progress",
        takes: "a duration",
        says: "Nothing changed for so long: it hangs, and the run fails with what it was waiting for.",
        get: |all| duration(all.no_progress),
        set: |all, value| value.duration().map(|limit| all.no_progress = limit),
    },
    Key {
        name: "fence",
        takes: "`pause` or `stop`",
        says: "How others are kept from the Cluster API objects while they move: their Clusters are paused; with `stop` the bootstrap cluster's providers are stopped besides.",
        get: |all| name(FENCES, all.fence),
        set: |all, value| value.choice(FENCES).map(|fence| all.fence = fence),
    },
    Key {
        name: "skip_checks",
        takes: "a list of `bundle`, `environment`, `source`, `cluster`, `disk`, `inotify`, `docker`, `ports`, `leftovers`",
        says: "Preflight checks that are left out.",
        get: |all| list(&all.skip_checks),
        set: |all, value| {
            let names = value.list()?;
            if let Some(unknown) = names.iter().find(|name| !CHECKS.contains(&name.as_str())) {
                return Err(Wrong::unknown("preflight check", unknown, &CHECKS));
            }
            all.skip_checks = names;
            Ok(())
        },
    },
];

/// A value as it was written.
#[derive(Clone, Debug)]
pub(super) enum Written {
    /// A text of TOML.
    Text(String),
    /// A boolean of TOML.
    Switch(bool),
    /// An integer of TOML, in digits.
    Number(String),
    /// A list of TOML with texts only.
    List(Vec<String>),
    /// Anything else of TOML.
    Other,
    /// The text of a flag or of a variable; a list is written with commas.
    Plain(String),
}

/// What is wrong with a key or its value, and what to do about it.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Wrong {
    /// A word that is none of the known ones.
    pub(super) fn unknown(what: &str, word: &str, known: &[&str]) -> Self {
        let remedy = match nearest(word, known.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known: {}", known.join(", ")),
        };
        Self { message: format!("unknown {what} {word}"), remedy }
    }

    fn kind(message: &str, remedy: &str) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

impl Written {
    fn text(&self) -> Result<&str, Wrong> {
        match self {
            Self::Text(text) | Self::Plain(text) => Ok(text),
            _ => Err(Wrong::kind("it is no text", "write it in quotes")),
        }
    }

    /// A text that may be left empty.
    fn some(&self) -> Result<Option<String>, Wrong> {
        Ok(Some(self.text()?.to_owned()).filter(|text| !text.is_empty()))
    }

    fn switch(&self) -> Result<bool, Wrong> {
        match self {
            Self::Switch(on) => Ok(*on),
            Self::Plain(text) if text == "true" || text == "false" => Ok(text == "true"),
            _ => Err(Wrong::kind("it is neither true nor false", "write true or false, without quotes")),
        }
    }

    fn port(&self) -> Result<u16, Wrong> {
        let (Self::Number(text) | Self::Plain(text)) = self else {
            return Err(Wrong::kind("it is no number", "write it without quotes"));
        };
        text.parse().map_err(|_| Wrong::kind(&format!("{text} is no port"), "write a number up to 65535"))
    }

    fn gates(&self) -> Result<Vec<String>, Wrong> {
        let is_name = |name: &str| name.starts_with(char::is_alphabetic) && name.chars().all(char::is_alphanumeric);
        self.list_of("feature gate", "write NAME=true or NAME=false", |gate| {
            gate.split_once('=').is_some_and(|(name, on)| is_name(name) && matches!(on, "true" | "false"))
        })
    }

    fn mounts(&self) -> Result<Vec<String>, Wrong> {
        let remedy = "write /PATH/ON/HOST:/PATH/IN/NODE, with :ro behind it where nothing is to be written";
        self.list_of("mount", remedy, |mount| {
            let parts: Vec<&str> = mount.split(':').collect();
            matches!(parts[..], [host, node] | [host, node, "ro"] if host.starts_with('/') && node.starts_with('/'))
        })
    }

    fn list_of(&self, what: &str, remedy: &str, is: impl Fn(&str) -> bool) -> Result<Vec<String>, Wrong> {
        let all = self.list()?;
        match all.iter().find(|one| !is(one)) {
            Some(wrong) => Err(Wrong::kind(&format!("{wrong:?} is no {what}"), remedy)),
            None => Ok(all),
        }
    }

    /// A URL that clusters can read, without credentials: these come from variables.
    fn url(&self) -> Result<Option<String>, Wrong> {
        const SHAPES: &str = "https://HOST/PATH.git or ssh://git@HOST/PATH.git";
        let Some(text) = self.some()?.map(|text| git::spelled_out(&text)) else { return Ok(None) };
        let Some((scheme @ ("https" | "ssh"), rest)) = text.split_once("://") else {
            let message = format!("{text:?} begins neither with https:// nor with ssh://");
            return Err(Wrong::kind(&message, &format!("write the URL that the clusters can read: {SHAPES}")));
        };
        match (scheme, rest.split('/').next().unwrap_or_default().rsplit_once('@')) {
            ("ssh", None) => {
                return Err(Wrong::kind("it names no user", "write whom the server knows: ssh://git@HOST/PATH.git"));
            }
            ("ssh", Some((user, _))) if user.contains(':') => {
                return Err(Wrong::kind("it holds a password", "take it out, and set GITLAB_SSH_KEY"));
            }
            ("https", Some(_)) => {
                return Err(Wrong::kind("it holds credentials", "take them out, and set GITLAB_USER and GITLAB_TOKEN"));
            }
            _ => {}
        }
        if text.chars().any(|c| c.is_whitespace() || c == '#' || c == '$') || text.parse::<http::Uri>().is_err() {
            return Err(Wrong::kind(&format!("{text:?} is no URL"), &format!("write {SHAPES}")));
        }
        Ok(Some(text))
    }

    fn branch(&self) -> Result<Option<String>, Wrong> {
        match self.some()? {
            Some(text) if !git::is_branch(&text) => {
                Err(Wrong::kind(&format!("{text:?} is no name of a branch"), "git branch --list shows them"))
            }
            branch => Ok(branch),
        }
    }

    fn list(&self) -> Result<Vec<String>, Wrong> {
        match self {
            Self::List(items) => Ok(items.clone()),
            Self::Plain(text) => {
                Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
            }
            _ => Err(Wrong::kind("it is no list of texts", "write a list: [\"a\", \"b\"]")),
        }
    }

    fn choice<T: Copy>(&self, choices: &Choices<T>) -> Result<T, Wrong> {
        let text = self.text()?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        found.ok_or_else(|| Wrong::unknown("value", &format!("{text:?}"), &names()))
    }

    fn duration(&self) -> Result<Duration, Wrong> {
        let text = self.text()?;
        let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        parsed
            .filter(|duration| !duration.is_zero())
            .ok_or_else(|| Wrong::kind(&format!("{text:?} is no duration"), "write 90s, 45m or 1h30m"))
    }
}

fn name<T: Copy + PartialEq>(choices: &Choices<T>, value: T) -> String {
    let found = choices.iter().find(|(_, choice)| *choice == value);
    format!("{:?}", found.map_or("", |(name, _)| name))
}

fn text(value: Option<&String>) -> String {
    format!("{:?}", value.map_or("", String::as_str))
}

fn list(items: &[String]) -> String {
    format!("{items:?}")
}

fn duration(value: Duration) -> String {
    let value = jiff::SignedDuration::try_from(value).unwrap_or_default();
    format!("\"{value:#}\"")
}

impl Settings {
    /// Gives a key another value.
    pub(super) fn set(&mut self, key: &str, value: &Written) -> Result<(), Wrong> {
        match KEYS.iter().find(|known| known.name == key) {
            Some(known) => (known.set)(self, value),
            None => Err(Wrong::unknown("key", key, &names())),
        }
    }
}

/// The names of all keys.
pub fn names() -> Vec<&'static str> {
    KEYS.iter().map(|key| key.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_takes_its_own_default() {
        for key in KEYS {
            let default = (key.get)(&Settings::default());
            let text = default.trim_matches(['"', '[', ']']).replace('"', "");
            let mut settings = Settings::default();
            settings.set(key.name, &Written::Plain(text)).unwrap_or_else(|wrong| panic!("{}: {wrong:?}", key.name));
            assert_eq!(settings, Settings::default(), "{}", key.name);
        }
    }

    #[test]
    fn the_reference_names_every_choice() {
        let takes = |name: &str| KEYS.iter().find(|key| key.name == name).unwrap().takes;
        let all = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
        assert_eq!(takes("skip_checks"), format!("a list of {}", all(&CHECKS).join(", ")));
        assert_eq!(takes("backend"), all(&["local", "kind"]).join(" or "));
    }
}
