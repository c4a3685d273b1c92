//! What a bootstrap of containers left that was killed in the middle.

use cluster_init::docker::Docker;

use super::{Run, containers_of, docker};

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
