//! Finds the objects that concern a move.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use kube::api::{DynamicObject, ObjectMeta};
use kube::core::GroupVersionKind;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::graph::Kind;
use super::{MOVE, MOVE_HIERARCHY, PROVIDER, Result};
use crate::k8s::{self, Cluster};

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

/// A CustomResourceDefinition without its schemas, which are most of it.
#[derive(Debug, Deserialize)]
pub(super) struct Definition {
    #[serde(default)]
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Spec {
    group: String,
    scope: String,
    names: Names,
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Names {
    kind: String,
    plural: String,
}

#[derive(Debug, Deserialize)]
struct Version {
    name: String,
    served: bool,
    storage: bool,
}

#[derive(Debug, Deserialize)]
struct Definitions {
    items: Vec<Definition>,
}

impl Definition {
    /// The version in which its objects are stored.
    pub(super) fn stored(&self) -> &str {
        self.spec.versions.iter().find(|version| version.storage).map_or("", |version| &version.name)
    }

    /// The kind that it defines, in its storage version.
    fn kind(&self) -> Kind {
        let labelled = |label: &str| self.metadata.labels.as_ref().is_some_and(|l| l.contains_key(label));
        Kind {
            gvk: GroupVersionKind::gvk(&self.spec.group, self.stored(), &self.spec.names.kind),
            namespaced: self.spec.scope == "Namespaced",
            hierarchy: labelled(MOVE_HIERARCHY),
            forced: labelled(MOVE),
        }
    }
}

/// The kinds that a move looks at.
pub(super) async fn kinds(cluster: &Cluster) -> Result<Vec<Kind>> {
    let all: Definitions =
        definitions(cluster, &format!("?labelSelector={PROVIDER}")).await?.unwrap_or(Definitions { items: Vec::new() });
    let mut kinds = Vec::new();
    for definition in &all.items {
        let kind = definition.kind();
        if definition.spec.versions.iter().any(|version| version.storage && version.served) {
            cluster.learn(&kind.gvk, &definition.spec.names.plural, kind.namespaced);
        }
        kinds.push(kind);
    }
    for core in ["Secret", "ConfigMap"] {
        let gvk = GroupVersionKind::gvk("", "v1", core);
        kinds.push(Kind { gvk, namespaced: true, hierarchy: false, forced: false });
    }
    Ok(kinds)
}

/// One definition; `None` when there is none.
pub(super) async fn definition(cluster: &Cluster, name: &str) -> Result<Option<Definition>> {
    definitions(cluster, &format!("/{name}")).await
}

async fn definitions<T: DeserializeOwned>(cluster: &Cluster, what: &str) -> Result<Option<T>> {
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions{what}");
    let failed = |source| {
        let action = "read its CustomResourceDefinitions".into();
        k8s::Error::Request { cluster: cluster.name().into(), action, source: Box::new(source) }
    };
    let request = http::Request::get(path).body(Vec::new()).map_err(|e| failed(kube::Error::HttpError(e)))?;
    match cluster.client().request(request).await {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(failed(error).into()),
    }
}
