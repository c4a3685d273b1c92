//! Writes a pod's status whenever what is known of it changes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::context::PodContext;
use super::status;
use crate::clock;

/// Annotation with the real ports of a pod's container ports.
pub const PORTS: &str = "local.cluster-init.dev/ports";

/// Changes that come together are written together.
const TOGETHER: Duration = Duration::from_millis(5);

/// Writes one pod's status.
pub struct StatusWriter {
    pod: Arc<PodContext>,
    written: Option<(PodStatus, String)>,
}

impl StatusWriter {
    /// A writer that has written nothing yet.
    pub fn new(pod: Arc<PodContext>) -> Self {
        Self { pod, written: None }
    }

    /// Writes on every change, for ever.
    pub async fn follow(&mut self) {
        let mut seen = self.pod.pod.clone();
        let mut pause = Duration::from_millis(100);
        loop {
            tokio::select! {
                () = self.pod.changed.notified() => tokio::time::sleep(TOGETHER).await,
                // Others write conditions, too: the node's controller when it has lost the node from sight.
                Ok(()) = seen.changed() => {
                    if !self.is_contradicted() {
                        continue;
                    }
                    self.written = None;
                }
            }
            while let Err(error) = self.write().await {
                if matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 409)) {
                    // The pod is gone, or has gone and come again; the watch will say so.
                    break;
                }
                tracing::debug!(pod = ?self.pod, %error, "status could not be written yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            pause = Duration::from_millis(100);
        }
    }

    /// Writes the last status; gives up when the API server does not take it for a while.
    pub async fn finish(&mut self) {
        for _ in 0..5 {
            match self.write().await {
                Ok(()) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => tracing::debug!(pod = ?self.pod, %error, "last status could not be written yet"),
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Whether somebody else says of the pod's readiness what we have not said.
    fn is_contradicted(&self) -> bool {
        let Some((written, _)) = &self.written else { return false };
        let ready = |status: &PodStatus| {
            let condition = status.conditions.iter().flatten().find(|c| c.type_ == "Ready")?;
            Some((condition.status.clone(), condition.last_transition_time.clone().map(|time| time.0)))
        };
        let pod = self.pod.pod.borrow();
        match (pod.status.as_ref().and_then(ready), ready(written)) {
            // What is older than our own word is only late.
            (Some((theirs, at)), Some((ours, our_time))) => theirs != ours && at > our_time,
            _ => false,
        }
    }

    async fn write(&mut self) -> kube::Result<()> {
        let mut object = Pod::clone(&self.pod.pod.borrow());
        if let Some((written, _)) = &self.written {
            // Our own last word is newer than what the watch has brought.
            object.status = Some(with_conditions_of(written, object.status.take().unwrap_or_default()));
        }
        let now = status::compute(&object, &self.pod.view(), clock::now());
        let ports = self.pod.ports().annotation();
        if self.written.as_ref().is_some_and(|(status, annotation)| *status == now && *annotation == ports) {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"uid": self.pod.uid, "annotations": {PORTS: ports}},
            "status": now,
        });
        let api = Api::<Pod>::namespaced(self.pod.node.client.clone(), &self.pod.namespace);
        api.patch_status(&self.pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        self.written = Some((now, ports));
        Ok(())
    }
}

/// `status` with our own conditions as they were written last.
fn with_conditions_of(written: &PodStatus, mut status: PodStatus) -> PodStatus {
    let ours = written.conditions.clone().unwrap_or_default();
    let mut conditions = status.conditions.take().unwrap_or_default();
    conditions.retain(|condition| !ours.iter().any(|own| own.type_ == condition.type_));
    conditions.extend(ours);
    status.conditions = Some(conditions);
    status
}
