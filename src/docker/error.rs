//! What can go wrong with Docker.

use super::SOCKET;
use crate::exec;
use crate::failure::Failure;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What the client says when the daemon does not answer, or not to this client.
const SILENT: [&str; 5] = [
    "Cannot connect to the Docker daemon",
    "error during connect",
    "permission denied while",
    "unable to resolve docker endpoint",
    "an HTTP request to an HTTPS server",
];
/// What it says when it is about certificates.
const TLS: [&str; 5] = ["x509", "tls:", "HTTPS", ".pem", "malformed HTTP response"];

/// Something that Docker did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no client.
    #[error("the docker client is not installed or not on PATH")]
    Missing,
    /// The daemon does not answer.
    #[error("the docker daemon does not answer: {said}")]
    Unreachable {
        /// What the client said.
        said: String,
    },
    /// The daemon is too old.
    #[error("the docker daemon speaks API {api}, and {oldest} is needed")]
    Old {
        /// What it speaks.
        api: String,
        /// What is needed.
        oldest: String,
    },
    /// The client is not Docker's.
    #[error("docker is podman's own command here, which answers otherwise than Docker's client")]
    Shim,
    /// The client gave an answer that cannot be understood.
    #[error("failed to understand the answer of {command}: {reason}")]
    Answer {
        /// What was asked.
        command: String,
        /// Why.
        reason: String,
    },
    /// The daemon refused something.
    #[error("failed to {action}: {said}")]
    Refused {
        /// What was attempted.
        action: String,
        /// What the client said.
        said: String,
    },
    /// Others make and remove a network of the same name all the time.
    #[error("network {name} did not settle: in each of {attempts} looks there was none, or more than one")]
    Unsettled {
        /// Its name.
        name: String,
        /// How often it was looked for.
        attempts: usize,
    },
    /// The client failed in another way.
    #[error("failed to {action}")]
    Client {
        /// What was attempted.
        action: String,
        /// Why.
        source: Box<exec::Error>,
    },
}

impl Error {
    /// Sorts out why the client failed.
    pub(super) fn of(action: String, source: exec::Error) -> Self {
        match source {
            exec::Error::Missing { .. } => Self::Missing,
            exec::Error::Status { stderr, .. } => {
                let said = without_advice(&stderr);
                if SILENT.iter().any(|text| said.contains(text)) {
                    Self::Unreachable { said }
                } else {
                    Self::Refused { action, said }
                }
            }
            source => Self::Client { action, source: Box::new(source) },
        }
    }

    fn said(&self) -> &str {
        match self {
            Self::Refused { said, .. } => said,
            _ => "",
        }
    }

    /// Whether what was asked for does not exist.
    pub fn not_found(&self) -> bool {
        let said = self.said().to_lowercase();
        said.contains("no such") || said.contains("not found")
    }

    /// Whether the name of a container that should be made is in use.
    pub fn in_use(&self) -> bool {
        self.said().contains("is already in use by ")
    }

    /// Whether the daemon's host lacks what a container should mount.
    pub(super) fn lacks_source(&self) -> bool {
        self.said().contains("bind source path does not exist")
    }

    /// Whether a container is not in the network that it should be taken out of.
    pub fn is_detached(&self) -> bool {
        self.said().contains("is not connected to")
    }

    /// Whether two networks have the name of the one that a container should be in.
    pub fn is_ambiguous(&self) -> bool {
        self.said().contains("is ambiguous")
    }

    /// Whether what should be made exists already.
    pub fn exists(&self) -> bool {
        self.said().contains("already exists")
    }

    /// Whether a network's addresses belong to another one already.
    pub fn overlaps(&self) -> bool {
        ["Pool overlaps", "is already used on the host"].iter().any(|text| self.said().contains(text))
    }
}

