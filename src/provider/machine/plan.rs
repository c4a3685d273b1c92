//! What a LocalMachine needs next, from what is seen; no IO.

use kube::ResourceExt;

use crate::node::{Role, State, Status};
use crate::provider::conditions::Verdict;
use crate::provider::core::{DELETE_FOR_MOVE_ANNOTATION, Machine};
use crate::provider::types::LocalMachine;

/// How the owner of a node begins that is a machine of Cluster API's.
pub const MACHINE_OWNER: &str = "machine ";

/// On whose behalf a LocalMachine's node is made; the same before and after a move to another cluster.
pub fn node_owner(object: &impl ResourceExt) -> String {
    format!("{MACHINE_OWNER}{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// `spec.providerID` of a LocalMachine and of its Node.
pub fn provider_id(object: &impl ResourceExt) -> String {
    format!("local:///{}", object.name_any())
}

/// The role of a Machine's node.
pub fn role(machine: &Machine) -> Role {
    if machine.is_control_plane() { Role::ControlPlane } else { Role::Worker }
}

/// What there is on this host under the machine's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnHost {
    /// Nothing.
    Nothing,
    /// A node that is not this machine's; the text says whose.
    Foreign(String),
    /// This machine's node.
    Ours(Status),
}

/// What is known of a machine that is to live.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whether `spec.providerID` is set: the node was made once.
    pub made_once: bool,
    /// Role of the Machine that it is; `None` while no Machine owns it.
    pub role: Option<Role>,
    /// Whether the Machine names its bootstrap data.
    pub bootstrapped: bool,
    /// Whether the API server's port is known.
    pub endpoint: bool,
    /// Whether the cluster's keys are there.
    pub keys: bool,
    /// Whether the cluster's control plane was ever ready.
    pub initialized: bool,
    /// What there is on this host.
    pub host: OnHost,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing can be done before something else happens.
    Wait(Verdict),
    /// Make the node with this role.
    Create(Role),
    /// Start its daemon.
    Launch,
    /// The daemon runs: say how it is.
    Report,
    /// Nothing will change this but a person.
    Stuck(Verdict),
}

/// Decides what a machine that is to live needs next.
pub fn next(seen: &Seen) -> Next {
    let wait = |reason, message: &str| Next::Wait(Verdict::no("Ready", reason, message));
    match &seen.host {
        OnHost::Foreign(whose) => return Next::Stuck(Verdict::no("Ready", "NameUnusable", whose.clone())),
        OnHost::Ours(status) if status.state == State::Stopped => return Next::Launch,
        OnHost::Ours(_) => return Next::Report,
        OnHost::Nothing => {}
    }
    if seen.made_once {
        // Made anew it would be another machine: a control plane without its data, a worker without its pods.
        let message = "the node's folder is gone from this host; delete the Machine to have it replaced";
        return Next::Stuck(Verdict::no("Ready", "NodeLost", message));
    }
    let Some(role) = seen.role else { return wait("WaitingForMachine", "no Machine owns it yet") };
    if !seen.bootstrapped {
        return wait("WaitingForBootstrapData", "the Machine names no bootstrap data yet");
    }
    if !seen.endpoint {
        return wait("WaitingForEndpoint", "the LocalCluster has no endpoint yet");
    }
    if !seen.keys {
        return wait("WaitingForKeys", "the control plane has not made the cluster's keys yet");
    }
    if role == Role::Worker && !seen.initialized {
        return wait("WaitingForControlPlane", "the control plane is not initialized yet");
    }
    Next::Create(role)
}

/// The Ready condition of a machine whose daemon runs.
pub fn readiness(status: &Status) -> Verdict {
    match status.state {
        State::Ready => Verdict::yes("Ready", "Ready"),
        State::Starting => Verdict::no("Ready", "Starting", status.pending()),
        State::Degraded => Verdict::no("Ready", "Degraded", status.pending()),
        State::Stopping => Verdict::no("Ready", "Stopping", "the node is stopping"),
        State::Stopped => Verdict::no("Ready", "Stopped", "the node's daemon does not run"),
    }
}

/// What is known of a machine that is to go.
#[derive(Clone, Debug)]
pub struct Parting {
    /// Whether it is deleted here because it was moved to another cluster.
    pub moved: bool,
    /// Whether its API server is the one that this provider talks to.
    pub own: bool,
    /// What there is on this host.
    pub host: OnHost,
}

