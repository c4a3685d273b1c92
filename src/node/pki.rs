//! Keys and certificates: made once, kept while they are good, renewed well before they expire.
//!
//! A control plane holds the authorities' keys and certificates of one year, renewed in their last third. A worker
//! holds no authority's key, so that it cannot renew: its certificates live as long as the authority.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

use super::config::{API_SERVICE_IP, CLUSTER_DOMAIN, NodeConfig, NodeName, Paths, Role};
use crate::failure::{Failure, Result};
use crate::{clock, fsx, yaml};

const DAY: Duration = Duration::from_hours(24);
const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 3650);
const LEAF_LIFE: Duration = Duration::from_hours(24 * 365);
/// A certificate is renewed when less than this is left of its life.
const RENEW: Duration = Duration::from_hours(24 * 122);

/// Group of the network proxies, which may watch Services, EndpointSlices, Pods and Nodes.
pub const NETWORK_GROUP: &str = "cluster-init:network";

/// Keys or certificates that could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate could not be made.
    #[error("failed to make the certificate {name}: {reason}")]
    Make {
        /// Its common name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A certificate or key that is there cannot be read.
    #[error("failed to read the certificate or key {name}: {reason}")]
    Read {
        /// Its file or name.
        name: String,
        /// Why.
        reason: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from_error(error)
    }
}

/// A certificate with its private key, both PEM; the key never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyedCert {
    /// The certificate (for the service-account key: the public key).
    pub cert: String,
    /// The private key.
    pub key: String,
}

impl fmt::Debug for KeyedCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedCert(..)")
    }
}

/// The keys that make a cluster, as Cluster API keeps them in the Secrets `<cluster>-{ca,etcd,proxy,sa}`.
#[derive(Clone, Debug)]
pub struct ClusterKeys {
    /// Authority of servers and clients.
    pub ca: KeyedCert,
    /// Authority of etcd; unused here, because a single member listens on a Unix socket.
    pub etcd: KeyedCert,
    /// Authority of the API server's requests to aggregated API servers.
    pub front_proxy: KeyedCert,
    /// Signs service-account tokens; `cert` is the public key.
    pub service_account: KeyedCert,
}

impl ClusterKeys {
    /// Makes the keys of a new cluster.
    pub fn generate(cluster: &str) -> Result<Self, Error> {
        let key = new_key("service-account")?;
        Ok(Self {
            ca: authority(&format!("{cluster} ca"))?,
            etcd: authority(&format!("{cluster} etcd ca"))?,
            front_proxy: authority(&format!("{cluster} front-proxy ca"))?,
            service_account: KeyedCert { cert: key.public_key_pem(), key: key.serialize_pem() },
        })
    }
}

fn make(name: &str) -> impl Fn(rcgen::Error) -> Error {
    move |error| Error::Make { name: name.to_owned(), reason: error.to_string() }
}

fn new_key(name: &str) -> Result<KeyPair, Error> {
    KeyPair::generate().map_err(make(name))
}

/// A certificate's start and end: a day of grace for clocks that disagree.
fn validity(params: &mut CertificateParams, life: Duration) {
    let now = Duration::from_secs(u64::try_from(clock::now().as_second()).unwrap_or_default());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + life;
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

/// Makes a self-signed authority.
pub fn authority(name: &str) -> Result<KeyedCert, Error> {
    let key = new_key(name)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, AUTHORITY_LIFE);
    let cert = params.self_signed(&key).map_err(make(name))?;
    Ok(KeyedCert { cert: cert.pem(), key: key.serialize_pem() })
}

/// A certificate to be issued.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// Common name: the user's name for clients.
    pub name: &'a str,
    /// Organization: the user's group for clients.
    pub group: Option<&'a str>,
    /// DNS names and addresses of a server; a client has none.
    pub hosts: Vec<String>,
    /// How long it is good.
    pub life: Duration,
}

/// Issues a certificate with a new key; one with hosts is a server's, one without a client's.
pub fn issue(ca: &KeyedCert, leaf: &Leaf<'_>) -> Result<KeyedCert, Error> {
    let key = new_key(leaf.name)?;
    let ca_key = KeyPair::from_pem(&ca.key)
        .map_err(|e| Error::Read { name: "of the authority".into(), reason: e.to_string() })?;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, ca_key)
        .map_err(|e| Error::Read { name: "of the authority".into(), reason: e.to_string() })?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(leaf.name, leaf.group);
    for host in &leaf.hosts {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(host.as_str().try_into().map_err(make(leaf.name))?),
        });
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![if leaf.hosts.is_empty() {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    }];
    params.use_authority_key_identifier_extension = true;
    // A certificate must not outlive its authority.
    validity(&mut params, leaf.life.min(time_left(&ca.cert, "of the authority")?));
    let cert = params.signed_by(&key, &issuer).map_err(make(leaf.name))?;
    Ok(KeyedCert { cert: cert.pem(), key: key.serialize_pem() })
}

