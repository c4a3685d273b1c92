//! The bundle: every program, image and manifest that a run needs, in one OCI image layout.
//!
//! `tools/parts/parts.toml` lists the parts; it and the Go modules beside it are compiled into this program, so that
//! `cluster-init bundle build` works wherever it stands. Entries of the index carry the part's name, version, kind and
//! key; the key is a digest of all that the part is made from.
//!
//! # Invariants
//! - The same parts, sources and toolchain give the same bundle, byte for byte.
//! - Nothing of a bundle is used before it was compared with its digest.

mod build;
mod error;
mod parts;
mod push;
mod render;
mod store;
mod system;
mod toolchain;

pub use build::{Options, Report, build};
pub use error::{Error, REPAIR, Result, size};
pub use parts::{Manifest, Part, Parts, Program, Render};
pub use push::place;
pub use store::{Bundle, Entry, Verified};
pub use system::System;
