//! The bundle as a user meets it: made, listed, verified, broken, repaired, resumed, and pushed to its own registry.

use crate::support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::registry::Server;
use crate::support::Home;
use cluster_init::bundle::{Bundle, Parts};
use cluster_init::exec::{self, Command};
use cluster_init::fsx;
use cluster_init::oci::push::Registry;
use cluster_init::oci::{Archive, Artifact, Digest, Layout};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A copy of the suite's bundle that a test may break: files are shared until they are replaced.
async fn copy(home: &Home) -> PathBuf {
    let target = home.path().join("bundle");
    let source = support::bundle();
    let copy = |how: &str| Command::new("cp").arg(how).arg(&source).arg(&target).run(Duration::from_mins(2));
    if copy("-al").await.is_err() {
        fsx::remove_dir(&target).unwrap();
        copy("-a").await.unwrap();
    }
    fsx::remove_file(&target.join(".lock")).unwrap();
    // Our own image is that of the program that is tested, whichever made the suite's bundle.
    run(with(home, &target, &["bundle", "build"])).await.ok();
    target
}

fn with(home: &Home, bundle: &Path, args: &[&str]) -> Command {
    home.command(args).env("CLUSTER_INIT_BUNDLE", bundle)
}

async fn run(command: Command) -> support::Ended {
    support::ended(command.run(Duration::from_mins(10)).await)
}

/// The layer of a part's entry.
fn layer(folder: &Path, part: &str) -> Digest {
    let layout = Layout::open(folder).unwrap();
    let named = |entry: &&cluster_init::oci::Descriptor| entry.annotations["cluster-init.dev/part"] == part;
    let entry = layout.entries().iter().find(named).unwrap();
    layout.manifest(entry).unwrap().layers[0].digest.clone()
}

fn drop_parts(folder: &Path, dropped: impl Fn(&str) -> bool) {
    let mut layout = Layout::open(folder).unwrap();
    let kept = layout.entries().iter().filter(|entry| !dropped(&entry.annotations["cluster-init.dev/part"]));
    let kept = kept.cloned().collect();
    layout.set_entries(kept).unwrap();
}

#[tokio::test]
async fn the_suites_bundle_is_sound_and_whole() {
    let home = Home::new();
    let bundle = support::bundle();
    run(with(&home, &bundle, &["bundle", "verify"])).await.ok();
    let list = run(with(&home, &bundle, &["bundle", "list", "--output", "json"])).await.ok().json();
    let listed: BTreeSet<String> =
        list.as_array().unwrap().iter().map(|entry| entry["part"].as_str().unwrap().to_owned()).collect();
    let parts = Parts::own().unwrap();
    let name = |part: &cluster_init::bundle::Part| part.name().to_owned();
    let wanted: BTreeSet<String> = parts.all.iter().filter(|part| part.with().is_none()).map(name).collect();
    let known: BTreeSet<String> = parts.all.iter().map(name).collect();
    assert!(wanted.is_subset(&listed), "missing: {:?}", wanted.difference(&listed));
    assert!(listed.is_subset(&known), "unknown: {:?}", listed.difference(&known));
}

