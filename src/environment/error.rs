//! What can be wrong with an environment.

use super::VALUES;
use crate::failure::Failure;
use crate::{flux, fsx, git, yaml};

/// An environment that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that name.
    #[error("unknown environment {name:?} (known: {})", known.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// The repository has none at all.
    #[error("{folder} holds no environment: no folder with a kustomization")]
    None {
        /// Where they were looked for.
        folder: String,
    },
    /// A setting is wrong.
    #[error("{at}: {message}")]
    Settings {
        /// File, line and column, or the flag or variable.
        at: String,
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// What is at a path is no environment.
    #[error("{path} is no environment: {reason}")]
    NoEnvironment {
        /// The path as it was given.
        path: String,
        /// Why it is none.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// An environment elsewhere has the name of one of the repository's own.
    #[error("environment {path} has the name of environment-values/{name}")]
    NameTaken {
        /// The path as it was given.
        path: String,
        /// The name.
        name: String,
    },
    /// A variable has no value.
    #[error("{at}: variable {name} is not defined")]
    Undefined {
        /// File and line, or object and key.
        at: String,
        /// The variable.
        name: String,
    },
    /// A line of a file `.env`.
    #[error("{at}: it is no variable")]
    EnvFile {
        /// File and line.
        at: String,
    },
    /// `${` without a variable.
    #[error("{at}: {found:?} is not a variable")]
    Malformed {
        /// File and line, or object and key.
        at: String,
        /// The text.
        found: String,
    },
    /// A rendered object or key is not one that the release reads.
    #[error("environment {environment} renders {what}, which nothing reads")]
    Unread {
        /// The environment.
        environment: String,
        /// Object and key.
        what: String,
    },
    /// An object that the release reads is missing.
    #[error("environment {environment} renders no {what}")]
    Missing {
        /// The environment.
        environment: String,
        /// The object and key.
        what: String,
    },
    /// What should be a private key is none that a cluster can use.
    #[error("environment {environment}, key {key} of {object}: {reason}")]
    PrivateKey {
        /// The environment.
        environment: String,
        /// The object.
        object: String,
        /// The key.
        key: String,
        /// What is wrong, without the text.
        reason: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A key does not hold a map of values.
    #[error("environment {environment}, key {key} of {object}: {reason}")]
    NoValues {
        /// The environment.
        environment: String,
        /// The object.
        object: String,
        /// The key.
        key: String,
        /// What is wrong, without the text if that is secret.
        reason: String,
    },
    /// A component's path is not in the repository.
    #[error("components.{component}.path: the repository has no folder {path}")]
    NoSuchPath {
        /// The component.
        component: String,
        /// Its path.
        path: String,
    },
    /// The management cluster is to have a name that its definition does not take.
    #[error("cluster.name: {name}, but {folder} names its cluster itself")]
    FixedName {
        /// The name.
        name: String,
        /// The folder of the definition.
        folder: String,
    },
    /// Kustomize or the chart failed.
    #[error(transparent)]
    Flux(#[from] flux::Error),
    /// The repository could not be read.
    #[error(transparent)]
    Git(#[from] git::Error),
    /// A file is not the YAML that was expected.
    #[error(transparent)]
    Yaml(#[from] yaml::Error),
    /// A manifest holds no objects.
    #[error(transparent)]
    Manifest(#[from] crate::k8s::Error),
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] fsx::Error),
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Unknown { nearest: Some(nearest), .. } => {
                Self::usage(message).hint(format!("did you mean {nearest}?"))
            }
            Error::Undefined { name, .. } => {
                Self::usage(message).hint(format!("set it, or give it a default: ${{{name}:-default}}"))
            }
            Error::EnvFile { .. } => Self::usage(message).hint("write NAME=value, or NAME='value' where it holds spaces or $"),
            Error::Malformed { .. } => Self::usage(message).hint("write $${ for a ${ that is to stay"),
            Error::Settings { remedy, .. } | Error::NoEnvironment { remedy, .. } => Self::usage(message).hint(remedy),
            Error::NameTaken { .. } => {
                Self::usage(message).hint("clusters and runs are told apart by that name: give one of the folders another")
            }
            Error::Unread { .. } => Self::usage(message).hint(format!(
                "the release reads base_values and values of the ConfigMap {VALUES}, and the Secrets beside it: see environment-values/base"
            )),
            Error::Missing { .. } => {
                Self::usage(message).hint("build on the base: resources: [../base]; see environment-values/local")
            }
            Error::PrivateKey { remedy, .. } => Self::usage(message).hint(remedy),
            Error::FixedName { .. } => Self::usage(message)
                .hint("write ${CLUSTER_NAME} there where it says management-cluster, or leave cluster.name out of the values"),
            Error::NoValues { .. } => Self::usage(message).hint("write keys and values: key: value"),
            Error::Flux(error) => error.into(),
            Error::Git(error) => error.into(),
            Error::Yaml(error) => error.into(),
            Error::Manifest(error) => error.into(),
            Error::File(error) => error.into(),
            _ => Self::usage(message),
        }
    }
}

/// The known word that is nearest to what was written, if one is near at all.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let scored = known.into_iter().map(|word| (distance(written, word), word));
    let (score, word) = scored.min()?;
    (score <= written.chars().count().max(word.chars().count()).div_ceil(3)).then(|| word.to_owned())
}

/// How many letters must be added, taken away or changed to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_or_none() {
        let known = ["deadline", "backend", "source", "no_progress"];
        assert_eq!(nearest("dedline", known).as_deref(), Some("deadline"));
        assert_eq!(nearest("no-progress", known).as_deref(), Some("no_progress"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
