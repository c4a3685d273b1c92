//! Managers that wait for nothing: Cluster API's managers look for a cluster's API server as soon as its infrastructure is there, which
//! is before a control plane runs behind it, and then again every thirty seconds; no setting changes that, and no event. A manager that
//! starts looks at once, if it leads: the lease of a pod that is gone would keep the next one waiting for a minute.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Preconditions};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use super::{OF_PROVIDER, Result};
use crate::clock::{self, Look, Wait};
use crate::failure::{self, Kind};
use crate::k8s::{self, Cluster, ObjectRef, condition, reference};
use crate::saga::Scope;

/// The types whose managers wait for a cluster's API server.
const WAITING: [&str; 3] = ["cluster-api", "bootstrap-", "control-plane-"];
/// The annotation that comes and goes when a controller is to look at an object.
const ASKED: &str = "cluster-init.dev/asked-at";
/// Whose first look is not longer ago than this has not failed yet, and may be about to succeed.
const FRESH: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);
/// The seconds between two looks.
const LOOK: i64 = 30;
/// The seconds that a pod is given to end: by itself a manager takes five, and a killed one leaves nothing behind that the next one does not
/// find as it would after a crash.
const GRACE: u32 = 1;
/// The seconds from which on a new pod is worth it: it looks after six, and that it starts slows down what else does.
const REPLACING: i64 = 8;
/// How long the end of a pod is waited for: after a look of its own more would be lost than won.
const END: Duration = Duration::from_secs(LOOK.unsigned_abs());

/// Whether the managers of a cluster looked for its API server in vain, and wait for their next look.
pub fn waits(cluster: &DynamicObject) -> bool {
    since(cluster, "InfrastructureReady").is_some_and(|ago| ago > FRESH)
        && since(cluster, "RemoteConnectionProbe").is_none()
}

/// Whether the next look of those managers is nearer than new pods of theirs.
pub fn looks_soon(cluster: &DynamicObject) -> bool {
    since(cluster, "InfrastructureReady").is_some_and(|ago| LOOK - ago.as_secs().rem_euclid(LOOK) <= REPLACING)
}

/// How long a condition has been true.
fn since(cluster: &DynamicObject, kind: &str) -> Option<jiff::SignedDuration> {
    let condition = condition(cluster, kind).filter(|condition| condition["status"] == "True")?;
    let since = condition["lastTransitionTime"].as_str()?.parse::<jiff::Timestamp>().ok()?;
    Some(clock::now().duration_since(since))
}

/// The managers that look for API servers.
pub async fn managers(cluster: &Cluster) -> Result<Vec<ObjectRef>> {
    let gvk = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let all = cluster.list(&gvk, None, Some(OF_PROVIDER)).await?;
    let looks = |object: &&DynamicObject| {
        let provider = object.metadata.labels.as_ref().and_then(|labels| labels.get(OF_PROVIDER));
        provider.is_some_and(|provider| WAITING.iter().any(|kind| provider.starts_with(kind)))
    };
    Ok(all.iter().filter(looks).map(reference).collect())
}

/// Starts a manager anew, as `kubectl rollout restart` does: the old one serves its webhooks until the new one does.
pub async fn restart(cluster: &Cluster, manager: &ObjectRef) -> Result<()> {
    let mut object = DynamicObject::new(&manager.name, &ApiResource::erase::<Deployment>(&()));
    object.metadata.namespace.clone_from(&manager.namespace);
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": clock::now().to_string()});
    object.data = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    cluster.apply(&object).await?;
    Ok(())
}

/// Has the controllers of an object look at it now. Nothing of that stays: the object is what it was.
pub async fn look(cluster: &Cluster, object: &ObjectRef) -> k8s::Result<()> {
    for value in [Value::String(clock::now().to_string()), Value::Null] {
        cluster.merge(object, &json!({"metadata": {"annotations": {ASKED: value}}})).await?;
    }
    Ok(())
}

/// Replaces a manager's pods. A pod that came beside the one that it replaces, as [`restart`] has it, would ask for the other's lease, and
/// again only seconds later, up to eleven where it is not told to ask more often (`kustomize-components/capi`). One that does not end costs
/// time, and nothing else.
pub async fn replace(scope: &Scope, cluster: &Cluster, manager: &ObjectRef) -> failure::Result<()> {
    for pod in end(cluster, manager).await? {
        let ended = Wait::new(format!("{} to end, and to hold no lease", reference(&pod)), END)
            .within(scope.deadline, &scope.cancel)
            .every(Duration::from_millis(200))
            .until(async || match left(cluster, &pod).await {
                Ok(None) => Ok(Look::Ready(())),
                Ok(Some(state)) => Ok(Look::Pending(state.into())),
                // Given up here, its lease would keep the next pod waiting.
                Err(error) if error.transient() || error.conflict() => Ok(Look::Pending(error.to_string())),
                Err(error) => Err(error.into()),
            })
            .await;
        match ended {
            Err(late) if late.kind == Kind::Timeout => scope.events.note(late.message),
            ended => ended?,
        }
    }
    Ok(())
}

