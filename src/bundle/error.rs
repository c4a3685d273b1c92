//! What can go wrong with a bundle.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::oci::Digest;
use crate::{exec, fsx, oci};

/// The command that makes, completes and repairs a bundle.
pub const REPAIR: &str = "cluster-init bundle build";

/// The command that installs a Go toolchain; any since 1.21 fetches the version that go.mod names by itself.
const INSTALL_GO: &str = "curl -fsSL https://go.dev/dl/go1.26.0.linux-amd64.tar.gz | sudo tar -C /usr/local -xz; PATH=$PATH:/usr/local/go/bin";

/// Bytes as a person reads them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation on the bundle that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no bundle.
    #[error("there is no bundle in {}", folder.display())]
    NoBundle {
        /// Where it should be.
        folder: PathBuf,
    },
    /// A part that is not in the bundle.
    #[error("the bundle {} has no part {name}", folder.display())]
    NoPart {
        /// The part's name.
        name: String,
        /// The bundle's folder.
        folder: PathBuf,
    },
    /// An image that is not in the bundle.
    #[error("the bundle {} has no image {reference}", folder.display())]
    NoImage {
        /// The image's normalised reference.
        reference: String,
        /// The bundle's folder.
        folder: PathBuf,
    },
    /// A part that cannot be used.
    #[error("part {name} is unusable")]
    Part {
        /// The part's name.
        name: String,
        /// Why.
        source: oci::Error,
    },
    /// A part whose image does not hold the program that it should.
    #[error("part {name} holds no program {program}")]
    NoProgram {
        /// The part's name.
        name: String,
        /// The program's path or name in the image.
        program: String,
    },
    /// The list of parts cannot be read.
    #[error("failed to understand parts.toml: {reason}")]
    Parts {
        /// Why.
        reason: String,
    },
    /// There is no Go toolchain.
    #[error("go is not installed or not on PATH, and parts of the bundle have to be made with it")]
    NoGo,
    /// The Go toolchain cannot work with the modules.
    #[error("the installed go cannot be used: {output}")]
    OldGo {
        /// What it said.
        output: String,
    },
    /// The Go toolchain failed.
    #[error("failed to {action}: {output}")]
    Go {
        /// What was attempted.
        action: String,
        /// The end of what it said.
        output: String,
    },
    /// A text that should be replaced in a manifest is not there.
    #[error("failed to make the manifest {name}: its sources do not hold {text:?}")]
    NoText {
        /// The part's name.
        name: String,
        /// The text.
        text: String,
    },
    /// Nothing is for that.
    #[error("there are no parts for {name:?} (known: {known})")]
    NoGroup {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Debian packages could not be installed.
    #[error("failed to install the Debian packages of the image {name}")]
    Debian {
        /// The part's name.
        name: String,
        /// Why.
        source: Box<exec::Error>,
    },
    /// Somebody else makes this bundle.
    #[error("process {holder} is making the bundle {}", folder.display())]
    Busy {
        /// The bundle's folder.
        folder: PathBuf,
        /// The other's pid.
        holder: String,
    },
    /// There is not enough disk.
    #[error("{} needs {} of free disk, and there are {}", path.display(), size(*need), size(*free))]
    Disk {
        /// A folder on the file system.
        path: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// The user stopped the build.
    #[error("the build was interrupted")]
    Interrupted,
    /// The user stopped a push or a pull.
    #[error("the transfer was interrupted")]
    Stopped {
        /// The command that goes on.
        again: String,
    },
    /// A registry cannot be reached, or does not do what it should.
    #[error("{source}")]
    Transfer {
        /// Why.
        source: oci::Error,
        /// The command that goes on.
        again: String,
    },
    /// Some parts cannot be had.
    #[error("{} of {total} parts could not be pulled: {}", failed.len(), list(failed))]
    Incomplete {
        /// The parts, and why.
        failed: Vec<(String, oci::Error)>,
        /// How many there should be.
        total: usize,
        /// Another way to them.
        hint: String,
        /// The command that goes on.
        again: String,
    },
    /// A registry that no bundle was pushed to.
    #[error("{registry} holds no bundle of this version ({tag})")]
    NotPushed {
        /// The registry.
        registry: String,
        /// The tag of the index.
        tag: &'static str,
    },
    /// A registry that holds another bundle than the one that is wanted.
    #[error("the bundle in {registry} is another one: {actual} where {wanted} is wanted")]
    OtherBundle {
        /// The registry.
        registry: String,
        /// The digest that was asked for.
        wanted: Digest,
        /// The digest of what is there.
        actual: Digest,
    },
    /// The layout itself is broken.
    #[error(transparent)]
    Layout(#[from] oci::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] fsx::Error),
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] exec::Error),
}

impl Error {
    /// What is wrong with a registry is not to be repaired in the bundle.
    pub(super) fn of_transfer(self) -> Self {
        match self {
            Self::Layout(source) => Self::Transfer { source, again: String::new() },
            error => error,
        }
    }

