//! Port-forward: pairs of streams (one for data, one for an error) to ports of one pod.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Pods;
use super::spdy::{Decoder, Encoder, Frame, Headers};

/// Name of the protocol on the wire.
pub const PROTOCOL: &str = "portforward.k8s.io";

/// Bytes from the user that wait for the pod.
const WAITING: usize = 64;

/// Serves one upgraded connection until either side hangs up.
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    pods: Arc<dyn Pods>,
    namespace: String,
    pod: String,
) {
    let (mut read, mut write) = tokio::io::split(stream);
    let (out, mut frames) = mpsc::channel::<Bytes>(WAITING);
    let writer = tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if write.write_all(&frame).await.is_err() || write.flush().await.is_err() {
                break;
            }
        }
    });
    let mut session =
        Session { pods, namespace, pod, out, encoder: Encoder::new(), data: HashMap::new(), errors: HashMap::new() };
    let mut decoder = Decoder::new();
    let mut buffer = BytesMut::with_capacity(64 << 10);
    'connection: while matches!(read.read_buf(&mut buffer).await, Ok(n) if n > 0) {
        loop {
            match decoder.take(&mut buffer) {
                Ok(Some(Frame::GoAway)) => break 'connection,
                Ok(Some(frame)) => session.handle(frame).await,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "port-forward ended");
                    break 'connection;
                }
            }
        }
    }
    drop(session);
    writer.abort();
}

struct Session {
    pods: Arc<dyn Pods>,
    namespace: String,
    pod: String,
    out: mpsc::Sender<Bytes>,
    encoder: Encoder,
    /// Data streams: where the user's bytes go.
    data: HashMap<u32, mpsc::Sender<Bytes>>,
    /// Error streams by request.
    errors: HashMap<String, u32>,
}

fn header<'a>(headers: &'a Headers, name: &str) -> &'a str {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
}

impl Session {
    async fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::Open { stream, headers, .. } => self.open(stream, &headers).await,
            Frame::Data { stream, bytes, fin } => {
                if let Some(to) = self.data.get(&stream)
                    && !bytes.is_empty()
                    && to.send(bytes).await.is_err()
                {
                    self.data.remove(&stream);
                }
                if fin {
                    self.data.remove(&stream);
                }
            }
            Frame::Reset { stream } => {
                self.data.remove(&stream);
            }
            Frame::Ping(id) => self.send(Encoder::ping(id)).await,
            Frame::GoAway | Frame::Other => {}
        }
    }

    async fn send(&self, frame: Bytes) {
        // The writer ends with the connection, which the reading side notices.
        let _ = self.out.send(frame).await;
    }

    async fn open(&mut self, stream: u32, headers: &Headers) {
        let reply = self.encoder.reply(stream);
        self.send(reply).await;
        let request = header(headers, "requestid").to_owned();
        match header(headers, "streamtype") {
            "error" => {
                self.errors.insert(request, stream);
            }
            "data" => {
                let error_stream = self.errors.remove(&request);
                let (to, from_user) = mpsc::channel(WAITING);
                self.data.insert(stream, to);
                let wanted = header(headers, "port").to_owned();
                let target = match wanted.parse() {
                    Ok(port) => self.pods.port(&self.namespace, &self.pod, port),
                    Err(_) => Err(format!("{wanted:?} is no port")),
                };
                let out = self.out.clone();
                tokio::spawn(async move {
                    let result = match target {
                        Ok(port) => {
                            carry(port, stream, from_user, &out).await.map_err(|e| format!("port {wanted}: {e}"))
                        }
                        Err(reason) => Err(reason),
                    };
                    let _ = out.send(Encoder::data(stream, &[], true)).await;
                    if let Some(error_stream) = error_stream {
                        let message = result.err().unwrap_or_default();
                        let _ = out.send(Encoder::data(error_stream, message.as_bytes(), true)).await;
                    }
                });
            }
            _ => {}
        }
    }
}

/// Carries bytes both ways until the pod hangs up.
async fn carry(
    port: u16,
    stream: u32,
    mut from_user: mpsc::Receiver<Bytes>,
    out: &mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let (mut read, mut write) = TcpStream::connect(("127.0.0.1", port)).await?.into_split();
    let up = tokio::spawn(async move {
        while let Some(bytes) = from_user.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The user sends nothing more; the pod may still answer.
        let _ = write.shutdown().await;
    });
    let mut chunk = vec![0; 32 << 10];
    loop {
        let count = read.read(&mut chunk).await?;
        if count == 0 || out.send(Encoder::data(stream, &chunk[..count], false)).await.is_err() {
            break;
        }
    }
    up.abort();
    Ok(())
}
