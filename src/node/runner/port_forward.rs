//! `kubectl port-forward`: streams of one upgraded connection, each joined to a port of the pod.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::context::PodContext;
use super::spdy::{Decoder, Encoder, Frame};

const PROTOCOL: &str = "portforward.k8s.io";
const CONNECT: Duration = Duration::from_secs(10);
/// Frames that wait for one stream before the connection waits for it.
const WAITING: usize = 64;

/// Answers the request with an upgrade to SPDY/3.1.
pub fn answer(mut request: Request<Incoming>, pod: Arc<PodContext>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let wanted = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !wanted.eq_ignore_ascii_case("SPDY/3.1") {
        let text = "port-forward needs an upgrade to SPDY/3.1, which kubectl asks for by itself";
        let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => {
                let target = move |port: u16| pod.ports().real(port).ok_or_else(|| unknown_port(&pod, port));
                serve(TokioIo::new(connection), target).await;
            }
            Err(error) => tracing::debug!(%error, "port-forward was not upgraded"),
        }
    });
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert("X-Stream-Protocol-Version", HeaderValue::from_static(PROTOCOL));
    response
}

fn unknown_port(pod: &PodContext, port: u16) -> String {
    format!("pod {}/{} listens on no port {port}: its ports are {}", pod.namespace, pod.name, pod.ports().annotation())
}

/// Serves one connection until it ends.
async fn serve<T, F>(connection: T, target: F)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
    F: Fn(u16) -> Result<u16, String>,
{
    let (mut from_client, to_client) = tokio::io::split(connection);
    let (out, frames) = mpsc::channel(WAITING);
    // Reading and writing do not wait for each other, else a full pipe in both directions would stop both.
    let mut tasks = JoinSet::new();
    tasks.spawn(write_frames(to_client, frames));
    let mut streams = Streams { out, target, data: HashMap::new(), errors: HashMap::new(), tasks };
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        match decoder.decode(&mut buffer) {
            Ok(Some(Frame::GoAway)) => return,
            Ok(Some(frame)) => {
                if streams.take(frame).await.is_none() {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "port-forward was not understood");
                return;
            }
        }
        match from_client.read_buf(&mut buffer).await {
            Ok(n) if n > 0 => {}
            _ => return,
        }
    }
}

async fn write_frames(mut to: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) {
    let Ok(mut encoder) = Encoder::new() else { return };
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        buffer.clear();
        if encoder.encode(&frame, &mut buffer).is_err() || to.write_all(&buffer).await.is_err() {
            return;
        }
        if frames.is_empty() && to.flush().await.is_err() {
            return;
        }
    }
}

/// The streams of one connection. kubectl opens two for each of its own connections: one for errors, one for data.
struct Streams<F> {
    out: mpsc::Sender<Frame>,
    target: F,
    /// What goes to the pod, by the stream's id; an empty message says that no more comes.
    data: HashMap<u32, mpsc::Sender<Bytes>>,
    /// Ids of the streams for errors, by the request that they belong to.
    errors: HashMap<String, u32>,
    tasks: JoinSet<()>,
}

impl<F: Fn(u16) -> Result<u16, String>> Streams<F> {
    /// Takes a frame; `None` when the other side is gone.
    async fn take(&mut self, frame: Frame) -> Option<()> {
        while self.tasks.try_join_next().is_some() {}
        match frame {
            Frame::SynStream { id, headers, .. } => {
                let value = |name: &str| headers.get(name).cloned().unwrap_or_default();
                self.out.send(Frame::SynReply { id }).await.ok()?;
                if value("streamtype") == "error" {
                    self.errors.insert(value("requestid"), id);
                } else {
                    let error = self.errors.remove(&value("requestid"));
                    let port = value("port").parse().map_err(|_| "the stream names no port".to_owned());
                    let real = port.and_then(|port| (self.target)(port));
                    let (to_pod, from_client) = mpsc::channel(WAITING);
                    self.data.insert(id, to_pod);
                    self.tasks.spawn(join(id, error, real, from_client, self.out.clone()));
                }
            }
            Frame::Data { id, bytes, fin } => {
                if let Some(to_pod) = self.data.get(&id) {
                    // A stream whose pod has hung up takes nothing more; the others go on.
                    if !bytes.is_empty() {
                        let _ = to_pod.send(bytes).await;
                    }
                    if fin {
                        self.data.remove(&id);
                    }
                }
            }
            Frame::Reset { id } => {
                self.data.remove(&id);
            }
            Frame::Ping(id) => self.out.send(Frame::Ping(id)).await.ok()?,
            Frame::SynReply { .. } | Frame::GoAway | Frame::Other => {}
        }
        Some(())
    }
}

