//! What needs a Docker daemon: `tools/test --docker` starts one when none answers, and runs these.
//!
//! One daemon serves them all, so they run one after the other.

mod cleanup;
mod elsewhere;
mod management;
mod neighbours;
mod podman;
mod preflight;
mod restart;
mod trouble;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster_init::bundle::Bundle;
use cluster_init::docker::Docker;
use cluster_init::exec::{self, Child, Command};
use cluster_init::fsx;
use rustix::process::Signal;
use tokio::sync::{Mutex, MutexGuard};

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

/// The names of the containers of a cluster, whether they run or not.
async fn containers_of(cluster: &str) -> Vec<String> {
    let label = format!("label=io.x-k8s.kind.cluster={cluster}");
    let names = docker(&["ps", "--all", "--filter", &label, "--format", "{{.Names}}"]).await;
    let mut names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    names.sort();
    names
}

/// What a test of an empty daemon begins with. The daemon is its own until it ends.
struct Run {
    home: Home,
    repository: Repository,
    _daemon: MutexGuard<'static, ()>,
}

impl Run {
    async fn new() -> Self {
        let daemon = DAEMON.lock().await;
        clean().await;
        let home = Home::new();
        let repository = Repository::new(&home).await;
        Self { home, repository, _daemon: daemon }
    }

    /// Leaves an empty daemon behind; a test that failed leaves what it made to be looked at.
    async fn end(self) {
        clean().await;
    }

    /// The program in the repository.
    fn command(&self, args: &[&str]) -> Command {
        self.home.command(args.iter().copied()).folder(&self.repository.0)
    }

    async fn run(&self, args: &[&str]) -> Ended {
        let begin = Instant::now();
        let ended = ended(self.command(args).run(STORY).await);
        eprintln!("{}: exit {} after {:.1?}\n{}", args.join(" "), ended.code, begin.elapsed(), ended.stderr);
        ended
    }

    /// Begins a command, while which the test does something else.
    fn begin(&self, command: Command) -> Running {
        let log = self.home.path().join("running.log");
        Running { child: command.spawn(&log).unwrap(), log }
    }

    /// Runs it until it dies at a moment, which `CLUSTER_INIT_CRASH_AT` names.
    async fn dies(&self, args: &[&str], moment: &str) {
        let (code, text) = self.begin(self.command(args).env("CLUSTER_INIT_CRASH_AT", moment)).end().await;
        assert_eq!(code, None, "killed at {moment}: {text}");
    }

    /// Runs it until a container is there, and kills it then.
    async fn dies_beside(&self, args: &[&str], container: &str) {
        let running = self.begin(self.command(args));
        until("the container", async || Docker::default().container(container).await.unwrap().is_some()).await;
        exec::signal(running.child.pid().unwrap(), Signal::KILL);
        running.end().await;
    }

    /// What kubectl says about the management cluster.
    async fn kubectl(&self, args: &[&str]) -> String {
        let kubeconfig = self.home.path().join("management.kubeconfig");
        let text = self.home.run(["kubeconfig", "kubeadm-capd"]).await.ok().stdout;
        fsx::write_private(&kubeconfig, text).unwrap();
        let command = Command::new(self.tool("kubectl").await).arg("--kubeconfig").arg(&kubeconfig);
        command.args(args).run(Duration::from_mins(1)).await.unwrap().text()
    }

    /// A program of the bundle.
    async fn tool(&self, name: &str) -> PathBuf {
        let bundle = Bundle::open(&crate::support::bundle(), &self.home.unpacked()).unwrap();
        bundle.tool_async(name).await.unwrap()
    }
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Waits for its end: the exit code, unless it was killed, and what it said.
    async fn end(mut self) -> (Option<i32>, String) {
        let status = tokio::time::timeout(STORY, self.child.wait()).await.unwrap().unwrap();
        let text = fsx::read_text(&self.log).unwrap();
        eprintln!("ended: {status}\n{text}");
        (status.code(), text)
    }
}

/// What a test waits for is there by then, also on a machine that does much else.
const LIMIT: Duration = Duration::from_mins(15);

/// Waits until something is true; a test's only way to wait.
async fn until(what: &str, found: impl AsyncFn() -> bool) {
    let since = Instant::now();
    while !found().await {
        assert!(since.elapsed() < LIMIT, "no {what} within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
