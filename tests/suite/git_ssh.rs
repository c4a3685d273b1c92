//! A Git server that is read over SSH: with a key of the environment's own, and only when the server is the one that is known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_init::exec::{Child, Command};
use cluster_init::fsx;
use cluster_init::k8s::{Cluster, ObjectRef};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::story::{Repository, until};
use crate::support::{Ended, Home, bundle, ended};

const LIMIT: Duration = Duration::from_mins(10);

/// What an existing cluster gets here: Flux, and the least that shows that it reads the repository.
const VALUES: &str = "source: git\ncomponents:\n  cert-manager: {enabled: \"no\"}\n  capi: {enabled: \"no\"}\n  \
    capi-definitions: {enabled: \"no\"}\n  capi-local: {enabled: \"no\"}\n  cluster: {enabled: \"no\"}\n";

/// A clone of a site whose content is on a server that is read over SSH.
struct Site {
    home: Home,
    repository: Repository,
    url: String,
    server: Child,
}

impl Site {
    async fn new() -> Self {
        bundle();
        let home = Home::new();
        let repository = Repository::new(&home).await;
        for name in ["key", "other-key"] {
            keygen(&home.path().join(name), "").await;
        }
        let bare = Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch=main", "site.git"]);
        bare.folder(home.path()).run(LIMIT).await.unwrap();
        let (server, address, known_hosts) = serve(home.path(), &home.path().join("key.pub")).await;
        fsx::write(&repository.0.join("known_hosts"), known_hosts).unwrap();
        let url = format!("ssh://git@{address}/site.git");
        let site = Self { home, repository, url, server };
        site.settings("git_known_hosts_file = \"known_hosts\"\n");
        // No network here: what upstream publishes must be in the repository.
        site.run(&["vendor"]).await.ok();
        site.push("the source is Git").await;
        site
    }

    async fn push(&self, message: &str) {
        self.repository.commit(message).await;
        self.repository.git(&["push", "--quiet", "../site.git", "main"]).await;
    }

    fn settings(&self, more: &str) {
        let head = "[environments.local]\nsource = \"git\"\ndeadline = \"10m\"\nno_progress = \"3m\"\n";
        let text = format!("{head}git_url = \"{}\"\n{more}", self.url);
        fsx::write(&self.repository.0.join("bootstrap.toml"), text).unwrap();
    }

    fn key(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let command = self.home.command(args.iter().copied()).folder(&self.repository.0);
        command.env_remove("GITLAB_USER").env_remove("GITLAB_TOKEN").env_remove("GITLAB_SSH_KEY")
    }

    /// Runs the program with the key as GitLab hands over a file.
    async fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args).env("GITLAB_SSH_KEY", self.key("key")).run(LIMIT).await)
    }

    /// The secret part of the key, which nothing may show.
    fn secret(&self) -> String {
        fsx::read_text(&self.key("key")).unwrap().lines().nth(2).unwrap().to_owned()
    }
}

/// Makes a key that is only for tests.
async fn keygen(file: &Path, passphrase: &str) {
    let command = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-C", "test", "-N", passphrase, "-f"]);
    command.arg(file).run(LIMIT).await.unwrap();
}

