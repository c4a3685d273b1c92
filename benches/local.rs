//! From nothing to a ready API server, and to Flux plus Cluster API healthy, against the straightforward way.
//!
//! Both ways run in turn, from the same bundle, `ROUNDS` times (default 3); medians and ratios are printed. Ours does more: it has a
//! scheduler, a controller manager, RBAC identities, cert-manager, webhooks and a pod for everything.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, missing_docs, reason = "a program for people")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster_init::bundle::Bundle;
use cluster_init::clock::Deadline;
use cluster_init::exec::Command;
use cluster_init::failure::Result;
use cluster_init::flux;
use cluster_init::fsx;
use cluster_init::git::Repository;
use cluster_init::k8s::{self, Cluster};
use cluster_init::node::Home;
use tokio_util::sync::CancellationToken;

/// What both ways bring up, beside what it takes there.
const PROGRAMS: [&str; 9] = [
    "etcd",
    "kube-apiserver",
    "kubectl",
    "source-controller",
    "kustomize-controller",
    "helm-controller",
    "cluster-api-controller",
    "kubeadm-bootstrap-controller",
    "kubeadm-control-plane-controller",
];

struct Bench {
    bundle: Bundle,
    bin: tempfile::TempDir,
    rendered: Vec<flux::Rendered>,
}

impl Bench {
    async fn prepare() -> Result<Self> {
        let home = Home::resolve()?;
        let folder = std::env::var_os("CLUSTER_INIT_BUNDLE").map_or_else(|| home.bundle(), PathBuf::from);
        let bundle = Bundle::open(&folder, &home.unpacked())?;
        let bin = tempfile::tempdir().unwrap();
        for program in PROGRAMS {
            fsx::symlink(&bundle.tool(program)?, &bin.path().join(program))?;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (_, tree) = Repository::discover(root)?.snapshot(&[flux::COMPONENTS.to_owned()], true)?;
        let upstream = |url: &str| Ok(bundle.manifest(url)?);
        // Components of other environments may refer to what no bundle holds.
        let (assembled, _) = flux::assemble_available(&tree, &upstream)?;
        let rendered =
            flux::render(&bundle.tool("kustomize")?, &assembled, &["flux-system", "cert-manager", "capi", "cabpk"])
                .await?;
        let rendered: Vec<flux::Rendered> = rendered.into_iter().map(with_defaults).collect();
        let definitions: Vec<String> = rendered
            .iter()
            .filter(|component| component.component != "cert-manager")
            .flat_map(|component| &component.objects)
            .filter(|object| k8s::reference(object).kind == "CustomResourceDefinition")
            .map(|object| {
                let mut object = object.clone();
                // The straightforward way has no webhooks.
                object.data["spec"].as_object_mut().map(|spec| spec.remove("conversion"));
                serde_json::to_string(&object).unwrap()
            })
            .collect();
        fsx::write(&bin.path().join("crds.yaml"), definitions.join("\n---\n"))?;
        Ok(Self { bundle, bin, rendered })
    }

    /// Seconds of the straightforward way.
    async fn manual(&self) -> Result<[f64; 2]> {
        let folder = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/manual-local.sh");
        let output = Command::new(script)
            .arg(self.bin.path())
            .arg(self.bin.path())
            .arg(folder.path())
            .run(Duration::from_mins(3))
            .await?;
        let text = output.text();
        let read = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse::<f64>().unwrap() / 1000.0
        };
        Ok([read("api"), read("all")])
    }

    /// Seconds of ours.
    async fn ours(&self) -> Result<[f64; 2]> {
        let folder = tempfile::Builder::new().prefix("ci-").tempdir().unwrap();
        let program = || {
            Command::new(env!("CARGO_BIN_EXE_cluster-init"))
                .env("CLUSTER_INIT_HOME", folder.path())
                .env("CLUSTER_INIT_BUNDLE", self.bundle.folder())
        };
        // Unpacked images are kept between runs by every user; so they are here.
        let warm = Home::resolve()?.cache();
        fsx::symlink(&warm, &folder.path().join("cache"))?;
        let begin = Instant::now();
        program().args(["local", "create", "bench"]).run(Duration::from_mins(2)).await?;
        let api = begin.elapsed().as_secs_f64();
        let kubeconfig = program().args(["local", "kubeconfig", "bench"]).run(Duration::from_secs(10)).await?.text();
        let result = async {
            let cluster = Cluster::connect_text("bench", &kubeconfig, "bench").await?;
            let (deadline, cancel) = (Deadline::after(Duration::from_mins(3)), CancellationToken::new());
            flux::install(&cluster, &self.rendered, deadline, &cancel).await?;
            Ok([api, begin.elapsed().as_secs_f64()])
        };
        let result = result.await;
        program().args(["local", "delete", "bench", "--force"]).run(Duration::from_mins(1)).await?;
        result
    }
}

/// What Flux does to `${NAME:=default}`.
fn with_defaults(mut component: flux::Rendered) -> flux::Rendered {
    for object in &mut component.objects {
        let text = serde_json::to_string(object).unwrap();
        let mut parts = text.split("${");
        let mut replaced = parts.next().unwrap().to_owned();
        for part in parts {
            match part.split_once('}').and_then(|(variable, rest)| Some((variable.split_once(":=")?.1, rest))) {
                Some((default, rest)) => replaced.extend([default, rest]),
                None => replaced.extend(["${", part]),
            }
        }
        *object = serde_json::from_str(&replaced).unwrap();
    }
    component
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let bench = Bench::prepare().await.unwrap_or_else(|error| panic!("{error}"));
    let mut seconds: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 1..=rounds {
        let manual = bench.manual().await.unwrap_or_else(|error| panic!("the straightforward way: {error}"));
        let ours = bench.ours().await.unwrap_or_else(|error| panic!("ours: {error}"));
        println!(
            "round {round}: api {:.2} s against {:.2} s, all {:.2} s against {:.2} s",
            ours[0], manual[0], ours[1], manual[1]
        );
        for (way, values) in [ours, manual].into_iter().enumerate() {
            for (what, value) in values.into_iter().enumerate() {
                seconds[way][what].push(value);
            }
        }
    }
    let [ours, manual] = seconds.map(|way| way.map(median));
    println!(
        "API server ready:                ours {:.2} s, straightforward {:.2} s, ratio {:.2}",
        ours[0],
        manual[0],
        ours[0] / manual[0]
    );
    println!(
        "Flux and Cluster API healthy:    ours {:.2} s, straightforward {:.2} s, ratio {:.2}",
        ours[1],
        manual[1],
        ours[1] / manual[1]
    );
}
