//! What the controllers share: the management cluster's client, this host's home and bundle, and their way to write.

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::{Error, Result};
use crate::node::Home;

/// How soon a state that is about to change is looked at again.
pub const SOON: Duration = Duration::from_millis(200);

/// How soon a failed reconciliation is tried again.
pub const AGAIN: Duration = Duration::from_secs(1);

/// A kind that the controllers read and write.
pub trait Kind:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Kind for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned
{
}

/// What the controllers share.
#[derive(Clone)]
pub struct Context {
    client: Client,
    recorder: Recorder,
    /// Where nodes live.
    pub home: Home,
    /// Where their programs and images come from.
    pub bundle: PathBuf,
    /// The API server that this provider talks to, as host and port.
    server: (String, u16),
    /// Secrets that were read lately: a node that starts is looked at several times a second, and its keys do not change.
    secrets: Arc<Mutex<HashMap<String, (Instant, Secret)>>>,
}

/// For how long a Secret that was read is taken as it was.
const RECENT: Duration = Duration::from_secs(2);

impl Context {
    /// A context on the management cluster that `client` reaches at `server`.
    pub fn new(client: Client, server: &http::Uri, home: Home, bundle: PathBuf) -> Self {
        let reporter = Reporter { controller: "cluster-init-provider-local".into(), instance: None };
        let port = server.port_u16().unwrap_or(443);
        let host = server.host().unwrap_or_default().to_owned();
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            home,
            bundle,
            server: (host, port),
            secrets: Arc::default(),
        }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether a port on loopback is the very API server that this provider talks to.
    pub fn is_own(&self, port: i32) -> bool {
        let (host, own) = &self.server;
        let loopback = host == "localhost" || host.starts_with("127.") || host == "::1" || host == "[::1]";
        loopback && i32::from(*own) == port
    }

    fn api<K: Kind>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Reads one object.
    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<K>> {
        let action = || format!("read {} {namespace}/{name}", K::kind(&()));
        self.api::<K>(namespace).get_opt(name).await.map_err(request(action))
    }

    /// Reads a Secret, perhaps as it was a moment ago. One that is missing is always looked for.
    pub async fn recent_secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>> {
        let key = format!("{namespace}/{name}");
        let secrets = || self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, secret)) = secrets().get(&key).filter(|(read, _)| read.elapsed() < RECENT) {
            return Ok(Some(secret.clone()));
        }
        let found = self.get::<Secret>(namespace, name).await?;
        let mut secrets = secrets();
        secrets.retain(|_, (read, _)| read.elapsed() < RECENT);
        if let Some(secret) = &found {
            secrets.insert(key, (Instant::now(), secret.clone()));
        }
        Ok(found)
    }

    /// Has a Secret read anew, because it was written.
    pub fn forget_secret(&self, namespace: &str, name: &str) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.remove(&format!("{namespace}/{name}"));
    }

    /// Lists the objects that carry the given labels.
    pub async fn list<K: Kind>(&self, namespace: &str, labels: &str) -> Result<Vec<K>> {
        let action = || format!("list {}", K::plural(&()));
        let found = self.api::<K>(namespace).list(&ListParams::default().labels(labels)).await;
        Ok(found.map_err(request(action))?.items)
    }

    /// Lists a kind in all namespaces.
    pub async fn list_all<K: Kind>(&self) -> Result<Vec<K>> {
        let found = Api::<K>::all(self.client.clone()).list(&ListParams::default()).await;
        Ok(found.map_err(request(|| format!("list {}", K::plural(&()))))?.items)
    }

    /// Applies fields of an object that must exist: one that was deleted meanwhile is not made anew.
    pub async fn apply<K: Kind>(&self, manager: &str, object: &K, mut fields: Value) -> Result<K> {
        fields["metadata"]["uid"] = json!(object.uid());
        self.apply_new(manager, &object.namespace().unwrap_or_default(), &object.name_any(), fields).await
    }

    /// Applies fields of an object, which is made when there is none.
    pub async fn apply_new<K: Kind>(&self, manager: &str, namespace: &str, name: &str, mut fields: Value) -> Result<K> {
        identify::<K>(&mut fields, namespace, name);
        let action = || format!("apply {} {namespace}/{name}", K::kind(&()));
        let params = PatchParams::apply(manager).force();
        self.api::<K>(namespace).patch(name, &params, &Patch::Apply(&fields)).await.map_err(request(action))
    }

    /// Applies the status of an object.
    pub async fn apply_status<K: Kind>(&self, manager: &str, object: &K, status: &impl Serialize) -> Result<()> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let mut fields = json!({ "status": status });
        identify::<K>(&mut fields, &namespace, &name);
        let action = || format!("apply the status of {} {namespace}/{name}", K::kind(&()));
        let params = PatchParams::apply(manager).force();
        let done = self.api::<K>(&namespace).patch_status(&name, &params, &Patch::Apply(&fields)).await;
        done.map(drop).map_err(request(action))
    }

    /// Takes a finalizer away; the one thing that server-side apply does only for those who set it.
    pub async fn release<K: Kind>(&self, object: &K, finalizer: &str) -> Result<()> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let rest: Vec<&String> = object.finalizers().iter().filter(|found| *found != finalizer).collect();
        let patch = json!({"metadata": {"finalizers": rest, "resourceVersion": object.resource_version()}});
        let action = || format!("release {} {namespace}/{name}", K::kind(&()));
        match self.api::<K>(&namespace).patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(request(action)(error)),
        }
    }

    /// Deletes an object; fine when there is none.
    pub async fn delete<K: Kind>(&self, object: &K) -> Result<()> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let action = || format!("delete {} {namespace}/{name}", K::kind(&()));
        match self.api::<K>(&namespace).delete(&name, &kube::api::DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(request(action)(error)),
        }
    }

    /// Tells users what was done to an object, in the log and as an Event; an Event that is refused is no failure.
    pub async fn tell<K: Kind>(&self, object: &K, warning: bool, reason: &str, note: &str) {
        let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
        let kind = K::kind(&());
        if warning {
            tracing::warn!(%kind, object = name, reason, "{note}");
        } else {
            tracing::info!(%kind, object = name, reason, "{note}");
        }
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.into(),
            note: Some(note.chars().take(1000).collect()),
            action: reason.into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::debug!(%error, "event refused");
        }
    }
}

/// Writes into fields which object they are of.
fn identify<K: Kind>(fields: &mut Value, namespace: &str, name: &str) {
    fields["apiVersion"] = json!(K::api_version(&()));
    fields["kind"] = json!(K::kind(&()));
    fields["metadata"]["namespace"] = json!(namespace);
    fields["metadata"]["name"] = json!(name);
}

fn request(action: impl Fn() -> String) -> impl Fn(kube::Error) -> Error {
    move |source| Error::Request { action: action(), source: Box::new(source) }
}

/// What a controller does after a failure: say so and try again soon.
pub fn after_failure<K: Kind>(object: &K, error: &Error) -> Action {
    let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    tracing::warn!(kind = %K::kind(&()), object = name, %error, "will try again");
    Action::requeue(AGAIN)
}
