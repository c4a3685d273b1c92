//! Kubernetes clusters as the rest of the program sees them: connect, apply, read, wait.
//!
//! Every write goes through server-side apply with one field manager ([`MANAGER`]). Exceptions are the pivot's copies, which live in `capi`,
//! and what is given to a cluster ahead of its Flux, in Flux's name ([`Cluster::in_the_name_of`]).

mod cluster;
mod copies;
mod dry_run;
mod error;
mod forward;
mod manifest;
mod object;
mod proxy;
mod ready;
mod writes;

pub use cluster::{Cluster, own_config};
pub use copies::Copies;
pub use error::{Error, Result, reason};
pub use forward::Forward;
pub use manifest::{apply_order, parse};
pub use object::{ObjectRef, condition, reference};
pub use ready::{Readiness, readiness};

pub use kube::api::{ApiResource, DynamicObject};
pub use kube::core::GroupVersionKind;

/// The field manager of every write of our own.
pub const MANAGER: &str = "cluster-init";
