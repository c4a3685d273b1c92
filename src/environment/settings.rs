//! `bootstrap.toml`: what a bootstrap does and how long it may take.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::nearest;
use super::{Error, Result};
use crate::{fsx, git};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
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
    /// How long the whole bootstrap may take.
    pub deadline: Duration,
    /// How long nothing may change before the run counts as hanging.
    pub no_progress: Duration,
    /// The folders of the repository that make up the source artifact.
    pub publish: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backend: Backend::Local,
            machines: Machines::Any,
            source: Source::Oci,
            git: GitSettings::default(),
            deadline: Duration::from_mins(45),
            no_progress: Duration::from_mins(10),
            publish: vec![crate::flux::COMPONENTS.into()],
        }
    }
}

const KEYS: [&str; 10] = [
    "backend",
    "machines",
    "source",
    "git_url",
    "git_branch",
    "git_follow",
    "git_ca_file",
    "deadline",
    "no_progress",
    "publish",
];
/// The backends by their names.
const BACKENDS: [(&str, Backend); 2] = [("local", Backend::Local), ("kind", Backend::Kind)];
/// What machines may be, by their names.
const MACHINES: [(&str, Machines); 2] = [("any", Machines::Any), ("docker", Machines::Docker)];

/// The sources by their names.
const SOURCES: [(&str, Source); 2] = [("oci", Source::Oci), ("git", Source::Git)];

