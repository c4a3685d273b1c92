//! The bundle: every program, image and manifest that a run needs, in one OCI image layout.
//!
//! `tools/parts/parts.toml` lists the parts; it and the Go modules beside it are compiled into this program, so that
//! `cluster-init bundle build` works wherever it stands. Entries of the index carry the part's name, version, kind and
//! key; the key is a digest of all that the part is made from.
//!
//! A bundle can be pushed to a registry, and pulled from one; without one its parts come from where upstream publishes them.
//!
//! # Invariants
//! - The same parts, sources and toolchain give the same bundle, byte for byte.
//! - What is pulled is in the index when all of it is there and has its digest.
//! - Nothing of a bundle is used before it was compared with its digest.

mod binary;
mod build;
mod error;
mod parts;
mod progress;
mod pull;
mod push;
mod release;
mod render;
mod site;
mod store;
mod system;
mod target;
mod toolchain;
mod upstream;

pub use build::{Options, Report, build};
pub use error::{Error, REPAIR, Result, size};
pub use parts::{Manifest, Part, Parts, Program, Render};
pub use pull::{Origin, Pulled, pull};
pub use push::{Pushed, place};
pub use site::{Mirror, Site};
pub use store::{Bundle, Entry, Verified};
pub use system::System;
