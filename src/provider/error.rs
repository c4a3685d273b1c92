//! What can go wrong while objects are reconciled.

use crate::failure::Failure;

/// A reconciliation that failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("failed to {action}: {}", reason(source))]
    Request {
        /// What was attempted, with the object.
        action: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Something on this host failed.
    #[error(transparent)]
    Host(#[from] Failure),
    /// A Secret does not hold what it should.
    #[error("Secret {name} cannot be used: {reason}")]
    Secret {
        /// Namespace and name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Host(failure) => failure,
            other => Self::failed(other.to_string()),
        }
    }
}

/// The API server's own sentence where there is one.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}
