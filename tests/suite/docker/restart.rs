//! The docker daemon ends and starts again while a run is under way.

use std::path::Path;
use std::time::Duration;

use cluster_init::exec::Command;

use super::{Run, clean, containers_of, until};

/// Restarts the daemon; false when it is somebody else's.
async fn restart(options: &[&str]) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/docker-daemon");
    let ended = Command::new(script).arg("restart").args(options).run(Duration::from_mins(3)).await;
    if let Err(error) = &ended {
        eprintln!("not restarted: {error}");
    }
    ended.is_ok()
}

/// Restarts the daemon while the first control plane is being set up, and lets the run come to its end: by itself, or by `resume` after
/// it has said what was wrong.
async fn in_the_middle(run: &Run, backend: &str, options: &[&str]) {
    let running = run.begin(run.command(&["bootstrap", "kubeadm-capd", "--backend", backend]));
    until("a load balancer and a machine", async || containers_of("management-cluster").await.len() == 2).await;
    assert!(restart(options).await, "the daemon is back");
    let (code, text) = running.end().await;
    if code != Some(0) {
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("cluster-init resume kubeadm-capd"), "{text}");
        run.run(&["resume"]).await.ok();
    }
    run.run(&["status", "kubeadm-capd"]).await.ok();
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_daemon_that_is_restarted_and_leaves_containers_alone() {
    let run = Run::new().await;
    if !restart(&["--live-restore"]).await {
        return;
    }
    in_the_middle(&run, "local", &["--live-restore"]).await;
    clean().await;
    assert!(restart(&[]).await);
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn a_daemon_that_is_restarted_with_its_containers() {
    let run = Run::new().await;
    if !restart(&[]).await {
        return;
    }
    in_the_middle(&run, "kind", &[]).await;
    run.end().await;
}
