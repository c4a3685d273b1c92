//! The CustomResourceDefinitions of the provider, as they are committed in `kustomize-components/capi-local/crds`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::types::{LocalCluster, LocalControlPlane, LocalMachine, LocalMachineTemplate};
use crate::failure::Result;
use crate::yaml;

/// All definitions, in the order in which they are printed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![LocalCluster::crd(), LocalMachine::crd(), LocalMachineTemplate::crd(), LocalControlPlane::crd()]
}

/// A definition's file name (`GROUP_PLURAL.yaml`) and its text.
pub fn files() -> Result<Vec<(String, String)>> {
    crds()
        .iter()
        .map(|crd| Ok((format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural), yaml::to_string(crd)?)))
        .collect()
}
