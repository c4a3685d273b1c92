//! `cluster-init bundle pull` without a registry: images by upstream's names and manifests by their releases' URLs, here all through
//! mirrors on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cluster_init::bundle::{Bundle, Part, Parts};
use cluster_init::oci::{Layout, Reference};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::registry::{Server, command, image, run};
use crate::support::{Ended, Home, ended};

/// The content of releases by path, on a plain HTTP server.
#[derive(Clone, Default)]
struct Releases(Arc<Mutex<BTreeMap<String, String>>>);

impl Releases {
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let files = self.0.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let files = files.clone();
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let found = files.lock().unwrap().get(request.uri().path()).cloned();
                    async move {
                        let response = Response::builder();
                        Ok::<_, Infallible>(match found {
                            Some(text) => response.body(Full::new(Bytes::from(text))).unwrap(),
                            None => response.status(StatusCode::NOT_FOUND).body(Full::default()).unwrap(),
                        })
                    }
                });
                let serving =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        host
    }

    fn set(&self, url: &str, content: Option<String>) {
        let path = url.trim_start_matches("https://").split_once('/').unwrap().1;
        let key = format!("/releases/{path}");
        match content {
            Some(content) => self.0.lock().unwrap().insert(key, content),
            None => self.0.lock().unwrap().remove(&key),
        };
    }
}

/// What is in every bundle.
fn parts() -> Vec<Part> {
    Parts::own().unwrap().all.into_iter().filter(|part| part.with().is_none()).collect()
}

fn images(part: &Part) -> Vec<String> {
    match part {
        Part::Tool(program) | Part::Image(program) => program.images.clone(),
        Part::System(system) => system.images.clone(),
        Part::Manifest(_) => Vec::new(),
    }
}

/// A small image for each, as upstream might make it.
fn upstreams_images(folder: &Path) -> Layout {
    let mut layout = Layout::open_or_create(folder).unwrap();
    let mut entries = Vec::new();
    for part in parts() {
        let content = format!("program of {}", part.name());
        // As upstream's kubectl: in another folder, and started by another program.
        let entry = image(&layout, &["/go-runner"], &format!("bin/{}", part.name()), content.as_bytes());
        for reference in images(&part) {
            let mut entry = entry.clone();
            entry.annotations.insert("org.opencontainers.image.ref.name".into(), reference);
            entry.annotations.insert("cluster-init.dev/part".into(), part.name().into());
            entries.push(entry);
        }
    }
    layout.set_entries(entries).unwrap();
    layout
}

/// Has a tag point to an index of images for several processors, of which one is that of this host.
async fn publish_index(server: &Server, repository: &str, tag: &str, layout: &Layout, part: &str) {
    let entry = layout.entries().iter().find(|entry| entry.annotations["cluster-init.dev/part"] == part).unwrap();
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    // The registry wants every image to be there; upstream's others differ, which is of no interest here.
    let image = |architecture: &str| {
        serde_json::json!({"mediaType": entry.media_type, "digest": entry.digest, "size": entry.size,
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [image("s390x"), image(own)]});
    let url = format!("http://{}/v2/{repository}/manifests/{tag}", server.host());
    let request = reqwest::Client::new().put(url).header("content-type", "application/vnd.oci.image.index.v1+json");
    let response = request.body(index.to_string()).send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.text().await.unwrap());
}

/// Pulls through the mirrors. There is no way out: what the mirrors do not have is nowhere.
async fn pull(home: &Home, bundle: &Path, registry: &str, releases: &str) -> Ended {
    let mut hosts = BTreeSet::new();
    for part in parts() {
        hosts.extend(
            images(&part)
                .iter()
                .map(|name| name.parse::<Reference>().unwrap().name.split('/').next().unwrap().to_owned()),
        );
    }
    let mut args = vec!["pull".to_owned()];
    args.extend(hosts.iter().map(|host| format!("--mirror={host}=http://{registry}")));
    for host in ["github.com", "raw.githubusercontent.com"] {
        args.push(format!("--mirror={host}=http://{releases}/releases"));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = command(home, bundle, &args).env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    for name in ["HTTPS_PROXY", "https_proxy"] {
        command = command.env(name, "http://127.0.0.1:1");
    }
    ended(command.run(Duration::from_mins(1)).await)
}

#[tokio::test]
async fn a_connected_site_pulls_what_upstream_publishes() {
    let home = Home::new();
    let server = Server::plain(&home).await;
    let upstream = upstreams_images(&home.path().join("upstream"));
    run(&home, upstream.folder(), &["push", server.host(), "--plain-http"]).await.ok();
    let etcd = parts().iter().find(|part| part.name() == "etcd").map(images).unwrap();
    let tag = etcd[0].rsplit_once(':').unwrap().1;
    publish_index(&server, "etcd", tag, &upstream, "etcd").await;
    let releases = Releases::default();
    let mut manifests = Vec::new();
    for part in parts() {
        let Part::Manifest(manifest) = &part else { continue };
        releases.set(&manifest.url, Some(format!("kind: List\napiVersion: v1\nname: {}\n", manifest.name)));
        manifests.push(manifest.clone());
    }
    let address = releases.serve().await;
    let target = home.path().join("pulled");

    // One file is not there, and in the place of another there is a page.
    releases.set(&manifests[0].url, None);
    releases.set(&manifests[1].url, Some("<html>Please log in</html>".into()));
    let failed = pull(&home, &target, server.host(), &address).await;
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let names = [manifests[0].name.as_str(), manifests[1].name.as_str()];
    for text in [
        format!("2 of {} parts could not be pulled: ", parts().len()),
        format!("part {}: failed to fetch {address}/releases/", names[0]),
        "it has no such thing".into(),
        format!("part {}: failed to fetch {address}/releases/", names[1]),
        "what comes is no manifest: ".into(),
        "hint: make what cannot be pulled: cluster-init bundle build".into(),
        "hint: what is sound was kept; go on with: cluster-init bundle pull".into(),
    ] {
        assert!(failed.stderr.contains(&text), "missing: {text}\n{}", failed.stderr);
    }

    releases.set(&manifests[1].url, Some("kind: List\n".into()));
    releases.set(&manifests[0].url, Some("kind: List\n".into()));
    let report = pull(&home, &target, server.host(), &address).await.ok().json();
    let pulled: BTreeSet<&str> = report["pulled"].as_array().unwrap().iter().filter_map(|part| part.as_str()).collect();
    assert_eq!(pulled, BTreeSet::from(names));
    // Whole to its last part.
    run(&home, &target, &["verify"]).await.ok();
    let bundle = Bundle::open(&target, &home.unpacked()).unwrap();
    let other = &manifests[2];
    let content = bundle.manifest(&other.url).unwrap().unwrap();
    assert_eq!(String::from_utf8(content).unwrap(), format!("kind: List\napiVersion: v1\nname: {}\n", other.name));
    // Programs are found where upstream has put them.
    let kubectl = bundle.tool("kubectl").unwrap();
    assert_eq!(cluster_init::fsx::read_text(&kubectl).unwrap(), "program of kubectl");
    // This program is a part that nobody publishes for it.
    let own = bundle.tool("cluster-init").unwrap();
    assert_eq!(own.metadata().unwrap().len(), Path::new(crate::support::PROGRAM).metadata().unwrap().len());
    let index = cluster_init::fsx::read_text(&target.join("index.json")).unwrap();
    assert!(
        index.contains(&format!("\"cluster-init.dev/upstream\": \"{}/etcd:{tag}@sha256:", server.host())),
        "{index}"
    );
    server.stop().await;
}
