//! Finds the objects that concern a move.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use kube::api::DynamicObject;
use kube::core::GroupVersionKind;

use super::graph::Kind;
use super::{MOVE, MOVE_HIERARCHY, PROVIDER, Result};
use crate::k8s::Cluster;

/// How many kinds are listed at once.
const PARALLEL: usize = 16;

/// The objects of a cluster, by kind.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// Each kind with its objects.
    pub found: Vec<(Kind, Vec<DynamicObject>)>,
}

impl Discovery {
    /// All objects.
    pub fn objects(&self) -> impl Iterator<Item = &DynamicObject> {
        self.found.iter().flat_map(|(_, objects)| objects)
    }
}

/// Lists every kind whose definition is labelled as a provider's, and Secrets and ConfigMaps.
pub async fn discover(cluster: &Cluster) -> Result<Discovery> {
    list(cluster, kinds(cluster).await?).await
}

/// Lists the objects of the given kinds.
pub(super) async fn list(cluster: &Cluster, kinds: Vec<Kind>) -> Result<Discovery> {
    let found = futures::stream::iter(kinds.into_iter().map(async |kind| {
        let objects = cluster.list(&kind.gvk, None, None).await?;
        Ok::<_, super::Error>((kind, objects))
    }))
    .buffered(PARALLEL)
    .try_collect()
    .await?;
    Ok(Discovery { found })
}

/// The objects of kinds that are known to be served.
pub(super) async fn of_kinds(cluster: &Cluster, kinds: &HashSet<GroupVersionKind>) -> Result<Vec<DynamicObject>> {
    let lists = futures::stream::iter(kinds.iter().map(async |kind| cluster.list(kind, None, None).await));
    let lists: Vec<Vec<DynamicObject>> = lists.buffer_unordered(PARALLEL).try_collect().await?;
    Ok(lists.into_iter().flatten().collect())
}

/// The version in which a definition's objects are stored.
pub(super) fn storage_version(definition: &DynamicObject) -> Option<&str> {
    definition.data["spec"]["versions"].as_array()?.iter().find(|v| v["storage"] == true)?["name"].as_str()
}

/// The kinds that a move looks at.
pub(super) async fn kinds(cluster: &Cluster) -> Result<Vec<Kind>> {
    let definitions = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let mut kinds: Vec<Kind> =
        cluster.list(&definitions, None, Some(PROVIDER)).await?.iter().filter_map(kind_of).collect();
    for core in ["Secret", "ConfigMap"] {
        let gvk = GroupVersionKind::gvk("", "v1", core);
        kinds.push(Kind { gvk, namespaced: true, hierarchy: false, forced: false });
    }
    Ok(kinds)
}

/// The kind that a definition defines, in its storage version.
fn kind_of(definition: &DynamicObject) -> Option<Kind> {
    let spec = &definition.data["spec"];
    let version = storage_version(definition)?;
    let labelled = |label: &str| definition.metadata.labels.as_ref().is_some_and(|l| l.contains_key(label));
    Some(Kind {
        gvk: GroupVersionKind::gvk(spec["group"].as_str()?, version, spec["names"]["kind"].as_str()?),
        namespaced: spec["scope"] == "Namespaced",
        hierarchy: labelled(MOVE_HIERARCHY),
        forced: labelled(MOVE),
    })
}
