//! One container: started, probed, ended, started again, as its pod's policy says.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use kube::runtime::events::EventType;
use rustix::process::Signal;
use tokio::sync::watch;

use super::backoff::Backoff;
use super::context::{PodContext, StopOrder};
use super::launch::{self, Launch};
use super::logs::{self, Writer};
use super::probe;
use super::prober::{self, Verdict};
use super::status::{Ended, State, restart_policy};
use super::volumes::Volume;
use crate::clock::{self, Stopwatch};
use crate::exec::{self, Child, Command};
use crate::fsx;

/// After the first vain attempt to make a container ready; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What a container is in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ends before the next one starts.
    Init,
    /// An init container that runs beside the others.
    Sidecar,
    /// One of the pod's containers.
    Main,
}

/// The order to end, as one container hears it.
pub type Stop = watch::Receiver<Option<StopOrder>>;

/// One container of a pod.
pub struct Task {
    /// Its pod.
    pub pod: Arc<PodContext>,
    /// Its specification.
    pub container: Container,
    /// What it is in the pod.
    pub kind: Kind,
    /// The pod's volumes.
    pub volumes: Arc<Vec<Volume>>,
    /// When it has to end.
    pub stop: Stop,
}

impl Task {
    /// Runs the container until it is over for good.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let Some(launch) = self.ready().await else { return };
            let watch = Stopwatch::start();
            let ended = self.once(&launch).await;
            let again = self.order().is_none() && self.restarts(&ended);
            if !again {
                self.set(|view| view.state = State::Terminated(ended));
                return;
            }
            let delay = backoff.after(watch.elapsed());
            self.set(|view| {
                view.ready = false;
                view.started = false;
                view.last = Some(ended.clone());
            });
            if !delay.is_zero() {
                self.back_off(delay, ended).await;
                if self.order().is_some() {
                    return;
                }
            }
            self.set(|view| view.restarts += 1);
        }
    }

    fn set(&self, change: impl FnOnce(&mut super::status::ContainerView)) {
        self.pod.update_container(&self.container.name, change);
    }

    fn order(&self) -> Option<StopOrder> {
        *self.stop.borrow()
    }

    fn restarts(&self, ended: &Ended) -> bool {
        match (self.kind, restart_policy(&self.pod.spec())) {
            (Kind::Sidecar, _) | (Kind::Main, "Always") => true,
            (_, "Never") => false,
            _ => !ended.ok(),
        }
    }

    async fn back_off(&mut self, delay: Duration, ended: Ended) {
        let message = format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            clock::human(delay),
            self.container.name,
            self.pod.name,
            self.pod.namespace,
            self.pod.uid
        );
        self.pod.event(EventType::Warning, "BackOff", message.clone());
        self.set(|view| {
            view.state = State::waiting("CrashLoopBackOff", message);
            view.last = Some(ended);
        });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = stopped(&mut self.stop) => {}
        }
    }

    /// Waits until the container can be started; `None` when it has to end before.
    async fn ready(&mut self) -> Option<Launch> {
        let mut pause = FIRST_PAUSE;
        let mut told = None;
        loop {
            if self.order().is_some() {
                return None;
            }
            let prepared = tokio::select! {
                prepared = launch::prepare(&self.pod, &self.container, &self.volumes) => prepared,
                _ = stopped(&mut self.stop) => return None,
            };
            match prepared {
                Ok(launch) => {
                    // A port that somebody took meanwhile is replaced, and the command made again.
                    if self.pod.ports().refresh(&launch.prepared.ports) {
                        self.pod.changed.notify_one();
                        continue;
                    }
                    self.set(|view| view.image_id.clone_from(&launch.image_id));
                    return Some(launch);
                }
                Err(waiting) => {
                    // Twice tried before it is told: the API server's authorizer often learns of a pod a moment after we do.
                    if pause > FIRST_PAUSE && told.as_ref() != Some(&waiting) {
                        self.pod.event(EventType::Warning, "Failed", waiting.message.clone());
                        self.set(|view| view.state = State::waiting(waiting.reason, waiting.message.clone()));
                        told = Some(waiting);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        _ = stopped(&mut self.stop) => return None,
                    }
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Runs the container's process once.
    async fn once(&mut self, launch: &Launch) -> Ended {
        let restarts = self.pod.view().containers.get(&self.container.name).map_or(0, |view| view.restarts);
        let id = format!("{}/{}/{restarts}", self.pod.uid, self.container.name);
        let (mut child, writer) = match self.start(launch, restarts) {
            Ok(started) => started,
            Err(message) => {
                self.pod.event(EventType::Warning, "Failed", message.clone());
                return ended(&id, 128, "StartError", message, None);
            }
        };
        let started = clock::now();
        let pid = child.pid().unwrap_or_default();
        if let Err(error) =
            self.pod.node.config.ledger.started(
                pid,
                &format!("pod {}/{} container {}", self.pod.namespace, self.pod.name, self.container.name),
            )
        {
            tracing::warn!(%error, "process is not in the ledger");
        }
        let name = self.container.name.clone();
        self.pod.event(EventType::Normal, "Started", format!("Started container {name} as process {pid}"));
        let probes_first = self.container.startup_probe.is_some() || self.container.lifecycle.is_some();
        let readiness = self.container.readiness_probe.is_some();
        self.set(|view| {
            view.state = State::Running { started, id: id.clone() };
            view.started = !probes_first;
            view.ready = !readiness;
        });

        let status = self.attend(&mut child, launch).await;

        // The container is its process group: what is left of it goes with its leader.
        exec::signal_group(pid, Signal::KILL);
        if let Err(error) = self.pod.node.config.ledger.ended(pid) {
            tracing::warn!(%error, "process stays in the ledger");
        }
        writer.finish().await;
        let exit_code = exit_code(status);
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        let message = self.last_words(launch, exit_code);
        ended(&id, exit_code, reason, message, Some(started))
    }

    fn start(&self, launch: &Launch, restarts: i32) -> Result<(Child, Streams), String> {
        let folder = self.pod.folder.join("logs").join(&self.container.name);
        let path = folder.join(format!("{restarts}.log"));
        let (writer, log) = fsx::create_private_dir(&folder)
            .and_then(|()| fsx::remove_file(&path))
            .and_then(|()| Writer::create(&path))
            .map_err(|error| error.to_string())?;
        self.pod.logs().entry(self.container.name.clone()).or_default().begin(log);
        let prepared = &launch.prepared;
        let mut command = Command::new(&prepared.program).args(&prepared.args).env_clear().folder(&prepared.folder);
        for (name, value) in &prepared.env {
            command = command.env(name, value);
        }
        let mut child = command.spawn_piped().map_err(|error| {
            writer.close();
            crate::failure::Failure::from(error).to_string()
        })?;
        let pumps = [
            child.stdout().map(|stream| tokio::spawn(writer.clone().pump(stream, "stdout"))),
            child.stderr().map(|stream| tokio::spawn(writer.clone().pump(stream, "stderr"))),
        ];
        Ok((child, Streams { writer, pumps: pumps.into_iter().flatten().collect() }))
    }

    /// Watches over a running process until it has ended.
    async fn attend(&mut self, child: &mut Child, launch: &Launch) -> Option<ExitStatus> {
        let probing = prober::watch_over(&self.pod, &self.container, launch);
        let verdict = {
            let mut probing = std::pin::pin!(probing);
            tokio::select! {
                status = child.wait() => return status.ok(),
                verdict = &mut probing => verdict,
                order = stopped(&mut self.stop) => Verdict { message: String::new(), grace: order.left() },
            }
        };
        if !verdict.message.is_empty() {
            self.pod.event(EventType::Normal, "Killing", verdict.message.clone());
        }
        self.set(|view| view.ready = false);
        let mut deadline = StopOrder::within(verdict.grace).deadline;
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let Some(hook) = hook {
            let action = probe::hook(hook, &self.container, &self.pod.ports());
            let done = async {
                match action {
                    Ok(action) => probe::attempt(&action, verdict.grace, &launch.prepared, launch).await,
                    Err(error) => Err(error),
                }
            };
            tokio::select! {
                done = tokio::time::timeout_at(deadline.into(), done) => {
                    if let Ok(Err(error)) = done {
                        self.pod.event(EventType::Warning, "FailedPreStopHook", error);
                    }
                }
                status = child.wait() => return status.ok(),
            }
        }
        let pid = child.pid()?;
        exec::signal_group(pid, Signal::TERM);
        loop {
            tokio::select! {
                status = child.wait() => return status.ok(),
                () = tokio::time::sleep_until(deadline.into()) => {
                    exec::signal_group(pid, Signal::KILL);
                    return child.wait().await.ok();
                }
                // A later order may leave less time.
                Ok(()) = self.stop.changed() => {
                    if let Some(order) = self.order() {
                        deadline = deadline.min(order.deadline);
                    }
                }
            }
        }
    }

    fn last_words(&self, launch: &Launch, exit_code: i32) -> String {
        let mut text = last_bytes(&launch.termination_log, 4096);
        if text.is_empty()
            && exit_code != 0
            && self.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
            && let Some(log) = self.pod.logs().get(&self.container.name).and_then(|logs| logs.current.clone())
        {
            text = logs::tail(&log.path);
        }
        text
    }
}

fn ended(id: &str, exit_code: i32, reason: &str, message: String, started: Option<jiff::Timestamp>) -> Ended {
    Ended { exit_code, reason: reason.into(), message, started, finished: clock::now(), id: id.to_owned() }
}

fn last_bytes(path: &Path, most: usize) -> String {
    let content = fsx::read(path).unwrap_or_default();
    String::from_utf8_lossy(&content[content.len().saturating_sub(most)..]).into_owned()
}

fn exit_code(status: Option<ExitStatus>) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    // A status that nobody could read is one of a process that was killed.
    status.map_or(137, |status| status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(137))
}

/// The streams of a running process on their way into its log.
struct Streams {
    writer: Writer,
    pumps: Vec<tokio::task::JoinHandle<()>>,
}

impl Streams {
    /// Takes what is left, but does not wait for a descendant that keeps a stream open.
    async fn finish(self) {
        for pump in self.pumps {
            let abort = pump.abort_handle();
            if tokio::time::timeout(Duration::from_millis(500), pump).await.is_err() {
                abort.abort();
            }
        }
        self.writer.close();
    }
}

/// Waits for the order to end.
pub async fn stopped(stop: &mut Stop) -> StopOrder {
    loop {
        if let Some(order) = *stop.borrow_and_update() {
            return order;
        }
        if stop.changed().await.is_err() {
            return StopOrder::within(Duration::ZERO);
        }
    }
}
