//! What can go wrong between a repository and Flux.

use crate::exec;
use crate::failure::Failure;
use crate::{fsx, git, oci, yaml};

/// Something that Flux could not be given, or could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kustomization refers to a URL whose content is not at hand.
    #[error("{file}:{line}: {url} is not in the bundle")]
    Upstream {
        /// The kustomization file.
        file: String,
        /// The line of the reference, from 1.
        line: usize,
        /// The URL.
        url: String,
    },
    /// A kustomization refers to something that is not in the repository.
    #[error("{file}:{line}: {entry} does not exist in the repository")]
    Missing {
        /// The kustomization file.
        file: String,
        /// The line of the reference, from 1.
        line: usize,
        /// What it refers to.
        entry: String,
    },
    /// The repository has no such folder.
    #[error("the repository has no folder {folder}")]
    NoFolder {
        /// The folder.
        folder: String,
    },
    /// The chart has no usable Chart.yaml.
    #[error("{file}: {reason}")]
    Chart {
        /// Chart.yaml.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The chart cannot be rendered with these values.
    #[error("chart telco-cloud-init, phase {phase}: {reason}")]
    Values {
        /// The phase that was rendered.
        phase: &'static str,
        /// What is wrong; begins with the key where the chart says so.
        reason: String,
    },
    /// Kustomize failed on a folder.
    #[error("failed to build {folder}: {reason}")]
    Build {
        /// The folder.
        folder: String,
        /// What kustomize says.
        reason: String,
    },
    /// An artifact could not be made.
    #[error("failed to pack {what}")]
    Pack {
        /// What was packed.
        what: String,
        /// Why.
        source: oci::Error,
    },
    /// No folder for rendering could be made.
    #[error("failed to make a temporary folder")]
    Temporary(#[source] std::io::Error),
    /// An artifact could not be pushed.
    #[error(transparent)]
    Push(#[from] oci::Error),
    /// A tool could not be run.
    #[error(transparent)]
    Tool(#[from] exec::Error),
    /// A file is not the YAML that was expected.
    #[error(transparent)]
    Yaml(#[from] yaml::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] fsx::Error),
    /// The repository could not be read.
    #[error(transparent)]
    Git(#[from] git::Error),
    /// The content of a URL could not be read.
    #[error("{0}")]
    Content(Failure),
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Upstream { .. } => Self::usage(message).hint(
                "put the file beside the kustomization, or add the URL to tools/parts/parts.toml and run `cluster-init bundle build`",
            ),
            Error::Missing { .. } => Self::usage(message).hint("correct the path, or add the file and commit it"),
            Error::NoFolder { .. } => Self::usage(message).hint("restore it from the release you started from"),
            Error::Chart { .. } => Self::usage(message).hint("compare it with the chart of the release you started from"),
            Error::Build { folder, .. } => Self::usage(message).hint(format!("try it: kubectl kustomize {folder}")),
            Error::Values { .. } => {
                Self::usage(message).hint("correct the environment's values.yaml, or the chart's own values")
            }
            Error::Pack { source, .. } => Self::from(source).context(message),
            Error::Temporary(source) => Self::failed(message).caused_by(source),
            Error::Push(error) => error.into(),
            Error::Tool(error) => error.into(),
            Error::Yaml(error) => error.into(),
            Error::File(error) => error.into(),
            Error::Git(error) => error.into(),
            Error::Content(failure) => failure,
        }
    }
}
