//! One pod, from the moment that it is bound to this node until nothing of it is left.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::events::EventType;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::container::{Kind, Stop, Task};
use super::context::{PodContext, StopOrder};
use super::mounts::Mounts;
use super::status::State;
use super::status_writer::StatusWriter;
use super::{refuse, restore, volumes};
use crate::{clock, fsx};

/// How the life of a pod on this node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its object is being deleted: it goes when the processes are gone.
    Deleted,
    /// Its object is gone already.
    Gone,
    /// The daemon ends: the object stays, and the next daemon starts the pod again.
    Kept,
}

/// Runs a pod until its object is deleted or the daemon ends.
pub async fn live(pod: Arc<PodContext>, ending: watch::Receiver<Option<Ending>>) {
    let mut writer = StatusWriter::new(pod.clone());
    let over_before = restore::is_over(&pod.pod.borrow());
    {
        let mut body = std::pin::pin!(body(&pod));
        tokio::select! {
            () = &mut body => {}
            () = writer.follow() => {}
        }
    }
    let ending = *ending.borrow();
    if ending == Some(Ending::Kept) {
        return;
    }
    if ending == Some(Ending::Deleted) {
        if !over_before {
            pod.update(|view| view.over = true);
            writer.finish().await;
        }
        delete(&pod).await;
    }
    if let Err(error) = fsx::remove_dir(&pod.folder) {
        tracing::warn!(?pod, %error, "the pod's folder stays");
    }
}

async fn body(pod: &Arc<PodContext>) {
    let object = pod.pod.borrow().clone();
    if !restore::is_over(&object) {
        tokio::select! {
            () = run(pod, &object) => {}
            // Until its containers run, nothing needs time to end.
            () = before_containers(pod) => {}
        }
    }
    pod.stopped().await;
}

/// Ends when the pod has to end before any of its containers was started.
async fn before_containers(pod: &PodContext) {
    pod.stopped().await;
    if pod.view().mounted {
        // The containers hear the order themselves.
        std::future::pending::<()>().await;
    }
}

async fn run(pod: &Arc<PodContext>, object: &Pod) {
    pod.update(|view| {
        view.accepted.get_or_insert_with(clock::now);
        view.ip.clone_from(&pod.ip);
        view.host_ip = pod.node.config.node_ip.to_string();
    });
    let planned = match refuse::reason(object, &pod.node.profiles) {
        Some(reason) => Err(reason),
        None => volumes::plan(object, &pod.folder.join("volumes")),
    };
    let volumes = match planned.and_then(|volumes| assign_ports(pod).map(|()| volumes)) {
        Ok(volumes) => Arc::new(volumes),
        Err(reason) => {
            // Waiting, not failed: a failed pod of a Deployment would be replaced for ever.
            pod.event(EventType::Warning, "Refused", reason.clone());
            hold(pod, "Refused", &reason);
            return std::future::pending().await;
        }
    };
    if let Err(error) = fsx::create_private_dir(&pod.folder.join("volumes")) {
        hold(pod, "CreateContainerError", &error.to_string());
        return std::future::pending().await;
    }
    let mut mounts = Mounts::start(pod, &volumes);
    let mut told = String::new();
    mounts
        .ready(|reason| {
            if told != reason {
                reason.clone_into(&mut told);
                pod.event(EventType::Warning, "FailedMount", format!("MountVolume.SetUp failed for {reason}"));
                hold(pod, "ContainerCreating", &format!("waiting for {reason}"));
            }
        })
        .await;
    hold(pod, "ContainerCreating", "");
    pod.update(|view| view.mounted = true);
    Containers::new(pod.clone(), volumes).run().await;
    drop(mounts);
}

/// Gives every container that does not run the same reason to wait.
fn hold(pod: &PodContext, reason: &str, message: &str) {
    let spec = pod.spec();
    pod.update(|view| {
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let seen = view.containers.entry(container.name.clone()).or_default();
            if matches!(seen.state, State::Waiting { .. }) {
                seen.state = State::waiting(reason, message);
            }
        }
    });
}

/// Takes a real port for every port that the pod declares, so that each container knows those of all.
fn assign_ports(pod: &PodContext) -> Result<(), String> {
    let spec = pod.spec();
    let mut ports = pod.ports();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for port in container.ports.iter().flatten().filter_map(|port| u16::try_from(port.container_port).ok()) {
            ports.assign(port)?;
        }
    }
    Ok(())
}

