//! A port of a Service's pods on this host's loopback, through the API server: works wherever the API server is reached.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Cluster, Error, Result, reason};

/// A forwarded port; it ends with the last clone.
#[derive(Clone, Debug)]
pub struct Forward {
    address: SocketAddr,
    _stop: Arc<DropGuard>,
}

/// Where a forwarded port leads.
#[derive(Clone, Debug)]
struct Target {
    cluster: Cluster,
    namespace: String,
    selector: String,
    port: u16,
}

impl Forward {
    /// Listens on a free port of 127.0.0.1 and leads every connection to a port of a ready pod, found anew for each by its
    /// labels: pods come and go.
    pub async fn to(cluster: &Cluster, namespace: &str, selector: &str, port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listened = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = listened.map_err(|source| Error::Forward { reason: source.to_string() })?;
        let target = Target { cluster: cluster.clone(), namespace: namespace.into(), selector: selector.into(), port };
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, target)));
        Ok(Self { address, _stop: Arc::new(stop.drop_guard()) })
    }

    /// Host and port on this side.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

async fn accept(listener: TcpListener, target: Target) {
    // Connections end with the listener.
    let mut open = tokio::task::JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        let target = target.clone();
        open.spawn(async move {
            if let Err(error) = lead(connection, &target).await {
                // Whoever connected sees an end and asks again, or says what it could not do.
                tracing::debug!(%error, "a forwarded connection ended");
            }
        });
        while open.try_join_next().is_some() {}
    }
}

/// Joins a connection with the port of a ready pod.
async fn lead(mut connection: TcpStream, target: &Target) -> Result<()> {
    let failed = |reason: String| Error::Forward { reason };
    let pods: Api<Pod> = Api::namespaced(target.cluster.client().clone(), &target.namespace);
    let found = pods.list(&ListParams::default().labels(&target.selector)).await.map_err(|e| failed(reason(&e)))?;
    let pod = found.items.iter().find(|pod| is_ready(pod)).and_then(|pod| pod.metadata.name.clone());
    let pod = pod.ok_or_else(|| failed(format!("no pod with {} is ready", target.selector)))?;
    let mut forwarder = pods.portforward(&pod, &[target.port]).await.map_err(|e| failed(reason(&e)))?;
    let stream = forwarder.take_stream(target.port);
    let mut stream = stream.ok_or_else(|| failed(format!("pod {pod} gave no stream")))?;
    let copied = tokio::io::copy_bidirectional(&mut connection, &mut stream).await;
    copied.map(|_| ()).map_err(|error| failed(error.to_string()))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}
