//! The state of one object in a few words: pure functions.

use kube::api::DynamicObject;
use serde_json::Value;

use super::snapshot::text;
use crate::flux::{self, Expected};
use crate::k8s::{Readiness, condition, readiness};

/// Waiting reasons of containers that only a change of the image, the pod or the bundle can heal.
const HOPELESS: [&str; 6] = [
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "ImageNotInBundle",
    "ProfileMissing",
    "Unsupported",
];

/// Why a container waits whose image could not be pulled.
const PULL: &str = "ImagePullBackOff";
/// What registries say of an image that they do not have, and what is said where there is no way to them: trying again is no use.
const NOWHERE: [&str; 3] = ["not found", "manifest unknown", "no such host"];

/// After so many restarts (some two minutes) what a container waits for is not coming.
const ENOUGH: i64 = 5;

/// Judges any object.
pub fn state(object: &DynamicObject) -> Readiness {
    let Some(types) = &object.types else { return readiness(object) };
    if types.api_version.contains(".toolkit.fluxcd.io/") {
        return flux::readiness(object, Expected::Any);
    }
    match types.kind.as_str() {
        "Pod" => pod(object),
        "Machine" => machine(object),
        "DockerMachine" => docker_machine(object),
        _ => readiness(object),
    }
}

/// A Machine's own phase says more than its conditions.
fn machine(object: &DynamicObject) -> Readiness {
    let phase = text(object, "/status/phase");
    match (phase, readiness(object)) {
        ("Failed", state) => Readiness::Failed(state.state().to_owned()),
        ("Running" | "", state) => state,
        (phase, Readiness::Progressing(state)) => Readiness::Progressing(format!("{phase}: {state}")),
        (phase, _) => Readiness::Progressing(phase.to_owned()),
    }
}

/// What a node's output says of why it was not set up, most telling first, and what to do where that does not say it.
const TELLING: [(&str, &str); 6] = [
    ("failed to pull image", ""),
    ("RKE2 cannot be installed", ""),
    ("[ERROR ", ""),
    ("error execution phase", ""),
    // RKE2's installer comes through a pipe: that none came shows only when its service is wanted.
    ("Unit file rke2-", "RKE2 is not installed; use a machine image that holds it, or let this site reach get.rke2.io"),
    ("Job for rke2-", "the container says why: journalctl --unit rke2-server --unit rke2-agent"),
];

/// The docker provider sets a node up once: one that failed to become one stays so.
fn docker_machine(object: &DynamicObject) -> Readiness {
    if object.metadata.deletion_timestamp.is_some() {
        return Readiness::Progressing("being deleted".into());
    }
    match condition(object, "BootstrapCompleted") {
        Some(found) if found["status"] == "False" && found["reason"] == "Failed" => {
            Readiness::Failed(format!("setting up the node failed: {}", last_words(&found["message"])))
        }
        _ => readiness(object),
    }
}

/// The line of a node's output that says most: the first of what is telling, or the last one.
fn last_words(output: &Value) -> String {
    let lines = output.as_str().unwrap_or_default().lines().map(|line| line.trim().trim_start_matches("STDERR: "));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let found = TELLING.iter().find_map(|(text, remedy)| {
        let line = lines.iter().find(|line| line.contains(text))?;
        Some(if remedy.is_empty() { (*line).to_owned() } else { format!("{line} ({remedy})") })
    });
    found.or_else(|| lines.last().map(ToString::to_string)).unwrap_or_default()
}

