//! A line that breaks: a TCP proxy that cuts connections after some bytes, or lets them hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What happens to a connection that has carried enough.
#[derive(Clone, Copy, PartialEq)]
pub enum Fate {
    /// It is cut, this often in all.
    Cut(usize),
    /// It carries nothing any more.
    Hang,
    /// All connections together carry that much; then each is cut at once.
    Dead,
}

/// The proxy; it ends when it is dropped.
pub struct Cutter {
    host: String,
    cuts: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Cutter {
    /// A line to `to` whose connections carry `after` bytes each, whatever the direction.
    pub async fn start(to: &str, after: usize, fate: Fate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (to, cuts) = (to.to_owned(), Arc::new(AtomicUsize::new(0)));
        let (counter, all) = (cuts.clone(), Arc::new(AtomicUsize::new(after)));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((inner, _)) = listener.accept().await else { continue };
                let (to, cuts) = (to.clone(), counter.clone());
                let left = if fate == Fate::Dead { all.clone() } else { Arc::new(AtomicUsize::new(after)) };
                tokio::spawn(async move {
                    let Ok(outer) = TcpStream::connect(&to).await else { return };
                    let (mut up, mut down) = (inner.into_split(), outer.into_split());
                    // Whichever direction ends first takes the connection with it.
                    tokio::select! {
                        () = carry(&mut up.0, &mut down.1, &left, fate, &cuts) => {}
                        () = carry(&mut down.0, &mut up.1, &left, fate, &cuts) => {}
                    }
                });
            }
        });
        Self { host, cuts, serving }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// How often it has cut.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    left: &AtomicUsize,
    fate: Fate,
    cuts: &AtomicUsize,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let carried = left.load(Ordering::Relaxed);
        if carried < count {
            match fate {
                Fate::Hang => std::future::pending().await,
                Fate::Dead => return left.store(0, Ordering::Relaxed),
                Fate::Cut(most) => {
                    let cut = |done: usize| (done < most).then_some(done + 1);
                    if cuts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, cut).is_ok() {
                        return;
                    }
                }
            }
        }
        left.store(carried.saturating_sub(count), Ordering::Relaxed);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
