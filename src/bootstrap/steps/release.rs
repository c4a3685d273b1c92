//! source, flux, environment and release: the bootstrap cluster gets the commit, Flux, the values and the chart.

use std::time::Duration;

use async_trait::async_trait;

use crate::bootstrap::{Story, access};
use crate::clock::Look;
use crate::environment::Variant;
use crate::failure::Result;
use crate::flux::{self, Expected, Package, Rendered};
use crate::k8s::{Cluster, ObjectRef, readiness};
use crate::oci::push::Registry;
use crate::saga::{Probe, Scope, Step, Undo};

/// The component that is a cluster's registry.
const REGISTRY: &str = "registry";
/// The component that is Flux.
const FLUX: &str = "flux-system";
const GONE_WITH_THE_CLUSTER: Undo = Undo::Kept("it goes with the bootstrap cluster");

/// Renders the components that nothing else can deploy.
pub async fn render(story: &Story) -> Result<Vec<Rendered>> {
    let tools = story.tools().await?;
    flux::render(tools.kubectl, &story.publication().await?.source, &[REGISTRY, FLUX]).await
}

/// Applies the registry and Flux, and pushes the commit as soon as the registry can take it.
pub async fn install(story: &Story, scope: &Scope, cluster: &Cluster, registry: &Registry, canary: bool) -> Result<()> {
    let rendered = render(story).await?;
    let apply =
        rendered.iter().map(|component| cluster.apply_all(component.objects.clone(), scope.deadline, &scope.cancel));
    let all = async { futures::future::try_join_all(apply).await.map(|_| ()) };
    tokio::try_join!(all, push(story, scope, registry, canary))?;
    Ok(())
}

/// Pushes the commit and the chart; a registry that is not up yet is asked again.
pub async fn push(story: &Story, scope: &Scope, registry: &Registry, canary: bool) -> Result<()> {
    let mut packages: Vec<Package> = story.publication().await?.packages()?;
    if canary {
        packages.push(flux::canary_package()?);
    }
    scope
        .wait("the registry to take the commit")
        .every(Duration::from_millis(100))
        .until(async || {
            for package in &packages {
                if let Err(error) = package.push(registry).await {
                    return Ok(Look::Pending(error.to_string()));
                }
            }
            Ok(Look::Ready(()))
        })
        .await
}

/// Publishes the commit to the bootstrap cluster's registry.
pub struct Source;

#[async_trait(?Send)]
impl Step<Story> for Source {
    fn name(&self) -> &'static str {
        "source"
    }
    fn reason(&self) -> &'static str {
        "publishing the commit where the cluster can read it"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.at_most(Duration::from_mins(3))
    }
    async fn probe(&self, story: &Story, _: &Scope) -> Result<Probe> {
        // Pushing again what is there costs a few requests.
        Ok(if story.fenced().await? { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let cluster = &story.bootstrap().await?.cluster;
        let reached = access::bootstrap_registry(story).await?;
        scope.remember("revision", &story.publication().await?.revision.tag())?;
        // Flux is applied here too, without waiting for it: it starts while the commit is pushed.
        scope.effect("publish", install(story, scope, cluster, &reached.registry, true)).await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(GONE_WITH_THE_CLUSTER)
    }
}

/// Waits until Flux works, and has it prove that.
pub struct Flux;

#[async_trait(?Send)]
impl Step<Story> for Flux {
    fn name(&self) -> &'static str {
        "flux"
    }
    fn reason(&self) -> &'static str {
        "starting Flux and reconciling a canary"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.at_most(Duration::from_mins(3))
    }
    async fn probe(&self, story: &Story, _: &Scope) -> Result<Probe> {
        if story.fenced().await? {
            return Ok(Probe::Done);
        }
        // A release that was reconciled proves more than a canary.
        let found = story.bootstrap().await?.cluster.get(&flux::release()).await?;
        Ok(if found.is_some_and(|release| readiness(&release).is_ready()) { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let cluster = &story.bootstrap().await?.cluster;
        let deployments: Vec<ObjectRef> = render(story).await?.iter().flat_map(Rendered::deployments).collect();
        flux::wait_available(cluster, &deployments, scope.deadline, &scope.cancel).await?;
        scope.effect("canary", flux::sing(cluster, flux::REGISTRY, scope.deadline, &scope.cancel)).await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(GONE_WITH_THE_CLUSTER)
    }
}

/// Applies the environment's values.
pub struct Environment;

#[async_trait(?Send)]
impl Step<Story> for Environment {
    fn name(&self) -> &'static str {
        "environment"
    }
    fn reason(&self) -> &'static str {
        "applying the environment's values and secrets"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.at_most(Duration::from_mins(1))
    }
    async fn probe(&self, story: &Story, _: &Scope) -> Result<Probe> {
        Ok(if story.fenced().await? { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let publication = story.publication().await?;
        let mut objects = publication.objects();
        objects.push(publication.copy());
        let cluster = &story.bootstrap().await?.cluster;
        scope.effect("apply", cluster.apply_all(objects, scope.deadline, &scope.cancel)).await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(GONE_WITH_THE_CLUSTER)
    }
}

/// Hands Flux the one HelmRelease from which everything follows.
pub struct Release;

#[async_trait(?Send)]
impl Step<Story> for Release {
    fn name(&self) -> &'static str {
        "release"
    }
    fn reason(&self) -> &'static str {
        "handing Flux the chart"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.at_most(Duration::from_mins(2))
    }
    async fn probe(&self, story: &Story, _: &Scope) -> Result<Probe> {
        Ok(if story.fenced().await? { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let publication = story.publication().await?;
        let objects = publication.release(story.tools().await?, Variant::Bootstrap).await?;
        let side = story.bootstrap().await?;
        scope.effect("apply", side.cluster.apply_all(objects, scope.deadline, &scope.cancel)).await?;
        let version = publication.chart.version();
        story
            .follow("the chart's release", scope, side)
            .until(|seen| {
                let found = seen[0].get(&flux::release());
                match found.map(|release| flux::readiness(release, Expected::Revision(version))) {
                    Some(state) if state.is_ready() => Look::Ready(()),
                    Some(state) => Look::Pending(state.state().to_owned()),
                    None => Look::Pending("it does not exist".into()),
                }
            })
            .await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(GONE_WITH_THE_CLUSTER)
    }
}
