//! The `local` provider from outside: its generated definitions.

use std::path::Path;

use cluster_init::provider;

#[test]
fn committed_definitions_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kustomize-components/capi-local/crds");
    for (name, text) in provider::files().unwrap() {
        let committed = cluster_init::fsx::read_text(&folder.join(&name)).unwrap_or_default();
        assert!(
            committed == text,
            "{name} is out of date: cluster-init provider crds --write kustomize-components/capi-local/crds"
        );
    }
}

#[test]
fn definitions_carry_the_marks_of_the_contract() {
    for crd in provider::crds() {
        let labels = crd.metadata.labels.clone().unwrap_or_default();
        assert_eq!(labels["cluster.x-k8s.io/v1beta2"], "v1alpha1", "{:?}", crd.metadata.name);
        assert_eq!(labels["clusterctl.cluster.x-k8s.io"], "");
        let version = &crd.spec.versions[0];
        let subresources = version.subresources.clone().unwrap_or_default();
        let kind = crd.spec.names.kind.as_str();
        assert_eq!(subresources.status.is_some(), kind != "LocalMachineTemplate", "{kind}");
        assert_eq!(subresources.scale.is_some(), kind == "LocalControlPlane", "{kind}");
    }
}
