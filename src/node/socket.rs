//! The daemon's Unix socket: one JSON line asks, one JSON line answers.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::failure::{Failure, Result};
use crate::fsx;

/// Name of the socket in the sockets' folder.
pub const NAME: &str = "node.sock";

/// Longest path that the kernel takes for a socket, less one for its end.
pub const LONGEST_PATH: usize = 107;

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Request {
    /// How the node is.
    Status,
    /// To stop; answered at once, while the daemon goes on stopping.
    Stop,
}

/// State of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No daemon runs.
    Stopped,
    /// The daemon runs, not everything is ready yet.
    Starting,
    /// Everything is ready.
    Ready,
    /// Something that was ready no longer is.
    Degraded,
    /// The daemon is stopping.
    Stopping,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
        })
    }
}

/// One part of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its name ("etcd").
    pub name: String,
    /// Its pid; none for what runs inside the daemon, and for what is not running.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether it is ready.
    pub ready: bool,
    /// State in a few words.
    pub state: String,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its state.
    pub state: State,
    /// The daemon's pid.
    pub pid: Option<u32>,
    /// Its parts.
    pub components: Vec<Component>,
    /// Milliseconds from the daemon's start to the first time that everything was ready.
    pub ready_after_ms: Option<u64>,
}

impl Status {
    /// Status of a node without a daemon.
    pub const fn stopped() -> Self {
        Self { state: State::Stopped, pid: None, components: Vec::new(), ready_after_ms: None }
    }

    /// What is not ready, in a few words.
    pub fn pending(&self) -> String {
        let parts: Vec<String> = self
            .components
            .iter()
            .filter(|component| !component.ready)
            .map(|component| format!("{} {}", component.name, component.state))
            .collect();
        if parts.is_empty() { self.state.to_string() } else { parts.join(", ") }
    }
}

/// Asks a node's daemon; `None` when no daemon listens.
pub async fn ask(socket: &Path, request: Request) -> Result<Option<Status>> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if nobody(&error) => return Ok(None),
        Err(error) => {
            return Err(
                Failure::failed(format!("failed to reach the node's daemon at {}", socket.display())).caused_by(error)
            );
        }
    };
    let talk = async {
        let (reader, mut writer) = stream.into_split();
        let mut line = serde_json::to_string(&request).map_err(std::io::Error::other)?;
        line.push('\n');
        writer.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(reader).read_line(&mut answer).await?;
        if answer.is_empty() {
            // The daemon ended between the connection and its answer.
            return Ok(None);
        }
        serde_json::from_str(&answer).map(Some).map_err(std::io::Error::other)
    };
    let fail =
        |reason: String| Failure::failed(format!("the node's daemon at {} gave no answer: {reason}", socket.display()));
    match tokio::time::timeout(Duration::from_secs(5), talk).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) if nobody(&error) => Ok(None),
        Ok(Err(error)) => Err(fail(error.to_string())),
        Err(_) => Err(fail("nothing within 5s".into())),
    }
}

/// Whether an error says that no daemon is there: none listens, or the one that did ended while it was asked. A listener that
/// dies resets what it had not accepted (seen by the connection itself or by the first write), one that had accepted breaks the pipe.
fn nobody(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe)
}

/// Listens for requests.
pub fn listen(socket: &Path) -> Result<UnixListener> {
    // Only a daemon that holds the node's lock comes here: a socket that is there is a dead one's.
    fsx::remove_file(socket)?;
    let listener = UnixListener::bind(socket)
        .map_err(|error| Failure::failed(format!("failed to listen on {}", socket.display())).caused_by(error))?;
    fsx::set_mode(socket, 0o600)?;
    Ok(listener)
}

/// Answers requests until dropped; `answer` must not block.
pub async fn serve(listener: UnixListener, answer: impl Fn(Request) -> Status + Clone + Send + 'static) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: try again a little later.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let reply = match serde_json::from_str(&line) {
                    Ok(request) => serde_json::to_string(&answer(request)).unwrap_or_default(),
                    Err(error) => serde_json::json!({"error": error.to_string()}).to_string(),
                };
                if writer.write_all((reply + "\n").as_bytes()).await.is_err() {
                    break;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_daemon_that_dies_while_it_is_asked_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join(NAME);
        assert_eq!(ask(&socket, Request::Status).await.unwrap(), None, "there never was one");
        // Where in the conversation the listener's end falls is up to the scheduler: often enough for every place.
        for round in 0..300 {
            let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            let asks: Vec<_> = (0..4)
                .map(|_| {
                    let socket = socket.clone();
                    tokio::spawn(async move { ask(&socket, Request::Status).await })
                })
                .collect();
            if round % 3 == 0 {
                tokio::task::yield_now().await;
            }
            if round % 2 == 0 {
                listener.set_nonblocking(true).unwrap();
                drop(listener.accept());
            }
            drop(listener);
            for asked in asks {
                assert_eq!(asked.await.unwrap().unwrap(), None);
            }
            fsx::remove_file(&socket).unwrap();
        }
    }
}