/// How a machine goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Remove the node, then let the object go.
    Remove,
    /// Let the object go; nothing of it is on this host.
    Release,
    /// Leave everything as it is, and say why.
    Hold(Verdict),
}

/// Decides how a machine goes.
pub fn farewell(seen: &Parting) -> Farewell {
    if seen.moved {
        let message = "it was moved to another cluster, whose provider looks after its node";
        return Farewell::Hold(Verdict::no("Ready", "Moved", message));
    }
    match &seen.host {
        OnHost::Nothing | OnHost::Foreign(_) => Farewell::Release,
        OnHost::Ours(_) if seen.own => Farewell::Hold(Verdict::no("Ready", "OwnControlPlane", OWN_CONTROL_PLANE)),
        OnHost::Ours(_) => Farewell::Remove,
    }
}

/// Why a cluster does not end itself.
pub const OWN_CONTROL_PLANE: &str = "this is the control plane that the provider itself runs on: it would end \
    halfway and leave processes behind; end the cluster from the host with `cluster-init local delete`";

/// Whether a LocalMachine was deleted because it was moved.
pub fn moved(object: &LocalMachine) -> bool {
    object.annotations().contains_key(DELETE_FOR_MOVE_ANNOTATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: State) -> Status {
        Status { state, ..Status::stopped() }
    }

    fn seen() -> Seen {
        Seen {
            made_once: false,
            role: Some(Role::Worker),
            bootstrapped: true,
            endpoint: true,
            keys: true,
            initialized: true,
            host: OnHost::Nothing,
        }
    }

    fn reason(next: &Next) -> &str {
        match next {
            Next::Wait(verdict) | Next::Stuck(verdict) => &verdict.reason,
            Next::Create(Role::ControlPlane) => "create control plane",
            Next::Create(Role::Worker) => "create worker",
            Next::Launch => "launch",
            Next::Report => "report",
        }
    }

    #[test]
    fn a_machine_waits_for_what_it_needs() {
        let cases = [
            (seen(), "create worker"),
            (Seen { role: None, ..seen() }, "WaitingForMachine"),
            (Seen { bootstrapped: false, ..seen() }, "WaitingForBootstrapData"),
            (Seen { endpoint: false, ..seen() }, "WaitingForEndpoint"),
            (Seen { keys: false, ..seen() }, "WaitingForKeys"),
            (Seen { initialized: false, ..seen() }, "WaitingForControlPlane"),
            // The control plane must not wait for what only it can bring about.
            (Seen { initialized: false, role: Some(Role::ControlPlane), ..seen() }, "create control plane"),
        ];
        for (seen, expected) in cases {
            assert_eq!(reason(&next(&seen)), expected, "{seen:?}");
        }
    }

    #[test]
    fn a_node_that_is_there_is_adopted_whatever_the_cluster_says() {
        // As after a move: no status anywhere, the Cluster not known to be initialized.
        let moved = Seen { made_once: true, role: None, initialized: false, endpoint: false, keys: false, ..seen() };
        for (state, expected) in [
            (State::Ready, "report"),
            (State::Starting, "report"),
            (State::Degraded, "report"),
            (State::Stopping, "report"),
            (State::Stopped, "launch"),
        ] {
            let seen = Seen { host: OnHost::Ours(status(state)), ..moved.clone() };
            assert_eq!(reason(&next(&seen)), expected, "{state}");
        }
    }

    #[test]
    fn a_lost_node_is_never_made_anew() {
        assert_eq!(reason(&next(&Seen { made_once: true, ..seen() })), "NodeLost");
    }

    #[test]
    fn a_node_of_somebody_else_is_left_alone() {
        let host = OnHost::Foreign("it belongs to another".into());
        assert_eq!(reason(&next(&Seen { host: host.clone(), ..seen() })), "NameUnusable");
        assert_eq!(farewell(&Parting { moved: false, own: false, host }), Farewell::Release);
    }

    #[test]
    fn farewells() {
        let ours = OnHost::Ours(status(State::Ready));
        let parting = |moved, own, host: &OnHost| farewell(&Parting { moved, own, host: host.clone() });
        assert_eq!(parting(false, false, &ours), Farewell::Remove);
        assert_eq!(parting(false, false, &OnHost::Nothing), Farewell::Release);
        assert!(matches!(parting(true, false, &ours), Farewell::Hold(v) if v.reason == "Moved"));
        assert!(matches!(parting(false, true, &ours), Farewell::Hold(v) if v.reason == "OwnControlPlane"));
    }
}
