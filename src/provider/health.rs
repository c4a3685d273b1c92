//! The manager's health server: `/healthz` while it runs, `/readyz` once its controllers watch.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::failure::{Failure, Result};

/// What the manager says of itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    ready: Arc<AtomicBool>,
}

impl Health {
    /// From now on the manager is ready.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    fn answer(&self, path: &str) -> (StatusCode, &'static str) {
        match path {
            "/healthz" => (StatusCode::OK, "ok"),
            "/readyz" if self.ready.load(Ordering::Relaxed) => (StatusCode::OK, "ok"),
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "controllers do not watch yet"),
            _ => (StatusCode::NOT_FOUND, "not found"),
        }
    }

    /// Listens on an address; a missing host means every address, as in a pod.
    pub async fn listen(address: &str) -> Result<TcpListener> {
        let wrong = || {
            Failure::usage(format!("{address:?} is no address to listen on"))
                .hint("give HOST:PORT or :PORT, as in 127.0.0.1:9440")
        };
        let whole = match address.strip_prefix(':') {
            Some(port) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.parse().map_err(|_| wrong())?)),
            None => address.parse().map_err(|_| wrong())?,
        };
        TcpListener::bind(whole)
            .await
            .map_err(|error| Failure::failed(format!("failed to listen on {whole}")).caused_by(error))
    }

    /// Answers until dropped.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: try again a little later.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let health = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<hyper::body::Incoming>| {
                    let (status, text) = health.answer(request.uri().path());
                    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
                    *response.status_mut() = status;
                    async { Ok::<_, Infallible>(response) }
                });
                // A prober that goes away is no fault of ours.
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_comes_after_healthy() {
        let health = Health::default();
        assert_eq!(health.answer("/healthz").0, StatusCode::OK);
        assert_eq!(health.answer("/readyz").0, StatusCode::SERVICE_UNAVAILABLE);
        health.set_ready();
        assert_eq!(health.answer("/readyz").0, StatusCode::OK);
        assert_eq!(health.answer("/").0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_wrong_address_is_a_usage_error() {
        let error = Health::listen("nine").await.unwrap_err();
        assert_eq!(error.message, "\"nine\" is no address to listen on");
        assert!(Health::listen("127.0.0.1:0").await.is_ok());
    }
}
