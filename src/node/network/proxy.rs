//! The proxy itself: CONNECT for everything, and absolute-form requests for plain HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::upstream::{self, ProxyAddress};
use super::view::Target;
use super::watch::Live;
use crate::node::config::UpstreamProxy;

/// How many endpoints are tried when one refuses.
const TRIES: usize = 3;

type Body = BoxBody<Bytes, hyper::Error>;

/// 502 with the reason in the body, and in the status line, which is all that kube-apiserver shows.
fn refused(reason: String) -> Response<Body> {
    let line: String = reason.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).collect();
    let mut response = text(StatusCode::BAD_GATEWAY, reason + "\n");
    if let Ok(phrase) = ReasonPhrase::try_from(line) {
        response.extensions_mut().insert(phrase);
    }
    response
}

/// One entrance to the cluster's network.
#[derive(Clone, Debug)]
pub struct Proxy {
    view: Arc<Live>,
    outside: Arc<UpstreamProxy>,
    /// The expected password, whatever the user's name; `None` where the socket's permissions are the proof.
    token: Option<String>,
}

fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(message.into())).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

impl Proxy {
    /// A proxy that asks for the token when there is one.
    pub fn new(view: Arc<Live>, outside: Arc<UpstreamProxy>, token: Option<String>) -> Self {
        Self { view, outside, token }
    }

    /// Serves a TCP listener for ever.
    pub async fn serve_tcp(&self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Small writes of TLS handshakes must not wait for each other.
                    let _ = stream.set_nodelay(true);
                    self.spawn(stream);
                }
                Err(error) => Self::accept_failed(&error).await,
            }
        }
    }

    /// Serves a Unix socket for ever.
    pub async fn serve_unix(&self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(stream),
                Err(error) => Self::accept_failed(&error).await,
            }
        }
    }

    async fn accept_failed(error: &std::io::Error) {
        // Out of descriptors, most likely: some will be free soon.
        tracing::warn!(%error, "accept failed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    fn spawn<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) {
        let proxy = self.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let proxy = proxy.clone();
                async move { Ok::<_, Infallible>(proxy.handle(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .preserve_header_case(true)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "proxy connection ended");
            }
        });
    }

    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(PROXY_AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
        let given = given.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        given.is_some_and(|user| user.split(|byte| *byte == b':').nth(1) == Some(token.as_bytes()))
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        if !self.lets_in(request.headers()) {
            let mut response =
                text(StatusCode::PROXY_AUTHENTICATION_REQUIRED, "this proxy serves the pods of its own cluster\n");
            let how = http::HeaderValue::from_static("Basic realm=\"cluster-init\"");
            response.headers_mut().insert(PROXY_AUTHENTICATE, how);
            return response;
        }
        let tls = request.method() == Method::CONNECT;
        let Some(host) = request.uri().host().map(str::to_owned) else {
            return text(StatusCode::BAD_REQUEST, "this is a proxy: ask for http://HOST/ or CONNECT HOST:PORT\n");
        };
        let port = request.uri().port_u16().unwrap_or(if tls { 443 } else { 80 });
        let result =
            if tls { self.tunnel(request, &host, port).await } else { self.forward(request, &host, port).await };
        result.unwrap_or_else(|reason| refused(format!("{host}:{port}: {reason}")))
    }

    /// Connects to one of the target's endpoints, and to the next one when it refuses: it may just have ended.
    async fn dial(&self, host: &str, port: u16, target: Target) -> Result<TcpStream, String> {
        let mut target = target;
        let mut tries = 1;
        loop {
            match target {
                Target::Unavailable(reason) => return Err(reason),
                Target::External(host, port) => {
                    let connected = match self.outside.for_host(&host, port, true) {
                        Some(proxy) => upstream::tunnel(&ProxyAddress::parse(proxy)?, &host, port).await,
                        None => upstream::connect(&format!("{host}:{port}")).await,
                    };
                    return connected.map_err(|error| format!("cannot be reached: {error}"));
                }
                Target::Loopback(real) => match upstream::connect(&format!("127.0.0.1:{real}")).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) if tries >= TRIES => return Err(format!("its endpoint refuses: {error}")),
                    Err(_) => {
                        tries += 1;
                        target = self.view.resolve(host, port).await;
                    }
                },
            }
        }
    }

    async fn tunnel(&self, request: Request<Incoming>, host: &str, port: u16) -> Result<Response<Body>, String> {
        let target = self.view.resolve(host, port).await;
        let mut far = self.dial(host, port, target).await?;
        tokio::spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(upgraded) => {
                    let mut near = TokioIo::new(upgraded);
                    // Either side may hang up at any time.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
                Err(error) => tracing::debug!(%error, "tunnel was not taken up"),
            }
        });
        Ok(text(StatusCode::OK, ""))
    }

    async fn forward(&self, mut request: Request<Incoming>, host: &str, port: u16) -> Result<Response<Body>, String> {
        let target = self.view.resolve(host, port).await;
        let proxy = match &target {
            Target::External(host, port) => self.outside.for_host(host, *port, false),
            _ => None,
        };
        remove_hop_by_hop(request.headers_mut());
        let stream = if let Some(proxy) = proxy {
            let proxy = ProxyAddress::parse(proxy)?;
            if let Some(value) = proxy.authorization.as_ref().and_then(|a| a.parse().ok()) {
                request.headers_mut().insert(PROXY_AUTHORIZATION, value);
            }
            upstream::connect(&proxy.address).await.map_err(|error| format!("the proxy {}: {error}", proxy.address))?
        } else {
            let stream = self.dial(host, port, target).await?;
            origin_form(&mut request)?;
            stream
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "forwarded connection ended");
            }
        });
        let mut response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        remove_hop_by_hop(response.headers_mut());
        Ok(response.map(BodyExt::boxed))
    }
}

