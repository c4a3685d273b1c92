//! Probes a running container: tells the pod's view what is ready, and its task when it has to be ended.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Probe};
use kube::runtime::events::EventType;

use super::context::PodContext;
use super::launch::Launch;
use super::probe::{self, Action, Thresholds};

/// Between attempts until the first success: whoever waits for a container waits for this.
const EAGER: Duration = Duration::from_millis(100);
/// The same after the first seconds.
const PATIENT: Duration = Duration::from_secs(1);
/// Failures this soon after the start say nothing: the kubelet would hardly have asked yet.
const FORGIVING: Duration = Duration::from_secs(2);
const EAGER_FOR: Duration = Duration::from_secs(15);

/// Why a container must be ended, and how long it may take.
#[derive(Debug)]
pub struct Verdict {
    /// The reason, for people.
    pub message: String,
    /// The time it may take.
    pub grace: Duration,
}

/// Runs the hook after the start and the probes; returns when the container must be ended.
pub async fn watch_over(pod: &PodContext, container: &Container, launch: &Launch) -> Verdict {
    let name = &container.name;
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
    if let Some(hook) = hook {
        let action = probe::hook(hook, container, &pod.ports());
        let done = match action {
            Ok(action) => probe::attempt(&action, Duration::from_mins(5), &launch.prepared, launch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            pod.event(EventType::Warning, "FailedPostStartHook", error.clone());
            return Verdict {
                message: format!("Container {name} failed its postStart hook: {error}"),
                grace: grace(pod, None),
            };
        }
    }
    if let Some(startup) = &container.startup_probe {
        let mut prober = Prober::new(pod, container, launch, startup, "Startup");
        if let Err(error) = prober.until_decided().await {
            let message = format!("Container {name} failed startup probe, will be restarted: {error}");
            return Verdict { message, grace: grace(pod, Some(startup)) };
        }
    }
    pod.update_container(name, |view| view.started = true);
    let readiness = async {
        if let Some(probe) = &container.readiness_probe {
            Prober::new(pod, container, launch, probe, "Readiness").follow_readiness().await;
        }
        std::future::pending().await
    };
    let liveness = async {
        match &container.liveness_probe {
            Some(probe) => {
                let error = Prober::new(pod, container, launch, probe, "Liveness").until_dead().await;
                let message = format!("Container {name} failed liveness probe, will be restarted: {error}");
                Verdict { message, grace: grace(pod, Some(probe)) }
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        verdict = readiness => verdict,
        verdict = liveness => verdict,
    }
}

fn grace(pod: &PodContext, probe: Option<&Probe>) -> Duration {
    let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
    let seconds = own.or(pod.spec().termination_grace_period_seconds).unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

struct Prober<'a> {
    pod: &'a PodContext,
    container: &'a Container,
    launch: &'a Launch,
    probe: &'a Probe,
    kind: &'static str,
    thresholds: Thresholds,
    began: Instant,
    last_failure: Option<Instant>,
}

impl<'a> Prober<'a> {
    fn new(
        pod: &'a PodContext,
        container: &'a Container,
        launch: &'a Launch,
        probe: &'a Probe,
        kind: &'static str,
    ) -> Self {
        let thresholds = Thresholds::of(probe);
        Self { pod, container, launch, probe, kind, thresholds, began: Instant::now(), last_failure: None }
    }

    async fn ask(&self) -> Result<(), String> {
        let action = probe::action(self.probe, self.container, &self.pod.ports())?;
        probe::attempt(&action, probe::timeout(self.probe), &self.launch.prepared, self.launch).await
    }

    /// The time between attempts while success is awaited; programs are not started that often.
    fn eager(&self) -> Duration {
        let exec = matches!(probe::action(self.probe, self.container, &self.pod.ports()), Ok(Action::Exec(_)));
        let pace = if exec || self.began.elapsed() > EAGER_FOR { PATIENT } else { EAGER };
        pace.min(probe::period(self.probe))
    }

    /// Counts a failure as the kubelet would: from the initial delay on, once a period.
    fn failed(&mut self, error: &str) -> bool {
        let due = self.last_failure.is_none_or(|last| last.elapsed() >= probe::period(self.probe));
        let early = self.began.elapsed() < probe::initial_delay(self.probe).max(FORGIVING);
        if early || !due {
            return false;
        }
        self.last_failure = Some(Instant::now());
        self.pod.event(EventType::Warning, "Unhealthy", format!("{} probe failed: {error}", self.kind));
        self.thresholds.count(false) == Some(false)
    }

    /// Asks eagerly until the success or the failure threshold is reached.
    async fn until_decided(&mut self) -> Result<(), String> {
        loop {
            match self.ask().await {
                Ok(()) if self.thresholds.count(true) == Some(true) => return Ok(()),
                Err(error) if self.failed(&error) => return Err(error),
                Ok(()) | Err(_) => {}
            }
            tokio::time::sleep(self.eager()).await;
        }
    }

    /// Keeps the container's readiness up to date, for ever.
    async fn follow_readiness(&mut self) {
        let mut ready = false;
        loop {
            match self.ask().await {
                Ok(()) => {
                    if self.thresholds.count(true) == Some(true) && !ready {
                        ready = true;
                        self.pod.update_container(&self.container.name, |view| view.ready = true);
                    }
                }
                Err(error) => {
                    if self.failed(&error) && ready {
                        ready = false;
                        self.began = Instant::now();
                        self.pod.update_container(&self.container.name, |view| view.ready = false);
                    }
                }
            }
            tokio::time::sleep(if ready { probe::period(self.probe) } else { self.eager() }).await;
        }
    }

    /// Asks once a period until the failure threshold is reached.
    async fn until_dead(&mut self) -> String {
        tokio::time::sleep(probe::initial_delay(self.probe).max(Duration::from_secs(1))).await;
        loop {
            match self.ask().await {
                Ok(()) => {
                    self.thresholds.count(true);
                }
                Err(error) if self.failed(&error) => return error,
                Err(_) => {}
            }
            tokio::time::sleep(probe::period(self.probe)).await;
        }
    }
}
