//! A Git server, asked as the clusters will ask it: with their credentials and their certificate authority, and with nothing of
//! what the user's own configuration of Git adds. The git program asks, for it knows every proxy.

use std::path::Path;
use std::time::Duration;

use super::{CommitId, Error, Result};
use crate::exec::{self, Command};
use crate::fsx;

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_mins(1);

/// Gives git the credentials; they come from variables, for arguments can be read by everybody.
const HELPER: &str =
    "!f() { printf 'username=%s\\npassword=%s\\n' \"$CLUSTER_INIT_GIT_USERNAME\" \"$CLUSTER_INIT_GIT_PASSWORD\"; }; f";

/// A repository on a server.
#[derive(Clone, Copy)]
pub struct Remote<'a> {
    /// Its URL.
    pub url: &'a str,
    /// The user's name; empty for none.
    pub username: &'a str,
    /// The password or token; empty for none.
    pub password: &'a str,
    /// Certificates of authorities, in PEM; empty where those of the host do.
    pub ca: &'a str,
}

impl std::fmt::Debug for Remote<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.url)
    }
}

impl Remote<'_> {
    /// The commit that a branch is at; `None` when the repository has no such branch.
    pub async fn tip(&self, branch: &str) -> Result<Option<CommitId>> {
        let refused = |reason: String| Error::Remote { url: self.url.to_owned(), reason };
        let reference = format!("refs/heads/{branch}");
        // In the root folder: a clone's own configuration may hold credentials and other names for URLs, too.
        let mut command = Command::new("git")
            .args(["ls-remote", "--", self.url, &reference])
            .folder(Path::new("/"))
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env_remove("GIT_DIR")
            .env_remove("GIT_SSL_CAINFO")
            .env_remove("GIT_SSL_NO_VERIFY")
            .env_remove("GIT_ASKPASS")
            .env_remove("SSH_ASKPASS");
        if !self.password.is_empty() {
            command = command
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", "credential.helper")
                .env("GIT_CONFIG_VALUE_0", HELPER)
                .env("CLUSTER_INIT_GIT_USERNAME", self.username)
                .env("CLUSTER_INIT_GIT_PASSWORD", self.password);
        }
        let folder = tempfile::tempdir().map_err(|error| refused(format!("no temporary folder: {error}")))?;
        if !self.ca.is_empty() {
            let ca = folder.path().join("ca.pem");
            fsx::write(&ca, self.ca)?;
            command = command.env("GIT_SSL_CAINFO", &ca);
        }
        let output = match command.run(LIMIT).await {
            Ok(output) => output.text(),
            Err(exec::Error::Status { stderr, .. }) => return Err(refused(said(&stderr))),
            Err(error) => return Err(refused(error.to_string())),
        };
        let found = output.lines().find_map(|line| line.split_once('\t').filter(|(_, name)| *name == reference));
        Ok(found.map(|(id, _)| CommitId::new(id)))
    }
}

/// What git says is wrong, without the URL, which the message has already.
fn said(stderr: &str) -> String {
    let fatal = stderr.lines().find_map(|line| line.strip_prefix("fatal: "));
    let text = fatal.or(stderr.lines().last()).unwrap_or_default();
    if text.starts_with("Authentication failed") {
        return "it refuses the user or the token".into();
    }
    if text.starts_with("could not read Username") {
        return "it asks for a user and a token".into();
    }
    let text = text.strip_prefix("unable to access '").and_then(|rest| rest.split_once("': ")).map_or(text, |(_, t)| t);
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_is_shortened() {
        let cases = [
            (
                "fatal: unable to access 'https://git.x/a.git/': SSL certificate problem: unable to get local issuer certificate\n",
                "SSL certificate problem: unable to get local issuer certificate",
            ),
            (
                "remote: no\nfatal: Authentication failed for 'https://git.x/a.git/'\n",
                "it refuses the user or the token",
            ),
            (
                "fatal: could not read Username for 'https://git.x': terminal prompts disabled\n",
                "it asks for a user and a token",
            ),
            ("fatal: repository 'https://git.x/b.git/' not found\n", "repository 'https://git.x/b.git/' not found"),
        ];
        for (stderr, expected) in cases {
            assert_eq!(said(stderr), expected);
        }
    }

    #[tokio::test]
    async fn a_branch_has_a_tip_or_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let git = |line: &'static str| {
            let command = Command::new("git").args(["-c", "user.name=t", "-c", "user.email=t@example.com"]);
            command.args(line.split(' ')).folder(folder.path()).run(LIMIT)
        };
        git("init -q --initial-branch=main").await.unwrap();
        git("commit -q --allow-empty -m first").await.unwrap();
        let head = git("rev-parse HEAD").await.unwrap().text();
        let remote = Remote { url: &url, username: "", password: "", ca: "" };
        assert_eq!(remote.tip("main").await.unwrap().unwrap().as_str(), head.trim());
        assert_eq!(remote.tip("other").await.unwrap(), None);
        let nowhere = Remote { url: "file:///nonexistent.git", ..remote };
        let error = nowhere.tip("main").await.unwrap_err().to_string();
        assert_eq!(
            error,
            "file:///nonexistent.git cannot be read: '/nonexistent.git' does not appear to be a git repository"
        );
    }
}
