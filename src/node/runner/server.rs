//! The kubelet role's HTTPS server: what the API server asks of a node on behalf of `kubectl logs` and `port-forward`.

use std::convert::Infallible;
use std::io::BufReader;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::KubeletTls;
use super::context::PodContext;
use super::log_read::{self, Options};
use super::port_forward;
use super::watch::Directory;
use crate::clock;
use crate::failure::{Failure, Result};
use crate::fsx;

/// A handshake that takes longer is none.
const HANDSHAKE: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The server, listening.
pub struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    pods: Directory,
}

impl Server {
    /// Listens on loopback.
    pub async fn listen(port: u16, tls: &KubeletTls, pods: Directory) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| {
            Failure::failed(format!("failed to listen on 127.0.0.1:{port} for the API server's requests to the node"))
                .caused_by(error)
        })?;
        Ok(Self { listener, tls: TlsAcceptor::from(Arc::new(tls_config(tls)?)), pods })
    }

    /// Serves until cancelled.
    pub async fn serve(self, cancel: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = cancel.cancelled() => break,
            };
            let Ok((tcp, _)) = accepted else {
                // Out of descriptors, most likely; some connection will end.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (tls, pods, cancel) = (self.tls.clone(), self.pods.clone(), cancel.clone());
            connections.spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(tcp)).await else { return };
                let known = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let known = known.is_some_and(|certificate| is_api_server(certificate));
                let service = service_fn(move |request| {
                    let pods = pods.clone();
                    async move {
                        Ok::<_, Infallible>(if known {
                            answer(request, &pods)
                        } else {
                            text(StatusCode::FORBIDDEN, "only the API server may ask a node")
                        })
                    }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::select! {
                    _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service) => {}
                    () = cancel.cancelled() => {}
                }
            });
        }
        connections.close();
    }
}

/// Whether a client's certificate is the API server's: other certificates of the cluster's authority are users' or nodes'.
fn is_api_server(certificate: &CertificateDer<'_>) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    parsed.subject().iter_organization().any(|group| group.as_str() == Ok("system:masters"))
}

fn tls_config(tls: &KubeletTls) -> Result<ServerConfig> {
    let broken = |path: &Path| {
        let path = path.display().to_string();
        move |error: rustls::pki_types::pem::Error| Failure::failed(format!("failed to read {path}: {error}"))
    };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
        let file = BufReader::new(fsx::open(path)?);
        CertificateDer::pem_reader_iter(file).collect::<std::result::Result<_, _>>().map_err(broken(path))
    };
    let chain = certificates(&tls.server_cert)?;
    let key_file = BufReader::new(fsx::open(&tls.server_key)?);
    let key = PrivateKeyDer::from_pem_reader(key_file).map_err(broken(&tls.server_key))?;
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(&tls.client_ca)? {
        authorities.add(certificate).map_err(Failure::from_error)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone())
        .build()
        .map_err(Failure::from_error)?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Failure::from_error)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(Failure::from_error)
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text.into())).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn answer(request: Request<Incoming>, pods: &Directory) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(log_read::decoded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["healthz"]) => text(StatusCode::OK, "ok"),
        (&Method::GET, ["pods"]) => list(pods),
        (&Method::GET, ["containerLogs", namespace, pod, container]) => match find(pods, namespace, pod) {
            Some(found) => logs(&found, container, request.uri().query().unwrap_or_default()),
            None => unknown(namespace, pod),
        },
        (&Method::GET | &Method::POST, ["portForward", namespace, pod, ..]) => match find(pods, namespace, pod) {
            Some(found) => port_forward::answer(request, found),
            None => unknown(namespace, pod),
        },
        (_, ["exec" | "attach" | "run", ..]) => text(
            StatusCode::NOT_IMPLEMENTED,
            "pods of a local node are plain processes of the host: there is no container to enter; use kubectl logs and port-forward",
        ),
        _ => text(StatusCode::NOT_FOUND, format!("a local node does not serve {path}")),
    }
}

fn unknown(namespace: &str, pod: &str) -> Response<Body> {
    text(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} does not run on this node"))
}

/// The pod of that name; the younger one when an older is still ending.
fn find(pods: &Directory, namespace: &str, name: &str) -> Option<Arc<PodContext>> {
    let pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
    let of_that_name = pods.values().filter(|pod| pod.namespace == namespace && pod.name == name);
    of_that_name.max_by_key(|pod| pod.pod.borrow().metadata.creation_timestamp.clone().map(|time| time.0)).cloned()
}

fn list(pods: &Directory) -> Response<Body> {
    let pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
    let items: Vec<_> = pods.values().map(|pod| pod.pod.borrow().as_ref().clone()).collect();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    let mut response = text(StatusCode::OK, list.to_string());
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn logs(pod: &PodContext, container: &str, query: &str) -> Response<Body> {
    let options = match Options::from_query(query, clock::now()) {
        Ok(options) => options,
        Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
    };
    let previous = log_read::pairs(query).any(|(name, value)| name == "previous" && value == "true");
    let all = pod.logs().get(container).cloned().unwrap_or_default();
    let Some(log) = (if previous { all.previous } else { all.current }) else {
        let which = if previous { "has not run before" } else { "has not started yet" };
        return text(
            StatusCode::BAD_REQUEST,
            format!("container {container} in pod {}/{} {which}", pod.namespace, pod.name),
        );
    };
    let (to, from) = mpsc::channel(16);
    tokio::spawn(log_read::send(log, options, to));
    let chunks = futures::stream::unfold(from, |mut from| async move {
        let chunk = from.recv().await?;
        Some((chunk, from))
    });
    let mut response = Response::new(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync());
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("text/plain"));
    response
}
