//! What the runner's tasks share: of the node, and of each pod.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodSpec};
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::sync::{Notify, mpsc, watch};

use super::config::RunnerConfig;
use super::downward::Facts;
use super::logs::ContainerLogs;
use super::machine::Machine;
use super::objects::Objects;
use super::ports::{PodPorts, PortPool};
use super::status::{ContainerView, PodView};
use crate::node::profiles::Profiles;

/// What all pods of a node share.
pub struct NodeContext {
    /// What the runner was told.
    pub config: RunnerConfig,
    /// The node's client.
    pub client: Client,
    /// ConfigMaps and Secrets.
    pub objects: Objects,
    /// Profiles of images.
    pub profiles: Profiles,
    /// Real ports.
    pub ports: PortPool,
    /// The machine.
    pub machine: Machine,
    /// Events about pods, sent by a task of their own so that no pod waits for them.
    pub events: mpsc::UnboundedSender<(Event, ObjectReference)>,
}

impl NodeContext {
    /// Sends events until the sender's last holder is gone.
    pub async fn publish(client: Client, reporter: kube::runtime::events::Reporter, mut events: EventQueue) {
        let recorder = Recorder::new(client, reporter);
        while let Some((event, about)) = events.recv().await {
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::debug!(reason = event.reason, %error, "event was not recorded");
            }
        }
    }
}

/// Events that wait to be sent.
pub type EventQueue = mpsc::UnboundedReceiver<(Event, ObjectReference)>;

/// The order to end a pod's processes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopOrder {
    /// When they are killed.
    pub deadline: Instant,
}

impl StopOrder {
    /// An order that leaves `grace`.
    pub fn within(grace: Duration) -> Self {
        Self { deadline: Instant::now() + grace }
    }

    /// The time that is left.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// One pod, as its tasks and the kubelet server see it.
pub struct PodContext {
    /// The node's part.
    pub node: Arc<NodeContext>,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Its address.
    pub ip: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The pod as the API server has it.
    pub pod: watch::Receiver<Arc<Pod>>,
    /// The order to end.
    pub stop: watch::Receiver<Option<StopOrder>>,
    /// Its state changed.
    pub changed: Notify,
    view: Mutex<PodView>,
    ports: Mutex<PodPorts>,
    logs: Mutex<BTreeMap<String, ContainerLogs>>,
}

impl std::fmt::Debug for PodContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pod {}/{}", self.namespace, self.name)
    }
}

impl PodContext {
    /// The context of a pod that the runner takes.
    pub fn new(
        node: Arc<NodeContext>,
        pod: watch::Receiver<Arc<Pod>>,
        stop: watch::Receiver<Option<StopOrder>>,
        ip: String,
        view: PodView,
    ) -> Self {
        let meta = pod.borrow().metadata.clone();
        let (namespace, name) = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
        let uid = meta.uid.unwrap_or_default();
        let folder = node.config.pods().join(&uid);
        let ports = Mutex::new(PodPorts::new(node.ports.clone()));
        let changed = Notify::new();
        let logs = Mutex::default();
        Self { node, namespace, name, uid, ip, folder, pod, stop, changed, view: Mutex::new(view), ports, logs }
    }

    /// The pod's specification.
    pub fn spec(&self) -> PodSpec {
        self.pod.borrow().spec.clone().unwrap_or_default()
    }

    /// What is known of the pod.
    pub fn view(&self) -> PodView {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is known of the pod; the status follows.
    pub fn update(&self, change: impl FnOnce(&mut PodView)) {
        change(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Changes what is known of one container; the status follows.
    pub fn update_container(&self, name: &str, change: impl FnOnce(&mut ContainerView)) {
        self.update(|view| change(view.containers.entry(name.to_owned()).or_default()));
    }

    /// The pod's ports.
    pub fn ports(&self) -> MutexGuard<'_, PodPorts> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod's logs.
    pub fn logs(&self) -> MutexGuard<'_, BTreeMap<String, ContainerLogs>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `with` with the facts of the downward API.
    pub fn with_facts<T>(&self, with: impl FnOnce(&Facts<'_>) -> T) -> T {
        let pod = self.pod.borrow().clone();
        let host_ip = self.node.config.node_ip.to_string();
        let machine = &self.node.machine;
        with(&Facts { pod: &pod, pod_ip: &self.ip, host_ip: &host_ip, cpus: machine.cpus, memory: machine.memory })
    }

    /// Records an event about the pod.
    pub fn event(&self, type_: EventType, reason: &str, note: impl Into<String>) {
        let mut note: String = note.into();
        if note.len() > 1000 {
            note.truncate(note.floor_char_boundary(1000));
        }
        let event = Event { type_, reason: reason.into(), note: Some(note), action: "Run".into(), secondary: None };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        };
        // Nobody reads once the runner ends; the event is lost with it.
        let _ = self.node.events.send((event, about));
    }

    /// Waits for the order to end.
    pub async fn stopped(&self) -> StopOrder {
        let mut stop = self.stop.clone();
        loop {
            if let Some(order) = *stop.borrow_and_update() {
                return order;
            }
            if stop.changed().await.is_err() {
                // Whoever could order it is gone: end now.
                return StopOrder::within(Duration::ZERO);
            }
        }
    }
}
