//! From what is not ready down to one root cause: a pure function over snapshots.

use std::collections::BTreeSet;
use std::fmt;

use kube::api::DynamicObject;
use serde::Serialize;

use super::snapshot::{Snapshot, text};
use super::state::{cause, state};
use crate::flux;
use crate::k8s::{ObjectRef, Readiness, condition, reference};

/// One object on the way to the cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub object: ObjectRef,
    /// Its state.
    pub state: String,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (on the {} cluster): {}", self.object, self.cluster, cause(&self.state))
    }
}

/// The way from what is not ready to why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blame {
    /// First what was asked about, last the cause.
    pub links: Vec<Link>,
    /// Whether the cause says itself that it will not heal.
    pub hopeless: bool,
}

impl Blame {
    /// The cause in one line.
    pub fn root_cause(&self) -> String {
        self.links.last().map(ToString::to_string).unwrap_or_default()
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, link) in self.links.iter().enumerate() {
            if depth > 0 {
                writeln!(f)?;
            }
            write!(f, "{:width$}{link}", "", width = depth * 2)?;
        }
        Ok(())
    }
}

/// Finds the cause of whatever is not ready on the first cluster; Kustomizations with a kubeconfig act on the second.
pub fn blame(here: &Snapshot, there: Option<&Snapshot>) -> Option<Blame> {
    let starts = ["HelmRelease", "Kustomization", "Cluster"];
    let chains = starts.into_iter().flat_map(|kind| here.kind(kind)).filter(|o| !ready(o)).map(|object| {
        let mut search = Search { there, seen: BTreeSet::new(), links: Vec::new(), hopeless: false };
        search.descend(here, object);
        Blame { links: search.links, hopeless: search.hopeless }
    });
    // The longest way says most; what is hopeless says why waiting is no use.
    chains.max_by_key(|blame| (blame.hopeless, blame.links.len()))
}

fn ready(object: &DynamicObject) -> bool {
    state(object).is_ready()
}

struct Search<'a> {
    there: Option<&'a Snapshot>,
    seen: BTreeSet<(String, ObjectRef)>,
    links: Vec<Link>,
    hopeless: bool,
}

impl<'a> Search<'a> {
    fn descend(&mut self, snapshot: &'a Snapshot, object: &'a DynamicObject) {
        let name = reference(object);
        if !self.seen.insert((snapshot.cluster.clone(), name.clone())) {
            return;
        }
        let found = state(object);
        let says = match &found {
            // A ReplicaSet and the like have no condition of their own.
            Readiness::Ready => "waiting for what it owns".to_owned(),
            other => other.state().to_owned(),
        };
        self.links.push(Link { cluster: snapshot.cluster.clone(), object: name, state: says });
        self.hopeless = matches!(found, Readiness::Failed(_));
        match self.next(snapshot, object) {
            Some((snapshot, next)) => self.descend(snapshot, next),
            None => self.end(snapshot, object),
        }
    }

    /// What the object waits for.
    fn next(&self, snapshot: &'a Snapshot, object: &'a DynamicObject) -> Option<(&'a Snapshot, &'a DynamicObject)> {
        let within = |object: &'a DynamicObject| (snapshot, object);
        let referred = |pointer: &str| snapshot.referred(object, pointer).filter(|o| !ready(o));
        match kind(object) {
            "Kustomization" => self.below_kustomization(snapshot, object),
            "HelmRelease" => {
                let chart = format!(
                    "{}-{}",
                    object.metadata.namespace.as_deref().unwrap_or_default(),
                    object.metadata.name.as_deref().unwrap_or_default()
                );
                let charts = snapshot.kind("HelmChart").find(|c| c.metadata.name.as_deref() == Some(&chart));
                charts.filter(|c| !ready(c)).or_else(|| referred("/spec/chartRef")).map(within)
            }
            "HelmChart" => source(snapshot, object).map(within),
            "Cluster" => referred("/spec/infrastructureRef")
                .or_else(|| referred("/spec/controlPlaneRef"))
                .or_else(|| of_cluster(snapshot, object, "Machine"))
                .or_else(|| of_cluster(snapshot, object, "MachineDeployment"))
                .map(within),
            "Machine" => {
                referred("/spec/bootstrap/configRef").or_else(|| referred("/spec/infrastructureRef")).map(within)
            }
            _ => owned(snapshot, object).map(within),
        }
    }

