//! A pod's status from what is known of its containers: pure, so that every rule has a test.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How one run of a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// `Completed`, `Error`, `StartError`, ...
    pub reason: String,
    /// What the container said last, or why it could not start.
    pub message: String,
    /// When it started, if it did.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Timestamp,
    /// Id of this run.
    pub id: String,
}

impl Ended {
    /// Whether it ended well.
    pub fn ok(&self) -> bool {
        self.exit_code == 0
    }
}

/// What a container does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not run yet, or not now.
    Waiting {
        /// `ContainerCreating`, `CrashLoopBackOff`, `ImagePullBackOff`, ...
        reason: String,
        /// Why, in a sentence.
        message: String,
    },
    /// It runs.
    Running {
        /// Since when.
        started: Timestamp,
        /// Id of this run.
        id: String,
    },
    /// It ended and is not started again (or not yet).
    Terminated(Ended),
}

impl State {
    /// A waiting state.
    pub fn waiting(reason: &str, message: impl Into<String>) -> Self {
        Self::Waiting { reason: reason.to_owned(), message: message.into() }
    }
}

/// What is known of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerView {
    /// What it does now.
    pub state: State,
    /// How the run before ended.
    pub last: Option<Ended>,
    /// How often it was started again.
    pub restarts: i32,
    /// Whether its startup probe has succeeded, if it has one.
    pub started: bool,
    /// Whether its readiness probe succeeds, if it has one.
    pub ready: bool,
    /// Digest of its image.
    pub image_id: String,
}

impl Default for ContainerView {
    fn default() -> Self {
        Self {
            state: State::waiting("ContainerCreating", ""),
            last: None,
            restarts: 0,
            started: false,
            ready: false,
            image_id: String::new(),
        }
    }
}

/// What is known of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Containers by name, init containers among them.
    pub containers: BTreeMap<String, ContainerView>,
    /// When the runner took the pod.
    pub accepted: Option<Timestamp>,
    /// Its address.
    pub ip: String,
    /// Its node's address.
    pub host_ip: String,
    /// Whether its containers may be started: volumes are there.
    pub mounted: bool,
    /// A failure of the whole pod: reason and message.
    pub failed: Option<(String, String)>,
    /// Whether every container has ended for good because the pod is being deleted.
    pub over: bool,
}

/// Whether an init container runs beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's restart policy.
pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// The pod's status.
pub fn compute(pod: &Pod, view: &PodView, now: Timestamp) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let before = pod.status.clone().unwrap_or_default();
    let init: Vec<&Container> = spec.init_containers.iter().flatten().collect();
    let initialized = initialized(&init, view);
    let container_statuses: Vec<ContainerStatus> =
        spec.containers.iter().map(|container| container_status(container, view, Role::Main { initialized })).collect();
    let init_statuses: Vec<ContainerStatus> =
        init.iter().map(|container| container_status(container, view, Role::Init)).collect();
    let phase = phase(&spec, &init, view, initialized);
    let unready: Vec<&str> =
        container_statuses.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    let sidecars_ready = init_statuses.iter().zip(&init).all(|(status, c)| !is_sidecar(c) || status.ready);
    let all_ready = unready.is_empty() && sidecars_ready && phase == "Running";
    let gates_ready =
        spec.readiness_gates.iter().flatten().all(|gate| {
            before.conditions.iter().flatten().any(|c| c.type_ == gate.condition_type && c.status == "True")
        });
    let generation = pod.metadata.generation;
    let condition = |type_: &str, status: bool, reason: Option<&str>, message: Option<String>| {
        let status = if status { "True" } else { "False" };
        let old = before.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == status);
        PodCondition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: old.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
            observed_generation: generation,
            last_probe_time: None,
        }
    };
    let (ready_reason, ready_message) = match phase {
        "Succeeded" => (Some("PodCompleted"), None),
        "Failed" => (Some("PodFailed"), None),
        _ if !all_ready => {
            (Some("ContainersNotReady"), Some(format!("containers with unready status: [{}]", unready.join(" "))))
        }
        _ => (None, None),
    };
    let gate_reason = if all_ready && !gates_ready { Some("ReadinessGatesNotReady") } else { ready_reason };
    let not_initialized = (!initialized).then_some("ContainersNotInitialized");
    let conditions = vec![
        condition("PodReadyToStartContainers", view.mounted, None, None),
        condition("Initialized", initialized, not_initialized, None),
        condition("Ready", all_ready && gates_ready, gate_reason, ready_message.clone()),
        condition("ContainersReady", all_ready, ready_reason, ready_message),
        condition("PodScheduled", true, None, None),
    ];
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: view.failed.as_ref().map(|(reason, _)| reason.clone()),
        message: view.failed.as_ref().map(|(_, message)| message.clone()),
        conditions: Some(conditions),
        host_ip: Some(view.host_ip.clone()),
        host_ips: Some(vec![HostIP { ip: view.host_ip.clone() }]),
        pod_ip: Some(view.ip.clone()),
        pod_ips: Some(vec![PodIP { ip: view.ip.clone() }]),
        start_time: view.accepted.map(Time),
        container_statuses: Some(container_statuses),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        observed_generation: generation,
        qos_class: before.qos_class,
        ..PodStatus::default()
    }
}

