//! Looks at a LocalControlPlane, its Machines and its API server, and does what the plan says.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::plan::{self, Farewell, Parting, Seen, farewell, selector, unsupported, up_to_date, with_v};
use crate::clock;
use crate::node::{KUBERNETES_VERSION, Node, NodeName};
use crate::provider::conditions::{self, Verdict};
use crate::provider::context::{Context, SOON};
use crate::provider::core::{
    self, CLONED_FROM_KIND, CLONED_FROM_NAME, CLUSTER_LABEL, CONTROL_PLANE_LABEL, CONTROL_PLANE_NAME_LABEL, Cluster,
    Machine, paused,
};
use crate::provider::error::Result;
use crate::provider::machine::node_owner;
use crate::provider::secrets::{self, Owned};
use crate::provider::types::{
    ApiEndpoint, LocalCluster, LocalControlPlane, LocalControlPlaneStatus, LocalMachine, LocalMachineTemplate, Metadata,
};
use crate::provider::workload;

/// Kept until its Machines are gone.
pub const FINALIZER: &str = "localcontrolplane.controlplane.cluster.x-k8s.io";

/// Manager of this controller's fields.
pub const MANAGER: &str = "cluster-init-local-control-plane";

/// How often an API server that answers is asked again.
const WATCH: Duration = Duration::from_secs(5);

/// How soon something that only a person can change is looked at again.
const STUCK: Duration = Duration::from_secs(10);

/// How soon the workers' end is looked at again.
const WORKERS: Duration = Duration::from_secs(1);

/// A control plane and what belongs to it.
struct Scope {
    object: LocalControlPlane,
    namespace: String,
    cluster: Cluster,
    endpoint: Option<ApiEndpoint>,
    machines: Vec<Machine>,
    infrastructure: Vec<LocalMachine>,
}

impl Scope {
    fn cluster_name(&self) -> String {
        self.cluster.name_any()
    }

    fn owned<'a>(&'a self, cluster: &'a str) -> Owned<'a> {
        Owned { namespace: &self.namespace, cluster, owner: owner_reference(&self.object, true) }
    }

    /// LocalMachines that never got a Machine: an earlier reconciliation ended between the two.
    fn orphans(&self) -> impl Iterator<Item = &LocalMachine> {
        let named = |name: &str| {
            self.machines.iter().any(|m| m.spec.infrastructure_ref.as_ref().is_some_and(|r| r.name == name))
        };
        self.infrastructure
            .iter()
            .filter(move |found| !named(&found.name_any()) && core::owner(*found, core::GROUP, "Machine").is_none())
    }
}

/// Reconciles one LocalControlPlane.
pub async fn reconcile(object: Arc<LocalControlPlane>, context: Arc<Context>) -> Result<Action> {
    let namespace = object.namespace().unwrap_or_default();
    let Some(object) = context.get::<LocalControlPlane>(&namespace, &object.name_any()).await? else {
        return Ok(Action::await_change());
    };
    // Cluster API sets the owner; the change brings the next look.
    let Some(owner) = core::owner(&object, core::GROUP, "Cluster") else { return Ok(Action::await_change()) };
    let Some(cluster) = context.get::<Cluster>(&namespace, &owner.name).await? else {
        return Ok(Action::await_change());
    };
    if let Some(reason) = paused(&cluster, &object, "LocalControlPlane") {
        let status = object.status.clone().unwrap_or_default();
        report(&context, &object, status, vec![Verdict::paused(Some(&reason))]).await?;
        return Ok(Action::await_change());
    }
    let scope = look_around(&context, object, namespace, cluster).await?;
    if scope.object.metadata.deletion_timestamp.is_some() {
        return part(&context, &scope).await;
    }
    if !scope.object.finalizers().iter().any(|found| found == FINALIZER) {
        context.apply(MANAGER, &scope.object, json!({"metadata": {"finalizers": [FINALIZER]}})).await?;
    }
    live(&context, scope).await
}

async fn look_around(
    context: &Context,
    object: LocalControlPlane,
    namespace: String,
    cluster: Cluster,
) -> Result<Scope> {
    let name = cluster.name_any();
    let labels = selector(&name, &object.name_any());
    let local = cluster.reference::<LocalCluster>(cluster.spec.infrastructure_ref.as_ref());
    let endpoint = match local {
        // Not the Cluster's endpoint: that is set only when the API server answers.
        Some(local) => {
            context.get::<LocalCluster>(&namespace, &local).await?.and_then(|l| l.spec.control_plane_endpoint)
        }
        None => cluster.endpoint(),
    };
    let machines = context.list::<Machine>(&namespace, &labels).await?;
    let infrastructure = context.list::<LocalMachine>(&namespace, &labels).await?;
    Ok(Scope { object, namespace, cluster, endpoint, machines, infrastructure })
}

