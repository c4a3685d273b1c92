//! Cluster API's own kinds, as far as this provider reads them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};
use kube::{CustomResource, Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use super::types::{ApiEndpoint, ContractReference};

/// Group of Cluster API's own kinds.
pub const GROUP: &str = "cluster.x-k8s.io";

/// Group and version of Cluster API's own kinds.
pub const API_VERSION: &str = "cluster.x-k8s.io/v1beta2";

/// Label with the name of the Cluster.
pub const CLUSTER_LABEL: &str = "cluster.x-k8s.io/cluster-name";

/// Label of Machines that are control planes.
pub const CONTROL_PLANE_LABEL: &str = "cluster.x-k8s.io/control-plane";

/// Label with the name of the control plane object.
pub const CONTROL_PLANE_NAME_LABEL: &str = "cluster.x-k8s.io/control-plane-name";

/// Annotation, and condition's subject, of what is paused.
pub const PAUSED_ANNOTATION: &str = "cluster.x-k8s.io/paused";

/// Annotation of infrastructure that somebody else manages.
pub const MANAGED_BY_ANNOTATION: &str = "cluster.x-k8s.io/managed-by";

/// Annotation of objects that are deleted because they were moved to another cluster.
pub const DELETE_FOR_MOVE_ANNOTATION: &str = "clusterctl.cluster.x-k8s.io/delete-for-move";

/// Annotations that name the template that an object was made from.
pub const CLONED_FROM_NAME: &str = "cluster.x-k8s.io/cloned-from-name";
/// See [`CLONED_FROM_NAME`].
pub const CLONED_FROM_KIND: &str = "cluster.x-k8s.io/cloned-from-groupkind";

/// Type of Cluster API's Secrets.
pub const SECRET_TYPE: &str = "cluster.x-k8s.io/secret";

/// Spec of a Cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "Cluster",
    plural = "clusters",
    namespaced,
    schema = "disabled",
    status = "ClusterStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSpec {
    /// Whether nothing of the Cluster may be touched.
    pub paused: Option<bool>,
    /// Where the API server listens.
    pub control_plane_endpoint: Option<ClusterEndpoint>,
    /// The infrastructure's object.
    pub infrastructure_ref: Option<ContractReference>,
    /// The control plane's object.
    pub control_plane_ref: Option<ContractReference>,
}

/// Endpoint of a Cluster; empty until it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterEndpoint {
    /// Host.
    pub host: String,
    /// Port.
    pub port: i32,
}

/// Status of a Cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterStatus {
    /// What is provisioned.
    pub initialization: ClusterInitialization,
}

/// What of a Cluster is provisioned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInitialization {
    /// Whether the infrastructure is.
    pub infrastructure_provisioned: Option<bool>,
    /// Whether the control plane is.
    pub control_plane_initialized: Option<bool>,
}

/// Spec of a Machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, CustomResource)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "Machine",
    plural = "machines",
    namespaced,
    schema = "disabled",
    status = "MachineStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineSpec {
    /// Name of its Cluster.
    pub cluster_name: String,
    /// Kubernetes version.
    pub version: Option<String>,
    /// How it is bootstrapped.
    pub bootstrap: Bootstrap,
    /// The infrastructure's object.
    pub infrastructure_ref: Option<ContractReference>,
}

/// How a Machine is bootstrapped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bootstrap {
    /// Secret with the bootstrap data.
    pub data_secret_name: Option<String>,
}

/// Status of a Machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
}

impl Cluster {
    /// The name of the object that a reference of the Cluster means, when it is of the given kind.
    pub fn reference<K: Resource<DynamicType = ()>>(&self, reference: Option<&ContractReference>) -> Option<String> {
        reference
            .filter(|reference| reference.kind == K::kind(&()) && reference.api_group == K::group(&()))
            .map(|reference| reference.name.clone())
    }

    /// Whether the control plane was ever ready.
    pub fn control_plane_initialized(&self) -> bool {
        self.status.as_ref().is_some_and(|s| s.initialization.control_plane_initialized == Some(true))
    }

    /// The endpoint, once it is known.
    pub fn endpoint(&self) -> Option<ApiEndpoint> {
        let endpoint = self.spec.control_plane_endpoint.as_ref().filter(|e| e.port > 0 && !e.host.is_empty())?;
        Some(ApiEndpoint { host: endpoint.host.clone(), port: endpoint.port })
    }
}

impl Machine {
    /// Whether it is a control plane.
    pub fn is_control_plane(&self) -> bool {
        self.labels().contains_key(CONTROL_PLANE_LABEL)
    }

    /// Whether a condition is True.
    pub fn is(&self, condition: &str) -> bool {
        self.status.iter().flat_map(|s| &s.conditions).any(|c| c.type_ == condition && c.status == "True")
    }
}

/// The owner of a kind in the given group, by name.
pub fn owner<'a>(object: &'a impl ResourceExt, group: &str, kind: &str) -> Option<&'a OwnerReference> {
    object
        .owner_references()
        .iter()
        .find(|owner| owner.kind == kind && owner.api_version.rsplit_once('/').is_some_and(|(found, _)| found == group))
}

/// Why an object must not be touched now; `None` when it may be.
pub fn paused(cluster: &Cluster, object: &impl ResourceExt, kind: &str) -> Option<String> {
    let mut reasons = Vec::new();
    if cluster.spec.paused == Some(true) {
        reasons.push("Cluster spec.paused is set to true".to_owned());
    }
    if object.annotations().contains_key(PAUSED_ANNOTATION) {
        reasons.push(format!("{kind} has the {PAUSED_ANNOTATION} annotation"));
    }
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::types::{LocalCluster, LocalMachine};
    use serde_json::json;

    #[test]
    fn a_cluster_is_read_with_fields_unknown_here() {
        let cluster: Cluster = serde_json::from_value(json!({
            "apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "a"},
            "spec": {"topology": {"classRef": {"name": "x"}}, "controlPlaneEndpoint": {},
                "infrastructureRef": {"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "LocalCluster", "name": "b"}},
            "status": {"phase": "Provisioning", "initialization": {"controlPlaneInitialized": true}},
        }))
        .unwrap();
        assert_eq!(cluster.reference::<LocalCluster>(cluster.spec.infrastructure_ref.as_ref()), Some("b".into()));
        assert_eq!(cluster.reference::<LocalMachine>(cluster.spec.infrastructure_ref.as_ref()), None);
        assert_eq!(cluster.endpoint(), None);
        assert!(cluster.control_plane_initialized());
    }

    #[test]
    fn a_pause_names_its_reasons() {
        let mut cluster = Cluster::default();
        let mut machine = LocalMachine::new("m", crate::provider::types::LocalMachineSpec::default());
        assert_eq!(paused(&cluster, &machine, "LocalMachine"), None);
        machine.annotations_mut().insert(PAUSED_ANNOTATION.into(), String::new());
        cluster.spec.paused = Some(true);
        assert_eq!(
            paused(&cluster, &machine, "LocalMachine").unwrap(),
            "Cluster spec.paused is set to true, LocalMachine has the cluster.x-k8s.io/paused annotation"
        );
    }
}
