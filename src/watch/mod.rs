//! Watching clusters: what changes, what it waits for, and whose fault it is.
//!
//! ```text
//!   Live (kube watches) ─► Snapshot ─► state of each object ─► events
//!                             │
//!                             ├─► Follow: goal, no progress, hopeless ─► done, or a failure with its blame
//!                             └─► blame: Kustomization ► HelmRelease ► Cluster ► Machine ► Pod ► one root cause
//! ```

mod blame;
mod collect;
mod follow;
mod live;
mod snapshot;
mod state;

pub use blame::{Blame, Link, blame};
pub use collect::collect;
pub use follow::Follow;
pub use live::Live;
pub use snapshot::Snapshot;
pub use state::{brief, pod, state};
