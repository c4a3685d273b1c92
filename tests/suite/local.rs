//! `cluster-init local`: clusters of plain processes, used with kubectl as any other cluster.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster_init::bundle::Bundle;
use cluster_init::exec::{self, Command};
use cluster_init::fsx;
use rustix::process::Signal;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{Ended, Home, bundle, ended};

/// An image of the bundle that serves HTTP.
const SERVER: &str = "registry:3.1.2";
/// An image of the bundle whose program ends by itself.
const PROGRAM: &str = "ghcr.io/cluster-init/cluster-init:v0.1.0";

/// A cluster and the kubectl of the bundle that talks to it.
struct Local<'a> {
    home: &'a Home,
    name: &'a str,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

impl<'a> Local<'a> {
    async fn create(home: &'a Home, name: &'a str, more: &[&str]) -> Self {
        home.run(["local", "create", name].iter().chain(more)).await.ok();
        let kubectl = Bundle::open(&bundle(), &home.unpacked()).unwrap().tool("kubectl").unwrap();
        let kubeconfig = home.path().join(format!("{name}.kubeconfig"));
        let text = home.run(["local", "kubeconfig", name]).await.ok().stdout;
        fsx::write_private(&kubeconfig, text).unwrap();
        Self { home, name, kubectl, kubeconfig }
    }

    fn command(&self, args: &[&str]) -> Command {
        Command::new(&self.kubectl).args(args).env("KUBECONFIG", &self.kubeconfig)
    }

