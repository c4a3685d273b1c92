//! `cleanup local` after a bootstrap that was killed in the middle: nothing is left, and the next bootstrap begins anew.

use std::path::PathBuf;
use std::time::Duration;

use cluster_init::exec::{self, Command};
use cluster_init::fsx;
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

    let cleaned = place.run(&["cleanup", "local", "--output", "json"]).await.ok();
    let report: serde_json::Value = serde_json::from_str(cleaned.stdout.lines().last().unwrap()).unwrap();
    let removed = objects(&report["removed"]);
    assert!(planned.iter().all(|object| removed.contains(object)), "{planned:?} {removed:?}");
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

fn objects(items: &serde_json::Value) -> Vec<String> {
    items.as_array().unwrap().iter().map(|item| item["object"].as_str().unwrap().to_owned()).collect()
}
