//! After the point of no return: delete, release, and see that the Clusters are well.

use std::time::Duration;

use serde_json::json;

use super::copy::mark;
use super::pace::each;
use super::record::{Phase, Record};
use super::remove::patch;
use super::verify::Verified;
use super::{Pivot, Report, fence};
use crate::capi::plan::Plan;
use crate::clock::Look;
use crate::failure::Result;
use crate::k8s::{ObjectRef, condition};
use crate::saga::Scope;

impl Pivot<'_> {
    /// Goes on to the end; an interruption would leave the clusters paused, so it waits until the release.
    pub(super) async fn forward(&self, record: &Record, verified: Option<Verified>, report: &mut Report) -> Result<()> {
        let scope = self.uninterrupted(self.scope.deadline);
        let plan = &record.plan;
        let verified = match verified {
            Some(verified) => verified,
            None => self.verified_again(plan).await?,
        };
        self.timed(report, "delete", self.delete(&scope, plan, &verified)).await?;
        self.timed(report, "release", self.release(&scope, record)).await?;
        let suspended = record.fence.iter().filter(|held| fence::stays(held));
        report.remarks.extend(suspended.map(|held| {
            format!(
                "{} on the {} cluster stays suspended: it would deploy again what moved",
                held.object,
                self.sides.source.name()
            )
        }));
        if self.options.settle {
            self.timed(report, "settle", self.settle(plan, &verified)).await?;
        }
        Ok(())
    }

    /// Lets the target's controllers work, takes our marks away, and gives the source's providers back.
    async fn release(&self, scope: &Scope, record: &Record) -> Result<()> {
        let target = self.sides.target;
        let copies = self.index(target, &record.plan).await?;
        let originals = fence::originals(&record.fence);
        let marked: Vec<&ObjectRef> =
            copies.iter().filter(|(_, o)| mark(o) == Some(&self.id)).map(|(name, _)| name).collect();
        let (roots, others): (Vec<&ObjectRef>, Vec<&ObjectRef>) = marked.into_iter().partition(|n| fence::pausable(n));
        // Classes before the clusters that use them.
        let (clusters, classes): (Vec<&ObjectRef>, Vec<&ObjectRef>) =
            roots.into_iter().partition(|root| root.kind == "Cluster");
        let unmarked = json!({"metadata": {"annotations": {super::super::MARK: null}}});
        for group in [others, classes, clusters] {
            each(&self.pace, group, async |name| {
                let released = originals.get(name).map_or(&unmarked, |held| &held.restore);
                patch(scope, target, name, released).await
            })
            .await?;
        }
        fence::lift(scope, &self.pace, self.sides, &record.fence, &self.id, |held| {
            !fence::pausable(&held.object) && !fence::stays(held)
        })
        .await?;
        let mut done = record.clone();
        done.phase = Phase::Done;
        self.write_both(&done, false).await
    }

    /// Waits until the Clusters are on the target what they were on the source.
    async fn settle(&self, plan: &Plan, verified: &Verified) -> Result<()> {
        let available = |name: &&ObjectRef| {
            let state = verified.sources.get(*name).and_then(|o| condition(o, "Available"));
            state.is_some_and(|c| c["status"] == "True")
        };
        for name in plan.moved().map(|item| &item.object).filter(|name| fence::pausable(name)).filter(available) {
            self.scope
                .wait(format!(
                    "{name} to be Available on the {} cluster, as it was on the source",
                    self.sides.target.name()
                ))
                .every(Duration::from_millis(250))
                .until(async || {
                    let live = self.sides.target.get(name).await?;
                    let state = live.as_ref().and_then(|o| condition(o, "Available"));
                    Ok(match state {
                        Some(c) if c["status"] == "True" => Look::Ready(()),
                        Some(c) => Look::Pending(c["message"].as_str().unwrap_or_default().trim().to_owned()),
                        None => Look::Pending("it has no condition Available yet".into()),
                    })
                })
                .await?;
        }
        Ok(())
    }
}