/// Ends the pods of a manager, and tells which those were; its Deployment makes others.
async fn end(cluster: &Cluster, manager: &ObjectRef) -> k8s::Result<Vec<DynamicObject>> {
    let Some(found) = cluster.get(manager).await? else { return Ok(Vec::new()) };
    let labels = found.data.pointer("/spec/selector/matchLabels").and_then(Value::as_object).into_iter().flatten();
    let labels: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    let gvk = GroupVersionKind::gvk("", "v1", "Pod");
    let pods = cluster.list(&gvk, manager.namespace.as_deref(), Some(&labels.join(","))).await?;
    for pod in &pods {
        let uid = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { grace_period_seconds: Some(GRACE), ..only(uid) };
        cluster.delete(&reference(pod), &params).await?;
    }
    Ok(pods)
}

/// Takes away the leases of a pod as soon as it is gone; `None` when it has none left.
async fn left(cluster: &Cluster, pod: &DynamicObject) -> k8s::Result<Option<&'static str>> {
    if cluster.get(&reference(pod)).await?.is_some_and(|found| found.metadata.uid == pod.metadata.uid) {
        return Ok(Some("it is there"));
    }
    let gvk = GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease");
    for lease in cluster.list(&gvk, pod.metadata.namespace.as_deref(), None).await? {
        if is_held_by(&lease, pod) {
            // Nobody else's: one that was taken over meanwhile has another version.
            let version = lease.metadata.resource_version.clone();
            let seen = Preconditions { uid: lease.metadata.uid.clone(), resource_version: version };
            cluster.delete(&reference(&lease), &only(seen)).await?;
        }
    }
    Ok(None)
}

fn only(preconditions: Preconditions) -> DeleteParams {
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// Whether a pod holds a lease: by its name and something random.
fn is_held_by(lease: &DynamicObject, pod: &DynamicObject) -> bool {
    let holder = lease.data.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default();
    holder.rsplit_once('_').is_some_and(|(name, _)| pod.metadata.name.as_deref() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(ago: i64, provisioned: &str, connected: &str) -> DynamicObject {
        let since = clock::now() - jiff::SignedDuration::from_secs(ago);
        serde_json::from_value(
            json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": {"name": "c"},
            "status": {"conditions": [
                {"type": "InfrastructureReady", "status": provisioned, "lastTransitionTime": since.to_string()},
                {"type": "RemoteConnectionProbe", "status": connected, "lastTransitionTime": since.to_string()}]}}),
        )
        .unwrap()
    }

    #[test]
    fn managers_wait_that_looked_in_vain() {
        assert!(waits(&cluster(20, "True", "False")));
        assert!(waits(&cluster(20, "True", "Unknown")));
        assert!(!waits(&cluster(20, "True", "True")), "connected");
        assert!(!waits(&cluster(2, "True", "False")), "looking just now");
        assert!(!waits(&cluster(20, "False", "False")), "nothing to look for");
        assert!(!waits(&DynamicObject::new("c", &ApiResource::erase::<Deployment>(&()))));
    }

    #[test]
    fn a_look_that_is_near_is_waited_for() {
        let soon = |ago| looks_soon(&cluster(ago, "True", "False"));
        assert!(soon(24) && soon(29) && soon(55), "within a few seconds");
        assert!(!soon(12) && !soon(31), "a new pod is sooner");
        assert!(!looks_soon(&DynamicObject::new("c", &ApiResource::erase::<Deployment>(&()))));
    }

    #[test]
    fn a_lease_is_the_pods_that_it_names() {
        let holds = |holder: &str, name: &str| {
            let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": holder}});
            let pod = json!({"metadata": {"name": name}});
            is_held_by(&serde_json::from_value(lease).unwrap(), &serde_json::from_value(pod).unwrap())
        };
        assert!(holds("manager-7c5-x2_0f8e", "manager-7c5-x2"));
        assert!(!holds("manager-7c5-x2_0f8e", "manager-7c5-x") && !holds("manager-7c5-x2_0f8e", "manager"));
        assert!(!holds("", "manager"));
    }
}
