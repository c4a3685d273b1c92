//! The pivot against `clusterctl move` of the bundle: the same objects, the same two API servers, no controllers.
//!
//! `WORKERS="5 95"` (default: 52 and 412 objects; 995 makes 4,012) and `CLUSTERCTL=5,95` say how many workers the moved Cluster has,
//! and for which of these clusterctl is measured too (at 995 it takes three minutes).
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, missing_docs, reason = "a program for people")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster_init::bundle::Bundle;
use cluster_init::exec::{self, Command};
use cluster_init::fsx;
use cluster_init::k8s::Cluster;
use cluster_init::node::Home;
use serde_json::Value;

#[path = "../tests/suite/seed.rs"]
mod seed;

struct Bench {
    folder: tempfile::TempDir,
    bundle: PathBuf,
    clusterctl: PathBuf,
    clusters: Vec<Cluster>,
}

impl Bench {
    async fn prepare() -> Self {
        let home = Home::resolve().unwrap();
        let path = std::env::var_os("CLUSTER_INIT_BUNDLE").map_or_else(|| home.bundle(), PathBuf::from);
        let bundle = Bundle::open(&path, &home.unpacked()).unwrap();
        let clusterctl = bundle.tool("clusterctl").unwrap();
        let folder = tempfile::Builder::new().prefix("ci-").tempdir().unwrap();
        fsx::symlink(&home.cache(), &folder.path().join("cache")).unwrap();
        let mut bench = Self { folder, bundle: path, clusterctl, clusters: Vec::new() };
        let definitions = seed::definitions(&bundle);
        for name in ["left", "right"] {
            bench.program(["local", "create", name, "--throw-away"]).run(Duration::from_mins(2)).await.unwrap();
            let text = bench.program(["local", "kubeconfig", name]).run(Duration::from_secs(10)).await.unwrap().text();
            let cluster = Cluster::connect_text(name, &text, name).await.unwrap();
            seed::install(&cluster, &definitions).await;
            // An API server gets a kind ready when it is first asked for: whoever comes first would pay for both.
            cluster_init::capi::discover(&cluster).await.unwrap();
            fsx::write_private(&bench.file(name), text).unwrap();
            bench.clusters.push(cluster);
        }
        bench
    }

    fn program<const N: usize>(&self, args: [&str; N]) -> Command {
        Command::new(env!("CARGO_BIN_EXE_cluster-init"))
            .args(args)
            .env("CLUSTER_INIT_HOME", self.folder.path())
            .env("CLUSTER_INIT_BUNDLE", &self.bundle)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.kubeconfig"))
    }

    /// Ours, from left to right: seconds and the report.
    async fn ours(&self) -> (f64, Value) {
        let begin = Instant::now();
        let (left, right) = (self.file("left"), self.file("right"));
        let output = self
            .program(["--output", "json", "pivot", "--kubeconfig"])
            .arg(&left)
            .arg("--to-kubeconfig")
            .arg(&right)
            .run(Duration::from_mins(10))
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let text = output.text();
        (begin.elapsed().as_secs_f64(), serde_json::from_str(text.lines().last().unwrap()).unwrap())
    }

    /// clusterctl's, from right to left: seconds.
    async fn clusterctl(&self) -> f64 {
        let begin = Instant::now();
        let command = Command::new(&self.clusterctl)
            .env("CLUSTERCTL_DISABLE_VERSIONCHECK", "true")
            .args(["move", "--namespace", "default", "--kubeconfig"])
            .arg(self.file("right"))
            .arg("--to-kubeconfig")
            .arg(self.file("left"));
        command.run(Duration::from_mins(15)).await.unwrap_or_else(|error| panic!("{}", told(&error)));
        begin.elapsed().as_secs_f64()
    }

    async fn measure(&self, workers: usize, against: bool) {
        let objects = seed::populate(&self.clusters[0], workers).await;
        let (ours, report) = self.ours().await;
        let writes = report["writes"].as_f64().unwrap();
        let phases: Vec<String> = report["phases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|phase| format!("{} {:.2}", phase[0].as_str().unwrap(), phase[1].as_f64().unwrap() / 1000.0))
            .collect();
        println!(
            "{objects} objects: ours {ours:.2} s, {:.2} writes an object, {:.0} writes a second; {}",
            writes / objects as f64,
            writes / ours,
            phases.join(", ")
        );
        let mut at = 1;
        if against {
            let theirs = self.clusterctl().await;
            println!("{objects} objects: clusterctl {theirs:.2} s; it takes {:.1} times as long", theirs / ours);
            at = 0;
        }
        // What was moved is taken away with its namespace's objects: by moving it nowhere.
        seed::clear(&self.clusters[at]).await;
    }
}

fn told(error: &exec::Error) -> String {
    format!("{error}")
}

fn numbers(variable: &str, default: &str) -> Vec<usize> {
    let text = std::env::var(variable).unwrap_or_else(|_| default.into());
    text.split([',', ' ']).filter_map(|number| number.parse().ok()).collect()
}

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let bench = Bench::prepare().await;
    let against = numbers("CLUSTERCTL", "5,95");
    for workers in numbers("WORKERS", "5 95") {
        bench.measure(workers, against.contains(&workers)).await;
    }
    for name in ["left", "right"] {
        bench.program(["local", "delete", name]).run(Duration::from_mins(1)).await.unwrap();
    }
}
