//! The Secrets of a cluster: its keys, its kubeconfig, and the bootstrap data of its Machines.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::context::Context;
use super::core::{CLUSTER_LABEL, SECRET_TYPE};
use super::error::{Error, Result};
use super::types::ApiEndpoint;
use crate::node::{ClusterKeys, KeyedCert, Node, pki};
use crate::{fsx, yaml};

/// Manager of the fields of Secrets.
const MANAGER: &str = "cluster-init-local-secrets";

/// A kubeconfig is made anew when its certificate has less than this left, half of its life.
const KUBECONFIG_RENEW: Duration = Duration::from_hours(24 * 182);

/// Name of the Secret with the kubeconfig.
pub fn kubeconfig_name(cluster: &str) -> String {
    format!("{cluster}-kubeconfig")
}

/// Name of the Secret with the bootstrap data of workers; MachineDeployments name it.
pub fn worker_bootstrap_name(cluster: &str) -> String {
    format!("{cluster}-worker-bootstrap")
}

/// Name of the Secret with the bootstrap data of control planes.
pub fn control_plane_bootstrap_name(cluster: &str) -> String {
    format!("{cluster}-control-plane-bootstrap")
}

/// Where a cluster's Secrets are and to whom they belong.
#[derive(Clone, Debug)]
pub struct Owned<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// The cluster's name.
    pub cluster: &'a str,
    /// Owner reference.
    pub owner: Value,
}

/// Keys that are there.
#[derive(Clone, Debug, Default)]
pub struct Found {
    ca: Option<KeyedCert>,
    etcd: Option<KeyedCert>,
    proxy: Option<KeyedCert>,
    sa: Option<KeyedCert>,
}

impl Found {
    /// All keys, when none is missing.
    pub fn complete(&self) -> Option<ClusterKeys> {
        Some(ClusterKeys {
            ca: self.ca.clone()?,
            etcd: self.etcd.clone()?,
            front_proxy: self.proxy.clone()?,
            service_account: self.sa.clone()?,
        })
    }

    /// Keys of a running node, which are the truth when Secrets were lost.
    pub fn of_node(node: &Node) -> Self {
        let files = pki::Pki::of(node.paths());
        Self {
            ca: files.ca.read().ok(),
            etcd: None,
            proxy: files.front_proxy_ca.read().ok(),
            sa: files.service_account.read().ok(),
        }
    }

    /// These keys, and where one is missing the other's.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            ca: self.ca.or(other.ca),
            etcd: self.etcd.or(other.etcd),
            proxy: self.proxy.or(other.proxy),
            sa: self.sa.or(other.sa),
        }
    }

    fn of_keys(keys: ClusterKeys) -> Self {
        Self { ca: Some(keys.ca), etcd: Some(keys.etcd), proxy: Some(keys.front_proxy), sa: Some(keys.service_account) }
    }

    fn parts(&self) -> [(&'static str, Option<&KeyedCert>); 4] {
        [
            ("ca", self.ca.as_ref()),
            ("etcd", self.etcd.as_ref()),
            ("proxy", self.proxy.as_ref()),
            ("sa", self.sa.as_ref()),
        ]
    }
}

/// Reads a cluster's keys.
pub async fn read_keys(context: &Context, namespace: &str, cluster: &str) -> Result<Found> {
    let pair = |part| read_pair(context, namespace, format!("{cluster}-{part}"));
    let (ca, etcd, proxy, sa) = futures::try_join!(pair("ca"), pair("etcd"), pair("proxy"), pair("sa"))?;
    Ok(Found { ca, etcd, proxy, sa })
}

async fn read_pair(context: &Context, namespace: &str, name: String) -> Result<Option<KeyedCert>> {
    let Some(secret) = context.recent_secret(namespace, &name).await? else { return Ok(None) };
    Ok(Some(KeyedCert { cert: required(&secret, "tls.crt")?, key: required(&secret, "tls.key")? }))
}

/// Makes the key Secrets that are missing: from `node`, when a node of the cluster runs, else with new keys.
pub async fn ensure_keys(context: &Context, owned: &Owned<'_>, node: Option<&Node>) -> Result<ClusterKeys> {
    let found = read_keys(context, owned.namespace, owned.cluster).await?;
    if let Some(keys) = found.complete() {
        return Ok(keys);
    }
    let made = match node {
        Some(node) => Found::of_node(node).or(Found::of_keys(generate(owned.cluster)?)),
        None => Found::of_keys(generate(owned.cluster)?),
    };
    for ((part, there), (_, new)) in found.parts().into_iter().zip(made.parts()) {
        if let (None, Some(pair)) = (there, new) {
            let data = json!({"tls.crt": STANDARD.encode(&pair.cert), "tls.key": STANDARD.encode(&pair.key)});
            write(context, owned, &format!("{}-{part}", owned.cluster), &data).await?;
            tracing::info!(cluster = owned.cluster, part, from_node = node.is_some(), "key Secret made");
        }
    }
    found.or(made).complete().ok_or_else(|| Error::Secret {
        name: format!("{}/{}-*", owned.namespace, owned.cluster),
        reason: "keys are missing".into(),
    })
}

fn generate(cluster: &str) -> Result<ClusterKeys> {
    ClusterKeys::generate(cluster).map_err(|error| Error::Host(error.into()))
}

