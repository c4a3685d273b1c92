//! What can go wrong with layouts, images and registries.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::cause::Cause;
use super::digest::Digest;
use crate::clock::human;
use crate::failure::{Failure, Kind};
use crate::fsx;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation on a layout, an image or a registry that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds no layout.
    #[error("there is no OCI image layout in {}", folder.display())]
    NoLayout {
        /// The folder.
        folder: PathBuf,
    },
    /// Nothing in the layout has this name.
    #[error("there is no image {reference} in {}", folder.display())]
    Unknown {
        /// The normalised reference.
        reference: String,
        /// The layout's folder.
        folder: PathBuf,
    },
    /// Text that is no image reference.
    #[error("{text:?} is no image reference")]
    Reference {
        /// The text.
        text: String,
    },
    /// Text that is no digest.
    #[error("{text:?} is no sha256 digest")]
    Digest {
        /// The text.
        text: String,
    },
    /// A blob that the index needs is not there.
    #[error("blob {digest} is missing from {}", folder.display())]
    Missing {
        /// Which blob.
        digest: Digest,
        /// The layout's folder.
        folder: PathBuf,
    },
    /// A blob whose content is not what its name says.
    #[error("blob {digest} in {} is corrupt: its content has the digest {actual}", folder.display())]
    Corrupt {
        /// Which blob.
        digest: Digest,
        /// The digest of what is there.
        actual: Digest,
        /// The layout's folder.
        folder: PathBuf,
    },
    /// JSON that does not fit the specification.
    #[error("failed to understand {what}")]
    Json {
        /// What was read.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A layer in a format that is not supported.
    #[error("layers of the type {media_type} are not supported")]
    Layer {
        /// The layer's media type.
        media_type: String,
    },
    /// A layer's entry that points outside.
    #[error("refused the entry {entry:?} of layer {digest}: it leaves the image's folder")]
    Traversal {
        /// The entry's path, or the link's target.
        entry: String,
        /// Which layer.
        digest: Digest,
    },
    /// An archive that could not be read or written.
    #[error("failed to {action}")]
    Archive {
        /// What was attempted, with the object.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// A chart without a usable Chart.yaml.
    #[error("failed to package the chart: {reason}")]
    Chart {
        /// Why.
        reason: String,
    },
    /// A registry refused, or did not answer.
    #[error("failed to {action} {target}")]
    Registry {
        /// What was attempted.
        action: &'static str,
        /// `HOST/REPOSITORY:TAG`.
        target: String,
        /// Why.
        source: Cause,
    },
    /// Something from a registry or a server whose content is not what its digest says.
    #[error("{what} from {from} is corrupt: its content has the digest {actual}")]
    Wrong {
        /// The blob or manifest with its digest, or the file.
        what: String,
        /// `HOST/REPOSITORY` or the server's name.
        from: String,
        /// The digest of what came.
        actual: String,
    },
    /// A transfer that did not end within its deadline.
    #[error("{what} took longer than {}", human(*limit))]
    Slow {
        /// What was moved, and from or to where.
        what: String,
        /// How long it was allowed to take.
        limit: Duration,
    },
    /// Text that names no registry.
    #[error("{text:?} is no registry: {reason}")]
    Address {
        /// The text, without a user and a password.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file of certificates that holds none.
    #[error("{} holds no certificate in PEM{reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why, after a colon.
        reason: String,
    },
    /// The configuration of docker names a password that cannot be had.
    #[error("the password for {host} cannot be had: {reason}")]
    Password {
        /// The registry.
        host: String,
        /// Why.
        reason: String,
    },
    /// An image that is not there for this kind of processor.
    #[error("{target} has no image for linux/{architecture}")]
    Platform {
        /// `HOST/REPOSITORY:TAG`.
        target: String,
        /// The processor as OCI names it.
        architecture: &'static str,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] fsx::Error),
}

impl Error {
    /// The blob that is missing or corrupt, when that is what went wrong.
    pub fn blob(&self) -> Option<&Digest> {
        match self {
            Self::Missing { digest, .. } | Self::Corrupt { digest, .. } => Some(digest),
            _ => None,
        }
    }

    /// Whether trying again may help.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Registry { source, .. } if source.passes())
    }

    /// Whether it says something about one object of a registry only: others may still be had.
    pub fn is_of_object(&self) -> bool {
        match self {
            Self::Registry { source, .. } => source.is_of_object(),
            Self::Wrong { .. } | Self::Platform { .. } | Self::Json { .. } => true,
            _ => false,
        }
    }

    /// What to do about it, most useful first.
    pub fn hints(&self) -> Vec<String> {
        let hint = |text: &str| vec![text.to_owned()];
        match self {
            Self::Registry { target, source, .. } => {
                let host = target.split('/').next().unwrap_or_default();
                match source {
                    Cause::Refused { .. } => vec![format!(
                        "docker login {host}: user and password are those that it keeps in ~/.docker/config.json"
                    )],
                    Cause::Untrusted { .. } => hint("name the certificate of its authority: --ca-file FILE"),
                    Cause::Cut { .. } => vec![format!(
                        "is {host} reachable from here? HTTPS_PROXY names a proxy, --plain-http leaves TLS out"
                    )],
                    _ => Vec::new(),
                }
            }
            Self::Wrong { from, .. } => {
                let host = from.split('/').next().unwrap_or_default();
                vec![format!(
                    "nothing of it was kept; the storage of {host}, or what lies between, changes content: remove it there, and push it again"
                )]
            }
            Self::Slow { .. } => hint("what has arrived is kept: the same command goes on"),
            Self::Certificates { .. } => hint("it takes what begins with -----BEGIN CERTIFICATE-----"),
            Self::Password { .. } => hint("docker login shows whether docker has it"),
            _ => Vec::new(),
        }
    }

    pub(super) fn archive(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Archive { action, source }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hints = error.hints();
        let failure = match error {
            Error::File(error) => error.into(),
            Error::Address { .. } | Error::Certificates { .. } => Self::usage(error.to_string()),
            Error::Slow { .. } => Self::from_error(error).kind(Kind::Timeout),
            error => Self::from_error(error),
        };
        hints.into_iter().fold(failure, Self::hint)
    }
}