#[tokio::test]
async fn every_url_and_image_of_the_components_is_in_the_bundle() {
    let home = Home::new();
    let bundle = Bundle::open(&support::bundle(), &home.path().join("unpacked")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("kustomize-components");
    let mut seen = 0;
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for name in fsx::list(&folder).unwrap() {
            let path = folder.join(&name);
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            for line in fsx::read_text(&path).unwrap().lines() {
                let line = line.trim().trim_start_matches("- ");
                if line.starts_with("https://") && line.contains("/releases/download/") {
                    assert!(bundle.manifest(line).unwrap().is_some(), "{}: {line}", path.display());
                    seen += 1;
                } else if let Some(image) = line.strip_prefix("image: ").filter(|image| !image.contains('$')) {
                    if path.to_string_lossy().contains("/local-path-storage/") && !bundle.is_with("docker") {
                        continue;
                    }
                    bundle.image(image).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 10, "{seen}");
    // The images that upstream's manifests name, too; those of OpenStack are not in the bundle, those of RKE2 only with docker.
    let own = ["fluxcd/", "cert-manager/", "kubernetes-sigs/cluster-api/"];
    for url in bundle.manifest_urls().filter(|url| own.iter().any(|project| url.contains(project))) {
        let content = String::from_utf8(bundle.manifest(url).unwrap().unwrap()).unwrap();
        for line in content.lines() {
            let image = line.trim().strip_prefix("image: ").map(|image| image.trim_matches('"'));
            if let Some(image) = image.filter(|image| image.contains(":v")) {
                bundle.image(image).unwrap_or_else(|error| panic!("{url}: {error}"));
            }
        }
    }
}

#[tokio::test]
async fn without_a_bundle_the_command_that_makes_one_is_named() {
    let home = Home::new();
    let ended = run(with(&home, &home.path().join("none"), &["bundle", "list"])).await;
    assert_eq!(ended.code, 3);
    assert!(ended.stderr.contains("there is no bundle in "), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: make or complete it: cluster-init bundle build"), "{}", ended.stderr);
}

#[tokio::test]
async fn without_go_the_command_that_installs_it_is_named() {
    let home = Home::new();
    let command = with(&home, &home.path().join("new"), &["bundle", "build"]).env("PATH", "/nonexistent");
    let ended = run(command).await;
    assert_eq!(ended.code, 3);
    assert!(ended.stderr.contains("go is not installed or not on PATH"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: install it: curl -fsSL https://go.dev/dl/go"), "{}", ended.stderr);
}

#[tokio::test]
async fn broken_blobs_are_named_and_repaired() {
    let home = Home::new();
    let bundle = copy(&home).await;
    let before = Layout::open(&bundle).unwrap();
    // A part whose making is cheap is made again; the missing one is put back by hand.
    let corrupt = layer(&bundle, "source-controller.deployment");
    let mut content = before.read(&corrupt).unwrap();
    content[10] ^= 1;
    fsx::write(&before.blob_path(&corrupt), &content).unwrap();
    let missing = layer(&bundle, "etcd");
    let aside = home.path().join("aside");
    fsx::rename(&before.blob_path(&missing), &aside).unwrap();

    let ended = run(with(&home, &bundle, &["bundle", "verify"])).await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("is broken in 2 places"), "{}", ended.stderr);
    for text in [
        format!("part source-controller.deployment is unusable: blob {corrupt} in "),
        "is corrupt: its content has the digest sha256:".into(),
        format!("part etcd is unusable: blob {missing} is missing from "),
        "hint: repair it: cluster-init bundle build".into(),
    ] {
        assert!(ended.stderr.contains(&text), "missing: {text}\n{}", ended.stderr);
    }
    let opened = Bundle::open(&bundle, &home.path().join("unpacked")).unwrap();
    let error = cluster_init::failure::Failure::from(opened.tool("etcd").unwrap_err());
    assert!(error.to_string().starts_with(&format!("part etcd is unusable: blob {missing} is missing from ")));
    assert_eq!(error.hints, ["repair it: cluster-init bundle build"]);

    fsx::rename(&aside, &before.blob_path(&missing)).unwrap();
    let report = run(with(&home, &bundle, &["bundle", "build", "--output", "json"])).await.ok().json();
    assert_eq!(report["built"], serde_json::json!(["source-controller.deployment"]));
    assert_eq!(report["digest"], before.digest().unwrap().to_string(), "the same part again");
    run(with(&home, &bundle, &["bundle", "verify"])).await.ok();
    let report = run(with(&home, &bundle, &["bundle", "build", "--output", "json"])).await.ok().json();
    assert_eq!(report["built"], serde_json::json!([]));
}

#[tokio::test]
async fn a_killed_build_goes_on_where_it_was() {
    let home = Home::new();
    let bundle = copy(&home).await;
    let digest = Layout::open(&bundle).unwrap().digest().unwrap();
    let manifests: BTreeSet<String> = Parts::own()
        .unwrap()
        .all
        .iter()
        .filter(|part| part.kind() == "manifest")
        .map(|part| part.name().to_owned())
        .collect();
    drop_parts(&bundle, |part| manifests.contains(part));
    let entries = || Layout::open(&bundle).unwrap().entries().len();
    let begin = entries();
    let mut child = with(&home, &bundle, &["bundle", "build"]).spawn(&home.path().join("log")).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_mins(2);
    while entries() < begin + 3 {
        assert!(std::time::Instant::now() < deadline, "{}", fsx::read_text(&home.path().join("log")).unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    exec::signal_group(child.pid().unwrap(), rustix::process::Signal::KILL);
    child.wait().await.unwrap();
    let kept = entries() - begin;
    assert!(kept >= 3 && kept < manifests.len(), "{kept}");

    let report = run(with(&home, &bundle, &["bundle", "build", "--output", "json"])).await.ok().json();
    assert_eq!(report["built"].as_array().unwrap().len(), manifests.len() - kept);
    assert_eq!(report["digest"], digest.to_string(), "the bundle is the one that was never interrupted");
}

#[tokio::test]
async fn an_interrupted_build_says_how_it_goes_on() {
    let home = Home::new();
    let bundle = copy(&home).await;
    drop_parts(&bundle, |part| part.contains("components"));
    let log = home.path().join("log");
    let mut child = with(&home, &bundle, &["bundle", "build"]).spawn(&log).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_mins(2);
    while !fsx::read_text(&log).unwrap().contains("core-components v") {
        assert!(std::time::Instant::now() < deadline, "{}", fsx::read_text(&log).unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    exec::signal(child.pid().unwrap(), rustix::process::Signal::INT);
    let status = child.wait().await.unwrap();
    let log = fsx::read_text(&log).unwrap();
    assert_eq!(status.code(), Some(5), "{log}");
    assert!(log.contains("hint: what is done is kept; go on with: cluster-init bundle build"), "{log}");
    // An incomplete bundle is not a sound one.
    let ended = run(with(&home, &bundle, &["bundle", "verify"])).await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains(" has no part infrastructure-components-development"), "{}", ended.stderr);
}

#[tokio::test]
async fn an_unusable_go_is_told_with_its_own_words() {
    let home = Home::new();
    let go = home.path().join("go");
    let script = "#!/bin/sh\necho 'go: go.mod requires go >= 1.26.0 (running go 1.19)' >&2\nexit 1\n";
    fsx::write_mode(&go, script, 0o755).unwrap();
    let command = with(&home, &home.path().join("new"), &["bundle", "build"]).env("PATH", home.path());
    let ended = run(command).await;
    assert_eq!(ended.code, 3);
    assert!(ended.stderr.contains("go.mod requires go >= 1.26.0 (running go 1.19)"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: install it: curl"), "{}", ended.stderr);
}

#[tokio::test]
async fn only_one_build_at_a_time() {
    let home = Home::new();
    let bundle = copy(&home).await;
    let _lock = fsx::Lock::try_take(&bundle.join(".lock")).unwrap().unwrap();
    let ended = run(with(&home, &bundle, &["bundle", "build"])).await;
    assert_eq!(ended.code, 7);
    let text = format!("process {} is making the bundle ", std::process::id());
    assert!(ended.stderr.contains(&text), "{}", ended.stderr);
}

/// What a registry answers to GET.
async fn get(host: &str, path: &str, accept: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    (String::from_utf8_lossy(&answer[..at]).into_owned(), answer[at + 4..].to_vec())
}

#[tokio::test]
async fn artifacts_and_images_are_pushed_to_the_bundles_registry() {
    let home = Home::new();
    let bundle = Bundle::open(&support::bundle(), &home.path().join("unpacked")).unwrap();
    let server = Server::plain(&home).await;
    let host = server.host();
    let registry = Registry::new(host, true, None).unwrap();

    let mut files = Archive::new();
    files.insert("kustomization.yaml", "resources: [a.yaml]\n", false);
    files.insert("a.yaml", "kind: List\napiVersion: v1\n", false);
    let source = "https://example.org/repository.git";
    let artifact = Artifact::flux(&files, source, "main@sha1:0123", jiff::Timestamp::UNIX_EPOCH).unwrap();
    let digest = registry.push("cluster-init/source", "0123", &artifact).await.unwrap();
    assert_eq!(digest, artifact.digest());
    // Again: everything is there already.
    assert_eq!(registry.push("cluster-init/source", "latest", &artifact).await.unwrap(), digest);

    let kind = "application/vnd.oci.image.manifest.v1+json";
    let (head, body) = get(host, "/v2/cluster-init/source/manifests/0123", kind).await;
    assert!(head.starts_with("HTTP/1.0 200") && head.contains(&digest.to_string()), "{head}");
    assert_eq!(Digest::of(&body), digest);
    let manifest: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(manifest["annotations"]["org.opencontainers.image.revision"], "main@sha1:0123");
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let (_, content) = get(host, &format!("/v2/cluster-init/source/blobs/{layer}"), "*/*").await;
    assert_eq!(content, files.tar_gz().unwrap());

    // The bundle's own helm understands the chart.
    let mut chart = Archive::new();
    chart.insert("Chart.yaml", "apiVersion: v2\nname: demo\nversion: 0.0.0\n", false);
    chart.insert("templates/a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\n", false);
    let (name, chart) = Artifact::helm_chart(&chart, "0.1.0-g0123").unwrap();
    registry.push(&format!("cluster-init/charts/{name}"), "0.1.0-g0123", &chart).await.unwrap();
    let rendered = Command::new(bundle.tool_async("helm").await.unwrap())
        .args(["template", "one", &format!("oci://{host}/cluster-init/charts/demo"), "--version", "0.1.0-g0123"])
        .arg("--plain-http")
        .env("HELM_CONFIG_HOME", home.path())
        .env("HELM_CACHE_HOME", home.path())
        .run(Duration::from_mins(1))
        .await
        .unwrap();
    assert!(rendered.text().contains("name: one"), "{}", rendered.text());

    let image = bundle.image("registry:3.1.2").unwrap();
    let digest = registry.push_image("library/registry", "3.1.2", &image, &|_| ()).await.unwrap();
    assert_eq!(digest, *image.digest());
    let (head, _) = get(host, "/v2/library/registry/manifests/3.1.2", kind).await;
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
    server.stop().await;
}

#[tokio::test]
async fn a_push_goes_through_a_proxy_that_wants_a_password() {
    let home = Home::new();
    let server = Server::plain(&home).await;
    let host = server.host().to_owned();
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    // Requests in absolute form are understood by the registry as they are, so passing bytes on is all that it takes.
    let passing = tokio::spawn(async move {
        loop {
            let (mut inner, _) = proxy.accept().await.unwrap();
            let host = host.clone();
            tokio::spawn(async move {
                let mut head = vec![0; 16384];
                let count = inner.read(&mut head).await.unwrap();
                let text = String::from_utf8_lossy(&head[..count]).to_lowercase();
                // "pod:secret"
                if !text.contains("proxy-authorization: basic cg9konnly3jlda==")
                    || !text.contains(" http://registry.test/v2/")
                {
                    inner
                        .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                        .await
                        .unwrap();
                    return;
                }
                let mut outer = TcpStream::connect(&host).await.unwrap();
                outer.write_all(&head[..count]).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
            });
        }
    });
    let mut files = Archive::new();
    files.insert("a", "b", false);
    let artifact = Artifact::flux(&files, "x", "y", jiff::Timestamp::UNIX_EPOCH).unwrap();
    let through = |user: &str| format!("http://{user}@{address}").parse::<http::Uri>().unwrap();
    let registry = Registry::new("registry.test", true, Some(&through("pod:secret"))).unwrap();
    assert_eq!(registry.push("a/b", "c", &artifact).await.unwrap(), artifact.digest());
    let registry = Registry::new("registry.test", true, Some(&through("pod:wrong"))).unwrap();
    let error = registry.push("a/b", "d", &artifact).await.unwrap_err();
    assert!(error.to_string().contains(" registry.test/a/b:d"), "{error}");
    assert!(!format!("{registry:?} {error:?}").contains("wrong"), "a password shows");
    passing.abort();
    server.stop().await;
}