/// Makes the kubeconfig Secret, or makes it anew when it is about to expire or means another server or authority.
pub async fn ensure_kubeconfig(
    context: &Context,
    owned: &Owned<'_>,
    endpoint: &ApiEndpoint,
    ca: &KeyedCert,
) -> Result<String> {
    let server = format!("https://{}:{}", endpoint.host, endpoint.port);
    let name = kubeconfig_name(owned.cluster);
    let found = kubeconfig(context, owned.namespace, owned.cluster).await?;
    let fault = match &found {
        None => "there was none".to_owned(),
        Some(text) => match stale(text, &server, &ca.cert) {
            None => return Ok(text.clone()),
            Some(fault) => fault,
        },
    };
    let text = pki::admin_kubeconfig(owned.cluster, &server, ca)?;
    write(context, owned, &name, &json!({"value": STANDARD.encode(&text)})).await?;
    tracing::info!(cluster = owned.cluster, because = fault, "kubeconfig Secret made");
    Ok(text)
}

/// The text of a cluster's kubeconfig Secret.
pub async fn kubeconfig(context: &Context, namespace: &str, cluster: &str) -> Result<Option<String>> {
    let secret = context.recent_secret(namespace, &kubeconfig_name(cluster)).await?;
    secret.map(|secret| required(&secret, "value")).transpose()
}

/// Makes the Secret that Machines name as their bootstrap data: how to find the cluster, and nothing secret, for a
/// node gets its certificates from the provider.
pub async fn ensure_bootstrap(
    context: &Context,
    owned: &Owned<'_>,
    name: &str,
    role: &str,
    endpoint: &ApiEndpoint,
) -> Result<()> {
    let text = yaml::to_string(&json!({
        "cluster": owned.cluster,
        "role": role,
        "server": format!("https://{}:{}", endpoint.host, endpoint.port),
    }))
    .map_err(|error| Error::Host(error.into()))?;
    let found = context.recent_secret(owned.namespace, name).await?;
    if found.and_then(|secret| required(&secret, "value").ok()).is_some_and(|found| found == text) {
        return Ok(());
    }
    let data = json!({"value": STANDARD.encode(text), "format": STANDARD.encode("cluster-init-node")});
    write(context, owned, name, &data).await
}

async fn write(context: &Context, owned: &Owned<'_>, name: &str, data: &Value) -> Result<()> {
    let fields = json!({
        "metadata": {"labels": {CLUSTER_LABEL: owned.cluster}, "ownerReferences": [owned.owner]},
        "type": SECRET_TYPE,
        "data": data,
    });
    let written = context.apply_new::<Secret>(MANAGER, owned.namespace, name, fields).await;
    context.forget_secret(owned.namespace, name);
    written.map(drop)
}

fn required(secret: &Secret, key: &str) -> Result<String> {
    let fail = |reason: String| Error::Secret {
        name: format!(
            "{}/{}",
            secret.metadata.namespace.as_deref().unwrap_or_default(),
            secret.metadata.name.as_deref().unwrap_or_default()
        ),
        reason,
    };
    let data = secret.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| fail(format!("it has no {key}")))?;
    String::from_utf8(data.0.clone()).map_err(|_| fail(format!("{key} is no text")))
}

/// Why a kubeconfig must be made anew; `None` when it is good.
fn stale(text: &str, server: &str, ca: &str) -> Option<String> {
    let Ok(config) = yaml::from_str::<Value>(text, "kubeconfig") else { return Some("it was no YAML".into()) };
    let at = |path: &str| config.pointer(path).and_then(Value::as_str);
    let decoded =
        |path: &str| at(path).and_then(|data| STANDARD.decode(data).ok()).and_then(|d| String::from_utf8(d).ok());
    if at("/clusters/0/cluster/server") != Some(server) {
        return Some("it meant another server".into());
    }
    if decoded("/clusters/0/cluster/certificate-authority-data").as_deref() != Some(ca) {
        return Some("it trusted another authority".into());
    }
    let left = decoded("/users/0/user/client-certificate-data")
        .and_then(|pem| pki::time_left(&pem, "of the kubeconfig").ok())
        .unwrap_or_default();
    (left < KUBECONFIG_RENEW).then(|| "its certificate was about to expire".into())
}

/// Whether a node was made with the given authority.
pub fn same_authority(node: &Node, ca: &KeyedCert) -> bool {
    fsx::read_text(&pki::Pki::of(node.paths()).ca.cert).is_ok_and(|cert| cert.trim() == ca.cert.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pki::{Leaf, issue, kubeconfig_with_data};

    #[test]
    fn a_kubeconfig_is_kept_while_it_is_good() {
        let ca = pki::authority("test ca").unwrap();
        let server = "https://127.0.0.1:6443";
        let good = pki::admin_kubeconfig("test", server, &ca).unwrap();
        assert_eq!(stale(&good, server, &ca.cert), None);
        assert_eq!(stale(&good, "https://127.0.0.1:1", &ca.cert).unwrap(), "it meant another server");
        let other = pki::authority("other ca").unwrap();
        assert_eq!(stale(&good, server, &other.cert).unwrap(), "it trusted another authority");
        let leaf = Leaf { name: "a", group: None, hosts: Vec::new(), life: Duration::from_hours(24) };
        let old = kubeconfig_with_data("test", server, &ca.cert, "a", &issue(&ca, &leaf).unwrap()).unwrap();
        assert_eq!(stale(&old, server, &ca.cert).unwrap(), "its certificate was about to expire");
        assert_eq!(stale("", server, &ca.cert).unwrap(), "it meant another server");
    }

    #[test]
    fn lost_keys_come_from_elsewhere_and_found_ones_stay() {
        let keys = ClusterKeys::generate("a").unwrap();
        let other = ClusterKeys::generate("b").unwrap();
        let mut found = Found::of_keys(keys.clone());
        found.proxy = None;
        assert!(found.complete().is_none());
        let whole = found.or(Found::of_keys(other.clone())).complete().unwrap();
        assert_eq!(whole.ca, keys.ca);
        assert_eq!(whole.front_proxy, other.front_proxy);
    }
}
