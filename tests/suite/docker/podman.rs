//! podman in place of Docker: its service answers Docker's client, and kind runs podman itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_init::docker::SOCKET;
use cluster_init::exec::{self, Command};
use cluster_init::fsx;

use super::{Run, STORY, until};
use crate::support::{Ended, PROGRAM, bundle, ended};

/// podman's service in a network of its own, with what runs beside it.
struct Podman {
    folder: PathBuf,
}

impl Podman {
    async fn start() -> Self {
        // Images stay from one time to the next.
        let found = Self { folder: PathBuf::from("/var/lib/cluster-init-docker/podman") };
        fsx::create_private_dir(&found.folder).unwrap();
        found.script("start").run(Duration::from_mins(1)).await.unwrap();
        until("podman", async || found.docker(&["version"]).await.code == 0).await;
        // What a test left that failed.
        for container in found.containers().await {
            found.docker(&["rm", "--force", "--volumes", &container]).await.ok();
        }
        for volume in found.volumes().await {
            found.docker(&["volume", "rm", "--force", &volume]).await.ok();
        }
        found
    }

    fn script(&self, what: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/docker/podman.sh");
        Command::new(script).arg(what).arg(&self.folder)
    }

    async fn docker(&self, args: &[&str]) -> Ended {
        ended(self.script("run").arg("docker").args(args).run(Duration::from_mins(2)).await)
    }

    async fn containers(&self) -> Vec<String> {
        let all = self.docker(&["ps", "--all", "--format", "{{.Names}}"]).await.ok().stdout;
        all.split_whitespace().map(str::to_owned).collect()
    }

    async fn volumes(&self) -> Vec<String> {
        let all = self.docker(&["volume", "ls", "--quiet"]).await.ok().stdout;
        all.split_whitespace().map(str::to_owned).collect()
    }

    /// The program beside it, in the repository of a run.
    fn command(&self, of: &Run, args: &[&str]) -> Command {
        self.script("run")
            .arg(PROGRAM)
            .args(args)
            .env("CLUSTER_INIT_HOME", of.home.path())
            .env("CLUSTER_INIT_BUNDLE", bundle())
            .env("NO_COLOR", "1")
            .env("CI", "true")
            .folder(&of.repository.0)
    }

    async fn run(&self, of: &Run, args: &[&str]) -> Ended {
        let ended = ended(self.command(of, args).run(STORY).await);
        eprintln!("{}: exit {}\n{}", args.join(" "), ended.code, ended.stderr);
        ended
    }
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn kubeadm_capd_is_bootstrapped_with_podman() {
    let here = Run::new().await;
    let podman = Podman::start().await;
    podman_s_own_command_is_refused(&podman, &here).await;

    podman.run(&here, &["bootstrap", "kubeadm-capd"]).await.ok();
    let machines = async || {
        let status = podman.run(&here, &["status", "kubeadm-capd", "--output", "json"]).await.ok().json();
        assert_eq!(status["selfManaged"], true, "{status}");
        status["machines"].as_array().unwrap().len()
    };
    assert_eq!(machines().await, 2);
    let values = here.repository.0.join("environment-values/kubeadm-capd/values.yaml");
    let text = fsx::read_text(&values).unwrap().replace("worker_replicas: 1", "worker_replicas: 2");
    fsx::write(&values, text).unwrap();
    here.repository.commit("two workers").await;
    podman.run(&here, &["publish", "kubeadm-capd"]).await.ok();
    assert_eq!(machines().await, 3);
    everything_goes(&podman, &here).await;

    podman.run(&here, &["bootstrap", "kubeadm-capd", "--backend", "local"]).await.ok();
    assert_eq!(machines().await, 3);
    everything_goes(&podman, &here).await;
    podman.script("stop").run(Duration::from_mins(1)).await.unwrap();
}

async fn podman_s_own_command_is_refused(podman: &Podman, here: &Run) {
    let shim = here.home.path().join("shim");
    fsx::create_private_dir(&shim).unwrap();
    fsx::symlink(&exec::find("podman").unwrap(), &shim.join("docker")).unwrap();
    let path = format!("{}:{}", shim.display(), std::env::var("PATH").unwrap());
    let command = podman.command(here, &["bootstrap", "kubeadm-capd"]).env("PATH", path);
    let refused = ended(command.run(STORY).await);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("docker: docker is podman's own command here"), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("ln -s /run/podman/podman.sock {SOCKET}")), "{}", refused.stderr);
}

async fn everything_goes(podman: &Podman, here: &Run) {
    podman.run(here, &["cleanup", "kubeadm-capd", "--even-self-managed"]).await.ok();
    assert_eq!(podman.containers().await, Vec::<String>::new());
    assert_eq!(podman.volumes().await, Vec::<String>::new());
}