fn state_of<'a>(container: &Container, view: &'a PodView) -> Option<&'a ContainerView> {
    view.containers.get(&container.name)
}

/// Whether every init container has done its part: ended well, or started if it runs beside the others.
fn initialized(init: &[&Container], view: &PodView) -> bool {
    init.iter().all(|container| {
        state_of(container, view).is_some_and(|seen| match &seen.state {
            State::Terminated(ended) if !is_sidecar(container) => ended.ok(),
            _ => is_sidecar(container) && (seen.started || view.over),
        })
    })
}

fn phase(spec: &PodSpec, init: &[&Container], view: &PodView, initialized: bool) -> &'static str {
    if view.failed.is_some() {
        return "Failed";
    }
    let policy = restart_policy(spec);
    let ended_badly = |container: &Container| matches!(state_of(container, view), Some(ContainerView { state: State::Terminated(ended), .. }) if !ended.ok());
    if policy == "Never" && init.iter().any(|container| !is_sidecar(container) && ended_badly(container)) {
        return "Failed";
    }
    if !initialized {
        return if view.over { "Failed" } else { "Pending" };
    }
    let mut running = 0;
    let mut stopped = 0;
    let mut succeeded = 0;
    let mut waiting = 0;
    for container in &spec.containers {
        match state_of(container, view) {
            Some(ContainerView { state: State::Running { .. }, .. }) => running += 1,
            Some(ContainerView { state: State::Terminated(ended), .. }) => {
                stopped += 1;
                succeeded += usize::from(ended.ok());
            }
            Some(ContainerView { state: State::Waiting { .. }, last: Some(_), .. }) => stopped += 1,
            _ => waiting += 1,
        }
    }
    if view.over {
        // Deleted: all that can be said is whether everything ended well.
        return if stopped > 0 && succeeded == spec.containers.len() { "Succeeded" } else { "Failed" };
    }
    if waiting > 0 {
        "Pending"
    } else if running > 0 || policy == "Always" {
        "Running"
    } else if stopped == succeeded {
        "Succeeded"
    } else if policy == "Never" {
        "Failed"
    } else {
        "Running"
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Init,
    Main { initialized: bool },
}

