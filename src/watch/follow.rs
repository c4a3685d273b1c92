//! Waits for a goal while looking at what happens: what is hopeless, or does not move, ends the wait with its cause.

use std::time::Duration;

use super::blame::{Blame, blame};
use super::collect::collect;
use super::live::Live;
use super::snapshot::Snapshot;
use super::state::state;
use crate::clock::{Look, Stopwatch, human};
use crate::failure::{Failure, Result};
use crate::k8s::{Cluster, ObjectRef, Readiness, reference};
use crate::saga::Scope;

/// How long an object may call itself failed before it is believed: controllers try again at once.
const GRACE: Duration = Duration::from_secs(6);
/// How often things that only time changes are looked at.
const TICK: Duration = Duration::from_secs(1);

/// A wait for a goal on clusters that are followed.
#[derive(Debug)]
pub struct Follow<'a> {
    /// What is waited for.
    what: String,
    /// How long nothing may change.
    no_progress: Duration,
    scope: &'a Scope,
    /// The clusters with their live objects; Kustomizations of the first may act on the second.
    clusters: Vec<(&'a Cluster, &'a Live)>,
}

impl<'a> Follow<'a> {
    /// Waits for `what` on a cluster.
    pub fn new(what: &str, no_progress: Duration, scope: &'a Scope, cluster: &'a Cluster, live: &'a Live) -> Self {
        Self { what: what.to_owned(), no_progress, scope, clusters: vec![(cluster, live)] }
    }

    /// Follows a second cluster too, on which the first one acts.
    #[must_use]
    pub fn and(mut self, cluster: &'a Cluster, live: &'a Live) -> Self {
        self.clusters.push((cluster, live));
        self
    }

    /// Looks at every change until the goal is reached.
    pub async fn until<T>(&self, mut goal: impl FnMut(&[Snapshot]) -> Look<T> + Send) -> Result<T> {
        let mut changes: Vec<_> = self.clusters.iter().map(|(_, live)| live.changes()).collect();
        let mut moved = Stopwatch::start();
        let mut count = 0;
        let mut suspect: Option<(ObjectRef, Stopwatch)> = None;
        loop {
            let now = changes.iter_mut().map(|c| *c.borrow_and_update()).sum();
            if now != count {
                count = now;
                moved = Stopwatch::start();
            }
            let snapshots: Vec<Snapshot> = self.clusters.iter().map(|(_, live)| live.snapshot()).collect();
            let last = match goal(&snapshots) {
                Look::Ready(value) => return Ok(value),
                Look::Pending(state) => state,
            };
            suspect = match (hopeless(&snapshots), suspect) {
                (Some(now), Some((before, since))) if now == before => Some((now, since)),
                (Some(now), _) => Some((now, Stopwatch::start())),
                (None, _) => None,
            };
            if suspect.as_ref().is_some_and(|(_, since)| since.elapsed() > GRACE) {
                return Err(self.explain(Failure::failed(format!("{} cannot be reached", self.what))).await);
            }
            if moved.elapsed() > self.no_progress {
                let limit = human(self.no_progress);
                let text = format!("nothing changed for {limit} while waiting for {}; last seen: {last}", self.what);
                return Err(self.explain(Failure::timeout(text)).await);
            }
            if self.scope.deadline.passed() {
                let limit = human(self.scope.deadline.limit());
                let text = format!("waited {limit} for {}; last seen: {last}", self.what);
                return Err(self.explain(Failure::timeout(text)).await);
            }
            let any = futures::future::select_all(changes.iter_mut().map(|c| Box::pin(c.changed())));
            tokio::select! {
                _ = any => {}
                () = tokio::time::sleep(TICK.min(self.scope.deadline.left())) => {}
                () = self.scope.cancel.cancelled() => {
                    let text = format!("interrupted while waiting for {}; last seen: {last}", self.what);
                    return Err(Failure::interrupted(text));
                }
            }
        }
    }

    /// Adds the cause to a failure: its line becomes the message, the way to it the chain of causes.
    async fn explain(&self, failure: Failure) -> Failure {
        let mut snapshots = Vec::new();
        for (cluster, live) in &self.clusters {
            let (mut snapshot, troubles) = collect(cluster).await;
            if snapshot.is_empty() && !troubles.is_empty() {
                snapshot = live.snapshot();
            }
            snapshots.push(snapshot);
        }
        match find(&snapshots) {
            Some(found) => blamed(&failure, &found),
            None => failure,
        }
    }
}

/// The cause on any of the clusters, the first one's first.
fn find(snapshots: &[Snapshot]) -> Option<Blame> {
    let first = snapshots.first()?;
    blame(first, snapshots.get(1)).or_else(|| blame(snapshots.get(1)?, None))
}

/// A failure with its cause.
fn blamed(failure: &Failure, blame: &Blame) -> Failure {
    let blamed = Failure::new(failure.kind, format!("{}: root cause: {}", failure.message, blame.root_cause()));
    let pull = blame
        .links
        .last()
        .is_some_and(|link| ["ImagePull", "failed to pull image"].iter().any(|t| link.state.contains(t)));
    let blamed = if pull {
        blamed.hint("an image that the bundle lacks is pulled from where its name says; see: cluster-init bundle list")
    } else {
        blamed
    };
    let way =
        blame.links.iter().rev().fold(None, |below, link| Some(Box::new(Blocked { line: link.to_string(), below })));
    match way {
        Some(way) if way.below.is_some() => blamed.caused_by(*way),
        _ => blamed,
    }
}

/// One link of the way, as a chain of errors.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
struct Blocked {
    line: String,
    #[source]
    below: Option<Box<Blocked>>,
}

/// An object that says that it will not heal.
fn hopeless(snapshots: &[Snapshot]) -> Option<ObjectRef> {
    snapshots.iter().flat_map(Snapshot::iter).find(|o| matches!(state(o), Readiness::Failed(_))).map(reference)
}
