//! management-cluster and management-flux: the management cluster comes up and gets a Flux of its own.

use std::time::Duration;

use async_trait::async_trait;

use super::release::install;
use super::{ahead, lost, newborn, reconnect, replaced};
use crate::bootstrap::story::Side;
use crate::bootstrap::{Story, access, checks};
use crate::clock::Look;
use crate::failure::{Kind, Result};
use crate::flux::{self, Expected, RELEASE};
use crate::plan::Target;
use crate::saga::{Probe, Scope, Step, Undo};
use crate::watch::Snapshot;

/// The components that act on the management cluster; the chart leaves out those that the environment does not need.
const REMOTE: &str = "management-";

/// Waits until the cluster's definition is what runs.
pub struct ManagementCluster;

#[async_trait(?Send)]
impl Step<Story> for ManagementCluster {
    fn name(&self) -> &'static str {
        "management-cluster"
    }
    fn reason(&self) -> &'static str {
        "watching Flux and Cluster API make the management cluster"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.deadline.left()
    }
    async fn probe(&self, story: &Story, _: &Scope) -> Result<Probe> {
        Ok(if story.fenced().await? { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let revision = story.publication().await?.revision.tag();
        let side = story.bootstrap().await?;
        if story.run.resumed {
            replaced::failed_machines(side, scope).await?;
        }
        let follow = story.follow("the management cluster", scope, side);
        let ready = follow.until(|seen| component(&seen[0], "cluster", &revision));
        // Its API server answers long before it is complete: its Flux starts meanwhile.
        let early = async {
            tokio::join!(told(hurry(story, scope)), newborn::introduced(side));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ready = ready => ready,
            lost = lost::container(story, scope) => Err(lost),
            () = early => Ok(()),
        }
    }
    async fn undo(&self, story: &Story, _: &Scope) -> Result<Undo> {
        let name = story.cluster_name().await?;
        // Deleting the bootstrap cluster alone would leave the machines behind.
        let containers = match story.docker() {
            Some(docker) => checks::containers(docker, &name).await?,
            None => Vec::new(),
        };
        let machines = access::management_node(&story.home, &name)?.is_some() || !containers.is_empty();
        Ok(if machines { Undo::Kept("its machines run; delete its Cluster object to end them") } else { Undo::Undone })
    }
}

/// Whether a component's Kustomization is ready at a revision.
pub fn component(seen: &Snapshot, name: &str, revision: &str) -> Look<()> {
    let Some(found) = seen.get(&flux::kustomization(name)) else {
        return Look::Pending(format!("component {name} does not exist yet"));
    };
    match flux::readiness(found, flux::expected(found, revision)) {
        state if state.is_ready() => Look::Ready(()),
        state => Look::Pending(format!("component {name}: {}", state.state())),
    }
}

/// Waits until the management cluster's API server answers.
async fn reach<'a>(story: &'a Story, scope: &Scope) -> Result<&'a Side> {
    let side = scope
        .wait("the management cluster's API server")
        .every(Duration::from_millis(200))
        .until(async || {
            let Some(side) = story.find_management().await? else {
                return Ok(Look::Pending("its kubeconfig is not published".into()));
            };
            Ok(match side.cluster.api_ready().await {
                Ok(()) => Look::Ready(side),
                Err(state) => Look::Pending(state),
            })
        })
        .await?;
    Ok(side)
}

/// Begins what need not wait until the management cluster is complete. Nothing is lost where it fails: the next step begins its Flux
/// again and says what is wrong, and Cluster API looks for it by itself in the end.
async fn hurry(story: &Story, scope: &Scope) -> Result<()> {
    reach(story, scope).await?;
    let look = async {
        reconnect::managers(story, scope).await?;
        reconnect::control_plane(story, scope).await
    };
    tokio::join!(told(ensure_flux(story, scope)), told(look));
    Ok(())
}

