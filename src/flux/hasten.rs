//! Waiting times of Flux that nothing needs, taken away.
//!
//! kustomize-controller looks at a health check every 5 s, and at an open dependency every 5 s (30 s as released). A request
//! to reconcile makes it look at once: it ends a running health check and begins anew, so it is sent only when every object
//! that the check waits for is ready, once for each such moment, and not when the check is about to end by itself: to build
//! and compare a large component again costs a second or two. Flux alone would come to the same result, later. Neither
//! request nor remedy is in the journal: a run that goes on finds out anew what waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::RELEASE_NAMESPACE;
use super::certificate::Certificates;
use super::control::nudge;
use super::progress::{Progress, SEEN};
use crate::event::Events;
use crate::k8s::{Cluster, Copies, DynamicObject, GroupVersionKind, ObjectRef, condition, readiness, reference};

/// How often what is known of the clusters is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often kustomize-controller looks at what a health check waits for.
const CHECK: Duration = Duration::from_secs(5);
/// A check that takes longer than this may wait for something that will not come by itself.
const SOON: Duration = Duration::from_secs(2);
/// What is seen ready so shortly after a look began, that look may have seen, too.
const LAG: Duration = Duration::from_millis(500);
/// A check whose look has seen everything ready is over by then. It is not waited for that long where it costs less to begin anew.
const OVER: Duration = Duration::from_secs(1);

/// Kinds that are not ready as soon as they are applied, with the version in which they are read.
const SLOW: [(&str, &str, &str); 8] = [
    ("apps", "v1", "Deployment"),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration"),
    ("cert-manager.io", "v1", "Certificate"),
    ("helm.toolkit.fluxcd.io", "v2", "HelmRelease"),
    ("cluster.x-k8s.io", "v1beta2", "Cluster"),
    ("cluster.x-k8s.io", "v1beta2", "MachineDeployment"),
    ("controlplane.cluster.x-k8s.io", "v1beta2", "KubeadmControlPlane"),
];

/// Group, kind, namespace and name: how an inventory names an object.
type Entry = (String, String, String, String);

/// Hurries the Kustomizations of the release on one cluster.
#[derive(Debug)]
pub struct Hastener {
    cluster: Cluster,
    copies: Copies,
    /// The cluster on which Kustomizations with a kubeconfig act, once it is known.
    remote: watch::Receiver<Option<Cluster>>,
    remote_copies: Option<Copies>,
    /// What was due when the cluster was last looked at, and since when.
    seen: HashMap<ObjectRef, (String, Instant)>,
    asked: HashMap<ObjectRef, String>,
    /// Since when each health check runs, with the attempt that it belongs to.
    checks: HashMap<ObjectRef, (String, Instant)>,
    certificates: Certificates,
    events: Events,
}

