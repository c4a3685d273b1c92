//! What waits for no other component goes to a cluster ahead of its Flux: it has started when Flux comes to it, while whoever waits for
//! Flux would leave the machine idle.
//!
//! Flux stays its master. Objects are given as its Kustomizations give them and in the name of its controller, so that it
//! finds nothing to change, and a field that a commit takes away goes.

use std::time::Duration;

use crate::bootstrap::Story;
use crate::failure::{Kind, Result};
use crate::k8s::Cluster;
use crate::plan::{self, Ahead, By, Cache, Target};
use crate::saga::Scope;

/// Nobody waits longer for it.
const LIMIT: Duration = Duration::from_secs(30);

/// Gives it. What cannot be given is left to Flux, which says why on the component.
pub async fn give(story: &Story, scope: &Scope, cluster: &Cluster, target: Target) -> Result<()> {
    match scope.effect("ahead", give_all(story, scope, cluster, target)).await {
        Err(failure) if failure.kind != Kind::Interrupted => {
            tracing::debug!(%failure, "not all could be given ahead of Flux");
            Ok(())
        }
        given => given,
    }
}

async fn give_all(story: &Story, scope: &Scope, cluster: &Cluster, target: Target) -> Result<()> {
    let (publication, cache) = (story.publication().await?, Cache::in_folder(story.home.rendered()));
    let backend = story.environment.settings().backend;
    let ahead = plan::compose(publication, backend, story.tools().await?, &cache).await?.ahead(target);
    let count = ahead.count();
    let Ahead { free, definitions } = ahead;
    let (flux, deadline) = (cluster.in_the_name_of(By::Management.manager()), scope.deadline.at_most(LIMIT));
    tokio::try_join!(
        flux.apply_all(free, deadline, &scope.cancel),
        flux.apply_all(definitions, deadline, &scope.cancel)
    )?;
    scope.events.progress(format!("{} cluster", cluster.name()), format!("{count} objects given ahead of Flux"));
    Ok(())
}
