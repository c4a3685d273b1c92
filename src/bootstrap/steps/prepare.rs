//! preflight and bundle.

use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;

use crate::bootstrap::{Story, checks};
use crate::event::What;
use crate::failure::{Failure, Result};
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
        story.at_most(Duration::from_mins(2))
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
        checks::verdict(&checks)
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(Undo::Undone)
    }
}

/// Unpacks what the bundle holds, with its digests compared.
pub struct Unpack;

/// How many images are unpacked at once.
const PARALLEL: usize = 2;

#[async_trait(?Send)]
impl Step<Story> for Unpack {
    fn name(&self) -> &'static str {
        "bundle"
    }
    fn reason(&self) -> &'static str {
        "verifying and unpacking images"
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
        let images: Vec<&str> = bundle.images().collect();
        let total = images.len() as u64;
        let done = std::sync::atomic::AtomicU64::new(0);
        let all = futures::stream::iter(images.into_iter().map(Ok::<_, Failure>));
        all.try_for_each_concurrent(PARALLEL, async |reference| {
            scope.safe_point()?;
            let image = bundle.image(reference)?;
            bundle.unpack_async(&image).await?;
            let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            scope.events.send(What::Progress {
                subject: "images".into(),
                state: "unpacked".into(),
                done: Some(done),
                total: Some(total),
            });
            Ok(())
        })
        .await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(Undo::Kept("unpacked images are a cache that every cluster of this home shares"))
    }
}
