//! How a cluster's machines are, and which they are: what shows that a pivot replaced none of them.

use std::collections::BTreeSet;

use kube::api::DynamicObject;
use kube::core::GroupVersionKind;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::k8s::{Cluster, ObjectRef, Readiness, readiness, reference};

/// A Machine, by what a move must not change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// What the infrastructure calls it.
    pub provider_id: String,
    /// Its Node.
    pub node: String,
    /// Whether it runs the control plane.
    pub control_plane: bool,
}

/// The state of the clusters that a management cluster manages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many Clusters there are.
    pub clusters: usize,
    /// The Machines.
    pub machines: BTreeSet<Machine>,
    /// What is not well, as `Kind namespace/name: state`.
    pub troubles: Vec<String>,
}

impl Summary {
    /// The first trouble, when there is one or when there is no Cluster.
    pub fn trouble(&self) -> Option<String> {
        if self.clusters == 0 { Some("there is no Cluster".into()) } else { self.troubles.first().cloned() }
    }
}

/// Reads Clusters, control planes' and workers' owners, and Machines.
pub async fn summary(cluster: &Cluster) -> Result<Summary> {
    let mut all = Vec::new();
    for kind in ["Cluster", "MachineDeployment", "Machine"] {
        let gvk = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", kind);
        all.extend(cluster.list(&gvk, None, None).await?);
    }
    Ok(summarise(&all))
}

/// The names of all Clusters.
pub async fn clusters(cluster: &Cluster) -> Result<Vec<String>> {
    let gvk = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "Cluster");
    let found = cluster.list(&gvk, None, None).await?;
    Ok(found.into_iter().filter_map(|object| object.metadata.name).collect())
}

/// How every Machine is.
pub async fn machines(cluster: &Cluster) -> Result<Vec<(ObjectRef, Readiness)>> {
    let gvk = GroupVersionKind::gvk("cluster.x-k8s.io", "v1beta2", "Machine");
    let machines = cluster.list(&gvk, None, None).await?;
    Ok(machines.iter().map(|machine| (reference(machine), phase(machine))).collect())
}

/// A Machine that runs is ready; others are in some phase.
fn phase(machine: &DynamicObject) -> Readiness {
    let text = |pointer: &str| machine.data.pointer(pointer).and_then(|value| value.as_str());
    match (text("/status/phase").unwrap_or("new"), text("/spec/version")) {
        ("Running", _) => Readiness::Ready,
        (phase, Some(version)) => Readiness::Progressing(format!("{phase}, {version}")),
        (phase, None) => Readiness::Progressing(phase.to_owned()),
    }
}

/// The summary of Clusters, MachineDeployments and Machines.
fn summarise(objects: &[DynamicObject]) -> Summary {
    let mut summary = Summary::default();
    for object in objects {
        let named = reference(object);
        let mut state = readiness(object);
        match named.kind.as_str() {
            "Cluster" => {
                summary.clusters += 1;
                if object.data["spec"]["paused"] == true {
                    state = Readiness::Progressing("paused".into());
                }
            }
            "Machine" => {
                summary.machines.insert(machine(object));
                let phase = object.data["status"]["phase"].as_str().unwrap_or("new");
                if phase != "Running" {
                    state = Readiness::Progressing(format!("phase {phase}"));
                }
            }
            _ => {}
        }
        if !state.is_ready() {
            summary.troubles.push(format!("{named}: {}", state.state()));
        }
    }
    summary
}

fn machine(object: &DynamicObject) -> Machine {
    let text = |pointer: &str| object.data.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    Machine {
        name: object.metadata.name.clone().unwrap_or_default(),
        provider_id: text("/spec/providerID"),
        node: text("/status/nodeRef/name"),
        control_plane: object
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key("cluster.x-k8s.io/control-plane")),
    }
}
