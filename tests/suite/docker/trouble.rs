//! What goes wrong on the way, and how a run says so or goes on.

use cluster_init::docker::Docker;
use cluster_init::fsx;

use super::{Run, docker, until};

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_machine_that_ends_is_named_within_seconds() {
    let run = Run::new().await;
    let running = run.begin(run.command(&["bootstrap", "kubeadm-capd", "--backend", "local"]));
    until("the mirror", async || Docker::default().container("cluster-init-mirror").await.unwrap().is_some()).await;
    // The mirror's image is there; its program ends at once.
    let machine = "management-cluster-that-ended";
    let label = "io.x-k8s.kind.cluster=management-cluster";
    docker(&["run", "--name", machine, "--label", label, "registry:3.1.2", "--version"]).await;
    let (code, text) = running.end().await;
    assert_eq!(code, Some(1), "{text}");
    let said = format!("container {machine}, a part of the management cluster, does not run any more: it is exited");
    assert!(text.contains(&said), "{text}");
    assert!(text.contains(&format!("docker start {machine}")), "{text}");
    run.end().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn an_image_that_nobody_has_is_named() {
    let run = Run::new().await;
    let capd = run.repository.0.join("kustomize-components/capd/kustomization.yaml");
    let images = "images:\n  - name: gcr.io/k8s-staging-cluster-api/capd-manager\n    newTag: v9.9.9\n";
    fsx::write(&capd, fsx::read_text(&capd).unwrap() + images).unwrap();
    run.repository.commit("an image that does not exist").await;
    let failed = run.run(&["bootstrap", "kubeadm-capd"]).await;
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(failed.stderr.contains("gcr.io/k8s-staging-cluster-api/capd-manager:v9.9.9"), "{}", failed.stderr);
    assert!(failed.stderr.contains("cluster-init bundle list"), "{}", failed.stderr);
    run.end().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_site_without_rke2_is_told_so_by_its_first_machine() {
    if tokio::net::lookup_host(("registry-1.docker.io", 443)).await.is_ok() {
        eprintln!("this site may well have RKE2: left out");
        return;
    }
    let run = Run::new().await;
    let failed = run.run(&["bootstrap", "rke2-capd", "--backend", "local"]).await;
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let said = "setting up the node failed: RKE2 cannot be installed: image docker.io/rancher/rke2-runtime:v1.34.1-rke2r1 is missing";
    assert!(failed.stderr.contains(said), "{}", failed.stderr);
    assert!(failed.stderr.contains("or set cluster.capd.image to an image that holds RKE2"), "{}", failed.stderr);
    run.end().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_run_killed_at_five_moments_goes_on_and_so_do_containers_that_stopped() {
    let run = Run::new().await;
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
    run.end().await;
}
