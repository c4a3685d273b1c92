//! `cluster-init` turns a Git repository into a self-managed Cluster API management cluster.
//!
//! The modules are floors: each uses only those listed below it. See ARCHITECTURE.md.

pub mod cli;
pub mod ui;

pub mod bootstrap;
pub mod cleanup;
pub mod validate;

pub mod plan;

pub mod backend;

pub mod environment;

pub mod watch;

pub mod capi;
pub mod flux;

pub mod bundle;
pub mod provider;

pub mod node;

pub mod docker;
pub mod git;
pub mod k8s;
pub mod oci;

pub mod saga;

pub mod clock;
pub mod event;
pub mod exec;
pub mod failure;
pub mod fsx;
pub mod near;
pub mod yaml;