impl Hastener {
    /// Hurries `cluster`; its Kustomizations may act on `remote`.
    pub fn new(cluster: Cluster, remote: watch::Receiver<Option<Cluster>>, events: Events) -> Self {
        Self {
            copies: Copies::of(&cluster),
            cluster,
            remote,
            remote_copies: None,
            seen: HashMap::new(),
            asked: HashMap::new(),
            checks: HashMap::new(),
            certificates: Certificates::default(),
            events,
        }
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
    fn time_checks(&mut self, kustomizations: &[Arc<DynamicObject>]) {
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
        let mut kustomizations = self.copies.all(&gvk).await?;
        kustomizations.retain(|object| object.metadata.namespace.as_deref() == Some(RELEASE_NAMESPACE));
        self.time_checks(&kustomizations);
        if self.checks.values().any(|(_, began)| began.elapsed() > SOON) {
            self.certificates.turn(&self.cluster, &mut self.copies, &self.events).await?;
        }
        let mut ready: [BTreeMap<Entry, Progress>; 2] = Default::default();
        for (index, remote) in [false, true].into_iter().enumerate() {
            let checked: Vec<&DynamicObject> =
                kustomizations.iter().map(Arc::as_ref).filter(|k| checking(k) && acts_remotely(k) == remote).collect();
            if checked.is_empty() {
                continue;
            }
            if remote && self.remote_copies.is_none() {
                self.remote_copies = self.remote.borrow().as_ref().map(Copies::of);
            }
            let copies = if remote { self.remote_copies.as_mut() } else { Some(&mut self.copies) };
            let Some(copies) = copies else { continue };
            ready[index] = progress(copies, &checked).await?;
        }
        let mut seen = std::mem::take(&mut self.seen);
        for (object, moment) in due(&kustomizations, &ready[0], &ready[1]) {
            let known = seen.remove(&object).filter(|(known, _)| *known == moment);
            let since = known.map_or_else(Instant::now, |(_, since)| since);
            self.seen.insert(object.clone(), (moment.clone(), since));
            if since.elapsed() < INTERVAL || self.asked.get(&object) == Some(&moment) {
                continue;
            }
            // To look at everything may have taken seconds on a busy cluster.
            let Some(now) = self.cluster.get(&object).await?.filter(|now| checking(now) || waiting(now)) else {
                continue;
            };
            let began = self.checks.get(&object).map(|(_, began)| began.elapsed());
            if began.is_some_and(|began| !worthwhile(began, since.elapsed(), cost(&now))) {
                continue;
            }
            tracing::debug!(cluster = self.cluster.name(), %object, moment, "hastened");
            nudge(&self.cluster, &object).await?;
            self.asked.insert(object, moment);
        }
        Ok(())
    }
}

/// Whether a check that began `running` ago is worth being begun anew, which takes `cost`, when what it waits for has been ready for
/// `ready`: its last look has not seen that, and the next one is further away.
fn worthwhile(running: Duration, ready: Duration, cost: Duration) -> bool {
    let look = Duration::from_millis(u64::try_from(running.as_millis() % CHECK.as_millis()).unwrap_or_default());
    let unseen = ready + LAG < look || ready > OVER.min(cost);
    unseen && look + cost < CHECK
}

/// What it takes to build a component and compare it with the cluster before its health is checked, on a busy machine: most of it
/// goes into definitions.
fn cost(object: &DynamicObject) -> Duration {
    let (definitions, others): (Vec<Entry>, Vec<Entry>) =
        inventory(object).partition(|(_, kind, _, _)| kind == "CustomResourceDefinition");
    let count = |objects: &[Entry]| u32::try_from(objects.len()).unwrap_or(u32::MAX);
    Duration::from_millis(400)
        + Duration::from_millis(80) * count(&definitions)
        + Duration::from_millis(8) * count(&others)
}

/// How far the objects are that some Kustomizations wait for: those of slow kinds, and whatever a gate names.
async fn progress(copies: &mut Copies, of: &[&DynamicObject]) -> crate::k8s::Result<BTreeMap<Entry, Progress>> {
    let mut found = BTreeMap::new();
    let mut add = |object: &DynamicObject| found.insert(entry(reference(object)), Progress::of(object));
    let (gates, others): (Vec<_>, Vec<_>) = of.iter().partition(|object| is_gate(object));
    let gated: Vec<ObjectRef> = gates.into_iter().flat_map(named).collect();
    let wanted: BTreeSet<(String, String)> = others
        .into_iter()
        .flat_map(inventory)
        .map(|(group, kind, _, _)| (group, kind))
        .chain(gated.iter().map(|name| (name.group().to_owned(), name.kind.clone())))
        .collect();
    for (group, version, kind) in SLOW {
        if wanted.contains(&(group.to_owned(), kind.to_owned())) {
            for object in copies.all(&GroupVersionKind::gvk(group, version, kind)).await? {
                add(&object);
            }
        }
    }
    // Of other kinds there may be many, or large ones.
    for name in gated.iter().filter(|name| !is_slow(name.group(), &name.kind)) {
        if let Some(object) = copies.one(name).await? {
            add(&object);
        }
    }
    Ok(found)
}

fn entry(name: ObjectRef) -> Entry {
    (name.group().to_owned(), name.kind, name.namespace.unwrap_or_default(), name.name)
}

/// Kustomizations that would get on if they were looked at now, each with the moment that makes it so: the same moment is no
/// reason to ask twice.
fn due(
    kustomizations: &[Arc<DynamicObject>],
    local: &BTreeMap<Entry, Progress>,
    remote: &BTreeMap<Entry, Progress>,
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
            let gate = is_gate(object);
            let slow = awaited(object).into_iter().filter(|(group, kind, _, _)| gate || is_slow(group, kind));
            let begun = gate && asks_for_little(object);
            let is_due = |entry| states.get(&entry).is_some_and(|state| state.ready || (begun && state.begun));
            let all: Vec<bool> = slow.map(is_due).collect();
            if !all.is_empty() && all.into_iter().all(|due| due) {
                let generation = object.metadata.generation.unwrap_or(0);
                let revision = object.data.pointer("/status/lastAttemptedRevision").and_then(Value::as_str);
                due.push((reference(object), format!("checked {generation} {}", revision.unwrap_or_default())));
            }
        } else if waiting(object) {
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

/// Whether the controller waits for a Kustomization that this one depends on.
fn waiting(object: &DynamicObject) -> bool {
    condition(object, "Ready").is_some_and(|c| c["reason"] == "DependencyNotReady")
}

fn acts_remotely(object: &DynamicObject) -> bool {
    object.data.pointer("/spec/kubeConfig").is_some()
}

/// Whether a Kustomization waits for objects that it names, and not for what it applied.
fn is_gate(object: &DynamicObject) -> bool {
    object.data.pointer("/spec/wait") != Some(&Value::Bool(true)) && named(object).next().is_some()
}

/// Whether a gate waits only for what it names to begin.
fn asks_for_little(gate: &DynamicObject) -> bool {
    gate.data.pointer("/spec/healthCheckExprs").is_none_or(|asked| !asked.to_string().contains(SEEN))
}

/// The objects that the health check of a Kustomization waits for.
pub(crate) fn awaited(object: &DynamicObject) -> Vec<Entry> {
    if !is_gate(object) {
        return inventory(object).collect();
    }
    named(object).map(entry).collect()
}

/// The objects that a Kustomization names.
fn named(object: &DynamicObject) -> impl Iterator<Item = ObjectRef> {
    let checks = object.data.pointer("/spec/healthChecks").and_then(Value::as_array);
    checks.into_iter().flatten().map(|check| {
        let text = |field: &str| check[field].as_str().unwrap_or_default();
        match text("namespace") {
            "" => ObjectRef::global(text("apiVersion"), text("kind"), text("name")),
            namespace => ObjectRef::namespaced(text("apiVersion"), text("kind"), namespace, text("name")),
        }
    })
}

fn is_slow(group: &str, kind: &str) -> bool {
    SLOW.iter().any(|(slow, _, of)| *slow == group && *of == kind)
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

    fn kustomization(name: &str, spec: &Value, status: &Value) -> Arc<DynamicObject> {
        let metadata = json!({"name": name, "namespace": "default", "generation": 1});
        let object = json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": metadata,
            "spec": spec, "status": status});
        Arc::new(serde_json::from_value(object).unwrap())
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
    fn a_check_that_gets_there_by_itself_is_left_alone() {
        // Since the check began, since everything is ready, what it costs to begin anew; and whether it is worth that.
        let cases = [
            (2.0, 1.0, 1.0, true),
            (0.9, 0.8, 1.0, false), // its look at 0 s may have seen it
            (4.5, 0.5, 1.0, false), // the next look is nearer
            (2.0, 0.5, 3.5, false),
            (1.0, 0.2, 3.5, true),
            (7.0, 1.0, 1.0, true),
            (7.0, 0.5, 1.0, true),
            (5.7, 0.5, 1.0, false), // as at 0 s
            (6.3, 1.1, 1.0, true),  // had its look at 5 s seen it, it would be over
            (5.7, 0.5, 0.4, true),  // to begin anew costs less than to wait until that is clear
            (5.7, 0.3, 0.4, false),
            (9.2, 4.0, 1.0, false),
        ];
        for (running, ready, cost, worth) in cases {
            let [a, b, c] = [running, ready, cost].map(Duration::from_secs_f64);
            assert_eq!(worthwhile(a, b, c), worth, "{running} {ready} {cost}");
        }
    }

    #[test]
    fn a_check_is_due_once_everything_slow_is_ready() {
        let all = [kustomization("capi", &json!({}), &in_check())];
        let deployment = entry("apps", "Deployment", "capi");
        let certificate = entry("cert-manager.io", "Certificate", "serving-cert");
        let is = |ready: bool| Progress { begun: false, ready };
        let mut states = BTreeMap::from([(deployment.clone(), is(true))]);
        assert!(due(&all, &states, &BTreeMap::new()).is_empty(), "the certificate is not there yet");
        states.insert(certificate.clone(), is(false));
        assert!(due(&all, &states, &BTreeMap::new()).is_empty());
        states.insert(certificate, is(true));
        assert_eq!(due(&all, &states, &BTreeMap::new()).len(), 1);
        let remote = [kustomization("capi", &json!({"kubeConfig": {}}), &in_check())];
        assert!(due(&remote, &states, &BTreeMap::new()).is_empty(), "it acts on the other cluster");
        assert_eq!(due(&remote, &BTreeMap::new(), &states).len(), 1);
        let suspended = [kustomization("capi", &json!({"suspend": true}), &in_check())];
        assert!(due(&suspended, &states, &BTreeMap::new()).is_empty());
    }

    #[test]
    fn a_gate_that_asks_for_what_was_seen_waits_for_that() {
        let gate = |current: &str| {
            let named =
                json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "name": "d"});
            let spec = json!({"wait": false, "healthChecks": [named], "healthCheckExprs": [{"current": current}]});
            let name = ("apiextensions.k8s.io".into(), "CustomResourceDefinition".into(), String::new(), "d".into());
            let states = BTreeMap::from([(name, Progress { begun: true, ready: false })]);
            due(&[kustomization("gate", &spec, &in_check())], &states, &BTreeMap::new()).len()
        };
        assert_eq!(gate("has(spec.conversion.webhook.clientConfig.caBundle)"), 1);
        assert_eq!(gate(&format!("'{SEEN}' in metadata.annotations")), 0);
    }

    #[test]
    fn a_gate_is_due_once_what_it_names_has_begun() {
        let check = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "name": "mc", "namespace": "capi-system"});
        let gate = [kustomization("gate", &json!({"wait": false, "healthChecks": [check]}), &in_check())];
        let state = |begun: bool| {
            BTreeMap::from([(entry("cluster.x-k8s.io", "Cluster", "mc"), Progress { begun, ready: false })])
        };
        assert!(due(&gate, &BTreeMap::new(), &BTreeMap::new()).is_empty(), "it does not exist yet");
        assert!(due(&gate, &state(false), &BTreeMap::new()).is_empty());
        assert_eq!(due(&gate, &state(true), &BTreeMap::new()).len(), 1);
    }
}
