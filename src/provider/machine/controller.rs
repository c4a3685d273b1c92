//! Looks at a LocalMachine, its Machine, its Cluster and this host, and does what the plan says.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::controller::Action;
use serde_json::json;

use super::plan::{self, Farewell, Next, OnHost, Parting, Seen, farewell, next, node_owner, provider_id, readiness};
use crate::clock;
use crate::failure::Failure;
use crate::fsx;
use crate::node::{self, ClusterKeys, Join, Node, NodeName, NodeSpec, Paths, Role, State};
use crate::provider::conditions::{self, Verdict};
use crate::provider::context::{Context, SOON};
use crate::provider::core::{self, Cluster, Machine, paused};
use crate::provider::error::Result;
use crate::provider::secrets;
use crate::provider::types::{
    ApiEndpoint, LocalCluster, LocalMachine, LocalMachineStatus, MachineAddress, Provisioning,
};

/// Kept until the node is gone.
pub const FINALIZER: &str = "localmachine.infrastructure.cluster.x-k8s.io";

/// Manager of this controller's fields.
pub const MANAGER: &str = "cluster-init-local-machine";

/// How often a healthy node is looked at; a daemon that was killed is started again after at most this.
const WATCH: Duration = Duration::from_secs(2);

/// How soon something that only a person can change is looked at again.
const STUCK: Duration = Duration::from_secs(10);

/// Everything that is known of a machine's surroundings.
struct Surroundings {
    machine: Option<Machine>,
    cluster: Option<Cluster>,
    endpoint: Option<ApiEndpoint>,
}

/// Reconciles one LocalMachine.
pub async fn reconcile(object: Arc<LocalMachine>, context: Arc<Context>) -> Result<Action> {
    // The watch may be behind; decisions about daemons are made on what is there now.
    let namespace = object.namespace().unwrap_or_default();
    let Some(object) = context.get::<LocalMachine>(&namespace, &object.name_any()).await? else {
        return Ok(Action::await_change());
    };
    let around = look_around(&context, &object).await?;
    let Some(cluster) = &around.cluster else {
        // Whether it is paused cannot be known: its daemon must not be touched. The Machine's owner reference, which
        // Cluster API sets, brings the next look.
        return Ok(Action::await_change());
    };
    if let Some(reason) = paused(cluster, &object, "LocalMachine") {
        report(&context, &object, vec![Verdict::paused(Some(&reason))], None).await?;
        return Ok(Action::await_change());
    }
    if object.metadata.deletion_timestamp.is_some() {
        return part(&context, &object).await;
    }
    if !object.finalizers().iter().any(|found| found == FINALIZER) {
        apply(&context, &object, object.spec.provider_id.as_deref()).await?;
    }
    live(&context, &object, cluster, &around).await
}

async fn look_around(context: &Context, object: &LocalMachine) -> Result<Surroundings> {
    let namespace = object.namespace().unwrap_or_default();
    let machine = match core::owner(object, core::GROUP, "Machine") {
        Some(owner) => context.get::<Machine>(&namespace, &owner.name).await?,
        None => None,
    };
    let name = machine
        .as_ref()
        .map(|machine| machine.spec.cluster_name.clone())
        .or_else(|| object.labels().get(core::CLUSTER_LABEL).cloned());
    let cluster = match &name {
        Some(name) => context.get::<Cluster>(&namespace, name).await?,
        None => None,
    };
    let local = cluster.as_ref().and_then(|c| c.reference::<LocalCluster>(c.spec.infrastructure_ref.as_ref()));
    let endpoint = match local {
        // Not the Cluster's endpoint: that is set only when the API server answers.
        Some(local) => {
            context.get::<LocalCluster>(&namespace, &local).await?.and_then(|l| l.spec.control_plane_endpoint)
        }
        None => None,
    };
    Ok(Surroundings { machine, cluster, endpoint })
}

/// Applies the fields of spec and metadata that are this controller's, always all of them.
async fn apply(context: &Context, object: &LocalMachine, provider_id: Option<&str>) -> Result<()> {
    let mut fields = json!({"metadata": {"finalizers": [FINALIZER]}});
    if let Some(id) = provider_id {
        fields["spec"] = json!({"providerID": id});
    }
    context.apply(MANAGER, object, fields).await.map(drop)
}