async fn live(context: &Context, mut scope: Scope) -> Result<Action> {
    let cluster = scope.cluster_name();
    let node = running_node(context, &scope)?;
    let keys = secrets::ensure_keys(context, &scope.owned(&cluster), node.as_ref()).await?;
    let template = own_template(context, &scope).await?;
    let mut answer = None;
    let version = scope.machines.first().and_then(|machine| machine.spec.version.clone());
    let missing = template.is_none() && version.is_none();
    let unsupported = unsupported(&scope.object.spec, version.as_deref(), KUBERNETES_VERSION)
        .or_else(|| missing.then(|| plan::template_missing(&scope.object.spec)));
    if let Some(endpoint) = &scope.endpoint {
        let owned = scope.owned(&cluster);
        let kubeconfig = secrets::ensure_kubeconfig(context, &owned, endpoint, &keys.ca).await?;
        if scope.machines.is_empty() {
            if let (None, Some(template)) = (&unsupported, template) {
                let bootstrap = secrets::control_plane_bootstrap_name(&cluster);
                secrets::ensure_bootstrap(context, &owned, &bootstrap, "control-plane", endpoint).await?;
                let machine = make_machine(context, &scope, template).await?;
                scope.machines.push(machine);
            }
        } else {
            answer = Some(workload::probe(&cluster, &kubeconfig).await);
        }
    }
    // A template that is applied together with its control plane may come a moment later.
    let stuck = unsupported.is_some() && scope.machines.is_empty() && !missing;
    let well = matches!(answer, Some(Ok(())));
    let machines: Vec<(Machine, bool)> = scope
        .machines
        .iter()
        .map(|machine| {
            let name = machine.spec.infrastructure_ref.as_ref().map(|reference| reference.name.as_str());
            let infrastructure = scope.infrastructure.iter().find(|found| Some(found.name_any().as_str()) == name);
            (machine.clone(), up_to_date(&scope.object.spec, machine, infrastructure))
        })
        .collect();
    for (machine, up_to_date) in &machines {
        mark(context, machine, *up_to_date).await?;
    }
    let seen = Seen {
        unsupported,
        machines: &machines,
        selector: selector(&cluster, &scope.object.name_any()),
        keys: true,
        infrastructure_fault: scope.infrastructure.iter().find_map(plan::fault),
        answer,
    };
    let (status, verdicts) = plan::status(&seen, &scope.object.status.clone().unwrap_or_default());
    report(context, &scope.object, status, verdicts).await?;
    Ok(Action::requeue(match (stuck, well) {
        (true, _) => STUCK,
        (_, true) => WATCH,
        _ => SOON,
    }))
}

/// The node of this control plane on this host, when there is one: it holds the cluster's keys too.
fn running_node(context: &Context, scope: &Scope) -> Result<Option<Node>> {
    for machine in &scope.infrastructure {
        let Ok(name) = NodeName::new(machine.name_any()) else { continue };
        let folder = context.home.node(&name);
        if crate::fsx::read_text_if_present(&folder.join("node.yaml")).is_ok_and(|text| text.is_some()) {
            let node = Node::at(&folder)?;
            if node.config().owner == node_owner(machine) && node.config().cluster == scope.cluster_name() {
                return Ok(Some(node));
            }
        }
    }
    Ok(None)
}

/// Makes the template a part of the Cluster, so that it moves and goes with it.
async fn own_template(context: &Context, scope: &Scope) -> Result<Option<LocalMachineTemplate>> {
    let reference = &scope.object.spec.machine_template.spec.infrastructure_ref;
    if reference.kind != LocalMachineTemplate::kind(&()) {
        return Ok(None);
    }
    let found = context.get::<LocalMachineTemplate>(&scope.namespace, &reference.name).await?;
    let Some(template) = found else { return Ok(None) };
    let cluster = scope.cluster.uid();
    if !template.owner_references().iter().any(|owner| Some(&owner.uid) == cluster.as_ref()) {
        let owner = json!({
            "apiVersion": core::API_VERSION,
            "kind": Cluster::kind(&()),
            "name": scope.cluster_name(),
            "uid": cluster,
        });
        let fields = json!({
            "metadata": {"ownerReferences": [owner], "labels": {CLUSTER_LABEL: scope.cluster_name()}},
        });
        context.apply(MANAGER, &template, fields).await?;
    }
    Ok(Some(template))
}

