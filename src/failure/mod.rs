//! What a person reads when something went wrong, and the exit code that a pipeline reads.
//!
//! Modules have error enums of their own; where an error leaves the library's inner floors it becomes a
//! [`Failure`]: a kind (hence an exit code), a sentence, the chain of causes, and hints that say what to do next.

use std::error::Error as StdError;
use std::fmt;

/// Result of everything that a command calls directly.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// The class of a failure; each has one documented exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Something failed while it was done.
    Failed,
    /// The call, a configuration file or the user's repository is wrong.
    Usage,
    /// A preflight check refused.
    Preflight,
    /// A deadline passed, or nothing made progress.
    Timeout,
    /// The user or a signal stopped the run; it can be resumed.
    Interrupted,
    /// Things of a run remain that could not be removed.
    Leftovers,
    /// Going on could destroy something; nothing was done.
    Unsafe,
}

impl Kind {
    /// All kinds, for the exit code reference.
    pub const ALL: [Self; 7] =
        [Self::Failed, Self::Usage, Self::Preflight, Self::Timeout, Self::Interrupted, Self::Leftovers, Self::Unsafe];

    /// The process exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Preflight => 3,
            Self::Timeout => 4,
            Self::Interrupted => 5,
            Self::Leftovers => 6,
            Self::Unsafe => 7,
        }
    }

    /// What the exit code means, for `--help`.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Failed => "a step or command failed",
            Self::Usage => "usage or configuration is wrong",
            Self::Preflight => "a preflight check refused",
            Self::Timeout => "timeout, or no progress",
            Self::Interrupted => "interrupted; the run can be resumed",
            Self::Leftovers => "leftovers remain",
            Self::Unsafe => "refused for safety",
        }
    }
}

/// A failure as it reaches the user.
#[derive(Debug)]
pub struct Failure {
    /// Its class.
    pub kind: Kind,
    /// What failed, on which object, why: one sentence without a full stop.
    pub message: String,
    /// What to do next, most useful first.
    pub hints: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    /// Makes a failure of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new(), source: None }
    }

    /// Something failed while it was done (exit code 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The user's input is wrong (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A preflight check refused (exit code 3).
    pub fn preflight(message: impl Into<String>) -> Self {
        Self::new(Kind::Preflight, message)
    }

    /// A deadline passed (exit code 4).
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(Kind::Timeout, message)
    }

    /// Somebody stopped the run (exit code 5).
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted, message)
    }

    /// Going on could destroy something (exit code 7).
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsafe, message)
    }

    /// Wraps an error that has no kind of its own.
    pub fn from_error(error: impl StdError + Send + Sync + 'static) -> Self {
        Self {
            kind: Kind::Failed,
            message: error.to_string(),
            hints: Vec::new(),
            source: error.source().map(|s| s.to_string().into()),
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Changes the kind.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Puts what was attempted before the message: "failed to X: message".
    #[must_use]
    pub fn context(mut self, attempted: impl fmt::Display) -> Self {
        self.message = format!("{attempted}: {}", self.message);
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The message followed by its causes, without those that the message already repeats.
    pub fn chain(&self) -> Vec<String> {
        let mut lines = vec![self.message.clone()];
        let mut cause: Option<&(dyn StdError + 'static)> = self.source.as_deref().map(|s| s as _);
        while let Some(error) = cause {
            let text = error.to_string();
            if !lines.iter().any(|line| line.contains(&text)) {
                lines.push(text);
            }
            cause = error.source();
        }
        lines
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain().join(": "))
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

/// Adds what was attempted to any error on its way to becoming a [`Failure`].
pub trait Context<T> {
    /// Puts `attempted` before the error's own sentence.
    fn context(self, attempted: impl fmt::Display) -> Result<T>;
    /// Adds a hint.
    fn hint(self, hint: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Failure>> Context<T> for std::result::Result<T, E> {
    fn context(self, attempted: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(attempted))
    }

    fn hint(self, hint: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes: Vec<u8> = Kind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn context_reads_as_one_sentence() {
        let failure = Failure::failed("no such file").context("failed to read a.yaml").caused_by("disk gone");
        assert_eq!(failure.to_string(), "failed to read a.yaml: no such file: disk gone");
    }
}
