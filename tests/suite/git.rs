//! Environments whose source is a Git server: what is refused before anything starts, and the story from there.

use std::path::Path;
use std::time::Duration;

use cluster_init::exec::Command;
use cluster_init::fsx;
use cluster_init::k8s::{Cluster, ObjectRef};

use crate::git_server::{GitServer, TOKEN, USER};
use crate::story::{Repository, until};
use crate::support::{Ended, Home, bundle, ended};

/// A clone of a site: its content is on a Git server, and its settings say so.
struct Site {
    home: Home,
    server: GitServer,
    repository: Repository,
}

impl Site {
    async fn new(settings: &str) -> Self {
        bundle();
        let home = Home::new();
        let server = GitServer::start().await;
        let repository = Repository::new(&home).await;
        fsx::write(&repository.0.join("ca.pem"), server.ca()).unwrap();
        let url = server.url();
        let text = format!(
            "[environments.local]\nsource = \"git\"\ngit_url = \"{url}\"\ngit_ca_file = \"ca.pem\"\ndeadline = \"10m\"\nno_progress = \"3m\"\n{settings}"
        );
        fsx::write(&repository.0.join("bootstrap.toml"), text).unwrap();
        repository.git(&["remote", "add", "origin", &url]).await;
        let site = Self { home, server, repository };
        site.commit("the source is Git").await;
        site
    }

    async fn commit(&self, message: &str) -> String {
        self.repository.commit(message).await;
        self.head().await
    }

    async fn head(&self) -> String {
        let head = Command::new("git").args(["rev-parse", "HEAD"]).folder(&self.repository.0);
        head.run(Duration::from_mins(1)).await.unwrap().text().trim().to_owned()
    }

    /// Pushes as a developer does, with the server's certificates and the token.
    async fn push(&self) {
        let helper =
            format!("credential.helper=!f() {{ printf 'username=%s\\npassword=%s\\n' '{USER}' '{TOKEN}'; }}; f");
        let push =
            Command::new("git").args(["-c", &helper, "push", "--quiet", "origin", "main"]).folder(&self.repository.0);
        push.env("GIT_SSL_CAINFO", self.repository.0.join("ca.pem")).run(Duration::from_mins(1)).await.unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        self.home
            .command(args.iter().copied())
            .folder(&self.repository.0)
            .env("GITLAB_USER", USER)
            .env("GITLAB_TOKEN", TOKEN)
    }

    async fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args).run(Duration::from_mins(10)).await)
    }
}

