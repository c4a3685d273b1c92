//! Docker's socket as the docker provider sees it: two answers come when they say something.
//!
//! The provider sets up a machine by commands in its container, and writes a file by a command that reads it. It asks how the command ended
//! as soon as its input is sent; it still runs then, and the provider sleeps for half a second: ten times for every control plane
//! (`ExecContainer`). Before the first command it reads in the container's log whether its system is up (`WaitForMultiUserTarget`), once,
//! a second after the start, and where it is too early not again for five. Here both questions are answered when it is so far, or
//! shortly before it would be asked again. Everything else passes as it is.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

/// Name of the socket.
pub const NAME: &str = "docker.sock";
/// What a node's system says when it is up.
const UP: &[u8] = b"Multi-User System";

type Body = BoxBody<Bytes, hyper::Error>;

/// What is asked again when the answer came too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// How a command in a container ended: `GET /v1.47/exec/ID/json`.
    End,
    /// What a container said: `GET /v1.47/containers/ID/logs`.
    Log,
}

impl Question {
    fn of<B>(request: &Request<B>) -> Option<Self> {
        let path: Vec<&str> = request.uri().path().rsplit('/').take(3).collect();
        match path[..] {
            _ if request.method() != Method::GET => None,
            ["json", _, "exec"] => Some(Self::End),
            ["logs", _, "containers"] => Some(Self::Log),
            _ => None,
        }
    }

    /// Whether who asks would ask again.
    fn is_early(self, told: &[u8]) -> bool {
        match self {
            Self::End => serde_json::from_slice::<Value>(told).is_ok_and(|told| told["Running"] == true),
            Self::Log => !told.windows(UP.len()).any(|text| text == UP),
        }
    }

    /// How long who asks would sleep.
    const fn patience(self) -> Duration {
        match self {
            Self::End => Duration::from_millis(450),
            Self::Log => Duration::from_secs(4),
        }
    }

    /// How often Docker is asked meanwhile.
    const fn interval(self) -> Duration {
        match self {
            Self::End => Duration::from_millis(10),
            Self::Log => Duration::from_millis(100),
        }
    }
}

/// Passes what comes on to the Docker daemon at `docker`, for ever.
pub async fn serve(listener: UnixListener, docker: PathBuf) {
    let docker: Arc<Path> = docker.into();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: some will be free soon.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let docker = docker.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let docker = docker.clone();
                async move { Ok::<_, Infallible>(answer(request, &docker).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .preserve_header_case(true)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to Docker ended");
            }
        });
    }
}

async fn answer(request: Request<Incoming>, docker: &Path) -> Response<Body> {
    let passed = match Question::of(&request) {
        Some(question) => wait(question, request, docker).await,
        None => pass(request, docker).await,
    };
    // In the form of Docker's own errors, which its clients show.
    passed.unwrap_or_else(|error| {
        let message = format!("cannot reach the Docker daemon at unix://{}: {error}", docker.display());
        let mut response = Response::new(full(json!({ "message": message }).to_string()));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    })
}

/// Asks until it is not too early any more, or for as long as who asks would sleep.
async fn wait(question: Question, request: Request<Incoming>, docker: &Path) -> Result<Response<Body>, String> {
    let (head, _) = request.into_parts();
    let began = Instant::now();
    loop {
        let asked = Request::from_parts(head.clone(), Empty::<Bytes>::new());
        let (mut told, body) = send(asked, docker).await?.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        if !told.status.is_success() || !question.is_early(&body) || began.elapsed() > question.patience() {
            told.headers.remove(TRANSFER_ENCODING);
            told.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            return Ok(Response::from_parts(told, full(body)));
        }
        tokio::time::sleep(question.interval()).await;
    }
}

/// Passes a request on, and what follows it where it becomes a stream: a command's input and output.
async fn pass(mut request: Request<Incoming>, docker: &Path) -> Result<Response<Body>, String> {
    let near = hyper::upgrade::on(&mut request);
    let mut response = send(request, docker).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let far = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            match tokio::try_join!(near, far) {
                Ok((near, far)) => {
                    // Either side may hang up at any time.
                    let _ =
                        tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
                }
                Err(error) => tracing::debug!(%error, "a stream of Docker's was not taken up"),
            }
        });
    }
    Ok(response.map(BodyExt::boxed))
}