/// Applies the status when it differs from what is there.
async fn report(context: &Context, object: &LocalMachine, verdicts: Vec<Verdict>, node: Option<&Node>) -> Result<()> {
    let before = object.status.clone().unwrap_or_default();
    let mut status: LocalMachineStatus = before.clone();
    if let Some(node) = node {
        let address = |kind: &str, address: String| MachineAddress { kind: kind.into(), address };
        status.initialization = Some(Provisioning { provisioned: Some(true) });
        status.addresses = vec![
            address("Hostname", node.config().name.to_string()),
            address("InternalIP", node.config().node_ip().to_string()),
        ];
    }
    conditions::set(&mut status.conditions, verdicts, object.metadata.generation, clock::now());
    if status == before {
        return Ok(());
    }
    context.apply_status(MANAGER, object, &status).await
}

/// What there is on this host under the machine's name.
async fn on_host(
    context: &Context,
    object: &LocalMachine,
    keys: Option<&ClusterKeys>,
) -> Result<(OnHost, Option<Node>)> {
    let name = match NodeName::new(object.name_any()) {
        Ok(name) => name,
        Err(failure) => return Ok((OnHost::Foreign(failure.message), None)),
    };
    let folder = context.home.node(&name);
    if fsx::read_text_if_present(&Paths::of(&folder).config).map_err(Failure::from)?.is_none() {
        return Ok((OnHost::Nothing, None));
    }
    let node = Node::at(&folder)?;
    let config = node.config();
    let id = provider_id(object);
    if config.owner != node_owner(object) || config.provider_id.as_deref() != Some(id.as_str()) {
        let whose = format!(
            "node {name} exists already: it is part of cluster {} and was made by {}",
            config.cluster, config.owner
        );
        return Ok((OnHost::Foreign(whose), None));
    }
    if keys.is_some_and(|keys| !secrets::same_authority(&node, &keys.ca)) {
        let whose = format!("node {name} exists already, made for a cluster {} with another authority", config.cluster);
        return Ok((OnHost::Foreign(whose), None));
    }
    let asked = node.clone();
    let status = apart(async move || asked.status().await).await?;
    Ok((OnHost::Ours(status), Some(node)))
}

async fn live(context: &Context, object: &LocalMachine, cluster: &Cluster, around: &Surroundings) -> Result<Action> {
    let namespace = object.namespace().unwrap_or_default();
    let keys = secrets::read_keys(context, &namespace, &cluster.name_any()).await?.complete();
    let (host, node) = on_host(context, object, keys.as_ref()).await?;
    let seen = Seen {
        made_once: object.spec.provider_id.is_some(),
        role: around.machine.as_ref().map(plan::role),
        bootstrapped: around.machine.as_ref().is_some_and(|m| m.spec.bootstrap.data_secret_name.is_some()),
        endpoint: around.endpoint.is_some(),
        keys: keys.is_some(),
        initialized: cluster.control_plane_initialized(),
        host,
    };
    let lasting = vec![Verdict::paused(None)];
    let with = |verdict: Verdict| lasting.iter().cloned().chain([verdict]).collect::<Vec<_>>();
    match (next(&seen), node) {
        (Next::Wait(verdict), _) => {
            report(context, object, with(verdict), None).await?;
            // Machines, Clusters and LocalClusters are watched; the Secrets with the keys are not.
            Ok(Action::requeue(if seen.keys { STUCK } else { SOON }))
        }
        (Next::Stuck(verdict), _) => {
            if !has(object, &verdict) {
                context.tell(object, true, &verdict.reason, &verdict.message).await;
            }
            report(context, object, with(verdict), None).await?;
            Ok(Action::requeue(STUCK))
        }
        (Next::Create(role), _) => {
            let (Some(endpoint), Some(keys)) = (&around.endpoint, keys) else { return Ok(Action::requeue(SOON)) };
            match create(context, object, cluster, role, endpoint, keys).await {
                Ok(node) => start(context, object, &node, lasting).await,
                Err(failure) => failed(context, object, lasting, "CreateFailed", &failure).await,
            }
        }
        (Next::Launch, Some(node)) => start(context, object, &node, lasting).await,
        (Next::Report, Some(node)) => {
            if object.spec.provider_id.is_none() {
                apply(context, object, Some(&provider_id(object))).await?;
            }
            let OnHost::Ours(status) = &seen.host else { return Ok(Action::requeue(SOON)) };
            let wait = if status.state == State::Ready { WATCH } else { SOON };
            report(context, object, with(readiness(status)), Some(&node)).await?;
            Ok(Action::requeue(wait))
        }
        (Next::Launch | Next::Report, None) => Ok(Action::requeue(SOON)),
    }
}

fn has(object: &LocalMachine, verdict: &Verdict) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| c.type_ == verdict.kind && c.reason == verdict.reason)
}

