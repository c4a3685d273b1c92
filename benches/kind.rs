//! `bootstrap kubeadm-capd`, with kind and with plain processes, against the straightforward way with kind and clusterctl.
//!
//! All three run in turn, from the same bundle, `ROUNDS` times (default 1; four minutes a round and more); seconds of each step, medians of
//! the whole and ratios are printed, and how busy the host was. `WAYS="manual local"` leaves some out, `EVENTS=folder` keeps what ours saw.
//! Before the clock runs, docker has every image that either way starts containers from, the straightforward way's node image has
//! Kubernetes' images in it, and ours has its mirror filled. Ours does more: Flux, the chart, a registry of the cluster's own, the proof
//! that it manages itself. Needs Docker and a bundle made with `bundle build --with docker`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a program for people"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster_init::backend::Mirror;
use cluster_init::bundle::{Bundle, Entry};
use cluster_init::clock::Deadline;
use cluster_init::docker::Docker;
use cluster_init::event::Events;
use cluster_init::exec::Command;
use cluster_init::failure::Result;
use cluster_init::node::Home;
use cluster_init::oci::Digest;
use cluster_init::{fsx, k8s};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What `kind load` gives the nodes.
const MANAGERS: [&str; 7] = [
    "cert-manager-cainjector",
    "cert-manager-controller",
    "cert-manager-webhook",
    "cluster-api-controller",
    "kubeadm-bootstrap-controller",
    "kubeadm-control-plane-controller",
    "capd-manager",
];
/// What a published node image has in it.
const PRELOADED: [&str; 7] =
    ["coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "pause"];
/// What clusterctl calls the providers: their folder, name and type, and the bundle's part.
const PROVIDERS: [(&str, &str, &str, &str); 5] = [
    ("cluster-api", "cluster-api", "CoreProvider", "core-components"),
    ("bootstrap-kubeadm", "kubeadm", "BootstrapProvider", "bootstrap-components"),
    ("control-plane-kubeadm", "kubeadm", "ControlPlaneProvider", "control-plane-components"),
    ("infrastructure-docker", "docker", "InfrastructureProvider", "infrastructure-components-development"),
    ("cert-manager", "", "", "cert-manager"),
];
/// Loads the archives of a folder into the content store of a container's own containerd, as node images are made.
const PRELOAD: &str = "containerd >/dev/null 2>&1 & \
    for try in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done; \
    for file in /archives/*; do ctr --namespace k8s.io images import --no-unpack --digests $file; done; kill %1; wait";
/// How a node says which machine it is; the provider would be late with it else.
const PROVIDER_ID: &str =
    r#"sed -i "s|^KUBELET_EXTRA_ARGS=|&--provider-id=docker:////$(hostname) |" /etc/default/kubelet"#;
/// What our control plane has beyond that.
const UNKNOWN_TO_TUTORIALS: [(&str, &str); 5] = [
    ("/clusterConfiguration/apiServer", "extraEnvs"),
    ("/clusterConfiguration", "controllerManager"),
    ("/clusterConfiguration", "scheduler"),
    ("/initConfiguration", "patches"),
    ("/joinConfiguration", "patches"),
];
/// A whole way takes so long at most.
const WAY: Duration = Duration::from_mins(20);

/// How long what was deleted slows a file system.
const SETTLE: Duration = Duration::from_secs(35);

/// Seconds of each step, and of all.
struct Times {
    steps: Vec<(String, f64)>,
    all: f64,
}

struct Bench {
    bundle: Bundle,
    cache: PathBuf,
    entries: BTreeMap<String, Entry>,
    folder: tempfile::TempDir,
    node: String,
}

impl Bench {
    async fn prepare() -> Result<Self> {
        let home = Home::resolve()?;
        let path = std::env::var_os("CLUSTER_INIT_BUNDLE").map_or_else(|| home.bundle(), PathBuf::from);
        let bundle = Bundle::open(&path, &home.unpacked())?;
        let entries = bundle.entries()?.into_iter().map(|entry| (entry.part.clone(), entry)).collect();
        let folder = tempfile::Builder::new().prefix("ci-bench-").tempdir().unwrap();
        let mut bench = Self { bundle, cache: home.cache(), entries, folder, node: String::new() };
        clean().await;
        let begin = Instant::now();
        let mirror = Mirror::new(Docker::default(), bench.bundle.clone(), home);
        let deadline = Deadline::after(Duration::from_mins(10));
        let (events, cancel) = (Events::silent(), CancellationToken::new());
        let served = mirror.serve(&events, deadline, &cancel).await?;
        mirror.fill(&served, &BTreeMap::new(), &events, &cancel).await?;
        println!("the mirror is ready after {:.1} s (not counted)", begin.elapsed().as_secs_f64());
        for part in MANAGERS {
            bench.load(part).await?;
        }
        bench.node = bench.preloaded_node().await?;
        bench.write_tools()?;
        bench.write_repositories()?;
        bench.write_cluster().await?;
        Ok(bench)
    }

    fn reference(&self, part: &str) -> &str {
        &self.entries.get(part).unwrap_or_else(|| panic!("no part {part}: bundle build --with docker")).reference
    }

    fn write_archive(&self, part: &str, path: &Path) -> Result<()> {
        let name = self.reference(part);
        self.bundle.image(name)?.write_docker_archive(name, fsx::create(path)?)?;
        Ok(())
    }

    /// Gives docker an image that it does not have.
    async fn load(&self, part: &str) -> Result<()> {
        let name = self.reference(part);
        let config = self.bundle.image(name)?.manifest().config.digest.to_string();
        if Docker::default().image(name).await?.as_deref() == Some(config.as_str()) {
            return Ok(());
        }
        let archive = self.folder.path().join("image.tar");
        self.write_archive(part, &archive)?;
        Docker::default().load(&archive).await?;
        fsx::remove_file(&archive)?;
        Ok(())
    }

    /// The node image with Kubernetes' images in it; made once.
    async fn preloaded_node(&self) -> Result<String> {
        let of: Vec<&str> = PRELOADED.iter().chain(&["node"]).map(|part| self.entries[*part].digest.hex()).collect();
        let name = format!("cluster-init-bench/node:{}", &Digest::of(of.join(" ")).hex()[..12]);
        if Docker::default().image(&name).await?.is_some() {
            return Ok(name);
        }
        let archives = self.folder.path().join("archives");
        fsx::create_dir(&archives)?;
        for part in PRELOADED {
            self.write_archive(part, &archives.join(part))?;
        }
        let container = "cluster-init-bench";
        let volume = format!("--volume={}:/archives:ro", archives.display());
        let _ = docker(&["rm", "--force", container]).await;
        let run = ["run", "--name", container, "--privileged", &volume, "--entrypoint=/bin/bash"];
        docker(&[&run[..], &[self.reference("node"), "-ec", PRELOAD]].concat()).await?;
        let entrypoint = r#"--change=ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]"#;
        docker(&["commit", entrypoint, "--change=CMD []", container, &name]).await?;
        docker(&["rm", container]).await?;
        fsx::remove_dir(&archives)?;
        Ok(name)
    }

    fn write_tools(&self) -> Result<()> {
        let bin = self.folder.path().join("bin");
        fsx::create_dir(&bin)?;
        for tool in ["kind", "kubectl", "clusterctl"] {
            fsx::symlink(&self.bundle.tool(tool)?, &bin.join(tool))?;
        }
        Ok(())
    }

    fn repositories(&self) -> PathBuf {
        self.folder.path().join("repositories")
    }

    /// What clusterctl reads in place of GitHub's releases.
    fn write_repositories(&self) -> Result<()> {
        let manifest =
            |part: &str| Ok::<_, cluster_init::failure::Failure>(self.bundle.manifest(self.reference(part))?.unwrap());
        let mut providers = Vec::new();
        let mut cert_manager = Value::Null;
        for (label, name, kind, part) in PROVIDERS {
            let version = &self.entries[part].version;
            let folder = self.repositories().join(label).join(version);
            fsx::create_dir(&folder)?;
            let file = folder.join(self.reference(part).rsplit('/').next().unwrap());
            fsx::write(&file, manifest(part)?)?;
            fsx::write(&folder.join("metadata.yaml"), manifest("cluster-api-metadata")?)?;
            if kind.is_empty() {
                cert_manager = json!({"url": file, "version": version});
            } else {
                providers.push(json!({"name": name, "url": file, "type": kind}));
            }
        }
        let configuration = json!({"providers": providers, "cert-manager": cert_manager});
        Ok(fsx::write(&self.repositories().join("clusterctl.yaml"), configuration.to_string())?)
    }

    /// The management cluster of the environment, without what leads its nodes to the mirror.
    async fn write_cluster(&self) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kustomize-components/management-cluster/kubeadm-capd");
        let render = Command::new(self.bundle.tool("kubectl")?).arg("kustomize").arg(&folder);
        let text = render.run(Duration::from_mins(1)).await?.text();
        let text = text.replace("${CLUSTER_NAME}", "management-cluster");
        let text = with_defaults(&text);
        let objects = k8s::parse(&text, "kubeadm-capd")?;
        let objects = objects.into_iter().map(|mut object| {
            for pointer in ["/spec/kubeadmConfigSpec", "/spec/template/spec"] {
                let Some(spec) = object.data.pointer_mut(pointer) else { continue };
                if spec.get("preKubeadmCommands").is_none() {
                    continue;
                }
                spec["preKubeadmCommands"] = json!([PROVIDER_ID]);
                for (of, field) in UNKNOWN_TO_TUTORIALS {
                    if let Some(Value::Object(of)) = spec.pointer_mut(of) {
                        of.remove(field);
                    }
                }
            }
            if let Some(image) = object.data.pointer_mut("/spec/template/spec/customImage") {
                *image = json!(self.node);
            }
            serde_json::to_string(&object).unwrap()
        });
        let text = objects.collect::<Vec<_>>().join("\n---\n");
        Ok(fsx::write(&self.repositories().join("cluster.yaml"), text)?)
    }

    async fn manual(&self) -> Result<Times> {
        let folder = tempfile::tempdir().unwrap();
        let tag = |part: &str| self.reference(part).rsplit_once(':').unwrap().1.to_owned();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/manual-kind.sh");
        let output = Command::new(script)
            .arg(self.folder.path().join("bin"))
            .arg(self.repositories())
            .args([self.node.as_str()])
            .arg(folder.path())
            .args(MANAGERS.map(|part| self.reference(part)))
            .env("ETCD", tag("etcd"))
            .env("COREDNS", tag("coredns"))
            .run(WAY)
            .await?;
        let mut steps: Vec<(String, f64)> = output
            .text()
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(name, ms)| (name.to_owned(), ms.parse::<f64>().unwrap() / 1000.0))
            .collect();
        let (_, all) = steps.pop().unwrap();
        Ok(Times { steps, all })
    }

    async fn ours(&self, backend: &str, round: usize) -> Result<Times> {
        let folder = tempfile::Builder::new().prefix("ci-").tempdir().unwrap();
        // Unpacked images are kept between runs by every user; so they are here.
        fsx::symlink(&self.cache, &folder.path().join("cache"))?;
        let program = || {
            Command::new(env!("CARGO_BIN_EXE_cluster-init"))
                .env("CLUSTER_INIT_HOME", folder.path())
                .env("CLUSTER_INIT_BUNDLE", self.bundle.folder())
                .env("CI", "true")
        };
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let bootstrap = program().args(["bootstrap", "kubeadm-capd", "--dirty", "--backend", backend, "--repo"]);
        let begin = Instant::now();
        let result = bootstrap.arg(repository).run(WAY).await;
        let all = begin.elapsed().as_secs_f64();
        // There is none left after a run that did well.
        let _ = program().args(["local", "delete", "kubeadm-capd-bootstrap", "--force"]).run(WAY).await;
        let output = result?;
        if std::env::var_os("VERBOSE").is_some() {
            eprintln!("{}", output.stderr);
        }
        let runs = folder.path().join("runs/kubeadm-capd");
        let log =
            fsx::list(&runs)?.into_iter().map(|name| runs.join(name).join("events.ndjson")).find(|log| log.exists());
        let events = fsx::read_text(&log.unwrap())?;
        if let Some(kept) = std::env::var_os("EVENTS") {
            fsx::create_dir(Path::new(&kept))?;
            fsx::write(&Path::new(&kept).join(format!("{round}-{backend}.ndjson")), &events)?;
        }
        let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let steps = events
            .filter(|event| event["event"] == "step-done")
            .map(|event| (event["step"].as_str().unwrap().to_owned(), event["elapsed_ms"].as_f64().unwrap() / 1000.0));
        Ok(Times { steps: steps.collect(), all })
    }
}

