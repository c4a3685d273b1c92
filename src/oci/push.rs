//! Pushing to a registry.

use bytes::Bytes;
use http::HeaderValue;
use oci_client::RegistryOperation;

pub use super::artifact::Artifact;
use super::cause::Cause;
use super::digest::Digest;
use super::error::{Error, Result};
use super::image::Image;
use super::patience::Patience;
pub use super::registry::Registry;
use super::spec::media;

impl Registry {
    /// Pushes an artifact and returns the digest of its manifest.
    pub async fn push(&self, repository: &str, tag: &str, artifact: &Artifact) -> Result<Digest> {
        let target = self.tagged(repository, tag);
        Patience::new(target.to_string(), artifact.size())
            .with(&self.events, async || {
                self.login(&target, RegistryOperation::Push).await?;
                for (digest, content) in artifact.blobs() {
                    self.push_blob(&target, digest, content).await?;
                }
                self.push_manifest(&target, artifact.manifest(), media::MANIFEST).await
            })
            .await
    }

    /// Whether a tag is there, and is this artifact.
    pub async fn holds(&self, repository: &str, tag: &str, artifact: &Artifact) -> Result<bool> {
        let target = self.tagged(repository, tag);
        self.login(&target, RegistryOperation::Pull).await?;
        match self.client.fetch_manifest_digest(&target, &self.auth).await {
            Ok(digest) => Ok(digest == artifact.digest().to_string()),
            Err(error) => match self.failed("look for", &target)(error) {
                Error::Registry { source: Cause::Absent, .. } => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Pushes an image or artifact of a layout and returns the digest of its manifest; `moved` is told of bytes that no longer
    /// have to be moved.
    pub async fn push_image(
        &self,
        repository: &str,
        tag: &str,
        image: &Image,
        moved: &(dyn Fn(i64) + Sync),
    ) -> Result<Digest> {
        let target = self.tagged(repository, tag);
        let manifest = image.manifest();
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            self.upload(&target, blob, image.layout(), moved).await?;
        }
        let content = image.layout().read(image.digest())?;
        let kind = if manifest.media_type.is_empty() { media::MANIFEST } else { &manifest.media_type };
        Patience::new(target.to_string(), 0)
            .with(&self.events, async || {
                self.login(&target, RegistryOperation::Push).await?;
                self.push_manifest(&target, &content, kind).await
            })
            .await
    }

    /// Whether it has a blob.
    pub(super) async fn has(&self, target: &oci_client::Reference, digest: &Digest) -> Result<bool> {
        let found = self.client.blob_exists(target, &digest.to_string()).await;
        found.map_err(self.failed("look for a blob in", target))
    }

    async fn push_blob(&self, target: &oci_client::Reference, digest: &Digest, content: &[u8]) -> Result<()> {
        if self.has(target, digest).await? {
            return Ok(());
        }
        let content = Bytes::copy_from_slice(content);
        let pushed = self.client.push_blob(target, content, &digest.to_string()).await;
        pushed.map(|_| ()).map_err(self.failed("push a blob to", target))
    }

    async fn push_manifest(&self, target: &oci_client::Reference, manifest: &[u8], kind: &str) -> Result<Digest> {
        let bytes = Bytes::copy_from_slice(manifest);
        // A layout that others have made may say anything.
        let kind = HeaderValue::from_str(kind).map_err(|_| Error::Layer { media_type: kind.to_owned() })?;
        self.client.push_manifest_raw(target, bytes, kind).await.map_err(self.failed("push", target))?;
        Ok(Digest::of(manifest))
    }
}
