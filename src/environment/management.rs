//! The management cluster of an environment, as it is reached from this host.

use http::Uri;

use super::{Configuration, VALUES};
use crate::failure::{Failure, Result};
use crate::flux::{REGISTRY, RELEASE_NAMESPACE};
use crate::k8s::{Cluster, ObjectRef};
use crate::node::{self, Home, Node, Role};
use crate::oci::push::Registry;

/// The name of the management cluster: of its Cluster API object, of the ConfigMap and Secrets, of its nodes' cluster.
pub const MANAGEMENT_CLUSTER: &str = "management-cluster";

/// A connection to the management cluster and to the registry in it.
#[derive(Clone, Debug)]
pub struct Management {
    /// The cluster.
    pub cluster: Cluster,
    /// Its registry, reached through the network of the cluster.
    pub registry: Registry,
}

impl Management {
    /// Finds the management cluster on this host that was made for an environment.
    pub async fn find(home: &Home, environment: &str) -> Result<Self> {
        let is_control_plane =
            |node: &Node| node.config().cluster == MANAGEMENT_CLUSTER && node.config().role == Role::ControlPlane;
        let Some(node) = node::list(home)?.into_iter().find(is_control_plane) else {
            return Err(Failure::usage(format!("there is no management cluster in {}", home.root().display()))
                .hint(format!("cluster-init bootstrap {environment}")));
        };
        let found = Self::of(&node).await?;
        found.belongs_to(environment).await?;
        Ok(found)
    }

    /// Connects to the cluster of a control-plane node.
    pub async fn of(node: &Node) -> Result<Self> {
        let origin = node.paths().admin.display().to_string();
        let cluster = Cluster::connect_text("management", &node.kubeconfig()?, &origin).await?;
        let proxy: Uri = node.proxy_url("cluster-init")?.parse().map_err(Failure::from_error)?;
        let registry = Registry::new(REGISTRY, true, Some(&proxy))?;
        Ok(Self { cluster, registry })
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
