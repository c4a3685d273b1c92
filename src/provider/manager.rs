//! Runs the controllers until told to stop.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::Controller;
use kube::runtime::controller::Error as ControllerError;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::context::{Context, Kind, after_failure};
use super::core::{CLUSTER_LABEL, Cluster, Machine};
use super::error::Error;
use super::health::Health;
use super::types::{LocalCluster, LocalControlPlane, LocalMachine};
use super::{cluster, control_plane, machine};
use crate::clock::{Look, Wait};
use crate::failure::Result;

/// Pause between two attempts to watch: an API server on this host that was restarted is found again quickly.
#[derive(Debug)]
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(500))
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

/// Longest wait for the definitions of the kinds that are watched.
const DEFINITIONS: Duration = Duration::from_mins(10);

/// Runs the controllers until `cancel`; what is being reconciled then is finished.
pub async fn run(context: Context, health: &Health, cancel: &CancellationToken) -> Result<()> {
    let client = context.client().clone();
    definitions(&client, cancel).await?;
    tracing::info!(home = %context.home.root().display(), bundle = %context.bundle.display(), "provider local starts");
    let context = Arc::new(context);

    let clusters = controller::<LocalCluster>(&client, cancel).watches(
        Api::<Cluster>::all(client.clone()),
        watcher::Config::default(),
        |cluster| {
            let name = cluster.reference::<LocalCluster>(cluster.spec.infrastructure_ref.as_ref());
            object_ref(name, &cluster)
        },
    );
    let cluster_store = clusters.store();

    let control_planes = controller::<LocalControlPlane>(&client, cancel)
        .owns(Api::<Machine>::all(client.clone()), watcher::Config::default())
        .watches(Api::<Cluster>::all(client.clone()), watcher::Config::default(), |cluster| {
            let name = cluster.reference::<LocalControlPlane>(cluster.spec.control_plane_ref.as_ref());
            object_ref(name, &cluster)
        });
    let control_plane_store = control_planes.store();
    let control_planes = control_planes.watches(
        Api::<LocalCluster>::all(client.clone()),
        watcher::Config::default(),
        of_cluster(control_plane_store.clone()),
    );

    let machines = controller::<LocalMachine>(&client, cancel).watches(
        Api::<Machine>::all(client.clone()),
        watcher::Config::default(),
        |machine| {
            let reference = machine.spec.infrastructure_ref.clone();
            object_ref(reference.filter(|r| r.kind == LocalMachine::kind(&())).map(|r| r.name), &machine)
        },
    );
    let machine_store = machines.store();
    let machines = machines
        .watches(
            Api::<LocalCluster>::all(client.clone()),
            watcher::Config::default(),
            of_cluster(machine_store.clone()),
        )
        .watches(Api::<Cluster>::all(client.clone()), watcher::Config::default(), {
            let store = machine_store.clone();
            move |cluster: Cluster| labelled(&store, &cluster.name_any(), cluster.namespace().as_deref())
        });

    let ready = async {
        // Fails only when a controller has ended.
        let _ = cluster_store.wait_until_ready().await;
        let _ = control_plane_store.wait_until_ready().await;
        let _ = machine_store.wait_until_ready().await;
        health.set_ready();
        tracing::info!("controllers watch");
        std::future::pending::<()>().await;
    };
    let work = async {
        tokio::join!(
            drain(clusters.run(cluster::reconcile, policy, context.clone())),
            drain(control_planes.run(control_plane::reconcile, policy, context.clone())),
            drain(machines.run(machine::reconcile, policy, context.clone())),
        );
    };
    tokio::select! {
        () = work => {}
        () = ready => {}
    }
    tracing::info!("provider local ends");
    Ok(())
}

fn controller<K>(client: &Client, cancel: &CancellationToken) -> Controller<K>
where
    K: Kind + Send + Sync + 'static,
{
    Controller::new(Api::<K>::all(client.clone()), watcher::Config::default())
        .trigger_backoff(Steady)
        .graceful_shutdown_on(cancel.clone().cancelled_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of kube's error policy")]
fn policy<K: Kind>(object: Arc<K>, error: &Error, _: Arc<Context>) -> kube::runtime::controller::Action {
    after_failure(object.as_ref(), error)
}

/// Runs a controller to its end; what fails in it is tried again by its policy or by its watches.
async fn drain<K: Resource>(
    results: impl Stream<
        Item = std::result::Result<
            (ObjectRef<K>, kube::runtime::controller::Action),
            ControllerError<Error, watcher::Error>,
        >,
    >,
) {
    results
        .for_each(async |result| {
            if let Err(ControllerError::QueueError(error)) = result {
                tracing::warn!(%error, "watch interrupted");
            }
        })
        .await;
}

fn object_ref<K: Kind>(name: Option<String>, beside: &impl ResourceExt) -> Option<ObjectRef<K>> {
    Some(ObjectRef::new(&name?).within(&beside.namespace()?))
}

/// Maps an object to those of a kind that belong to the same Cluster.
fn of_cluster<K>(store: Store<K>) -> impl Fn(LocalCluster) -> Vec<ObjectRef<K>> + Send + Sync + 'static
where
    K: Kind + Send + Sync + 'static,
{
    move |object| match object.labels().get(CLUSTER_LABEL) {
        Some(cluster) => labelled(&store, cluster, object.namespace().as_deref()),
        None => Vec::new(),
    }
}

fn labelled<K: Kind + 'static>(store: &Store<K>, cluster: &str, namespace: Option<&str>) -> Vec<ObjectRef<K>> {
    store
        .state()
        .iter()
        .filter(|object| object.namespace().as_deref() == namespace)
        .filter(|object| object.labels().get(CLUSTER_LABEL).is_some_and(|found| found == cluster))
        .map(|object| ObjectRef::from_obj(object.as_ref()))
        .collect()
}

/// Waits until every kind that is watched is served.
async fn definitions(client: &Client, cancel: &CancellationToken) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    let names: Vec<String> = [format!("clusters.{}", super::core::GROUP), format!("machines.{}", super::core::GROUP)]
        .into_iter()
        .chain(super::crds::crds().into_iter().filter_map(|crd| crd.metadata.name))
        .collect();
    Wait::new("the definitions of Cluster API's and the provider's kinds", DEFINITIONS)
        .within(crate::clock::Deadline::after(DEFINITIONS), cancel)
        .every(Duration::from_millis(500))
        .until(async || {
            for name in &names {
                match api.get_opt(name).await {
                    Ok(Some(crd)) if established(&crd) => {}
                    Ok(Some(_)) => return Ok(Look::Pending(format!("{name} is not established yet"))),
                    Ok(None) => return Ok(Look::Pending(format!("there is no {name}"))),
                    Err(error) => return Ok(Look::Pending(format!("failed to read {name}: {error}"))),
                }
            }
            Ok(Look::Ready(()))
        })
        .await
}

fn established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
}
