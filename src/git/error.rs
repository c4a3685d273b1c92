//! What can be wrong with a repository.

use std::path::PathBuf;

use crate::failure::{Failure, Kind};
use crate::fsx;

/// A repository that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder is in no repository.
    #[error("{} is not in a Git repository", folder.display())]
    NotARepository {
        /// The folder.
        folder: PathBuf,
    },
    /// There is no working tree.
    #[error("{} is a bare repository: it has no working tree", folder.display())]
    Bare {
        /// The repository.
        folder: PathBuf,
    },
    /// There is no commit yet.
    #[error("{} has no commit yet", folder.display())]
    NoCommit {
        /// The repository.
        folder: PathBuf,
    },
    /// What would be deployed is not committed.
    #[error("{} not committed: {}", count(paths.len()), listed(paths))]
    Dirty {
        /// The paths, at least one.
        paths: Vec<String>,
    },
    /// A link that leads nowhere in the tree.
    #[error("{path} is a link to {target}, which is no file of the repository: Flux leaves such links out")]
    Link {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A server cannot be read.
    #[error("{url} cannot be read: {reason}")]
    Remote {
        /// The repository's URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// Reading the repository failed.
    #[error("failed to {action} in {}: {reason}", folder.display())]
    Read {
        /// What was attempted.
        action: String,
        /// The repository.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// Reading the working tree failed.
    #[error(transparent)]
    File(#[from] fsx::Error),
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn count(number: usize) -> String {
    if number == 1 { "1 change is".into() } else { format!("{number} changes are") }
}

fn listed(paths: &[String]) -> String {
    const MOST: usize = 5;
    let mut text = paths.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    if paths.len() > MOST {
        text.push_str(", ...");
    }
    text
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::NotARepository { .. } => {
                Self::usage(message).hint("run this inside a clone, or make one: git init && git add . && git commit")
            }
            Error::NoCommit { .. } => Self::usage(message).hint("git add . && git commit"),
            Error::Dirty { .. } => {
                Self::usage(message).hint("commit the changes, or pass --dirty to deploy the working tree as it is")
            }
            Error::Bare { .. } | Error::Link { .. } => Self::usage(message),
            Error::Remote { reason, .. } => {
                let hint = if reason.contains("host key") {
                    "compare what ssh-keyscan prints with what the server's keepers say, and write it to git_known_hosts_file"
                } else if reason.contains("refuses the key") {
                    "give the key's public half the right to read the repository, or set GITLAB_SSH_KEY to another one"
                } else if reason.contains("program ssh") {
                    "install OpenSSH's client: sudo apt-get install openssh-client"
                } else if reason.contains("certificate") {
                    "name the file with its certificate authority: git_ca_file in bootstrap.toml"
                } else if reason.contains("the user") || reason.contains("a user") {
                    "set GITLAB_USER and GITLAB_TOKEN, in the environment or in a file .env"
                } else {
                    "correct git_url in bootstrap.toml, or see why this host does not reach it: git ls-remote URL"
                };
                Self::preflight(message).hint(hint)
            }
            Error::Read { .. } => Self::new(Kind::Failed, message),
            Error::File(error) => error.into(),
        }
    }
}
