//! Waiting times of Flux that nothing needs, taken away.
//!
//! kustomize-controller looks at a health check every 5 s, and at an open dependency every 5 s (30 s as released). A request
//! to reconcile makes it look at once: it ends a running health check and begins anew, so it is sent only when every object
//! that the check waits for is ready, once for each such moment, and not when the check is about to end by itself: to build
//! and compare a large component again costs a second or two. Flux alone would come to the same result, later.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::RELEASE_NAMESPACE;
use super::control::nudge;
use crate::k8s::{Cluster, DynamicObject, GroupVersionKind, ObjectRef, condition, readiness, reference};

/// How often the clusters are looked at.
const INTERVAL: Duration = Duration::from_millis(200);
/// How often kustomize-controller looks at what a health check waits for.
const CHECK: Duration = Duration::from_secs(5);
/// A look takes so long when the cluster is busy: what is seen ready meanwhile, the controller may be about to see itself.
const LOOKING: Duration = Duration::from_millis(1500);

/// Kinds that are not ready as soon as they are applied, with the version in which they are read.
const SLOW: [(&str, &str, &str); 7] = [
    ("apps", "v1", "Deployment"),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration"),
    ("cert-manager.io", "v1", "Certificate"),
    ("helm.toolkit.fluxcd.io", "v2", "HelmRelease"),
    ("cluster.x-k8s.io", "v1beta2", "Cluster"),
    ("cluster.x-k8s.io", "v1beta2", "MachineDeployment"),
];

/// Group, kind, namespace and name: how an inventory names an object.
type Entry = (String, String, String, String);

/// Hurries the Kustomizations of the release on one cluster.
#[derive(Debug)]
pub struct Hastener {
    cluster: Cluster,
    /// The cluster on which Kustomizations with a kubeconfig act, once it is known.
    remote: watch::Receiver<Option<Cluster>>,
    /// What was due when the cluster was last looked at: a check that is about to end by itself is not disturbed.
    seen: HashMap<ObjectRef, String>,
    asked: HashMap<ObjectRef, String>,
    /// Since when each health check runs, with the attempt that it belongs to.
    checks: HashMap<ObjectRef, (String, Instant)>,
}

impl Hastener {
    /// Hurries `cluster`; its Kustomizations may act on `remote`.
    pub fn new(cluster: Cluster, remote: watch::Receiver<Option<Cluster>>) -> Self {
        Self { cluster, remote, seen: HashMap::new(), asked: HashMap::new(), checks: HashMap::new() }
    }

    /// Works until cancelled. Failures to read or to ask cost speed only, and are tried again.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            if let Err(error) = self.turn().await {
                tracing::debug!(cluster = self.cluster.name(), %error, "cannot hasten");
            }
        }
    }

    /// Remembers since when each health check runs.
    fn time_checks(&mut self, kustomizations: &[DynamicObject]) {
        let mut checks = HashMap::new();
        for object in kustomizations.iter().filter(|object| checking(object)) {
            let attempt = object.data.pointer("/status/lastHandledReconcileAt").and_then(Value::as_str);
            let attempt = format!("{} {}", object.metadata.generation.unwrap_or(0), attempt.unwrap_or_default());
            let name = reference(object);
            let known = self.checks.remove(&name).filter(|(known, _)| *known == attempt);
            checks.insert(name, known.unwrap_or_else(|| (attempt, Instant::now())));
        }
        self.checks = checks;
    }

    async fn turn(&mut self) -> crate::k8s::Result<()> {
        let gvk = GroupVersionKind::gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization");
        let kustomizations = self.cluster.list(&gvk, Some(RELEASE_NAMESPACE), None).await?;
        self.time_checks(&kustomizations);
        let mut ready: [BTreeMap<Entry, bool>; 2] = Default::default();
        for (index, remote) in [false, true].into_iter().enumerate() {
            let checked: Vec<&DynamicObject> =
                kustomizations.iter().filter(|k| checking(k) && acts_remotely(k) == remote).collect();
            if checked.is_empty() {
                continue;
            }
            let cluster = if remote { self.remote.borrow().clone() } else { Some(self.cluster.clone()) };
            let Some(cluster) = cluster else { continue };
            ready[index] = slow_objects(&cluster, &checked).await?;
        }
        let due: HashMap<ObjectRef, String> = due(&kustomizations, &ready[0], &ready[1]).into_iter().collect();
        let seen = std::mem::replace(&mut self.seen, due.clone());
        for (object, moment) in due {
            if seen.get(&object) != Some(&moment) || self.asked.get(&object) == Some(&moment) {
                continue;
            }
            if self.checks.get(&object).is_some_and(|(_, since)| looks(since.elapsed())) {
                continue;
            }
            tracing::debug!(%object, moment, "hastened");
            nudge(&self.cluster, &object).await?;
            self.asked.insert(object, moment);
        }
        Ok(())
    }
}

/// Whether a check that began so long ago looks now, or will shortly.
fn looks(running: Duration) -> bool {
    let into = Duration::from_millis(u64::try_from(running.as_millis() % CHECK.as_millis()).unwrap_or_default());
    into < LOOKING || CHECK.saturating_sub(into) <= LOOKING
}