    fn below_kustomization(
        &self,
        snapshot: &'a Snapshot,
        object: &'a DynamicObject,
    ) -> Option<(&'a Snapshot, &'a DynamicObject)> {
        let namespace = object.metadata.namespace.as_deref();
        let dependencies = object.data.pointer("/spec/dependsOn").and_then(|d| d.as_array());
        for dependency in dependencies.into_iter().flatten() {
            let found = snapshot.find(
                "kustomize.toolkit.fluxcd.io",
                "Kustomization",
                dependency["namespace"].as_str().or(namespace),
                dependency["name"].as_str().unwrap_or_default(),
            );
            if let Some(found) = found.filter(|o| !ready(o)) {
                return Some((snapshot, found));
            }
        }
        if let Some(source) = source(snapshot, object) {
            return Some((snapshot, source));
        }
        let ready_condition = condition(object, "Ready")?;
        let reason = ready_condition["reason"].as_str().unwrap_or_default();
        if !matches!(reason, "HealthCheckFailed" | "Progressing" | "ProgressingWithRetry") {
            // It failed before it came to what it applies.
            return None;
        }
        let remote = object.data.pointer("/spec/kubeConfig").is_some();
        let target = if remote { self.there? } else { snapshot };
        let mut waiting: Vec<&DynamicObject> = awaited(target, object).filter(|o| !ready(o)).collect();
        waiting.sort_by_key(|o| match kind(o) {
            "HelmRelease" | "Kustomization" => 0,
            "Cluster" => 1,
            "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => 2,
            _ => 3,
        });
        waiting.first().map(|o| (target, *o))
    }

    /// Adds what events and missing things say about the last object.
    fn end(&mut self, snapshot: &Snapshot, object: &DynamicObject) {
        let Some(last) = self.links.last_mut() else { return };
        if let Some(missing) = missing(snapshot, object) {
            last.state = format!("{}; {missing}", last.state);
        } else if let Some(warning) = snapshot.warning(object)
            && !last.state.contains(warning.split(" (").next().unwrap_or_default())
        {
            last.state = format!("{}; {warning}", last.state);
        }
    }
}

/// A thing that an object refers to and that does not exist.
fn missing(snapshot: &Snapshot, object: &DynamicObject) -> Option<String> {
    if kind(object) == "Kustomization" {
        let dependencies = object.data.pointer("/spec/dependsOn")?.as_array()?;
        let namespace = object.metadata.namespace.as_deref();
        let lost = dependencies.iter().find(|d| {
            let name = d["name"].as_str().unwrap_or_default();
            let namespace = d["namespace"].as_str().or(namespace);
            snapshot.find("kustomize.toolkit.fluxcd.io", "Kustomization", namespace, name).is_none()
        })?;
        return Some(format!("its dependency {} does not exist", lost["name"].as_str().unwrap_or_default()));
    }
    let pointers = ["/spec/infrastructureRef", "/spec/controlPlaneRef", "/spec/bootstrap/configRef"];
    let pointer = pointers.into_iter().find(|pointer| {
        object.data.pointer(pointer).is_some_and(|field| !field["kind"].is_null())
            && snapshot.referred(object, pointer).is_none()
    })?;
    let (kind, name) = (text(object, &format!("{pointer}/kind")), text(object, &format!("{pointer}/name")));
    Some(format!("{kind} {name}, which it refers to, does not exist"))
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

/// The source of a Kustomization or a chart, when it is not ready.
fn source<'a>(snapshot: &'a Snapshot, object: &DynamicObject) -> Option<&'a DynamicObject> {
    let field = object.data.pointer("/spec/sourceRef")?;
    let namespace = field["namespace"].as_str().or(object.metadata.namespace.as_deref());
    let found =
        snapshot.find("source.toolkit.fluxcd.io", field["kind"].as_str()?, namespace, field["name"].as_str()?)?;
    (!ready(found)).then_some(found)
}

/// The objects that a Kustomization waits for and that the snapshot holds.
fn awaited<'a>(snapshot: &'a Snapshot, object: &DynamicObject) -> impl Iterator<Item = &'a DynamicObject> {
    flux::awaited(object).into_iter().filter_map(|(group, kind, namespace, name)| {
        let namespace = (!namespace.is_empty()).then_some(namespace.as_str());
        snapshot.find(&group, &kind, namespace, &name)
    })
}

/// An object of a Cluster that is not ready, by the label that Cluster API sets.
fn of_cluster<'a>(snapshot: &'a Snapshot, cluster: &DynamicObject, kind: &'a str) -> Option<&'a DynamicObject> {
    snapshot.kind(kind).find(|object| {
        object.metadata.namespace == cluster.metadata.namespace
            && text(object, "/spec/clusterName") == cluster.metadata.name.as_deref().unwrap_or_default()
            && !ready(object)
    })
}

