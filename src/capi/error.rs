//! What can go wrong with Cluster API objects.

use crate::failure::{Failure, Kind};
use crate::k8s::{self, ObjectRef};

/// A failed operation on Cluster API objects.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A conversation with a cluster failed.
    #[error(transparent)]
    Cluster(#[from] k8s::Error),
    /// Objects must not be moved as they are.
    #[error("{object} cannot be moved: {reason}{}", others(*more))]
    Forbidden {
        /// The first of them.
        object: Box<ObjectRef>,
        /// Why.
        reason: String,
        /// What to do about it.
        remedy: String,
        /// How many further objects there are.
        more: usize,
    },
    /// The target has an object of the same name that this pivot did not make.
    #[error("{object} exists on the {cluster} cluster already and is not a copy made by this pivot{by}")]
    Conflict {
        /// The object.
        object: Box<ObjectRef>,
        /// Where.
        cluster: String,
        /// Who wrote it, in brackets.
        by: String,
    },
    /// An object was changed, added or replaced on the source after the point of no return.
    #[error("{object} was changed on the {cluster} cluster after its copy was verified: {what}")]
    ChangedLate {
        /// The object.
        object: Box<ObjectRef>,
        /// Where.
        cluster: String,
        /// What; never a value.
        what: String,
    },
    /// Another pivot is under way.
    #[error("another pivot has not ended: {0}")]
    Other(String),
    /// The records and the journal cannot all be true.
    #[error(
        "the records of the pivot disagree: the source says: {source_says}; the target says: {target_says}; the journal here says: {journal_says}"
    )]
    Disagree {
        /// The source's record.
        source_says: String,
        /// The target's record.
        target_says: String,
        /// The journal.
        journal_says: String,
    },
    /// The filter names nothing, or too much.
    #[error("{0}")]
    Filter(String),
    /// A copy is not what its source is.
    #[error("the copy of {object} differs from its source: {what}{}", others(*more))]
    Differs {
        /// The first of them.
        object: Box<ObjectRef>,
        /// What differs; never a value of a Secret.
        what: String,
        /// How many further objects differ.
        more: usize,
    },
    /// An object that would be deleted has no copy.
    #[error("{object} has no copy on the {cluster} cluster any more: it is not deleted from its source")]
    NoCopy {
        /// The object.
        object: Box<ObjectRef>,
        /// Where the copy should be.
        cluster: String,
    },
    /// The record of a pivot cannot be read.
    #[error("ConfigMap {name} on the {cluster} cluster is damaged: {reason}")]
    Record {
        /// Its name.
        name: String,
        /// Where.
        cluster: String,
        /// Why.
        reason: String,
    },
}

fn others(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more objects)") }
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Cluster(error) => error.into(),
            Error::Forbidden { remedy, .. } => Self::new(Kind::Unsafe, message).hint(remedy),
            Error::Conflict { .. } => Self::new(Kind::Unsafe, message).hint("delete it, or find out who made it"),
            Error::ChangedLate { .. } => Self::new(Kind::Unsafe, message).hint(
                "make the same change to its copy on the target, or undo it on the source; then run the same command: it goes on",
            ),
            Error::Other(_) => Self::new(Kind::Unsafe, message)
                .hint("run the command that began it again, with the same kubeconfigs: it goes on to its end"),
            Error::Disagree { .. } => Self::new(Kind::Unsafe, message).hint(
                "look at ConfigMap default/cluster-init-pivot on both clusters; delete or restore the one that is wrong, then run the same command",
            ),
            Error::Filter(_) => Self::usage(message),
            Error::Differs { .. } => Self::failed(message)
                .hint("something changed the object while it was copied: a controller, a webhook or a person"),
            Error::NoCopy { .. } | Error::Record { .. } => {
                Self::new(Kind::Unsafe, message).hint("somebody changed the target by hand: restore what is missing")
            }
        }
    }
}
