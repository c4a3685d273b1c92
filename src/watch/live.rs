//! Follows the objects of one cluster by kube watches.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, DynamicObject, TypeMeta};
use kube::core::GroupVersionKind;
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::snapshot::Snapshot;
use super::state::{brief, state};
use crate::event::{Events, What};
use crate::k8s::{Cluster, ObjectRef, Readiness, reference};

/// The kinds that are followed; whatever else a cause lies in is read when something fails.
const KINDS: [(&str, &str, &str); 17] = [
    ("kustomize.toolkit.fluxcd.io", "v1", "Kustomization"),
    ("helm.toolkit.fluxcd.io", "v2", "HelmRelease"),
    ("source.toolkit.fluxcd.io", "v1", "OCIRepository"),
    ("source.toolkit.fluxcd.io", "v1", "GitRepository"),
    ("source.toolkit.fluxcd.io", "v1", "HelmRepository"),
    ("source.toolkit.fluxcd.io", "v1", "HelmChart"),
    ("cluster.x-k8s.io", "v1beta2", "Cluster"),
    ("cluster.x-k8s.io", "v1beta2", "MachineDeployment"),
    ("cluster.x-k8s.io", "v1beta2", "Machine"),
    ("controlplane.cluster.x-k8s.io", "v1alpha1", "LocalControlPlane"),
    ("controlplane.cluster.x-k8s.io", "v1beta2", "KubeadmControlPlane"),
    ("controlplane.cluster.x-k8s.io", "v1beta1", "RKE2ControlPlane"),
    ("infrastructure.cluster.x-k8s.io", "v1alpha1", "LocalCluster"),
    ("infrastructure.cluster.x-k8s.io", "v1alpha1", "LocalMachine"),
    ("infrastructure.cluster.x-k8s.io", "v1beta2", "DockerCluster"),
    ("infrastructure.cluster.x-k8s.io", "v1beta2", "DockerMachine"),
    ("", "v1", "Pod"),
];

/// How often a kind that is not served yet is asked for.
const UNSERVED: Duration = Duration::from_millis(500);

/// The live objects of one cluster; its watches end when it is dropped.
#[derive(Debug)]
pub struct Live {
    snapshot: Arc<Mutex<Snapshot>>,
    changes: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

/// What the watches share.
#[derive(Clone)]
struct Shared {
    snapshot: Arc<Mutex<Snapshot>>,
    states: Arc<Mutex<BTreeMap<ObjectRef, (bool, String)>>>,
    /// States that were seen before: what goes round in circles is no progress.
    known: Arc<Mutex<HashSet<(ObjectRef, String)>>>,
    /// Counts states that are new; heartbeats and circles are no progress.
    changes: Arc<watch::Sender<u64>>,
    events: Events,
}

impl Live {
    /// Starts to follow a cluster and reports every change of a state.
    pub fn start(cluster: &Cluster, events: &Events) -> Self {
        let (sender, changes) = watch::channel(0);
        let shared = Shared {
            snapshot: Arc::new(Mutex::new(Snapshot::of(cluster.name()))),
            states: Arc::default(),
            known: Arc::default(),
            changes: Arc::new(sender),
            events: events.clone(),
        };
        let mut tasks = JoinSet::new();
        for (group, version, kind) in KINDS {
            let gvk = GroupVersionKind::gvk(group, version, kind);
            tasks.spawn(shared.clone().follow(cluster.clone(), gvk));
        }
        Self { snapshot: shared.snapshot, changes, _tasks: tasks }
    }

    /// What is there now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the states that were new so far; waiting on it is waiting for any change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

impl Shared {
    async fn follow(self, cluster: Cluster, gvk: GroupVersionKind) {
        let resource = loop {
            match cluster.resource(&gvk).await {
                Ok((resource, _)) => break resource,
                // Not served yet, or the API server is away: both pass.
                Err(_) => tokio::time::sleep(UNSERVED).await,
            }
        };
        let api: Api<DynamicObject> = Api::all_with(cluster.client().clone(), &resource);
        let types = TypeMeta { api_version: gvk.api_version(), kind: gvk.kind.clone() };
        // A watch that broke begins anew by itself; asking for it too often would not mend it.
        let mut stream = watcher(api, watcher::Config::default()).boxed();
        let mut listed: Vec<ObjectRef> = Vec::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Apply(object)) => self.put(typed(object, &types)),
                Ok(watcher::Event::InitApply(object)) => {
                    let object = typed(object, &types);
                    listed.push(reference(&object));
                    self.put(object);
                }
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitDone) => self.keep(&gvk, &listed),
                Ok(watcher::Event::Delete(object)) => self.take(&reference(&typed(object, &types))),
                Err(error) => {
                    tracing::debug!(cluster = cluster.name(), kind = gvk.kind, %error, "watch broke");
                    tokio::time::sleep(UNSERVED).await;
                }
            }
        }
    }

    fn put(&self, object: DynamicObject) {
        let name = reference(&object);
        let found = state(&object);
        let now = (found.is_ready(), brief(found.state()));
        let cluster = {
            let mut snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
            snapshot.put(object);
            snapshot.cluster.clone()
        };
        let old = self.states.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), now.clone());
        let news = old.as_ref() != Some(&now);
        // Pods come and go; they are told of when one fails.
        if news && (name.kind != "Pod" || matches!(found, Readiness::Failed(_))) {
            let (ready, state) = now;
            self.events.send(What::Object { cluster, object: name.to_string(), ready, state });
        }
        // "after 3m0.2s" and "after 3m0.1s" are the same state.
        let shape: String = found.state().chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        let progress = self.known.lock().unwrap_or_else(PoisonError::into_inner).insert((name, shape));
        self.changes.send_modify(|count| *count += u64::from(progress));
    }

    fn take(&self, name: &ObjectRef) {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).take(name);
        self.states.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.changes.send_modify(|_| ());
    }

    /// After a new list: what is not in it is gone.
    fn keep(&self, gvk: &GroupVersionKind, listed: &[ObjectRef]) {
        let gone: Vec<ObjectRef> = {
            let snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
            snapshot.iter().map(reference).filter(|name| name.gvk() == *gvk && !listed.contains(name)).collect()
        };
        for name in gone {
            self.take(&name);
        }
        self.changes.send_modify(|_| ());
    }
}

fn typed(mut object: DynamicObject, types: &TypeMeta) -> DynamicObject {
    // Items of a list carry no types of their own.
    object.types.get_or_insert_with(|| types.clone());
    object
}