/// A file that is being read.
struct File<'a> {
    name: &'a str,
    /// The folder that paths in it begin at.
    root: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn wrong(&self, at: Option<usize>, message: impl Into<String>) -> Error {
        let line = at.map(|at| self.text.get(..at).unwrap_or_default().lines().count().max(1));
        // A span that begins a line counts the lines before it.
        let starts = at.is_some_and(|at| at > 0 && self.text.as_bytes().get(at - 1) == Some(&b'\n'));
        Error::Settings {
            file: self.name.to_owned(),
            line: line.map(|line| line + usize::from(starts)),
            message: message.into(),
        }
    }

    fn unknown(&self, at: usize, what: &str, name: &str, known: &[&str]) -> Error {
        let guess = nearest(name, known.iter().copied());
        let guess = guess.map_or(format!("known: {}", known.join(", ")), |near| format!("did you mean {near}?"));
        self.wrong(Some(at), format!("unknown {what} {name} ({guess})"))
    }

    fn table<'t, 'i>(&self, value: &'t Spanned<DeValue<'i>>, name: &str) -> Result<&'t DeTable<'i>> {
        value.get_ref().as_table().ok_or_else(|| self.wrong(Some(value.span().start), format!("{name} is no table")))
    }

    fn text(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String> {
        let text = value.get_ref().as_str();
        text.map(str::to_owned).ok_or_else(|| self.wrong(Some(value.span().start), format!("{key} is no text")))
    }

    fn choice<T: Copy>(&self, key: &str, value: &Spanned<DeValue<'_>>, choices: &[(&str, T)]) -> Result<T> {
        let text = self.text(key, value)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        found.ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.wrong(Some(value.span().start), format!("{key}: unknown value {text:?}: use {}", names.join(" or ")))
        })
    }

    fn switch(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<bool> {
        let found = value.get_ref().as_bool();
        found.ok_or_else(|| self.wrong(Some(value.span().start), format!("{key} is neither true nor false")))
    }

    /// A URL that clusters can read, without credentials: these come from variables.
    fn url(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String> {
        let text = self.text(key, value)?;
        let wrong = |said: &str| Err(self.wrong(Some(value.span().start), format!("{key}: {said}")));
        let Some(rest) = text.strip_prefix("https://") else {
            return wrong(&format!("{text:?} does not begin with https://"));
        };
        if rest.split('/').next().unwrap_or_default().contains('@') {
            return wrong("it holds credentials: take them out, and set GITLAB_USER and GITLAB_TOKEN");
        }
        if text.chars().any(|c| c.is_whitespace() || c == '#' || c == '$') || text.parse::<http::Uri>().is_err() {
            return wrong(&format!("{text:?} is no URL"));
        }
        Ok(text)
    }

    fn branch(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String> {
        let text = self.text(key, value)?;
        if !git::is_branch(&text) {
            return Err(self.wrong(Some(value.span().start), format!("{key}: {text:?} is no name of a branch")));
        }
        Ok(text)
    }

    fn certificates(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String> {
        let text = self.text(key, value)?;
        let wrong = |said: String| Err(self.wrong(Some(value.span().start), format!("{key}: {said}")));
        match fsx::read_text_if_present(&self.root.join(&text))? {
            None => wrong(format!("there is no file {text}")),
            Some(content) if !content.contains("-----BEGIN CERTIFICATE-----") => {
                wrong(format!("{text} holds no certificate in PEM"))
            }
            Some(_) => Ok(text),
        }
    }

    fn duration(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Duration> {
        let text = self.text(key, value)?;
        let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        parsed.filter(|d| !d.is_zero()).ok_or_else(|| {
            self.wrong(Some(value.span().start), format!("{key}: {text:?} is no duration: write 90s, 45m or 1h30m"))
        })
    }

    fn list(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>> {
        let Some(items) = value.get_ref().as_array() else {
            return Err(self.wrong(Some(value.span().start), format!("{key} is no list")));
        };
        items.iter().map(|item| self.text(key, item)).collect()
    }

    fn merge(&self, settings: &mut Settings, table: &DeTable<'_>) -> Result<()> {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "backend" => settings.backend = self.choice("backend", value, &BACKENDS)?,
                "machines" => settings.machines = self.choice("machines", value, &MACHINES)?,
                "source" => settings.source = self.choice("source", value, &SOURCES)?,
                "git_url" => settings.git.url = Some(self.url("git_url", value)?),
                "git_branch" => settings.git.branch = Some(self.branch("git_branch", value)?),
                "git_follow" => settings.git.follow = self.switch("git_follow", value)?,
                "git_ca_file" => settings.git.ca_file = Some(self.certificates("git_ca_file", value)?),
                "deadline" => settings.deadline = self.duration("deadline", value)?,
                "no_progress" => settings.no_progress = self.duration("no_progress", value)?,
                "publish" => settings.publish = self.list("publish", value)?,
                other => return Err(self.unknown(key.span().start, "key", other, &KEYS)),
            }
        }
        Ok(())
    }

    fn parse(&self, environments: &[String]) -> Result<BTreeMap<String, Settings>> {
        let document = DeTable::parse(self.text)
            .map_err(|error| self.wrong(error.span().map(|span| span.start), error.message()))?;
        let mut defaults = Settings::default();
        for (key, value) in document.get_ref() {
            match key.get_ref().as_ref() {
                "defaults" => self.merge(&mut defaults, self.table(value, "defaults")?)?,
                "environments" => {}
                other => return Err(self.unknown(key.span().start, "table", other, &["defaults", "environments"])),
            }
        }
        let mut all: BTreeMap<String, Settings> =
            environments.iter().map(|name| (name.clone(), defaults.clone())).collect();
        if let Some(tables) = document.get_ref().get("environments") {
            for (name, value) in self.table(tables, "environments")? {
                let known: Vec<&str> = environments.iter().map(String::as_str).collect();
                let Some(settings) = all.get_mut(name.get_ref().as_ref()) else {
                    return Err(self.unknown(name.span().start, "environment", name.get_ref(), &known));
                };
                self.merge(settings, self.table(value, name.get_ref())?)?;
            }
        }
        Ok(all)
    }
}

impl Backend {
    /// The backend of a name.
    pub fn named(name: &str) -> Option<Self> {
        BACKENDS.iter().find(|(known, _)| *known == name).map(|(_, backend)| *backend)
    }
}

impl Settings {
    /// Reads the settings of all environments of a repository; without a file the defaults hold.
    pub(super) fn read_all(root: &Path, environments: &[String]) -> Result<BTreeMap<String, Self>> {
        let text = fsx::read_text_if_present(&root.join(SETTINGS))?.unwrap_or_default();
        File { name: SETTINGS, root, text: &text }.parse(environments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BTreeMap<String, Settings>> {
        File { name: SETTINGS, root: Path::new("/nonexistent"), text }.parse(&["local".into(), "rke2-capd".into()])
    }

    #[test]
    fn environments_override_the_defaults_key_by_key() {
        let all = parse("[defaults]\ndeadline = '30m'\npublish = ['.']\n[environments.local]\nno_progress = '1m30s'\n")
            .unwrap();
        assert_eq!(all["local"].deadline, Duration::from_mins(30));
        assert_eq!(all["local"].no_progress, Duration::from_secs(90));
        assert_eq!(all["rke2-capd"].no_progress, Settings::default().no_progress);
        assert_eq!(all["rke2-capd"].publish, ["."]);
        assert_eq!(parse("").unwrap()["local"], Settings::default());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let cases = [
            ("[defaults]\n\ndedline = '1m'\n", "bootstrap.toml:3: unknown key dedline (did you mean deadline?)"),
            (
                "[defaults]\nzzz = 1\n",
                "bootstrap.toml:2: unknown key zzz (known: backend, machines, source, git_url, git_branch, git_follow, git_ca_file, deadline, no_progress, publish)",
            ),
            ("[defaults]\nsource = 'svn'\n", "bootstrap.toml:2: source: unknown value \"svn\": use oci or git"),
            (
                "[defaults]\ngit_url = 'git@git.example.org:a/b.git'\n",
                "bootstrap.toml:2: git_url: \"git@git.example.org:a/b.git\" does not begin with https://",
            ),
            (
                "[defaults]\ngit_url = 'https://me:hunter2@git.example.org/a'\n",
                "bootstrap.toml:2: git_url: it holds credentials: take them out, and set GITLAB_USER and GITLAB_TOKEN",
            ),
            ("[defaults]\ngit_url = 'https://a b'\n", "bootstrap.toml:2: git_url: \"https://a b\" is no URL"),
            ("[defaults]\ngit_follow = 'yes'\n", "bootstrap.toml:2: git_follow is neither true nor false"),
            ("[defaults]\ngit_ca_file = 'ca.pem'\n", "bootstrap.toml:2: git_ca_file: there is no file ca.pem"),
            ("[default]\n", "bootstrap.toml:1: unknown table default (did you mean defaults?)"),
            ("[environments.locl]\n", "bootstrap.toml:1: unknown environment locl (did you mean local?)"),
            (
                "[defaults]\ndeadline = 'soon'\n",
                "bootstrap.toml:2: deadline: \"soon\" is no duration: write 90s, 45m or 1h30m",
            ),
            ("[defaults]\ndeadline = 5\n", "bootstrap.toml:2: deadline is no text"),
            (
                "[defaults]\nbackend = 'lokal'\n",
                "bootstrap.toml:2: backend: unknown value \"lokal\": use local or kind",
            ),
            ("defaults = 1\n", "bootstrap.toml:1: defaults is no table"),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
        assert!(parse("[defaults\n").unwrap_err().to_string().starts_with("bootstrap.toml:1: "));
    }
}