/// The lines from the failure on.
#[track_caller]
fn refused(ended: &Ended, code: i32, said: &[&str]) {
    assert_eq!(ended.code, code, "{}", ended.stderr);
    for line in said {
        assert!(ended.stderr.contains(line), "missing: {line}\n{}", ended.stderr);
    }
    assert!(!ended.stderr.contains(TOKEN) && !ended.stdout.contains(TOKEN), "the token is shown:\n{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clusters_would_not_find_is_refused_before_anything_starts() {
    let site = Site::new("").await;
    let (url, bootstrap) = (site.server.url(), ["bootstrap", "local"]);

    let head = site.head().await;
    let short = |commit: &str| commit[..12].to_owned();
    let push = |commit: &str| format!("push it: git push origin {}:refs/heads/main", short(commit));
    refused(&site.run(&bootstrap).await, 3, &[&format!("{url} has no branch main"), &push(&head)]);

    site.push().await;
    let unpushed = site.commit_more().await;
    let said = format!("commit {} is not on branch main of {url}: it has not been pushed", short(&unpushed));
    refused(&site.run(&bootstrap).await, 3, &[&said, &push(&unpushed)]);

    let command = site.command(&bootstrap).env("GITLAB_TOKEN", "wrong");
    let said = format!("{url} cannot be read: it refuses the user or the token");
    refused(&ended(command.run(Duration::from_mins(1)).await), 3, &[&said, "set GITLAB_USER and GITLAB_TOKEN"]);
    let command = site.command(&bootstrap).env_remove("GITLAB_TOKEN").env_remove("GITLAB_USER");
    let said = format!("{url} cannot be read: it asks for a user and a token");
    refused(&ended(command.run(Duration::from_mins(1)).await), 3, &[&said, "set GITLAB_USER and GITLAB_TOKEN"]);
    let command = site.command(&bootstrap).env_remove("GITLAB_USER");
    let said = "GITLAB_USER and GITLAB_TOKEN belong together: only one of them is set";
    refused(&ended(command.run(Duration::from_mins(1)).await), 2, &[said]);

    fsx::write(&site.repository.0.join("kustomize-components/more.txt"), "not committed").unwrap();
    let said = "a Git source has commits only: a working tree cannot be deployed from it";
    refused(&site.run(&["bootstrap", "local", "--dirty"]).await, 2, &[said, "set source = \"oci\""]);
    refused(&site.run(&bootstrap).await, 2, &["1 change is not committed: kustomize-components/more.txt"]);
    fsx::remove_file(&site.repository.0.join("kustomize-components/more.txt")).unwrap();

    // Somebody else has pushed.
    site.push().await;
    let theirs = site.home.path().join("theirs");
    let from = site.server.repository().display().to_string();
    git(site.home.path(), &["clone", "--quiet", &from, "theirs"]).await;
    git(&theirs, &["commit", "--quiet", "--allow-empty", "-m", "theirs"]).await;
    git(&theirs, &["push", "--quiet", "origin", "main"]).await;
    let said = format!("which this clone does not have: whether commit {} is on it cannot be told", short(&unpushed));
    refused(&site.run(&bootstrap).await, 3, &[&said, "git fetch origin main"]);

    let text = fsx::read_text(&site.repository.0.join("bootstrap.toml")).unwrap();
    fsx::write(&site.repository.0.join("bootstrap.toml"), text.replace("git_ca_file = \"ca.pem\"\n", "")).unwrap();
    site.commit("no authority").await;
    refused(&site.run(&bootstrap).await, 3, &[&format!("{url} cannot be read: "), "git_ca_file in bootstrap.toml"]);

    assert_eq!(fsx::list(&site.home.path().join("nodes")).unwrap_or_default(), Vec::<String>::new());
}

impl Site {
    async fn commit_more(&self) -> String {
        let file = self.repository.0.join("kustomize-components/note.txt");
        fsx::write(&file, "a note").unwrap();
        self.commit("a note").await
    }
}

async fn git(folder: &Path, args: &[&str]) {
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"];
    Command::new("git").args(identity).args(args).folder(folder).run(Duration::from_mins(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_made_from_a_git_server_follows_its_branch() {
    let site = Site::new("git_follow = true\n").await;
    // No network here: what upstream publishes must be in the repository.
    site.run(&["vendor"]).await.ok();
    let first = site.commit("upstream's manifests").await;
    site.push().await;

    let done = site.run(&["bootstrap", "local"]).await.ok();
    assert!(done.stderr.contains("local manages itself now"), "{}", done.stderr);
    assert!(done.stderr.contains(&format!("commit {} is on branch main of {}", &first[..12], site.server.url())));
    assert!(!done.stderr.contains(TOKEN));
    // Told to follow the branch, Flux looks at everything once more.
    until("everything to be ready", async || site.run(&["status", "local"]).await.code == 0).await;
    let status = site.run(&["--output", "json", "status", "local"]).await.json();
    let components = status["components"].as_array().unwrap();
    assert!(components.iter().any(|component| component["revision"] == first.as_str()), "{status:#}");
    assert!(components.iter().all(|component| component["name"] != "registry"), "nothing needs a registry");

    let kubeconfig = site.run(&["kubeconfig", "local"]).await.ok().stdout;
    let management = Cluster::connect_text("management", &kubeconfig, "test").await.unwrap();
    let source = ObjectRef::namespaced("source.toolkit.fluxcd.io/v1", "GitRepository", "default", "cluster-init");
    let spec = management.get(&source).await.unwrap().unwrap().data["spec"]["ref"].clone();
    assert_eq!(spec["branch"], "main");
    until("the components to follow the branch", async || {
        let found = management.get(&source).await.unwrap().unwrap();
        found.data["spec"]["ref"]["commit"].as_str().unwrap_or_default().is_empty()
    })
    .await;

    // A push is all that it takes.
    let workers = site.repository.0.join("kustomize-components/management-cluster/local/workers.yaml");
    let text = fsx::read_text(&workers).unwrap();
    fsx::write(&workers, text.replace("replicas: 1", "replicas: 2")).unwrap();
    let second = site.commit("one more worker").await;
    let behind = site.run(&["publish", "local"]).await;
    refused(&behind, 3, &[&format!("commit {} is not on branch main", &second[..12])]);
    site.push().await;
    let deployment =
        ObjectRef::namespaced("cluster.x-k8s.io/v1beta2", "MachineDeployment", "default", "management-cluster-md-0");
    until("a second worker", async || {
        let found = management.get(&deployment).await.unwrap().unwrap();
        found.data["status"]["readyReplicas"] == 2
    })
    .await;
    site.run(&["publish", "local"]).await.ok();
    until("everything to be ready", async || site.run(&["status", "local"]).await.code == 0).await;

    site.run(&["local", "delete", "management-cluster", "--force"]).await.ok();
    assert_eq!(site.home.processes(), Vec::<u32>::new());
    nothing_secret(site.home.path());
}

/// The token is in no file of the home but kubeconfigs and data of clusters, which are gone.
fn nothing_secret(folder: &Path) {
    for name in fsx::list(&folder.join("runs/local")).unwrap() {
        let run = folder.join("runs/local").join(name);
        for file in fsx::list(&run).unwrap_or_default() {
            let text = fsx::read(&run.join(&file)).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains(TOKEN), "{file} holds the token");
        }
    }
}