    async fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args).run(Duration::from_mins(2)).await)
    }

    async fn kubectl(&self, args: &[&str]) -> String {
        self.run(args).await.ok().stdout
    }

    async fn apply(&self, manifest: serde_json::Value) {
        let command = self.command(&["apply", "--server-side", "-f", "-"]).input(manifest.to_string());
        ended(command.run(Duration::from_mins(1)).await).ok();
    }

    /// Waits for something that kubectl prints.
    async fn until(&self, args: &[&str], what: &str) -> String {
        let since = Instant::now();
        loop {
            let ended = self.run(args).await;
            if ended.stdout.contains(what) {
                return ended.stdout;
            }
            assert!(
                since.elapsed() < Duration::from_mins(2),
                "no {what:?} in {args:?}: {} {}",
                ended.stdout,
                ended.stderr
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn delete(&self) {
        self.home.run(["local", "delete", self.name]).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_two_nodes_behaves_as_any_other() {
    let home = Home::new();
    let local = Local::create(&home, "demo", &["--workers", "1"]).await;
    local.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"]).await;
    assert_eq!(local.kubectl(&["get", "nodes", "-o", "name"]).await.lines().count(), 2);

    a_deployment_and_its_service(&local).await;
    jobs_run_and_are_collected(&local).await;
    what_cannot_run_says_why(&local).await;

    // A namespace takes all that is in it along.
    local.kubectl(&["delete", "namespace", "demo", "--timeout=60s"]).await;
    assert_eq!(local.kubectl(&["get", "pods", "-A", "-o", "name"]).await, "");
    local.delete().await;
}

/// Probes, rollout, logs, port-forward, the Service through the API server's proxy, and no exec, with its reason.
async fn a_deployment_and_its_service(local: &Local<'_>) {
    local.kubectl(&["create", "namespace", "demo"]).await;
    let probe = json!({"httpGet": {"path": "/v2/", "port": "http"}, "periodSeconds": 1});
    let container = json!({"name": "registry", "image": SERVER, "ports": [{"name": "http", "containerPort": 5000}],
        "env": [{"name": "REGISTRY_HTTP_ADDR", "value": ":5000"}, {"name": "OTEL_TRACES_EXPORTER", "value": "none"}],
        "readinessProbe": probe, "livenessProbe": probe});
    let labels = json!({"app": "web"});
    local
        .apply(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "demo"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}}))
        .await;
    local
        .apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "demo"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http"}]}}))
        .await;
    let status = local.kubectl(&["-n", "demo", "rollout", "status", "deployment/web", "--timeout=60s"]).await;
    assert!(status.contains("successfully rolled out"), "{status}");
    local.until(&["-n", "demo", "logs", "deployment/web"], "listening on").await;
    local.until(&["get", "--raw", "/api/v1/namespaces/demo/services/web:80/proxy/v2/"], "{}").await;

    let log = local.home.path().join("port-forward.log");
    let mut forward = local.command(&["-n", "demo", "port-forward", "service/web", ":80"]).spawn(&log).unwrap();
    let since = Instant::now();
    let port = loop {
        let said = fsx::read_text(&log).unwrap_or_default();
        if let Some(port) = said.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()) {
            break port.to_owned();
        }
        assert!(since.elapsed() < Duration::from_mins(1), "{said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(get(&format!("127.0.0.1:{port}"), "/v2/").await, "{}");
    forward.stop(Duration::from_secs(5)).await.unwrap();

    let exec = local.run(&["-n", "demo", "exec", "deployment/web", "--", "ls"]).await;
    assert_ne!(exec.code, 0);
    assert!(
        exec.stderr.contains("there is no container to enter; use kubectl logs and port-forward"),
        "{}",
        exec.stderr
    );

    // A new template is rolled out, the old pods go.
    local.kubectl(&["-n", "demo", "set", "env", "deployment/web", "GENERATION=2"]).await;
    local.kubectl(&["-n", "demo", "rollout", "status", "deployment/web", "--timeout=90s"]).await;
    local.kubectl(&["-n", "demo", "scale", "deployment/web", "--replicas=1"]).await;
    local.until(&["-n", "demo", "get", "deployment", "web", "-o", "jsonpath={.status.replicas}"], "1").await;
}

/// The body of an HTTP response.
async fn get(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
}

/// Jobs succeed and fail, CronJobs make Jobs, and the garbage collector takes what belongs to what is deleted.
async fn jobs_run_and_are_collected(local: &Local<'_>) {
    let job = |args: &[&str]| {
        json!({"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "main", "image": PROGRAM, "args": args}]}}})
    };
    let metadata = |name: &str| json!({"name": name, "namespace": "demo"});
    let good =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata("good"), "spec": job(&["--version"])});
    let bad = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata("bad"), "spec": job(&["nonsense"])});
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata("cron"),
        "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job(&["--version"])}}});
    for object in [good, bad, cron] {
        local.apply(object).await;
    }
    local.kubectl(&["-n", "demo", "create", "job", "by-hand", "--from=cronjob/cron"]).await;
    for name in ["good", "by-hand"] {
        local
            .kubectl(&["-n", "demo", "wait", "--for=condition=Complete", &format!("job/{name}"), "--timeout=60s"])
            .await;
    }
    local.kubectl(&["-n", "demo", "wait", "--for=condition=Failed", "job/bad", "--timeout=60s"]).await;
    assert!(local.kubectl(&["-n", "demo", "logs", "job/good"]).await.contains("cluster-init"));
    local.kubectl(&["-n", "demo", "delete", "job", "good", "bad", "by-hand", "--cascade=foreground"]).await;
    assert_eq!(local.kubectl(&["-n", "demo", "get", "pods", "-l", "job-name", "-o", "name"]).await, "");
}

