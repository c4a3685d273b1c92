//! What can go wrong when talking to a cluster.

use crate::failure::{Failure, Kind};

/// A failed conversation with a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {origin} cannot be used: {reason}")]
    Kubeconfig {
        /// File or Secret that it came from.
        origin: String,
        /// Why.
        reason: String,
    },
    /// A request failed.
    #[error("failed to {action} on the {cluster} cluster: {}", reason(source))]
    Request {
        /// Which cluster.
        cluster: String,
        /// What was attempted, with the object.
        action: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The cluster does not serve a kind.
    #[error("the {cluster} cluster does not serve {kind} ({api_version})")]
    UnknownKind {
        /// Which cluster.
        cluster: String,
        /// The kind.
        kind: String,
        /// Its group and version.
        api_version: String,
    },
    /// A port cannot be forwarded.
    #[error("failed to forward a port: {reason}")]
    Forward {
        /// Why.
        reason: String,
    },
    /// A manifest is not a Kubernetes object.
    #[error("{origin}, document {document}: {reason}")]
    Manifest {
        /// Where it came from.
        origin: String,
        /// Its position, from 1.
        document: usize,
        /// Why.
        reason: String,
    },
    /// It is not YAML.
    #[error(transparent)]
    Yaml(#[from] crate::yaml::Error),
}

/// What etcd says when it takes no more.
const FULL: &str = "database space exceeded";

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The API server's own sentence where there is one.
pub fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(error) = cause {
                let more = error.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                cause = error.source();
            }
            text
        }
    }
}

impl Error {
    /// The HTTP code that the API server answered, if it answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// The API server's machine-readable reason.
    pub fn api_reason(&self) -> Option<&str> {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.reason.as_str()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the object does not exist.
    pub fn not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether another writer was faster, or the object exists already.
    pub fn conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether trying again may help: no answer, throttled, server trouble, or a webhook that is not up yet.
    pub fn transient(&self) -> bool {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => {
                    // No waiting makes room.
                    !status.message.contains(FULL) && matches!(status.code, 408 | 429 | 500 | 502 | 503 | 504)
                        || status.message.contains("failed calling webhook")
                }
                kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
                _ => false,
            },
            Self::UnknownKind { .. } | Self::Forward { .. } => true,
            _ => false,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Kubeconfig { .. } | Error::Manifest { .. } | Error::Yaml(_) => Kind::Usage,
            _ => Kind::Failed,
        };
        let failure = Self::new(kind, error.to_string());
        if failure.message.contains(FULL) {
            return failure
                .hint("its etcd is full: compact and defragment it, or give it more, then clear its alarm NOSPACE");
        }
        failure
    }
}