/// Has the log tell of a failure that costs nothing but time.
async fn told(work: impl Future<Output = Result<()>>) {
    match work.await {
        Err(failure) if failure.kind != Kind::Interrupted => {
            tracing::debug!(%failure, "what follows the management cluster's first answer was not hurried");
        }
        _ => {}
    }
}

/// Gives the management cluster its registry with the commit, its Flux, and what need not wait for that, once.
async fn ensure_flux(story: &Story, scope: &Scope) -> Result<()> {
    story
        .installed
        .get_or_try_init(async || {
            let side = reach(story, scope).await?;
            let reached = access::management_registry(story).await?;
            let registry = reached.as_ref().map(|reached| &reached.registry);
            let install = install(story, scope, &side.cluster, registry, false, false);
            tokio::try_join!(install, ahead::give(story, scope, &side.cluster, Target::Management)).map(drop)
        })
        .await
        .copied()
}

/// Gives the management cluster a Flux, the chart and everything but the cluster's definition.
pub struct ManagementFlux;

#[async_trait(?Send)]
impl Step<Story> for ManagementFlux {
    fn name(&self) -> &'static str {
        "management-flux"
    }
    fn reason(&self) -> &'static str {
        "giving the management cluster its own Flux and components"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.deadline.left()
    }
    async fn probe(&self, story: &Story, _: &Scope) -> Result<Probe> {
        Ok(if story.fenced().await? { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        tokio::select! {
            ready = hand_over(story, scope) => ready,
            lost = lost::container(story, scope) => Err(lost),
        }
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(Undo::Kept("it goes with the management cluster"))
    }
}

/// Installs what nobody else can, and waits for the rest.
async fn hand_over(story: &Story, scope: &Scope) -> Result<()> {
    scope.effect("install", ensure_flux(story, scope)).await?;
    let publication = story.publication().await?;
    let (revision, version) = (publication.revision.tag(), publication.chart.version());
    let (bootstrap, management) = (story.bootstrap().await?, story.management().await?);
    story
        .follow("the management cluster's components", scope, bootstrap)
        .and(&management.cluster, &management.live)
        .until(|seen| {
            let handed = components(&seen[0], &revision, |name| name.starts_with(REMOTE));
            let deployed = release(&seen[1], version);
            // What makes it follow the repository waits for the hand-over.
            let own = components(&seen[1], &revision, |name| name != RELEASE);
            first([handed, deployed, own])
        })
        .await
}

/// Whether the chart's release is ready at a version.
pub fn release(seen: &Snapshot, version: &str) -> Look<()> {
    let Some(found) = seen.get(&flux::release()) else {
        return Look::Pending("the chart's release does not exist yet".into());
    };
    match flux::readiness(found, Expected::Revision(version)) {
        state if state.is_ready() => Look::Ready(()),
        state => Look::Pending(format!("the chart's release: {}", state.state())),
    }
}

/// The label that helm-controller gives what a release makes.
const OF_RELEASE: &str = "helm.toolkit.fluxcd.io/name";

/// Whether all components of some names are ready at a revision; there must be at least one. Kustomizations of others do not count.
pub fn components(seen: &Snapshot, revision: &str, which: impl Fn(&str) -> bool) -> Look<()> {
    let names: Vec<&str> = seen
        .kind("Kustomization")
        .filter(|object| {
            object.metadata.labels.as_ref().is_some_and(|all| all.get(OF_RELEASE).is_some_and(|of| of == RELEASE))
        })
        .filter_map(|object| object.metadata.name.as_deref())
        .filter(|name| which(name))
        .collect();
    if names.is_empty() {
        return Look::Pending(format!("no component on the {} cluster yet", seen.cluster));
    }
    first(names.into_iter().map(|name| component(seen, name, revision)))
}

/// The first that is pending, if any.
pub fn first(looks: impl IntoIterator<Item = Look<()>>) -> Look<()> {
    looks.into_iter().find(|look| matches!(look, Look::Pending(_))).unwrap_or(Look::Ready(()))
}
