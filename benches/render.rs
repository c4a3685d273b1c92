//! `plan` of repositories with many components: its time must grow as their number does. Beside it, what rendering the same by hand takes:
//! `helm template` of the chart in both phases, and one `kubectl kustomize` of all components.
//!
//! `COMPONENTS="100 200 500"` says how many.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, missing_docs, reason = "a program for people")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster_init::bundle::Bundle;
use cluster_init::exec::Command;
use cluster_init::fsx;
use cluster_init::node::Home;

/// How often each is measured; the median counts.
const TIMES: usize = 3;

const MANIFESTS: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: NAME, namespace: apps}
data: {name: NAME, greeting: hello}
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: apps}
spec: {selector: {app: NAME}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: apps}
spec:
  replicas: 2
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      containers:
        - name: NAME
          image: registry:3.1.2
          env: [{name: NAME, value: \"${VALUE:=none}\"}]
          ports: [{containerPort: 8080}]
";

struct Bench {
    kubectl: PathBuf,
    helm: PathBuf,
    bundle: PathBuf,
    cache: PathBuf,
}

/// A repository with this one's chart and components, and so many more of its own.
async fn repository(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["charts", "environment-values", "kustomize-components", "bootstrap.toml"] {
        run(Command::new("cp").arg("-r").arg(here.join(name)).arg(root)).await;
    }
    let mut values = String::from("source: oci\ncomponents:\n");
    let mut all = String::from("resources:\n");
    for index in 0..count {
        let name = format!("app-{index:03}");
        let component = root.join("kustomize-components").join(&name);
        fsx::create_dir(&component).unwrap();
        fsx::write(&component.join("manifests.yaml"), MANIFESTS.replace("NAME", &name)).unwrap();
        let text = format!("resources: [manifests.yaml]\nlabels: [{{pairs: {{team: team-{}}}}}]\n", index % 10);
        fsx::write(&component.join("kustomization.yaml"), text).unwrap();
        // Writing to a String cannot fail.
        let _ = writeln!(
            values,
            "  {name}:\n    repo: cluster-init\n    spec: {{postBuild: {{substitute: {{VALUE: v{index}}}}}}}"
        );
        let _ = writeln!(all, "- ../kustomize-components/{name}");
    }
    let own = fsx::read_text(&root.join("environment-values/local/values.yaml")).unwrap();
    let (_, components) = own.split_once("\ncomponents:\n").unwrap();
    fsx::write(&root.join("environment-values/local/values.yaml"), values + components).unwrap();
    fsx::create_dir(&root.join("all")).unwrap();
    fsx::write(&root.join("all/kustomization.yaml"), all).unwrap();
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=t", "-c", "user.email=t@example.com"];
        Command::new("git").args(who).args(args).folder(root).env("GIT_CONFIG_GLOBAL", "/dev/null")
    };
    for args in [&["init", "-q"][..], &["add", "."], &["commit", "-qm", "all"]] {
        run(git(args)).await;
    }
    folder
}

async fn run(command: Command) {
    command.run(Duration::from_mins(10)).await.unwrap();
}

async fn time(make: impl Fn() -> Command) -> Duration {
    let mut all = Vec::new();
    for _ in 0..TIMES {
        let begin = Instant::now();
        run(make()).await;
        all.push(begin.elapsed());
    }
    all.sort();
    all[TIMES / 2]
}

impl Bench {
    fn plan(&self, root: &Path, home: &Path) -> Command {
        Command::new(env!("CARGO_BIN_EXE_cluster-init"))
            .args(["plan", "local", "--output", "json"])
            .folder(root)
            .env("CLUSTER_INIT_HOME", home)
            .env("CLUSTER_INIT_BUNDLE", &self.bundle)
    }

    /// A home that knows nothing but the unpacked tools.
    fn home(&self) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fsx::create_private_dir(&home.path().join("cache")).unwrap();
        fsx::symlink(&self.cache, &home.path().join("cache/unpacked")).unwrap();
        home
    }

    async fn measure(&self, count: usize) -> [Duration; 4] {
        let folder = repository(count).await;
        let root = folder.path();
        let begin = Instant::now();
        let home = self.home();
        run(self.plan(root, home.path())).await;
        let first = begin.elapsed();
        let again = time(|| self.plan(root, home.path())).await;
        let helm = |phase: &str| {
            let chart = root.join("charts/telco-cloud-init");
            let mut command = Command::new(&self.helm).args(["template", "telco-cloud-init"]).arg(&chart);
            if phase == "bootstrap" {
                command = command.arg("--values").arg(chart.join("bootstrap.values.yaml"));
            }
            let values = root.join("environment-values/local/values.yaml");
            command.arg("--values").arg(values).args(["--set", "current_commit=x"])
        };
        let helm = time(|| helm("bootstrap")).await + time(|| helm("management")).await;
        let kustomize = time(|| Command::new(&self.kubectl).arg("kustomize").arg(root.join("all"))).await;
        [first, again, helm, kustomize]
    }
}

#[tokio::main]
async fn main() {
    let home = Home::resolve().unwrap();
    let folder = std::env::var_os("CLUSTER_INIT_BUNDLE").map_or_else(|| home.bundle(), PathBuf::from);
    let bundle = Bundle::open(&folder, &home.unpacked()).unwrap();
    let (kubectl, helm) = (bundle.tool("kubectl").unwrap(), bundle.tool("helm").unwrap());
    let bench = Bench { kubectl, helm, bundle: folder, cache: home.unpacked() };
    let counts = std::env::var("COMPONENTS").unwrap_or_else(|_| "100 200 500".into());
    println!(
        "COMPONENTS   PLAN, FIRST   PLAN, AGAIN   A COMPONENT   HELM x2   KUSTOMIZE   FIRST / BY HAND   AGAIN / BY HAND"
    );
    for count in counts.split_whitespace().map(|count| count.parse::<usize>().unwrap()) {
        let [first, again, helm, kustomize] = bench.measure(count).await.map(|time| time.as_secs_f64());
        let hand = helm + kustomize;
        println!(
            "{count:<10}   {first:>10.2}s   {again:>10.2}s   {:>9.1}ms   {helm:>6.2}s   {kustomize:>8.2}s   {:>15.2}   {:>15.2}",
            first * 1000.0 / count as f64,
            first / hand,
            again / hand
        );
    }
}
