//! The story of `cluster-init cleanup`: takes away what runs of an environment left on this host and on its Docker daemon.
//!
//! ```text
//! survey ─► what is there ─► plan ─► what goes, what stays, and why each
//!    ▲                                 │
//!    │     bootstrap-cluster ► control-planes ► machines ► storage ► shared ► records
//!    └────────────────────────────────────────────────────────────────┘ until nothing that goes is left
//! ```
//!
//! Those who make things go before what they make. A thing goes only where something proves that a run of the environment made it: a
//! label or a volume with our home, a node's folder of our home, a container that a run has seen, the journal that tells which cluster
//! was being made. [`plan`] is pure: what is shown is what is done.

mod execute;
mod plan;
mod remove;
mod seen;
mod steps;
mod survey;

pub use execute::{Options, Report, cleanup};
pub use plan::{Fate, Item, Stage};
