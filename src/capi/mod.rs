//! Cluster API: what belongs to a cluster, how it is moved, and whether it is well.
//!
//! ```text
//!   discover ─► graph ─► plan ─► pause ─► copy ─► verify ─► status ─► COMMIT ─► delete ─► release
//!                          └───────── any failure: roll back ───────────┘ └─ any failure: roll forward ─┘
//! ```
//!
//! [`graph`](Graph), [`plan`](Plan) and [`differences`] are pure functions over live objects; [`Pivot`] does the rest.
//! clusterctl's labels and annotations are honoured, so that what clusterctl moves is moved here.
//! Inside the pivot, *source* and *target* are the two clusters, as in clusterctl.

mod discover;
mod error;
mod graph;
mod newborn;
mod obstacle;
mod parity;
mod pivot;
mod plan;
mod reconnect;
mod scope;
mod summary;
#[cfg(test)]
mod tests;

pub use discover::{Discovery, discover};
pub use error::{Error, Result};
pub use graph::{Graph, Kind, Node, Uid};
pub use newborn::{introduce, newborn};
pub use parity::{Differences, differences};
pub use pivot::{Fence, Holder, Options, Phase, Pivot, Record, Report, identity, recorded};
pub use plan::{Facts, Item, Plan, Verdict, plan};
pub use reconnect::{look, looks_soon, managers, replace, restart, waits};
pub use scope::Filter;
pub use summary::{Machine, Summary, clusters, machines, summary};

/// Marks what a pivot paused or copied: its value is the pivot's id.
pub const MARK: &str = "cluster-init.dev/pivot";

/// Label of the CustomResourceDefinitions that a move looks at.
const PROVIDER: &str = "clusterctl.cluster.x-k8s.io";
/// Label of whatever belongs to a provider: its value names it, and begins with its type.
const OF_PROVIDER: &str = "cluster.x-k8s.io/provider";
/// Label, on a definition or an object, of what moves although no cluster owns it.
const MOVE: &str = "clusterctl.cluster.x-k8s.io/move";
/// Label, on a definition or an object, of what moves with everything that it owns.
const MOVE_HIERARCHY: &str = "clusterctl.cluster.x-k8s.io/move-hierarchy";
/// Annotation by which a provider asks a move to wait.
const BLOCK_MOVE: &str = "clusterctl.cluster.x-k8s.io/block-move";
/// Annotation that tells webhooks that a deletion is part of a move.
const DELETE_FOR_MOVE: &str = "clusterctl.cluster.x-k8s.io/delete-for-move";
/// Annotation that pauses a ClusterClass.
const PAUSED: &str = "cluster.x-k8s.io/paused";
/// Cluster API's own group.
const GROUP: &str = "cluster.x-k8s.io";
