//! Readiness of the control plane's processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::Client;

use super::config::NodeConfig;
use super::pki::Pki;
use super::supervisor::Probe;
use crate::failure::{Failure, Result};
use crate::fsx;

/// How long one probe may take.
const LIMIT: Duration = Duration::from_secs(3);

/// Ready once something listens on the Unix socket.
pub fn unix_socket(path: PathBuf) -> Probe {
    Arc::new(move || {
        let path = path.clone();
        async move {
            match tokio::net::UnixStream::connect(&path).await {
                Ok(_) => Ok(()),
                Err(_) => Err("does not listen yet".into()),
            }
        }
        .boxed()
    })
}

/// Ready once a GET of `path` answers 200.
pub fn https(client: Client, path: &'static str) -> Probe {
    Arc::new(move || {
        let client = client.clone();
        async move { get(&client, path).await }.boxed()
    })
}

/// GETs `path`; an error is why it does not answer 200, in a few words.
pub async fn get(client: &Client, path: &str) -> Result<(), String> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    match tokio::time::timeout(LIMIT, client.request_text(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => {
            Err(failed_checks(&status.message).unwrap_or_else(|| format!("answers {} with {}", path, status.code)))
        }
        Ok(Err(_)) => Err("does not answer yet".into()),
        Err(_) => Err(format!("does not answer {path}")),
    }
}

/// Names the checks that fail, from the API server's verbose answer (`[-]poststarthook/x failed: ...`).
fn failed_checks(answer: &str) -> Option<String> {
    let failed: Vec<&str> = answer.split("[-]").skip(1).filter_map(|check| check.split_whitespace().next()).collect();
    if failed.is_empty() { None } else { Some(format!("waits for {}", failed.join(", "))) }
}

/// A client of one of the node's own HTTPS ports that shows no certificate.
pub fn anonymous(config: &NodeConfig, pki: &Pki, port: u16) -> Result<Client> {
    let url = format!("https://127.0.0.1:{port}").parse().map_err(Failure::from_error)?;
    let mut kube = kube::Config::new(url);
    kube.root_cert = Some(vec![der(&pki.ca.cert)?]);
    kube.connect_timeout = Some(LIMIT);
    Client::try_from(kube)
        .map_err(|error| Failure::failed(format!("failed to make a client for node {}", config.name)).caused_by(error))
}

/// A client with the credentials of one of the node's kubeconfigs.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let fail = |error: String| Failure::failed(format!("failed to use {}: {error}", kubeconfig.display()));
    let read = kube::config::Kubeconfig::read_from(kubeconfig).map_err(|error| fail(error.to_string()))?;
    let mut config = kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default())
        .await
        .map_err(|error| fail(error.to_string()))?;
    config.connect_timeout = Some(LIMIT);
    Client::try_from(config).map_err(|error| fail(error.to_string()))
}

fn der(path: &Path) -> Result<Vec<u8>> {
    let text = fsx::read_text(path)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes())
        .map_err(|error| Failure::failed(format!("failed to read the certificate {}: {error}", path.display())))?;
    Ok(pem.contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_checks_are_named() {
        let answer =
            "[+]ping ok\n[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n[+]x ok\nreadyz check failed";
        assert_eq!(failed_checks(answer).unwrap(), "waits for poststarthook/rbac/bootstrap-roles");
        assert_eq!(failed_checks("Unauthorized"), None);
    }
}
