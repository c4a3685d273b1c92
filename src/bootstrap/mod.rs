//! The story of `cluster-init bootstrap`: its steps, in order, as data.
//!
//! ```text
//! preflight ► bundle ► bootstrap-cluster ► source ► flux ► environment ► release ► management-cluster
//!           ► management-flux ► pivot ► self-management ► teardown
//! ```
//!
//! `cluster-init apply` tells a short one with the same steps, on a cluster that exists:
//!
//! ```text
//! preflight ► source ► flux ► environment ► release ► components
//! ```
//!
//! `cluster-init resume` after a bootstrap that ended well, where machines are containers:
//!
//! ```text
//! containers ► components
//! ```
//!
//! Each step derives from the live state whether it is done, so that a run that was killed anywhere goes on where it was.

mod access;
mod checks;
mod execute;
mod restart;
mod run;
mod status;
mod steps;
mod story;
mod support;

pub use access::{name as bootstrap_cluster, owner};
pub use checks::{Check, Outcome};
pub use execute::{Ended, Options, apply, bootstrap, resume};
pub use run::{
    EventLog, MAKES, MANAGEMENT_KUBECONFIG, Makes, Past, Subject, all as runs, began, hold, last, unfinished, worker,
};
pub use status::{Component, Status, management, status};
pub use steps::{application, steps};
pub use story::{NAMESPACE, Story};