/// Judges a Pod by its containers, which say why.
pub fn pod(object: &DynamicObject) -> Readiness {
    if object.metadata.deletion_timestamp.is_some() {
        return Readiness::Progressing("being deleted".into());
    }
    let phase = text(object, "/status/phase");
    if phase == "Succeeded" {
        return Readiness::Ready;
    }
    let containers = ["/status/initContainerStatuses", "/status/containerStatuses"]
        .into_iter()
        .filter_map(|pointer| object.data.pointer(pointer)?.as_array())
        .flatten();
    for container in containers {
        let name = container["name"].as_str().unwrap_or_default();
        if let Some(reason) = container.pointer("/state/waiting/reason").and_then(Value::as_str) {
            let message = container.pointer("/state/waiting/message").and_then(Value::as_str).unwrap_or_default();
            if HOPELESS.contains(&reason) || (reason == PULL && NOWHERE.iter().any(|text| message.contains(text))) {
                return Readiness::Failed(sentence(reason, message, name));
            }
            if reason != "PodInitializing" && reason != "ContainerCreating" {
                let last = container.pointer("/lastState/terminated").map(termination);
                let message = if reason == "CrashLoopBackOff" { last.as_deref().unwrap_or(message) } else { message };
                if container["restartCount"].as_i64().unwrap_or_default() >= ENOUGH {
                    return Readiness::Failed(sentence(reason, message, name));
                }
                return Readiness::Progressing(sentence(reason, message, name));
            }
        }
        if let Some(ended) = container.pointer("/state/terminated").filter(|t| t["exitCode"] != 0) {
            return Readiness::Progressing(sentence("Terminated", &termination(ended), name));
        }
    }
    if phase == "Failed" {
        let reason = text(object, "/status/reason");
        let message = text(object, "/status/message");
        return Readiness::Failed(if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") });
    }
    readiness(object)
}

fn sentence(reason: &str, message: &str, container: &str) -> String {
    let message = message.trim();
    if message.is_empty() {
        format!("container {container}: {reason}")
    } else {
        format!("container {container}: {reason}: {message}")
    }
}

/// How a container ended: its exit code and the last line that it wrote.
fn termination(ended: &Value) -> String {
    let code = ended["exitCode"].as_i64().unwrap_or_default();
    let last = ended["message"].as_str().unwrap_or_default().trim().lines().last().unwrap_or_default();
    if last.is_empty() { format!("exit code {code}") } else { format!("exit code {code}: {last}") }
}

/// A state on one line of bearable length, for views; what is cut off stands in the object.
pub fn brief(state: &str) -> String {
    on_one_line(state, 160)
}

/// The same for a cause: what to do stands at its end.
pub fn cause(state: &str) -> String {
    on_one_line(state, 400)
}

fn on_one_line(state: &str, most: usize) -> String {
    let line = state.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(status: &Value) -> DynamicObject {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": status});
        serde_json::from_value(value).unwrap()
    }

    fn docker_machine_with(reason: &str, message: &str) -> DynamicObject {
        let value = json!({"apiVersion": "infrastructure.cluster.x-k8s.io/v1beta2", "kind": "DockerMachine",
            "metadata": {"name": "m"}, "status": {"conditions": [
                {"type": "BootstrapCompleted", "status": "False", "reason": reason, "message": message}]}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_node_that_was_not_set_up_names_the_image_that_is_missing() {
        let text = "Command 'kubeadm init' failed\nERROR: exit status 1\nSTDERR: \n  [WARNING ImagePull]: failed to pull image a/etcd:v9: not found\n  timed out";
        let said = "setting up the node failed: [WARNING ImagePull]: failed to pull image a/etcd:v9: not found";
        assert_eq!(state(&docker_machine_with("Failed", text)), Readiness::Failed(said.into()));
        assert!(!matches!(state(&docker_machine_with("NotCompleted", text)), Readiness::Failed(_)));
    }

    #[test]
    fn a_node_without_rke2_says_what_to_do() {
        let missing = "RKE2 cannot be installed: image docker.io/rancher/rke2-runtime:v1 is missing (curl: (6) Could not resolve host: registry-1.docker.io); let this site reach docker.io";
        let unit = "Failed to enable unit: Unit file rke2-server.service does not exist.";
        let job = "Job for rke2-server.service failed because the control process exited with error code.";
        let cases = [
            (format!("STDERR: {missing}"), missing.to_owned()),
            (
                format!("STDERR: {unit}"),
                format!(
                    "{unit} (RKE2 is not installed; use a machine image that holds it, or let this site reach get.rke2.io)"
                ),
            ),
            (
                format!("STDERR: \n     {job}\n     See \"systemctl status rke2-server.service\" for details."),
                format!("{job} (the container says why: journalctl --unit rke2-server --unit rke2-agent)"),
            ),
            ("STDERR: sh: 0: cannot open /opt/x".into(), "sh: 0: cannot open /opt/x".into()),
        ];
        for (stderr, said) in cases {
            let text = format!("Running boostrap command [ /bin/sh -c x ]\nERROR: exit status 1\nSTDOUT: \n{stderr}\n");
            let failed = Readiness::Failed(format!("setting up the node failed: {said}"));
            assert_eq!(state(&docker_machine_with("Failed", &text)), failed);
        }
    }

    #[test]
    fn a_pod_says_which_container_and_why() {
        let cases = [
            (
                json!({"containerStatuses": [{"name": "m", "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "image x is not in the bundle"}}}]}),
                Readiness::Failed("container m: ErrImageNeverPull: image x is not in the bundle".into()),
            ),
            (
                json!({"containerStatuses": [{"name": "m", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                    "lastState": {"terminated": {"exitCode": 2, "message": "a\npanic: no\n"}}}]}),
                Readiness::Progressing("container m: CrashLoopBackOff: exit code 2: panic: no".into()),
            ),
            (
                json!({"conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [{"name": "m", "state": {"running": {}}}]}),
                Readiness::Ready,
            ),
            (json!({"phase": "Succeeded"}), Readiness::Ready),
            (
                json!({"containerStatuses": [{"name": "m", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"a/b:v9\": ErrImagePull: a/b:v9: not found"}}}]}),
                Readiness::Failed(
                    "container m: ImagePullBackOff: Back-off pulling image \"a/b:v9\": ErrImagePull: a/b:v9: not found"
                        .into(),
                ),
            ),
            (
                json!({"containerStatuses": [{"name": "m", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "i/o timeout"}}}]}),
                Readiness::Progressing("container m: ImagePullBackOff: i/o timeout".into()),
            ),
        ];
        for (status, expected) in cases {
            assert_eq!(pod(&object(&status)), expected);
        }
    }

    #[test]
    fn long_states_are_cut() {
        assert_eq!(brief("a\n  b"), "a b");
        assert_eq!(brief(&"x".repeat(500)).chars().count(), 161);
        assert_eq!(cause(&"x".repeat(500)).chars().count(), 401);
    }
}
