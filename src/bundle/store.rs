//! Reading a bundle.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::error::{Error, Result};
use super::parts::Parts;
use crate::oci::{self, Check, Descriptor, Digest, Image, Layout, REF_NAME, Reference};

/// The annotation with a part's name.
pub(super) const PART: &str = "cluster-init.dev/part";
/// The annotation with a part's version.
pub(super) const VERSION: &str = "cluster-init.dev/version";
/// The annotation with a part's kind.
pub(super) const KIND: &str = "cluster-init.dev/kind";
/// The annotation with the digest of what a part is made from.
pub(super) const KEY: &str = "cluster-init.dev/key";
/// The annotation with the version of the toolchain that made a part.
pub(super) const TOOLCHAIN: &str = "cluster-init.dev/toolchain";
/// The annotation that says what a part is for, when not every bundle has it.
pub(super) const WITH: &str = "cluster-init.dev/with";
/// The annotation that says where upstream's own image or file was pulled from, and what its digest was there.
pub(super) const UPSTREAM: &str = "cluster-init.dev/upstream";
/// The annotation with the URL in whose place a manifest stands.
pub(super) const URL: &str = "cluster-init.dev/url";

/// One entry of a bundle's index, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The part's name.
    pub part: String,
    /// The part's version.
    pub version: String,
    /// What it is for: tool, image or manifest.
    pub kind: String,
    /// What it was made with the bundle for (`docker`); most parts are in every bundle.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub with: String,
    /// The image's reference, or the manifest's URL.
    pub reference: String,
    /// Bytes of its layers.
    pub size: u64,
    /// The digest of its manifest.
    pub digest: Digest,
}

/// An open bundle; cheap to clone, and can be moved to another thread for unpacking.
#[derive(Clone, Debug)]
pub struct Bundle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    cache: PathBuf,
}

