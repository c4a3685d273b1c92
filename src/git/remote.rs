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

/// What ssh says, and what it means.
const SSH: [(&str, &str); 5] = [
    ("Permission denied (", "it refuses the key"),
    ("HOST IDENTIFICATION HAS CHANGED", "its host key is not the one that is known"),
    ("host key is known for", "its host key is not known"),
    ("Host key verification failed", "its host key is not known"),
    ("cannot run ssh", "there is no program ssh"),
];

/// What a server is asked with.
#[derive(Clone, Copy)]
pub enum Access<'a> {
    /// Over HTTPS.
    Https {
        /// The user's name; empty for none.
        username: &'a str,
        /// The password or token; empty for none.
        password: &'a str,
        /// Certificates of authorities, in PEM; empty where those of the host do.
        ca: &'a str,
    },
    /// Over SSH.
    Ssh {
        /// The private key.
        key: &'a str,
        /// The keys that the server is told by, as in a file `known_hosts`.
        known_hosts: &'a str,
    },
}

/// A repository on a server.
#[derive(Clone, Copy)]
pub struct Remote<'a> {
    /// Its URL.
    pub url: &'a str,
    /// What it is asked with.
    pub access: Access<'a>,
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
        let command = Command::new("git")
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
            .env_remove("GIT_SSH")
            .env_remove("GIT_SSH_VARIANT")
            .env_remove("SSH_ASKPASS");
        // Only this user can enter it; it goes with its files.
        let folder = tempfile::tempdir().map_err(|error| refused(format!("no temporary folder: {error}")))?;
        let output = match self.access.give(command, folder.path())?.run(LIMIT).await {
            Ok(output) => output.text(),
            Err(exec::Error::Status { stderr, .. }) => return Err(refused(said(&stderr))),
            Err(error) => return Err(refused(error.to_string())),
        };
        let found = output.lines().find_map(|line| line.split_once('\t').filter(|(_, name)| *name == reference));
        Ok(found.map(|(id, _)| CommitId::new(id)))
    }
}

impl Access<'_> {
    /// Gives git what it asks a server with; what must be a file stands in a folder.
    fn give(&self, mut command: Command, folder: &Path) -> Result<Command> {
        match self {
            Self::Https { username, password, ca } => {
                if !password.is_empty() {
                    command = command
                        .env("GIT_CONFIG_COUNT", "1")
                        .env("GIT_CONFIG_KEY_0", "credential.helper")
                        .env("GIT_CONFIG_VALUE_0", HELPER)
                        .env("CLUSTER_INIT_GIT_USERNAME", username)
                        .env("CLUSTER_INIT_GIT_PASSWORD", password);
                }
                if !ca.is_empty() {
                    let file = folder.join("ca.pem");
                    fsx::write(&file, ca)?;
                    command = command.env("GIT_SSL_CAINFO", &file);
                }
                Ok(command)
            }
            Self::Ssh { key, known_hosts } => {
                let (identity, hosts) = (folder.join("key"), folder.join("known_hosts"));
                fsx::write_private(&identity, key)?;
                fsx::write(&hosts, known_hosts)?;
                // Neither the user's settings nor the user's agent: the clusters have none.
                let ssh = format!(
                    "ssh -F none -o BatchMode=yes -o ConnectTimeout=20 -o IdentitiesOnly=yes -o IdentityAgent=none \
                     -o IdentityFile='{}' -o StrictHostKeyChecking=yes -o UserKnownHostsFile='{}' -o GlobalKnownHostsFile=none",
                    identity.display(),
                    hosts.display()
                );
                Ok(command.env("GIT_SSH_COMMAND", ssh))
            }
        }
    }
}

/// What git says is wrong, without the URL, which the message has already.
fn said(stderr: &str) -> String {
    for (quoted, meaning) in SSH {
        if stderr.contains(quoted) {
            return meaning.into();
        }
    }
    // Before git says that it could not read, ssh or the server has said why.
    if let Some(line) = stderr.lines().find(|line| line.starts_with("ssh: ") || line.contains("ERROR: ")) {
        let line = line.strip_prefix("remote: ").or_else(|| line.strip_prefix("ssh: ")).unwrap_or(line);
        return line.trim_end_matches(['\r', '.']).to_owned();
    }
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
            (
                "git@git.x: Permission denied (publickey).\r\nfatal: Could not read from remote repository.\n",
                "it refuses the key",
            ),
            (
                "No ED25519 host key is known for git.x and you have requested strict checking.\r\nHost key verification failed.\r\nfatal: Could not read from remote repository.\n",
                "its host key is not known",
            ),
            (
                "ssh: connect to host git.x port 22: Connection refused\r\nfatal: Could not read from remote repository.\n",
                "connect to host git.x port 22: Connection refused",
            ),
            (
                "remote: ERROR: The project you were looking for could not be found.\nfatal: Could not read from remote repository.\n",
                "ERROR: The project you were looking for could not be found",
            ),
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
        let remote = Remote { url: &url, access: Access::Https { username: "", password: "", ca: "" } };
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
