//! `cluster-init apply`: an environment on a cluster that exists.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_init::clock::{Look, Wait};
use cluster_init::fsx;
use cluster_init::k8s::{Cluster, GroupVersionKind, ObjectRef, condition};

use crate::story::Repository;
use crate::support::{Ended, Home, bundle, ended};

/// The environment without the definition of a cluster: an existing one is to get the providers.
const VALUES: &str = "source: oci\ncomponents:\n  capi-local: {enabled: \"yes\"}\n  cluster: {enabled: \"no\"}\n";

struct Site {
    home: Home,
    repository: Repository,
}

impl Site {
    async fn run(&self, args: &[&str]) -> Ended {
        let command = self.home.command(args.iter().copied()).folder(&self.repository.0);
        ended(command.run(Duration::from_mins(10)).await)
    }

    fn values(&self) -> PathBuf {
        self.repository.0.join("environment-values/local/values.yaml")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_cluster_gets_the_chart_and_then_another_commit() {
    bundle();
    let home = Home::new();
    let repository = Repository::new(&home).await;
    let site = Site { home, repository };
    fsx::write(&site.values(), VALUES).unwrap();
    for name in ["kustomization.yaml", "values.yaml"] {
        let of = |environment: &str| site.repository.0.join("environment-values").join(environment).join(name);
        fsx::create_dir(of("other").parent().unwrap()).unwrap();
        fsx::write(&of("other"), fsx::read(&of("local")).unwrap()).unwrap();
    }
    site.repository.commit("no cluster of its own").await;
    site.run(&["local", "create", "site"]).await.ok();
    let file = site.home.path().join("site.kubeconfig");
    fsx::write_private(&file, site.run(&["local", "kubeconfig", "site"]).await.ok().stdout).unwrap();
    let apply = ["apply", "local", "--kubeconfig", file.to_str().unwrap()];

    let done = site.run(&apply).await.ok();
    assert!(done.stderr.contains("every component of local is ready"), "{}", done.stderr);
    let cluster = Cluster::connect("site", &file).await.unwrap();
    let first = revisions(&cluster).await;
    assert!(first.iter().any(|(name, _)| name == "capi-local"), "{first:?}");
    assert!(first.iter().all(|(_, revision)| *revision == first[0].1), "{first:?}");
    let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let flux = cluster.list(&kind, Some("flux-system"), None).await.unwrap();
    assert_eq!(flux.len(), 4);

    // Flux is there by now, and another commit brings another component.
    let text = fsx::read_text(&site.values()).unwrap();
    fsx::write(&site.values(), format!("{text}  cabpk: {{enabled: \"yes\"}}\n")).unwrap();
    site.repository.commit("one more provider").await;
    site.run(&apply).await.ok();
    let second = revisions(&cluster).await;
    assert_eq!(second.len(), first.len() + 1, "{second:?}");
    assert!(second.iter().all(|(_, revision)| *revision != first[0].1), "{second:?}");

    others_are_refused(&site, &apply, &cluster).await;
    site.run(&["local", "delete", "site", "--force"]).await.ok();
    assert_eq!(site.home.processes(), Vec::<u32>::new());
}

/// The components and the revision that each is ready with.
async fn revisions(cluster: &Cluster) -> Vec<(String, String)> {
    let kind = GroupVersionKind::gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization");
    let mut found = Vec::new();
    // Flux may be looking at one of them once more.
    let ready = Wait::new("every component to be ready", Duration::from_mins(2)).until(async || {
        let all = cluster.list(&kind, Some("default"), None).await?;
        let waits = all.iter().find(|object| condition(object, "Ready").is_none_or(|ready| ready["status"] != "True"));
        Ok(match waits {
            Some(object) => Look::Pending(format!("{:?}", object.metadata.name)),
            None => Look::Ready(all),
        })
    });
    for object in ready.await.unwrap() {
        let revision = object.data["status"]["lastAppliedRevision"].as_str().unwrap().to_owned();
        found.push((object.metadata.name.unwrap(), revision));
    }
    found
}

/// A cluster of another environment, and one that a bootstrap still works on.
async fn others_are_refused(site: &Site, apply: &[&str], cluster: &Cluster) {
    let file = apply[3];
    let other = site.run(&["apply", "other", "--kubeconfig", file]).await;
    assert_eq!(other.code, 3, "{}", other.stderr);
    assert!(other.stderr.contains("cluster: the existing cluster is that of environment local"), "{}", other.stderr);
    let copy = ObjectRef::namespaced("v1", "Secret", "default", "management-cluster-copy");
    let object = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": copy.name, "namespace": "default"}});
    cluster.apply(&serde_json::from_value(object).unwrap()).await.unwrap();
    let busy = site.run(apply).await;
    assert_eq!(busy.code, 3, "{}", busy.stderr);
    assert!(busy.stderr.contains("the bootstrap cluster of a run that has not ended"), "{}", busy.stderr);
}

#[tokio::test]
async fn without_a_cluster_it_says_what_is_missing() {
    bundle();
    let home = Home::new();
    let run = async |file: &str| {
        let command = home.command(["apply", "local", "--dirty", "--kubeconfig", file]);
        ended(command.folder(Path::new(env!("CARGO_MANIFEST_DIR"))).run(Duration::from_mins(1)).await)
    };
    let missing = run("/nonexistent/kubeconfig").await;
    assert_eq!(missing.code, 2, "{}", missing.stderr);
    assert!(missing.stderr.contains("there is no file /nonexistent/kubeconfig"), "{}", missing.stderr);
    let file = home.path().join("kubeconfig");
    let text = "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: a, user: {}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n";
    fsx::write(&file, text).unwrap();
    let dead = run(file.to_str().unwrap()).await;
    assert_eq!(dead.code, 3, "{}", dead.stderr);
    assert!(dead.stderr.contains("cluster: the existing cluster does not answer"), "{}", dead.stderr);
}
