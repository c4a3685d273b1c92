//! A connection to one cluster.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::client::{Client, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use serde_json::Value;

use super::proxy;
use super::writes::Writes;
use super::{Error, MANAGER, ObjectRef, Result, apply_order, readiness, reference};
use crate::clock::{Deadline, Look, Wait};
use crate::failure::Failure;
use tokio_util::sync::CancellationToken;

/// How many requests are in flight at once when many objects are applied.
const PARALLEL: usize = 16;

/// One cluster, with the name that messages give it ("bootstrap", "management").
#[derive(Clone)]
pub struct Cluster {
    name: String,
    client: Client,
    kinds: Arc<Mutex<HashMap<GroupVersionKind, (ApiResource, bool)>>>,
    /// Who asks for the kinds of a group and version: the others wait for the answer, instead of asking too.
    asking: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
    writes: Writes,
    manager: &'static str,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.name)
    }
}

impl Cluster {
    /// Connects with a kubeconfig file.
    pub async fn connect(name: &str, kubeconfig: &Path) -> Result<Self> {
        let origin = kubeconfig.display().to_string();
        let parsed = Kubeconfig::read_from(kubeconfig)
            .map_err(|e| Error::Kubeconfig { origin: origin.clone(), reason: e.to_string() })?;
        Self::with(name, parsed, origin).await
    }

    /// Connects with the text of a kubeconfig, as a Secret holds it.
    pub async fn connect_text(name: &str, kubeconfig: &str, origin: &str) -> Result<Self> {
        let parsed = Kubeconfig::from_yaml(kubeconfig)
            .map_err(|e| Error::Kubeconfig { origin: origin.to_owned(), reason: e.to_string() })?;
        Self::with(name, parsed, origin.to_owned()).await
    }