/// How long a certificate is still good; zero when it has expired.
pub fn time_left(pem: &str, name: &str) -> Result<Duration, Error> {
    let fail = |reason: String| Error::Read { name: name.to_owned(), reason };
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| fail(e.to_string()))?;
    let cert = pem.parse_x509().map_err(|e| fail(e.to_string()))?;
    let left = cert.validity().not_after.timestamp() - clock::now().as_second();
    Ok(Duration::from_secs(u64::try_from(left).unwrap_or_default()))
}

/// A kubeconfig's text; certificates are given as data or as files.
fn kubeconfig(cluster: &str, server: &str, ca: &str, user: &str, credentials: &serde_json::Value) -> Result<String> {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let context = format!("{user}@{cluster}");
    Ok(yaml::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "current-context": context,
    }))?)
}

/// A kubeconfig that holds its client certificate.
pub fn kubeconfig_with_data(cluster: &str, server: &str, ca: &str, user: &str, client: &KeyedCert) -> Result<String> {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let credentials = json!({"client-certificate-data": encode(&client.cert), "client-key-data": encode(&client.key)});
    kubeconfig(cluster, server, ca, user, &credentials)
}

/// A kubeconfig whose client certificate is in files, which clients read again when it was renewed.
fn kubeconfig_with_files(cluster: &str, server: &str, ca: &str, user: &str, pair: &Pair) -> Result<String> {
    kubeconfig(cluster, server, ca, user, &json!({"client-certificate": pair.cert, "client-key": pair.key}))
}

/// Issues the cluster administrator's kubeconfig from the cluster's authority.
pub fn admin_kubeconfig(cluster: &str, server: &str, ca: &KeyedCert) -> Result<String> {
    let user = format!("{cluster}-admin");
    let client = issue(ca, &Leaf { name: &user, group: Some("system:masters"), hosts: Vec::new(), life: LEAF_LIFE })?;
    kubeconfig_with_data(cluster, server, &ca.cert, &user, &client)
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Pair {
    /// `<name>.crt` and `<name>.key` in a folder.
    pub fn in_folder(folder: &Path, name: &str) -> Self {
        Self { cert: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) }
    }

    /// Reads both.
    pub fn read(&self) -> Result<KeyedCert> {
        Ok(KeyedCert { cert: fsx::read_text(&self.cert)?, key: fsx::read_text(&self.key)? })
    }

    fn write(&self, pair: &KeyedCert) -> Result<()> {
        fsx::write_private(&self.key, &pair.key)?;
        fsx::write_private(&self.cert, &pair.cert)?;
        Ok(())
    }

    /// Whether both are there and good for long enough.
    fn good(&self) -> Result<bool> {
        let Some(cert) = fsx::read_text_if_present(&self.cert)? else { return Ok(false) };
        if fsx::read_text_if_present(&self.key)?.is_none() {
            return Ok(false);
        }
        Ok(time_left(&cert, &self.cert.display().to_string())? > RENEW)
    }
}

/// The files of a node's certificates.
#[derive(Clone, Debug)]
pub struct Pki {
    /// The cluster's authority; its key is on control planes only.
    pub ca: Pair,
    /// Authority of the API server as a client of aggregated API servers.
    pub front_proxy_ca: Pair,
    /// The API server as a client of aggregated API servers.
    pub front_proxy_client: Pair,
    /// Key pair of service-account tokens.
    pub service_account: Pair,
    /// The API server's serving certificate.
    pub api_server: Pair,
    /// The API server as a client of kubelets.
    pub kubelet_client: Pair,
    /// Serving certificate of the controller manager and the scheduler.
    pub component: Pair,
    /// kube-controller-manager as a client.
    pub controller_manager: Pair,
    /// kube-scheduler as a client.
    pub scheduler: Pair,
    /// The kubelet role as a client.
    pub kubelet: Pair,
    /// The kubelet role's serving certificate.
    pub kubelet_server: Pair,
    /// The network proxy as a client.
    pub network: Pair,
}

impl Pki {
    /// Paths in a node's folder.
    pub fn of(paths: &Paths) -> Self {
        let pair = |name| Pair::in_folder(&paths.pki, name);
        Self {
            ca: pair("ca"),
            front_proxy_ca: pair("front-proxy-ca"),
            front_proxy_client: pair("front-proxy-client"),
            service_account: Pair { cert: paths.pki.join("sa.pub"), key: paths.pki.join("sa.key") },
            api_server: pair("apiserver"),
            kubelet_client: pair("apiserver-kubelet-client"),
            component: pair("component"),
            controller_manager: pair("controller-manager"),
            scheduler: pair("scheduler"),
            kubelet: pair("kubelet"),
            kubelet_server: pair("kubelet-server"),
            network: pair("network"),
        }
    }

    /// Writes the keys of a new control plane; those that are there stay.
    pub fn install(&self, keys: &ClusterKeys) -> Result<()> {
        for (files, pair) in [
            (&self.ca, &keys.ca),
            (&self.front_proxy_ca, &keys.front_proxy),
            (&self.service_account, &keys.service_account),
        ] {
            if fsx::read_text_if_present(&files.key)?.is_none() {
                files.write(pair)?;
            }
        }
        Ok(())
    }
}

