//! Keeps a pod's volumes filled: before its containers start, and while its sources change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::atomic::{self, Files};
use super::context::PodContext;
use super::objects::{Seen, Watched, brief};
use super::volumes::{Filling, Part, Volume, check_host_path, inner, object_files};
use super::{downward, volumes};
use crate::{clock, fsx};

/// How far a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filled {
    Beginning,
    Waiting(String),
    Done,
}

/// A pod's volumes while it lives; dropping them ends their upkeep.
#[derive(Debug)]
pub struct Mounts {
    states: Vec<watch::Receiver<Filled>>,
    _upkeep: JoinSet<()>,
}

impl Mounts {
    /// Begins to fill a pod's volumes.
    pub fn start(pod: &Arc<PodContext>, volumes: &[Volume]) -> Self {
        let mut upkeep = JoinSet::new();
        let mut states = Vec::new();
        for volume in volumes {
            let (sender, receiver) = watch::channel(Filled::Beginning);
            states.push(receiver);
            upkeep.spawn(Keeper::new(pod.clone(), volume.clone()).keep(sender));
        }
        Self { states, _upkeep: upkeep }
    }

    /// Waits until every volume is filled; `waiting` hears why one is not.
    pub async fn ready(&mut self, mut waiting: impl FnMut(&str)) {
        for state in &mut self.states {
            loop {
                let now = state.borrow_and_update().clone();
                match now {
                    Filled::Done => break,
                    Filled::Waiting(reason) => waiting(&reason),
                    Filled::Beginning => {}
                }
                if state.changed().await.is_err() {
                    // Its keeper ends only after a success, or with the pod.
                    break;
                }
            }
        }
    }
}

struct Token {
    text: String,
    renew: Instant,
}

/// Keeps one volume.
struct Keeper {
    pod: Arc<PodContext>,
    volume: Volume,
    watched: Vec<Option<Arc<Watched>>>,
    tokens: Vec<Option<Token>>,
}

impl Keeper {
    fn new(pod: Arc<PodContext>, volume: Volume) -> Self {
        let parts: &[Part] = match &volume.filling {
            Filling::Files(parts) => parts,
            _ => &[],
        };
        let watched = parts
            .iter()
            .map(|part| match part {
                Part::Object { source, .. } => Some(pod.node.objects.watch(&pod.namespace, source)),
                _ => None,
            })
            .collect();
        let tokens = parts.iter().map(|_| None).collect();
        Self { pod, volume, watched, tokens }
    }

    async fn keep(mut self, state: watch::Sender<Filled>) {
        let name = self.volume.name.clone();
        let mut failures = 0;
        let waiting = |reason: String| Filled::Waiting(format!("volume {name:?}: {reason}"));
        loop {
            let parts = match &self.volume.filling {
                Filling::Empty => {
                    let made = fsx::create_private_dir(&self.volume.real);
                    state.send_replace(made.map_or_else(|error| waiting(error.to_string()), |()| Filled::Done));
                    return;
                }
                Filling::Host(source) => {
                    let checked = check_host_path(source, &self.pod.node.config.allowed_host_paths);
                    let done = checked.is_ok();
                    state.send_replace(checked.map_or_else(&waiting, |()| Filled::Done));
                    if done {
                        return;
                    }
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    continue;
                }
                Filling::Files(parts) => parts.clone(),
            };
            // Receivers are made before the sources are looked at, so that no change falls between.
            let mut changes: Vec<BoxFuture<'static, ()>> = Vec::new();
            for watched in self.watched.iter().flatten() {
                let mut seen = watched.seen();
                seen.mark_unchanged();
                changes.push(changed(seen).boxed());
            }
            if parts.iter().any(|part| matches!(part, Part::Downward { .. })) {
                let mut pod = self.pod.pod.clone();
                pod.mark_unchanged();
                changes.push(changed(pod).boxed());
            }
            let written = match self.collect(&parts).await {
                Ok(Some(files)) => atomic::write(&self.volume.real, &files).map(|_| true).map_err(|e| e.to_string()),
                Ok(None) => Ok(false),
                Err(reason) => Err(reason),
            };
            let again = match written {
                Ok(true) => {
                    failures = 0;
                    state.send_replace(Filled::Done);
                    self.tokens.iter().flatten().map(|token| token.renew).min()
                }
                Ok(false) => None,
                Err(reason) => {
                    // The API server's authorizer often learns of a pod a moment after we do: soon again at first, and
                    // quietly.
                    failures += 1;
                    let pause = Duration::from_millis(20 << failures.min(8)).min(Duration::from_secs(5));
                    // What was there stays for a pod that runs already.
                    if *state.borrow() == Filled::Done {
                        tracing::debug!(pod = ?self.pod, volume = name, reason, "volume keeps its content");
                    } else if failures > 4 || !self.has_token() {
                        state.send_replace(waiting(reason));
                    }
                    Some(Instant::now() + pause)
                }
            };
            let timer = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            changes.push(Box::pin(std::future::pending()));
            tokio::select! {
                _ = select_all(changes) => {}
                () = timer => {}
            }
        }
    }

