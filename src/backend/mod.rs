//! What makes the bootstrap cluster.
//!
//! The story asks for a cluster by name and owner; a backend makes it or adopts the one that it made before, and
//! refuses one that somebody else made. Today there is [`Local`]; kind and existing clusters are further variants.

mod local;

use std::path::PathBuf;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::clock::Deadline;
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::node::State;

pub use local::{Local, LocalSpec};

/// Names of all backends.
pub const NAMES: [&str; 1] = ["local"];

/// A cluster that a backend made.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// Its name.
    pub name: String,
    /// On whose behalf it was made.
    pub owner: String,
    /// Its state.
    pub state: State,
    /// The API server's URL.
    pub server: String,
    /// Its nodes.
    pub nodes: Vec<MadeNode>,
    /// Its administrator's kubeconfig.
    pub kubeconfig: PathBuf,
}

/// One node of such a cluster.
#[derive(Clone, Debug, Serialize)]
pub struct MadeNode {
    /// Its name.
    pub name: String,
    /// Control plane or worker.
    pub role: String,
    /// Its state.
    pub state: State,
    /// The daemon's pid.
    pub pid: Option<u32>,
    /// What is not ready, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
}

/// A backend.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Plain processes on this host.
    Local(Local),
}

impl Backend {
    /// The backend that a configuration names.
    pub fn named(name: &str, local: impl FnOnce() -> Result<Local>) -> Result<Self> {
        match name {
            "local" => Ok(Self::Local(local()?)),
            _ => Err(Failure::usage(format!("there is no backend {name:?}"))
                .hint(format!("backends are: {}", NAMES.join(", ")))),
        }
    }

    /// Makes the cluster, or adopts it when the same owner made it before; its API server answers afterwards.
    pub async fn create_or_adopt(
        &self,
        spec: &LocalSpec,
        events: &Events,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<Made> {
        match self {
            Self::Local(local) => local.create_or_adopt(spec, events, deadline, cancel).await,
        }
    }

    /// The cluster of that name; `None` when there is none.
    pub async fn find(&self, name: &str) -> Result<Option<Made>> {
        match self {
            Self::Local(local) => local.find(name).await,
        }
    }

    /// The HTTP proxy into the cluster's network, with its password: how its registry is reached from here.
    pub fn proxy_url(&self, name: &str) -> Result<Option<String>> {
        match self {
            Self::Local(local) => local.proxy_url(name).map(Some),
        }
    }

    /// Deletes the cluster; fine when there is none. Refused when somebody else made it.
    pub async fn delete(&self, name: &str, owner: &str) -> Result<()> {
        match self {
            Self::Local(local) => {
                if let Some(made) = local.find(name).await?
                    && made.owner != owner
                {
                    return Err(Failure::refused(format!("cluster {name} was made by {}, not by {owner}", made.owner)));
                }
                local.delete(name).await
            }
        }
    }

    /// All clusters.
    pub async fn list(&self) -> Result<Vec<Made>> {
        match self {
            Self::Local(local) => local.list().await,
        }
    }
}
