//! What can go wrong with layouts, images and registries.

use std::io;
use std::path::PathBuf;

use super::digest::Digest;
use crate::failure::Failure;
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
        source: Box<oci_client::errors::OciDistributionError>,
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

    pub(super) fn archive(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Archive { action, source }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::File(error) => error.into(),
            error => Self::from_error(error),
        }
    }
}
