//! Reads all that a cause can lie in, when something has failed.

use futures::StreamExt;
use kube::core::GroupVersionKind;

use super::snapshot::Snapshot;
use crate::capi;
use crate::k8s::Cluster;

/// Kinds beside those of Cluster API's providers.
const KINDS: [(&str, &str, &str); 20] = [
    ("", "v1", "Node"),
    ("", "v1", "Namespace"),
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "Event"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "ReplicaSet"),
    ("apps", "v1", "StatefulSet"),
    ("apps", "v1", "DaemonSet"),
    ("batch", "v1", "Job"),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration"),
    ("cert-manager.io", "v1", "Certificate"),
    ("cert-manager.io", "v1", "CertificateRequest"),
    ("kustomize.toolkit.fluxcd.io", "v1", "Kustomization"),
    ("helm.toolkit.fluxcd.io", "v2", "HelmRelease"),
    ("source.toolkit.fluxcd.io", "v1", "OCIRepository"),
    ("source.toolkit.fluxcd.io", "v1", "GitRepository"),
    ("source.toolkit.fluxcd.io", "v1", "HelmRepository"),
    ("source.toolkit.fluxcd.io", "v1", "HelmChart"),
];

/// Reads the objects of a cluster, without Secrets and ConfigMaps; kinds that cannot be read are left out, and named.
pub async fn collect(cluster: &Cluster) -> (Snapshot, Vec<String>) {
    let mut snapshot = Snapshot::of(cluster.name());
    let mut troubles = Vec::new();
    let lists = futures::stream::iter(KINDS.map(async |(group, version, kind)| {
        cluster.list(&GroupVersionKind::gvk(group, version, kind), None, None).await
    }))
    .buffer_unordered(8)
    .collect::<Vec<_>>()
    .await;
    let mut objects = Vec::new();
    for list in lists {
        match list {
            Ok(list) => objects.extend(list),
            Err(error) => troubles.push(error.to_string()),
        }
    }
    match capi::discover(cluster).await {
        Ok(found) => {
            // Secrets and ConfigMaps are no part of a diagnosis.
            objects.extend(found.found.into_iter().filter(|(kind, _)| !kind.gvk.group.is_empty()).flat_map(|(_, o)| o));
        }
        Err(error) => troubles.push(error.to_string()),
    }
    for object in objects {
        snapshot.put(object);
    }
    (snapshot, troubles)
}
