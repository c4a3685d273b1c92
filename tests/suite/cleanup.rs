//! `cleanup local` after a bootstrap that was killed in the middle: nothing is left, and the next bootstrap begins anew.

use std::path::PathBuf;
use std::time::Duration;

use cluster_init::exec::{self, Command};
use cluster_init::fsx;
use cluster_init::saga::{Journal, Record, RunId, StepName};
use rustix::process::Signal;

use crate::story::{Repository, until};
use crate::support::{Ended, Home, ended};

struct Place {
    home: Home,
    repository: Repository,
}

impl Place {
    fn command(&self, args: &[&str]) -> Command {
        self.home.command(args.iter().copied()).folder(&self.repository.0)
    }

    async fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args).run(Duration::from_mins(3)).await)
    }

    /// The clusters of this home.
    async fn clusters(&self) -> Vec<String> {
        let list = self.run(&["local", "list", "--output", "json"]).await.ok().json();
        list.as_array().unwrap().iter().map(|made| made["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The folders of the environment's runs.
    fn runs(&self) -> Vec<PathBuf> {
        let runs = self.home.path().join("runs/local");
        let all = fsx::list(&runs).unwrap_or_default().into_iter().map(|name| runs.join(name));
        all.filter(|path| path.is_dir()).collect()
    }

    /// A cleanup that is interrupted in its first step; what it said.
    async fn interrupted_cleanup(&self) -> String {
        let log = self.home.path().join("cleanup.log");
        let mut child = self.command(&["cleanup", "local"]).spawn(&log).unwrap();
        let begun = || fsx::read_text(&log).unwrap_or_default().contains("bootstrap-cluster: ");
        while !begun() {
            let over = tokio::time::timeout(Duration::from_millis(5), child.wait()).await;
            assert!(over.is_err(), "{}", fsx::read_text(&log).unwrap());
        }
        exec::signal(child.pid().unwrap(), Signal::INT);
        let status = tokio::time::timeout(Duration::from_mins(1), child.wait()).await.unwrap().unwrap();
        let said = fsx::read_text(&log).unwrap();
        assert_eq!(status.code(), Some(5), "{said}");
        said
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        assert_eq!(self.home.processes(), Vec::<u32>::new());
        assert_eq!(fsx::list(&self.home.path().join("nodes")).unwrap(), [".lock"], "no node's folder is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_bootstrap_left_is_taken_away_and_the_next_one_begins_anew() {
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let place = Place { home, repository };
    let nothing = place.run(&["cleanup", "local"]).await.ok();
    assert_eq!(nothing.stdout, "there is nothing of local to be removed\n");
    assert!(place.runs().is_empty(), "nothing is made where there is nothing to do");

    let log = place.home.path().join("bootstrap.log");
    let mut child = place.command(&["bootstrap", "local"]).spawn(&log).unwrap();
    let pid = child.pid().unwrap();
    until("a machine", async || place.clusters().await.contains(&"management-cluster".to_owned())).await;
    let refused = place.run(&["cleanup", "local", "--dry-run"]).await;
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("process {pid} is at work on local")), "{}", refused.stderr);
    exec::signal(pid, Signal::KILL);
    child.wait().await.unwrap();

    // What is shown is what is done, and showing it changes nothing.
    let dry = place.run(&["cleanup", "local", "--dry-run", "--output", "json"]).await.ok().json();
    let planned: Vec<String> = objects(&dry["items"]);
    assert_eq!(dry["items"][0]["object"], "node local-bootstrap", "{dry}");
    assert_eq!(dry["items"][0]["why"], "made by bootstrap local", "{dry}");
    assert!(planned.iter().any(|object| object.starts_with("node management-cluster-")), "{dry}");
    assert!(planned.last().unwrap().starts_with("run "), "{dry}");
    assert_eq!(place.clusters().await, ["local-bootstrap", "management-cluster"]);

    let said = place.interrupted_cleanup().await;
    assert!(said.contains("go on: cluster-init cleanup local"), "{said}");
    let left = place.run(&["cleanup", "local", "--dry-run", "--output", "json"]).await.ok().json();
    let left = objects(&left["items"]);
    assert!(left.iter().all(|object| planned.contains(object)), "{planned:?} {left:?}");
    assert!(left.last().unwrap().starts_with("run "), "the run is not closed while something is left: {left:?}");

    let cleaned = place.run(&["cleanup", "local", "--output", "json"]).await.ok();
    let report: serde_json::Value = serde_json::from_str(cleaned.stdout.lines().last().unwrap()).unwrap();
    let removed = objects(&report["removed"]);
    assert!(left.iter().all(|object| removed.contains(object)), "{left:?} {removed:?}");
    assert_eq!(report["items"], serde_json::json!([]));
    assert_eq!(place.clusters().await, Vec::<String>::new());
    place.nothing_is_left();
    let again = place.run(&["cleanup", "local"]).await.ok();
    assert_eq!(again.stdout, "there is nothing of local to be removed\n");

    // The run is over, and can be read.
    let [first] = &place.runs()[..] else { panic!("{:?}", place.runs()) };
    assert!(fsx::read_text(&first.join("journal.ndjson")).unwrap().contains("\"record\":\"cleaned\""));
    assert!(!fsx::read_text(&first.join("events.ndjson")).unwrap().is_empty());
    let resumed = place.run(&["resume", "local"]).await;
    assert_eq!(resumed.code, 2, "{}", resumed.stderr);
    assert!(resumed.stderr.contains("there is no unfinished run of local"), "{}", resumed.stderr);

    let moment = "begin:bootstrap-cluster:after";
    let mut child = place.command(&["bootstrap", "local"]).env("CLUSTER_INIT_CRASH_AT", moment).spawn(&log).unwrap();
    let status = child.wait().await.unwrap();
    let said = fsx::read_text(&log).unwrap();
    assert_eq!(status.code(), None, "{said}");
    assert!(said.contains("check leftovers: none"), "{said}");
    assert_eq!(place.runs().len(), 2, "another run: {said}");
    place.run(&["cleanup", "local"]).await.ok();
    place.nothing_is_left();
}

/// A run of `kubeadm-capo` as its journal tells it; `steps` are those that have begun.
fn cloud_run(home: &Home, steps: &[&str]) -> PathBuf {
    past(home, "kubeadm-capo", ("any", "OpenStackCluster"), steps)
}

fn past(home: &Home, environment: &str, (machines, infrastructure): (&str, &str), steps: &[&str]) -> PathBuf {
    let folder = home.path().join("runs").join(environment).join("20260101T000000Z-0001");
    fsx::create_private_dir(&folder).unwrap();
    let journal = Journal::open(&folder.join("journal.ndjson")).unwrap();
    let subject = serde_json::json!({"environment": environment, "repository": "/", "dirty": false, "keep": false});
    journal.write(Record::Run { id: RunId("20260101T000000Z-0001".into()), subject }).unwrap();
    let makes = serde_json::json!(
        {"cluster": "management-cluster", "machines": machines, "backend": "local", "infrastructure": infrastructure}
    );
    journal.write(Record::Fact { name: "makes".into(), value: makes }).unwrap();
    for step in steps {
        let step = StepName((*step).to_owned());
        journal.write(Record::Begin { step: step.clone() }).unwrap();
        journal.write(Record::End { step, elapsed_ms: 1 }).unwrap();
    }
    folder
}

#[tokio::test]
async fn what_is_in_a_cloud_is_told_of_until_somebody_says_that_it_is_gone() {
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let place = Place { home, repository };
    let folder = cloud_run(&place.home, &["bootstrap-cluster"]);
    place.run(&["cleanup", "kubeadm-capo"]).await.ok();
    fsx::remove_dir(&folder).unwrap();

    cloud_run(&place.home, &["bootstrap-cluster", "release"]);
    let said =
        "networks, routers and load balancers there are called k8s-clusterapi-cluster-default-management-cluster";
    // The run is closed by the first, and told of by the second all the same.
    for _ in 0..2 {
        let cleaned = place.run(&["cleanup", "kubeadm-capo"]).await;
        assert_eq!(cleaned.code, 6, "{}", cleaned.stderr);
        assert!(cleaned.stderr.contains(said), "{}", cleaned.stderr);
        let remedy = format!("when it is gone there: rm -r {}", folder.display());
        assert!(cleaned.stderr.contains(&remedy), "{}", cleaned.stderr);
        let dry = place.run(&["cleanup", "kubeadm-capo", "--dry-run"]).await.ok();
        assert!(dry.stdout.contains("what an earlier run made elsewhere"), "{}", dry.stdout);
    }
    fsx::remove_dir(&folder).unwrap();
    let nothing = place.run(&["cleanup", "kubeadm-capo"]).await.ok();
    assert_eq!(nothing.stdout, "there is nothing of kubeadm-capo to be removed\n");
}

#[tokio::test]
async fn a_management_cluster_in_a_cloud_that_manages_itself_is_not_closed_by_the_way() {
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let place = Place { home, repository };
    let folder = cloud_run(&place.home, &["bootstrap-cluster", "release", "pivot"]);
    fsx::write(&folder.join("management.kubeconfig"), "").unwrap();
    let refused = place.run(&["cleanup", "kubeadm-capo"]).await;
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(refused.stderr.contains("cluster-init cleanup kubeadm-capo --even-self-managed"), "{}", refused.stderr);
    let shown = place.run(&["cleanup", "kubeadm-capo", "--dry-run"]).await;
    assert_eq!(shown.code, 7, "{}", shown.stderr);
    assert!(shown.stdout.contains("goes: not gone on with any more"), "it is shown all the same: {}", shown.stdout);
    let cleaned = place.run(&["cleanup", "kubeadm-capo", "--even-self-managed"]).await;
    assert_eq!(cleaned.code, 6, "{}", cleaned.stderr);
    assert!(folder.join("management.kubeconfig").exists(), "it leads to what is in the cloud");
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_missed_only_where_a_run_has_used_it() {
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let place = Place { home, repository };
    let cleanup = async || {
        // Nobody listens there, and where there is no client it is the same.
        let command = place.command(&["cleanup", "kubeadm-capd"]).env("DOCKER_HOST", "tcp://127.0.0.1:1");
        ended(command.run(Duration::from_mins(1)).await)
    };
    assert_eq!(cleanup().await.ok().stdout, "there is nothing of kubeadm-capd to be removed\n");
    let folder = past(&place.home, "kubeadm-capd", ("docker", "DockerCluster"), &["bootstrap-cluster"]);
    let left = cleanup().await;
    assert_eq!(left.code, 6, "{}", left.stderr);
    assert!(left.stderr.contains("what its runs left there (docker): not looked for: the docker"), "{}", left.stderr);
    assert!(left.stderr.contains("have the daemon answer, and clean up again"), "{}", left.stderr);
    assert!(!fsx::read_text(&folder.join("journal.ndjson")).unwrap().contains("cleaned"), "it tells what is its own");
}

fn objects(items: &serde_json::Value) -> Vec<String> {
    items.as_array().unwrap().iter().map(|item| item["object"].as_str().unwrap().to_owned()).collect()
}
