//! What a LocalControlPlane needs next and how it is, from what is seen; no IO.

use kube::ResourceExt;

use crate::provider::conditions::Verdict;
use crate::provider::core::{CLONED_FROM_NAME, CLUSTER_LABEL, CONTROL_PLANE_LABEL, CONTROL_PLANE_NAME_LABEL, Machine};
use crate::provider::machine::OWN_CONTROL_PLANE;
use crate::provider::types::{
    ControlPlaneInitialization, LocalControlPlaneSpec, LocalControlPlaneStatus, LocalMachine, MachinesVersion,
};

/// Selects the Machines of a control plane.
pub fn selector(cluster: &str, control_plane: &str) -> String {
    format!("{CLUSTER_LABEL}={cluster},{CONTROL_PLANE_LABEL}=,{CONTROL_PLANE_NAME_LABEL}={control_plane}")
}

/// A version with its `v`.
pub fn with_v(version: &str) -> String {
    if version.starts_with('v') { version.to_owned() } else { format!("v{version}") }
}

/// What of a spec this control plane cannot do; `None` when it can do all of it.
///
/// `machine` is the version of its Machine, when it has one; `available` the version that new Machines get.
pub fn unsupported(spec: &LocalControlPlaneSpec, machine: Option<&str>, available: &str) -> Option<Verdict> {
    let no = |reason, message| Some(Verdict::no("SpecSupported", reason, message));
    let replicas = spec.replicas.unwrap_or(1);
    if replicas != 1 {
        let message = format!("{replicas} replicas are asked for; a LocalControlPlane has one, more come later");
        return no("ReplicasNotSupported", message);
    }
    let wanted = with_v(&spec.version);
    match machine.map(with_v) {
        Some(found) if found != wanted => {
            let message = format!(
                "the control plane runs {found} and {wanted} is asked for; upgrades in place come later, the cluster goes on with {found}"
            );
            no("UpgradeNotSupported", message)
        }
        None if with_v(available) != wanted => {
            let message =
                format!("{wanted} is asked for; this version of cluster-init makes clusters of {}", with_v(available));
            no("VersionNotAvailable", message)
        }
        _ => None,
    }
}

/// What is said while the template that the spec names does not exist.
pub fn template_missing(spec: &LocalControlPlaneSpec) -> Verdict {
    let reference = &spec.machine_template.spec.infrastructure_ref;
    let message = if reference.kind == "LocalMachineTemplate" {
        format!("{} {} does not exist", reference.kind, reference.name)
    } else {
        format!("machines are made from a LocalMachineTemplate, not from a {}", reference.kind)
    };
    Verdict::no("SpecSupported", "TemplateNotFound", message)
}

/// Whether a Machine is what the spec asks for.
pub fn up_to_date(spec: &LocalControlPlaneSpec, machine: &Machine, infrastructure: Option<&LocalMachine>) -> bool {
    let same_version = machine.spec.version.as_deref().map(with_v) == Some(with_v(&spec.version));
    let wanted = &spec.machine_template.spec.infrastructure_ref.name;
    // One that names no template was not made from one, and cannot be out of date with it.
    let template = infrastructure.and_then(|found| found.annotations().get(CLONED_FROM_NAME));
    same_version && template.is_none_or(|template| template == wanted)
}

/// What is not well with a LocalMachine; `None` when it is well or merely under way.
pub fn fault(machine: &LocalMachine) -> Option<String> {
    let conditions = machine.status.iter().flat_map(|status| &status.conditions);
    conditions
        .filter(|condition| condition.type_ == "Ready" && condition.status == "False" && !condition.message.is_empty())
        .map(|ready| format!("LocalMachine {}: {}: {}", machine.name_any(), ready.reason, ready.message))
        .next()
}

/// What is known of a control plane that is to go.
#[derive(Clone, Debug)]
pub struct Parting {
    /// Whether its API server is the one that this provider talks to.
    pub own: bool,
    /// Machines of the cluster that are not its own.
    pub others: usize,
    /// Its own Machines, and LocalMachines that never got a Machine.
    pub left: usize,
}

/// How a control plane goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Delete its Machines, and look again.
    Delete,
    /// Nothing is left: let the object go.
    Release,
    /// Leave everything as it is, and say why.
    Hold(Verdict),
}

/// Decides how a control plane goes: after the workers, whose drain needs its API server.
pub fn farewell(seen: &Parting) -> Farewell {
    let hold = |reason, message: String| Farewell::Hold(Verdict::yes("Deleting", reason).because(message));
    match seen {
        Parting { left: 0, .. } => Farewell::Release,
        Parting { own: true, .. } => hold("OwnControlPlane", OWN_CONTROL_PLANE.to_owned()),
        Parting { others: 0, .. } => Farewell::Delete,
        Parting { others, .. } => hold("WaitingForWorkers", format!("{others} other Machines are to be deleted first")),
    }
}

