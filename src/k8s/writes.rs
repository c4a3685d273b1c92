//! Counts the requests that change a cluster; and dies at one of them when a test asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use tower::{Layer, Service};

/// Writes of this process to all clusters: `CLUSTER_INIT_CRASH_AT=write:17:before` means the seventeenth of them.
static ALL: AtomicU64 = AtomicU64::new(0);

/// Counts the writes to one cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes(Arc<AtomicU64>);

impl Writes {
    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl<S> Layer<S> for Writes {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, writes: self.clone() }
    }
}

/// A service whose writes are counted.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    writes: Writes,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let tried = request.uri().query().is_some_and(|query| query.contains("dryRun=All"));
        let writes = !tried && !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let nth = if writes {
            self.writes.0.fetch_add(1, Ordering::Relaxed);
            ALL.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            0
        };
        crash_at(nth, "before");
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            crash_at(nth, "after");
            answer
        })
    }
}

/// Dies here, as `kill -9` would, when a test asked for it.
fn crash_at(nth: u64, side: &str) {
    if nth > 0 && CRASH.as_deref().is_some_and(|at| at == format!("write:{nth}:{side}")) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

static CRASH: std::sync::LazyLock<Option<String>> =
    std::sync::LazyLock::new(|| std::env::var("CLUSTER_INIT_CRASH_AT").ok());
