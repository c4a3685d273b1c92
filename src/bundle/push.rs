//! A bundle's images in a registry, for nodes that are no processes of this host.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::store::Bundle;
use crate::event::{Events, What};
use crate::oci::Reference;
use crate::oci::push::Registry;

/// How many images are pushed at once.
const PARALLEL: usize = 2;

/// Where an image is in such a registry: its path without the name of its own registry, as containerd asks a mirror for it.
pub fn place(reference: &Reference) -> (String, String) {
    let repository = reference.name.split_once('/').map_or(reference.name.as_str(), |(_, path)| path);
    (repository.to_owned(), reference.tag.clone().unwrap_or_else(|| "latest".into()))
}

impl Bundle {
    /// Pushes every image; what the registry has costs a question. Returns how many images it holds then.
    pub async fn push(&self, registry: &Registry, events: &Events, cancel: &CancellationToken) -> Result<u64> {
        let images: Vec<&str> = self.images().collect();
        let total = images.len() as u64;
        let done = AtomicU64::new(0);
        futures::stream::iter(images.into_iter().map(Ok::<_, Error>))
            .try_for_each_concurrent(PARALLEL, async |name| {
                if cancel.is_cancelled() {
                    return Err(Error::Interrupted);
                }
                let (repository, tag) = place(&name.parse()?);
                registry.push_image(&repository, &tag, &self.image(name)?).await?;
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                let (subject, state) = ("images".into(), "in the registry".into());
                events.send(What::Progress { subject, state, done: Some(done), total: Some(total) });
                Ok(())
            })
            .await?;
        Ok(total)
    }
}
