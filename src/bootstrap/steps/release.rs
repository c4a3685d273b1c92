//! source, flux, environment and release: the first cluster gets the commit, Flux, the values and the chart; and components, where
//! that is all.

use std::time::Duration;

use async_trait::async_trait;

use super::ahead;
use super::management::{components, first, release};
use crate::bootstrap::{Story, access};
use crate::clock::Look;
use crate::failure::Result;
use crate::flux::{self, Package, Rendered};
use crate::k8s::{Cluster, DynamicObject, GroupVersionKind, ObjectRef, readiness, reference};
use crate::oci::push::Registry;
use crate::plan::Target;
use crate::saga::{Probe, Scope, Step, Undo};

/// The component that is Flux.
const FLUX: &str = "flux-system";
/// The journal's name of how Flux came to be on the cluster.
const FOUND: &str = "flux-found";
/// What a Flux must serve to be left as it is.
const SERVED: [(&str, &str, &str); 4] = [
    ("source.toolkit.fluxcd.io", "v1", "GitRepository"),
    ("source.toolkit.fluxcd.io", "v1", "OCIRepository"),
    ("kustomize.toolkit.fluxcd.io", "v1", "Kustomization"),
    ("helm.toolkit.fluxcd.io", "v2", "HelmRelease"),
];
/// The journal's name of the moment from which a cluster follows the branch.
pub const SETTLED: &str = "follow";
const GONE_WITH_THE_CLUSTER: Undo = Undo::Kept("it goes with the bootstrap cluster");

/// Renders the components that nothing else can deploy; without Flux where it is there already.
pub async fn render(story: &Story, has_flux: bool) -> Result<Vec<Rendered>> {
    let (tools, publication) = (story.tools().await?, story.publication().await?);
    let mut names = publication.installed().to_vec();
    names.retain(|name| !(has_flux && *name == FLUX));
    flux::render(tools.kustomize, &publication.source, &names).await
}

/// Applies Flux unless it is there already, and where clusters have a registry that, and pushes the commit as soon as it can take it.
pub async fn install(
    story: &Story,
    scope: &Scope,
    cluster: &Cluster,
    registry: Option<&Registry>,
    canary: bool,
    has_flux: bool,
) -> Result<()> {
    let rendered = render(story, has_flux).await?;
    let apply =
        rendered.iter().map(|component| cluster.apply_all(component.objects.clone(), scope.deadline, &scope.cancel));
    let all = async { futures::future::try_join_all(apply).await.map(|_| ()) };
    let push = async {
        match registry {
            Some(registry) => push(story, scope, registry, canary).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(all, push)?;
    Ok(())
}

/// Whether an existing cluster has a Flux that can do what the release needs; it is left as it is then.
async fn has_flux(story: &Story, cluster: &Cluster) -> Result<bool> {
    if !story.applies() {
        return Ok(false);
    }
    for (group, version, kind) in SERVED {
        match cluster.resource(&GroupVersionKind::gvk(group, version, kind)).await {
            Ok(_) => {}
            Err(crate::k8s::Error::UnknownKind { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
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
        let has_flux = has_flux(story, cluster).await?;
        scope.remember(FOUND, &has_flux)?;
        // Flux is applied here too, without waiting for it: it starts while the commit is pushed.
        let registry = reached.as_ref().map(|reached| &reached.registry);
        let install = scope.effect("publish", install(story, scope, cluster, registry, true, has_flux));
        if story.applies() {
            return install.await;
        }
        tokio::try_join!(install, ahead::give(story, scope, cluster, Target::Bootstrap)).map(drop)
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(GONE_WITH_THE_CLUSTER)
    }
}

/// Has Flux fetch the commit from the Git server, with the credentials of the environment.
async fn fetch(story: &Story, scope: &Scope, cluster: &Cluster) -> Result<()> {
    let publication = story.publication().await?;
    let release = publication.release(story.tools().await?, story.variant()).await?;
    let source = flux::chart_repository();
    let mut objects: Vec<DynamicObject> = release.into_iter().filter(|object| reference(object) == source).collect();
    objects.extend(publication.objects());
    cluster.apply_all(objects, scope.deadline, &scope.cancel).await?;
    flux::fetched(cluster, &source, &publication.revision.tag(), scope.deadline, &scope.cancel).await
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
        let rendered = render(story, scope.recall(FOUND).unwrap_or_default()).await?;
        let deployments: Vec<ObjectRef> = rendered.iter().flat_map(Rendered::deployments).collect();
        flux::wait_available(cluster, &deployments, scope.deadline, &scope.cancel).await?;
        if story.publication().await?.configuration.git.is_some() {
            return scope.effect("fetch", fetch(story, scope, cluster)).await;
        }
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
        if !story.applies() {
            objects.push(publication.copy());
        }
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
        let objects = publication.release(story.tools().await?, story.variant()).await?;
        let side = story.bootstrap().await?;
        scope.effect("apply", side.cluster.apply_all(objects, scope.deadline, &scope.cancel)).await?;
        let version = publication.chart.version();
        story.follow("the chart's release", scope, side).until(|seen| release(&seen[0], version)).await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(GONE_WITH_THE_CLUSTER)
    }
}

/// Waits until every component of an existing cluster is ready.
pub struct Components;

#[async_trait(?Send)]
impl Step<Story> for Components {
    fn name(&self) -> &'static str {
        "components"
    }
    fn reason(&self) -> &'static str {
        "watching Flux deploy every component"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.deadline.left()
    }
    async fn probe(&self, _: &Story, _: &Scope) -> Result<Probe> {
        Ok(Probe::ToDo)
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let publication = story.publication().await?;
        let (revision, version) = (publication.revision.tag(), publication.chart.version());
        let side = story.bootstrap().await?;
        story
            .follow("every component", scope, side)
            .until(|seen| first([release(&seen[0], version), components(&seen[0], &revision, |_| true)]))
            .await?;
        settle(story, scope, &side.cluster).await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(Undo::Kept("an existing cluster keeps what it was given"))
    }
}

/// Has a cluster that everything is proved of follow the branch, if the environment says so.
pub async fn settle(story: &Story, scope: &Scope, cluster: &Cluster) -> Result<()> {
    let publication = story.publication().await?;
    if !publication.follows() {
        return Ok(());
    }
    scope.effect(SETTLED, cluster.apply_all(publication.settled(), scope.deadline, &scope.cancel)).await?;
    scope
        .wait("the source to follow the branch")
        .every(Duration::from_millis(200))
        .until(async || {
            let source = cluster.get(&flux::chart_repository()).await?;
            let commit = source.as_ref().and_then(|source| source.data.pointer("/spec/ref/commit")?.as_str());
            Ok(match commit {
                Some("") => Look::Ready(()),
                _ => Look::Pending(format!("it is at commit {}", commit.unwrap_or("none"))),
            })
        })
        .await
}
