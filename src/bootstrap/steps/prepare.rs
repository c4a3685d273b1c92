//! preflight and bundle.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;

use crate::backend::{Addresses, Displaced};
use crate::bootstrap::run::MAKES;
use crate::bootstrap::{Story, access, checks};
use crate::bundle;
use crate::clock::Look;
use crate::docker::Docker;
use crate::event::What;
use crate::failure::Result;
use crate::saga::{Probe, Scope, Step, Undo};

/// Looks for what would fail later.
pub struct Preflight;

#[async_trait(?Send)]
impl Step<Story> for Preflight {
    fn name(&self) -> &'static str {
        "preflight"
    }
    fn reason(&self) -> &'static str {
        "looking for what would fail later"
    }
    fn deadline(&self, story: &Story) -> Duration {
        // Containers that are started again take a while.
        story.at_most(Duration::from_mins(5))
    }
    async fn probe(&self, _: &Story, _: &Scope) -> Result<Probe> {
        Ok(Probe::ToDo)
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let checks = checks::run(story).await?;
        for check in &checks {
            let state = match &check.outcome {
                checks::Outcome::Passed(found) => found.clone(),
                checks::Outcome::Skipped => "skipped".into(),
                checks::Outcome::Refused(found) => format!("refused: {found}"),
            };
            scope.events.progress(format!("check {}", check.name), state);
        }
        checks::verdict(&checks)?;
        if !story.applies() {
            scope.remember(MAKES, &story.makes().await?)?;
        }
        if story.run.resumed {
            return_home(story, scope).await?;
        }
        Ok(())
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(Undo::Undone)
    }
}

/// Containers of the run get the addresses again that they lost when docker was restarted.
async fn return_home(story: &Story, scope: &Scope) -> Result<()> {
    let Some(docker) = story.docker() else { return Ok(()) };
    let clusters = [access::name(story.environment.name()), story.cluster_name().await?];
    let addresses = Addresses::of(&story.home, story.environment.name())?;
    match addresses.displaced(docker, &clusters).await? {
        // A run that was killed at it may have left containers stopped that are nowhere else.
        Displaced::Nothing if !scope.broke_off("addresses") => return Ok(()),
        Displaced::Ended(containers) if !scope.broke_off("addresses") => {
            scope.events.progress("docker", "left containers stopped when it was restarted: they are started again");
            scope.effect("start", start(docker, &containers)).await?;
        }
        _ => scope.effect("addresses", addresses.restore(docker, &clusters, &scope.events)).await?,
    }
    // What the steps find out they ask a cluster: the first one, as long as there is one.
    if story.made().await?.is_some() {
        let spec = access::spec(&story.environment);
        return story.backend.create_or_adopt(&spec, &scope.events, scope.deadline, &scope.cancel).await.map(|_| ());
    }
    let Some(side) = story.find_management().await? else { return Ok(()) };
    scope
        .wait("the management cluster's API server")
        .until(async || {
            Ok(match side.cluster.api_ready().await {
                Ok(()) => Look::Ready(()),
                Err(state) => Look::Pending(state),
            })
        })
        .await
}

async fn start(docker: &Docker, containers: &[String]) -> Result<()> {
    for container in containers {
        docker.start(container).await?;
    }
    Ok(())
}

/// Unpacks the programs of the control plane and our tools, with their digests compared.
pub struct Unpack;

/// How many images are unpacked at once.
const PARALLEL: usize = 2;

#[async_trait(?Send)]
impl Step<Story> for Unpack {
    fn name(&self) -> &'static str {
        "bundle"
    }
    fn reason(&self) -> &'static str {
        "verifying and unpacking programs"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.at_most(Duration::from_mins(10))
    }
    async fn probe(&self, _: &Story, _: &Scope) -> Result<Probe> {
        // What is unpacked already is found again by its digest, in no time.
        Ok(Probe::ToDo)
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let bundle = story.bundle().await?;
        let tools: Vec<String> =
            bundle.entries()?.into_iter().filter(|e| e.kind == "tool" && is_common(e)).map(|e| e.part).collect();
        each(scope, "programs", tools, async |part| bundle.tool_async(&part).await.map(|_| ())).await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(Undo::Kept("unpacked images are a cache that every cluster of this home shares"))
    }
}

/// Unpacks the images of pods, so that no pod waits for its own.
pub async fn unpack_images(story: &Story, scope: &Scope) -> Result<()> {
    let bundle = story.bundle().await?;
    let images = bundle.entries()?.into_iter().filter(|e| e.kind != "manifest" && is_common(e));
    let images: Vec<String> = images.map(|entry| entry.reference).collect();
    each(scope, "images", images, async |reference| {
        let image = bundle.image(&reference)?;
        bundle.unpack_async(&image).await.map(|_| ())
    })
    .await
}

/// Whether a part is in every bundle: the others are for nodes that are containers.
fn is_common(entry: &bundle::Entry) -> bool {
    entry.with.is_empty()
}

/// Unpacks some things, a few at once, and counts them.
async fn each<T>(
    scope: &Scope,
    subject: &str,
    things: Vec<T>,
    unpack: impl AsyncFn(T) -> bundle::Result<()>,
) -> Result<()> {
    let total = things.len() as u64;
    let done = AtomicU64::new(0);
    futures::stream::iter(things.into_iter().map(Ok))
        .try_for_each_concurrent(PARALLEL, async |thing| {
            scope.safe_point()?;
            unpack(thing).await?;
            scope.events.send(What::Progress {
                subject: subject.to_owned(),
                state: "unpacked".into(),
                done: Some(done.fetch_add(1, Ordering::Relaxed) + 1),
                total: Some(total),
            });
            Ok(())
        })
        .await
}
