//! The management cluster's API server answers, and Cluster API would not look for it for half a minute more: its managers are started
//! anew. And its control plane gets ready, and its provider would not look for a third of one.

use std::time::Duration;

use crate::backend::Backend;
use crate::bootstrap::{NAMESPACE, Story};
use crate::capi;
use crate::clock::{Look, Stopwatch};
use crate::failure::Result;
use crate::k8s::{DynamicObject, GroupVersionKind, ObjectRef, condition};
use crate::saga::Scope;

const KUBEADM: &str = "KubeadmControlPlane";
/// The label of the pods that are a control plane.
const STATIC: &str = "tier=control-plane";
/// Whoever was asked to look has looked by then.
const AGAIN: Duration = Duration::from_secs(4);

/// Starts the managers anew that wait for their next look at the management cluster.
pub async fn managers(story: &Story, scope: &Scope) -> Result<()> {
    let source = &story.bootstrap().await?.cluster;
    let cluster = ObjectRef::namespaced("cluster.x-k8s.io/v1beta2", "Cluster", NAMESPACE, &story.cluster_name().await?);
    let Some(found) = source.get(&cluster).await? else { return Ok(()) };
    // Asked at the first answer, before anything else takes time: only then is an early look one that failed.
    if !capi::waits(&found) {
        return Ok(());
    }
    let of_pods = !matches!(story.backend, Backend::Local(_));
    // New pods look seconds later, and kubeadm is as far by then.
    if !of_pods && found.data.pointer("/spec/controlPlaneRef/kind").is_some_and(|kind| kind == KUBEADM) {
        made_by_kubeadm(story, scope).await?;
    }
    // One that happened to look meanwhile stays.
    if !source.get(&cluster).await?.is_some_and(|found| capi::waits(&found) && !(of_pods && capi::looks_soon(&found))) {
        return Ok(());
    }
    let restart = async {
        let managers = capi::managers(source).await?;
        let restarts = managers.iter().map(async |manager| {
            scope
                .events
                .progress(manager.to_string(), "is started anew: it would not look for the cluster for a while");
            if of_pods {
                capi::replace(scope, source, manager).await
            } else {
                Ok(capi::restart(source, manager).await?)
            }
        });
        // Each for itself: one that fails must not leave another half done.
        futures::future::join_all(restarts).await.into_iter().collect()
    };
    scope.effect("reconnect", restart).await
}

/// Has the first control plane looked at whenever its components have got ready: their provider looks every twenty seconds, and the cluster is
/// not available before it has seen them. It goes on until nobody waits any more, for while everything starts an API server may
/// fail a probe once more, and a provider that saw that would not see for long that it is over.
pub async fn control_plane(story: &Story, scope: &Scope) -> Result<()> {
    let (source, management) = (&story.bootstrap().await?.cluster, &story.management().await?.cluster);
    let cluster = ObjectRef::namespaced("cluster.x-k8s.io/v1beta2", "Cluster", NAMESPACE, &story.cluster_name().await?);
    let found = source.get(&cluster).await?;
    let by = found.as_ref().map(|found| &found.data["spec"]["controlPlaneRef"]);
    let Some(name) = by.filter(|by| by["kind"] == KUBEADM).and_then(|by| by["name"].as_str()) else { return Ok(()) };
    let control_plane = ObjectRef::namespaced("controlplane.cluster.x-k8s.io/v1beta2", KUBEADM, NAMESPACE, name);
    let mut asked = None::<Stopwatch>;
    scope
        .wait("the control plane to be looked at")
        .every(Duration::from_millis(500))
        .until(async || {
            let found = match source.get(&control_plane).await {
                Err(error) if error.transient() => return Ok(Look::Pending(error.to_string())),
                found => found?,
            };
            if found.is_some_and(|found| is(&found, "Available")) {
                return Ok(Look::Pending("it is available".into()));
            }
            let pods =
                management.list(&GroupVersionKind::gvk("", "v1", "Pod"), Some("kube-system"), Some(STATIC)).await;
            let ready = pods.is_ok_and(|pods| !pods.is_empty() && pods.iter().all(|pod| is(pod, "Ready")));
            if ready && asked.as_ref().is_none_or(|asked| asked.elapsed() > AGAIN) {
                asked = Some(Stopwatch::start());
                if let Err(error) = capi::look(source, &control_plane).await {
                    return Ok(Look::Pending(error.to_string()));
                }
            }
            Ok(Look::Pending(if ready { "its components are ready" } else { "its components are not ready" }.into()))
        })
        .await
}

fn is(object: &DynamicObject, state: &str) -> bool {
    condition(object, state).is_some_and(|condition| condition["status"] == "True")
}

/// Waits for what kubeadm leaves in the cluster when the control plane is made: a manager that looks earlier looks again late.
async fn made_by_kubeadm(story: &Story, scope: &Scope) -> Result<()> {
    let side = story.management().await?;
    let configuration = ObjectRef::namespaced("v1", "ConfigMap", "kube-system", "kubeadm-config");
    scope
        .wait("kubeadm's configuration in the management cluster")
        .every(Duration::from_millis(200))
        .until(async || {
            Ok(match side.cluster.get(&configuration).await {
                Ok(Some(_)) => Look::Ready(()),
                Ok(None) => Look::Pending(format!("there is no {configuration}")),
                Err(error) => Look::Pending(error.to_string()),
            })
        })
        .await
}
