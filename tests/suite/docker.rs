//! What needs a Docker daemon: `tools/test --docker` starts one when none answers, and runs these.
//!
//! The management cluster's containers have one name on a daemon, so these tests run one after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use cluster_init::docker::Docker;
use cluster_init::exec::{self, Command};
use cluster_init::fsx;
use rustix::process::Signal;
use tokio::sync::Mutex;

use crate::story::Repository;
use crate::support::{Ended, Home, ended};

/// Held by the test that uses the daemon.
static DAEMON: Mutex<()> = Mutex::const_new(());
/// How long a whole story may take on a slow machine.
const STORY: Duration = Duration::from_mins(20);

async fn docker(args: &[&str]) -> String {
    Command::new("docker").args(args).run(Duration::from_mins(2)).await.unwrap().text()
}

/// Takes away what a story leaves on the daemon.
async fn clean() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/docker-daemon");
    Command::new(script).arg("clean").run(Duration::from_mins(3)).await.unwrap();
}

struct Run<'a> {
    home: &'a Home,
    repository: &'a Repository,
}

impl Run<'_> {
    async fn run(&self, args: &[&str]) -> Ended {
        let begin = Instant::now();
        let command = self.home.command(args.iter().copied()).folder(&self.repository.0);
        let ended = ended(command.run(STORY).await);
        eprintln!("{}: exit {} after {:.1?}\n{}", args.join(" "), ended.code, begin.elapsed(), ended.stderr);
        ended
    }

    /// Runs it until it dies at a moment, which `CLUSTER_INIT_CRASH_AT` names.
    async fn dies(&self, args: &[&str], moment: &str) {
        let log = self.home.path().join("moment.log");
        let command = self.home.command(args.iter().copied()).folder(&self.repository.0);
        let mut child = command.env("CLUSTER_INIT_CRASH_AT", moment).spawn(&log).unwrap();
        let status = tokio::time::timeout(STORY, child.wait()).await.unwrap().unwrap();
        let text = fsx::read_text(&log).unwrap();
        eprintln!("killed at {moment}\n{text}");
        assert_eq!(status.code(), None, "killed at {moment}");
    }

    /// Runs it until a container is there, and kills it then.
    async fn dies_beside(&self, args: &[&str], container: &str) {
        let command = self.home.command(args.iter().copied()).folder(&self.repository.0);
        let mut child = command.spawn(&self.home.path().join("moment.log")).unwrap();
        until("the container", async || Docker::default().container(container).await.unwrap().is_some()).await;
        exec::signal(child.pid().unwrap(), Signal::KILL);
        child.wait().await.unwrap();
    }

    /// What kubectl says about the management cluster.
    async fn kubectl(&self, args: &[&str]) -> String {
        let kubeconfig = self.home.path().join("management.kubeconfig");
        let text = self.home.run(["kubeconfig", "kubeadm-capd"]).await.ok().stdout;
        fsx::write_private(&kubeconfig, text).unwrap();
        let bundle = cluster_init::bundle::Bundle::open(&crate::support::bundle(), &self.home.unpacked()).unwrap();
        let command = Command::new(bundle.tool_async("kubectl").await.unwrap()).arg("--kubeconfig").arg(&kubeconfig);
        command.args(args).run(Duration::from_mins(1)).await.unwrap().text()
    }
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn kubeadm_capd_is_bootstrapped_with_kind_and_grows_by_a_commit() {
    let _daemon = DAEMON.lock().await;
    clean().await;
    story("kind").await;
    clean().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn kubeadm_capd_is_bootstrapped_with_local_processes_and_grows_by_a_commit() {
    let _daemon = DAEMON.lock().await;
    clean().await;
    story("local").await;
    clean().await;
}

/// From nothing to self-management, and one worker more by a commit.
async fn story(backend: &str) {
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let run = Run { home: &home, repository: &repository };
    run.run(&["bootstrap", "kubeadm-capd", "--backend", backend]).await.ok();
    let status = run.run(&["status", "kubeadm-capd", "--output", "json"]).await.ok().json();
    assert_eq!(status["selfManaged"], true, "{status}");
    assert_eq!(status["bootstrapCluster"], false, "{status}");
    let machines = status["machines"].as_array().unwrap().len();
    assert_eq!(machines, 2, "{status}");
    let nodes = run.kubectl(&["get", "nodes", "--no-headers"]).await;
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 2, "{nodes}");
    let left =
        docker(&["ps", "--all", "--quiet", "--filter", "label=io.x-k8s.kind.cluster=kubeadm-capd-bootstrap"]).await;
    assert_eq!(left, "", "the bootstrap cluster is gone");

    let workers = repository.0.join("kustomize-components/management-cluster/kubeadm-capd/workers.yaml");
    let text = fsx::read_text(&workers).unwrap().replace("replicas: 1", "replicas: 2");
    fsx::write(&workers, text).unwrap();
    repository.commit("two workers").await;
    run.run(&["publish", "kubeadm-capd"]).await.ok();
    let nodes = run.kubectl(&["get", "nodes", "--no-headers"]).await;
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 3, "{nodes}");
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_foreign_kind_cluster_of_the_same_name_is_refused_and_left_alone() {
    let _daemon = DAEMON.lock().await;
    clean().await;
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let run = Run { home: &home, repository: &repository };
    let name = "kubeadm-capd-bootstrap-control-plane";
    // An image of nothing is enough: the container is never started.
    let empty = home.path().join("empty.tar");
    fsx::write(&empty, vec![0; 1024]).unwrap();
    docker(&["import", &empty.display().to_string(), "cluster-init-test:empty"]).await;
    let labels = ["--label", "io.x-k8s.kind.cluster=kubeadm-capd-bootstrap"];
    docker(&[&["create", "--name", name], &labels[..], &["cluster-init-test:empty", "/none"]].concat()).await;
    let refused = run.run(&["bootstrap", "kubeadm-capd"]).await;
    let there = Docker::default().container(name).await.unwrap().is_some();
    docker(&["rm", "--force", name]).await;
    docker(&["rmi", "--force", "cluster-init-test:empty"]).await;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    let said = "there is a kind cluster kubeadm-capd-bootstrap that cluster-init did not make from this home";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    assert!(there, "what is not ours is left alone");
}