/// Turns `GET http://host/path` into `GET /path` with a Host header.
fn origin_form(request: &mut Request<Incoming>) -> Result<(), String> {
    let uri = request.uri().clone();
    if !request.headers().contains_key(HOST)
        && let Some(value) = uri.authority().and_then(|a| a.as_str().parse().ok())
    {
        request.headers_mut().insert(HOST, value);
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|error| format!("bad path: {error}"))?;
    Ok(())
}

/// Headers that concern one connection only.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "proxy-connection", "keep-alive", "proxy-authorization", "proxy-authenticate", "te", "upgrade"];

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(HeaderName::from_static(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::network::View;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn proxy(token: Option<&str>) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let view = Arc::new(Live::new(View::new(1, "cluster.local", "10.96.0.0/16")));
        let proxy = Proxy::new(view, Arc::default(), token.map(str::to_owned));
        tokio::spawn(async move { proxy.serve_tcp(listener).await });
        port
    }

    async fn answer(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = vec![0; 4096];
        let count = stream.read(&mut text).await.unwrap();
        String::from_utf8_lossy(&text[..count]).into_owned()
    }

    #[tokio::test]
    async fn strangers_are_refused() {
        let port = proxy(Some("secret")).await;
        let text = answer(port, "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 407"), "{text}");
    }

    #[tokio::test]
    async fn a_tunnel_carries_bytes_both_ways() {
        let echo = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let echo_port = echo.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = echo.accept().await.unwrap();
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        });
        let mut stream = TcpStream::connect(("127.0.0.1", proxy(None).await)).await.unwrap();
        stream
            .write_all(format!("CONNECT 127.0.0.1:{echo_port} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200"));
        stream.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
    }

    #[tokio::test]
    async fn an_unknown_service_is_named() {
        let text = answer(proxy(None).await, "GET http://web.a.svc/ HTTP/1.1\r\nHost: web.a.svc\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 502"), "{text}");
        assert!(text.ends_with("web.a.svc:80: there is no Service a/web\n"), "{text}");
    }
}
