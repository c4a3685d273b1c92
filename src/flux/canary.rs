//! The proof that Flux works: a tiny artifact in the registry, fetched and applied.
//!
//! Available Deployments say that processes run; only a reconciliation says that they reach the registry, each other and
//! the API server.

use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::package::archive;
use super::{Error, Expected, KUSTOMIZATION, NAMESPACE, Package, Result, SOURCE, readiness};
use crate::clock::{Deadline, Look, Wait};
use crate::failure::{self, Failure};
use crate::git::Tree;
use crate::k8s::{Cluster, DynamicObject, ObjectRef};
use crate::oci::Artifact;

const NAME: &str = "cluster-init-canary";
const REPOSITORY: &str = "cluster-init/canary";
const TAG: &str = "1";

/// The canary's artifact, to be pushed before [`sing`].
pub fn canary_package() -> Result<Package> {
    let mut tree = Tree::default();
    let kustomization = json!({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "configMapGenerator": [{"name": NAME, "namespace": NAMESPACE, "literals": ["song=heard"],
            "options": {"disableNameSuffixHash": true}}]});
    // JSON is YAML.
    tree.insert("kustomization.yaml", kustomization.to_string());
    let artifact = Artifact::flux(&archive(&tree), "cluster-init", TAG, jiff::Timestamp::UNIX_EPOCH);
    let artifact = artifact.map_err(|source| Error::Pack { what: "the canary".into(), source })?;
    Ok(Package { repository: REPOSITORY, tag: TAG.into(), artifact })
}

fn objects(registry: &str) -> [Value; 2] {
    let metadata = json!({"name": NAME, "namespace": NAMESPACE});
    [
        json!({"apiVersion": SOURCE, "kind": "OCIRepository", "metadata": metadata, "spec": {
            "interval": "1h", "timeout": "20s", "insecure": true, "ref": {"tag": TAG},
            "url": format!("oci://{registry}/{REPOSITORY}")}}),
        json!({"apiVersion": KUSTOMIZATION, "kind": "Kustomization", "metadata": metadata, "spec": {
            "interval": "1h", "retryInterval": "2s", "timeout": "30s", "prune": true, "path": "./",
            "sourceRef": {"kind": "OCIRepository", "name": NAME}}}),
    ]
}

/// Has Flux fetch the canary from `registry` (host and port as the cluster sees it) and apply it, then takes it away again.
pub async fn sing(
    cluster: &Cluster,
    registry: &str,
    deadline: Deadline,
    cancel: &CancellationToken,
) -> failure::Result<()> {
    for object in objects(registry) {
        let object: DynamicObject = serde_json::from_value(object).map_err(Failure::from_error)?;
        cluster.apply_patiently(&object, deadline, cancel).await?;
    }
    let source = ObjectRef::namespaced(SOURCE, "OCIRepository", NAMESPACE, NAME);
    let kustomization = ObjectRef::namespaced(KUSTOMIZATION, "Kustomization", NAMESPACE, NAME);
    let what = format!("Flux on the {} cluster to reconcile its canary", cluster.name());
    let heard = arrived(cluster, what, &[&source, &kustomization], TAG, deadline, cancel).await;
    if heard.is_ok() {
        // The Kustomization first: it takes its ConfigMap with it. A canary that did not sing stays, to be looked at.
        cluster.delete(&kustomization, &DeleteParams::default()).await?;
        cluster.delete(&source, &DeleteParams::default()).await?;
    }
    heard
}

/// Waits until Flux has fetched a revision for a source: the canary of a Git server.
pub async fn fetched(
    cluster: &Cluster,
    source: &ObjectRef,
    revision: &str,
    deadline: Deadline,
    cancel: &CancellationToken,
) -> failure::Result<()> {
    let what = format!("Flux on the {} cluster to fetch the commit", cluster.name());
    arrived(cluster, what, &[source], revision, deadline, cancel).await
}

/// Waits until all of some objects are ready with a revision; the first that is not is the reason.
async fn arrived(
    cluster: &Cluster,
    what: String,
    objects: &[&ObjectRef],
    revision: &str,
    deadline: Deadline,
    cancel: &CancellationToken,
) -> failure::Result<()> {
    Wait::new(what, deadline.left())
        .within(deadline, cancel)
        .every(Duration::from_millis(50))
        .until(async || {
            for object in objects {
                let state = match cluster.get(object).await {
                    Ok(Some(found)) => match readiness(&found, Expected::Revision(revision)) {
                        state if state.is_ready() => continue,
                        state => state.state().to_owned(),
                    },
                    Ok(None) => "it does not exist".into(),
                    Err(error) if error.transient() => error.to_string(),
                    Err(error) => return Err(error.into()),
                };
                return Ok(Look::Pending(format!("{object}: {state}")));
            }
            Ok(Look::Ready(()))
        })
        .await
}