async fn send<B>(request: Request<B>, docker: &Path) -> Result<Response<Incoming>, String>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = UnixStream::connect(docker).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to Docker ended");
        }
    });
    sender.send_request(request).await.map_err(|error| error.to_string())
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A Docker daemon that gives each connection the next of `answers`, after the request's head.
    fn docker(folder: &Path, answers: &'static [&'static str]) {
        let listener = UnixListener::bind(folder.join("real")).unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    head(&mut stream).await;
                    let length = answer.len();
                    if answer.starts_with('{') {
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                        stream.write_all(head.as_bytes()).await.unwrap();
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        return;
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    // The command's output is its input, once that has ended.
                    let mut input = Vec::new();
                    stream.read_to_end(&mut input).await.unwrap();
                    stream.write_all(&input).await.unwrap();
                });
            }
        });
    }

    async fn head(stream: &mut UnixStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// What one request is told, to the end of the connection.
    async fn ask(folder: &Path, request: &str) -> (String, Duration) {
        let listener = UnixListener::bind(folder.join(NAME)).unwrap();
        tokio::spawn(serve(listener, folder.join("real")));
        let mut stream = UnixStream::connect(folder.join(NAME)).await.unwrap();
        let began = Instant::now();
        let head = format!("{request} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).await.unwrap();
        (told, began.elapsed())
    }

    #[tokio::test]
    async fn an_end_is_told_of_when_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        docker(folder.path(), &[r#"{"Running":true}"#, r#"{"Running":true}"#, r#"{"Running":false,"ExitCode":3}"#]);
        let (told, _) = ask(folder.path(), "GET /v1.47/exec/a1/json").await;
        assert!(told.starts_with("HTTP/1.1 200") && told.ends_with(r#"{"Running":false,"ExitCode":3}"#), "{told}");
    }

    #[tokio::test]
    async fn a_command_that_runs_on_is_told_of_in_time() {
        let folder = tempfile::tempdir().unwrap();
        docker(folder.path(), &[r#"{"Running":true}"#; 100]);
        let (told, after) = ask(folder.path(), "GET /exec/a1/json").await;
        assert!(told.ends_with(r#"{"Running":true}"#), "{told}");
        assert!(after >= Question::End.patience(), "{after:?}");
    }

    #[tokio::test]
    async fn other_answers_are_passed_on_at_once() {
        let folder = tempfile::tempdir().unwrap();
        docker(folder.path(), &[r#"{"Running":true}"#, r#"{"Running":false}"#]);
        let (told, _) = ask(folder.path(), "GET /v1.47/containers/a1/json").await;
        assert!(told.ends_with(r#"{"Running":true}"#), "{told}");
    }

    #[test]
    fn a_log_is_told_of_when_the_system_is_up() {
        let request = |path: &str| Request::get(path).body(()).unwrap();
        assert_eq!(Question::of(&request("/v1.47/containers/a1/logs?stdout=1")), Some(Question::Log));
        assert_eq!(Question::of(&request("/containers/a1/logs")), Some(Question::Log));
        assert_eq!(Question::of(&request("/v1.47/containers/a1/json")), None);
        assert_eq!(Question::of(&Request::post("/v1.47/exec/a1/json").body(()).unwrap()), None);
        assert!(Question::Log.is_early(b"entrypoint: address 172.18.0.4\r\n"));
        assert!(!Question::Log.is_early(b"Reached target \x1b[0;1;39mmulti-user.target\x1b[0m - Multi-User System.\r\n"));
    }

    #[tokio::test]
    async fn a_commands_input_ends_before_its_output() {
        let folder = tempfile::tempdir().unwrap();
        docker(folder.path(), &["HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"]);
        tokio::spawn(serve(UnixListener::bind(folder.path().join(NAME)).unwrap(), folder.path().join("real")));
        let mut stream = UnixStream::connect(folder.path().join(NAME)).await.unwrap();
        let start = "POST /v1.47/exec/a1/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
        stream.write_all(start.as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 101"));
        stream.write_all(b"of a file").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut output = String::new();
        stream.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "of a file");
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_answer_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (told, _) = ask(folder.path(), "GET /_ping").await;
        let message = format!("cannot reach the Docker daemon at unix://{}/real: ", folder.path().display());
        assert!(told.starts_with("HTTP/1.1 502") && told.contains(&message), "{told}");
    }
}
