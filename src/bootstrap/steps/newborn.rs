//! What the management cluster is made of is introduced to its controllers as soon as it is there.

use std::collections::HashSet;

use crate::bootstrap::story::Side;
use crate::capi;

/// Goes on until it is dropped. What fails costs time, and nothing else; it is not in the journal, for a run that goes on sees what is new.
pub async fn introduced(side: &Side) {
    let mut changes = side.live.changes();
    let mut known = HashSet::new();
    loop {
        for object in side.live.snapshot().iter() {
            if !capi::newborn(object) || !known.insert(object.metadata.uid.clone()) {
                continue;
            }
            if let Err(error) = capi::introduce(&side.cluster, object).await {
                tracing::debug!(%error, "its controller will begin with it");
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
