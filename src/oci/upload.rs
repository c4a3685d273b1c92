//! Uploads that go on where they were cut: the registry is asked how far it came, and given the rest.

use std::io::{Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use oci_client::RegistryOperation;
use oci_client::secrets::RegistryAuth;
use reqwest::{Method, RequestBuilder, Response, Url};
use tokio_util::io::ReaderStream;

use super::cause::Cause;
use super::error::{Error, Result};
use super::layout::Layout;
use super::patience::Patience;
use super::registry::{Registry, SILENCE};
use super::spec::Descriptor;
use crate::clock::Stopwatch;
use crate::fsx;

/// How long a registry may take to compare the digest of what it has, and to store it.
const STORING: Duration = Duration::from_mins(5);
/// How often it is looked how much has been sent.
const LOOK: Duration = Duration::from_secs(1);
/// How much of a file is read at once.
const PIECE: usize = 256 << 10;

/// An upload that the registry knows.
struct Session {
    location: Url,
    /// How many bytes the registry has.
    at: u64,
}

/// One blob on its way.
struct Upload<'a> {
    registry: &'a Registry,
    target: &'a oci_client::Reference,
    blob: &'a Descriptor,
    layout: &'a Layout,
    session: Option<Session>,
    verified: bool,
    token: Option<String>,
    moved: &'a (dyn Fn(i64) + Sync),
    /// Of how many bytes `moved` was told.
    told: u64,
}

impl Registry {
    /// Uploads a blob of a layout, unless it is there. What the layout holds is compared with its digest first.
    pub(super) async fn upload(
        &self,
        target: &oci_client::Reference,
        blob: &Descriptor,
        layout: &Layout,
        moved: &(dyn Fn(i64) + Sync),
    ) -> Result<()> {
        let what = format!("blob {} to {}/{}", blob.digest, target.registry(), target.repository());
        let mut patience = Patience::new(what, blob.size);
        let (session, verified, token, told) = (None, false, None, 0);
        let mut upload = Upload { registry: self, target, blob, layout, session, verified, token, moved, told };
        while let Err(error) = patience.within(upload.attempt()).await {
            // How far it came is only known when the registry is asked; that it was begun is a step, too.
            let at = upload.session.as_ref().map_or(0, |session| session.at);
            patience.pause(error, at, &self.events).await?;
        }
        upload.tell(blob.size);
        Ok(())
    }
}