/// Makes or renews what a control plane needs, from the authorities in its folder; returns the names of what is new.
pub fn ensure_control_plane(config: &NodeConfig, paths: &Paths) -> Result<Vec<String>> {
    let pki = Pki::of(paths);
    let ca = pki.ca.read()?;
    let mut made = Vec::new();
    let mut ensure =
        |files: &Pair, ca: &KeyedCert, name: &str, group: Option<&str>, hosts: Vec<String>| -> Result<()> {
            if !files.good()? {
                files.write(&issue(ca, &Leaf { name, group, hosts, life: LEAF_LIFE })?)?;
                made.push(name.to_owned());
            }
            Ok(())
        };
    ensure(&pki.api_server, &ca, "kube-apiserver", None, api_server_hosts(config))?;
    ensure(&pki.kubelet_client, &ca, "kube-apiserver-kubelet-client", Some("system:masters"), Vec::new())?;
    ensure(&pki.component, &ca, "component", None, vec!["localhost".into(), Ipv4Addr::LOCALHOST.to_string()])?;
    ensure(&pki.controller_manager, &ca, "system:kube-controller-manager", None, Vec::new())?;
    ensure(&pki.scheduler, &ca, "system:kube-scheduler", None, Vec::new())?;
    let front = pki.front_proxy_ca.read()?;
    ensure(&pki.front_proxy_client, &front, "front-proxy-client", None, Vec::new())?;
    let server = config.server();
    for (file, user, pair) in [
        (&paths.controller_manager, "system:kube-controller-manager", &pki.controller_manager),
        (&paths.scheduler, "system:kube-scheduler", &pki.scheduler),
    ] {
        write_if_changed(file, &kubeconfig_with_files(&config.cluster, &server, &ca.cert, user, pair)?)?;
    }
    if !admin_good(&paths.admin)? {
        fsx::write_private(&paths.admin, admin_kubeconfig(&config.cluster, &server, &ca)?)?;
        made.push("admin".into());
    }
    made.extend(ensure_node(config, paths, &ca)?);
    Ok(made)
}

/// Makes or renews what every node needs; `ca` comes with its key.
pub fn ensure_node(config: &NodeConfig, paths: &Paths, ca: &KeyedCert) -> Result<Vec<String>> {
    let pki = Pki::of(paths);
    let life = match config.role {
        Role::ControlPlane => LEAF_LIFE,
        Role::Worker => AUTHORITY_LIFE,
    };
    let user = node_user(&config.name);
    let network = format!("{NETWORK_GROUP}:{}", config.name);
    let hosts = vec![
        config.name.to_string(),
        config.node_ip().to_string(),
        "localhost".into(),
        Ipv4Addr::LOCALHOST.to_string(),
    ];
    let mut made = Vec::new();
    for (files, name, group, hosts) in [
        (&pki.kubelet, user.as_str(), Some("system:nodes"), Vec::new()),
        (&pki.kubelet_server, user.as_str(), Some("system:nodes"), hosts),
        (&pki.network, network.as_str(), Some(NETWORK_GROUP), Vec::new()),
    ] {
        if !files.good()? {
            files.write(&issue(ca, &Leaf { name, group, hosts, life })?)?;
            made.push(name.to_owned());
        }
    }
    let server = config.server();
    for (file, user, pair) in [(&paths.kubelet, &user, &pki.kubelet), (&paths.network, &network, &pki.network)] {
        write_if_changed(file, &kubeconfig_with_files(&config.cluster, &server, &ca.cert, user, pair)?)?;
    }
    Ok(made)
}

fn node_user(name: &NodeName) -> String {
    format!("system:node:{name}")
}

fn api_server_hosts(config: &NodeConfig) -> Vec<String> {
    let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let mut hosts: Vec<String> = service.iter().map(|&name| name.to_owned()).collect();
    hosts.push(format!("kubernetes.default.svc.{CLUSTER_DOMAIN}"));
    hosts.push("localhost".into());
    hosts.push(config.name.to_string());
    hosts.extend([Ipv4Addr::LOCALHOST, API_SERVICE_IP, config.node_ip()].map(|ip| ip.to_string()));
    hosts
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fsx::read_text_if_present(path)?.as_deref() != Some(text) {
        fsx::write_private(path, text)?;
    }
    Ok(())
}

/// Whether the administrator's kubeconfig is there and its certificate good for long enough.
fn admin_good(path: &Path) -> Result<bool> {
    use base64::Engine as _;
    let Some(text) = fsx::read_text_if_present(path)? else { return Ok(false) };
    let config: serde_json::Value = yaml::from_str(&text, &path.display().to_string())?;
    let Some(data) = config.pointer("/users/0/user/client-certificate-data").and_then(|data| data.as_str()) else {
        return Ok(false);
    };
    let fail = |reason: String| Error::Read { name: path.display().to_string(), reason };
    let der = base64::engine::general_purpose::STANDARD.decode(data).map_err(|e| fail(e.to_string()))?;
    Ok(time_left(&String::from_utf8_lossy(&der), &path.display().to_string())? > RENEW)
}
