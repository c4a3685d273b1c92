//! Two environments on one daemon.

use std::collections::BTreeSet;

use cluster_init::fsx;

use super::{Run, containers_of, docker};
use crate::story::Repository;

/// The second environment is a copy of the first, whose cluster has a name of its own.
fn copy_environment(repository: &Repository) {
    let folder = |name: &str| repository.0.join("environment-values").join(name);
    let (from, to) = (folder("kubeadm-capd"), folder("second"));
    fsx::create_dir(&to).unwrap();
    for name in fsx::list(&from).unwrap() {
        fsx::write(&to.join(&name), fsx::read(&from.join(&name)).unwrap()).unwrap();
    }
    let values = to.join("values.yaml");
    let text = fsx::read_text(&values).unwrap();
    fsx::write(&values, text.replace("cluster:\n  capd:", "cluster:\n  name: second\n  capd:")).unwrap();
    let settings = repository.0.join("bootstrap.toml");
    let text = fsx::read_text(&settings).unwrap();
    let own = "[environments.second]\nbackend = \"local\"\nmachines = \"docker\"\ndeadline = \"30m\"\n";
    fsx::write(&settings, format!("{text}\n{own}")).unwrap();
}

/// The ports of the host that a cluster's containers publish.
async fn ports_of(cluster: &str) -> BTreeSet<String> {
    let mut ports = BTreeSet::new();
    for name in containers_of(cluster).await {
        let text = docker(&["port", &name]).await;
        let published = text.lines().filter_map(|line| line.rsplit(':').next());
        ports.extend(published.map(str::to_owned));
    }
    ports
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn two_environments_come_and_go_side_by_side() {
    let run = Run::new().await;
    copy_environment(&run.repository);
    run.repository.commit("a second environment").await;
    // At the same time, and from nothing: they meet at the mirror.
    let (first, second) = tokio::join!(run.run(&["bootstrap", "kubeadm-capd"]), run.run(&["bootstrap", "second"]));
    first.ok();
    second.ok();
    let (of_first, of_second) = (containers_of("management-cluster").await, containers_of("second").await);
    assert_eq!((of_first.len(), of_second.len()), (3, 3), "{of_first:?} {of_second:?}");
    assert!(of_second.iter().all(|name| name.starts_with("second-")), "{of_second:?}");
    let (ports, others) = (ports_of("management-cluster").await, ports_of("second").await);
    assert!(ports.is_disjoint(&others), "{ports:?} {others:?}");
    for environment in ["kubeadm-capd", "second"] {
        run.run(&["status", environment]).await.ok();
    }

    let refused = run.run(&["cleanup", "kubeadm-capd"]).await;
    assert_eq!(refused.code, 7, "it manages itself: {}", refused.stderr);
    let cleaned = run.run(&["cleanup", "kubeadm-capd", "--even-self-managed"]).await.ok();
    assert!(cleaned.stdout.contains("stays: environment second uses it"), "{}", cleaned.stdout);
    assert_eq!(containers_of("management-cluster").await, Vec::<String>::new());
    assert_eq!(containers_of("second").await, of_second);
    run.run(&["status", "second"]).await.ok();
    let values = run.repository.0.join("environment-values/second/values.yaml");
    let text = fsx::read_text(&values).unwrap().replace("worker_replicas: 1", "worker_replicas: 2");
    fsx::write(&values, text).unwrap();
    run.repository.commit("another worker").await;
    run.run(&["publish", "second"]).await.ok();
    assert_eq!(containers_of("second").await.len(), 4, "it still makes machines");
    run.end().await;
}
