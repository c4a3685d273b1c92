//! LocalCluster: a port on loopback for the API server, and the workers' bootstrap data.
//!
//! It is provisioned when the API server answers, not before: Cluster API connects to the cluster at that moment, and
//! after a refused connection it tries again only 30 s later. Control plane and LocalMachines do not wait for it.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use serde_json::json;

use super::conditions::{self, Verdict};
use super::context::{Context, SOON};
use super::core::{self, Cluster, MANAGED_BY_ANNOTATION, paused};
use super::error::Result;
use super::secrets::{self, Owned};
use super::types::{ApiEndpoint, LocalCluster, LocalClusterStatus, Provisioning};
use super::workload;
use crate::clock;
use crate::failure::Failure;
use crate::node;

/// Manager of this controller's fields.
pub const MANAGER: &str = "cluster-init-local-cluster";

/// Ports for API servers lie below the range that systems take for outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Reconciles one LocalCluster.
pub async fn reconcile(object: Arc<LocalCluster>, context: Arc<Context>) -> Result<Action> {
    let namespace = object.namespace().unwrap_or_default();
    let Some(object) = context.get::<LocalCluster>(&namespace, &object.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let nothing_to_do =
        object.metadata.deletion_timestamp.is_some() || object.annotations().contains_key(MANAGED_BY_ANNOTATION);
    // Cluster API sets the owner; the change brings the next look.
    let (false, Some(owner)) = (nothing_to_do, core::owner(&object, core::GROUP, "Cluster")) else {
        return Ok(Action::await_change());
    };
    let Some(cluster) = context.get::<Cluster>(&namespace, &owner.name).await? else {
        return Ok(Action::await_change());
    };
    if let Some(reason) = paused(&cluster, &object, "LocalCluster") {
        report(&context, &object, false, vec![Verdict::paused(Some(&reason))]).await?;
        return Ok(Action::await_change());
    }
    let endpoint = match &object.spec.control_plane_endpoint {
        Some(endpoint) => endpoint.clone(),
        None => choose(&context, &object).await?,
    };
    let name = cluster.name_any();
    let owner = json!({"apiVersion": core::API_VERSION, "kind": "Cluster", "name": name, "uid": cluster.uid()});
    let owned = Owned { namespace: &namespace, cluster: &name, owner };
    let bootstrap = secrets::worker_bootstrap_name(&name);
    secrets::ensure_bootstrap(&context, &owned, &bootstrap, "worker", &endpoint).await?;

    let already = object.status.iter().filter_map(|s| s.initialization.as_ref()).any(|i| i.provisioned == Some(true));
    let answer = if already {
        Ok(())
    } else {
        match secrets::kubeconfig(&context, &namespace, &name).await? {
            Some(kubeconfig) => workload::probe(&name, &kubeconfig).await,
            None => Err("the control plane has not made the kubeconfig yet".into()),
        }
    };
    let ready = verdict(answer.as_ref().err().map(String::as_str));
    report(&context, &object, answer.is_ok(), vec![ready, Verdict::paused(None)]).await?;
    Ok(if answer.is_ok() { Action::await_change() } else { Action::requeue(SOON) })
}

/// The Ready condition; `fault` is why the API server does not answer.
fn verdict(fault: Option<&str>) -> Verdict {
    match fault {
        None => Verdict::yes("Ready", "Ready"),
        Some(fault) => {
            Verdict::no("Ready", "WaitingForAPIServer", format!("the API server does not answer yet: {fault}"))
        }
    }
}

async fn report(context: &Context, object: &LocalCluster, provisioned: bool, verdicts: Vec<Verdict>) -> Result<()> {
    let before = object.status.clone().unwrap_or_default();
    let mut status: LocalClusterStatus = before.clone();
    if provisioned {
        status.initialization = Some(Provisioning { provisioned: Some(true) });
    }
    conditions::set(&mut status.conditions, verdicts, object.metadata.generation, clock::now());
    if status == before {
        return Ok(());
    }
    context.apply_status(MANAGER, object, &status).await
}

/// Chooses the API server's port and writes it into the spec, where it survives a move.
async fn choose(context: &Context, object: &LocalCluster) -> Result<ApiEndpoint> {
    let mut taken: Vec<u16> = Vec::new();
    for node in node::list(&context.home)? {
        let ports = node.config().ports;
        taken.extend([ports.api_server, ports.proxy, ports.kubelet, ports.controller_manager, ports.scheduler]);
    }
    let others = context.list_all::<LocalCluster>().await?;
    let promised = others.iter().filter_map(|other| other.spec.control_plane_endpoint.as_ref());
    taken.extend(promised.filter_map(|endpoint| u16::try_from(endpoint.port).ok()));
    let start = rand::random_range(PORTS);
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let port = (start..PORTS.end)
        .chain(PORTS.start..start)
        .find(|port| !taken.contains(port) && free(*port))
        .ok_or_else(|| Failure::failed(format!("no port between {} and {} is free", PORTS.start, PORTS.end)))?;
    let endpoint = ApiEndpoint { host: Ipv4Addr::LOCALHOST.to_string(), port: i32::from(port) };
    context.apply(MANAGER, object, json!({"spec": {"controlPlaneEndpoint": endpoint}})).await?;
    tracing::info!(cluster = %object.name_any(), port, "endpoint chosen");
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_the_api_servers() {
        assert_eq!(verdict(None).status, "True");
        let waiting = verdict(Some("connection refused"));
        assert_eq!((waiting.status, waiting.reason.as_str()), ("False", "WaitingForAPIServer"));
        assert_eq!(waiting.message, "the API server does not answer yet: connection refused");
    }
}