/// The slow objects of some Kustomizations, and whether each is ready.
async fn slow_objects(cluster: &Cluster, of: &[&DynamicObject]) -> crate::k8s::Result<BTreeMap<Entry, bool>> {
    let wanted: BTreeSet<(String, String)> =
        of.iter().flat_map(|k| inventory(k)).map(|(group, kind, _, _)| (group, kind)).collect();
    let mut ready = BTreeMap::new();
    for (group, version, kind) in SLOW {
        if !wanted.contains(&(group.to_owned(), kind.to_owned())) {
            continue;
        }
        for object in cluster.list(&GroupVersionKind::gvk(group, version, kind), None, None).await? {
            let entry = reference(&object);
            let key = (group.to_owned(), entry.kind, entry.namespace.unwrap_or_default(), entry.name);
            ready.insert(key, is_ready(&object));
        }
    }
    Ok(ready)
}

/// Whether an object is ready by the health check of its Kustomization, which for some kinds asks more than its conditions say.
fn is_ready(object: &DynamicObject) -> bool {
    if let Some(webhooks) = object.data["webhooks"].as_array() {
        let has = |webhook: &Value, field: &str| webhook["clientConfig"].get(field).is_some();
        return webhooks.iter().all(|webhook| has(webhook, "caBundle") || !has(webhook, "service"));
    }
    let counts = |pointer| object.data.pointer(pointer) == object.data.pointer("/spec/replicas");
    let all = object.types.as_ref().is_none_or(|types| types.kind != "MachineDeployment")
        || (counts("/status/readyReplicas") && counts("/status/upToDateReplicas"));
    all && readiness(object).is_ready()
}

/// Kustomizations that would get on if they were looked at now, each with the moment that makes it so: the same moment is no
/// reason to ask twice.
fn due(
    kustomizations: &[DynamicObject],
    local: &BTreeMap<Entry, bool>,
    remote: &BTreeMap<Entry, bool>,
) -> Vec<(ObjectRef, String)> {
    let done: BTreeMap<&str, String> = kustomizations
        .iter()
        .filter(|k| readiness(k).is_ready())
        .map(|k| (k.metadata.name.as_deref().unwrap_or_default(), moment_of(k)))
        .collect();
    let mut due = Vec::new();
    for object in kustomizations {
        if object.data.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
            continue;
        }
        if checking(object) {
            let states = if acts_remotely(object) { remote } else { local };
            let slow: Vec<Entry> = inventory(object)
                .filter(|(group, kind, _, _)| SLOW.iter().any(|(g, _, k)| g == group && k == kind))
                .collect();
            if !slow.is_empty() && slow.iter().all(|entry| states.get(entry) == Some(&true)) {
                let generation = object.metadata.generation.unwrap_or(0);
                let revision = object.data.pointer("/status/lastAttemptedRevision").and_then(Value::as_str);
                due.push((reference(object), format!("checked {generation} {}", revision.unwrap_or_default())));
            }
        } else if condition(object, "Ready").is_some_and(|c| c["reason"] == "DependencyNotReady") {
            let dependencies = object.data.pointer("/spec/dependsOn").and_then(Value::as_array);
            let moments: Option<Vec<String>> = dependencies
                .into_iter()
                .flatten()
                .map(|dependency| done.get(dependency["name"].as_str().unwrap_or_default()).cloned())
                .collect();
            if let Some(moments) = moments.filter(|moments| !moments.is_empty()) {
                due.push((reference(object), format!("dependencies {}", moments.join(" "))));
            }
        }
    }
    due
}

/// What tells one readiness of a Kustomization from an earlier one.
fn moment_of(object: &DynamicObject) -> String {
    let generation = object.metadata.generation.unwrap_or(0);
    let revision = object.data.pointer("/status/lastAppliedRevision").and_then(Value::as_str).unwrap_or_default();
    let since = condition(object, "Ready").and_then(|c| c["lastTransitionTime"].as_str()).unwrap_or_default();
    format!("{generation}/{revision}/{since}")
}

/// Whether the controller waits for the objects of a Kustomization to be healthy.
fn checking(object: &DynamicObject) -> bool {
    condition(object, "Reconciling").is_some_and(|c| {
        c["status"] == "True" && c["message"].as_str().is_some_and(|m| m.starts_with("Running health checks"))
    })
}

fn acts_remotely(object: &DynamicObject) -> bool {
    object.data.pointer("/spec/kubeConfig").is_some()
}