/// What is known of a control plane's state.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// What of its spec cannot be done.
    pub unsupported: Option<Verdict>,
    /// Its Machines, each with whether it is up to date.
    pub machines: &'a [(Machine, bool)],
    /// Its selector.
    pub selector: String,
    /// Whether the keys are there.
    pub keys: bool,
    /// What is not well with the Machines' infrastructure.
    pub infrastructure_fault: Option<String>,
    /// The API server's answer; `None` when it could not be asked.
    pub answer: Option<Result<(), String>>,
}

/// The status but for its conditions, and the conditions to be set on it.
pub fn status(seen: &Seen<'_>, before: &LocalControlPlaneStatus) -> (LocalControlPlaneStatus, Vec<Verdict>) {
    let count = |test: &dyn Fn(&(Machine, bool)) -> bool| {
        Some(i32::try_from(seen.machines.iter().filter(|m| test(m)).count()).unwrap_or(i32::MAX))
    };
    let answers = matches!(seen.answer, Some(Ok(())));
    let was = before.initialization.as_ref().and_then(|i| i.control_plane_initialized).unwrap_or(false);
    let mut versions: Vec<MachinesVersion> = Vec::new();
    for version in seen.machines.iter().filter_map(|(machine, _)| machine.spec.version.as_deref().map(with_v)) {
        match versions.iter_mut().find(|found| found.version == version) {
            Some(found) => found.replicas += 1,
            None => versions.push(MachinesVersion { version, replicas: 1 }),
        }
    }
    let status = LocalControlPlaneStatus {
        initialization: (answers || was)
            .then_some(ControlPlaneInitialization { control_plane_initialized: Some(true) }),
        selector: Some(seen.selector.clone()),
        replicas: count(&|_| true),
        ready_replicas: count(&|(machine, _)| machine.is("Ready")),
        available_replicas: count(&|(machine, _)| machine.is("Available")),
        up_to_date_replicas: count(&|(_, up_to_date)| *up_to_date),
        version: versions.first().map(|found| found.version.clone()),
        versions,
        conditions: before.conditions.clone(),
    };
    let available = match (&seen.answer, seen.machines.is_empty(), &seen.unsupported) {
        (Some(Ok(())), _, _) => Verdict::yes("Available", "Available"),
        (_, true, Some(fault)) => Verdict::no("Available", &fault.reason, fault.message.clone()),
        (_, true, None) => Verdict::no("Available", "NoMachine", "its Machine has not been made yet"),
        (Some(Err(fault)), ..) => {
            // The machine's own trouble says more than a refused connection.
            let message = seen.infrastructure_fault.clone().unwrap_or_else(|| fault.clone());
            Verdict::no("Available", "APIServerNotReady", format!("the API server does not answer: {message}"))
        }
        (None, ..) => Verdict::no("Available", "WaitingForEndpoint", "the cluster has no endpoint yet"),
    };
    let keys = if seen.keys {
        Verdict::yes("CertificatesAvailable", "Available")
    } else {
        Verdict::no("CertificatesAvailable", "NotMade", "the cluster's keys have not been made yet")
    };
    let supported = seen.unsupported.clone().unwrap_or_else(|| Verdict::yes("SpecSupported", "Supported"));
    (status, vec![available, keys, supported, Verdict::no("Deleting", "NotDeleting", ""), Verdict::paused(None)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::types::{ContractReference, LocalMachineSpec, MachineMould, MachineMouldSpec};
    use serde_json::json;

    fn spec(replicas: i32, version: &str) -> LocalControlPlaneSpec {
        let infrastructure_ref = ContractReference {
            api_group: "infrastructure.cluster.x-k8s.io".into(),
            kind: "LocalMachineTemplate".into(),
            name: "mould".into(),
        };
        LocalControlPlaneSpec {
            replicas: Some(replicas),
            version: version.into(),
            machine_template: MachineMould { metadata: None, spec: MachineMouldSpec { infrastructure_ref } },
        }
    }

    fn machine(version: &str, ready: bool) -> Machine {
        let status = if ready { "True" } else { "False" };
        let condition = |kind: &str| json!({"type": kind, "status": status, "reason": "x", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        serde_json::from_value(json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine", "metadata": {"name": "m"},
            "spec": {"clusterName": "c", "version": version},
            "status": {"conditions": [condition("Ready"), condition("Available")]},
        }))
        .unwrap()
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let reason = |spec: &LocalControlPlaneSpec, machine| unsupported(spec, machine, "v1.36.1").map(|v| v.reason);
        assert_eq!(reason(&spec(1, "v1.36.1"), None), None);
        assert_eq!(reason(&spec(1, "1.36.1"), Some("v1.36.1")), None);
        assert_eq!(reason(&spec(3, "v1.36.1"), None).as_deref(), Some("ReplicasNotSupported"));
        assert_eq!(reason(&spec(0, "v1.36.1"), Some("v1.36.1")).as_deref(), Some("ReplicasNotSupported"));
        assert_eq!(reason(&spec(1, "v1.35.0"), None).as_deref(), Some("VersionNotAvailable"));
        assert_eq!(reason(&spec(1, "v1.37.0"), Some("v1.36.1")).as_deref(), Some("UpgradeNotSupported"));
        // A newer cluster-init does not make a running cluster unsupported.
        assert_eq!(reason(&spec(1, "v1.35.0"), Some("v1.35.0")), None);
    }

    #[test]
    fn a_missing_template_is_named() {
        let mut spec = spec(1, "v1.36.1");
        assert_eq!(template_missing(&spec).message, "LocalMachineTemplate mould does not exist");
        spec.machine_template.spec.infrastructure_ref.kind = "DevMachineTemplate".into();
        let message = template_missing(&spec).message;
        assert_eq!(message, "machines are made from a LocalMachineTemplate, not from a DevMachineTemplate");
    }

    #[test]
    fn a_machine_is_out_of_date_when_version_or_template_differ() {
        let mut infrastructure = LocalMachine::new("m", LocalMachineSpec::default());
        assert!(up_to_date(&spec(1, "v1.36.1"), &machine("v1.36.1", true), Some(&infrastructure)));
        assert!(!up_to_date(&spec(1, "v1.36.2"), &machine("v1.36.1", true), Some(&infrastructure)));
        infrastructure.annotations_mut().insert(CLONED_FROM_NAME.into(), "older".into());
        assert!(!up_to_date(&spec(1, "v1.36.1"), &machine("v1.36.1", true), Some(&infrastructure)));
    }

    #[test]
    fn a_control_plane_goes_after_the_workers_and_never_under_its_own_feet() {
        let reason = |own, others, left| match farewell(&Parting { own, others, left }) {
            Farewell::Delete => "delete".to_owned(),
            Farewell::Release => "release".to_owned(),
            Farewell::Hold(verdict) => verdict.reason,
        };
        assert_eq!(reason(false, 1, 1), "WaitingForWorkers");
        assert_eq!(reason(false, 0, 1), "delete");
        assert_eq!(reason(false, 0, 0), "release");
        assert_eq!(reason(true, 0, 1), "OwnControlPlane");
        assert_eq!(reason(true, 0, 0), "release");
    }

    fn verdict(verdicts: &[Verdict], kind: &str) -> (String, String) {
        let found = verdicts.iter().find(|v| v.kind == kind).unwrap();
        (found.status.into(), found.reason.clone())
    }

    #[test]
    fn the_status_is_found_anew_after_a_move() {
        let machines = [(machine("v1.36.1", true), true)];
        let seen = Seen {
            unsupported: None,
            machines: &machines,
            selector: "s".into(),
            keys: true,
            infrastructure_fault: None,
            answer: Some(Ok(())),
        };
        let (status, verdicts) = status(&seen, &LocalControlPlaneStatus::default());
        assert_eq!(status.initialization.unwrap().control_plane_initialized, Some(true));
        assert_eq!(status.versions, [MachinesVersion { version: "v1.36.1".into(), replicas: 1 }]);
        assert_eq!(status.version.as_deref(), Some("v1.36.1"));
        let counts = [status.replicas, status.ready_replicas, status.available_replicas, status.up_to_date_replicas];
        assert_eq!(counts, [Some(1); 4]);
        assert_eq!(verdict(&verdicts, "Available"), ("True".into(), "Available".into()));
    }

    #[test]
    fn a_control_plane_that_was_initialized_stays_so_when_its_api_server_is_down() {
        let machines = [(machine("v1.36.1", false), true)];
        let before = LocalControlPlaneStatus {
            initialization: Some(ControlPlaneInitialization { control_plane_initialized: Some(true) }),
            ..LocalControlPlaneStatus::default()
        };
        let seen = Seen {
            unsupported: None,
            machines: &machines,
            selector: String::new(),
            keys: true,
            infrastructure_fault: Some("LocalMachine m: CreateFailed: no disk".into()),
            answer: Some(Err("connection refused".into())),
        };
        let (status, verdicts) = status(&seen, &before);
        assert_eq!(status.initialization.unwrap().control_plane_initialized, Some(true));
        assert_eq!(status.ready_replicas, Some(0));
        assert_eq!(verdict(&verdicts, "Available"), ("False".into(), "APIServerNotReady".into()));
        let message = &verdicts.iter().find(|v| v.kind == "Available").unwrap().message;
        assert_eq!(message, "the API server does not answer: LocalMachine m: CreateFailed: no disk");
    }

    #[test]
    fn a_refused_spec_is_why_there_is_no_machine() {
        let spec = spec(3, "v1.36.1");
        let fault = unsupported(&spec, None, "v1.36.1");
        let seen = Seen {
            unsupported: fault,
            machines: &[],
            selector: String::new(),
            keys: true,
            infrastructure_fault: None,
            answer: None,
        };
        let (status, verdicts) = status(&seen, &LocalControlPlaneStatus::default());
        assert_eq!(status.version, None);
        assert_eq!(verdict(&verdicts, "Available"), ("False".into(), "ReplicasNotSupported".into()));
        assert_eq!(verdict(&verdicts, "SpecSupported"), ("False".into(), "ReplicasNotSupported".into()));
    }
}