async fn docker(args: &[&str]) -> Result<String> {
    Ok(Command::new("docker").args(args).run(Duration::from_mins(5)).await?.text())
}

/// Takes the clusters of all ways away; the mirror stays.
async fn clean() {
    for cluster in ["management-cluster", "manual-bootstrap", "kubeadm-capd-bootstrap"] {
        let filter = format!("label=io.x-k8s.kind.cluster={cluster}");
        let ids = docker(&["ps", "--all", "--quiet", "--filter", &filter]).await.unwrap();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            docker(&[&["rm", "--force", "--volumes"], &ids[..]].concat()).await.unwrap();
        }
    }
    // What one way wrote and deleted would be on the disk's list while etcd of the next one waits for it: kubeadm takes twice as long then.
    tokio::task::spawn_blocking(rustix::fs::sync).await.unwrap();
    tokio::time::sleep(SETTLE).await;
}

/// How long the cores of this host have worked, all of them together: less than that by their number no way could take.
fn busy() -> f64 {
    let text = fsx::read_text(Path::new("/proc/stat")).unwrap();
    let ticks: Vec<f64> = text.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    // All but idle, waiting for disks, and what virtual machines have, which counts as the user's already; a hundredth of a second each.
    (ticks[..3].iter().sum::<f64>() + ticks[5..8].iter().sum::<f64>()) / 100.0
}