/// An image that is not there, and a program whose port nobody can move: both say what to do.
async fn what_cannot_run_says_why(local: &Local<'_>) {
    let pod = |name: &str, container: serde_json::Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "demo"},
            "spec": {"containers": [container]}})
    };
    local.apply(pod("unknown", json!({"name": "main", "image": "example.org/unknown:v1"}))).await;
    let said = local.until(&["-n", "demo", "describe", "pod", "unknown"], "is not in the bundle").await;
    assert!(said.contains("image example.org/unknown:v1 is not in the bundle"), "{said}");
    assert!(said.contains("`cluster-init bundle list` lists the images it has"), "{said}");

    let container =
        json!({"name": "main", "image": PROGRAM, "args": ["--version"], "ports": [{"containerPort": 4711}]});
    local.apply(pod("stubborn", container)).await;
    let said = local.until(&["-n", "demo", "describe", "pod", "stubborn"], "write a profile for the image").await;
    assert!(said.contains("its port 4711 is another one on this host"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_live_side_by_side_and_survive_their_daemons() {
    let home = Home::new();
    let (one, two) = tokio::join!(Local::create(&home, "one", &[]), Local::create(&home, "two", &[]));
    one.kubectl(&["create", "configmap", "mine", "--from-literal=key=value"]).await;
    assert!(two.run(&["get", "configmap", "mine"]).await.stderr.contains("not found"), "clusters share nothing");

    // The daemon dies with SIGKILL: what it ran goes with it or is ended by the next one, and the data is still there.
    let list = home.run(["--output", "json", "local", "list"]).await.ok().json();
    let pid = list[0]["nodes"][0]["pid"].as_u64().unwrap();
    exec::signal(u32::try_from(pid).unwrap(), Signal::KILL);
    let restart = home.run(["local", "start", "one"]).await.ok();
    assert!(restart.stderr.contains("cluster one is ready"), "{}", restart.stderr);
    one.kubectl(&["get", "configmap", "mine"]).await;

    home.run(["local", "stop", "one"]).await.ok();
    let list = home.run(["local", "list"]).await.ok().stdout;
    assert!(list.lines().any(|line| line.starts_with("one ") && line.contains("stopped")), "{list}");
    a_taken_port_is_named(&home, &list).await;
    home.run(["local", "start", "one"]).await.ok();
    one.kubectl(&["get", "configmap", "mine"]).await;

    let unknown = home.run(["local", "delete", "three"]).await;
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("there is no local cluster three"), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("local clusters are: one, two"), "{}", unknown.stderr);
    tokio::join!(one.delete(), two.delete());
    assert_eq!(home.processes(), Vec::<u32>::new());
}

/// Somebody takes the port of a stopped cluster: its start says which, and ends.
async fn a_taken_port_is_named(home: &Home, list: &str) {
    let port: u16 = list
        .lines()
        .find(|line| line.starts_with("one "))
        .and_then(|line| line.split("https://127.0.0.1:").nth(1)?.split_whitespace().next()?.parse().ok())
        .unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let start = home.run(["local", "start", "one", "--timeout", "30"]).await;
    assert_eq!(start.code, 3, "{}", start.stderr);
    assert!(
        start.stderr.contains(&format!("port {port} of its API server is taken by another process")),
        "{}",
        start.stderr
    );
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_starts_nodes_again_does_not_keep_a_cluster_from_being_stopped_and_deleted() {
    let home = Home::new();
    home.run(["local", "create", "restless", "--workers", "2"]).await.ok();
    // As the provider in a cluster does, which lives until the last of its nodes has ended.
    let done = CancellationToken::new();
    let start_again = async |node: &str| {
        let folder = home.path().join("nodes").join(node);
        while !done.is_cancelled() && folder.exists() {
            let daemon = home.command([std::ffi::OsStr::new("node"), "--dir".as_ref(), folder.as_ref()]);
            ended(daemon.run(Duration::from_mins(2)).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let end = async {
        home.run(["local", "stop", "restless"]).await.ok();
        home.run(["local", "delete", "restless", "--force"]).await.ok();
        done.cancel();
    };
    tokio::join!(start_again("restless-worker-1"), start_again("restless-worker-2"), end);
    assert_eq!(home.processes(), Vec::<u32>::new());
    assert!(fsx::list(&home.path().join("nodes")).unwrap().iter().all(|name| name == ".lock"), "nothing is left");
}
