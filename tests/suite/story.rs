//! `bootstrap local` end to end: interrupted and killed on its way, gone on with, and then a day in the life of what it made.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster_init::exec::{self, Child, Command};
use cluster_init::fsx;
use cluster_init::k8s::{Cluster, DynamicObject, GroupVersionKind, ObjectRef, condition};
use rustix::process::Signal;

use crate::support::{Ended, Home, ended};

/// How a run is stopped.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// Ctrl-C: it stops at the next safe point.
    Interrupt,
    /// Ctrl-C twice: it stops at once.
    InterruptTwice,
    /// SIGKILL.
    Kill,
}

/// Where and how the run of the test is stopped before it may reach its goal.
const BLOWS: [(&str, Blow); 5] = [
    ("bootstrap-cluster", Blow::Kill),
    ("source", Blow::Interrupt),
    ("management-cluster", Blow::Kill),
    ("management-flux", Blow::InterruptTwice),
    ("pivot", Blow::Kill),
];

/// The moments of the pivot at which the process is killed, each time in the run that goes on after the one before.
const MOMENTS: [&str; 5] = [
    "outcome:pivot:fence:after",
    "outcome:pivot:copy:after",
    "intent:pivot:commit:after",
    "outcome:pivot:commit:after",
    "outcome:pivot:delete:after",
];

/// A repository of the project's content, as a user has it.
pub struct Repository(pub PathBuf);

impl Repository {
    pub async fn new(home: &Home) -> Self {
        let repository = Self(home.path().join("repository"));
        let from = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["charts", "kustomize-components", "environment-values", "bootstrap.toml"] {
            copy(&from.join(name), &repository.0.join(name));
        }
        repository.git(&["init", "--quiet", "--initial-branch=main"]).await;
        repository.commit("the content").await;
        repository
    }

    pub async fn git(&self, args: &[&str]) {
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"];
        let command = Command::new("git").args(identity).args(args).folder(&self.0);
        command.run(Duration::from_mins(1)).await.unwrap();
    }

    pub async fn commit(&self, message: &str) {
        self.git(&["add", "--all"]).await;
        self.git(&["commit", "--quiet", "--message", message]).await;
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fsx::create_dir(to).unwrap();
        for name in fsx::list(from).unwrap() {
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fsx::write(to, fsx::read(from).unwrap()).unwrap();
    }
}

/// A proxy that nobody reaches.
pub const PROXY: &str = "http://127.0.0.1:1";

struct Run<'a> {
    home: &'a Home,
    repository: &'a Repository,
}

