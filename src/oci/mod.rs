//! OCI image layouts, images, artifacts, and pushing them to a registry.
//!
//! A [`Layout`] is a folder with `index.json` and `blobs/sha256/*`. Whatever is read from it is compared with its digest
//! first; whatever is written appears whole or not at all. An [`Image`] unpacks into a folder that is named after its
//! digest, so that many nodes share one copy and unpacking twice costs nothing.
//!
//! # Invariants
//! - The same content gives the same bytes: entries are sorted, have no time and belong to nobody.
//! - No entry of a layer reaches a path outside the folder it is unpacked into, whatever links the layer holds.

mod archive;
mod artifact;
mod build;
mod digest;
mod error;
mod export;
mod image;
mod layout;
pub mod push;
mod reference;
mod spec;
mod unpack;

pub use archive::Archive;
pub use artifact::Artifact;
pub use build::{ProgramImage, SystemImage};
pub use digest::Digest;
pub use error::{Error, Result};
pub use image::{Image, ImageConfig};
pub use layout::{Check, Layout};
pub use reference::Reference;
pub use spec::{Descriptor, Index, Manifest, REF_NAME, media};
