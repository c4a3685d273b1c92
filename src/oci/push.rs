//! Pushing to a registry.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Uri};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};

pub use super::artifact::Artifact;
use super::digest::Digest;
use super::error::{Error, Result};
use super::image::Image;
use super::spec::media;

/// How long a connection may take; a whole push has no limit here, its caller has one.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may be silent.
const SILENCE: Duration = Duration::from_mins(1);

/// A registry that artifacts and images are pushed to.
#[derive(Clone)]
pub struct Registry {
    host: String,
    client: Client,
}

impl std::fmt::Debug for Registry {
    // The client's configuration may hold a proxy's password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.host)
    }
}

impl Registry {
    /// A registry by `HOST:PORT`. `plain_http` leaves TLS out; `proxy` is an HTTP proxy, with `USER:PASSWORD@` in it when it
    /// asks for them.
    pub fn new(host: &str, plain_http: bool, proxy: Option<&Uri>) -> Result<Self> {
        let proxy = proxy.map(ToString::to_string);
        let config = ClientConfig {
            protocol: if plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("cluster-init/", env!("CARGO_PKG_VERSION")),
            http_proxy: proxy.clone(),
            https_proxy: proxy,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|source| Error::Registry {
            action: "prepare to reach",
            target: host.to_owned(),
            source: Box::new(source),
        })?;
        Ok(Self { host: host.to_owned(), client })
    }

    /// Asks whether it answers at all.
    pub async fn answers(&self) -> Result<()> {
        self.login(&self.reference("cluster-init/none", "none")).await
    }

    fn reference(&self, repository: &str, tag: &str) -> oci_client::Reference {
        oci_client::Reference::with_tag(self.host.clone(), repository.into(), tag.into())
    }

    /// Pushes an artifact and returns the digest of its manifest.
    pub async fn push(&self, repository: &str, tag: &str, artifact: &Artifact) -> Result<Digest> {
        let target = self.reference(repository, tag);
        self.login(&target).await?;
        for (digest, content) in artifact.blobs() {
            self.push_blob(&target, digest, || Ok(content.clone())).await?;
        }
        self.push_manifest(&target, artifact.manifest()).await
    }

    /// Pushes an image of a layout and returns the digest of its manifest.
    pub async fn push_image(&self, repository: &str, tag: &str, image: &Image) -> Result<Digest> {
        let target = self.reference(repository, tag);
        self.login(&target).await?;
        let manifest = image.manifest();
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            self.push_blob(&target, &blob.digest, || image.layout().read(&blob.digest)).await?;
        }
        self.push_manifest(&target, &image.layout().read(image.digest())?).await
    }

    async fn login(&self, target: &oci_client::Reference) -> Result<()> {
        let result = self.client.auth(target, &RegistryAuth::Anonymous, RegistryOperation::Push).await;
        result.map(|_| ()).map_err(failed("reach", target))
    }

    async fn push_blob(
        &self,
        target: &oci_client::Reference,
        digest: &Digest,
        content: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<()> {
        let digest = digest.to_string();
        if self.client.blob_exists(target, &digest).await.map_err(failed("look for a blob in", target))? {
            return Ok(());
        }
        let content = Bytes::from(content()?);
        self.client.push_blob(target, content, &digest).await.map(|_| ()).map_err(failed("push a blob to", target))
    }

    async fn push_manifest(&self, target: &oci_client::Reference, manifest: &[u8]) -> Result<Digest> {
        let bytes = Bytes::copy_from_slice(manifest);
        let kind = HeaderValue::from_static(media::MANIFEST);
        self.client.push_manifest_raw(target, bytes, kind).await.map_err(failed("push", target))?;
        Ok(Digest::of(manifest))
    }
}

fn failed(
    action: &'static str,
    target: &oci_client::Reference,
) -> impl FnOnce(oci_client::errors::OciDistributionError) -> Error {
    let target = target.to_string();
    move |source| Error::Registry { action, target, source: Box::new(source) }
}