impl Bundle {
    /// Opens the bundle in `folder`; images are unpacked into folders of `cache`.
    pub fn open(folder: &Path, cache: &Path) -> Result<Self> {
        match Layout::open(folder) {
            Ok(layout) => Ok(Self::of(layout, cache)),
            Err(oci::Error::NoLayout { folder }) => Err(Error::NoBundle { folder }),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn of(layout: Layout, cache: &Path) -> Self {
        Self { inner: Arc::new(Inner { layout, cache: cache.to_owned() }) }
    }

    /// The bundle's folder.
    pub fn folder(&self) -> &Path {
        self.inner.layout.folder()
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    fn part(&self, name: &str) -> Result<&Descriptor> {
        let named = |entry: &&Descriptor| annotation(entry, PART) == name;
        self.layout()
            .entries()
            .iter()
            .find(named)
            .ok_or_else(|| Error::NoPart { name: name.into(), folder: self.folder().to_owned() })
    }

    /// What tells a part from every other version of it.
    pub fn digest_of(&self, name: &str) -> Result<String> {
        Ok(self.part(name)?.digest.to_string())
    }

    /// The program of a part (`kubectl`, `helm`, `clusterctl`, `etcd`, `kube-apiserver`, ...), unpacked.
    ///
    /// The first call for a part reads and writes its whole image; asynchronous callers use [`Bundle::tool_async`].
    pub fn tool(&self, name: &str) -> Result<PathBuf> {
        let entry = self.part(name)?;
        let broken = |source| Error::Part { name: name.into(), source };
        let image = self.layout().image(entry).map_err(broken)?;
        let config = image.config().map_err(broken)?;
        let root = image.unpack(&self.inner.cache).map_err(broken)?;
        let program = config.entrypoint.first().or(config.cmd.first()).cloned().unwrap_or_default();
        let mut places = vec![program.clone()];
        if entry.annotations.contains_key(UPSTREAM) {
            // Upstream may start a program by another one, and put it into another folder.
            let known = Parts::own()?.path(name).unwrap_or_default();
            let file = known.rsplit('/').next().unwrap_or_default().to_owned();
            places.splice(0..0, [format!("/{known}"), format!("/bin/{file}"), file]);
        }
        let found = places.iter().find_map(|place| config.find(&root, place));
        found.ok_or_else(|| Error::NoProgram { name: name.into(), program })
    }

    /// As [`Bundle::tool`], on a thread that may block.
    pub async fn tool_async(&self, name: &str) -> Result<PathBuf> {
        let (bundle, name) = (self.clone(), name.to_owned());
        blocking(move || bundle.tool(&name)).await
    }

    /// The image that a pod names.
    pub fn image(&self, reference: &str) -> Result<Image> {
        let wanted: Reference = reference.parse()?;
        self.layout().resolve(reference).map_err(|error| match error {
            oci::Error::Unknown { reference, folder } => Error::NoImage { reference, folder },
            source => Error::Part { name: self.owner(&wanted.to_string()), source },
        })
    }

    /// The folder with the image's files, unpacked when they were not; see [`Image::unpack`].
    pub fn unpack(&self, image: &Image) -> Result<PathBuf> {
        image.unpack(&self.inner.cache).map_err(|source| {
            let entry = self.layout().entries().iter().find(|entry| entry.digest == *image.digest());
            let name = entry.map_or_else(|| image.digest().to_string(), |entry| annotation(entry, PART).to_owned());
            Error::Part { name, source }
        })
    }

    /// As [`Bundle::unpack`], on a thread that may block.
    pub async fn unpack_async(&self, image: &Image) -> Result<PathBuf> {
        let (bundle, image) = (self.clone(), image.clone());
        blocking(move || bundle.unpack(&image)).await
    }

    fn owner(&self, reference: &str) -> String {
        let entry = self.layout().entries().iter().find(|entry| annotation(entry, REF_NAME) == reference);
        entry.map_or_else(|| reference.to_owned(), |entry| annotation(entry, PART).to_owned())
    }

    /// The content of the manifest that upstream publishes at `url`; `None` when the bundle does not hold it.
    pub fn manifest(&self, url: &str) -> Result<Option<Vec<u8>>> {
        let Some(entry) = self.layout().entries().iter().find(|entry| annotation(entry, URL) == url) else {
            return Ok(None);
        };
        let broken = |source| Error::Part { name: annotation(entry, PART).into(), source };
        self.layout().file_artifact(entry).map(Some).map_err(broken)
    }

    /// The URLs of all manifests.
    pub fn manifest_urls(&self) -> impl Iterator<Item = &str> {
        self.layout().entries().iter().filter_map(|entry| entry.annotations.get(URL)).map(String::as_str)
    }

    /// Whether it was made with the parts that are for something (`docker`).
    pub fn is_with(&self, what: &str) -> bool {
        self.layout().entries().iter().any(|entry| annotation(entry, WITH) == what)
    }

    /// The references of all images.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.layout().entries().iter().filter_map(|entry| entry.annotations.get(REF_NAME)).map(String::as_str)
    }

    /// Everything in the bundle: tools, manifests, images, each by name.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        for entry in self.layout().entries() {
            let part = annotation(entry, PART).to_owned();
            let manifest =
                self.layout().manifest(entry).map_err(|source| Error::Part { name: part.clone(), source })?;
            let reference = entry.annotations.get(URL).or_else(|| entry.annotations.get(REF_NAME));
            all.push(Entry {
                part,
                version: annotation(entry, VERSION).into(),
                kind: annotation(entry, KIND).into(),
                with: annotation(entry, WITH).into(),
                reference: reference.cloned().unwrap_or_default(),
                size: manifest.layers.iter().map(|layer| layer.size).sum(),
                digest: entry.digest.clone(),
            });
        }
        all.sort_by(|a, b| (b.kind.as_str(), &a.part, &a.reference).cmp(&(a.kind.as_str(), &b.part, &b.reference)));
        Ok(all)
    }

    /// Reads everything, compares it with its digests, and looks for the parts that should be there.
    pub fn verify(&self) -> Result<Verified> {
        let Check { blobs, bytes, broken } = self.layout().check();
        let mut broken: Vec<Error> = broken
            .into_iter()
            .map(|(entry, source)| Error::Part { name: annotation(&entry, PART).into(), source })
            .collect();
        let parts = Parts::own()?.all;
        let expected = parts.iter().filter(|part| part.with().is_none_or(|with| self.is_with(with)));
        broken.extend(expected.filter_map(|part| self.part(part.name()).err()));
        Ok(Verified { blobs, bytes, broken })
    }

    /// The digest of the whole bundle.
    pub fn digest(&self) -> Result<Digest> {
        Ok(self.layout().digest()?)
    }
}

/// What [`Bundle::verify`] found.
#[derive(Debug)]
pub struct Verified {
    /// Number of sound blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// One error a broken blob or missing part.
    pub broken: Vec<Error>,
}

pub(super) fn annotation<'a>(entry: &'a Descriptor, name: &str) -> &'a str {
    entry.annotations.get(name).map_or("", String::as_str)
}

/// Runs work that reads and writes a lot where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The work is never aborted, so it panicked, and so do we.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
