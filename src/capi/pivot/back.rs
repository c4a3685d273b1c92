//! Before the point of no return: makes both clusters what they were.

use std::time::Duration;

use super::copy::{self, patiently};
use super::pace::each;
use super::record::{self, Phase, Record};
use super::{Pivot, Sides, fence, lock, remove};
use crate::capi::graph::Graph;
use crate::capi::{Error, discover};
use crate::clock::Deadline;
use crate::failure::{Failure, Result};
use crate::k8s::ObjectRef;
use crate::saga::Scope;

/// How long a rollback may take: it has a deadline of its own, since the step's has passed when it is needed most.
const ROLLBACK: Duration = Duration::from_mins(2);

impl Pivot<'_> {
    /// Takes our copies away and lifts the fence; returns the failure that made it necessary, with what became of it.
    pub(super) async fn roll_back(&self, record: &Record, failure: Failure) -> Failure {
        let scope = self.uninterrupted(Deadline::after(ROLLBACK));
        self.scope.events.warn(format!("the pivot is rolled back: {failure}"));
        match self.take_back(&scope, record).await {
            Ok(()) => failure.hint("the source cluster is as it was: nothing was moved"),
            Err(second) => failure
                .hint(format!("rolling back did not succeed ({second}): run the pivot again, it goes on from there")),
        }
    }

    /// Undoes a pivot that has not passed the point of no return; fine when there is none.
    pub async fn undo(&self, scope: &Scope) -> Result<()> {
        let Sides { source, target } = self.sides;
        let (on_source, on_target) = tokio::try_join!(record::recorded(source), record::recorded(target))?;
        let ours = |record: &Record| record.id == self.id && record.phase == Phase::Copying;
        match on_source.filter(ours).or(on_target.filter(ours)) {
            Some(record) => {
                lock::refuse_living(&record, source, target).await?;
                self.take_back(scope, &record).await
            }
            None => Ok(()),
        }
    }

    /// The source first gets back what concerns it only when no copy can be acted upon: the copies are paused, so the
    /// source is let go even if the target does not answer.
    async fn take_back(&self, scope: &Scope, record: &Record) -> Result<()> {
        self.still_mine(record).await?;
        let copies = self.remove_copies(scope, |_| true).await;
        let reachable = copies.is_ok();
        fence::lift(scope, &self.pace, self.sides, &record.fence, &self.id, |held| reachable || !held.target).await?;
        copies?;
        for cluster in [self.sides.target, self.sides.source] {
            record::remove(cluster, &self.id).await?;
        }
        Ok(())
    }

    /// A process that was frozen may have been replaced: what it would take back, the other one may be deleting the
    /// originals of. A claim is written on the source first, so that is where to look.
    async fn still_mine(&self, record: &Record) -> Result<()> {
        match record::recorded(self.sides.source).await? {
            Some(now) if now.holder != record.holder => Err(Error::Other(now.line()).into()),
            _ => Ok(()),
        }
    }

    /// Takes those of our copies away that `which` names, what is owned before its owners.
    pub(super) async fn remove_copies(&self, scope: &Scope, which: impl Fn(&ObjectRef) -> bool) -> Result<()> {
        let target = self.sides.target;
        let mut scope = scope.clone();
        scope.deadline = scope.deadline.at_most(ROLLBACK / 2);
        let graph = patiently(&scope, &self.pace, format!("the {} cluster to answer", target.name()), async || {
            Ok(Graph::of(&discover::discover(target).await?))
        })
        .await?;
        let ours = copy::ours(&graph.nodes.values().map(|node| &node.object), &self.id);
        let (groups, blocked) = graph.groups();
        for group in std::iter::once(blocked).chain(groups.into_iter().rev()) {
            let ours = group.into_iter().filter(|uid| ours.contains(*uid) && which(&graph.nodes[*uid].reference));
            each(&self.pace, ours, async |uid| remove::remove(&scope, target, &graph.nodes[uid].reference, uid).await)
                .await?;
        }
        Ok(())
    }
}
