//! Filling a bundle: from a registry that another bundle was pushed to, or from upstream's own registries and releases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex as Guarded;
use std::sync::PoisonError;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::build::enough_disk;
use super::error::{Error, REPAIR, Result};
use super::progress::Progress;
use super::push::{INDEX, INDEX_TAG, PARALLEL, place_of};
use super::site::Site;
use super::store::{PART, annotation, blocking};
use super::toolchain::Toolchain;
use super::upstream;
use crate::event::Events;
use crate::fsx;
use crate::oci::{self, Address, Descriptor, Digest, Index, Layout, Manifest, Registry};

/// How many manifests are asked for at once; they are small.
const QUESTIONS: usize = 8;

/// Where a bundle is pulled from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A registry that [`super::Bundle::push`] has filled.
    Registry {
        /// Where it is.
        address: Address,
        /// The digest of the bundle, when no other is wanted.
        digest: Option<Digest>,
    },
    /// Images from the registries that their names say, manifests from their releases' URLs.
    Upstream {
        /// What else it is for (`docker`), beside what it was made with before.
        with: Vec<String>,
        /// This program's file, which is a part, too.
        program: PathBuf,
    },
}

impl Origin {
    /// The command that goes on.
    fn again(&self) -> String {
        match self {
            Self::Registry { address, .. } => format!("cluster-init bundle pull {address}"),
            Self::Upstream { .. } => "cluster-init bundle pull".into(),
        }
    }
}

/// What a pull did.
#[derive(Clone, Debug, Serialize)]
pub struct Pulled {
    /// The bundle's folder.
    pub folder: PathBuf,
    /// Digest of the whole bundle.
    pub digest: Digest,
    /// Parts of which something came.
    pub pulled: Vec<String>,
    /// Number of parts that were there.
    pub kept: usize,
    /// Bytes that came, with what a pull that was cut had left.
    pub moved: u64,
}

/// Something that is to be in the bundle.
pub(super) struct Wanted {
    /// The part's name.
    pub(super) part: String,
    /// Its entries of the index, which all have the same digest.
    pub(super) entries: Vec<Descriptor>,
    /// Who may have it, in the order in which they are asked.
    pub(super) registries: Vec<Registry>,
    /// The repository there.
    pub(super) repository: String,
}

/// Fills a bundle. What is there and sound is not moved again, and what is not gets into the bundle when it has its digest.
pub async fn pull(folder: PathBuf, from: Origin, site: &Site, cancel: &CancellationToken) -> Result<Pulled> {
    let again = from.again();
    fsx::create_dir(&folder)?;
    let lock = folder.join(".lock");
    let _lock = fsx::Lock::try_take(&lock)?.map_err(|holder| Error::Busy { folder: folder.clone(), holder })?;
    let layout = Layout::open_or_create(&folder)?;
    let filling = Filling {
        folder,
        layout: Guarded::new(layout),
        site,
        cells: Guarded::default(),
        failed: Guarded::default(),
        pulled: Guarded::default(),
    };
    let pulled = cancel.run_until_cancelled(filling.fill(from)).await;
    let pulled = pulled.unwrap_or_else(|| Err(Error::Stopped { again: String::new() }));
    pulled.map_err(|error| error.of_transfer().going_on_with(&again))
}

/// A bundle that is being filled.
pub(super) struct Filling<'a> {
    folder: PathBuf,
    layout: Guarded<Layout>,
    pub(super) site: &'a Site,
    /// Blobs that are there, or on their way: those that images share are moved once.
    cells: Guarded<BTreeMap<Digest, std::sync::Arc<OnceCell<()>>>>,
    failed: Guarded<Vec<(String, oci::Error)>>,
    pulled: Guarded<BTreeSet<String>>,
}