async fn create(
    context: &Context,
    object: &LocalMachine,
    cluster: &Cluster,
    role: Role,
    endpoint: &ApiEndpoint,
    keys: ClusterKeys,
) -> Result<Node, Failure> {
    let name = NodeName::new(object.name_any())?;
    let port = u16::try_from(endpoint.port)
        .map_err(|_| Failure::usage(format!("{} is no port for an API server", endpoint.port)))?;
    let owner = node_owner(object);
    let mut spec = match role {
        Role::ControlPlane => NodeSpec {
            cluster: cluster.name_any(),
            role: node::RoleSpec::ControlPlane { api_server_port: Some(port), keys: Some(keys) },
            ..NodeSpec::control_plane(name, owner, &context.bundle)
        },
        Role::Worker => {
            let join = Join { api_server_port: port, ca: keys.ca };
            NodeSpec::worker(name, cluster.name_any(), owner, &context.bundle, join)
        }
    };
    spec.provider_id = Some(provider_id(object));
    let home = context.home.clone();
    let node = apart(async move || node::create(&home, spec).await).await?;
    context.tell(object, false, "NodeCreated", &format!("made {role} node {}", node.config().name)).await;
    Ok(node)
}

/// Starts the daemon and keeps the providerID, in this order: an object with a providerID has a node.
async fn start(context: &Context, object: &LocalMachine, node: &Node, lasting: Vec<Verdict>) -> Result<Action> {
    if object.spec.provider_id.is_none() {
        apply(context, object, Some(&provider_id(object))).await?;
    } else {
        context.tell(object, true, "NodeRestarted", "the node's daemon did not run; it is started again").await;
    }
    let launched = node.clone();
    if let Err(failure) = apart(async move || launched.launch().await).await {
        return failed(context, object, lasting, "StartFailed", &failure).await;
    }
    let verdicts = lasting.into_iter().chain([Verdict::no("Ready", "Starting", "the node's daemon was started")]);
    report(context, object, verdicts.collect(), Some(node)).await?;
    Ok(Action::requeue(SOON))
}

/// Does something with a node on a thread of its own: it touches files and waits for processes.
async fn apart<T: Send + 'static>(
    work: impl AsyncFnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work())).await;
    done.unwrap_or_else(|error| Err(Failure::failed("the work on the node was cut short").caused_by(error)))
}

/// Says what failed on this host, and tries again.
async fn failed(
    context: &Context,
    object: &LocalMachine,
    lasting: Vec<Verdict>,
    reason: &str,
    failure: &Failure,
) -> Result<Action> {
    let verdict = Verdict::no("Ready", reason, failure.to_string());
    if !has(object, &verdict) {
        context.tell(object, true, reason, &failure.to_string()).await;
    }
    report(context, object, lasting.into_iter().chain([verdict]).collect(), None).await?;
    Ok(Action::requeue(WATCH))
}

async fn part(context: &Context, object: &LocalMachine) -> Result<Action> {
    if !object.finalizers().iter().any(|found| found == FINALIZER) {
        return Ok(Action::await_change());
    }
    let (host, node) = on_host(context, object, None).await?;
    let own = node
        .as_ref()
        .map(Node::config)
        .is_some_and(|config| config.role == Role::ControlPlane && context.is_own(i32::from(config.ports.api_server)));
    match (farewell(&Parting { moved: plan::moved(object), own, host }), node) {
        (Farewell::Hold(verdict), _) => {
            if !has(object, &verdict) {
                context.tell(object, true, &verdict.reason, &verdict.message).await;
            }
            report(context, object, vec![Verdict::paused(None), verdict], None).await?;
            Ok(Action::requeue(STUCK))
        }
        (Farewell::Remove, Some(node)) => {
            let deleting = Verdict::no("Ready", "Deleting", "the node is being stopped and removed");
            report(context, object, vec![Verdict::paused(None), deleting], None).await?;
            let name = node.config().name.clone();
            apart(async move || node.delete().await).await?;
            context.tell(object, false, "NodeDeleted", &format!("removed node {name}")).await;
            release(context, object).await
        }
        (Farewell::Remove | Farewell::Release, _) => release(context, object).await,
    }
}

/// Lets the object go; its resourceVersion has changed if its status was just applied.
async fn release(context: &Context, object: &LocalMachine) -> Result<Action> {
    let namespace = object.namespace().unwrap_or_default();
    if let Some(now) = context.get::<LocalMachine>(&namespace, &object.name_any()).await? {
        context.release(&now, FINALIZER).await?;
    }
    Ok(Action::await_change())
}
