//! What makes the bootstrap cluster.
//!
//! The story asks for a cluster by name and owner; a backend makes it or adopts the one that it made before, and
//! refuses one that somebody else made. There are [`Local`] and [`Kind`]; existing clusters are a further variant.

mod addresses;
mod kind;
mod kind_config;
mod local;
mod mirror;
mod reach;

use std::path::PathBuf;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::clock::Deadline;
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::node::State;

pub use addresses::{Addresses, Displaced, Known};
pub use kind::{CLUSTER_LABEL, HOME_LABEL, Kind, ROLE_LABEL, volume as kind_volume};
pub use kind_config::KindOptions;
pub use local::{Local, LocalSpec};
pub use mirror::{LABEL, MIRROR, Mirror, NETWORK, Served};
pub use reach::reachable;

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
    /// Containers of the local Docker.
    Kind(Kind),
}

impl Backend {
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
            Self::Kind(kind) => kind.create_or_adopt(spec, events, deadline, cancel).await,
        }
    }

    /// The cluster of that name; `None` when there is none.
    pub async fn find(&self, name: &str) -> Result<Option<Made>> {
        match self {
            Self::Local(local) => local.find(name).await,
            Self::Kind(kind) => kind.find(name).await,
        }
    }

    /// The HTTP proxy into the cluster's network, with its password: how its registry is reached from here. `None` where there is
    /// none, and the API server leads into the cluster's network.
    pub fn proxy_url(&self, name: &str) -> Result<Option<String>> {
        match self {
            Self::Local(local) => local.proxy_url(name).map(Some),
            Self::Kind(_) => Ok(None),
        }
    }

    /// Deletes the cluster; fine when there is none. Refused when somebody else made it.
    pub async fn delete(&self, name: &str, owner: &str) -> Result<()> {
        if let Some(made) = self.find(name).await?
            && made.owner != owner
        {
            return Err(Failure::refused(format!("cluster {name} was made by {}, not by {owner}", made.owner)));
        }
        match self {
            Self::Local(local) => local.delete(name).await,
            Self::Kind(kind) => kind.delete(name).await,
        }
    }

    /// All clusters.
    pub async fn list(&self) -> Result<Vec<Made>> {
        match self {
            Self::Local(local) => local.list().await,
            Self::Kind(kind) => kind.list().await,
        }
    }
}
