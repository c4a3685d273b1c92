//! Pulling from a registry into a layout.

use futures::StreamExt;
use oci_client::client::BlobResponse;
use oci_client::{Reference, RegistryOperation};
use serde::Deserialize;

use super::blocking;
use super::cause::Cause;
use super::digest::Digest;
use super::error::{Error, Result};
use super::layout::Layout;
use super::partial::Partial;
use super::patience::Patience;
use super::registry::Registry;
use super::spec::{Descriptor, media};

/// The kinds of manifest that are understood: those of OCI, and docker's, which are older and mean the same.
const ACCEPTED: [&str; 4] = [
    media::MANIFEST,
    media::INDEX,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// As much of an index of images for several processors as it takes to choose one.
#[derive(Deserialize)]
struct Images {
    #[serde(default)]
    manifests: Vec<ForPlatform>,
}

#[derive(Deserialize)]
struct ForPlatform {
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// A manifest that a tag points to.
#[derive(Clone, Debug)]
pub struct Found {
    /// The manifest as it is.
    pub manifest: Vec<u8>,
    /// The digest of what the tag points to: of the manifest, or of an index that holds it for several processors.
    pub digest: Digest,
}

impl Registry {
    /// The manifest that a tag points to; where that is an index of images, the one for Linux on a processor as OCI names it.
    pub async fn manifest_of_tag(&self, repository: &str, tag: &str, architecture: &'static str) -> Result<Found> {
        let target = self.tagged(repository, tag);
        let manifest = self.get_manifest(&target).await?;
        let digest = Digest::of(&manifest);
        let images: Images = serde_json::from_slice(&manifest)
            .map_err(|source| Error::Json { what: format!("what {target} is"), source })?;
        if images.manifests.is_empty() {
            return Ok(Found { manifest, digest });
        }
        let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture;
        let image = images.manifests.iter().find(|image| image.platform.as_ref().is_some_and(fits));
        let image = image.ok_or_else(|| Error::Platform { target: target.to_string(), architecture })?;
        Ok(Found { manifest: self.manifest(repository, &image.digest).await?, digest })
    }

    /// A manifest by its digest.
    pub async fn manifest(&self, repository: &str, digest: &Digest) -> Result<Vec<u8>> {
        let target = self.pinned(repository, digest);
        let manifest = self.get_manifest(&target).await?;
        let actual = Digest::of(&manifest);
        if actual == *digest { Ok(manifest) } else { Err(wrong("manifest", digest, &target, &actual)) }
    }

    async fn get_manifest(&self, target: &Reference) -> Result<Vec<u8>> {
        Patience::new(target.to_string(), 0)
            .with(&self.events, async || {
                self.login(target, RegistryOperation::Pull).await?;
                let pulled = self.client.pull_manifest_raw(target, &self.auth, &ACCEPTED).await;
                pulled.map(|(bytes, _)| bytes.to_vec()).map_err(self.failed("pull", target))
            })
            .await
    }

    /// Pulls a blob into a layout, where it appears when it is whole and has its digest. What is there of it goes on.
    /// `moved` is told of bytes that no longer have to be moved.
    pub async fn pull_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        layout: &Layout,
        moved: &(dyn Fn(i64) + Sync),
    ) -> Result<()> {
        let target = self.pinned(repository, &blob.digest);
        let mut partial = {
            let (layout, blob) = (layout.clone(), blob.clone());
            blocking(move || Partial::open(&layout, &blob)).await?
        };
        moved(partial.at() as i64);
        // Bytes from two sources may not fit together; those of one answer must.
        let mut pieced = partial.at() > 0;
        let what = format!("blob {} from {}/{}", blob.digest, target.registry(), target.repository());
        let mut patience = Patience::new(what, blob.size);
        loop {
            match patience.within(self.append(&target, &mut partial, moved)).await {
                Ok(()) => {
                    let (result, back) = blocking(move || (partial.finish(), partial)).await;
                    partial = back;
                    match result? {
                        None => return Ok(()),
                        Some(_) if pieced => {
                            self.events.note(format!("blob {} is wrong in pieces; it begins anew", blob.digest));
                            moved(-(blob.size as i64));
                            pieced = false;
                        }
                        Some(actual) => {
                            moved(-(blob.size as i64));
                            partial.remove()?;
                            return Err(wrong("blob", &blob.digest, &target, &actual));
                        }
                    }
                }
                Err(error) => {
                    patience.pause(error, partial.at(), &self.events).await?;
                    pieced = partial.at() > 0;
                }
            }
        }
    }

    /// Asks for what is not here yet, and adds what comes.
    async fn append(&self, target: &Reference, partial: &mut Partial, moved: &(dyn Fn(i64) + Sync)) -> Result<()> {
        if partial.is_whole() {
            return Ok(());
        }
        self.login(target, RegistryOperation::Pull).await?;
        let digest = target.digest().unwrap_or_default();
        if partial.at() > 0 {
            self.events.note(format!("blob {digest} goes on at byte {}", partial.at()));
        }
        let asked = self.client.pull_blob_stream_partial(target, digest, partial.at(), None).await;
        let mut stream = match asked.map_err(self.failed("pull a blob from", target))? {
            BlobResponse::Partial(rest) => rest.stream,
            BlobResponse::Full(all) => {
                moved(-(partial.at() as i64));
                partial.restart()?;
                all.stream
            }
        };
        let cut = |cause: Cause| self.because("pull a blob from", target, cause);
        while let Some(bytes) = stream.next().await {
            let added = partial.write(&bytes.map_err(|error| cut(Cause::of_stream(&error)))?)?;
            moved(added as i64);
            // What is behind the last byte is of no interest, nor what the client has to say of the digest.
            if partial.is_whole() {
                return Ok(());
            }
        }
        if partial.is_whole() { Ok(()) } else { Err(cut(Cause::cut("the connection ended too early"))) }
    }
}

fn wrong(kind: &str, digest: &Digest, target: &Reference, actual: &Digest) -> Error {
    Error::Wrong {
        what: format!("{kind} {digest}"),
        from: format!("{}/{}", target.registry(), target.repository()),
        actual: actual.to_string(),
    }
}
