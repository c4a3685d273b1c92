//! The Node object and its lease: how the cluster sees this node.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::config::RunnerConfig;
use super::machine::Machine;
use crate::clock;

/// Annotation with the port of the kubelet role's HTTPS server on loopback.
pub const KUBELET_PORT: &str = "local.cluster-init.dev/kubelet-port";
/// Who writes the Node.
const MANAGER: &str = "cluster-init-node";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
/// Pods that a node takes.
const MOST_PODS: u32 = 110;
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// The status is written again after so many renewals, whether it changed or not.
const STATUS_EVERY: u32 = 6;

/// The node's presence in its cluster.
pub struct Presence {
    client: Client,
    config: RunnerConfig,
    machine: Machine,
    since: Timestamp,
}

impl Presence {
    /// The presence of a node that begins to be ready now.
    pub fn new(client: Client, config: RunnerConfig, machine: Machine) -> Self {
        Self { client, config, machine, since: clock::now() }
    }

    /// Registers the node and keeps its lease and status until cancelled; then says that it is not ready.
    pub async fn keep(self, cancel: CancellationToken) {
        let mut renewals = 0;
        loop {
            let done = tokio::select! {
                done = self.renew(renewals == 0) => done,
                () = cancel.cancelled() => break,
            };
            let pause = match done {
                Ok(()) => {
                    renewals = (renewals + 1) % STATUS_EVERY;
                    RENEW_EVERY
                }
                Err(error) => {
                    tracing::debug!(%error, "node could not be kept ready yet");
                    renewals = 0;
                    Duration::from_millis(250)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => break,
            }
        }
        // The API server may be ending with us.
        let farewell = self.write_status(false);
        if !matches!(tokio::time::timeout(Duration::from_secs(1), farewell).await, Ok(Ok(()))) {
            tracing::debug!("nobody heard that the node is not ready any more");
        }
    }

    async fn renew(&self, whole: bool) -> kube::Result<()> {
        if whole {
            self.register().await?;
            self.write_status(true).await?;
        }
        self.lease().await
    }

    async fn register(&self) -> kube::Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.config.node_name.clone()),
                labels: Some(labels(&self.config, &self.machine.architecture)),
                annotations: Some(BTreeMap::from([(KUBELET_PORT.to_owned(), self.config.kubelet_port.to_string())])),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                provider_id: self.config.provider_id.clone(),
                pod_cidr: Some(self.config.pod_subnet.clone()),
                pod_cidrs: Some(vec![self.config.pod_subnet.clone()]),
                ..NodeSpec::default()
            }),
            status: None,
        };
        nodes.patch(&self.config.node_name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(node)).await?;
        Ok(())
    }

    async fn write_status(&self, ready: bool) -> kube::Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let since = if ready { self.since } else { clock::now() };
        let patch = json!({"status": status(&self.config, &self.machine, ready, since, clock::now())});
        nodes.patch_status(&self.config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        Ok(())
    }

    async fn lease(&self) -> kube::Result<()> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let node = Api::<Node>::all(self.client.clone()).get_metadata(&self.config.node_name).await?;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.config.node_name.clone()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: self.config.node_name.clone(),
                    uid: node.metadata.uid.unwrap_or_default(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.config.node_name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(clock::now())),
                ..LeaseSpec::default()
            }),
        };
        leases.patch(&self.config.node_name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(lease)).await?;
        Ok(())
    }
}

fn labels(config: &RunnerConfig, architecture: &str) -> BTreeMap<String, String> {
    let usual = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
    ];
    let mut labels: BTreeMap<_, _> = usual.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    labels.extend(config.labels.clone());
    labels
}

fn status(config: &RunnerConfig, machine: &Machine, ready: bool, since: Timestamp, now: Timestamp) -> NodeStatus {
    let condition = |type_: &str, status: bool, reason: &str, message: &str| NodeCondition {
        type_: type_.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(Time(since)),
    };
    let resources = BTreeMap::from([
        ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", machine.memory / 1024))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", machine.disk / 1024))),
        ("pods".to_owned(), Quantity(MOST_PODS.to_string())),
    ]);
    let ready = if ready {
        condition("Ready", true, "KubeletReady", "the node takes pods")
    } else {
        condition("Ready", false, "NodeShutdown", "the node's daemon is ending")
    };
    NodeStatus {
        addresses: Some(vec![
            NodeAddress { type_: "InternalIP".into(), address: config.node_ip.to_string() },
            NodeAddress { type_: "Hostname".into(), address: config.node_name.clone() },
        ]),
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        conditions: Some(vec![
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "the node has memory"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "the node has disk"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "the node has pids"),
            ready,
        ]),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.kubelet_port) }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: concat!("process://", env!("CARGO_PKG_VERSION")).into(),
            kernel_version: machine.kernel.clone(),
            kubelet_version: config.kubernetes_version.clone(),
            machine_id: machine.system_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}