    async fn with(name: &str, kubeconfig: Kubeconfig, origin: String) -> Result<Self> {
        let fail = |reason: String| Error::Kubeconfig { origin: origin.clone(), reason };
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|e| fail(e.to_string()))?;
        config.connect_timeout = Some(Duration::from_secs(10));
        config.read_timeout = Some(Duration::from_mins(5));
        proxy::choose(&mut config);
        let writes = Writes::default();
        let builder = ClientBuilder::try_from(config).map_err(|e| fail(e.to_string()))?;
        let client = builder.with_layer(&writes).build();
        Ok(Self { writes, ..Self::from_client(name, client) })
    }

    /// Wraps a client that exists already.
    pub fn from_client(name: &str, client: Client) -> Self {
        let (kinds, asking) = Default::default();
        Self { name: name.to_owned(), client, kinds, asking, writes: Writes::default(), manager: MANAGER }
    }

    /// The same cluster, with what is applied applied in the name of another field manager: one that is to own it from the first.
    #[must_use]
    pub fn in_the_name_of(&self, manager: &'static str) -> Self {
        Self { manager, ..self.clone() }
    }

    /// How many requests have changed it.
    pub fn writes(&self) -> u64 {
        self.writes.count()
    }

    /// The cluster's name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client, for typed APIs and watches.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn request(&self, action: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
        let (cluster, action) = (self.name.clone(), action.into());
        move |source| Error::Request { cluster, action, source: Box::new(source) }
    }

    /// The resource that serves a kind, and whether it is namespaced; kept once found.
    pub async fn resource(&self, gvk: &GroupVersionKind) -> Result<(ApiResource, bool)> {
        if let Some(found) = self.known(gvk) {
            return Ok(found);
        }
        let turn = {
            let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            asking.entry(gvk.api_version()).or_default().clone()
        };
        let _turn = turn.lock().await;
        if let Some(found) = self.known(gvk) {
            return Ok(found);
        }
        let path = if gvk.group.is_empty() {
            format!("/api/{}", gvk.version)
        } else {
            format!("/apis/{}/{}", gvk.group, gvk.version)
        };
        let api_version = gvk.api_version();
        let unknown = || Error::UnknownKind {
            cluster: self.name.clone(),
            kind: gvk.kind.clone(),
            api_version: api_version.clone(),
        };
        let request = http::Request::get(path)
            .body(Vec::new())
            .map_err(|e| self.request("list its kinds")(kube::Error::HttpError(e)))?;
        let served: Value = match self.client.request(request).await {
            Ok(served) => served,
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(unknown()),
            Err(error) => return Err(self.request(format!("list the kinds of {api_version}"))(error)),
        };
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in served["resources"].as_array().into_iter().flatten() {
            let (Some(plural), Some(kind)) = (entry["name"].as_str(), entry["kind"].as_str()) else { continue };
            if plural.contains('/') {
                continue;
            }
            let key = GroupVersionKind::gvk(&gvk.group, &gvk.version, kind);
            let resource = ApiResource::from_gvk_with_plural(&key, plural);
            kinds.insert(key, (resource, entry["namespaced"].as_bool().unwrap_or(false)));
        }
        kinds.get(gvk).cloned().ok_or_else(unknown)
    }

    fn known(&self, gvk: &GroupVersionKind) -> Option<(ApiResource, bool)> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(gvk).cloned()
    }

    /// Takes note of a kind that is known to be served, so that nobody needs to ask.
    pub fn learn(&self, gvk: &GroupVersionKind, plural: &str, namespaced: bool) {
        let resource = ApiResource::from_gvk_with_plural(gvk, plural);
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(gvk.clone(), (resource, namespaced));
    }

    /// The API of a kind, in a namespace when the kind has them.
    pub async fn api(&self, gvk: &GroupVersionKind, namespace: Option<&str>) -> Result<Api<DynamicObject>> {
        let (resource, namespaced) = self.resource(gvk).await?;
        Ok(match namespace {
            Some(namespace) if namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None if namespaced => Api::default_namespaced_with(self.client.clone(), &resource),
            _ => Api::all_with(self.client.clone(), &resource),
        })
    }

    /// Applies one object.
    pub async fn apply(&self, object: &DynamicObject) -> Result<DynamicObject> {
        let named = reference(object);
        let api = self.api(&named.gvk(), named.namespace.as_deref()).await?;
        let params = PatchParams::apply(self.manager).force();
        api.patch(&named.name, &params, &Patch::Apply(object)).await.map_err(self.request(format!("apply {named}")))
    }

    /// Applies objects: namespaces, then definitions (waiting until they are served), then the rest, each wave in
    /// parallel and each object again while its failure is transient.
    pub async fn apply_all(
        &self,
        objects: Vec<DynamicObject>,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let [namespaces, definitions, rest] = apply_order(objects);
        self.apply_wave(&namespaces, deadline, cancel).await?;
        self.apply_wave(&definitions, deadline, cancel).await?;
        futures::stream::iter(definitions.iter().map(|crd| self.served(crd, deadline, cancel)))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        self.apply_wave(&rest, deadline, cancel).await
    }

    async fn apply_wave(
        &self,
        objects: &[DynamicObject],
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        futures::stream::iter(objects.iter().map(|object| self.apply_patiently(object, deadline, cancel)))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await
    }

    /// Applies one object, again and again while the failure is transient.
    pub async fn apply_patiently(
        &self,
        object: &DynamicObject,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let named = reference(object);
        Wait::new(format!("{named} to be accepted by the {} cluster", self.name), deadline.left())
            .within(deadline, cancel)
            .every(Duration::from_millis(200))
            .until(async || match self.apply(object).await {
                Ok(_) => Ok(Look::Ready(())),
                Err(error) if error.transient() => Ok(Look::Pending(error.to_string())),
                Err(error) => Err(error.into()),
            })
            .await
    }

    /// Waits until the kinds of a CustomResourceDefinition appear in discovery: Established alone is too early.
    pub async fn served(
        &self,
        crd: &DynamicObject,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let spec = &crd.data["spec"];
        let group = spec["group"].as_str().unwrap_or_default();
        let kind = spec["names"]["kind"].as_str().unwrap_or_default();
        for version in spec["versions"].as_array().into_iter().flatten().filter(|v| v["served"] == true) {
            let gvk = GroupVersionKind::gvk(group, version["name"].as_str().unwrap_or_default(), kind);
            Wait::new(format!("the {} cluster to serve {kind}", self.name), deadline.left())
                .within(deadline, cancel)
                .every(Duration::from_millis(50))
                .until(async || match self.resource(&gvk).await {
                    Ok(_) => Ok(Look::Ready(())),
                    Err(error) if error.transient() => Ok(Look::Pending(error.to_string())),
                    Err(error) => Err(error.into()),
                })
                .await?;
        }
        Ok(())
    }

    /// Reads one object; `None` when there is none, or when its kind is not served.
    pub async fn get(&self, object: &ObjectRef) -> Result<Option<DynamicObject>> {
        let api = match self.api(&object.gvk(), object.namespace.as_deref()).await {
            Err(Error::UnknownKind { .. }) => return Ok(None),
            api => api?,
        };
        api.get_opt(&object.name).await.map_err(self.request(format!("read {object}")))
    }

    /// Lists a kind in one namespace or in all; empty when the kind is not served.
    pub async fn list(
        &self,
        gvk: &GroupVersionKind,
        namespace: Option<&str>,
        labels: Option<&str>,
    ) -> Result<Vec<DynamicObject>> {
        let (resource, namespaced) = match self.resource(gvk).await {
            Err(Error::UnknownKind { .. }) => return Ok(Vec::new()),
            found => found?,
        };
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) if namespaced => Api::namespaced_with(self.client.clone(), namespace, &resource),
            _ => Api::all_with(self.client.clone(), &resource),
        };
        let params = labels.map_or_else(ListParams::default, |labels| ListParams::default().labels(labels));
        let list = api.list(&params).await.map_err(self.request(format!("list {}", resource.plural)))?;
        let mut items = list.items;
        // Items of a list carry no types of their own.
        for item in &mut items {
            item.types = Some(kube::api::TypeMeta { api_version: gvk.api_version(), kind: gvk.kind.clone() });
        }
        Ok(items)
    }

    /// Deletes one object; fine when there is none.
    pub async fn delete(&self, object: &ObjectRef, params: &DeleteParams) -> Result<()> {
        let api = match self.api(&object.gvk(), object.namespace.as_deref()).await {
            Err(Error::UnknownKind { .. }) => return Ok(()),
            api => api?,
        };
        match api.delete(&object.name, params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(self.request(format!("delete {object}"))(error)),
        }
    }

    /// Patches one object with a JSON merge patch: for fields that server-side apply cannot take away.
    pub async fn merge(&self, object: &ObjectRef, patch: &Value) -> Result<DynamicObject> {
        let api = self.api(&object.gvk(), object.namespace.as_deref()).await?;
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        api.patch(&object.name, &params, &Patch::Merge(patch)).await.map_err(self.request(format!("patch {object}")))
    }

    /// The same for its status.
    pub async fn merge_status(&self, object: &ObjectRef, patch: &Value) -> Result<DynamicObject> {
        let api = self.api(&object.gvk(), object.namespace.as_deref()).await?;
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let patched = api.patch_status(&object.name, &params, &Patch::Merge(patch)).await;
        patched.map_err(self.request(format!("patch the status of {object}")))
    }

    /// The text of one key of a Secret; `None` when the Secret or the key does not exist.
    pub async fn secret_text(&self, namespace: &str, name: &str, key: &str) -> Result<Option<String>> {
        use base64::Engine as _;
        let object = self.get(&ObjectRef::namespaced("v1", "Secret", namespace, name)).await?;
        let encoded = object.as_ref().and_then(|o| o.data.pointer(&format!("/data/{key}"))).and_then(Value::as_str);
        let decoded = encoded.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        Ok(decoded.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Waits until an object is ready by [`readiness`].
    pub async fn wait_ready(
        &self,
        object: &ObjectRef,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<DynamicObject, Failure> {
        Wait::new(format!("{object} on the {} cluster to be ready", self.name), deadline.left())
            .within(deadline, cancel)
            .every(Duration::from_millis(100))
            .until(async || match self.get(object).await {
                Ok(None) => Ok(Look::Pending("it does not exist".into())),
                Ok(Some(found)) => match readiness(&found) {
                    state if state.is_ready() => Ok(Look::Ready(found)),
                    state => Ok(Look::Pending(state.state().to_owned())),
                },
                Err(error) if error.transient() => Ok(Look::Pending(error.to_string())),
                Err(error) => Err(error.into()),
            })
            .await
    }

    /// The API server's answer to `/readyz`, or why there is none.
    pub async fn api_ready(&self) -> Result<(), String> {
        let request = http::Request::get("/readyz").body(Vec::new()).map_err(|e| e.to_string())?;
        let answer = tokio::time::timeout(Duration::from_secs(2), self.client.request_text(request)).await;
        match answer {
            Ok(Ok(text)) if text.trim() == "ok" => Ok(()),
            Ok(Ok(text)) => Err(text),
            Ok(Err(error)) => Err(super::error::reason(&error)),
            Err(_) => Err("no answer within 2s".into()),
        }
    }
}

/// How a program that runs as a pod, or with KUBECONFIG set, reaches its cluster.
pub async fn own_config() -> Result<kube::Config> {
    let mut config = kube::Config::infer()
        .await
        .map_err(|e| Error::Kubeconfig { origin: "of KUBECONFIG or of this pod".into(), reason: e.to_string() })?;
    proxy::choose(&mut config);
    Ok(config)
}
