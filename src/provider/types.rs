//! The kinds of the `local` provider; the CustomResourceDefinitions are generated from these types.

#![expect(clippy::duplicated_attributes, reason = "two columns of a table may be of the same type")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a cluster's API server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiEndpoint {
    /// Host; always this machine's loopback address.
    #[schemars(length(min = 1, max = 512))]
    pub host: String,
    /// Port, chosen once.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// What the user asks of a LocalCluster: nothing, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "LocalCluster",
    plural = "localclusters",
    namespaced,
    shortname = "lc",
    category = "cluster-api",
    status = "LocalClusterStatus",
    derive = "PartialEq",
    doc = "A cluster whose machines are node daemons on this host.",
    label("cluster.x-k8s.io/v1beta2", "v1alpha1"),
    label("cluster.x-k8s.io/provider", "infrastructure-local"),
    label("clusterctl.cluster.x-k8s.io", ""),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = r".metadata.labels['cluster\.x-k8s\.io/cluster-name']",
        description = "Cluster that it belongs to"
    ),
    printcolumn(
        name = "Provisioned",
        type_ = "boolean",
        json_path = ".status.initialization.provisioned",
        description = "Whether the API server has answered"
    ),
    printcolumn(
        name = "Port",
        type_ = "integer",
        json_path = ".spec.controlPlaneEndpoint.port",
        description = "Port of the API server on loopback"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct LocalClusterSpec {
    /// Where the API server listens; the provider chooses a free port on loopback and keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane_endpoint: Option<ApiEndpoint>,
}

/// State of a LocalCluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct LocalClusterStatus {
    /// What Cluster API waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Provisioning>,
    /// Conditions: Ready, Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Observations of the provisioning of infrastructure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Provisioning {
    /// Whether the infrastructure is fully provisioned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioned: Option<bool>,
}

/// What the user asks of a LocalMachine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "LocalMachine",
    plural = "localmachines",
    namespaced,
    shortname = "lm",
    category = "cluster-api",
    status = "LocalMachineStatus",
    derive = "PartialEq",
    doc = "A machine that is a node daemon on this host.",
    label("cluster.x-k8s.io/v1beta2", "v1alpha1"),
    label("cluster.x-k8s.io/provider", "infrastructure-local"),
    label("clusterctl.cluster.x-k8s.io", ""),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = r".metadata.labels['cluster\.x-k8s\.io/cluster-name']",
        description = "Cluster that it belongs to"
    ),
    printcolumn(
        name = "Machine",
        type_ = "string",
        json_path = r".metadata.ownerReferences[?(@.kind=='Machine')].name",
        description = "Machine that it is"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r".status.conditions[?(@.type=='Ready')].status",
        description = "Whether everything in the node is ready"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r".status.conditions[?(@.type=='Ready')].reason",
        description = "State of the node"
    ),
    printcolumn(
        name = "ProviderID",
        type_ = "string",
        json_path = ".spec.providerID",
        description = "The node's folder",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct LocalMachineSpec {
    /// `local:///NODE`, set once when the node's folder has been made.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "providerID")]
    #[schemars(length(min = 1, max = 512))]
    pub provider_id: Option<String>,
}

/// State of a LocalMachine; all of it can be found anew from the spec and the node's folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct LocalMachineStatus {
    /// What Cluster API waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization: Option<Provisioning>,
    /// The node's name and its address inside the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<MachineAddress>,
    /// Conditions: Ready, Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One address of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MachineAddress {
    /// Its type: Hostname or InternalIP.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// A mould for LocalMachines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "LocalMachineTemplate",
    plural = "localmachinetemplates",
    namespaced,
    shortname = "lmt",
    category = "cluster-api",
    derive = "PartialEq",
    doc = "A mould for LocalMachines.",
    label("cluster.x-k8s.io/v1beta2", "v1alpha1"),
    label("cluster.x-k8s.io/provider", "infrastructure-local"),
    label("clusterctl.cluster.x-k8s.io", ""),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct LocalMachineTemplateSpec {
    /// The machine to make.
    pub template: LocalMachineMould,
}

/// The machine that a LocalMachineTemplate makes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LocalMachineMould {
    /// Labels and annotations of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// What the machine is asked to be.
    #[serde(default)]
    pub spec: LocalMachineSpec,
}

/// Labels and annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Metadata {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What the user asks of a LocalControlPlane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "controlplane.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "LocalControlPlane",
    plural = "localcontrolplanes",
    namespaced,
    shortname = "lcp",
    category = "cluster-api",
    status = "LocalControlPlaneStatus",
    derive = "PartialEq",
    doc = "A control plane of one machine on this host.",
    label("cluster.x-k8s.io/v1beta2", "v1alpha1"),
    label("cluster.x-k8s.io/provider", "control-plane-local"),
    label("clusterctl.cluster.x-k8s.io", ""),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = r".metadata.labels['cluster\.x-k8s\.io/cluster-name']",
        description = "Cluster that it belongs to"
    ),
    printcolumn(
        name = "Initialized",
        type_ = "boolean",
        json_path = ".status.initialization.controlPlaneInitialized",
        description = "Whether the API server has answered"
    ),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = r".status.conditions[?(@.type=='Available')].status",
        description = "Whether the API server answers"
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".spec.replicas",
        description = "Machines asked for",
        priority = 1
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas", description = "Machines"),
    printcolumn(
        name = "Ready",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "Machines that are ready"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".spec.version",
        description = "Kubernetes version asked for"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct LocalControlPlaneSpec {
    /// Number of machines; 1 is what there is now.
    #[serde(default = "one", skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Kubernetes version; the bundle's is what there is now.
    #[schemars(length(min = 1, max = 256))]
    pub version: String,
    /// How machines are made.
    pub machine_template: MachineMould,
}

#[expect(clippy::unnecessary_wraps, reason = "the field is optional, as the contract asks")]
fn one() -> Option<i32> {
    Some(1)
}

/// How a control plane makes its machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MachineMould {
    /// Labels and annotations of the Machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// The Machine itself.
    pub spec: MachineMouldSpec,
}

/// The Machine that a control plane makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineMouldSpec {
    /// The LocalMachineTemplate from which the LocalMachine is made.
    pub infrastructure_ref: ContractReference,
}

/// A reference without version: the contract's label on the CRD says which version is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContractReference {
    /// API group.
    #[schemars(length(min = 1, max = 253))]
    pub api_group: String,
    /// Kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// State of a LocalControlPlane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalControlPlaneStatus {
    /// What Cluster API waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialization: Option<ControlPlaneInitialization>,
    /// Selects the Machines of this control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Machines that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Machines that are available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_replicas: Option<i32>,
    /// Machines that are as the spec asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to_date_replicas: Option<i32>,
    /// Lowest Kubernetes version of the Machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Kubernetes versions of the Machines, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["version".into()]))]
    pub versions: Vec<MachinesVersion>,
    /// Conditions: Available, CertificatesAvailable, SpecSupported, Deleting, Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Observations of a control plane's first start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControlPlaneInitialization {
    /// Whether the API server has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane_initialized: Option<bool>,
}

/// How many Machines have a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MachinesVersion {
    /// The version.
    pub version: String,
    /// Machines.
    pub replicas: i32,
}
