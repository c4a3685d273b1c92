//! Holds whoever could change the objects while they move, and lets go again.
//!
//! What is held, and how it was before, is in the pivot's record before anything is held, so that a run that finds a
//! dead one's fence can lift it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::DynamicObject;
use kube::core::GroupVersionKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pace::{self, Pace};
use super::remove::patch;
use crate::capi::plan::{Item, Plan};
use crate::capi::{Graph, MARK, OF_PROVIDER, PAUSED, Result};
use crate::clock::Look;
use crate::failure;
use crate::k8s::{Cluster, ObjectRef, condition, reference};
use crate::saga::Scope;

/// How a pivot keeps the source's controllers from the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fence {
    /// Clusters and ClusterClasses are paused, and every controller says so.
    #[default]
    Pause,
    /// Besides, the source's providers are scaled to zero and their webhooks set aside until the end.
    Stop,
}

/// Something that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What.
    pub object: ObjectRef,
    /// Whether it is on the target.
    pub target: bool,
    /// The merge patch that holds it.
    pub hold: Value,
    /// The merge patch that makes it what it was.
    pub restore: Value,
}

impl Held {
    /// The field managers that it had before.
    pub(super) fn managers(&self) -> Option<Vec<ManagedFieldsEntry>> {
        serde_json::from_value(self.restore.pointer("/metadata/managedFields")?.clone()).ok()
    }
}

const KUSTOMIZE: &str = "kustomize.toolkit.fluxcd.io";
const HELM: &str = "helm.toolkit.fluxcd.io";

/// Whether pausing the object pauses what descends from it.
pub(super) fn pausable(object: &ObjectRef) -> bool {
    object.group() == crate::capi::GROUP && matches!(object.kind.as_str(), "Cluster" | "ClusterClass")
}

/// The pauses that a plan needs, from the objects as they were before.
pub(super) fn pauses(graph: &Graph, plan: &Plan, id: &str) -> Vec<Held> {
    let roots = plan.moved().filter(|item| pausable(&item.object));
    roots.map(|item| pause(&item.object, &graph.nodes[&item.uid].object, id)).collect()
}

fn pause(named: &ObjectRef, object: &DynamicObject, id: &str) -> Held {
    let (hold, mut restore) = if named.kind == "Cluster" {
        let before = &object.data["spec"]["paused"];
        let hold = json!({"metadata": {"annotations": {MARK: id}}, "spec": {"paused": true}});
        (hold, json!({"metadata": {"annotations": {MARK: null}}, "spec": {"paused": before}}))
    } else {
        let hold = json!({"metadata": {"annotations": {MARK: id, PAUSED: "true"}}});
        (hold, json!({"metadata": {"annotations": {MARK: null, PAUSED: null}}}))
    };
    // Who owned which field before: holding it makes us an owner.
    if let Some(managers) = &object.metadata.managed_fields {
        restore["metadata"]["managedFields"] = json!(managers);
    }
    Held { object: named.clone(), target: false, hold, restore }
}

/// The Flux objects that deploy the given ones, by the labels that Flux puts on everything.
pub(super) fn deployers<'a>(objects: impl Iterator<Item = &'a DynamicObject>) -> BTreeSet<ObjectRef> {
    let mut found = BTreeSet::new();
    for labels in objects.filter_map(|object| object.metadata.labels.as_ref()) {
        for (group, version, kind) in [(KUSTOMIZE, "v1", "Kustomization"), (HELM, "v2", "HelmRelease")] {
            let label = |name: &str| labels.get(&format!("{group}/{name}"));
            if let (Some(name), Some(namespace)) = (label("name"), label("namespace")) {
                found.insert(ObjectRef::namespaced(&format!("{group}/{version}"), kind, namespace, name));
            }
        }
    }
    found
}

/// What suspends those of the deployers that are on a cluster and not suspended.
pub(super) async fn suspensions(
    cluster: &Cluster,
    target: bool,
    deployers: &BTreeSet<ObjectRef>,
    id: &str,
) -> Result<Vec<Held>> {
    let mut held = Vec::new();
    for object in deployers {
        let Some(live) = cluster.get(object).await? else { continue };
        if live.data["spec"]["suspend"] == true {
            continue;
        }
        held.push(Held {
            object: object.clone(),
            target,
            hold: json!({"metadata": {"annotations": {MARK: id}}, "spec": {"suspend": true}}),
            restore: json!({"metadata": {"annotations": {MARK: null}}, "spec": {"suspend": live.data["spec"]["suspend"]}}),
        });
    }
    Ok(held)
}

/// What stops the source's providers: their Deployments, then the webhooks that would have nobody to answer; and the
/// Flux objects that would start them again.
pub(super) async fn stops(source: &Cluster, id: &str) -> Result<(Vec<Held>, BTreeSet<ObjectRef>)> {
    let gvk = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let deployments = source.list(&gvk, None, Some(OF_PROVIDER)).await?;
    let held = |object: &DynamicObject, hold: Value, mut restore: Value| {
        restore["metadata"] = json!({"annotations": {MARK: null}});
        let mut hold = hold;
        hold["metadata"] = json!({"annotations": {MARK: id}});
        Held { object: reference(object), target: false, hold, restore }
    };
    let mut all: Vec<Held> = deployments
        .iter()
        .map(|o| held(o, json!({"spec": {"replicas": 0}}), json!({"spec": {"replicas": o.data["spec"]["replicas"]}})))
        .collect();
    let mut deployed = deployers(deployments.iter());
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        let configurations = source.list(&gvk, None, Some(OF_PROVIDER)).await?;
        all.extend(
            configurations.iter().map(|o| held(o, json!({"webhooks": null}), json!({"webhooks": o.data["webhooks"]}))),
        );
        deployed.extend(deployers(configurations.iter()));
    }
    Ok((all, deployed))
}