impl Run<'_> {
    fn command(&self, args: &[&str]) -> Command {
        // The site's proxy, which reaches nothing of this host and is named by no NO_PROXY.
        let command = self.home.command(args.iter().copied()).folder(&self.repository.0);
        command.env("HTTP_PROXY", PROXY).env("HTTPS_PROXY", PROXY).env_remove("NO_PROXY").env_remove("no_proxy")
    }

    async fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args).run(Duration::from_mins(10)).await)
    }

    /// The journal of the only run.
    fn journal(&self) -> String {
        let runs = self.home.path().join("runs/local");
        let folders: Vec<PathBuf> = fsx::list(&runs)
            .unwrap_or_default()
            .iter()
            .map(|name| runs.join(name))
            .filter(|path| path.is_dir())
            .collect();
        assert!(folders.len() <= 1, "a run that did not reach its goal is taken up, not begun anew: {folders:?}");
        folders.first().and_then(|run| fsx::read_text(&run.join("journal.ndjson")).ok()).unwrap_or_default()
    }

    /// Starts the program, and stops it some moments after it has begun a step.
    async fn stopped(&self, args: &[&str], step: &str, blow: Blow, meanwhile: impl AsyncFnOnce(u32)) -> String {
        let log = self.home.path().join(format!("{step}.log"));
        let before = self.journal().len();
        let mut child = self.command(args).spawn(&log).unwrap();
        let pid = child.pid().unwrap();
        self.until_begun(&mut child, step, before, &log).await;
        meanwhile(pid).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        match blow {
            Blow::Kill => exec::signal(pid, Signal::KILL),
            Blow::Interrupt => exec::signal(pid, Signal::INT),
            Blow::InterruptTwice => {
                exec::signal(pid, Signal::INT);
                tokio::time::sleep(Duration::from_millis(100)).await;
                exec::signal(pid, Signal::INT);
            }
        }
        let status = tokio::time::timeout(Duration::from_mins(2), child.wait()).await.unwrap().unwrap();
        let said = fsx::read_text(&log).unwrap();
        let code = if matches!(blow, Blow::Kill) { None } else { Some(5) };
        assert_eq!(status.code(), code, "stopped in {step} by {blow:?}:\n{said}");
        said
    }

    async fn until_begun(&self, child: &mut Child, step: &str, before: usize, log: &Path) {
        let begin = format!("\"record\":\"begin\",\"step\":\"{step}\"");
        let since = Instant::now();
        while !self.journal()[before..].contains(&begin) {
            let over = tokio::time::timeout(Duration::from_millis(50), child.wait()).await;
            let said = || fsx::read_text(log).unwrap_or_default();
            assert!(over.is_err(), "it ended before {step} began:\n{}", said());
            assert!(since.elapsed() < Duration::from_mins(5), "{step} did not begin:\n{}", said());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_battered_bootstrap_reaches_its_goal_and_day_two_works() {
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let run = Run { home: &home, repository: &repository };

    for (number, (step, blow)) in BLOWS.into_iter().enumerate() {
        // The same command goes on with the run, and so does `resume`.
        let args: &[&str] = if number % 2 == 0 { &["bootstrap", "local"] } else { &["resume"] };
        let said = run
            .stopped(args, step, blow, async |pid| {
                if step == "management-cluster" {
                    while_it_runs(&run, pid).await;
                }
            })
            .await;
        match blow {
            Blow::Interrupt => assert!(said.contains("stopping at the next safe point"), "{said}"),
            // The first may have been enough before the second came.
            Blow::InterruptTwice => assert!(said.contains("cluster-init resume"), "{said}"),
            Blow::Kill => {}
        }
    }
    let daemons = daemons(&run).await;
    for moment in MOMENTS {
        let log = home.path().join("moment.log");
        let mut child = run.command(&["resume"]).env("CLUSTER_INIT_CRASH_AT", moment).spawn(&log).unwrap();
        let status = tokio::time::timeout(Duration::from_mins(3), child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), None, "killed at {moment}:\n{}", fsx::read_text(&log).unwrap());
    }
    let ended = run.run(&["resume"]).await.ok();
    assert!(ended.stderr.contains("local manages itself now"), "{}", ended.stderr);
    assert!(ended.stderr.contains("the same 2 machines as before the pivot"), "{}", ended.stderr);
    assert_eq!(self::daemons(&run).await, daemons, "no daemon was restarted");
    let ahead = |line: &&str| line.contains("\"record\":\"outcome\"") && line.contains("\"effect\":\"ahead\"");
    let journal = run.journal();
    let (first, second): (Vec<&str>, Vec<&str>) =
        journal.lines().filter(ahead).partition(|line| line.contains("\"step\":\"source\""));
    assert!(
        !first.is_empty() && !second.is_empty(),
        "both were given what need not wait for Flux: {first:?} {second:?}"
    );

    let management = its_own_master(&run).await;
    day_two(&run, &management).await;
    a_killed_process_comes_back(&run).await;
    the_end(&run).await;
}

/// Another bootstrap is refused, and so is the deletion of a cluster that manages another.
async fn while_it_runs(run: &Run<'_>, pid: u32) {
    let second = run.run(&["bootstrap", "local"]).await;
    assert_eq!(second.code, 3, "{}", second.stderr);
    assert!(
        second.stderr.contains(&format!("a bootstrap of local is already running (pid {pid})")),
        "{}",
        second.stderr
    );
    let kubeconfig = run.run(&["local", "kubeconfig", "local-bootstrap"]).await.ok().stdout;
    let bootstrap = Cluster::connect_text("bootstrap", &kubeconfig, "test").await.unwrap();
    until("the Cluster object", async || {
        bootstrap
            .list(&gvk("cluster.x-k8s.io", "v1beta2", "Cluster"), None, None)
            .await
            .is_ok_and(|all| !all.is_empty())
    })
    .await;
    let delete = run.run(&["local", "delete", "local-bootstrap"]).await;
    assert_eq!(delete.code, 7, "{}", delete.stderr);
    assert!(
        delete.stderr.contains("cluster local-bootstrap holds Cluster API clusters: default/management-cluster"),
        "{}",
        delete.stderr
    );
    assert!(delete.stderr.contains("cluster-init local delete local-bootstrap --force"), "{}", delete.stderr);
}

/// The processes of the management cluster's nodes.
async fn daemons(run: &Run<'_>) -> Vec<(String, u64)> {
    let list = run.run(&["--output", "json", "local", "list"]).await.ok().json();
    let ours = list.as_array().unwrap().iter().filter(|cluster| cluster["name"] == "management-cluster");
    ours.flat_map(|cluster| cluster["nodes"].as_array().unwrap())
        .map(|node| (node["name"].as_str().unwrap().to_owned(), node["pid"].as_u64().unwrap()))
        .collect()
}

/// The management cluster manages itself, and every command that looks says so.
async fn its_own_master(run: &Run<'_>) -> Cluster {
    let status = run.run(&["status", "local"]).await.ok();
    assert!(status.stdout.starts_with("local manages itself; everything is ready"), "{}", status.stdout);
    let again = run.run(&["bootstrap", "local"]).await.ok();
    assert!(again.stderr.contains("local manages itself already"), "{}", again.stderr);
    let list = run.run(&["--output", "json", "local", "list"]).await.ok().json();
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|made| made["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["management-cluster"], "the bootstrap cluster is gone");

    let kubeconfig = run.run(&["kubeconfig", "local"]).await.ok().stdout;
    let management = Cluster::connect_text("management", &kubeconfig, "test").await.unwrap();
    let cluster = all(&management, gvk("cluster.x-k8s.io", "v1beta2", "Cluster")).await.remove(0);
    assert_eq!(condition(&cluster, "Available").unwrap()["status"], "True");
    for machine in machines(&management).await {
        assert_eq!(machine.data.pointer("/status/phase").unwrap(), "Running");
    }
    for kustomization in all(&management, gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization")).await {
        assert_eq!(condition(&kustomization, "Ready").unwrap()["status"], "True", "{:?}", kustomization.metadata.name);
    }
    flux_owns_what_was_given_ahead_of_it(&management).await;
    management
}

async fn flux_owns_what_was_given_ahead_of_it(management: &Cluster) {
    let definition = "clusters.cluster.x-k8s.io";
    let objects = [
        ObjectRef::namespaced("apps/v1", "Deployment", "cert-manager", "cert-manager"),
        ObjectRef::global("apiextensions.k8s.io/v1", "CustomResourceDefinition", definition),
    ];
    for named in objects {
        let object = management.get(&named).await.unwrap().unwrap();
        let entries = object.metadata.managed_fields.iter().flatten();
        let applied: Vec<_> = entries.filter(|entry| entry.operation.as_deref() == Some("Apply")).collect();
        let managers: Vec<_> = applied.iter().map(|entry| entry.manager.as_deref().unwrap()).collect();
        assert_eq!(managers, ["kustomize-controller"], "{named}");
        let (made, changed) = (object.metadata.creation_timestamp.unwrap().0, applied[0].time.as_ref().unwrap().0);
        assert!(changed.as_second() - made.as_second() <= 1, "Flux changed {named} at {changed}, made at {made}");
    }
}

/// A commit changes the number of workers, and the management cluster's own Flux makes it so.
async fn day_two(run: &Run<'_>, management: &Cluster) {
    let before = names(&machines(management).await);
    assert_eq!(before.len(), 2, "{before:?}");
    let kubeconfig = run.home.path().join("planned.kubeconfig");
    fsx::write_private(&kubeconfig, run.run(&["kubeconfig", "local"]).await.ok().stdout).unwrap();
    let against = ["plan", "local", "--against", kubeconfig.to_str().unwrap()];
    let plan = run.run(&against).await.ok().stdout;
    assert!(plan.contains("nothing would change"), "{plan}");
    // What was planned is what was applied.
    let digest = plan.lines().nth(1).unwrap().to_owned();
    let events = run.home.path().join("runs/local");
    let events =
        fsx::list(&events).unwrap().iter().map(|name| events.join(name).join("events.ndjson")).find(|e| e.exists());
    assert!(fsx::read_text(&events.unwrap()).unwrap().contains(&digest), "{digest}");

    let workers = run.repository.0.join("kustomize-components/management-cluster/local/workers.yaml");
    let text = fsx::read_text(&workers).unwrap();
    assert!(text.contains("replicas: 1"), "{text}");
    fsx::write(&workers, text.replace("replicas: 1", "replicas: 2").as_bytes()).unwrap();
    let plan = run.run(&against).await.ok().stdout;
    assert!(
        plan.contains("~ MachineDeployment default/management-cluster-md-0\n    spec.replicas: 1 -> 2\n"),
        "{plan}"
    );

    let dirty = run.run(&["publish", "local"]).await;
    assert_eq!(dirty.code, 2, "{}", dirty.stderr);
    assert!(dirty.stderr.contains("management-cluster/local/workers.yaml"), "{}", dirty.stderr);
    run.repository.commit("one more worker").await;
    run.run(&["publish", "local"]).await.ok();

    until("a second worker with a Node", async || {
        let machines = machines(management).await;
        machines.len() == 3
            && machines.iter().all(|machine| machine.data.pointer("/status/phase").unwrap() == "Running")
    })
    .await;
    let after = machines(management).await;
    assert!(
        before.iter().all(|name| names(&after).contains(name)),
        "none is replaced: {before:?}, {:?}",
        names(&after)
    );
    let nodes = all(management, gvk("", "v1", "Node")).await;
    assert_eq!(names(&nodes), names(&after), "every Machine has its Node");
}

/// kill -9 of a part of the control plane: it is started again, and an event says so.
async fn a_killed_process_comes_back(run: &Run<'_>) {
    let list = run.run(&["--output", "json", "local", "list"]).await.ok().json();
    let node = list[0]["nodes"][0]["name"].as_str().unwrap().to_owned();
    let folder = run.home.path().join("nodes").join(&node);
    let server = |pid: &u32| {
        let line = fsx::read(Path::new(&format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("/kube-apiserver ") && line.contains(&folder.display().to_string())
    };
    let pid = run.home.processes().into_iter().find(server).expect("an API server");
    exec::signal(pid, Signal::KILL);
    let events = folder.join("logs/events.ndjson");
    until("an event that tells of the restart", async || {
        fsx::read_text(&events).unwrap_or_default().contains("kube-apiserver was ended by signal 9; it starts again in")
    })
    .await;
    until("everything to be ready again", async || run.run(&["status", "local"]).await.code == 0).await;
}

/// The management cluster goes only when that is said, and then nothing is left of it.
async fn the_end(run: &Run<'_>) {
    let refused = run.run(&["local", "delete", "management-cluster"]).await;
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    let refused = run.run(&["cleanup", "local"]).await;
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(refused.stderr.contains("the management cluster of local manages itself since run"), "{}", refused.stderr);
    let cleaned = run.run(&["cleanup", "local", "--even-self-managed"]).await.ok();
    assert!(cleaned.stdout.contains("objects of local"), "{}", cleaned.stdout);
    assert_eq!(run.home.processes(), Vec::<u32>::new());
    assert_eq!(fsx::list(&run.home.path().join("nodes")).unwrap(), [".lock"], "no node's folder is left");
}

/// Waits until something is true; a test's only way to wait.
pub async fn until(what: &str, found: impl AsyncFn() -> bool) {
    let since = Instant::now();
    while !found().await {
        assert!(since.elapsed() < Duration::from_mins(3), "no {what} within 3 min");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn gvk(group: &str, version: &str, kind: &str) -> GroupVersionKind {
    GroupVersionKind::gvk(group, version, kind)
}

async fn all(cluster: &Cluster, gvk: GroupVersionKind) -> Vec<DynamicObject> {
    cluster.list(&gvk, None, None).await.unwrap()
}

async fn machines(cluster: &Cluster) -> Vec<DynamicObject> {
    all(cluster, gvk("cluster.x-k8s.io", "v1beta2", "Machine")).await
}

fn names(objects: &[DynamicObject]) -> Vec<String> {
    let mut names: Vec<String> = objects.iter().filter_map(|object| object.metadata.name.clone()).collect();
    names.sort();
    names
}