fn cores() -> f64 {
    std::thread::available_parallelism().unwrap().get() as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What Flux does to `${NAME:=default}`.
fn with_defaults(text: &str) -> String {
    let mut parts = text.split("${");
    let mut replaced = parts.next().unwrap().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').unwrap();
        replaced.extend([variable.split_once(":=").unwrap().1, rest]);
    }
    replaced
}

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let wanted = std::env::var("WAYS").unwrap_or_else(|_| "manual kind local".into());
    let bench = Bench::prepare().await.unwrap_or_else(|error| panic!("{error}"));
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        for way in wanted.split_whitespace() {
            let load = fsx::read_text(Path::new("/proc/loadavg")).unwrap_or_default();
            let before = busy();
            let times = if way == "manual" { bench.manual().await } else { bench.ours(way, round).await };
            let times = times.unwrap_or_else(|error| panic!("{way}: {error}"));
            let busy = busy() - before;
            clean().await;
            println!("round {round}, {way} (load average before: {}):", load.split(' ').next().unwrap_or_default());
            for (step, seconds) in &times.steps {
                println!("  {step:20} {seconds:6.1}");
            }
            println!("  {:20} {:6.1}", "all", times.all);
            println!("  {:20} {busy:6.1}, {:.0} % of all cores", "core seconds", 100.0 * busy / times.all / cores());
            all.entry(way).or_default().push(times.all);
        }
    }
    let medians: BTreeMap<&str, f64> = all.into_iter().map(|(way, values)| (way, median(values))).collect();
    for (way, seconds) in &medians {
        match medians.get("manual") {
            Some(manual) => println!("{way:8} {seconds:6.1} s, ratio {:.2}", seconds / manual),
            None => println!("{way:8} {seconds:6.1} s"),
        }
    }
}
