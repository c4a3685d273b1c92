//! Pushing to a registry.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
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
use crate::fsx;

/// How long a connection may take; a whole push has no limit here, its caller has one.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may be silent.
const SILENCE: Duration = Duration::from_mins(1);

/// A registry that artifacts and images are pushed to.
#[derive(Clone)]
pub struct Registry {
    host: String,
    client: Client,
    auth: RegistryAuth,
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
        Ok(Self { host: host.to_owned(), client, auth: RegistryAuth::Anonymous })
    }

    /// With the user and password that `docker login` keeps for this registry, if it does.
    pub fn with_credentials_of_docker(mut self) -> Result<Self> {
        let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
        let path = folder.map(|folder| folder.join("config.json"));
        if let Some(path) = path
            && let Some(text) = fsx::read_text_if_present(&path)?
            && let Some((user, password)) = credentials(&text, &self.host)
        {
            self.auth = RegistryAuth::Basic(user, password);
        }
        Ok(self)
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
        let result = self.client.auth(target, &self.auth, RegistryOperation::Push).await;
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

/// User and password of a registry in docker's configuration; programs that keep secrets elsewhere are not asked.
fn credentials(config: &str, host: &str) -> Option<(String, String)> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let auths = config.get("auths")?.as_object()?;
    let names = [host.to_owned(), format!("https://{host}"), format!("http://{host}")];
    let entry = names.iter().find_map(|name| auths.get(name))?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry.get("auth")?.as_str()?).ok()?;
    let (user, password) =
        String::from_utf8(decoded).ok()?.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned()))?;
    Some((user, password))
}

fn failed(
    action: &'static str,
    target: &oci_client::Reference,
) -> impl FnOnce(oci_client::errors::OciDistributionError) -> Error {
    let target = target.to_string();
    move |source| Error::Registry { action, target, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_of_docker() {
        // user:pass:word
        let config = r#"{"auths": {"registry.example.org:5000": {"auth": "dXNlcjpwYXNzOndvcmQ="}, "other": {}}}"#;
        let found = credentials(config, "registry.example.org:5000");
        assert_eq!(found, Some(("user".into(), "pass:word".into())));
        assert_eq!(credentials(config, "other"), None);
        assert_eq!(credentials(config, "example.org"), None);
        assert_eq!(credentials("no json", "other"), None);
    }
}