    fn has_token(&self) -> bool {
        matches!(&self.volume.filling, Filling::Files(parts) if parts.iter().any(|part| matches!(part, Part::Token { .. })))
    }

    /// The volume's files; `None` while a source was not looked at yet.
    async fn collect(&mut self, parts: &[Part]) -> Result<Option<Files>, String> {
        let mut files = Files::new();
        for (index, part) in parts.iter().enumerate() {
            match part {
                Part::Object { source, items, optional, mode } => {
                    let seen = self.watched[index].as_ref().map(|watched| watched.seen().borrow().clone());
                    match seen {
                        Some(Seen::Present(content)) => {
                            files.extend(object_files(source, &content, items, *optional, *mode)?);
                        }
                        Some(Seen::Missing) if *optional => {}
                        Some(Seen::Missing) => return Err(format!("{} {:?} not found", source.kind, source.name)),
                        _ => return Ok(None),
                    }
                }
                Part::Downward { items, mode } => {
                    for item in items {
                        files.insert(
                            inner(&item.path)?,
                            (self.fact(item)?, item.mode.map_or(*mode, |m| m as u32 & 0o777)),
                        );
                    }
                }
                Part::Token { path, audience, seconds, mode } => {
                    let text = self.token(index, audience.as_deref(), *seconds).await?;
                    files.insert(inner(path)?, (text.into_bytes(), *mode));
                }
            }
        }
        Ok(Some(files))
    }

    fn fact(&self, item: &k8s_openapi::api::core::v1::DownwardAPIVolumeFile) -> Result<Vec<u8>, String> {
        let value = self.pod.with_facts(|facts| {
            if let Some(field) = &item.field_ref {
                return downward::field(&field.field_path, facts);
            }
            let Some(selector) = &item.resource_field_ref else { return Ok(String::new()) };
            let spec = facts.pod.spec.as_ref();
            let container = spec.and_then(|s| s.containers.first()).ok_or("the pod has no container")?;
            downward::resource(container, selector, facts)
        })?;
        Ok(value.into_bytes())
    }

    async fn token(&mut self, index: usize, audience: Option<&str>, seconds: i64) -> Result<String, String> {
        let held = self.tokens[index].as_ref();
        if let Some(token) = held.filter(|token| token.renew > Instant::now()) {
            return Ok(token.text.clone());
        }
        let account = self.pod.spec().service_account_name.unwrap_or_else(|| "default".into());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audience.map(str::to_owned).into_iter().collect()),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(self.pod.name.clone()),
                    uid: Some(self.pod.uid.clone()),
                }),
            }),
            ..TokenRequest::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.pod.node.client.clone(), &self.pod.namespace);
        let status = accounts
            .create_token_request(&account, &PostParams::default(), &request)
            .await
            .map_err(|error| format!("no token for ServiceAccount {account}: {}", brief(&error)))?
            .status
            .unwrap_or_default();
        // As the kubelet: renewed when a fifth of its life is left, and at least once a day.
        let text = status.token.unwrap_or_default();
        let end = status.expiration_timestamp.map_or_else(clock::now, |time| time.0);
        let life = end.duration_since(clock::now()).unsigned_abs();
        let renew = Instant::now() + (life.mul_f64(0.8)).min(Duration::from_hours(24));
        self.tokens[index] = Some(Token { text: text.clone(), renew });
        Ok(text)
    }
}

async fn changed<T>(mut receiver: watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        // Its sender is gone: it never changes again.
        std::future::pending::<()>().await;
    }
}

/// The container's paths with what is really behind them.
pub fn paths(
    container: &k8s_openapi::api::core::v1::Container,
    volumes: &[Volume],
    env: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<(String, PathBuf)>, String> {
    let mut paths = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = volumes
            .iter()
            .find(|volume| volume.name == mount.name)
            .ok_or_else(|| format!("mount {:?} names no volume of the pod", mount.name))?;
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) => path.clone(),
            (None, Some(expression)) => super::env::expand(expression, env),
            (None, None) => String::new(),
        };
        let real = volume.real.join(volumes::inner(&sub)?);
        // A sub path of a writable volume is made; of a volume with files it must be one of them.
        if !sub.is_empty() && !real.exists() && !matches!(volume.filling, Filling::Files(_)) {
            fsx::create_private_dir(&real).map_err(|e| e.to_string())?;
        }
        paths.push((mount.mount_path.clone(), real));
    }
    Ok(paths)
}