fn lock<T>(guarded: &Guarded<T>) -> std::sync::MutexGuard<'_, T> {
    guarded.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Filling<'_> {
    /// The layout as it is now.
    pub(super) fn layout(&self) -> Layout {
        lock(&self.layout).clone()
    }

    fn events(&self) -> &Events {
        self.site.events()
    }

    async fn fill(&self, from: Origin) -> Result<Pulled> {
        let (wanted, total, hint) = match from {
            Origin::Registry { address, digest } => {
                let wanted = self.pushed(&address, digest.as_ref()).await?;
                let hint = format!("put what is missing there: cluster-init bundle push {address}");
                let total = wanted.len();
                (wanted, total, hint)
            }
            Origin::Upstream { with, program } => {
                let (wanted, total) = upstream::wanted(self, &with, program).await?;
                (wanted, total, format!("make what cannot be pulled: {REPAIR}"))
            }
        };
        let whole = self.manifests(wanted).await?;
        let moved = self.blobs(whole).await?;
        let failed = std::mem::take(&mut *lock(&self.failed));
        if !failed.is_empty() {
            return Err(Error::Incomplete { failed, total, hint, again: String::new() });
        }
        let layout = self.layout();
        layout.remove_partial()?;
        layout.prune()?;
        let pulled: Vec<String> = lock(&self.pulled).iter().cloned().collect();
        let (folder, digest) = (self.folder.clone(), layout.digest()?);
        Ok(Pulled { folder, digest, kept: total.saturating_sub(pulled.len()), pulled, moved })
    }

    /// What a registry has of a bundle, by the index that was pushed last.
    async fn pushed(&self, address: &Address, digest: Option<&Digest>) -> Result<Vec<Wanted>> {
        let registries = self.site.registries(address).await?;
        let index = self.index(&registries).await?;
        let actual = Digest::of(&index);
        if let Some(digest) = digest.filter(|digest| **digest != actual) {
            let (registry, wanted) = (address.to_string(), digest.clone());
            return Err(Error::OtherBundle { registry, wanted, actual });
        }
        let what = || format!("the index of the bundle in {address}");
        let index: Index =
            serde_json::from_slice(&index).map_err(|source| oci::Error::Json { what: what(), source })?;
        let mut parts: BTreeMap<(String, Digest), Wanted> = BTreeMap::new();
        for entry in index.manifests {
            let (part, repository) = (annotation(&entry, PART).to_owned(), place_of(&entry)?.0);
            let wanted = parts.entry((part.clone(), entry.digest.clone())).or_insert_with(|| Wanted {
                part,
                entries: Vec::new(),
                registries: registries.clone(),
                repository,
            });
            wanted.entries.push(entry);
        }
        Ok(parts.into_values().collect())
    }

    async fn index(&self, registries: &[Registry]) -> Result<Vec<u8>> {
        let layout = self.layout();
        let mut reason = None;
        for registry in registries {
            let index = async {
                let found = registry.manifest_of_tag(INDEX, INDEX_TAG, Toolchain::architecture()).await?;
                let what = "what was pushed as the index of a bundle".to_owned();
                let manifest: Manifest =
                    serde_json::from_slice(&found.manifest).map_err(|source| oci::Error::Json { what, source })?;
                let [blob] = manifest.layers.as_slice() else { return Ok(None) };
                registry.pull_blob(INDEX, blob, &layout, &|_| ()).await?;
                layout.read(&blob.digest).map(Some)
            };
            match index.await {
                Ok(Some(index)) => return Ok(index),
                Ok(None) | Err(oci::Error::Registry { source: oci::Cause::Absent, .. }) => {}
                Err(error) => _ = reason.get_or_insert(error),
            }
        }
        let registry = registries.last().map(|registry| registry.address().to_string()).unwrap_or_default();
        Err(reason.map_or_else(|| Error::NotPushed { registry, tag: INDEX_TAG }, Error::Layout))
    }

    /// Notes what cannot be had, so that the rest can come; gives back what stands in the way of everything.
    pub(super) fn miss(&self, part: &str, error: Error) -> Result<()> {
        match error {
            Error::Layout(error) if error.is_of_object() => {
                lock(&self.failed).push((part.to_owned(), error));
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Gets the manifests, which tell the blobs.
    async fn manifests(&self, wanted: Vec<Wanted>) -> Result<Vec<Wanted>> {
        let layout = self.layout();
        let got = futures::stream::iter(wanted).map(async |wanted| {
            let Some(entry) = wanted.entries.first() else { return Ok(None) };
            if layout.manifest(entry).is_ok() {
                return Ok(Some(wanted));
            }
            let ask = async |registry: &Registry| {
                let manifest = registry.manifest(&wanted.repository, &entry.digest).await?;
                layout.add(&entry.media_type, &manifest).map(|_| ())
            };
            match first(&wanted.registries, ask).await {
                Ok(()) => {
                    lock(&self.pulled).insert(wanted.part.clone());
                    Ok(Some(wanted))
                }
                Err(error) => self.miss(&wanted.part, error).map(|()| None),
            }
        });
        let got: Vec<Option<Wanted>> = got.buffer_unordered(QUESTIONS).try_collect().await?;
        Ok(got.into_iter().flatten().collect())
    }

    /// Gets the blobs, and has each part in the index as soon as it is complete; returns the bytes that were moved.
    async fn blobs(&self, wanted: Vec<Wanted>) -> Result<u64> {
        let layout = self.layout();
        let mut needed: BTreeMap<Digest, u64> = BTreeMap::new();
        for wanted in &wanted {
            for entry in &wanted.entries {
                let blobs = layout.closure(entry)?;
                needed.extend(blobs.into_iter().map(|blob| (blob.digest, blob.size)));
            }
        }
        let missing = {
            let layout = layout.clone();
            blocking(move || missing(&layout, needed)).await
        };
        let bytes = missing.values().sum();
        enough_disk(&[(&self.folder, bytes)], |path| Ok((fsx::device(path)?, fsx::free_bytes(path)?)))?;
        let progress = Progress::new(self.events(), "in the bundle", wanted.len() as u64, bytes);
        futures::stream::iter(wanted.into_iter().map(Ok::<_, Error>))
            .try_for_each_concurrent(PARALLEL, async |wanted| match self.part(&wanted, &missing, &progress).await {
                Ok(()) => {
                    progress.part();
                    Ok(())
                }
                Err(error) => self.miss(&wanted.part, error),
            })
            .await?;
        Ok(progress.bytes())
    }

    async fn part(&self, wanted: &Wanted, missing: &BTreeMap<Digest, u64>, progress: &Progress<'_>) -> Result<()> {
        let layout = self.layout();
        let Some(entry) = wanted.entries.first() else { return Ok(()) };
        for blob in layout.closure(entry)? {
            if !missing.contains_key(&blob.digest) {
                continue;
            }
            let cell = lock(&self.cells).entry(blob.digest.clone()).or_default().clone();
            cell.get_or_try_init(async || {
                let moved = |bytes: i64| progress.moved(bytes);
                let ask =
                    async |registry: &Registry| registry.pull_blob(&wanted.repository, &blob, &layout, &moved).await;
                first(&wanted.registries, ask).await
            })
            .await?;
            lock(&self.pulled).insert(wanted.part.clone());
        }
        self.index_part(&wanted.part, &wanted.entries)
    }

    /// Puts a part that is complete into the index, in the place of what was there of it.
    pub(super) fn index_part(&self, part: &str, entries: &[Descriptor]) -> Result<()> {
        let mut layout = lock(&self.layout);
        let others = layout.entries().iter().filter(|entry| annotation(entry, PART) != part);
        let all: Vec<Descriptor> = others.chain(entries).cloned().collect();
        Ok(layout.set_entries(all)?)
    }

    /// Notes a part of which something came.
    pub(super) fn came(&self, part: &str) {
        lock(&self.pulled).insert(part.to_owned());
    }
}

/// Asks one registry after the other. When none has it, the first one's reason counts: where there is a mirror, upstream is
/// often not reachable at all.
pub(super) async fn first<T>(registries: &[Registry], ask: impl AsyncFn(&Registry) -> oci::Result<T>) -> Result<T> {
    let mut reason = None;
    for registry in registries {
        match ask(registry).await {
            Ok(value) => return Ok(value),
            Err(error) => _ = reason.get_or_insert(error),
        }
    }
    let nobody = || oci::Error::Registry { action: "find", target: "it".into(), source: oci::Cause::Absent };
    Err(reason.unwrap_or_else(nobody).into())
}

/// The blobs that are not here with their digest and their size.
fn missing(layout: &Layout, needed: BTreeMap<Digest, u64>) -> BTreeMap<Digest, u64> {
    needed.into_iter().filter(|(digest, size)| layout.verify(digest).ok() != Some(*size)).collect()
}