/// Builds and starts tests/ssh-server for the repositories in a folder; returns its address and host key, too.
async fn serve(folder: &Path, authorized: &Path) -> (Child, String, String) {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ssh-server-{}", std::process::id()));
    let build = Command::new("go").args(["build", "-o"]).arg(&program).arg(".");
    build.folder(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ssh-server")).run(LIMIT).await.unwrap();
    let mut server = Command::new(&program).arg(folder).arg(authorized).spawn_piped().unwrap();
    let mut lines = BufReader::new(server.stdout().unwrap()).lines();
    let mut line = async || {
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await;
        line.expect("the SSH server starts").unwrap().unwrap()
    };
    let (address, known_hosts) = (line().await, line().await);
    fsx::remove_file(&program).unwrap();
    (server, address, format!("{known_hosts}\n"))
}

#[track_caller]
fn refused(ended: &Ended, code: i32, said: &[&str]) {
    assert_eq!(ended.code, code, "{}", ended.stderr);
    for line in said {
        assert!(ended.stderr.contains(line), "missing: {line}\n{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_reads_a_repository_over_ssh_with_its_own_key() {
    let mut site = Site::new().await;
    what_the_server_would_refuse_is_refused_before(&site).await;

    fsx::write(&site.repository.0.join("environment-values/local/values.yaml"), VALUES).unwrap();
    site.push("nothing but Flux").await;
    site.run(&["local", "create", "site"]).await.ok();
    let file = site.home.path().join("site.kubeconfig");
    fsx::write_private(&file, site.run(&["local", "kubeconfig", "site"]).await.ok().stdout).unwrap();
    let done = site.run(&["apply", "local", "--kubeconfig", file.to_str().unwrap()]).await.ok();
    assert!(done.stderr.contains(&format!("is on branch main of {}", site.url)), "{}", done.stderr);
    assert!(done.stderr.contains("every component of local is ready"), "{}", done.stderr);
    assert!(!done.stderr.contains(&site.secret()));

    let cluster = Cluster::connect("site", &file).await.unwrap();
    let source = ObjectRef::namespaced("source.toolkit.fluxcd.io/v1", "GitRepository", "default", "cluster-init");
    let found = cluster.get(&source).await.unwrap().unwrap();
    assert_eq!(found.data["spec"]["secretRef"]["name"], "git-ssh");
    let head = Command::new("git").args(["rev-parse", "HEAD"]).folder(&site.repository.0);
    let head = head.run(LIMIT).await.unwrap().text();
    let revision = format!("main@sha1:{}", head.trim());
    until("the commit to be read over SSH", async || {
        let found = cluster.get(&source).await.unwrap().unwrap();
        found.data["status"]["artifact"]["revision"] == revision.as_str()
    })
    .await;

    site.run(&["local", "delete", "site", "--force"]).await.ok();
    site.server.stop(Duration::from_secs(1)).await.unwrap();
    assert_eq!(site.home.processes(), Vec::<u32>::new());
}

async fn what_the_server_would_refuse_is_refused_before(site: &Site) {
    let bootstrap = ["bootstrap", "local"];
    let none = ended(site.command(&bootstrap).run(LIMIT).await);
    refused(&none, 2, &[&format!("{} is read over SSH, and there is no key", site.url), "set GITLAB_SSH_KEY"]);
    // The key itself, as a variable that is no file.
    let other = fsx::read_text(&site.key("other-key")).unwrap();
    let wrong = ended(site.command(&bootstrap).env("GITLAB_SSH_KEY", other).run(LIMIT).await);
    refused(&wrong, 3, &[&format!("{} cannot be read: it refuses the key", site.url), "give the key's public half"]);
    keygen(&site.key("locked-key"), "passphrase").await;
    let of = "environment local, key identity of Secret default/management-cluster-secrets: it";
    for (value, said) in [
        (site.key("key.pub").display().to_string(), "is no private key"),
        (site.key("locked-key").display().to_string(), "has a passphrase"),
        ("hunter2".into(), "is neither a private key nor the path of a file with one"),
    ] {
        let ended = ended(site.command(&bootstrap).env("GITLAB_SSH_KEY", &value).run(LIMIT).await);
        refused(&ended, 2, &[&format!("{of} {said}")]);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }

    let known = fsx::read_text(&site.repository.0.join("known_hosts")).unwrap();
    for (hosts, said) in [
        (known.replace("127.0.0.1", "127.0.0.2"), "its host key is not known"),
        (other_host_key(site, &known), "its host key is not the one that is known"),
    ] {
        let file = site.repository.0.join("known_hosts");
        fsx::write(&file, hosts).unwrap();
        site.repository.commit("another server").await;
        let ended = site.run(&bootstrap).await;
        refused(&ended, 3, &[&format!("{} cannot be read: {said}", site.url), "ssh-keyscan"]);
        site.repository.git(&["reset", "--quiet", "--hard", "HEAD~1"]).await;
    }
    site.settings("");
    let ended = site.run(&bootstrap).await;
    refused(&ended, 2, &["git_known_hosts_file: missing", "ssh-keyscan"]);
    site.repository.git(&["checkout", "--quiet", "bootstrap.toml"]).await;
    assert_eq!(fsx::list(&site.home.path().join("nodes")).unwrap_or_default(), Vec::<String>::new());
}

/// A line for the same host with the public key that belongs to somebody else.
fn other_host_key(site: &Site, known: &str) -> String {
    let host = known.split(' ').next().unwrap();
    let key = fsx::read_text(&site.key("other-key.pub")).unwrap();
    format!("{host} {}\n", key.trim_end_matches(" test\n"))
}
