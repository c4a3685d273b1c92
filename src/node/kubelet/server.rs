//! Routes, and who is let in.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig as TlsConfig};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::logs::{self, Options, Subject};
use super::{Pods, forward};
use crate::failure::{Failure, Result};

type Body = BoxBody<Bytes, Infallible>;

/// What the server needs.
#[derive(Debug)]
pub struct ServerConfig {
    /// Where it listens.
    pub listener: TcpListener,
    /// Its certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Authority of the clients that are let in.
    pub client_ca: PathBuf,
}

/// The server.
pub struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    pods: Arc<dyn Pods>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({:?})", self.listener)
    }
}

fn tls(config: &ServerConfig) -> Result<TlsAcceptor> {
    let broken =
        |path: &PathBuf, reason: String| Failure::failed(format!("{} cannot be used: {reason}", path.display()));
    let read = |path: &PathBuf| {
        let certs: std::result::Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        certs.map_err(|error| broken(path, error.to_string()))
    };
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|error| broken(&config.key, error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for cert in read(&config.client_ca)? {
        roots.add(cert).map_err(|error| broken(&config.client_ca, error.to_string()))?;
    }
    let clients =
        WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|e| broken(&config.client_ca, e.to_string()))?;
    let mut tls = TlsConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(read(&config.cert)?, key)
        .map_err(|error| broken(&config.cert, error.to_string()))?;
    // Upgrades exist in HTTP/1.1 only.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

impl Server {
    /// Reads the certificates.
    pub fn new(config: ServerConfig, pods: Arc<dyn Pods>) -> Result<Self> {
        Ok(Self { tls: tls(&config)?, listener: config.listener, pods })
    }

    /// Serves until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = cancel.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, most likely: some will be free soon.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (tls, pods) = (self.tls.clone(), self.pods.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(move |request| {
                    let pods = pods.clone();
                    async move { Ok::<_, Infallible>(route(request, pods)) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "kubelet connection ended");
                }
            });
        }
    }
}

fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(message.into())).boxed());
    *response.status_mut() = status;
    response
}

fn route(request: Request<Incoming>, pods: Arc<dyn Pods>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts[..] {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] => {
            json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods.list()}))
        }
        ["containerLogs", namespace, pod, container] => {
            let subject = Subject { namespace: namespace.into(), pod: pod.into(), container: container.into() };
            log(request.uri().query().unwrap_or_default(), subject, pods)
        }
        ["portForward", namespace, pod] => port_forward(request, pods, namespace.to_owned(), pod.to_owned()),
        ["exec" | "attach" | "run", ..] => text(
            StatusCode::NOT_IMPLEMENTED,
            "pods of a local cluster are processes of the host: there is no container to enter; look at the process itself, or at kubectl logs\n",
        ),
        _ => text(StatusCode::NOT_FOUND, format!("{path} is not served here\n")),
    }
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, value.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn log(query: &str, subject: Subject, pods: Arc<dyn Pods>) -> Response<Body> {
    let options = match Options::parse(query) {
        Ok(options) => options,
        Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
    };
    let files = match pods.log_files(&subject.namespace, &subject.pod, &subject.container, options.previous) {
        Ok(files) => files,
        Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
    };
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    tokio::spawn(logs::send(pods, subject, files, options, sender));
    let stream = futures::stream::unfold(receiver, |mut receiver| async {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn port_forward(request: Request<Incoming>, pods: Arc<dyn Pods>, namespace: String, pod: String) -> Response<Body> {
    let upgrade = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        return text(StatusCode::BAD_REQUEST, format!("port-forward speaks SPDY/3.1, not {upgrade:?}\n"));
    }
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => forward::serve(TokioIo::new(upgraded), pods, namespace, pod).await,
            Err(error) => tracing::debug!(%error, "port-forward was not taken up"),
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(forward::PROTOCOL));
    response
}