/// The containers of a pod while they run.
struct Containers {
    pod: Arc<PodContext>,
    volumes: Arc<Vec<volumes::Volume>>,
    stop: watch::Sender<Option<StopOrder>>,
    stop_sidecars: watch::Sender<Option<StopOrder>>,
}

impl Containers {
    fn new(pod: Arc<PodContext>, volumes: Arc<Vec<volumes::Volume>>) -> Self {
        let stop = watch::channel(None).0;
        Self { pod, volumes, stop, stop_sidecars: watch::channel(None).0 }
    }

    async fn run(&self) {
        let mut work = std::pin::pin!(self.in_order());
        let mut deadline = std::pin::pin!(self.deadline());
        let mut expired = false;
        let mut orders = self.pod.stop.clone();
        let mut orders_open = true;
        loop {
            let order = *orders.borrow_and_update();
            if order.is_some() {
                self.stop.send_replace(order);
            }
            tokio::select! {
                () = &mut work => return,
                changed = orders.changed(), if orders_open => orders_open = changed.is_ok(),
                () = &mut deadline, if !expired => {
                    expired = true;
                    let message = "Pod was active on the node longer than the specified deadline";
                    self.pod.update(|view| view.failed = Some(("DeadlineExceeded".into(), message.into())));
                    self.stop.send_replace(Some(StopOrder::within(self.grace())));
                }
            }
        }
    }

    fn grace(&self) -> Duration {
        let seconds = self.pod.spec().termination_grace_period_seconds.unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }

    async fn deadline(&self) {
        let Some(seconds) = self.pod.spec().active_deadline_seconds else { return std::future::pending().await };
        let since =
            self.pod.view().accepted.map_or(Duration::ZERO, |start| clock::now().duration_since(start).unsigned_abs());
        let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        tokio::time::sleep(limit.saturating_sub(since)).await;
    }

    fn task(&self, container: &k8s_openapi::api::core::v1::Container, kind: Kind, stop: Stop) -> Task {
        Task { pod: self.pod.clone(), container: container.clone(), kind, volumes: self.volumes.clone(), stop }
    }

    fn is_done(&self, name: &str) -> bool {
        let view = self.pod.view();
        view.containers.get(name).is_some_and(|seen| matches!(seen.state, State::Terminated(_)))
    }

    /// Init containers one after the other, then all others; sidecars end last.
    async fn in_order(&self) {
        let spec = self.pod.spec();
        let mut sidecars = JoinSet::new();
        let mut go_on = true;
        for container in spec.init_containers.iter().flatten() {
            let kind = restore::kind(container, true);
            if kind == Kind::Sidecar {
                sidecars.spawn(self.task(container, kind, self.stop_sidecars.subscribe()).run());
                go_on = self.started(&container.name).await;
            } else {
                if !self.is_done(&container.name) {
                    self.task(container, kind, self.stop.subscribe()).run().await;
                }
                let view = self.pod.view();
                let state = view.containers.get(&container.name).map(|seen| &seen.state);
                go_on = matches!(state, Some(State::Terminated(ended)) if ended.ok());
            }
            if !go_on || self.stop.borrow().is_some() {
                break;
            }
        }
        if go_on && self.stop.borrow().is_none() {
            let mut mains = JoinSet::new();
            for container in &spec.containers {
                if !self.is_done(&container.name) {
                    mains.spawn(self.task(container, Kind::Main, self.stop.subscribe()).run());
                }
            }
            while mains.join_next().await.is_some() {}
        }
        let left = self.stop.borrow().unwrap_or_else(|| StopOrder::within(self.grace()));
        self.stop_sidecars.send_replace(Some(left));
        while sidecars.join_next().await.is_some() {}
    }

    /// Waits until a sidecar has started; false when the pod has to end before.
    async fn started(&self, name: &str) -> bool {
        let mut stop = self.stop.subscribe();
        loop {
            if self.pod.view().containers.get(name).is_some_and(|seen| seen.started) {
                return true;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                _ = super::container::stopped(&mut stop) => return false,
            }
        }
    }
}

/// Deletes the pod's object, now that its processes are gone.
async fn delete(pod: &PodContext) {
    let api = Api::<Pod>::namespaced(pod.node.client.clone(), &pod.namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(pod.uid.clone()), resource_version: None }),
        ..DeleteParams::default()
    };
    let mut pause = Duration::from_millis(100);
    loop {
        match api.delete(&pod.name, &params).await {
            Ok(_) => return,
            // Gone, or another pod of that name by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
            Err(error) => tracing::debug!(?pod, %error, "pod could not be deleted yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
