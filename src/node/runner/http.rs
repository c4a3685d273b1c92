//! The small HTTP client of probes: one request, no certificate checked, as the kubelet probes.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Asks a URL; an answer below 400 is a success.
pub async fn get(tls: bool, host: &str, port: u16, path: &str, headers: &[(String, String)]) -> Result<(), String> {
    let tcp = TcpStream::connect((host, port)).await.map_err(|e| format!("{host}:{port}: {e}"))?;
    let mut request = Request::get(path).header("User-Agent", "cluster-init-probe").header("Connection", "close");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("Host", format!("{host}:{port}"));
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let (status, body) = if tls {
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(client_config()?).connect(name, tcp).await.map_err(|e| e.to_string())?;
        send(stream, request).await?
    } else {
        send(tcp, request).await?
    };
    if status.as_u16() < 400 {
        Ok(())
    } else {
        let text: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
        Err(format!("status {}{}{text}", status.as_u16(), if text.is_empty() { "" } else { ": " }))
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        // Only the beginning is of interest, for messages.
        let limited = http_body_util::Limited::new(response.into_body(), 10 << 10);
        let body = limited.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Ok((status, body))
    };
    tokio::select! {
        answer = answer => answer,
        // The answer may be complete although the connection ended with an error.
        Err(error) = connection => Err(error.to_string()),
    }
}

/// Asks gRPC's health service, `grpc.health.v1.Health/Check`.
pub async fn grpc_health(port: u16, service: &str) -> Result<(), String> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| format!("port {port}: {e}"))?;
    // HealthCheckRequest{service}: field 1, length-delimited; a gRPC message begins with a flag and its length.
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        message.push(u8::try_from(service.len()).map_err(|_| "the service's name is too long".to_owned())?);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
    frame.extend(message);
    let request = Request::post(format!("http://127.0.0.1:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frame)))
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
        .await
        .map_err(|e| e.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let collected = response.into_body().collect().await.map_err(|e| e.to_string())?;
        let status = collected.trailers().and_then(|t| t.get("grpc-status")).map(|v| v.as_bytes().to_vec());
        let body = collected.to_bytes();
        match status.as_deref() {
            // HealthCheckResponse{status: SERVING}: field 1, varint 1.
            None | Some(b"0") if body.get(5..) == Some(&[0x08, 0x01]) => Ok(()),
            None | Some(b"0") => Err("the service is not serving".to_owned()),
            Some(code) => Err(format!("gRPC status {}", String::from_utf8_lossy(code))),
        }
    };
    tokio::select! {
        answer = answer => answer,
        Err(error) = connection => Err(error.to_string()),
    }
}

fn client_config() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Probes ask whether a program answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn serve(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        port
    }

    #[tokio::test]
    async fn the_status_decides() {
        let port = serve("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(get(false, "127.0.0.1", port, "/", &[]).await, Ok(()));
        let port = serve("HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\nsick").await;
        assert_eq!(get(false, "127.0.0.1", port, "/", &[]).await, Err("status 500: sick".to_owned()));
    }
}
