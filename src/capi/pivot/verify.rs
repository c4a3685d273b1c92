//! Proves that every copy is what its source is, before anything is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Index, Pivot};
use crate::capi::graph::{Graph, Uid};
use crate::capi::plan::{Facts, Item, Plan, Verdict};
use crate::capi::{BLOCK_MOVE, Differences, Error, differences, parity};
use crate::clock::Look;
use crate::failure::Result;

/// What was compared.
#[derive(Debug, Default)]
pub(super) struct Verified {
    /// The sources, in the versions that were compared.
    pub sources: Index,
    /// Their copies.
    pub copies: Index,
    /// From sources to copies.
    pub uids: BTreeMap<Uid, Uid>,
}

impl Verified {
    pub(super) fn of(sources: Index, copies: Index) -> Self {
        let pair = |(name, source)| Some((Uid::of(source), Uid::of(copies.get(name)?)));
        let uids = sources.iter().filter_map(pair).collect();
        Self { sources, copies, uids }
    }

    /// How the copy of an object differs from it; `None` when one of them is not there.
    pub(super) fn compare(&self, item: &Item) -> Option<Differences> {
        Some(differences(self.sources.get(&item.object)?, self.copies.get(&item.object)?, &self.uids))
    }

    /// Why an object's copy does not count as verified.
    fn objection(&self, item: &Item) -> Option<String> {
        match (self.sources.get(&item.object), self.copies.get(&item.object)) {
            (None, _) => Some("the source is gone".into()),
            (_, None) => Some("there is no copy".into()),
            (Some(source), _) if Uid::of(source) != item.uid => Some("the source was replaced".into()),
            _ => {
                let changed = self.compare(item)?.changed;
                (!changed.is_empty()).then(|| changed.join(", "))
            }
        }
    }
}

impl Pivot<'_> {
    /// Compares every copy with its source, both as they are now; notes the versions that were compared.
    pub(super) async fn verify(&self, plan: &mut Plan, facts: &Facts) -> Result<Verified> {
        let graph = self.unblocked(plan).await?;
        let planned: BTreeSet<&Uid> = plan.copied().map(|item| &item.uid).collect();
        if let Some(new) = appeared(&graph, &planned).first() {
            return Err(Error::Differs {
                object: graph.nodes[*new].reference.clone().into(),
                what: "it appeared on the source meanwhile".into(),
                more: appeared(&graph, &planned).len() - 1,
            }
            .into());
        }
        let sources = graph.nodes.into_values().map(|node| (node.reference, node.object)).collect();
        let verified = Verified::of(sources, self.index(self.sides.target, plan).await?);
        // What the target had before is its own.
        let foreign =
            |item: &Item| matches!(item.verdict, Verdict::Keep { .. }) && facts.existing.contains(&item.object);
        let objection = |item: &Item| if foreign(item) { None } else { verified.objection(item) };
        let mut differing = plan.copied().filter_map(|item| Some((item, objection(item)?)));
        if let Some((item, what)) = differing.next() {
            return Err(Error::Differs { object: item.object.clone().into(), what, more: differing.count() }.into());
        }
        drop(differing);
        for item in &mut plan.items {
            if let Some(source) = verified.sources.get(&item.object) {
                item.verified = source.metadata.resource_version.clone().unwrap_or_default();
            }
        }
        Ok(verified)
    }

    /// The source as it is when nothing asks the move to wait: providers may ask for it late.
    async fn unblocked(&self, plan: &Plan) -> Result<Graph> {
        self.scope
            .wait("every object to be free to move")
            .every(Duration::from_millis(200))
            .until(async || {
                let graph = self.graph().await?;
                let blocking = plan
                    .copied()
                    .find(|item| graph.nodes.get(&item.uid).is_some_and(|node| parity::has(&node.object, BLOCK_MOVE)));
                Ok(match blocking {
                    Some(item) => Look::Pending(format!(
                        "{} asks not to be moved yet (annotation clusterctl.cluster.x-k8s.io/block-move)",
                        item.object
                    )),
                    None => Look::Ready(graph),
                })
            })
            .await
    }
}

/// Objects that should move and are not in the plan.
pub(super) fn appeared<'a>(graph: &'a Graph, planned: &BTreeSet<&Uid>) -> Vec<&'a Uid> {
    graph
        .nodes
        .iter()
        .filter(|(uid, node)| node.in_scope && node.kept.is_none() && !planned.contains(uid))
        .map(|(uid, _)| uid)
        .collect()
}
