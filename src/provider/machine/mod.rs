//! LocalMachine: a node daemon on this host, made, watched over and removed.
//!
//! A node's name is its LocalMachine's, its owner the LocalMachine's namespace and name: both survive a move to another
//! cluster, whose provider then adopts the very same daemon.

mod controller;
mod plan;

pub use controller::reconcile;
pub use plan::{MACHINE_OWNER, OWN_CONTROL_PLANE, node_owner};
