//! LocalControlPlane: the cluster's keys and kubeconfig, and one Machine.

mod controller;
mod plan;

pub use controller::reconcile;
