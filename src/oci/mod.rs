//! OCI image layouts, images, artifacts, and moving them to and from registries.
//!
//! A [`Layout`] is a folder with `index.json` and `blobs/sha256/*`. Whatever is read from it is compared with its digest
//! first; whatever is written appears whole or not at all. An [`Image`] unpacks into a folder that is named after its
//! digest, so that many nodes share one copy and unpacking twice costs nothing.
//!
//! A [`Registry`] is reached as docker reaches it: with the passwords that docker keeps. Transfers that are cut go on, for
//! as long as there is [`Patience`] with them.
//!
//! # Invariants
//! - The same content gives the same bytes: entries are sorted, have no time and belong to nobody.
//! - What comes from elsewhere is a blob of a layout when it has its digest, and not before.
//! - No entry of a layer reaches a path outside the folder it is unpacked into, whatever links the layer holds.

mod address;
mod archive;
mod artifact;
mod build;
mod cause;
mod credentials;
mod digest;
mod error;
mod export;
mod image;
mod layout;
mod partial;
mod patience;
mod pull;
pub mod push;
mod reference;
mod registry;
mod spec;
mod unpack;
mod upload;

pub use address::{Access, Address};
pub use archive::Archive;
pub use artifact::Artifact;
pub use build::{ProgramImage, SharedFile, SystemImage};
pub use cause::Cause;
pub use digest::Digest;
pub use error::{Error, Result};
pub use image::{Image, ImageConfig};
pub use layout::{Check, Layout};
pub use patience::Patience;
pub use pull::Found;
pub use reference::Reference;
pub use registry::Registry;
pub use spec::{Descriptor, Index, Manifest, REF_NAME, media};

/// Runs work that reads and writes a lot where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The work is never aborted, so it panicked, and so do we.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
