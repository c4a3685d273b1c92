//! A registry: how it is reached, as whom, and what things are called there.

use std::time::Duration;

use http::Uri;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use reqwest::ClientBuilder;

use super::address::{Access, Address};
use super::cause::Cause;
use super::credentials;
use super::digest::Digest;
use super::error::{Error, Result};
use crate::event::Events;
use crate::near::is_at_hand;

/// How long a connection may take; a whole transfer has a limit of its own.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may be silent.
pub(super) const SILENCE: Duration = Duration::from_mins(1);
/// What we call ourselves.
const AGENT: &str = concat!("cluster-init/", env!("CARGO_PKG_VERSION"));

/// The client leaves the environment's proxies alone only when it is given one; this one is for no host.
const UNUSED_PROXY: &str = "http://127.0.0.1:1";
const EVERY_ADDRESS: &str = "localhost,0.0.0.0/0,::/0";

/// A registry that things are pushed to and pulled from.
#[derive(Clone)]
pub struct Registry {
    pub(super) address: Address,
    pub(super) client: Client,
    /// For what the client cannot do: uploads that go on.
    pub(super) http: reqwest::Client,
    pub(super) auth: RegistryAuth,
    pub(super) events: Events,
}

impl std::fmt::Debug for Registry {
    // The client's configuration may hold a proxy's password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.address)
    }
}

impl Access {
    /// A client for files, which servers send without long silence.
    pub fn http(&self) -> Result<reqwest::Client> {
        self.client(|builder| builder.read_timeout(SILENCE))
    }

    /// A client for plain HTTP requests.
    fn client(&self, limits: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<reqwest::Client> {
        let failed = |error: reqwest::Error| Error::Registry {
            action: "prepare to reach",
            target: "servers".into(),
            source: Cause::of_http(&error),
        };
        let certificates = self.authorities.iter().map(|der| reqwest::Certificate::from_der(der).map_err(failed));
        let mut builder = reqwest::Client::builder()
            .user_agent(AGENT)
            .connect_timeout(CONNECT)
            .tls_certs_merge(certificates.collect::<Result<Vec<_>>>()?);
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy.to_string()).map_err(failed)?);
        }
        limits(builder).build().map_err(failed)
    }
}

impl Registry {
    /// A registry by `HOST:PORT`. `plain_http` leaves TLS out; `proxy` is an HTTP proxy, with `USER:PASSWORD@` in it when it
    /// asks for them.
    pub fn new(host: &str, plain_http: bool, proxy: Option<&Uri>) -> Result<Self> {
        let address = Address { host: host.to_owned(), path: String::new(), plain_http };
        Self::at(address, &Access { proxy: proxy.cloned(), ..Access::default() })
    }

    /// A registry by its address.
    pub fn at(address: Address, access: &Access) -> Result<Self> {
        // Whatever HTTP_PROXY says and NO_PROXY does not.
        let near = access.proxy.is_none() && is_at_hand(&address.host);
        let proxy = access.proxy.as_ref().map(ToString::to_string).or_else(|| near.then(|| UNUSED_PROXY.into()));
        let certificate = |data: &Vec<u8>| Certificate { encoding: CertificateEncoding::Der, data: data.clone() };
        let config = ClientConfig {
            protocol: if address.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            use_monolithic_push: true,
            extra_root_certificates: access.authorities.iter().map(certificate).collect(),
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: AGENT,
            http_proxy: proxy.clone(),
            https_proxy: proxy,
            no_proxy: near.then(|| EVERY_ADDRESS.into()),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| Error::Registry {
            action: "prepare to reach",
            target: address.host.clone(),
            source: error.into(),
        })?;
        // A registry says nothing while it takes an upload, however long that lasts: uploads look after that themselves.
        let http = access.client(|builder| if near { builder.no_proxy() } else { builder })?;
        Ok(Self { address, client, http, auth: RegistryAuth::Anonymous, events: Events::silent() })
    }

    /// With the user and password that `docker login` keeps for this registry, if it does.
    pub async fn with_credentials_of_docker(mut self) -> Result<Self> {
        if let Some((user, password)) = credentials::find(&self.address.host).await? {
            self.auth = RegistryAuth::Basic(user, password);
        }
        Ok(self)
    }

    /// Tells of connections that were cut, and that it goes on.
    #[must_use]
    pub fn telling(mut self, events: &Events) -> Self {
        self.events = events.clone();
        self
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Asks whether it answers at all.
    pub async fn answers(&self) -> Result<()> {
        self.login(&self.tagged("cluster-init/none", "none"), RegistryOperation::Push).await
    }

    fn repository(&self, repository: &str) -> String {
        let path = &self.address.path;
        if path.is_empty() { repository.to_owned() } else { format!("{path}/{repository}") }
    }

    /// Something by its tag.
    pub(super) fn tagged(&self, repository: &str, tag: &str) -> oci_client::Reference {
        oci_client::Reference::with_tag(self.address.host.clone(), self.repository(repository), tag.into())
    }

    /// Something by its digest.
    pub(super) fn pinned(&self, repository: &str, digest: &Digest) -> oci_client::Reference {
        let digest = digest.to_string();
        oci_client::Reference::with_digest(self.address.host.clone(), self.repository(repository), digest)
    }

    /// Gets whatever the registry wants to see with requests.
    pub(super) async fn login(&self, target: &oci_client::Reference, operation: RegistryOperation) -> Result<()> {
        let result = self.client.auth(target, &self.auth, operation).await;
        result.map(|_| ()).map_err(self.failed("reach", target))
    }

    /// An error of the client as ours.
    pub(super) fn failed(
        &self,
        action: &'static str,
        target: &oci_client::Reference,
    ) -> impl FnOnce(OciDistributionError) -> Error {
        let (target, known) = (target.to_string(), self.auth != RegistryAuth::Anonymous);
        move |error| because(action, target, error.into(), known)
    }

    /// The error for a cause.
    pub(super) fn because(&self, action: &'static str, target: &oci_client::Reference, cause: Cause) -> Error {
        because(action, target.to_string(), cause, self.auth != RegistryAuth::Anonymous)
    }
}

fn because(action: &'static str, target: String, cause: Cause, known: bool) -> Error {
    match cause {
        Cause::Refused { .. } => Error::Registry { action, target, source: Cause::Refused { known } },
        Cause::Wrong { actual } => Error::Wrong { what: "the manifest".into(), from: target, actual },
        source => Error::Registry { action, target, source },
    }
}