/// What the client said, without the advice to read its help, which is about commands that nobody typed.
fn without_advice(said: &str) -> String {
    let advice = |line: &&str| ["See 'docker ", "Run 'docker "].iter().any(|begin| line.starts_with(begin));
    said.lines().filter(|line| !advice(line)).collect::<Vec<_>>().join("\n").trim().to_owned()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Missing => Self::preflight(error.to_string()).hint("apt-get install docker.io"),
            Error::Unreachable { said } if said.contains("permission denied") => {
                Self::preflight(error.to_string()).hint("add yourself to the group docker, or run this as root")
            }
            Error::Unreachable { said } if TLS.iter().any(|text| said.contains(text)) => {
                Self::preflight(error.to_string()).hint(
                    "a daemon with TLS: DOCKER_HOST=tcp://HOST:2376, DOCKER_TLS_VERIFY=1, DOCKER_CERT_PATH=FOLDER with ca.pem, cert.pem, key.pem",
                )
            }
            Error::Unreachable { .. } => Self::preflight(error.to_string())
                .hint("start it: systemctl start docker")
                .hint("a daemon elsewhere is named by DOCKER_HOST"),
            Error::Old { .. } => Self::preflight(error.to_string()).hint("install Docker 19.03 or newer"),
            Error::Shim => Self::preflight(error.to_string())
                .hint("put Docker's client before it on PATH, and have podman's service started: systemctl start podman.socket")
                .hint(format!("it is asked at {SOCKET}: ln -s /run/podman/podman.sock {SOCKET}")),
            Error::Unsettled { name, .. } => {
                let remedy = format!("leave one network of that name: docker network ls --filter name={name}");
                Self::from_error(error).hint(remedy)
            }
            Error::Answer { .. } | Error::Refused { .. } | Error::Client { .. } => Self::from_error(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stderr: &str) -> Error {
        let source = exec::Error::Status {
            program: "docker".into(),
            status: "exited with code 1".into(),
            code: Some(1),
            stdout: Vec::new(),
            stderr: stderr.into(),
        };
        Error::of("do it".into(), source)
    }

    #[test]
    fn what_docker_says_is_sorted() {
        let silent = said("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?\n");
        assert!(matches!(silent, Error::Unreachable { .. }));
        assert_eq!(Failure::from(silent).kind, crate::failure::Kind::Preflight);
        for text in [
            "unable to resolve docker endpoint: open /certs/client/ca.pem: no such file or directory",
            "Error response from daemon: Client sent an HTTP request to an HTTPS server.",
            "error during connect: Get \"https://docker:2376/v1.41/version\": x509: certificate signed by unknown authority",
        ] {
            let failure = Failure::from(said(text));
            assert_eq!(failure.kind, crate::failure::Kind::Preflight, "{text}");
            assert!(failure.hints[0].contains("DOCKER_CERT_PATH"), "{text}");
        }
        assert!(said("Error: No such container: x").not_found());
        assert!(said("Error response from daemon: network kind not found").not_found());
        assert!(said("network with name kind already exists").exists());
        let twins = "docker: Error response from daemon: network kind is ambiguous (2 matches found on name)";
        assert!(said(twins).is_ambiguous() && !said(twins).exists());
        assert!(!said("Conflict. The container name is in use").not_found());
    }

    #[test]
    fn advice_about_commands_that_nobody_typed_is_left_out() {
        let text = "docker: Error response from daemon: no space left on device.\n\nRun 'docker run --help' for more information\n";
        let failure = Failure::from(said(text));
        assert_eq!(
            failure.to_string(),
            "failed to do it: docker: Error response from daemon: no space left on device."
        );
    }

    #[test]
    fn what_podman_says_is_sorted() {
        for text in [
            "no container with name or ID \"x\" found: no such container",
            "unable to find network with name or ID x: network not found",
            "volume with name x not found: no such volume",
            "failed to find image x:1: docker.io/library/x:1: No such image",
        ] {
            assert!(said(&format!("Error response from daemon: {text}")).not_found(), "{text}");
        }
        let taken = "container create: creating container storage: the container name \"x\" is already in use by 7147dc. You have to remove it";
        assert!(said(taken).in_use());
        assert!(said("Error response from daemon: network name x already used: network already exists").exists());
        assert!(
            said("Error response from daemon: subnet 10.99.0.0/24 is already used on the host or by another config")
                .overlaps()
        );
        assert!(said("Error response from daemon: container x is not connected to network y").is_detached());
    }
}
