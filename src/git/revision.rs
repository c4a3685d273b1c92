//! The name of what is deployed.

use std::fmt;

/// The full name of a commit, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitId(String);

impl CommitId {
    /// Takes a full hexadecimal name.
    pub fn new(hex: impl Into<String>) -> Self {
        Self(hex.into())
    }

    /// The full name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a person tells it from others by.
    pub fn short(&self) -> &str {
        short(&self.0)
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is deployed: a commit, or a working tree by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revision {
    /// A commit.
    Commit(CommitId),
    /// A working tree with changes that are not committed: the hexadecimal digest of what is published of it.
    Dirty(String),
}

/// How much of a digest stands in names.
const SHORT: usize = 12;

impl Revision {
    /// The tag of the source artifact, and the value of CURRENT_COMMIT.
    pub fn tag(&self) -> String {
        match self {
            Self::Commit(id) => id.as_str().to_owned(),
            Self::Dirty(digest) => format!("dirty-{}", short(digest)),
        }
    }

    /// The revision as Flux writes it into artifacts.
    pub fn annotation(&self) -> String {
        match self {
            Self::Commit(id) => format!("sha1:{id}"),
            Self::Dirty(_) => self.tag(),
        }
    }

    /// The version that source-controller gives a chart of this commit of a Git repository; it adds a number of its own.
    pub fn git_chart_version(&self, base: &str) -> String {
        match self {
            Self::Commit(id) => format!("{base}+{}", id.short()),
            Self::Dirty(_) => self.chart_version(base),
        }
    }

    /// The chart's version: its base version with this revision as pre-release. The letter keeps digits from being read as a
    /// number, which must not begin with a zero.
    pub fn chart_version(&self, base: &str) -> String {
        match self {
            Self::Commit(id) => format!("{base}-g{}", short(id.as_str())),
            Self::Dirty(digest) => format!("{base}-dirty-{}", short(digest)),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit(id) => write!(f, "commit {}", short(id.as_str())),
            Self::Dirty(digest) => write!(f, "working tree {}", short(digest)),
        }
    }
}

fn short(hex: &str) -> &str {
    hex.get(..SHORT).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_tags_and_versions() {
        let commit = Revision::Commit(CommitId::new("0123456789abcdef0123456789abcdef01234567"));
        assert_eq!(commit.tag(), "0123456789abcdef0123456789abcdef01234567");
        assert_eq!(commit.chart_version("0.1.0"), "0.1.0-g0123456789ab");
        assert_eq!(commit.git_chart_version("0.1.0"), "0.1.0+0123456789ab");
        let dirty = Revision::Dirty("fedcba98765432100000".into());
        assert_eq!(dirty.tag(), "dirty-fedcba987654");
        assert_eq!(dirty.chart_version("0.1.0"), "0.1.0-dirty-fedcba987654");
    }
}
