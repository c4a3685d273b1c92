//! Keeps the view true: one watch a kind.

use std::fmt::Debug;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::view::{Target, View};

/// How long a connection waits for its Service to get a ready endpoint: shorter than any caller's patience, longer
/// than the way of a change through the API server.
const PATIENCE: Duration = Duration::from_secs(3);

/// A view that can be waited on.
#[derive(Debug)]
pub struct Live {
    view: RwLock<View>,
    changes: watch::Sender<u64>,
}

impl Live {
    /// Wraps a view.
    pub fn new(view: View) -> Self {
        Self { view: RwLock::new(view), changes: watch::Sender::new(0) }
    }

    /// Resolves, waiting a little while the target is not available yet.
    pub async fn resolve(&self, host: &str, port: u16) -> Target {
        let mut changes = self.changes.subscribe();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let target = self.view.read().unwrap_or_else(PoisonError::into_inner).resolve(host, port);
            let Target::Unavailable(_) = target else { return target };
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return target,
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Watches everything the view is made of; never ends by itself.
pub async fn run(client: Client, live: std::sync::Arc<Live>) {
    tokio::join!(
        follow::<Service>(&client, &live, "Service", View::set_service, View::drop_service),
        follow::<EndpointSlice>(&client, &live, "EndpointSlice", View::set_slice, View::drop_slice),
        follow::<Pod>(&client, &live, "Pod", View::set_pod, View::drop_pod),
        follow::<Node>(&client, &live, "Node", View::set_node, View::drop_node),
    );
}

async fn follow<K>(client: &Client, live: &Live, kind: &str, set: fn(&mut View, &K), forget: fn(&mut View, &K))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::all(client.clone());
    let mut events = watcher(api, watcher::Config::default().any_semantic()).boxed();
    let mut fresh = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => fresh.clear(),
            Ok(watcher::Event::InitApply(object)) => fresh.push(object),
            Ok(watcher::Event::InitDone) => live.change(|view| {
                view.clear(kind);
                for object in fresh.drain(..) {
                    set(view, &object);
                }
            }),
            Ok(watcher::Event::Apply(object)) => live.change(|view| set(view, &object)),
            Ok(watcher::Event::Delete(object)) => live.change(|view| forget(view, &object)),
            Err(error) => {
                // The API server starts, restarts or throttles; what is known stays in force meanwhile.
                tracing::debug!(kind, %error, "watch broke");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
