//! Containers that end or move while the run waits for what is in them: nobody else would say so for minutes.

use std::time::Duration;

use crate::backend::{Addresses, CLUSTER_LABEL};
use crate::bootstrap::{Story, access};
use crate::clock::{Look, Stopwatch};
use crate::docker::{Container, Docker};
use crate::environment::Backend;
use crate::failure::{Failure, Kind, Result};
use crate::saga::Scope;

/// How often docker is asked, which takes a tenth of a second of a processor.
const EVERY: Duration = Duration::from_secs(4);
/// One that ends is started again by docker, or replaced by Cluster API, within this time, or by nobody.
const GRACE: Duration = Duration::from_secs(12);
/// A daemon that is restarted ends its containers first, and answers again within this time.
const RESTART: Duration = Duration::from_mins(1);

/// Waits until a container that the run needs is gone for good; never ends where there are none.
pub async fn container(story: &Story, scope: &Scope) -> Failure {
    let Some(docker) = story.docker() else { return std::future::pending().await };
    let settings = story.environment.settings();
    let own = (settings.backend == Backend::Kind).then(|| access::name(story.environment.name()));
    // Whoever needs the publication says that there is none.
    let Ok(management) = story.cluster_name().await else { return std::future::pending().await };
    let mut addresses = match Addresses::of(&story.home, story.environment.name()) {
        Ok(addresses) => addresses,
        Err(failure) => return failure,
    };
    let mut since: Option<(Duration, Stopwatch)> = None;
    let lost = scope
        .wait("a container that ended")
        .every(EVERY)
        .until(async || {
            let (found, grace) = match look(docker, own.as_deref(), &management, &mut addresses).await {
                Ok(None) => {
                    since = None;
                    return Ok(Look::<()>::Pending("all run".into()));
                }
                Ok(Some(found)) => (found, GRACE),
                Err(failure) => (failure, RESTART),
            };
            // Containers have their own time when the daemon is back.
            if since.as_ref().is_none_or(|(before, _)| *before != grace) {
                since = Some((grace, Stopwatch::start()));
            }
            if since.as_ref().is_some_and(|(_, since)| since.elapsed() > grace) {
                return Err(found.kind(Kind::Failed));
            }
            Ok(Look::Pending(found.to_string()))
        })
        .await;
    match lost {
        Err(failure) if failure.kind == Kind::Failed => failure,
        // The deadline and interruptions are told by whoever knows what is waited for.
        _ => std::future::pending().await,
    }
}

/// The failure that the first container is that ended, or is not where it was.
async fn look(
    docker: &Docker,
    bootstrap: Option<&str>,
    management: &str,
    addresses: &mut Addresses,
) -> Result<Option<Failure>> {
    let bootstrap = bootstrap.map(|cluster| (cluster, "the bootstrap cluster"));
    for (cluster, what) in bootstrap.into_iter().chain([(management, "the management cluster")]) {
        let all = docker.containers(&format!("{CLUSTER_LABEL}={cluster}")).await?;
        if let Some(ended) = all.iter().find(|container| has_ended(container.state())) {
            return Ok(Some(failure(ended, what)));
        }
        if let Some((container, known)) = all.iter().find_map(|one| Some((one, addresses.moved(one)?))) {
            let (name, was) = (container.name(), &known.address);
            let text = format!("container {name}, a part of {what}, lost its address {was} when docker was restarted");
            return Ok(Some(Failure::failed(text).hint("going on gives the containers their addresses again")));
        }
        addresses.note(&all)?;
    }
    Ok(None)
}

fn has_ended(state: &str) -> bool {
    ["exited", "dead", "paused"].contains(&state)
}

fn failure(container: &Container, of: &str) -> Failure {
    let (name, state) = (container.name(), container.state());
    let verb = if state == "paused" { "unpause" } else { "start" };
    Failure::failed(format!("container {name}, a part of {of}, does not run any more: it is {state}"))
        .hint(format!("why: docker logs --tail 50 {name}"))
        .hint(format!("docker {verb} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_that_come_or_go_have_not_ended() {
        let cases = [("running", false), ("created", false), ("restarting", false), ("removing", false)];
        let ended = [("exited", true), ("dead", true), ("paused", true)];
        for (state, expected) in cases.into_iter().chain(ended) {
            assert_eq!(has_ended(state), expected, "{state}");
        }
    }
}
