//! The management cluster of an environment, as it is reached from this host.

use std::path::Path;

use http::Uri;

use super::configuration::COPY;
use super::{Configuration, VALUES};
use crate::failure::{Failure, Result};
use crate::flux::{REGISTRY, RELEASE_NAMESPACE};
use crate::fsx;
use crate::k8s::{Cluster, Forward, ObjectRef};
use crate::node::{self, Home, Node, Role};
use crate::oci::push::Registry;

/// The name of the management cluster where the values give it no other.
pub const MANAGEMENT_CLUSTER: &str = "management-cluster";

/// A cluster's own registry, as this host reaches it.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The registry.
    pub registry: Registry,
    /// What leads to it, where nothing else does.
    _forward: Option<Forward>,
}

impl Reached {
    /// Through an HTTP proxy into the cluster's network.
    pub fn through_proxy(proxy: &str) -> Result<Self> {
        let proxy: Uri = proxy.parse().map_err(|_| Failure::failed("the cluster's proxy has no usable address"))?;
        Ok(Self { registry: Registry::new(REGISTRY, true, Some(&proxy))?, _forward: None })
    }

    /// Through the cluster's API server.
    pub async fn through_api(cluster: &Cluster) -> Result<Self> {
        let forward = Forward::to(cluster, "cluster-init", "app=registry", 5000).await?;
        Ok(Self { registry: Registry::new(&forward.address(), true, None)?, _forward: Some(forward) })
    }
}

/// A connection to the management cluster and to the registry in it.
#[derive(Clone, Debug)]
pub struct Management {
    /// The cluster.
    pub cluster: Cluster,
    /// Its registry.
    pub reached: Reached,
}

impl Management {
    /// Connects to the management cluster that was made for an environment, with its kubeconfig.
    pub async fn find(home: &Home, environment: &str, kubeconfig: &Path) -> Result<Self> {
        let cluster = Cluster::connect("management", kubeconfig).await?;
        let found = Self { reached: Self::reach(home, &cluster, kubeconfig).await?, cluster };
        found.belongs_to(environment).await?;
        Ok(found)
    }

    /// How the registry of the cluster of a kubeconfig is reached: through the network proxy of its control plane where that
    /// is a node of this host, whose cluster may have any name; else through the API server.
    pub async fn reach(home: &Home, cluster: &Cluster, kubeconfig: &Path) -> Result<Reached> {
        let text = fsx::read_text(kubeconfig)?;
        let is_control_plane = |node: &Node| {
            let config = node.config();
            let server = config.server();
            // A port is not the beginning of a longer one.
            let ends = |at: usize| !text[at + server.len()..].starts_with(|c: char| c.is_ascii_digit());
            config.role == Role::ControlPlane && text.match_indices(&server).any(|(at, _)| ends(at))
        };
        match node::list(home)?.into_iter().find(is_control_plane) {
            Some(node) => Reached::through_proxy(&node.proxy_url("cluster-init")?),
            None => Reached::through_api(cluster).await,
        }
    }

    /// Refuses a cluster that another environment has been given to, and one whose objects are on their way to another cluster.
    pub async fn may_take(cluster: &Cluster, environment: &str) -> Result<()> {
        let values = ObjectRef::namespaced("v1", "ConfigMap", RELEASE_NAMESPACE, VALUES);
        let found = cluster.get(&values).await?;
        if let Some(owner) =
            found.as_ref().and_then(Configuration::environment_of).filter(|owner| *owner != environment)
        {
            return Err(Failure::refused(format!("the existing cluster is that of environment {owner}"))
                .hint(format!("cluster-init apply {owner} --kubeconfig FILE, or name another cluster")));
        }
        let copy = ObjectRef::namespaced("v1", "Secret", RELEASE_NAMESPACE, COPY);
        if cluster.get(&copy).await?.is_some() {
            return Err(Failure::refused("the existing cluster is the bootstrap cluster of a run that has not ended")
                .hint(format!("cluster-init resume {environment}, or name another cluster")));
        }
        Ok(())
    }

    async fn belongs_to(&self, environment: &str) -> Result<()> {
        let values = ObjectRef::namespaced("v1", "ConfigMap", RELEASE_NAMESPACE, VALUES);
        let found = self.cluster.get(&values).await?;
        let owner = found.as_ref().and_then(Configuration::environment_of);
        match owner {
            Some(owner) if owner == environment => Ok(()),
            Some(owner) => Err(Failure::refused(format!("the management cluster here is that of environment {owner}"))
                .hint(format!("cluster-init publish {owner}"))),
            None => Err(Failure::usage("the management cluster has not been handed over: it has no values yet")
                .hint(format!("cluster-init bootstrap {environment}"))),
        }
    }
}