impl Upload<'_> {
    /// Tells that the registry has, or is about to have, so many bytes.
    fn tell(&mut self, at: u64) {
        (self.moved)(at as i64 - self.told as i64);
        self.told = at;
    }

    async fn attempt(&mut self) -> Result<()> {
        self.login().await?;
        if self.registry.has(self.target, &self.blob.digest).await? {
            return Ok(());
        }
        if !self.verified {
            let (layout, digest) = (self.layout.clone(), self.blob.digest.clone());
            super::blocking(move || layout.verify(&digest)).await?;
            self.verified = true;
        }
        let session = match self.session.take() {
            Some(session) => self.ask(session).await?,
            None => None,
        };
        let session = match session {
            Some(session) => session,
            None => self.begin().await?,
        };
        let at = session.at;
        self.tell(at);
        if at > 0 {
            self.registry.events.note(format!("blob {} goes on at byte {at}", self.blob.digest));
        }
        // Kept before anything is sent: whatever happens then, the registry can be asked.
        self.session = Some(Session { location: session.location.clone(), at });
        let location = if at < self.blob.size { self.send(session).await? } else { session.location };
        self.end(location).await
    }

    async fn login(&mut self) -> Result<()> {
        let auth = self.registry.client.auth(self.target, &self.registry.auth, RegistryOperation::Push).await;
        self.token = auth.map_err(self.registry.failed("reach", self.target))?;
        Ok(())
    }

    /// A request with what the registry wants to see, which nobody else is shown.
    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let base = self.base();
        let is_its = |base: &Url| {
            base.host_str() == url.host_str()
                && base.port_or_known_default() == url.port_or_known_default()
                && base.scheme() == url.scheme()
        };
        let its = base.as_ref().is_some_and(is_its);
        let request = self.registry.http.request(method, url);
        match (&self.token, &self.registry.auth) {
            _ if !its => request,
            (Some(token), _) => request.bearer_auth(token),
            (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            _ => request,
        }
    }

    fn base(&self) -> Option<Url> {
        let scheme = if self.registry.address.plain_http { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{}/", self.target.resolve_registry())).ok()
    }

    fn failed(&self, cause: Cause) -> Error {
        self.registry.because("push a blob to", self.target, cause)
    }

    /// Asks something that has an answer soon.
    async fn send_request(&self, request: RequestBuilder) -> Result<Response> {
        request.timeout(SILENCE).send().await.map_err(|error| self.failed(Cause::of_http(&error)))
    }

    /// The error of an answer that is not the expected one.
    async fn unexpected(&self, response: Response) -> Error {
        let status = response.status().as_u16();
        let said = response.text().await.unwrap_or_default();
        self.failed(Cause::of_status(status, &said))
    }

    /// Where the upload goes on, from an answer; relative to the registry when it is not absolute.
    fn location(&self, response: &Response) -> Result<Url> {
        let header = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let url = header.and_then(|text| response.url().join(text).ok());
        url.ok_or_else(|| self.failed(Cause::Other { reason: "it does not say where the upload goes on".into() }))
    }

    async fn begin(&self) -> Result<Session> {
        let base =
            self.base().and_then(|base| base.join(&format!("v2/{}/blobs/uploads/", self.target.repository())).ok());
        let url = base.ok_or_else(|| self.failed(Cause::Other { reason: "its address is no URL".into() }))?;
        let response = self.send_request(self.request(Method::POST, url).header(CONTENT_LENGTH, 0)).await?;
        if response.status() == StatusCode::ACCEPTED {
            return Ok(Session { location: self.location(&response)?, at: 0 });
        }
        Err(self.unexpected(response).await)
    }

    /// How far the registry came; `None` when it knows nothing of the upload any more, or cannot tell.
    async fn ask(&self, session: Session) -> Result<Option<Session>> {
        let response = self.send_request(self.request(Method::GET, session.location)).await?;
        if response.status().is_server_error() {
            return Err(self.unexpected(response).await);
        }
        if response.status() != StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let range = response.headers().get(RANGE).and_then(|value| value.to_str().ok());
        let last = range.and_then(|range| range.trim_start_matches("bytes=").split_once('-')?.1.parse::<u64>().ok());
        let Ok(location) = self.location(&response) else { return Ok(None) };
        // "0-0" is what registries say of one byte and of none: one byte is not worth the doubt.
        let at = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
        Ok((at > 0 && at <= self.blob.size).then_some(Session { location, at }))
    }

    /// Sends what the registry lacks.
    async fn send(&mut self, session: Session) -> Result<Url> {
        let left = self.blob.size - session.at;
        let path = self.layout.blob_path(&self.blob.digest);
        let mut file = fsx::open(&path)?;
        file.seek(SeekFrom::Start(session.at)).map_err(Error::archive(format!("read blob {}", self.blob.digest)))?;
        let sent = Arc::new(AtomicU64::new(session.at));
        let counter = sent.clone();
        let body = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE)
            .inspect_ok(move |piece| _ = counter.fetch_add(piece.len() as u64, Ordering::Relaxed));
        let mut request = self
            .request(Method::PATCH, session.location)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, left);
        if session.at > 0 {
            request = request.header(CONTENT_RANGE, format!("{}-{}", session.at, self.blob.size - 1));
        }
        let sending = request.body(reqwest::Body::wrap_stream(body)).send();
        let response = tokio::select! {
            response = sending => response.map_err(|error| self.failed(Cause::of_http(&error)))?,
            () = self.watch(&sent) => return Err(self.failed(Cause::cut("it takes nothing any more"))),
        };
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => self.location(&response),
            _ => Err(self.lost(response).await),
        }
    }

    /// Tells how much is sent; returns when that has not changed for too long.
    async fn watch(&mut self, sent: &AtomicU64) {
        let mut last = Stopwatch::start();
        while last.elapsed() < SILENCE {
            tokio::time::sleep(LOOK).await;
            let at = sent.load(Ordering::Relaxed);
            if at != self.told {
                self.tell(at);
                last = Stopwatch::start();
            }
        }
    }

    /// Has the registry compare the digest and keep the blob.
    async fn end(&mut self, mut location: Url) -> Result<()> {
        location.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        let request = self.request(Method::PUT, location).header(CONTENT_LENGTH, 0).timeout(STORING);
        let response = request.send().await.map_err(|error| self.failed(Cause::of_http(&error)))?;
        if response.status() == StatusCode::CREATED { Ok(()) } else { Err(self.lost(response).await) }
    }

    /// The error of an answer in the middle of an upload. What the registry has forgotten is begun anew.
    async fn lost(&mut self, response: Response) -> Error {
        if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE) {
            self.session = None;
            return self.failed(Cause::cut("it no longer knows of the upload"));
        }
        self.unexpected(response).await
    }
}
