//! What a bootstrap of containers left that was killed in the middle.

use std::time::Duration;

use cluster_init::backend::Mirror;
use cluster_init::bundle::Bundle;
use cluster_init::clock::Deadline;
use cluster_init::docker::Docker;
use cluster_init::event::Events;
use cluster_init::exec::Command;
use cluster_init::fsx;
use cluster_init::node;
use cluster_init::saga::{Journal, Record, RunId, StepName};
use tokio_util::sync::CancellationToken;

use super::{Run, containers_of, docker};

/// An image that nothing is in: its containers are made and never started.
const EMPTY: &str = "cluster-init-test:empty";

/// A container that is never started.
async fn container(name: &str, options: &[&str]) -> String {
    let id = docker(&[&["create", "--name", name], options, &[EMPTY, "nothing"]].concat()).await;
    id.trim().to_owned()
}

/// A run of `kubeadm-capd` as its files tell it, that came to have its cluster made and has seen one container of that.
fn past(run: &Run, seen: &str) {
    let folder = run.home.path().join("runs/kubeadm-capd/20260101T000000Z-0001");
    fsx::create_private_dir(&folder).unwrap();
    let journal = Journal::open(&folder.join("journal.ndjson")).unwrap();
    let repository = run.repository.0.display().to_string();
    let subject =
        serde_json::json!({"environment": "kubeadm-capd", "repository": repository, "dirty": false, "keep": false});
    journal.write(Record::Run { id: RunId("20260101T000000Z-0001".into()), subject }).unwrap();
    let makes = serde_json::json!(
        {"cluster": "management-cluster", "machines": "docker", "backend": "kind", "infrastructure": "DockerCluster"}
    );
    journal.write(Record::Fact { name: "makes".into(), value: makes }).unwrap();
    for step in ["bootstrap-cluster", "release"] {
        journal.write(Record::Begin { step: StepName(step.into()) }).unwrap();
    }
    let addresses = run.home.path().join("docker/kubeadm-capd.json");
    fsx::create_private_dir(addresses.parent().unwrap()).unwrap();
    let known = serde_json::json!({"name": "x", "cluster": "management-cluster", "address": "172.18.0.3"});
    fsx::write_private(&addresses, serde_json::json!({ seen: known }).to_string()).unwrap();
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn what_runs_made_goes_in_its_order_and_what_others_made_stays() {
    const CLUSTER: &str = "io.x-k8s.kind.cluster";
    const OWNED: &str = "cluster-init.dev/owned";
    let run = Run::new().await;
    let empty = run.home.path().join("empty.tar");
    fsx::write(&empty, [0; 10240]).unwrap();
    let import = Command::new("docker").arg("import").arg(&empty).arg(EMPTY);
    import.run(Duration::from_mins(1)).await.unwrap();
    let label = |name: &str, value: &str| format!("--label={name}={value}");

    docker(&["network", "create", &label(OWNED, "network"), "kind"]).await;
    let (bootstrap, home) = ("kubeadm-capd-bootstrap", run.home.path().display().to_string());
    let (home, owner) =
        (label("cluster-init.dev/home", &home), label("cluster-init.dev/owner", "bootstrap kubeadm-capd"));
    let volume = format!("{bootstrap}-certs.d");
    docker(&["volume", "create", &label(OWNED, "certs.d"), &home, &owner, &volume]).await;
    let mount = format!("--volume={volume}:/x");
    container(&format!("{bootstrap}-control-plane"), &[&label(CLUSTER, bootstrap), &mount]).await;
    docker(&["volume", "create", &label(OWNED, "mirror"), "cluster-init-mirror"]).await;
    container("cluster-init-mirror", &["--network=kind", &label(OWNED, "mirror"), "--volume=cluster-init-mirror:/x"])
        .await;
    let before = label(CLUSTER, "management-cluster");
    let seen = container("management-cluster-lb", &[&before, "--network=kind", "--volume=/var"]).await;
    past(&run, &seen);
    let role = label("io.x-k8s.kind.role", "control-plane");
    container("management-cluster-plane", &[&before, &role, "--network=kind"]).await;
    container("others-plane", &[&label(CLUSTER, "others"), &role]).await;

    let dry = run.run(&["cleanup", "kubeadm-capd", "--dry-run", "--output", "json"]).await.ok().json();
    let going: Vec<&str> = dry["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["fate"] == "goes")
        .map(|item| item["object"].as_str().unwrap())
        .collect();
    let expected = [
        "container kubeadm-capd-bootstrap-control-plane",
        "container management-cluster-plane",
        "container management-cluster-lb",
        "volume kubeadm-capd-bootstrap-certs.d",
        "addresses of its containers",
        "run 20260101T000000Z-0001",
    ];
    assert_eq!(going, expected, "{dry}");
    let cleaned = run.run(&["cleanup", "kubeadm-capd"]).await.ok();
    assert!(
        cleaned.stdout.contains("stays: container others-plane of cluster others may use it"),
        "{}",
        cleaned.stdout
    );
    assert_eq!(containers_of("others").await, ["others-plane"]);
    docker(&["rm", "others-plane"]).await;

    // Now nobody needs what is shared.
    let cleaned = run.run(&["cleanup", "kubeadm-capd"]).await.ok();
    assert!(cleaned.stdout.ends_with("removed 3 objects of kubeadm-capd\n"), "{}", cleaned.stdout);
    let all = docker(&["ps", "--all", "--quiet"]).await + &docker(&["volume", "ls", "--quiet"]).await;
    assert_eq!(all, "", "no container and no volume, named or not");
    assert_eq!(docker(&["network", "ls", "--quiet", "--filter", "name=^kind$"]).await, "");

    // One that is not ours has the name of ours.
    docker(&["volume", "create", &volume]).await;
    container(&format!("{bootstrap}-control-plane"), &[&label(CLUSTER, bootstrap), &mount]).await;
    let foreign = run.run(&["cleanup", "kubeadm-capd"]).await.ok();
    assert!(foreign.stdout.contains("which was not made from this home"), "{}", foreign.stdout);
    assert_eq!(containers_of(bootstrap).await.len(), 1);
    docker(&["rm", "--force", "--volumes", &format!("{bootstrap}-control-plane")]).await;
    docker(&["volume", "rm", &volume]).await;
    docker(&["rmi", EMPTY]).await;
    run.end().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_killed_run_leaves_nothing_behind() {
    let run = Run::new().await;
    run.dies_beside(&["bootstrap", "kubeadm-capd", "--backend", "kind"], "management-cluster-lb").await;
    // Somebody else's container with the name of no cluster of ours, and one that is in the way of what is shared.
    let others = ["create", "--name", "others", "--label", "io.x-k8s.kind.cluster=others", "registry:3.1.2"];
    docker(&others).await;

    let dry = run.run(&["cleanup", "kubeadm-capd", "--dry-run"]).await.ok();
    for said in [
        "container kubeadm-capd-bootstrap-control-plane",
        "container management-cluster-lb",
        "volume kubeadm-capd-bootstrap-certs.d",
        "stays: container others of cluster others may use it",
    ] {
        assert!(dry.stdout.contains(said), "{said}:\n{}", dry.stdout);
    }
    assert!(!containers_of("kubeadm-capd-bootstrap").await.is_empty(), "nothing was changed");
    run.run(&["cleanup", "kubeadm-capd"]).await.ok();
    for cluster in ["kubeadm-capd-bootstrap", "management-cluster"] {
        assert_eq!(containers_of(cluster).await, Vec::<String>::new());
    }
    assert_eq!(containers_of("others").await, ["others"]);
    let mirror = async || Docker::default().container("cluster-init-mirror").await.unwrap().is_some();
    assert!(mirror().await, "a machine of somebody else's may use it");

    docker(&["rm", "--force", "others"]).await;
    run.run(&["cleanup", "kubeadm-capd"]).await.ok();
    assert!(!mirror().await);
    let filter = ["--quiet", "--filter", "label=cluster-init.dev/owned"];
    for kind in ["volume", "network"] {
        assert_eq!(docker(&[&[kind, "ls"], &filter[..]].concat()).await, "", "no {kind} of ours is left");
    }
    let again = run.run(&["cleanup", "kubeadm-capd"]).await.ok();
    assert!(again.stdout.ends_with("there is nothing of kubeadm-capd to be removed\n"), "{}", again.stdout);
    run.end().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn the_registry_beside_the_machines_goes_when_there_is_no_machine() {
    let run = Run::new().await;
    let bundle = Bundle::open(&crate::support::bundle(), &run.home.unpacked()).unwrap();
    let mirror = Mirror::new(Docker::default(), bundle, node::Home::at(run.home.path()).unwrap());
    for _ in 0..2 {
        let (limit, cancel) = (Deadline::after(Duration::from_mins(2)), CancellationToken::new());
        mirror.serve(&Events::silent(), limit, &cancel).await.unwrap();
        let cleaned = run.run(&["cleanup", "kubeadm-capd"]).await.ok();
        assert_eq!(cleaned.stdout, "removed 3 objects of kubeadm-capd\n");
        assert!(Docker::default().container("cluster-init-mirror").await.unwrap().is_none());
        assert!(Docker::default().volume("cluster-init-mirror").await.unwrap().is_none());
        assert_eq!(docker(&["network", "ls", "--quiet", "--filter", "name=^kind$"]).await, "");
    }
    run.end().await;
}
