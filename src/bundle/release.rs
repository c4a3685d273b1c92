//! Files of upstream's releases, from their own URLs.

use futures::StreamExt;

use super::error::Result;
use super::site::Site;
use crate::oci::{self, Cause, Digest, Patience};
use crate::yaml;

/// More than any manifest: what is larger is something else, and is not waited for.
const LARGEST: usize = 64 << 20;

/// The manifest at a URL, or at its mirrors, with the URL that had it; compared with its digest where that is known.
pub(super) async fn manifest(site: &Site, url: &str, pinned: Option<&Digest>) -> Result<(String, Vec<u8>)> {
    let mut first = None;
    for url in site.urls(url) {
        let got = Patience::new(url.clone(), 0).with(site.events(), async || get(site, &url).await).await;
        match got.and_then(|content| sound(&url, content, pinned)) {
            Ok(content) => return Ok((url, content)),
            // What the mirror says is of interest: where there is one, upstream is often not reachable at all.
            Err(error) => _ = first.get_or_insert(error),
        }
    }
    let nowhere = || failed(url, Cause::Absent);
    Err(first.unwrap_or_else(nowhere).into())
}

fn failed(url: &str, source: Cause) -> oci::Error {
    let target = url.split_once("://").map_or(url, |(_, rest)| rest).to_owned();
    oci::Error::Registry { action: "fetch", target, source }
}

async fn get(site: &Site, url: &str) -> oci::Result<Vec<u8>> {
    let because = |error: reqwest::Error| failed(url, Cause::of_http(&error));
    let response = site.http().get(url).send().await.map_err(because)?;
    let status = response.status();
    if !status.is_success() {
        // No password is kept for releases, so none is asked for either.
        let refused = Cause::Answer { status: status.as_u16(), said: String::new() };
        let refuses = matches!(status.as_u16(), 401 | 403);
        return Err(failed(url, if refuses { refused } else { Cause::of_status(status.as_u16(), "") }));
    }
    let mut content = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(bytes) = body.next().await {
        content.extend_from_slice(&bytes.map_err(because)?);
        if content.len() > LARGEST {
            return Err(failed(url, Cause::Other { reason: "it is too large for a manifest".into() }));
        }
    }
    Ok(content)
}

/// Refuses what is no manifest, such as the page that some proxies answer with, and what has another digest.
fn sound(url: &str, content: Vec<u8>, pinned: Option<&Digest>) -> oci::Result<Vec<u8>> {
    let actual = Digest::of(&content);
    if let Some(digest) = pinned.filter(|digest| **digest != actual) {
        let (_, from) = url.split_once("://").unwrap_or(("", url));
        return Err(oci::Error::Wrong {
            what: format!("the file {digest}"),
            from: from.to_owned(),
            actual: actual.to_string(),
        });
    }
    let text = String::from_utf8_lossy(&content);
    let documents = yaml::documents(&text, "it").map_err(|error| error.to_string());
    let objects = documents.and_then(|all| {
        let is_object = |document: &serde_json::Value| document.get("kind").is_some() || document.is_null();
        if all.iter().all(is_object) && !all.is_empty() { Ok(()) } else { Err("it holds no objects".to_owned()) }
    });
    match objects {
        Ok(()) => Ok(content),
        Err(reason) => Err(failed(url, Cause::Other { reason: format!("what comes is no manifest: {reason}") })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_no_manifest() {
        let url = "https://example.org/a.yaml";
        let page = b"<html><body>Please log in: now</body></html>".to_vec();
        let error = sound(url, page, None).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().starts_with("what comes is no manifest: "));
        let manifest = b"kind: List\n---\nkind: ConfigMap\n".to_vec();
        let digest = Digest::of(&manifest);
        assert_eq!(sound(url, manifest.clone(), Some(&digest)).unwrap(), manifest);
        let error = sound(url, manifest, Some(&Digest::of("other"))).unwrap_err().to_string();
        assert!(error.contains(" from example.org/a.yaml is corrupt: its content has the digest "), "{error}");
    }
}