/// The objects that a Kustomization applied: `namespace_name_group_kind`.
pub(crate) fn inventory(object: &DynamicObject) -> impl Iterator<Item = Entry> {
    let entries = object.data.pointer("/status/inventory/entries").and_then(Value::as_array);
    entries.into_iter().flatten().filter_map(|entry| {
        // The name may hold underscores: two of them stand for a colon.
        let (namespace, rest) = entry["id"].as_str()?.split_once('_')?;
        let (rest, kind) = rest.rsplit_once('_')?;
        let (name, group) = rest.rsplit_once('_')?;
        let name = name.replace("__", ":");
        Some((group.to_owned(), kind.to_owned(), namespace.to_owned(), name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kustomization(name: &str, spec: &Value, status: &Value) -> DynamicObject {
        let metadata = json!({"name": name, "namespace": "default", "generation": 1});
        let object = json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": metadata,
            "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn ready(since: &str) -> Value {
        json!({"observedGeneration": 1, "lastAppliedRevision": "r1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]})
    }

    fn waiting() -> Value {
        json!({"conditions": [{"type": "Ready", "status": "False", "reason": "DependencyNotReady"}]})
    }

    fn in_check() -> Value {
        json!({"observedGeneration": 1, "inventory": {"entries": [
            {"id": "_capi-system__Namespace", "v": "v1"},
            {"id": "capi-system_capi_apps_Deployment", "v": "v1"},
            {"id": "capi-system_serving-cert_cert-manager.io_Certificate", "v": "v1"}]},
            "conditions": [{"type": "Ready", "status": "Unknown"},
                {"type": "Reconciling", "status": "True", "message": "Running health checks for revision r1 with a timeout of 3m"}]})
    }

    #[test]
    fn names_of_an_inventory_may_hold_colons() {
        let status = json!({"inventory": {"entries": [
            {"id": "kube-system_cert-manager__leader_rbac.authorization.k8s.io_Role", "v": "v1"},
            {"id": "default_values__ConfigMap", "v": "v1"}]}});
        let names: Vec<Entry> = inventory(&kustomization("a", &json!({}), &status)).collect();
        let text = |text: &str| text.to_owned();
        assert_eq!(
            names,
            [
                (text("rbac.authorization.k8s.io"), text("Role"), text("kube-system"), text("cert-manager:leader")),
                (text(""), text("ConfigMap"), text("default"), text("values")),
            ]
        );
    }

    fn entry(group: &str, kind: &str, name: &str) -> Entry {
        (group.into(), kind.into(), "capi-system".into(), name.into())
    }

    #[test]
    fn a_dependent_is_due_once_all_its_dependencies_are_ready() {
        let depends = json!({"dependsOn": [{"name": "a"}, {"name": "b"}]});
        let case = |b: Value| {
            let all = [
                kustomization("a", &json!({}), &ready("t1")),
                kustomization("b", &json!({}), &b),
                kustomization("c", &depends, &waiting()),
            ];
            due(&all, &BTreeMap::new(), &BTreeMap::new())
        };
        assert!(case(waiting()).is_empty());
        let first = case(ready("t1"));
        assert_eq!(first[0].0.name, "c");
        assert_ne!(first, case(ready("t2")), "a later readiness is another moment");
        assert_eq!(first, case(ready("t1")));
    }

    #[test]
    fn a_check_that_looks_by_itself_is_left_alone() {
        let cases = [(0, true), (1, true), (2, false), (3, false), (4, true), (5, true), (7, false), (9, true)];
        for (seconds, by_itself) in cases {
            assert_eq!(looks(Duration::from_secs(seconds)), by_itself, "after {seconds} s");
        }
    }

    #[test]
    fn a_check_is_due_once_everything_slow_is_ready() {
        let all = [kustomization("capi", &json!({}), &in_check())];
        let deployment = entry("apps", "Deployment", "capi");
        let certificate = entry("cert-manager.io", "Certificate", "serving-cert");
        let mut states = BTreeMap::from([(deployment.clone(), true)]);
        assert!(due(&all, &states, &BTreeMap::new()).is_empty(), "the certificate is not there yet");
        states.insert(certificate.clone(), false);
        assert!(due(&all, &states, &BTreeMap::new()).is_empty());
        states.insert(certificate, true);
        assert_eq!(due(&all, &states, &BTreeMap::new()).len(), 1);
        let remote = [kustomization("capi", &json!({"kubeConfig": {}}), &in_check())];
        assert!(due(&remote, &states, &BTreeMap::new()).is_empty(), "it acts on the other cluster");
        assert_eq!(due(&remote, &BTreeMap::new(), &states).len(), 1);
        let suspended = [kustomization("capi", &json!({"suspend": true}), &in_check())];
        assert!(due(&suspended, &states, &BTreeMap::new()).is_empty());
    }

    #[test]
    fn webhooks_and_machines_are_judged_as_their_health_checks_do() {
        let object = |value: Value| serde_json::from_value::<DynamicObject>(value).unwrap();
        let webhook = |config: Value| {
            object(json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
                "metadata": {"name": "w"}, "webhooks": [{"clientConfig": config}]}))
        };
        assert!(!is_ready(&webhook(json!({"service": {}}))));
        assert!(is_ready(&webhook(json!({"service": {}, "caBundle": "x"}))) && is_ready(&webhook(json!({"url": "x"}))));
        let machines = |ready: i64| {
            object(
                json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment", "metadata": {"name": "m"},
                "spec": {"replicas": 2}, "status": {"readyReplicas": ready, "upToDateReplicas": 2,
                "conditions": [{"type": "Available", "status": "True"}]}}),
            )
        };
        assert!(!is_ready(&machines(1)) && is_ready(&machines(2)));
    }
}
