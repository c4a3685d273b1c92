//! What is known of a pod that ran before this daemon did: its processes are gone, its counts and results are not.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod};

use super::container::Kind;
use super::status::{ContainerView, Ended, PodView, State, is_sidecar, restart_policy};

/// Whether the pod is over: nothing of it is started again.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The view of a pod that the runner takes, from the status that it has; `now` is when its processes are known to be gone.
pub fn view(pod: &Pod, now: Timestamp) -> PodView {
    let mut view = PodView::default();
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return view };
    view.accepted = status.start_time.as_ref().map(|time| time.0);
    let policy = restart_policy(spec);
    let init = spec.init_containers.iter().flatten().zip(std::iter::repeat(true));
    let statuses = [&status.init_container_statuses, &status.container_statuses];
    let statuses: Vec<&ContainerStatus> = statuses.into_iter().flatten().flatten().collect();
    for (container, is_init) in init.chain(spec.containers.iter().zip(std::iter::repeat(false))) {
        if let Some(status) = statuses.iter().find(|status| status.name == container.name) {
            view.containers.insert(container.name.clone(), restored(kind(container, is_init), policy, status, now));
        }
    }
    if is_over(pod) && status.phase.as_deref() == Some("Failed") && status.reason.is_some() {
        view.failed = Some((status.reason.clone().unwrap_or_default(), status.message.clone().unwrap_or_default()));
    }
    view
}

/// What a container is in its pod.
pub fn kind(container: &Container, is_init: bool) -> Kind {
    match (is_init, is_sidecar(container)) {
        (true, true) => Kind::Sidecar,
        (true, false) => Kind::Init,
        (false, _) => Kind::Main,
    }
}

fn restored(kind: Kind, policy: &str, status: &ContainerStatus, now: Timestamp) -> ContainerView {
    let mut view = ContainerView {
        restarts: status.restart_count,
        image_id: status.image_id.clone(),
        last: status.last_state.as_ref().and_then(|state| state.terminated.as_ref()).map(|t| ended(t, now)),
        ..ContainerView::default()
    };
    let state = status.state.as_ref();
    let lost = state.and_then(|state| state.running.as_ref()).map(|running| Ended {
        exit_code: 137,
        reason: "ContainerStatusUnknown".into(),
        message: "the node was started anew; its processes had been ended".into(),
        started: running.started_at.as_ref().map(|time| time.0),
        finished: now,
        id: status.container_id.clone().unwrap_or_default().trim_start_matches("process://").to_owned(),
    });
    let over = state.and_then(|state| state.terminated.as_ref()).map(|t| ended(t, now));
    let stays = |ended: &Ended| match (kind, policy) {
        (Kind::Sidecar, _) | (Kind::Main, "Always") => false,
        (_, "Never") => true,
        _ => ended.ok(),
    };
    match lost.or(over) {
        Some(ended) if stays(&ended) => view.state = State::Terminated(ended),
        Some(ended) => {
            view.last = Some(ended);
            view.restarts += 1;
        }
        None => {}
    }
    view
}

fn ended(terminated: &ContainerStateTerminated, now: Timestamp) -> Ended {
    Ended {
        exit_code: terminated.exit_code,
        reason: terminated.reason.clone().unwrap_or_default(),
        message: terminated.message.clone().unwrap_or_default(),
        started: terminated.started_at.as_ref().map(|time| time.0),
        finished: terminated.finished_at.as_ref().map_or(now, |time| time.0),
        id: terminated.container_id.clone().unwrap_or_default().trim_start_matches("process://").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view_of(policy: &str, state: &serde_json::Value) -> ContainerView {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "c", "image": "i", "imageID": "d", "ready": true, "restartCount": 2, "state": state}
            ]}
        }))
        .unwrap();
        view(&pod, Timestamp::UNIX_EPOCH).containers.remove("c").unwrap()
    }

    #[test]
    fn what_ran_is_started_again_and_counted() {
        let seen = view_of("Always", &json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
        assert_eq!(seen.restarts, 3);
        assert_eq!(seen.last.unwrap().exit_code, 137);
        assert!(matches!(seen.state, State::Waiting { .. }));
    }

    #[test]
    fn what_is_done_stays_done() {
        let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        assert!(matches!(view_of("OnFailure", &done).state, State::Terminated(_)));
        assert!(matches!(view_of("Always", &done).state, State::Waiting { .. }));
        let running = json!({"running": {}});
        assert!(matches!(view_of("Never", &running).state, State::Terminated(e) if e.exit_code == 137));
    }
}
