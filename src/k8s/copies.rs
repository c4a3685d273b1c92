//! Copies of a cluster's objects, kept up to date by watches: for whoever would else read the same ones several times a second.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{Api, DynamicObject, TypeMeta};
use kube::core::GroupVersionKind;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinSet;

use super::{Cluster, Error, ObjectRef, Result};

/// How soon a broken watch begins anew, and a kind that is not served is asked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// What is followed: a kind, or one object of it.
type Subject = (GroupVersionKind, Option<(Option<String>, String)>);

/// Copies of whatever was asked for once; they may lag a little behind. Their watches end when they are dropped.
#[derive(Debug)]
pub struct Copies {
    cluster: Cluster,
    followed: HashMap<Subject, Store<DynamicObject>>,
    /// Kinds that were not served, and when they were asked for.
    unserved: HashMap<GroupVersionKind, Instant>,
    tasks: JoinSet<()>,
}

impl Copies {
    /// Of a cluster.
    pub fn of(cluster: &Cluster) -> Self {
        Self { cluster: cluster.clone(), followed: HashMap::new(), unserved: HashMap::new(), tasks: JoinSet::new() }
    }

    /// The objects of a kind; none when they are not known yet, or when the kind is not served.
    pub async fn all(&mut self, gvk: &GroupVersionKind) -> Result<Vec<Arc<DynamicObject>>> {
        self.follow((gvk.clone(), None)).await
    }

    /// One object; `None` when it is not known yet, or there is none.
    pub async fn one(&mut self, object: &ObjectRef) -> Result<Option<Arc<DynamicObject>>> {
        let name = (object.namespace.clone(), object.name.clone());
        Ok(self.follow((object.gvk(), Some(name))).await?.pop())
    }

    async fn follow(&mut self, subject: Subject) -> Result<Vec<Arc<DynamicObject>>> {
        let (gvk, object) = subject.clone();
        let entry = match self.followed.entry(subject) {
            Entry::Occupied(known) => return Ok(known.get().state()),
            Entry::Vacant(entry) => entry,
        };
        if self.unserved.get(&gvk).is_some_and(|asked| asked.elapsed() < AGAIN) {
            return Ok(Vec::new());
        }
        let (namespace, config) = match &object {
            None => (None, watcher::Config::default()),
            Some((namespace, name)) => {
                (namespace.as_deref(), watcher::Config::default().fields(&format!("metadata.name={name}")))
            }
        };
        let resource = match self.cluster.resource(&gvk).await {
            Ok((resource, _)) => resource,
            Err(Error::UnknownKind { .. }) => {
                self.unserved.insert(gvk, Instant::now());
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let client = self.cluster.client().clone();
        let api = namespace.map_or_else(
            || Api::all_with(client.clone(), &resource),
            |namespace| Api::namespaced_with(client.clone(), namespace, &resource),
        );
        let writer = reflector::store::Writer::new(resource);
        entry.insert(writer.as_reader());
        self.tasks.spawn(keep(api, config, writer, TypeMeta { api_version: gvk.api_version(), kind: gvk.kind }));
        Ok(Vec::new())
    }
}

async fn keep(
    api: Api<DynamicObject>,
    config: watcher::Config,
    writer: reflector::store::Writer<DynamicObject>,
    types: TypeMeta,
) {
    let kind = types.kind.clone();
    let stream = watcher(api, config).modify(|object| {
        // Items of a list carry no types of their own.
        object.types.get_or_insert_with(|| types.clone());
        object.metadata.managed_fields = None;
    });
    let mut stream = std::pin::pin!(stream.reflect(writer));
    while let Some(event) = stream.next().await {
        if let Err(error) = event {
            tracing::debug!(kind, %error, "watch broke");
            tokio::time::sleep(AGAIN).await;
        }
    }
}
