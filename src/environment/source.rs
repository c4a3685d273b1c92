//! A source on a Git server: where it is, and whether the clusters will find there what is to be deployed.

use serde_json::{Value, json};

use super::{Configuration, Error, GitSettings, Result, SETTINGS};
use crate::failure::{self, Failure};
use crate::fsx;
use crate::git::{self, Access, Remote, Repository, Revision};

/// Where the clusters fetch the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSource {
    /// The repository's URL, without credentials.
    pub url: String,
    /// The branch that holds the commit.
    pub branch: String,
    /// Whether the management cluster follows the branch once it manages itself.
    pub follow: bool,
    /// Certificates of the server's authorities, in PEM; empty where public ones do.
    pub ca: String,
    /// The keys that the server is told by over SSH, as in a file `known_hosts`.
    pub known_hosts: String,
}

impl GitSource {
    /// What the settings say, completed by the clone.
    pub(super) fn find(settings: &GitSettings, repository: &Repository) -> Result<Self> {
        let wrong = |key: &str, why: String, remedy: &str| Error::Settings {
            at: SETTINGS.into(),
            message: format!("{key}: {why}"),
            remedy: remedy.into(),
        };
        let missing =
            |key: &str, why: &str| wrong(key, format!("missing, and {why}"), "set it; docs/settings.md says how");
        let url = match &settings.url {
            Some(url) => url.clone(),
            None => Some(repository.origin())
                .filter(|url| url.starts_with("https://") || git::is_ssh(url))
                .ok_or_else(|| missing("git_url", "this clone has no remote origin with a URL of https or ssh"))?,
        };
        let branch = match &settings.branch {
            Some(branch) => branch.clone(),
            None => repository.branch()?.ok_or_else(|| missing("git_branch", "no branch is checked out"))?,
        };
        let read = |key: &str, file: Option<&String>| -> Result<String> {
            let Some(file) = file else { return Ok(String::new()) };
            let text = fsx::read_text_if_present(&repository.root().join(file))?;
            let remedy = "name the file from the root of the repository";
            text.ok_or_else(|| wrong(key, format!("there is no file {file}"), remedy))
        };
        let ca = read("git_ca_file", settings.ca_file.as_ref())?;
        if let Some(file) = settings.ca_file.as_ref().filter(|_| !ca.contains("-----BEGIN CERTIFICATE-----")) {
            let remedy = "name the file with the certificates of the server's authority";
            return Err(wrong("git_ca_file", format!("{file} holds no certificate in PEM"), remedy));
        }
        let known_hosts = read("git_known_hosts_file", settings.known_hosts_file.as_ref())?;
        if git::is_ssh(&url) && known_hosts.trim().is_empty() {
            let remedy =
                "ssh-keyscan prints the server's keys: compare them with what its keepers say, and commit them";
            return Err(match &settings.known_hosts_file {
                Some(file) => wrong("git_known_hosts_file", format!("{file} holds no host key"), remedy),
                None => wrong("git_known_hosts_file", format!("missing, and {url} is told by its key"), remedy),
            });
        }
        Ok(Self { url, branch, follow: settings.follow, ca, known_hosts })
    }

    /// What a GitRepository refers to: the commit on its branch, or the branch wherever it goes. The commit is always
    /// there, because it is merged over the chart's own.
    pub fn reference(&self, commit: &str, follow: bool) -> Value {
        json!({"branch": self.branch, "commit": if follow { "" } else { commit }})
    }

    /// What the server is asked with.
    fn access<'a>(&'a self, configuration: &'a Configuration) -> failure::Result<Access<'a>> {
        let (username, password) = (configuration.username.expose(), configuration.password.expose());
        if git::is_ssh(&self.url) {
            let key = configuration.ssh_key.expose();
            if key.is_empty() {
                return Err(Failure::usage(format!("{} is read over SSH, and there is no key", self.url)).hint(
                    "set GITLAB_SSH_KEY, in the environment or in a file .env: a private key that may read the repository, or the path of its file",
                ));
            }
            return Ok(Access::Ssh { key, known_hosts: &self.known_hosts });
        }
        if username.is_empty() != password.is_empty() {
            return Err(Failure::usage("GITLAB_USER and GITLAB_TOKEN belong together: only one of them is set").hint(
                "set both, in the environment or in a file .env; or none, where everybody may read the repository",
            ));
        }
        Ok(Access::Https { username, password, ca: &self.ca })
    }

    /// Refuses a revision that the clusters would not find on the branch. It is asked for as they will ask for it.
    pub(super) async fn check(
        &self,
        repository: &Repository,
        revision: &Revision,
        configuration: &Configuration,
        deployed: bool,
    ) -> failure::Result<String> {
        let Self { url, branch, .. } = self;
        let Revision::Commit(commit) = revision else {
            return Err(Failure::usage("a Git source has commits only: a working tree cannot be deployed from it")
                .hint("commit and push the changes, or set source = \"oci\" in bootstrap.toml"));
        };
        let remote = Remote { url, access: self.access(configuration)? };
        let push = {
            let name = repository.remote_of(url).unwrap_or_else(|| url.clone());
            format!("git push {name} {}:refs/heads/{branch}", commit.short())
        };
        let Some(tip) = remote.tip(branch).await? else {
            return Err(Failure::preflight(format!("{url} has no branch {branch}"))
                .hint(format!("push it: {push}; or name another one: git_branch in bootstrap.toml")));
        };
        match repository.is_part_of(commit, &tip)? {
            Some(true) if deployed && self.follow && tip != *commit => Err(Failure::preflight(format!(
                "the clusters follow branch {branch} of {url}, which is at {}, not at commit {}",
                tip.short(),
                commit.short()
            ))
            .hint(format!("check it out: git checkout {branch} && git pull"))),
            Some(true) => Ok(format!("commit {} is on branch {branch} of {url}", commit.short())),
            Some(false) => Err(Failure::preflight(format!(
                "commit {} is not on branch {branch} of {url}: it has not been pushed",
                commit.short()
            ))
            .hint(format!("push it: {push}"))),
            None => Err(Failure::preflight(format!(
                "branch {branch} of {url} is at {}, which this clone does not have: whether commit {} is on it cannot be told",
                tip.short(),
                commit.short()
            ))
            .hint(format!("fetch it, then try again: git fetch {} {branch}", repository.remote_of(url).unwrap_or_else(|| url.clone())))),
        }
    }
}