fn container_status(container: &Container, view: &PodView, role: Role) -> ContainerStatus {
    let unknown = ContainerView::default();
    let seen = state_of(container, view).unwrap_or(&unknown);
    let (state, running) = match &seen.state {
        State::Waiting { reason, message } => {
            // What waits for the init containers has a reason of its own.
            let held = role == Role::Main { initialized: false } && reason == "ContainerCreating";
            let reason = if held { "PodInitializing" } else { reason };
            let waiting = ContainerStateWaiting {
                reason: Some(reason.to_owned()),
                message: (!message.is_empty()).then(|| message.clone()),
            };
            (ContainerState { waiting: Some(waiting), ..ContainerState::default() }, None)
        }
        State::Running { started, id } => {
            let running = ContainerStateRunning { started_at: Some(Time(*started)) };
            (ContainerState { running: Some(running), ..ContainerState::default() }, Some(id))
        }
        State::Terminated(ended) => (terminated(ended), Some(&ended.id)),
    };
    let is_running = matches!(seen.state, State::Running { .. });
    let completed = matches!(&seen.state, State::Terminated(ended) if ended.ok());
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: seen.image_id.clone(),
        container_id: running.or(seen.last.as_ref().map(|last| &last.id)).map(|id| format!("process://{id}")),
        state: Some(state),
        last_state: seen.last.as_ref().map(terminated),
        restart_count: seen.restarts,
        started: Some(is_running && seen.started),
        ready: (is_running && seen.started && seen.ready) || (completed && role == Role::Init),
        ..ContainerStatus::default()
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(format!("process://{}", ended.id)),
            exit_code: ended.exit_code,
            reason: Some(ended.reason.clone()),
            message: (!ended.message.is_empty()).then(|| ended.message.clone()),
            started_at: ended.started.map(Time),
            finished_at: Some(Time(ended.finished)),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(policy: &str, init: &[&str], main: &[&str]) -> Pod {
        let containers = |names: &[&str]| {
            names.iter().map(|name| json!({"name": name.trim_end_matches('*'), "image": "i"})).collect::<Vec<_>>()
        };
        let mut pod = json!({
            "metadata": {"name": "p", "generation": 3},
            "spec": {"restartPolicy": policy, "initContainers": containers(init), "containers": containers(main)}
        });
        for (i, name) in init.iter().enumerate() {
            if name.ends_with('*') {
                pod["spec"]["initContainers"][i]["restartPolicy"] = "Always".into();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn running(ready: bool) -> ContainerView {
        let state = State::Running { started: at(1), id: "r".into() };
        ContainerView { state, started: true, ready, ..ContainerView::default() }
    }

    fn ended(exit_code: i32) -> Ended {
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        Ended {
            exit_code,
            reason: reason.into(),
            message: String::new(),
            started: Some(at(1)),
            finished: at(2),
            id: "e".into(),
        }
    }

    fn done(exit_code: i32) -> ContainerView {
        ContainerView { state: State::Terminated(ended(exit_code)), ..ContainerView::default() }
    }

    fn backing_off() -> ContainerView {
        let state = State::waiting("CrashLoopBackOff", "back-off 10s");
        ContainerView { state, last: Some(ended(1)), restarts: 1, ..ContainerView::default() }
    }

    fn view(containers: &[(&str, ContainerView)]) -> PodView {
        let containers = containers.iter().map(|(name, view)| ((*name).to_owned(), view.clone())).collect();
        PodView { containers, mounted: true, ..PodView::default() }
    }

    fn phase_of(pod: &Pod, view: &PodView) -> String {
        compute(pod, view, at(9)).phase.unwrap()
    }

    fn is(status: &PodStatus, type_: &str) -> String {
        status.conditions.iter().flatten().find(|c| c.type_ == type_).map(|c| c.status.clone()).unwrap_or_default()
    }

    #[test]
    fn phases_follow_the_containers() {
        let fresh = ContainerView::default;
        let cases = [
            ("Always", vec![("a", fresh())], "Pending"),
            ("Always", vec![("a", running(true))], "Running"),
            ("Always", vec![("a", running(true)), ("b", fresh())], "Pending"),
            ("Always", vec![("a", backing_off())], "Running"),
            ("Always", vec![("a", done(0))], "Running"),
            ("Never", vec![("a", done(0))], "Succeeded"),
            ("Never", vec![("a", done(0)), ("b", done(3))], "Failed"),
            ("OnFailure", vec![("a", done(0))], "Succeeded"),
            ("OnFailure", vec![("a", backing_off())], "Running"),
        ];
        for (policy, containers, phase) in cases {
            let names: Vec<&str> = containers.iter().map(|(name, _)| *name).collect();
            assert_eq!(phase_of(&pod(policy, &[], &names), &view(&containers)), phase, "{policy} {containers:?}");
        }
    }

    #[test]
    fn init_containers_come_first() {
        let pod = pod("Always", &["i"], &["a"]);
        let status = compute(&pod, &view(&[("i", running(false))]), at(9));
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        assert_eq!(is(&status, "Initialized"), "False");
        let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
        assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
        let status = compute(&pod, &view(&[("i", done(0)), ("a", running(true))]), at(9));
        assert_eq!(is(&status, "Ready"), "True");
        assert!(status.init_container_statuses.unwrap()[0].ready);
        assert_eq!(phase_of(&self::pod("Never", &["i"], &["a"]), &view(&[("i", done(1))])), "Failed");
    }

    #[test]
    fn a_sidecar_counts_once_it_has_started() {
        let pod = pod("Always", &["s*"], &["a"]);
        let status = compute(&pod, &view(&[("s", running(false)), ("a", running(true))]), at(9));
        assert_eq!((is(&status, "Initialized").as_str(), is(&status, "Ready").as_str()), ("True", "False"));
        let status = compute(&pod, &view(&[("s", running(true)), ("a", running(true))]), at(9));
        assert_eq!(is(&status, "Ready"), "True");
    }

    #[test]
    fn readiness_names_what_is_not_ready() {
        let pod = pod("Always", &[], &["a", "b"]);
        let status = compute(&pod, &view(&[("a", running(true)), ("b", running(false))]), at(9));
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.status, "False");
        assert_eq!(ready.message.as_deref(), Some("containers with unready status: [b]"));
        assert_eq!(ready.observed_generation, Some(3));
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_does_not_change() {
        let mut pod = pod("Always", &[], &["a"]);
        pod.status = Some(compute(&pod, &view(&[("a", running(false))]), at(5)));
        let time = |status: &PodStatus, type_: &str| {
            let condition = status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
            condition.last_transition_time.clone().unwrap().0
        };
        let later = compute(&pod, &view(&[("a", running(true))]), at(7));
        assert_eq!(time(&later, "Initialized"), at(5));
        assert_eq!(time(&later, "Ready"), at(7));
    }

    #[test]
    fn a_deleted_pod_ends_in_a_final_phase() {
        let mut seen = view(&[("a", done(143))]);
        seen.over = true;
        assert_eq!(phase_of(&pod("Always", &[], &["a"]), &seen), "Failed");
        let mut seen = view(&[("a", done(0))]);
        seen.over = true;
        assert_eq!(phase_of(&pod("Always", &[], &["a"]), &seen), "Succeeded");
    }
}