/// Joins one stream to a port of the pod until both directions have ended.
async fn join(
    id: u32,
    error_stream: Option<u32>,
    real: Result<u16, String>,
    from_client: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<Frame>,
) {
    let result = match real {
        Ok(port) => copy(id, port, from_client, &out).await,
        Err(reason) => Err(reason),
    };
    // The client is gone if it does not take these.
    let _ = out.send(Frame::Data { id, bytes: Bytes::new(), fin: true }).await;
    if let Some(error_stream) = error_stream {
        let bytes = result.err().map(Bytes::from).unwrap_or_default();
        let _ = out.send(Frame::Data { id: error_stream, bytes, fin: true }).await;
    }
}

async fn copy(
    id: u32,
    port: u16,
    mut from_client: mpsc::Receiver<Bytes>,
    out: &mpsc::Sender<Frame>,
) -> Result<(), String> {
    let connect = tokio::time::timeout(CONNECT, TcpStream::connect(("127.0.0.1", port)));
    let pod = match connect.await {
        Ok(Ok(pod)) => pod,
        Ok(Err(error)) => return Err(format!("the pod does not answer on this port: {error}")),
        Err(_) => return Err("the pod does not answer on this port".into()),
    };
    let (mut from_pod, mut to_pod) = pod.into_split();
    let up = async {
        while let Some(bytes) = from_client.recv().await {
            if to_pod.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The client has sent all; the pod may still answer.
        let _ = to_pod.shutdown().await;
    };
    let down = async {
        let mut chunk = BytesMut::with_capacity(16 << 10);
        loop {
            chunk.reserve(16 << 10);
            match from_pod.read_buf(&mut chunk).await {
                Ok(n) if n > 0 => {
                    if out.send(Frame::Data { id, bytes: chunk.split().freeze(), fin: false }).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    };
    // What the pod says decides: when it has hung up, there is nobody left to send to.
    let mut up = std::pin::pin!(up);
    let mut down = std::pin::pin!(down);
    tokio::select! {
        () = &mut down => {}
        () = &mut up => down.await,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::spdy::Headers;
    use super::*;

    async fn echo() -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        port
    }

    #[tokio::test]
    async fn a_stream_is_joined_and_an_unknown_port_is_told() {
        let real = echo().await;
        let (client, server) = tokio::io::duplex(1 << 16);
        let target = move |port: u16| if port == 80 { Ok(real) } else { Err(format!("no port {port}")) };
        tokio::spawn(serve(server, target));
        let (mut read, mut write) = tokio::io::split(client);
        let mut encoder = Encoder::new().unwrap();
        let mut wire = BytesMut::new();
        for (id, kind, port, request) in
            [(1, "error", "80", "0"), (3, "data", "80", "0"), (5, "error", "81", "1"), (7, "data", "81", "1")]
        {
            let pairs = [("streamtype", kind), ("port", port), ("requestid", request)];
            let headers: Headers = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            encoder.encode(&Frame::SynStream { id, headers, fin: false }, &mut wire).unwrap();
        }
        encoder.encode(&Frame::Data { id: 3, bytes: Bytes::from_static(b"hello"), fin: true }, &mut wire).unwrap();
        write.write_all(&wire).await.unwrap();
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::new();
        let mut data = HashMap::<u32, Vec<u8>>::new();
        let mut ended = Vec::new();
        while ended.len() < 4 {
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                if let Frame::Data { id, bytes, fin } = frame {
                    data.entry(id).or_default().extend_from_slice(&bytes);
                    ended.extend(fin.then_some(id));
                }
            }
            if ended.len() < 4 {
                assert!(read.read_buf(&mut buffer).await.unwrap() > 0);
            }
        }
        assert_eq!(data[&3], b"hello");
        assert_eq!(data[&5], b"no port 81");
        assert_eq!(data[&1], b"");
    }
}
