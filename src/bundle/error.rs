//! What can go wrong with a bundle.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::{exec, fsx, oci};

/// The command that makes, completes and repairs a bundle.
pub const REPAIR: &str = "cluster-init bundle build";

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
            Error::File(error) => error.into(),
            Error::Tool(error) => error.into(),
        }
    }
}
