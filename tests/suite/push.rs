//! `cluster-init bundle push`: a bundle's images in a registry that wants a password.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use cluster_init::bundle::Bundle;
use cluster_init::exec::{Child, Command};
use cluster_init::fsx;
use cluster_init::oci::{Layout, ProgramImage};
use tokio::net::TcpStream;

use crate::support::{self, Ended, Home, ended};

/// "user" with the password "secret".
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A bundle of two small images.
fn bundle(folder: &Path) -> PathBuf {
    let program = folder.join("program");
    let mut layout = Layout::open_or_create(&folder.join("bundle")).unwrap();
    let mut entries = Vec::new();
    for (name, reference) in [("one", "registry.example.org/team/one:v1"), ("two", "docker.io/library/two:2")] {
        fsx::write(&program, format!("#!/bin/sh\necho {name}\n")).unwrap();
        let image = ProgramImage {
            path: "bin/program",
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            user: "0",
            files: std::collections::BTreeMap::new(),
            architecture: "amd64",
            annotations: std::collections::BTreeMap::new(),
        };
        let mut entry = layout.add_program_image(&image, &program).unwrap();
        entry.annotations.insert("org.opencontainers.image.ref.name".into(), reference.into());
        entry.annotations.insert("cluster-init.dev/part".into(), name.into());
        entries.push(entry);
    }
    layout.set_entries(entries).unwrap();
    layout.folder().to_owned()
}

/// The suite's registry on a free port of loopback, with a password.
async fn registry(home: &Home) -> (Child, String) {
    let bundle = Bundle::open(&support::bundle(), &home.unpacked()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let root = bundle.unpack_async(&bundle.image("registry:3.1.2").unwrap()).await.unwrap();
    fsx::write(&home.path().join("htpasswd"), HTPASSWD).unwrap();
    let child = Command::new(bundle.tool_async("registry").await.unwrap())
        .arg("serve")
        .arg(root.join("etc/distribution/config.yml"))
        .env("REGISTRY_HTTP_ADDR", &host)
        .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", home.path().join("storage"))
        .env("REGISTRY_AUTH", "htpasswd")
        .env("REGISTRY_AUTH_HTPASSWD_REALM", "test")
        .env("REGISTRY_AUTH_HTPASSWD_PATH", home.path().join("htpasswd"))
        .env("OTEL_TRACES_EXPORTER", "none")
        .spawn(&home.path().join("registry.log"))
        .unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(&host).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "{}", fsx::read_text(&home.path().join("registry.log")).unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (child, host)
}

async fn push(home: &Home, bundle: &Path, host: &str) -> Ended {
    let command = home.command(["bundle", "push", host, "--plain-http", "--output", "json", "--bundle"]).arg(bundle);
    ended(command.env("DOCKER_CONFIG", home.path().join("docker")).run(Duration::from_mins(1)).await)
}

#[tokio::test]
async fn images_are_pushed_with_the_password_of_docker() {
    let home = Home::new();
    let bundle = bundle(home.path());
    let (mut child, host) = registry(&home).await;
    let refused = push(&home, &bundle, &host).await;
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains(&host), "{}", refused.stderr);

    let auth = base64::engine::general_purpose::STANDARD.encode("user:secret");
    let config = serde_json::json!({"auths": {&host: {"auth": auth}}}).to_string();
    fsx::create_dir(&home.path().join("docker")).unwrap();
    fsx::write(&home.path().join("docker/config.json"), config).unwrap();
    assert_eq!(push(&home, &bundle, &host).await.ok().json()["images"], 2);
    let stored = home.path().join("storage/docker/registry/v2/repositories");
    // By the paths as which containerd asks a mirror for them.
    assert!(stored.join("team/one/_manifests/tags/v1").is_dir());
    assert!(stored.join("library/two/_manifests/tags/2").is_dir());
    // Again: nothing is uploaded.
    let log = || fsx::read_text(&home.path().join("registry.log")).unwrap();
    let uploads =
        |log: &str| log.matches("http.request.method=PATCH").count() + log.matches("http.request.method=POST").count();
    let before = uploads(&log());
    assert!(before > 0, "{}", log());
    push(&home, &bundle, &host).await.ok();
    assert_eq!(uploads(&log()), before);
    child.stop(Duration::from_secs(10)).await.unwrap();
}
