//! A Git server as sites have one: HTTPS with a certificate of a private authority, a user and a token, and `git http-backend`.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cluster_init::exec::Command;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::authority::Signed;

pub const USER: &str = "deployer";
pub const TOKEN: &str = "glpat-secret/of:the@test";

/// How long git may take for one request.
const LIMIT: Duration = Duration::from_mins(1);

/// A server with one repository; it ends when it is dropped.
pub struct GitServer {
    folder: tempfile::TempDir,
    port: u16,
    ca: String,
    serving: tokio::task::JoinHandle<()>,
}

impl GitServer {
    /// Starts it with an empty repository.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let init = Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch=main", "site.git"]);
        init.folder(folder.path()).run(LIMIT).await.unwrap();
        let backend = Command::new("git").arg("--exec-path").run(LIMIT).await.unwrap().text();
        let backend = PathBuf::from(backend.trim()).join("git-http-backend");
        let (ca, tls) = certificates();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let root = folder.path().to_path_buf();
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (tls, root, backend) = (tls.clone(), root.clone(), backend.clone());
                tokio::spawn(async move {
                    // Who does not trust the certificate hangs up.
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(|request| {
                        let (root, backend) = (root.clone(), backend.clone());
                        async move { Ok::<_, Infallible>(answer(request, root, backend).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { folder, port, ca, serving }
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}/site.git", self.port)
    }

    /// The certificate of its authority, in PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// The repository's folder.
    pub fn repository(&self) -> PathBuf {
        self.folder.path().join("site.git")
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The authority's certificate, and a server's of its making.
fn certificates() -> (String, TlsAcceptor) {
    let Signed { ca, cert, key } = Signed::for_loopback();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (ca, TlsAcceptor::from(Arc::new(config)))
}

/// Runs `git http-backend` as a CGI program for whoever has the token.
async fn answer(request: Request<Incoming>, root: PathBuf, backend: PathBuf) -> Response<Full<Bytes>> {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if header("authorization") != format!("Basic {}", STANDARD.encode(format!("{USER}:{TOKEN}"))) {
        let refused =
            Response::builder().status(StatusCode::UNAUTHORIZED).header("www-authenticate", "Basic realm=\"git\"");
        return refused.body(Full::default()).unwrap();
    }
    let command = Command::new(backend)
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", USER)
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", request.uri().path())
        .env("QUERY_STRING", request.uri().query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"));
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let command = command.env("CONTENT_LENGTH", body.len().to_string()).input(body.to_vec());
    let output = command.run(LIMIT).await.unwrap().stdout;
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap()),
            _ => response.header(name, value),
        };
    }
    response.body(Full::from(output[end + 4..].to_vec())).unwrap()
}
