//! ConfigMaps and Secrets as pods see them: read once for variables, watched for volumes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the API server said, or why it could not be asked, in one sentence.
pub fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Keys and values of a ConfigMap or a Secret.
pub type Content = BTreeMap<String, Vec<u8>>;

/// A kind of object that holds values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        })
    }
}

/// One of the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRef {
    /// Its kind.
    pub kind: SourceKind,
    /// Its name.
    pub name: String,
}

impl SourceRef {
    /// A reference.
    pub fn new(kind: SourceKind, name: &str) -> Self {
        Self { kind, name: name.to_owned() }
    }
}

/// What a watch knows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing yet.
    Unknown,
    /// It does not exist.
    Missing,
    /// Its content.
    Present(Arc<Content>),
}

/// A running watch of one object; it ends with its last holder.
#[derive(Debug)]
pub struct Watched {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Watched {
    /// What is known now, and changes.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Watches = HashMap<(String, SourceRef), Weak<Watched>>;

/// Access to the ConfigMaps and Secrets of pods; one watch an object, however many pods mount it.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    watches: Arc<Mutex<Watches>>,
}

impl Objects {
    /// Access through a client.
    pub fn new(client: Client) -> Self {
        Self { client, watches: Arc::default() }
    }

    /// Reads one object now; `None` when it does not exist.
    pub async fn read(&self, namespace: &str, source: &SourceRef) -> kube::Result<Option<Content>> {
        let client = self.client.clone();
        Ok(match source.kind {
            SourceKind::ConfigMap => {
                Api::<ConfigMap>::namespaced(client, namespace).get_opt(&source.name).await?.map(of_config_map)
            }
            SourceKind::Secret => {
                Api::<Secret>::namespaced(client, namespace).get_opt(&source.name).await?.map(of_secret)
            }
        })
    }

    /// Watches one object.
    pub fn watch(&self, namespace: &str, source: &SourceRef) -> Arc<Watched> {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), source.clone());
        if let Some(running) = watches.get(&key).and_then(Weak::upgrade) {
            return running;
        }
        watches.retain(|_, watched| watched.strong_count() > 0);
        let (seen, receiver) = watch::channel(Seen::Unknown);
        let client = self.client.clone();
        let task = match source.kind {
            SourceKind::ConfigMap => tokio::spawn(follow(
                Api::<ConfigMap>::namespaced(client, namespace),
                source.clone(),
                seen,
                of_config_map,
            )),
            SourceKind::Secret => {
                tokio::spawn(follow(Api::<Secret>::namespaced(client, namespace), source.clone(), seen, of_secret))
            }
        };
        let watched = Arc::new(Watched { seen: receiver, task });
        watches.insert(key, Arc::downgrade(&watched));
        watched
    }
}

async fn follow<K>(api: Api<K>, source: SourceRef, seen: watch::Sender<Seen>, content: fn(K) -> Content)
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + fmt::Debug + Send + 'static,
{
    let pace = backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(30))
        .with_max_delay(Duration::from_secs(5))
        .without_max_times();
    let changes = watcher::watch_object(api, &source.name).backoff(watcher::ExponentialBackoff::from(pace));
    let mut changes = std::pin::pin!(changes);
    while let Some(change) = changes.next().await {
        match change {
            Ok(object) => {
                let now = object.map_or(Seen::Missing, |object| Seen::Present(Arc::new(content(object))));
                seen.send_if_modified(|before| {
                    let changed = *before != now;
                    *before = now;
                    changed
                });
            }
            Err(error) => tracing::debug!(kind = %source.kind, name = source.name, %error, "watch broke"),
        }
    }
}

fn of_config_map(object: ConfigMap) -> Content {
    let text = object.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    let binary = object.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
    text.chain(binary).collect()
}

fn of_secret(object: Secret) -> Content {
    object.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()
}
