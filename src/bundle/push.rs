//! A bundle in a registry: its images for nodes that are no processes of this host, and all of it for other hosts.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::progress::Progress;
use super::store::{Bundle, KIND, PART, VERSION, WITH, annotation};
use crate::event::Events;
use crate::oci::push::{Artifact, Registry};
use crate::oci::{self, Descriptor, Digest, REF_NAME, Reference, media};

/// How many parts are moved at once.
pub(super) const PARALLEL: usize = 4;
/// The repository of the index of a bundle.
pub(super) const INDEX: &str = "cluster-init/bundle";
/// The tag of the index: another version of this program takes other parts.
pub(super) const INDEX_TAG: &str = concat!("v", env!("CARGO_PKG_VERSION"));
/// What the index is as an artifact.
pub(super) const INDEX_TYPE: &str = "application/vnd.cluster-init.bundle.v1";
/// The kind of programs that this one starts itself; no manifest names those that nobody but us publishes.
const TOOL: &str = "tool";
/// Where nobody but us publishes.
const OWN: &str = "ghcr.io/cluster-init/";
/// The folder of the repositories of manifests.
const MANIFESTS: &str = "cluster-init/manifests";

/// Where an image is in such a registry: its path without the name of its own registry, as containerd asks a mirror for it.
pub fn place(reference: &Reference) -> (String, String) {
    let repository = reference.name.split_once('/').map_or(reference.name.as_str(), |(_, path)| path);
    (repository.to_owned(), reference.tag.clone().unwrap_or_else(|| "latest".into()))
}

/// Where an entry of a bundle's index is in such a registry.
pub(super) fn place_of(entry: &Descriptor) -> Result<(String, String)> {
    match entry.annotations.get(REF_NAME) {
        Some(name) => Ok(place(&name.parse::<Reference>()?)),
        // A tag may hold no plus, which versions may.
        None => Ok((format!("{MANIFESTS}/{}", annotation(entry, PART)), annotation(entry, VERSION).replace('+', "-"))),
    }
}

/// What a push did.
#[derive(Clone, Debug, Serialize)]
pub struct Pushed {
    /// Where to.
    pub registry: String,
    /// How many images are there now.
    pub images: u64,
    /// How many manifests.
    pub manifests: u64,
    /// The digest of the bundle.
    pub digest: Digest,
}

impl Bundle {
    /// Pushes every image and manifest, and then the index, with which [`super::pull`] makes the same bundle elsewhere. What
    /// the registry has costs a question.
    pub async fn push(&self, registry: &Registry, events: &Events, cancel: &CancellationToken) -> Result<Pushed> {
        let registry = registry.clone().telling(events);
        let pushed = cancel.run_until_cancelled(self.push_all(&registry, events)).await;
        pushed.ok_or_else(|| Error::Stopped { again: String::new() })?.map_err(Error::of_transfer)
    }

    /// Pushes only images that pods and machines are made from: those of every bundle, and those that a bundle may be made with for
    /// what is wanted.
    pub async fn push_images(
        &self,
        registry: &Registry,
        wanted: &BTreeSet<String>,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let registry = registry.clone().telling(events);
        let is_wanted = |entry: &&Descriptor| {
            let with = annotation(entry, WITH);
            entry
                .annotations
                .get(REF_NAME)
                .is_some_and(|name| annotation(entry, KIND) != TOOL || !name.starts_with(OWN))
                && (with.is_empty() || wanted.contains(with))
        };
        let entries = self.layout().entries().iter().filter(is_wanted);
        let pushed = cancel.run_until_cancelled(self.push_entries(entries, &registry, events)).await;
        pushed.ok_or_else(|| Error::Stopped { again: String::new() })?.map_err(Error::of_transfer)
    }

    async fn push_all(&self, registry: &Registry, events: &Events) -> Result<Pushed> {
        self.push_entries(self.layout().entries().iter(), registry, events).await?;
        // The last of all: whoever finds it finds everything.
        let index = Artifact::file(INDEX_TYPE, media::INDEX, self.layout().index_bytes()?)?;
        registry.push(INDEX, INDEX_TAG, &index).await?;
        let images = self.images().count() as u64;
        Ok(Pushed {
            registry: registry.address().to_string(),
            images,
            manifests: self.layout().entries().len() as u64 - images,
            digest: self.digest()?,
        })
    }

    async fn push_entries(
        &self,
        entries: impl Iterator<Item = &Descriptor>,
        registry: &Registry,
        events: &Events,
    ) -> Result<()> {
        // Two references may mean one place: the same image under the names of two registries.
        let mut places: BTreeMap<(String, String), &Descriptor> = BTreeMap::new();
        for entry in entries {
            places.insert(place_of(entry)?, entry);
        }
        let mut parts = Vec::new();
        for (place, entry) in places {
            let image = self.layout().image(entry).map_err(|source| damaged(entry, source))?;
            parts.push((place, entry, image));
        }
        let size = |image: &oci::Image| image.size() + image.manifest().config.size;
        let bytes = parts.iter().map(|(_, _, image)| size(image)).sum();
        let progress = Progress::new(events, "in the registry", parts.len() as u64, bytes);
        futures::stream::iter(parts.into_iter().map(Ok::<_, Error>))
            .try_for_each_concurrent(PARALLEL, async |((repository, tag), entry, image)| {
                let moved = |bytes: i64| progress.moved(bytes);
                let pushed = registry.push_image(&repository, &tag, &image, &moved).await;
                pushed.map_err(|source| damaged(entry, source))?;
                progress.part();
                Ok(())
            })
            .await
    }
}

/// What is wrong with the bundle is told with its part, and so with what repairs it.
fn damaged(entry: &Descriptor, source: oci::Error) -> Error {
    if source.blob().is_some() {
        Error::Part { name: annotation(entry, PART).to_owned(), source }
    } else {
        Error::Layout(source)
    }
}
