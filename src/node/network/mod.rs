//! The cluster's network as a proxy in the daemon, so that nothing needs root, a pod network or low ports.
//!
//! ```text
//! kube-apiserver ── CONNECT over the egress socket ──┐
//!                                                    ├─► resolve (view) ─► 127.0.0.1:real port
//! pods ── HTTP proxy on loopback, with a token ──────┘                 └─► the outside, through the user's proxy if any
//! ```
//!
//! Addresses of Services, pods and nodes are fictional: they are looked up in a view of the cluster that watches keep,
//! and never dialled.

mod proxy;
mod upstream;
mod view;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::config::UpstreamProxy;
use crate::failure::{Failure, Result};
use crate::fsx;

pub use view::{KUBELET_PORT_ANNOTATION, PORTS_ANNOTATION, Target, View};

/// What the network of one node needs to know.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Port of the API server on loopback.
    pub api_server_port: u16,
    /// Port of the pods' proxy on loopback.
    pub proxy_port: u16,
    /// What pods prove themselves with.
    pub token: String,
    /// Socket on which kube-apiserver asks for connections; control planes only.
    pub egress_socket: Option<PathBuf>,
    /// Domain of Services.
    pub cluster_domain: String,
    /// Range of Service addresses.
    pub service_cidr: String,
    /// The user's own proxy to the world outside.
    pub upstream: UpstreamProxy,
}

/// The node's network, listening.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    pods: TcpListener,
    egress: Option<UnixListener>,
}

impl Network {
    /// Takes the port and the socket, so that children which use them can be started.
    pub async fn bind(config: NetworkConfig) -> Result<Self> {
        let address = ("127.0.0.1", config.proxy_port);
        let pods = TcpListener::bind(address).await.map_err(|error| {
            Failure::failed(format!("failed to listen on 127.0.0.1:{} for the pods' proxy", config.proxy_port))
                .caused_by(error)
                .hint(format!("find out what holds the port: ss -ltnp 'sport = :{}'", config.proxy_port))
        })?;
        let egress = match &config.egress_socket {
            Some(path) => {
                fsx::remove_file(path)?;
                let listener = UnixListener::bind(path).map_err(|error| {
                    Failure::failed(format!("failed to listen on the socket {}", path.display())).caused_by(error)
                })?;
                fsx::set_mode(path, 0o600)?;
                Some(listener)
            }
            None => None,
        };
        Ok(Self { config, pods, egress })
    }

    /// Serves and watches until cancelled.
    pub async fn run(self, client: kube::Client, cancel: CancellationToken) {
        let view = Arc::new(watch::Live::new(View::new(
            self.config.api_server_port,
            &self.config.cluster_domain,
            &self.config.service_cidr,
        )));
        let outside = Arc::new(self.config.upstream);
        let pods = proxy::Proxy::new(view.clone(), outside.clone(), Some(self.config.token.clone()));
        let egress = proxy::Proxy::new(view.clone(), outside, None);
        let serve_egress = async {
            match self.egress {
                Some(listener) => egress.serve_unix(listener).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = watch::run(client, view) => {}
            () = pods.serve_tcp(self.pods) => {}
            () = serve_egress => {}
            () = cancel.cancelled() => {}
        }
    }
}
