//! What is refused before anything is made.

use std::time::Duration;

use cluster_init::docker::Docker;
use cluster_init::exec::Command;
use cluster_init::fsx;

use super::{Run, STORY, docker};
use crate::support::{PROGRAM, bundle, ended};

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_foreign_kind_cluster_of_the_same_name_is_refused_and_left_alone() {
    let run = Run::new().await;
    let name = "kubeadm-capd-bootstrap-control-plane";
    // An image of nothing is enough: the container is never started.
    let empty = run.home.path().join("empty.tar");
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

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_daemon_that_does_not_answer_is_refused_before_anything_is_made() {
    let run = Run::new().await;
    let command = run.command(&["bootstrap", "kubeadm-capd"]);
    let refused = ended(command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").run(STORY).await);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("docker: the docker daemon does not answer: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("start it: systemctl start docker"), "{}", refused.stderr);
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_disk_that_is_nearly_full_is_refused_before_anything_is_made() {
    let run = Run::new().await;
    let small = run.home.path().join("small");
    fsx::create_private_dir(&small).unwrap();
    let path = small.display().to_string();
    let root = |program: &str, args: &[&str]| Command::new(program).args(args).run(Duration::from_secs(30));
    root("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", &path]).await.unwrap();
    fsx::symlink(&run.home.path().join("cache"), &small.join("cache")).unwrap();
    let command = run.command(&["bootstrap", "kubeadm-capd"]).env("CLUSTER_INIT_HOME", &small);
    let refused = ended(command.run(STORY).await);
    root("umount", &[&path]).await.unwrap();
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    let said = format!("MiB are free on the file system of {path}, 3072 MiB are needed");
    assert!(refused.stderr.contains(&said), "{}", refused.stderr);
    assert!(refused.stderr.contains("set CLUSTER_INIT_HOME to a folder on a larger file system"), "{}", refused.stderr);
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_daemon_that_listens_elsewhere_is_refused_before_anything_is_made() {
    let run = Run::new().await;
    let socket = run.home.path().join("docker.sock");
    fsx::write(&socket, "").unwrap();
    // The same daemon at another path, and none where the provider looks.
    let script =
        "mount --bind /run/docker.sock \"$0\" && mount -t tmpfs tmpfs /run && DOCKER_HOST=unix://$0 exec \"$@\"";
    let command = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", script])
        .arg(&socket)
        .args([PROGRAM, "bootstrap", "kubeadm-capd"])
        .env("CLUSTER_INIT_HOME", run.home.path())
        .env("CLUSTER_INIT_BUNDLE", bundle())
        .folder(&run.repository.0);
    let refused = ended(command.run(STORY).await);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    let said = "docker: the docker daemon's host has no /var/run/docker.sock";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    assert!(refused.stderr.contains("dockerd --host unix:///var/run/docker.sock"), "{}", refused.stderr);
}