/// An owned object that is not ready, or one that only passes on what its own owned objects lack.
fn owned<'a>(snapshot: &'a Snapshot, object: &'a DynamicObject) -> Option<&'a DynamicObject> {
    let all: Vec<&DynamicObject> = snapshot.owned_by(object).filter(|o| kind(o) != "Event").collect();
    all.iter().find(|o| !ready(o)).or_else(|| all.iter().find(|o| owned(snapshot, o).is_some())).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const KUSTOMIZE: &str = "kustomize.toolkit.fluxcd.io/v1";

    fn put(snapshot: &mut Snapshot, api: &str, kind: &str, name: &str, spec: &Value, status: &Value) {
        put_owned(snapshot, api, kind, name, "", spec, status);
    }

    fn put_owned(s: &mut Snapshot, api: &str, kind: &str, name: &str, owner: &str, spec: &Value, status: &Value) {
        let owners: Vec<Value> = [owner]
            .iter()
            .filter(|o| !o.is_empty())
            .map(|o| json!({"apiVersion": "x/v1", "kind": "X", "name": o, "uid": format!("uid-{o}")}))
            .collect();
        s.put(
            serde_json::from_value(json!({"apiVersion": api, "kind": kind, "spec": spec, "status": status,
                "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1, "ownerReferences": owners}}))
            .unwrap(),
        );
    }

    fn not(kind: &str, reason: &str, message: &str) -> Value {
        json!({"observedGeneration": 1, "conditions": [{"type": kind, "status": "False", "reason": reason, "message": message}]})
    }

    fn checking(entries: &[&str]) -> Value {
        let entries: Vec<Value> = entries.iter().map(|id| json!({"id": id, "v": "v1"})).collect();
        json!({"observedGeneration": 1, "inventory": {"entries": entries}, "conditions": [
            {"type": "Ready", "status": "Unknown", "reason": "Progressing", "message": "Reconciliation in progress"},
            {"type": "Reconciling", "status": "True", "message": "Running health checks for revision r with a timeout of 3m"}]})
    }

    fn names(blame: &Blame) -> Vec<String> {
        blame.links.iter().map(|l| format!("{} {}", l.object.kind, l.object.name)).collect()
    }

    #[test]
    fn a_pod_without_its_image_is_found_below_the_components_that_wait_for_it() {
        let mut s = Snapshot::of("bootstrap");
        let waits = |on: &str| json!({"dependsOn": [{"name": on}]});
        put(
            &mut s,
            KUSTOMIZE,
            "Kustomization",
            "cluster",
            &waits("capi"),
            &not("Ready", "DependencyNotReady", "dependency 'default/capi' is not ready"),
        );
        put(
            &mut s,
            KUSTOMIZE,
            "Kustomization",
            "capi",
            &json!({}),
            &checking(&["default_capi-manager_apps_Deployment"]),
        );
        put(
            &mut s,
            "apps/v1",
            "Deployment",
            "capi-manager",
            &json!({"replicas": 1}),
            &json!({"observedGeneration": 1}),
        );
        put_owned(&mut s, "apps/v1", "ReplicaSet", "rs", "capi-manager", &json!({}), &json!({}));
        put_owned(
            &mut s,
            "v1",
            "Pod",
            "capi-x",
            "rs",
            &json!({}),
            &json!({"phase": "Pending", "containerStatuses": [
            {"name": "manager", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "image a/b:v9 is not in the bundle"}}}]}),
        );
        let blame = blame(&s, None).unwrap();
        assert_eq!(
            names(&blame),
            ["Kustomization cluster", "Kustomization capi", "Deployment capi-manager", "ReplicaSet rs", "Pod capi-x"]
        );
        assert!(blame.hopeless);
        assert_eq!(
            blame.root_cause(),
            "Pod default/capi-x (on the bootstrap cluster): container manager: ErrImageNeverPull: image a/b:v9 is not in the bundle"
        );
    }

    #[test]
    fn machines_are_blamed_through_their_cluster() {
        let mut s = Snapshot::of("bootstrap");
        let cluster = "cluster.x-k8s.io/v1beta2";
        let reference =
            |kind: &str, name: &str| json!({"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": kind, "name": name});
        put(
            &mut s,
            KUSTOMIZE,
            "Kustomization",
            "cluster",
            &json!({}),
            &checking(&["default_mc_cluster.x-k8s.io_Cluster"]),
        );
        put(
            &mut s,
            cluster,
            "Cluster",
            "mc",
            &json!({"infrastructureRef": reference("LocalCluster", "mc"),
            "controlPlaneRef": {"apiGroup": "controlplane.cluster.x-k8s.io", "kind": "LocalControlPlane", "name": "cp"}}),
            &not("Available", "NotAvailable", "control plane"),
        );
        put(&mut s, "infrastructure.cluster.x-k8s.io/v1alpha1", "LocalCluster", "mc", &json!({}), &json!({}));
        put(
            &mut s,
            "controlplane.cluster.x-k8s.io/v1alpha1",
            "LocalControlPlane",
            "cp",
            &json!({}),
            &not("Available", "Waiting", "0 of 1"),
        );
        put_owned(
            &mut s,
            cluster,
            "Machine",
            "m",
            "cp",
            &json!({"clusterName": "mc", "infrastructureRef": reference("LocalMachine", "im")}),
            &json!({"phase": "Provisioning", "conditions": [{"type": "Ready", "status": "False"}]}),
        );
        put_owned(
            &mut s,
            "infrastructure.cluster.x-k8s.io/v1alpha1",
            "LocalMachine",
            "im",
            "m",
            &json!({}),
            &not("Ready", "NodeFailed", "not yet"),
        );
        s.put(serde_json::from_value(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
            "type": "Warning", "reason": "NoPort", "message": "port 6443 is taken by pid 7", "lastTimestamp": "2026-01-01T00:00:00Z",
            "involvedObject": {"kind": "LocalMachine", "name": "im", "uid": "uid-im"}})).unwrap());
        let found = blame(&s, None).unwrap();
        assert_eq!(
            names(&found),
            ["Kustomization cluster", "Cluster mc", "LocalControlPlane cp", "Machine m", "LocalMachine im"]
        );
        assert_eq!(
            found.root_cause(),
            "LocalMachine default/im (on the bootstrap cluster): NodeFailed: not yet; port 6443 is taken by pid 7 (NoPort)"
        );
    }

    #[test]
    fn a_release_is_blamed_on_its_chart_and_a_component_on_its_source() {
        let mut s = Snapshot::of("bootstrap");
        put(
            &mut s,
            "helm.toolkit.fluxcd.io/v2",
            "HelmRelease",
            "tci",
            &json!({}),
            &not("Ready", "SourceNotReady", "no chart"),
        );
        put(
            &mut s,
            "source.toolkit.fluxcd.io/v1",
            "HelmChart",
            "default-tci",
            &json!({"sourceRef": {"kind": "HelmRepository", "name": "tci"}}),
            &not("Ready", "ChartPullError", "registry: 404"),
        );
        let found = blame(&s, None).unwrap();
        assert_eq!(
            found.root_cause(),
            "HelmChart default/default-tci (on the bootstrap cluster): ChartPullError: registry: 404"
        );

        let mut s = Snapshot::of("bootstrap");
        put(
            &mut s,
            KUSTOMIZE,
            "Kustomization",
            "capi",
            &json!({"sourceRef": {"kind": "OCIRepository", "name": "src"}}),
            &json!({}),
        );
        put(
            &mut s,
            "source.toolkit.fluxcd.io/v1",
            "OCIRepository",
            "src",
            &json!({}),
            &not("Ready", "OCIPullFailed", "connection refused"),
        );
        assert_eq!(names(&blame(&s, None).unwrap()), ["Kustomization capi", "OCIRepository src"]);
    }

    #[test]
    fn components_that_act_on_the_other_cluster_are_followed_there() {
        let mut here = Snapshot::of("bootstrap");
        let mut there = Snapshot::of("management");
        put(
            &mut here,
            KUSTOMIZE,
            "Kustomization",
            "flux",
            &json!({"kubeConfig": {"secretRef": {}}}),
            &checking(&["default_sc_apps_Deployment"]),
        );
        put(&mut there, "apps/v1", "Deployment", "sc", &json!({}), &json!({}));
        let found = blame(&here, Some(&there)).unwrap();
        assert_eq!(found.links.last().unwrap().cluster, "management");
        assert_eq!(
            found.root_cause(),
            "Deployment default/sc (on the management cluster): not seen by its controller yet"
        );
        assert_eq!(names(&blame(&here, None).unwrap()), ["Kustomization flux"]);
    }

    #[test]
    fn cycles_and_missing_things_end() {
        let mut s = Snapshot::of("bootstrap");
        let waits = |on: &str| json!({"dependsOn": [{"name": on}]});
        let waiting = not("Ready", "DependencyNotReady", "");
        put(&mut s, KUSTOMIZE, "Kustomization", "a", &waits("b"), &waiting);
        put(&mut s, KUSTOMIZE, "Kustomization", "b", &waits("a"), &waiting);
        assert_eq!(blame(&s, None).unwrap().links.len(), 2);
        put(&mut s, KUSTOMIZE, "Kustomization", "b", &waits("c"), &waiting);
        assert_eq!(
            blame(&s, None).unwrap().root_cause(),
            "Kustomization default/b (on the bootstrap cluster): DependencyNotReady; its dependency c does not exist"
        );
        assert_eq!(blame(&Snapshot::of("bootstrap"), None), None);
    }
}
