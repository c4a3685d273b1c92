//! Takes the originals away, leaf first, each in the version whose copy was verified.

use std::collections::{BTreeSet, HashSet};

use kube::api::DynamicObject;

use super::copy::patiently;
use super::pace::each;
use super::remove::{self, Removal};
use super::verify::{Verified, appeared};
use super::{Pivot, preflight};
use crate::capi::graph::Uid;
use crate::capi::plan::{Item, Plan};
use crate::capi::{Error, differences};
use crate::clock::Stopwatch;
use crate::failure::Result;
use crate::saga::Scope;

impl Pivot<'_> {
    /// What a run that goes on after the point of no return must know: what is left, and that it may be deleted.
    pub(super) async fn verified_again(&self, plan: &Plan) -> Result<Verified> {
        let (source, target) = (self.sides.source, self.sides.target);
        let graph = self.graph().await?;
        let planned: BTreeSet<&Uid> = plan.copied().map(|item| &item.uid).collect();
        if let Some(new) = appeared(&graph, &planned).first() {
            return Err(Error::ChangedLate {
                object: graph.nodes[*new].reference.clone().into(),
                cluster: source.name().into(),
                what: "it was added".into(),
            }
            .into());
        }
        let sources = graph.nodes.into_values().map(|node| (node.reference, node.object)).collect();
        let verified = Verified::of(sources, self.index(target, plan).await?);
        for item in plan.moved() {
            let Some(left) = verified.sources.get(&item.object).filter(|left| Uid::of(left) == item.uid) else {
                continue;
            };
            if !verified.copies.contains_key(&item.object) {
                return Err(Error::NoCopy { object: item.object.clone().into(), cluster: target.name().into() }.into());
            }
            if left.metadata.resource_version.as_deref() != Some(item.verified.as_str()) {
                self.unchanged(item, left, &verified)?;
            }
        }
        Ok(verified)
    }

    pub(super) async fn delete(&self, scope: &Scope, plan: &Plan, verified: &Verified) -> Result<()> {
        let hooked = preflight::hooked(self.sides.source, "DELETE").await?;
        let (total, watch) = (plan.moved().count(), Stopwatch::start());
        let mut done = 0;
        for group in plan.groups().into_iter().rev() {
            let group: Vec<&Item> = group.into_iter().filter(|(_, moves)| *moves).map(|(item, _)| item).collect();
            done += group.len();
            each(&self.pace, group, async |item| self.delete_one(scope, item, verified, &hooked).await).await?;
            self.progress("delete", done, total, watch);
        }
        Ok(())
    }

    /// Deletes one object; one that somebody changed meanwhile is compared with its copy again.
    async fn delete_one(
        &self,
        scope: &Scope,
        item: &Item,
        verified: &Verified,
        hooked: &HashSet<String>,
    ) -> Result<()> {
        let source = self.sides.source;
        let Some(seen) = verified.sources.get(&item.object).filter(|seen| Uid::of(seen) == item.uid) else {
            return Ok(());
        };
        let (resource, _) = source.resource(&item.object.gvk()).await?;
        let webhooks = hooked.contains(&format!("{}/{}", item.object.group(), resource.plural));
        let mut seen = seen.clone();
        loop {
            let what = format!("{} to be deleted from the {} cluster", item.object, source.name());
            let removal = patiently(scope, &self.pace, what, async || {
                Ok(remove::remove_seen(source, &item.object, &seen, webhooks).await?)
            })
            .await?;
            match removal {
                Removal::Gone => return Ok(()),
                Removal::Lingering => return remove::remove(scope, source, &item.object, &item.uid).await,
                Removal::Changed => match source.get(&item.object).await?.filter(|now| Uid::of(now) == item.uid) {
                    None => return Ok(()),
                    Some(now) => {
                        self.unchanged(item, &now, verified)?;
                        seen = now;
                    }
                },
            }
        }
    }

    /// Refuses an object that is not what its verified copy is any more.
    fn unchanged(&self, item: &Item, now: &DynamicObject, verified: &Verified) -> Result<()> {
        let Some(copy) = verified.copies.get(&item.object) else { return Ok(()) };
        let changed = differences(now, copy, &verified.uids).changed;
        if changed.is_empty() {
            return Ok(());
        }
        Err(Error::ChangedLate {
            object: item.object.clone().into(),
            cluster: self.sides.source.name().into(),
            what: changed.join(", "),
        }
        .into())
    }
}
