//! The clusters of a run as this host reaches them.

use crate::backend::{Backend, Local, LocalSpec};
use crate::environment::{self, Management};
use crate::failure::{Failure, Result};
use crate::flux::REGISTRY;
use crate::node::{self, Home, Node, Role};
use crate::oci::push::Registry;

use super::MANAGEMENT;

/// The bootstrap cluster's name.
pub fn name(environment: &str) -> String {
    format!("{environment}-bootstrap")
}

/// On whose behalf it is made.
pub fn owner(environment: &str) -> String {
    format!("bootstrap {environment}")
}

/// What is asked of the backend.
pub fn spec(environment: &str) -> LocalSpec {
    LocalSpec { throw_away: true, ..LocalSpec::new(name(environment), owner(environment)) }
}

/// The backend that an environment's settings name.
pub fn backend(settings: &environment::Settings, home: &Home, bundle: &std::path::Path) -> Backend {
    match settings.backend {
        environment::Backend::Local => Backend::Local(Local::new(home.clone(), bundle)),
    }
}

/// The registry of the bootstrap cluster, reached through the cluster's network.
pub fn bootstrap_registry(backend: &Backend, environment: &str) -> Result<Registry> {
    let proxy = backend.proxy_url(&name(environment))?;
    let proxy = proxy.map(|url| url.parse().map_err(|_| Failure::failed("the cluster's proxy has no usable address")));
    Ok(Registry::new(REGISTRY, true, proxy.transpose()?.as_ref())?)
}

/// The control-plane node of the management cluster on this host, when there is one.
pub fn management_node(home: &Home) -> Result<Option<Node>> {
    Ok(node::list(home)?
        .into_iter()
        .find(|node| node.config().cluster == MANAGEMENT && node.config().role == Role::ControlPlane))
}

/// The registry of the management cluster.
pub async fn management_registry(home: &Home) -> Result<Registry> {
    let node = management_node(home)?
        .ok_or_else(|| Failure::failed("the management cluster has no control plane on this host"))?;
    Ok(Management::of(&node).await?.registry)
}
