//! A daemon on another host, with TLS, as GitLab's docker-in-docker: nothing of this host's files and loopback is its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_init::exec::Command;
use cluster_init::fsx;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::{Run, STORY, until};
use crate::support::{Ended, ended};

const HOST: &str = "10.99.77.2";

/// The daemon, and what a client needs to reach it.
struct Elsewhere {
    folder: PathBuf,
    client: tempfile::TempDir,
}

impl Elsewhere {
    async fn start() -> Self {
        // Images stay from one time to the next.
        let folder = PathBuf::from("/var/lib/cluster-init-docker/elsewhere");
        let certs = folder.join("certs");
        fsx::create_private_dir(&folder).unwrap();
        fsx::create_private_dir(&certs).unwrap();
        let client = tempfile::tempdir().unwrap();
        certificates(&certs, client.path());
        let found = Self { folder, client };
        found.script("start").await;
        until("daemon elsewhere", async || found.docker(&["version"]).await.code == 0).await;
        // What a test left that failed.
        found.empty().await;
        found
    }

    async fn script(&self, what: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/docker/elsewhere.sh");
        Command::new(script).arg(what).arg(&self.folder).run(Duration::from_mins(3)).await.unwrap();
    }

    /// A command whose docker this one is.
    fn of(&self, command: Command) -> Command {
        let command = command.env("DOCKER_HOST", format!("tcp://{HOST}:2376")).env("DOCKER_TLS_VERIFY", "1");
        command.env("DOCKER_CERT_PATH", self.client.path())
    }

    async fn docker(&self, args: &[&str]) -> Ended {
        ended(self.of(Command::new("docker").args(args)).run(Duration::from_mins(2)).await)
    }

    async fn empty(&self) {
        let all = self.docker(&["ps", "--all", "--quiet"]).await.ok().stdout;
        for container in all.split_whitespace() {
            self.docker(&["rm", "--force", "--volumes", container]).await.ok();
        }
        for volume in self.docker(&["volume", "ls", "--quiet"]).await.ok().stdout.split_whitespace() {
            self.docker(&["volume", "rm", "--force", volume]).await.ok();
        }
    }

    /// Takes the containers and volumes away, and the daemon; its images stay.
    async fn stop(self) {
        self.empty().await;
        self.script("stop").await;
    }
}

/// An authority, and by it a certificate of the daemon and one of its client.
fn certificates(daemon: &Path, client: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    for (folder, name, usage) in
        [(daemon, HOST, ExtendedKeyUsagePurpose::ServerAuth), (client, "client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let cert = params.signed_by(&key, &issuer).unwrap();
        fsx::write_private(&folder.join("ca.pem"), &ca).unwrap();
        fsx::write_private(&folder.join("cert.pem"), cert.pem()).unwrap();
        fsx::write_private(&folder.join("key.pem"), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn kubeadm_capd_is_bootstrapped_on_a_daemon_elsewhere_with_tls() {
    let here = Run::new().await;
    let elsewhere = Elsewhere::start().await;
    let run = async |args: &[&str]| {
        let ended = ended(elsewhere.of(here.command(args)).run(STORY).await);
        eprintln!("{}: exit {}\n{}", args.join(" "), ended.code, ended.stderr);
        ended
    };
    // What cannot work is refused before anything is made.
    let refused = run(&["bootstrap", "kubeadm-capd", "--backend", "local"]).await;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("the docker daemon is on host {HOST}")), "{}", refused.stderr);
    assert!(refused.stderr.contains("--backend kind"), "{}", refused.stderr);
    let command = elsewhere.of(here.command(&["bootstrap", "kubeadm-capd"]));
    let bare = ended(command.env("DOCKER_CERT_PATH", here.home.path()).run(STORY).await);
    assert_eq!(bare.code, 3, "{}", bare.stderr);
    assert!(bare.stderr.contains("DOCKER_CERT_PATH=FOLDER with ca.pem"), "{}", bare.stderr);

    run(&["bootstrap", "kubeadm-capd"]).await.ok();
    let status = run(&["status", "kubeadm-capd", "--output", "json"]).await.ok().json();
    assert_eq!(status["selfManaged"], true, "{status}");
    let kubeconfig = run(&["kubeconfig", "kubeadm-capd"]).await.ok().stdout;
    assert!(kubeconfig.contains(&format!("https://{HOST}:")), "{kubeconfig}");
    // No route leads out of there: what looks for the API server before kube-proxy leads there gives it up for long.
    let said = here.kubectl(&["-n", "kube-system", "logs", "-l", "k8s-app=kube-dns", "--tail=-1"]).await;
    assert!(said.contains("CoreDNS-") && !said.contains("unsynced"), "{said}");
    // A commit reaches its registry through its API server.
    let values = here.repository.0.join("environment-values/kubeadm-capd/values.yaml");
    let text = fsx::read_text(&values).unwrap().replace("worker_replicas: 1", "worker_replicas: 2");
    fsx::write(&values, text).unwrap();
    here.repository.commit("two workers").await;
    run(&["publish", "kubeadm-capd"]).await.ok();
    let status = run(&["status", "kubeadm-capd", "--output", "json"]).await.ok().json();
    assert_eq!(status["machines"].as_array().unwrap().len(), 3, "{status}");
    elsewhere.stop().await;
}