    /// Tells the command that goes on with a push or a pull.
    #[must_use]
    pub fn going_on_with(mut self, command: &str) -> Self {
        if let Self::Stopped { again } | Self::Transfer { again, .. } | Self::Incomplete { again, .. } = &mut self {
            command.clone_into(again);
        }
        self
    }
}

/// Adds the command that goes on, where it is known.
fn going_on(failure: Failure, again: &str) -> Failure {
    if again.is_empty() { failure } else { failure.hint(format!("what is done is kept; go on with: {again}")) }
}

/// How many failed parts are told with their reasons.
const MOST: usize = 8;

/// Parts and why they failed, each with its cause.
fn list(failed: &[(String, oci::Error)]) -> String {
    let tell = |(part, error): &(String, oci::Error)| {
        let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("part {part}: {error}{cause}")
    };
    let mut all: Vec<String> = failed.iter().take(MOST).map(tell).collect();
    if failed.len() > MOST {
        let names: Vec<&str> = failed[MOST..].iter().map(|(part, _)| part.as_str()).collect();
        all.push(format!("and in the same way {}", names.join(", ")));
    }
    all.join("; ")
}

/// The failure of parts that could not be pulled.
fn incomplete(error: &Error, failed: &[(String, oci::Error)], hint: &str, again: &str) -> Failure {
    let mut hints: Vec<String> = Vec::new();
    for text in failed.iter().flat_map(|(_, error)| error.hints()) {
        if !hints.contains(&text) && hints.len() < 3 {
            hints.push(text);
        }
    }
    hints.push(hint.to_owned());
    hints.push(format!("what is sound was kept; go on with: {again}"));
    hints.into_iter().fold(Failure::failed(error.to_string()), Failure::hint)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let make = format!("make or complete it: {REPAIR}");
        match error {
            Error::NoBundle { .. } | Error::NoPart { .. } => Self::preflight(error.to_string()).hint(make),
            Error::NoImage { .. } => Self::from_error(error)
                .hint("list the images it has: cluster-init bundle list")
                .hint(format!("if it comes from an older version: {REPAIR}")),
            Error::Part { .. } | Error::NoProgram { .. } => {
                Self::from_error(error).hint(format!("repair it: {REPAIR}"))
            }
            Error::Layout(error) => Self::from(error).hint(format!("repair it: {REPAIR}")),
            Error::NoGo | Error::OldGo { .. } => Self::preflight(error.to_string())
                .hint(format!("install it: {INSTALL_GO}"))
                .hint("or use a bundle that was made elsewhere: --bundle DIR"),
            Error::NoGroup { .. } => Self::usage(error.to_string()),
            Error::Debian { ref source, .. } if matches!(**source, exec::Error::Missing { .. }) => {
                Self::preflight("mmdebstrap is not installed, and images of Debian packages are made with it")
                    .hint("apt-get install mmdebstrap")
                    .hint("or use a bundle that was made elsewhere: --bundle DIR")
            }
            Error::Debian { .. } => Self::from_error(error)
                .hint("a mirror of Debian must be reachable: apt-get update says whether it is")
                .hint(format!("what is done is kept; go on with: {REPAIR}")),
            Error::Go { .. } => Self::from_error(error)
                .hint("the module proxy must be reachable: go env GOPROXY")
                .hint(format!("what is done is kept; go on with: {REPAIR}")),
            Error::Busy { .. } => Self::refused(error.to_string()).hint("wait until it has ended"),
            Error::Disk { .. } => Self::preflight(error.to_string())
                .hint("free disk space there")
                .hint("or choose other folders: CLUSTER_INIT_HOME, GOCACHE, GOMODCACHE"),
            Error::Interrupted => {
                Self::interrupted(error.to_string()).hint(format!("what is done is kept; go on with: {REPAIR}"))
            }
            Error::Stopped { ref again } => going_on(Self::interrupted(error.to_string()), again),
            Error::Transfer { source, again } => {
                let usage = matches!(source, oci::Error::Address { .. } | oci::Error::Certificates { .. });
                let failure = Self::from(source);
                if usage { failure } else { going_on(failure, &again) }
            }
            Error::Incomplete { ref failed, ref hint, ref again, .. } => incomplete(&error, failed, hint, again),
            Error::NotPushed { ref registry, .. } => Self::failed(error.to_string())
                .hint(format!("put it there, from a host that has it: cluster-init bundle push {registry}"))
                .hint("or pull its parts from where upstream publishes them: cluster-init bundle pull"),
            Error::OtherBundle { .. } => Self::refused(error.to_string())
                .hint("bundle push tells the digest of what it pushed; without --digest any bundle will do"),
            Error::Parts { .. } | Error::NoText { .. } => Self::from_error(error),
            Error::File(error) => error.into(),
            Error::Tool(error) => error.into(),
        }
    }
}
