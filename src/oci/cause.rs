//! Why a registry or a server did not do what it was asked for, in words that hold no address's query and no secret.

use std::error::Error as StdError;

use oci_client::errors::{DigestError, OciDistributionError};

/// How much of what a server says is passed on.
const MOST_SAID: usize = 200;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// It asks for a user and a password, or does not accept those that it was given.
    #[error("{}", if *known { "it refuses the user or the password" } else { "it asks for a user and a password" })]
    Refused {
        /// Whether it was given any.
        known: bool,
    },
    /// Its certificate was not signed by anybody whom this host trusts, or is another's.
    #[error("its certificate is not trusted: {reason}")]
    Untrusted {
        /// What is wrong with it.
        reason: String,
    },
    /// It does not have it.
    #[error("it has no such thing")]
    Absent,
    /// Its content has another digest than it should.
    #[error("its content is corrupt: it has the digest {actual}")]
    Wrong {
        /// The digest of what it sent.
        actual: String,
    },
    /// It answered with something else.
    #[error("it answers {status}{said}")]
    Answer {
        /// The status of HTTP.
        status: u16,
        /// What it said, after a colon; empty when it said nothing.
        said: String,
    },
    /// It could not be reached, fell silent, or the connection broke.
    #[error("{reason}")]
    Cut {
        /// How.
        reason: String,
    },
    /// Something else.
    #[error("{reason}")]
    Other {
        /// What.
        reason: String,
    },
}

impl Cause {
    /// Whether trying again may help.
    pub fn passes(&self) -> bool {
        match self {
            Self::Cut { .. } => true,
            Self::Answer { status, .. } => matches!(status, 408 | 429 | 500..),
            _ => false,
        }
    }

    /// Whether it says something about one object only: others may still be had.
    pub fn is_of_object(&self) -> bool {
        // Also a refusal: registries refuse what they do not have, so as not to tell that they do not have it.
        !self.passes() && !matches!(self, Self::Untrusted { .. })
    }

    /// A connection that ended too early.
    pub(super) fn cut(reason: impl Into<String>) -> Self {
        Self::Cut { reason: reason.into() }
    }

    /// The cause that a status of HTTP stands for.
    pub fn of_status(status: u16, said: &str) -> Self {
        match status {
            401 | 403 => Self::Refused { known: false },
            404 => Self::Absent,
            status => {
                let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
                let short: String = line.chars().take(MOST_SAID).collect();
                Self::Answer { status, said: if short.is_empty() { short } else { format!(": {short}") } }
            }
        }
    }

    /// The cause of an error of the HTTP client.
    pub fn of_http(error: &reqwest::Error) -> Self {
        if let Some(status) = error.status() {
            return Self::of_status(status.as_u16(), "");
        }
        let reason = deepest(error);
        if let Some((_, reason)) = reason.split_once("invalid peer certificate: ") {
            Self::Untrusted { reason: reason.to_owned() }
        } else if error.is_timeout() {
            Self::cut("it fell silent")
        } else if error.is_builder() || error.is_redirect() {
            Self::Other { reason }
        } else {
            Self::Cut { reason }
        }
    }

    /// The cause of an error while a body was read.
    pub(super) fn of_stream(error: &std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>());
        inner.map_or_else(|| Self::cut(error.to_string()), Self::of_http)
    }
}

impl From<OciDistributionError> for Cause {
    fn from(error: OciDistributionError) -> Self {
        match error {
            OciDistributionError::RequestError(error) => Self::of_http(&error),
            OciDistributionError::IoError(error) => Self::of_stream(&error),
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                Self::Refused { known: false }
            }
            OciDistributionError::ServerError { code, message, .. } => Self::of_status(code, &message),
            OciDistributionError::ImageManifestNotFoundError(_) => Self::Absent,
            OciDistributionError::DigestError(DigestError::VerificationError { actual, .. }) => Self::Wrong { actual },
            OciDistributionError::RegistryError { envelope, .. } => of_envelope(&envelope),
            error => Self::Other { reason: error.to_string() },
        }
    }
}

fn of_envelope(envelope: &oci_client::errors::OciEnvelope) -> Cause {
    use oci_client::errors::OciErrorCode as Code;
    match envelope.errors.first().map(|error| (&error.code, &error.message)) {
        Some((Code::Unauthorized | Code::Denied, _)) => Cause::Refused { known: false },
        Some((
            Code::BlobUnknown | Code::ManifestUnknown | Code::NameUnknown | Code::NotFound | Code::ManifestBlobUnknown,
            _,
        )) => Cause::Absent,
        Some((Code::Toomanyrequests, said)) => Cause::of_status(429, said),
        Some((_, said)) => Cause::Other { reason: format!("it says: {said}") },
        None => Cause::Other { reason: "it says what is wrong in no way that is understood".into() },
    }
}

/// What the innermost error says; those around it only repeat that a request failed, and for which URL.
fn deepest(error: &reqwest::Error) -> String {
    let mut innermost: &dyn StdError = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    // An error without a cause names its URL, which may hold a signature.
    error.url().map_or_else(|| text.clone(), |url| text.replace(url.as_str(), url.host_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again() {
        for (status, passes) in [(401, false), (404, false), (416, false), (429, true), (500, true), (503, true)] {
            assert_eq!(Cause::of_status(status, "").passes(), passes, "{status}");
        }
        assert!(Cause::cut("reset").passes());
    }

    #[test]
    fn what_a_server_says_is_one_short_line() {
        let said = format!("bad\n  gateway {}", "x".repeat(500));
        let text = Cause::of_status(502, &said).to_string();
        assert!(text.starts_with("it answers 502: bad gateway xxx"), "{text}");
        assert!(text.len() < 250, "{text}");
        assert_eq!(Cause::of_status(418, "").to_string(), "it answers 418");
    }
}