/// Makes the Machine, and before it the LocalMachine that it names.
async fn make_machine(context: &Context, scope: &Scope, mould: LocalMachineTemplate) -> Result<Machine> {
    let (object, cluster) = (&scope.object, scope.cluster_name());
    let template = &object.spec.machine_template;
    let reference = &template.spec.infrastructure_ref;
    let orphan = scope.orphans().find(|found| found.metadata.deletion_timestamp.is_none()).map(ResourceExt::name_any);
    let name = orphan.unwrap_or_else(|| format!("{}-{}", shortened(&object.name_any()), suffix()));
    let mut labels = template.metadata.clone().unwrap_or_default().labels;
    labels.insert(CLUSTER_LABEL.into(), cluster.clone());
    labels.insert(CONTROL_PLANE_LABEL.into(), String::new());
    labels.insert(CONTROL_PLANE_NAME_LABEL.into(), object.name_any());
    let Metadata { labels: more, mut annotations } = mould.spec.template.metadata.unwrap_or_default();
    annotations.insert(CLONED_FROM_NAME.into(), reference.name.clone());
    annotations.insert(CLONED_FROM_KIND.into(), format!("{}.{}", reference.kind, reference.api_group));
    let infrastructure = json!({
        "metadata": {
            "labels": more.into_iter().chain(labels.clone()).collect::<std::collections::BTreeMap<_, _>>(),
            "annotations": annotations,
            // Cluster API puts the Machine in this one's place.
            "ownerReferences": [owner_reference(object, false)],
        },
        "spec": {},
    });
    context.apply_new::<LocalMachine>(MANAGER, &scope.namespace, &name, infrastructure).await?;
    let machine = json!({
        "metadata": {
            "labels": labels,
            "annotations": template.metadata.clone().unwrap_or_default().annotations,
            "ownerReferences": [owner_reference(object, true)],
        },
        "spec": {
            "clusterName": cluster,
            "version": with_v(&object.spec.version),
            "bootstrap": {"dataSecretName": secrets::control_plane_bootstrap_name(&cluster)},
            "infrastructureRef": {
                "apiGroup": LocalMachine::group(&()),
                "kind": LocalMachine::kind(&()),
                "name": name,
            },
        },
    });
    let machine = context.apply_new::<Machine>(MANAGER, &scope.namespace, &name, machine).await?;
    context.tell(object, false, "MachineCreated", &format!("made Machine {name}")).await;
    Ok(machine)
}

/// Five characters that make a name unique.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect()
}

/// A name that leaves room for a suffix in a DNS label.
fn shortened(name: &str) -> &str {
    name.get(..57).unwrap_or(name).trim_end_matches('-')
}

fn owner_reference(object: &LocalControlPlane, controller: bool) -> Value {
    let mut reference = json!({
        "apiVersion": LocalControlPlane::api_version(&()),
        "kind": LocalControlPlane::kind(&()),
        "name": object.name_any(),
        "uid": object.uid(),
    });
    if controller {
        reference["controller"] = json!(true);
        reference["blockOwnerDeletion"] = json!(true);
    }
    reference
}

/// Sets a Machine's UpToDate condition, as the contract asks of control planes.
async fn mark(context: &Context, machine: &Machine, up_to_date: bool) -> Result<()> {
    let verdict = if up_to_date {
        Verdict::yes("UpToDate", "UpToDate")
    } else {
        Verdict::no("UpToDate", "NotUpToDate", "version or template differ from the LocalControlPlane's")
    };
    let before: Vec<Condition> =
        machine.status.iter().flat_map(|s| &s.conditions).filter(|c| c.type_ == "UpToDate").cloned().collect();
    let mut after = before.clone();
    conditions::set(&mut after, vec![verdict], machine.metadata.generation, clock::now());
    if after == before || machine.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    context.apply_status(MANAGER, machine, &json!({ "conditions": after })).await
}

async fn report(
    context: &Context,
    object: &LocalControlPlane,
    mut status: LocalControlPlaneStatus,
    verdicts: Vec<Verdict>,
) -> Result<()> {
    conditions::set(&mut status.conditions, verdicts, object.metadata.generation, clock::now());
    if object.status.as_ref() == Some(&status) {
        return Ok(());
    }
    context.apply_status(MANAGER, object, &status).await
}

async fn part(context: &Context, scope: &Scope) -> Result<Action> {
    let object = &scope.object;
    if !object.finalizers().iter().any(|found| found == FINALIZER) {
        return Ok(Action::await_change());
    }
    let cluster = scope.cluster_name();
    let all = context.list::<Machine>(&scope.namespace, &format!("{CLUSTER_LABEL}={cluster}")).await?;
    let orphans: Vec<&LocalMachine> = scope.orphans().collect();
    let parting = Parting {
        own: scope.endpoint.as_ref().is_some_and(|endpoint| context.is_own(endpoint.port)),
        others: all.len().saturating_sub(scope.machines.len()),
        left: scope.machines.len() + orphans.len(),
    };
    let status = object.status.clone().unwrap_or_default();
    match farewell(&parting) {
        Farewell::Release => {
            context.release(object, FINALIZER).await?;
            Ok(Action::await_change())
        }
        Farewell::Delete => {
            let verdict = Verdict::yes("Deleting", "DeletingMachines").because("its Machines are being deleted");
            report(context, object, status, vec![verdict, Verdict::paused(None)]).await?;
            for machine in scope.machines.iter().filter(|m| m.metadata.deletion_timestamp.is_none()) {
                context.delete(machine).await?;
            }
            for orphan in orphans.into_iter().filter(|m| m.metadata.deletion_timestamp.is_none()) {
                context.delete(orphan).await?;
            }
            Ok(Action::requeue(SOON))
        }
        Farewell::Hold(verdict) => {
            let own = verdict.reason == "OwnControlPlane";
            let said = status.conditions.iter().any(|c| c.type_ == verdict.kind && c.reason == verdict.reason);
            if own && !said {
                context.tell(object, true, &verdict.reason, &verdict.message).await;
            }
            report(context, object, status, vec![verdict, Verdict::paused(None)]).await?;
            Ok(Action::requeue(if own { STUCK } else { WORKERS }))
        }
    }
}
