//! The user's repository, read without the git program: where it is, which commit is deployed, what is not committed; and
//! the server that clusters fetch it from.
//!
//! What is deployed comes from the commit's objects, not from the working tree, so that a commit's name says what runs;
//! a working tree is published only when it is asked for, under a name that is its own digest.

mod error;
mod remote;
mod repository;
mod revision;
mod tree;
mod url;

pub use error::{Error, Result};
pub use remote::{Access, Remote};
pub use repository::{Repository, is_branch};
pub use revision::{CommitId, Revision};
pub use tree::{File, Tree};
pub use url::{is_ssh, spelled_out};
