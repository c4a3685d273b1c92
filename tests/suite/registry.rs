//! The registry of the suite's bundle on loopback, as sites have one: with TLS of a private authority, a user and a password; and
//! small bundles to be moved to it and from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use cluster_init::bundle::Bundle;
use cluster_init::exec::{Child, Command};
use cluster_init::fsx;
use cluster_init::oci::{Digest, Layout, ProgramImage};
use tokio::net::TcpStream;

use crate::authority::Signed;
use crate::support::{self, Ended, Home, ended};

/// "user" with the password "secret".
const HTPASSWD: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A registry; its folder is in the test's home.
pub struct Server {
    child: Child,
    host: String,
    folder: PathBuf,
}

impl Server {
    /// Without TLS, for everybody.
    pub async fn plain(home: &Home) -> Self {
        Self::start(home, false, false).await
    }

    /// Without TLS, for "user" with the password "secret".
    pub async fn with_password(home: &Home) -> Self {
        Self::start(home, false, true).await
    }

    /// With TLS, for "user" with the password "secret".
    pub async fn with_tls(home: &Home) -> Self {
        Self::start(home, true, true).await
    }

    async fn start(home: &Home, tls: bool, password: bool) -> Self {
        let bundle = Bundle::open(&support::bundle(), &home.unpacked()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let root = bundle.unpack_async(&bundle.image("registry:3.1.2").unwrap()).await.unwrap();
        let folder = home.path().join(format!("registry-{port}"));
        fsx::create_dir(&folder).unwrap();
        let mut command = Command::new(bundle.tool_async("registry").await.unwrap())
            .arg("serve")
            .arg(root.join("etc/distribution/config.yml"))
            .env("REGISTRY_HTTP_ADDR", &host)
            .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", folder.join("storage"))
            .env("OTEL_TRACES_EXPORTER", "none");
        if password {
            fsx::write(&folder.join("htpasswd"), HTPASSWD).unwrap();
            command = command
                .env("REGISTRY_AUTH", "htpasswd")
                .env("REGISTRY_AUTH_HTPASSWD_REALM", "test")
                .env("REGISTRY_AUTH_HTPASSWD_PATH", folder.join("htpasswd"));
        }
        if tls {
            let signed = Signed::for_loopback();
            fsx::write(&folder.join("ca.pem"), &signed.ca).unwrap();
            fsx::write(&folder.join("cert.pem"), signed.cert.pem()).unwrap();
            fsx::write(&folder.join("key.pem"), signed.key.serialize_pem()).unwrap();
            command = command
                .env("REGISTRY_HTTP_TLS_CERTIFICATE", folder.join("cert.pem"))
                .env("REGISTRY_HTTP_TLS_KEY", folder.join("key.pem"));
        }
        let child = command.spawn(&folder.join("log")).unwrap();
        let server = Self { child, host, folder };
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&server.host).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "{}", server.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// The file with its authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The folder of a repository.
    pub fn repository(&self, name: &str) -> PathBuf {
        self.folder.join("storage/docker/registry/v2/repositories").join(name)
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.folder.join(format!("storage/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    pub fn log(&self) -> String {
        fsx::read_text(&self.folder.join("log")).unwrap_or_default()
    }

    /// How often it was asked for something.
    pub fn count(&self, method: &str) -> usize {
        self.log().matches(&format!("http.request.method={method}")).count()
    }

    pub async fn stop(mut self) {
        self.child.stop(Duration::from_secs(10)).await.unwrap();
    }
}

/// Has docker keep a password for registries.
pub fn login(home: &Home, hosts: &[&str], user: &str, password: &str) {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let auths: BTreeMap<_, _> = hosts.iter().map(|host| (*host, serde_json::json!({"auth": &auth}))).collect();
    configure(home, &serde_json::json!({ "auths": auths }));
}

/// Writes docker's configuration.
pub fn configure(home: &Home, config: &serde_json::Value) {
    fsx::create_dir(&home.path().join("docker")).unwrap();
    fsx::write(&home.path().join("docker/config.json"), config.to_string()).unwrap();
}

/// `cluster-init bundle ...` with a bundle and docker's configuration of this home.
pub fn command(home: &Home, bundle: &Path, args: &[&str]) -> Command {
    let command = home.command(["bundle"]).args(args).args(["--output", "json"]);
    command.env("CLUSTER_INIT_BUNDLE", bundle).env("DOCKER_CONFIG", home.path().join("docker"))
}

pub async fn run(home: &Home, bundle: &Path, args: &[&str]) -> Ended {
    ended(command(home, bundle, args).run(Duration::from_mins(1)).await)
}

/// Adds the image of a program to a layout; the entry is not in the index yet.
pub fn image(layout: &Layout, entrypoint: &[&str], path: &str, content: &[u8]) -> cluster_init::oci::Descriptor {
    let program = layout.folder().join("program");
    fsx::write(&program, content).unwrap();
    let image = ProgramImage {
        path,
        entrypoint: entrypoint.iter().map(|&text| text.to_owned()).collect(),
        cmd: Vec::new(),
        user: "0",
        files: BTreeMap::new(),
        architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        annotations: BTreeMap::new(),
    };
    let entry = layout.add_program_image(&image, &program).unwrap();
    fsx::remove_file(&program).unwrap();
    entry
}

/// Bytes that look like nothing in particular.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..size / 8).flat_map(|_| next()).collect()
}

/// Size of the program of part "two".
pub const LARGE: usize = 6 << 20;

/// A bundle of two images, one of them large, and a manifest.
pub fn small_bundle(folder: &Path) -> Layout {
    let mut layout = Layout::open_or_create(&folder.join("bundle")).unwrap();
    let mut entries = Vec::new();
    let images = [
        ("one", "registry.example.org/team/one:v1", b"#!/bin/sh\necho one\n".to_vec()),
        ("two", "docker.io/library/two:2", noise(LARGE)),
    ];
    for (name, reference, content) in images {
        let mut entry = image(&layout, &["/bin/program"], "bin/program", &content);
        entry.annotations.insert("org.opencontainers.image.ref.name".into(), reference.into());
        entry.annotations.insert("cluster-init.dev/part".into(), name.into());
        entries.push(entry);
    }
    let mut entry = layout
        .add_file_artifact("application/vnd.cluster-init.manifest.v1", "application/yaml", b"kind: List\n")
        .unwrap();
    for (name, value) in [("part", "three"), ("version", "v3+x"), ("url", "https://example.org/three.yaml")] {
        entry.annotations.insert(format!("cluster-init.dev/{name}"), value.into());
    }
    entries.push(entry);
    layout.set_entries(entries).unwrap();
    layout
}

/// The only layer of a part.
pub fn layer(layout: &Layout, part: &str) -> Digest {
    let named = |entry: &&cluster_init::oci::Descriptor| entry.annotations["cluster-init.dev/part"] == part;
    let entry = layout.entries().iter().find(named).unwrap();
    layout.manifest(entry).unwrap().layers[0].digest.clone()
}

/// Changes one byte of a file.
pub fn flip(path: &Path) {
    let mut content = fsx::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fsx::write(path, content).unwrap();
}