/// Waits until something is true; a test's only way to wait.
async fn until(what: &str, found: impl AsyncFn() -> bool) {
    let since = Instant::now();
    while !found().await {
        assert!(since.elapsed() < Duration::from_mins(5), "no {what} within 5 min");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_machine_that_ends_is_named_within_seconds() {
    let _daemon = DAEMON.lock().await;
    clean().await;
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let log = home.path().join("bootstrap.log");
    let command = home.command(["bootstrap", "kubeadm-capd", "--backend", "local"]).folder(&repository.0);
    let mut child = command.spawn(&log).unwrap();
    until("the mirror", async || Docker::default().container("cluster-init-mirror").await.unwrap().is_some()).await;
    // The mirror's image is there; its program ends at once.
    let machine = "management-cluster-that-ended";
    let label = "io.x-k8s.kind.cluster=management-cluster";
    docker(&["run", "--name", machine, "--label", label, "registry:3.1.2", "--version"]).await;
    let status = tokio::time::timeout(STORY, child.wait()).await.unwrap().unwrap();
    let text = fsx::read_text(&log).unwrap();
    eprintln!("{text}");
    assert_eq!(status.code(), Some(1), "{text}");
    let said = format!("container {machine}, a part of the management cluster, does not run any more: it is exited");
    assert!(text.contains(&said), "{text}");
    assert!(text.contains(&format!("docker start {machine}")), "{text}");
    clean().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn an_image_that_nobody_has_is_named() {
    let _daemon = DAEMON.lock().await;
    clean().await;
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let capd = repository.0.join("kustomize-components/capd/kustomization.yaml");
    let images = "images:\n  - name: gcr.io/k8s-staging-cluster-api/capd-manager\n    newTag: v9.9.9\n";
    fsx::write(&capd, fsx::read_text(&capd).unwrap() + images).unwrap();
    repository.commit("an image that does not exist").await;
    let run = Run { home: &home, repository: &repository };
    let failed = run.run(&["bootstrap", "kubeadm-capd"]).await;
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(failed.stderr.contains("gcr.io/k8s-staging-cluster-api/capd-manager:v9.9.9"), "{}", failed.stderr);
    assert!(failed.stderr.contains("cluster-init bundle list"), "{}", failed.stderr);
    clean().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_site_without_rke2_is_told_so_by_its_first_machine() {
    if tokio::net::lookup_host(("registry-1.docker.io", 443)).await.is_ok() {
        eprintln!("this site may well have RKE2: left out");
        return;
    }
    let _daemon = DAEMON.lock().await;
    clean().await;
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let run = Run { home: &home, repository: &repository };
    let failed = run.run(&["bootstrap", "rke2-capd", "--backend", "local"]).await;
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let said = "setting up the node failed: RKE2 cannot be installed: image docker.io/rancher/rke2-runtime:v1.34.1-rke2r1 is missing";
    assert!(failed.stderr.contains(said), "{}", failed.stderr);
    assert!(failed.stderr.contains("or set cluster.capd.image to an image that holds RKE2"), "{}", failed.stderr);
    clean().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_daemon_that_does_not_answer_is_refused_before_anything_is_made() {
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let command = home.command(["bootstrap", "kubeadm-capd"]).folder(&repository.0);
    let refused = ended(command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").run(STORY).await);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("docker: the docker daemon does not answer: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("start it: systemctl start docker"), "{}", refused.stderr);
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_disk_that_is_nearly_full_is_refused_before_anything_is_made() {
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let small = home.path().join("small");
    fsx::create_private_dir(&small).unwrap();
    let path = small.display().to_string();
    let root = |program: &str, args: &[&str]| Command::new(program).args(args).run(Duration::from_secs(30));
    root("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", &path]).await.unwrap();
    fsx::symlink(&home.path().join("cache"), &small.join("cache")).unwrap();
    let command = home.command(["bootstrap", "kubeadm-capd"]).env("CLUSTER_INIT_HOME", &small).folder(&repository.0);
    let refused = ended(command.run(STORY).await);
    root("umount", &[&path]).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    let said = format!("MiB are free on the file system of {path}, 3072 MiB are needed");
    assert!(refused.stderr.contains(&said), "{}", refused.stderr);
    assert!(refused.stderr.contains("set CLUSTER_INIT_HOME to a folder on a larger file system"), "{}", refused.stderr);
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_run_killed_at_five_moments_goes_on_and_so_do_containers_that_stopped() {
    let _daemon = DAEMON.lock().await;
    clean().await;
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let run = Run { home: &home, repository: &repository };
    let bootstrap = "kubeadm-capd-bootstrap-control-plane";
    run.dies_beside(&["bootstrap", "kubeadm-capd"], bootstrap).await;
    run.dies(&["resume"], "outcome:source:publish:after").await;
    docker(&["stop", bootstrap]).await;
    run.dies(&["resume"], "end:management-cluster:after").await;

    // A machine that ends is named within seconds, and goes on where it was.
    let labels = ["label=io.x-k8s.kind.role=control-plane", "label=io.x-k8s.kind.cluster=management-cluster"];
    let machine = docker(&["ps", "--filter", labels[0], "--filter", labels[1], "--format", "{{.Names}}"]).await;
    let machine = machine.trim();
    docker(&["kill", machine]).await;
    let failed = run.run(&["resume"]).await;
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let said = format!("container {machine}, a part of the management cluster, does not run any more: it is exited");
    assert!(failed.stderr.contains(&said), "{}", failed.stderr);
    assert!(failed.stderr.contains(&format!("docker start {machine}")), "{}", failed.stderr);
    docker(&["start", machine]).await;

    run.dies(&["resume"], "outcome:pivot:copy:after").await;
    run.dies(&["resume"], "intent:teardown:delete:after").await;
    let ended = run.run(&["resume"]).await.ok();
    assert!(ended.stderr.contains("kubeadm-capd manages itself now"), "{}", ended.stderr);
    run.run(&["status", "kubeadm-capd"]).await.ok();
    assert!(Docker::default().container(bootstrap).await.unwrap().is_none(), "the bootstrap cluster is gone");
    clean().await;
}