/// Whether something is still held when the pivot is done: what deployed the objects on the source would do it again.
pub(super) fn stays(held: &Held) -> bool {
    !held.target && matches!(held.object.group(), KUSTOMIZE | HELM)
}

/// Adds to a fence what it does not hold yet; what it holds keeps the state that was written down first.
pub(super) fn extend(fence: &mut Vec<Held>, more: Vec<Held>) {
    for held in more {
        if !fence.iter().any(|other| other.object == held.object && other.target == held.target) {
            fence.push(held);
        }
    }
}

/// Both clusters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides<'a> {
    pub source: &'a Cluster,
    pub target: &'a Cluster,
}

impl<'a> Sides<'a> {
    fn of(&self, held: &Held) -> &'a Cluster {
        if held.target { self.target } else { self.source }
    }
}

/// Holds everything: deployers first, so that nothing is undone, then the objects, then the providers' webhooks.
pub(super) async fn hold(scope: &Scope, pace: &Pace, sides: Sides<'_>, fence: &[Held]) -> failure::Result<()> {
    for wave in waves(fence) {
        pace::each(pace, wave, async |held| patch(scope, sides.of(held), &held.object, &held.hold).await).await?;
    }
    Ok(())
}

/// Waits until Flux is through with what it was doing and the stopped providers are gone.
pub(super) async fn settled(scope: &Scope, sides: Sides<'_>, fence: &[Held]) -> failure::Result<()> {
    for held in fence.iter().filter(|held| !pausable(&held.object)) {
        scope
            .wait(format!("{} on the {} cluster to stand still", held.object, sides.of(held).name()))
            .until(async || {
                let Some(live) = sides.of(held).get(&held.object).await? else { return Ok(Look::Ready(())) };
                let replicas = live.data["status"]["replicas"].as_u64().unwrap_or_default();
                Ok(match condition(&live, "Reconciling") {
                    Some(c) if c["status"] == "True" => Look::Pending("it is being reconciled".into()),
                    _ if held.object.kind == "Deployment" && replicas > 0 => Look::Pending(format!("{replicas} pods")),
                    _ => Look::Ready(()),
                })
            })
            .await?;
    }
    Ok(())
}

/// Makes what is held what it was; only what still has our mark, since somebody may have let it go.
pub(super) async fn lift(
    scope: &Scope,
    pace: &Pace,
    sides: Sides<'_>,
    fence: &[Held],
    id: &str,
    which: impl Fn(&Held) -> bool,
) -> failure::Result<()> {
    for wave in waves(fence).into_iter().rev() {
        let wave = wave.into_iter().filter(|held| which(held));
        pace::each(pace, wave, async |held| {
            let cluster = sides.of(held);
            match cluster.get(&held.object).await? {
                Some(live) if super::copy::mark(&live) == Some(id) => {
                    patch(scope, cluster, &held.object, &held.restore).await
                }
                _ => Ok(()),
            }
        })
        .await?;
    }
    Ok(())
}

/// In the order of holding: what deploys, what is moved, who works on it, what they answer.
fn waves(fence: &[Held]) -> [Vec<&Held>; 4] {
    let mut waves: [Vec<&Held>; 4] = Default::default();
    for held in fence {
        let wave = match held.object.kind.as_str() {
            _ if pausable(&held.object) => 1,
            "Deployment" => 2,
            "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => 3,
            _ => 0,
        };
        waves[wave].push(held);
    }
    waves
}

/// Why an object's controller may still be at work; `None` when it says that it is paused, or never reported it, or was
/// stopped.
pub(super) fn busy(object: &DynamicObject, item: &Item, stopped: bool) -> Option<&'static str> {
    if crate::capi::parity::has(object, crate::capi::BLOCK_MOVE) {
        return Some("asks not to be moved yet (annotation clusterctl.cluster.x-k8s.io/block-move)");
    }
    // Health checks are looked at every fifteen seconds, and say it only then. Their controller reads the Cluster's pause before it acts, from
    // the cache of the manager that has said it of the Cluster.
    if item.object.kind == "MachineHealthCheck" && item.object.group() == "cluster.x-k8s.io" {
        return None;
    }
    let paused = condition(object, "Paused").filter(|_| !stopped)?;
    let roots = pausable(&item.object);
    let late = roots && paused["observedGeneration"].as_i64() < object.metadata.generation;
    (paused["status"] != "True" || late).then_some("is not paused yet")
}

/// How the roots among the copies are released: what the record says that they were before.
pub(super) fn originals(fence: &[Held]) -> BTreeMap<&ObjectRef, &Held> {
    fence.iter().filter(|held| !held.target && pausable(&held.object)).map(|held| (&held.object, held)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::graph::Uid;
    use crate::capi::{BLOCK_MOVE, Verdict};

    #[test]
    fn everybody_is_waited_for_but_health_checks_which_say_late_that_they_are_paused() {
        let state = |kind: &str, paused: &str, annotations: Value| {
            let object = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": kind,
                "metadata": {"name": "a", "namespace": "default", "generation": 1, "annotations": annotations},
                "status": {"conditions": [{"type": "Paused", "status": paused, "observedGeneration": 1}]}});
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            let (uid, verdict) = (Uid("1".into()), Verdict::Move { group: 1 });
            let item = Item { object: reference(&object), uid, verdict, verified: String::new() };
            busy(&object, &item, false)
        };
        assert_eq!(state("Machine", "False", json!({})), Some("is not paused yet"));
        assert_eq!(state("Machine", "True", json!({})), None);
        assert_eq!(state("MachineHealthCheck", "False", json!({})), None);
        assert!(state("MachineHealthCheck", "True", json!({BLOCK_MOVE: ""})).is_some());
    }
}
