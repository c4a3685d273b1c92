//! The management cluster of containers, from nothing to a day in its life.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use cluster_init::exec::Command;
use cluster_init::fsx;

use super::{Run, STORY, containers_of, docker, until};
use crate::story::{PROXY, Repository};
use crate::support::ended;

const VALUES: &str = "environment-values/kubeadm-capd/values.yaml";

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn kubeadm_capd_is_bootstrapped_with_kind_and_grows_by_a_commit() {
    let run = Run::new().await;
    bootstrap(&run, "kind", 2).await;
    no_pod_was_too_early(&run).await;
    grow(&run).await;
    other_providers(&run).await;
    volumes(&run).await;
    run.end().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn kubeadm_capd_is_bootstrapped_with_local_processes_and_makes_a_workload_cluster() {
    let run = Run::new().await;
    bootstrap(&run, "local", 2).await;
    no_pod_was_too_early(&run).await;
    let machines = containers_of("management-cluster").await;
    workload_cluster(&run).await;
    assert_eq!(containers_of("management-cluster").await, machines, "the management cluster is what it was");
    run.end().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn three_control_planes_and_two_workers_by_values() {
    let run = Run::new().await;
    change(
        &run.repository,
        &[("control_plane_replicas: 1", "control_plane_replicas: 3"), ("worker_replicas: 1", "worker_replicas: 2")],
    );
    run.repository.commit("three control planes").await;
    bootstrap(&run, "local", 5).await;
    let labels = ["get", "nodes", "--no-headers", "--selector", "node-role.kubernetes.io/control-plane"];
    let planes = run.kubectl(&labels).await;
    assert_eq!(planes.lines().count(), 3, "{planes}");
    let etcd = ["-n", "kube-system", "get", "pods", "--no-headers", "--selector", "component=etcd"];
    let members = run.kubectl(&etcd).await;
    assert_eq!(members.lines().filter(|line| line.contains("1/1")).count(), 3, "{members}");
    run.end().await;
}

#[tokio::test]
#[ignore = "needs Docker: tools/test --docker"]
async fn kubeadm_capd_is_upgraded_by_a_commit_and_comes_back_after_docker_was_stopped() {
    let run = Run::new().await;
    bootstrap(&run, "local", 2).await;
    let before = containers_of("management-cluster").await;
    change(&run.repository, &[("kubernetes_version: v1.36.1", "kubernetes_version: v1.36.9")]);
    run.repository.commit("a version that nobody has").await;
    let refused = run.run(&["publish", "kubeadm-capd"]).await;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("node:v1.36.9, which the bundle has only as v1.36.1, v1.36.3"),
        "{}",
        refused.stderr
    );
    assert_eq!(versions(&run).await, ["v1.36.1", "v1.36.1"], "nothing was given to the cluster");

    change(&run.repository, &[("kubernetes_version: v1.36.9", "kubernetes_version: v1.36.3")]);
    run.repository.commit("another version").await;
    run.run(&["publish", "kubeadm-capd", "--timeout", "15m"]).await.ok();
    assert_eq!(versions(&run).await, ["v1.36.3", "v1.36.3"]);
    let server: serde_json::Value = serde_json::from_str(&run.kubectl(&["version", "-o", "json"]).await).unwrap();
    assert_eq!(server["serverVersion"]["gitVersion"], "v1.36.3", "{server}");
    let status = run.run(&["status", "kubeadm-capd", "--output", "json"]).await.ok().json();
    assert_eq!(status["selfManaged"], true, "{status}");
    // Every machine is another one; only the load balancer stays.
    let after = containers_of("management-cluster").await;
    assert_eq!(before.iter().filter(|name| after.contains(name)).collect::<Vec<_>>(), ["management-cluster-lb"]);
    grow(&run).await;
    start_again(&run).await;
    run.end().await;
}

/// All containers end, and docker gives them other addresses when they are started again.
async fn start_again(run: &Run) {
    let all = containers_of("management-cluster").await;
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let addresses = async || {
        let format = "{{.NetworkSettings.Networks.kind.IPAddress}}";
        let text = docker(&[&["inspect", "--format", format], names.as_slice()].concat()).await;
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = addresses().await;
    docker(&[&["stop", "--time", "1"], names.as_slice()].concat()).await;
    let status = run.run(&["status", "kubeadm-capd"]).await;
    assert_eq!(status.code, 1, "{}", status.stderr);
    assert!(status.stderr.contains("was started again: cluster-init resume kubeadm-capd"), "{}", status.stderr);
    // The load balancer was made first.
    for name in names.iter().filter(|name| !name.ends_with("-lb")) {
        docker(&["start", name]).await;
    }
    docker(&["start", "management-cluster-lb"]).await;
    assert_ne!(addresses().await, before, "otherwise nothing is tested");
    run.run(&["resume", "kubeadm-capd"]).await.ok();
    assert_eq!(addresses().await, before);
    run.run(&["status", "kubeadm-capd"]).await.ok();
    let again = run.run(&["resume", "kubeadm-capd"]).await.ok();
    assert!(again.stderr.contains("already done"), "{}", again.stderr);
}

/// The versions of the nodes' kubelets.
async fn versions(run: &Run) -> Vec<String> {
    let text = run.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kubeletVersion}"]).await;
    text.split_whitespace().map(str::to_owned).collect()
}

fn change(repository: &Repository, pairs: &[(&str, &str)]) {
    let values = repository.0.join(VALUES);
    let mut text = fsx::read_text(&values).unwrap();
    for (from, to) in pairs {
        assert!(text.contains(from), "{text}");
        text = text.replace(from, to);
    }
    fsx::write(&values, text).unwrap();
}

fn ready(nodes: &str) -> usize {
    nodes.lines().filter(|line| line.contains(" Ready ")).count()
}

/// From nothing to self-management.
async fn bootstrap(run: &Run, backend: &str, machines: usize) {
    // The site's proxy, which reaches none of it and is named by no NO_PROXY.
    let command = run.command(&["bootstrap", "kubeadm-capd", "--backend", backend]);
    let command =
        command.env("HTTP_PROXY", PROXY).env("HTTPS_PROXY", PROXY).env_remove("NO_PROXY").env_remove("no_proxy");
    let ended = ended(command.run(STORY).await);
    eprintln!("bootstrap with {backend}: exit {}\n{}", ended.code, ended.stderr);
    ended.ok();
    let status = run.run(&["status", "kubeadm-capd", "--output", "json"]).await.ok().json();
    assert_eq!(status["selfManaged"], true, "{status}");
    assert_eq!(status["bootstrapCluster"], false, "{status}");
    assert_eq!(status["machines"].as_array().unwrap().len(), machines, "{status}");
    let nodes = run.kubectl(&["get", "nodes", "--no-headers"]).await;
    assert_eq!(ready(&nodes), machines, "{nodes}");
    assert_eq!(containers_of("kubeadm-capd-bootstrap").await, Vec::<String>::new(), "the bootstrap cluster is gone");
    assert_eq!(machines_ever(run).len(), machines, "none came and went: {:?}", machines_ever(run));
}

/// The Machines that the run told of.
fn machines_ever(run: &Run) -> BTreeSet<String> {
    let runs = run.home.path().join("runs/kubeadm-capd");
    let events = fsx::list(&runs).unwrap().into_iter().map(|name| runs.join(name).join("events.ndjson"));
    let texts: Vec<String> = events.filter(|file| file.exists()).map(|file| fsx::read_text(&file).unwrap()).collect();
    let parsed = texts.iter().flat_map(|text| text.lines()).map(|line| serde_json::from_str(line).unwrap());
    let objects = parsed.filter_map(|event: serde_json::Value| Some(event["object"].as_str()?.to_owned()));
    objects.filter(|object| object.starts_with("Machine ")).collect()
}

/// A pod that starts before its node leads Services somewhere is led out of the cluster, and ends.
async fn no_pod_was_too_early(run: &Run) {
    let pods = run.kubectl(&["-n", "cert-manager", "get", "pods", "--no-headers"]).await;
    let restarts: Vec<&str> = pods.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert_eq!(restarts, ["0"; 3], "{pods}");
}

/// One worker more by a commit.
async fn grow(run: &Run) {
    change(&run.repository, &[("worker_replicas: 1", "worker_replicas: 2")]);
    run.repository.commit("two workers").await;
    run.run(&["publish", "kubeadm-capd"]).await.ok();
    let nodes = run.kubectl(&["get", "nodes", "--no-headers"]).await;
    assert_eq!(ready(&nodes), 3, "{nodes}");
}

/// A commit changes all providers, and is not called arrived before the last of their managers runs with it.
async fn other_providers(run: &Run) {
    let quiet = "&without_health\n      wait: false\n";
    let more = "      postBuild: {substitute: {CAPI_INSECURE_DIAGNOSTICS: \"true\"}}\n";
    change(&run.repository, &[(quiet, &format!("{quiet}{more}"))]);
    run.repository.commit("providers with other arguments").await;
    run.run(&["publish", "kubeadm-capd"]).await.ok();
    let label = "cluster.x-k8s.io/provider";
    let text = run.kubectl(&["get", "deployments", "--all-namespaces", "--selector", label, "-o", "json"]).await;
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let managers = list["items"].as_array().unwrap();
    assert_eq!(managers.len(), 4, "{text}");
    for manager in managers {
        let status = &manager["status"];
        assert_eq!(status["observedGeneration"], manager["metadata"]["generation"], "{manager}");
        let [all, updated, available] = ["replicas", "updatedReplicas", "availableReplicas"].map(|of| &status[of]);
        assert!(all == 1 && updated == 1 && available == 1, "{manager}");
        let container = manager["spec"]["template"]["spec"]["containers"][0].to_string();
        assert!(container.contains("--insecure-diagnostics=true"), "{container}");
    }
}

/// A commit brings a default StorageClass; what one pod writes to a volume another one reads, and the folder goes with its claim.
async fn volumes(run: &Run) {
    let no = "local-path-storage:\n    enabled: \"no\"";
    change(&run.repository, &[(no, "local-path-storage:\n    enabled: management-only")]);
    run.repository.commit("volumes").await;
    run.run(&["publish", "kubeadm-capd"]).await.ok();
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n\
        spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}\n";
    apply(run, claim).await;
    for (pod, command) in [("writes", "echo kept >/data/file"), ("reads", "cat /data/file")] {
        apply(
            run,
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
                - name: main\n    image: docker.io/kindest/local-path-helper:v20260131-7181c60a\n    \
                command: [sh, -c, '{command}']\n    volumeMounts: [{{name: data, mountPath: /data}}]\n  \
                volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]\n"
            ),
        )
        .await;
        let phase = ["get", "pod", pod, "-o", "jsonpath={.status.phase}"];
        until("end of the pod", async || run.kubectl(&phase).await == "Succeeded").await;
    }
    assert_eq!(run.kubectl(&["logs", "reads"]).await, "kept\n");
    run.kubectl(&["delete", "pod,pvc", "--all"]).await;
    until("end of the volume", async || run.kubectl(&["get", "pv", "-o", "name"]).await.is_empty()).await;
    for node in containers_of("management-cluster").await.iter().filter(|name| !name.ends_with("-lb")) {
        let list = "ls -A /var/local-path-provisioner 2>/dev/null || true";
        let left = docker(&["exec", node, "sh", "-c", list]).await;
        assert_eq!(left, "", "{node}");
    }
}

async fn apply(run: &Run, manifest: &str) {
    let file = run.home.path().join("manifest.yaml");
    fsx::write(&file, manifest).unwrap();
    run.kubectl(&["apply", "--filename", &file.display().to_string()]).await;
}

/// A further cluster comes by a commit, runs a pod whose image it can have from the mirror only, and goes by a commit.
async fn workload_cluster(run: &Run) {
    const NAME: &str = "workload-cluster";
    let values = run.repository.0.join(VALUES);
    let before = fsx::read_text(&values).unwrap();
    // The components are the last of the values.
    let component = format!(
        "  {NAME}:\n    enabled: management-only\n    path: ./kustomize-components/workload-cluster/kubeadm-capd\n"
    );
    fsx::write(&values, format!("{before}{component}")).unwrap();
    run.repository.commit("a workload cluster").await;
    run.run(&["publish", "kubeadm-capd"]).await.ok();
    let available = "jsonpath={.status.conditions[?(@.type==\"Available\")].status}";
    assert_eq!(run.kubectl(&["get", "cluster", NAME, "-o", available]).await, "True");
    // A load balancer, a control plane, a worker.
    assert_eq!(containers_of(NAME).await.len(), 3);

    let name = format!("{NAME}-kubeconfig");
    let secret = run.kubectl(&["get", "secret", &name, "-o", "go-template={{.data.value | base64decode}}"]).await;
    let kubeconfig = run.home.path().join("workload.kubeconfig");
    fsx::write_private(&kubeconfig, secret).unwrap();
    let nodes = kubectl(run, &kubeconfig, &["get", "nodes", "--no-headers"]).await;
    assert_eq!(ready(&nodes), 2, "{nodes}");
    kubectl(run, &kubeconfig, &["create", "deployment", "web", "--image=registry:3.1.2"]).await;
    kubectl(run, &kubeconfig, &["rollout", "status", "deployment", "web", "--timeout=2m"]).await;
    all_stop(run, &kubeconfig).await;

    fsx::write(&values, before).unwrap();
    run.repository.commit("no workload cluster").await;
    run.run(&["publish", "kubeadm-capd"]).await.ok();
    until("end of the workload cluster's containers", async || containers_of(NAME).await.is_empty()).await;
    until("end of its Cluster", async || {
        run.kubectl(&["get", "clusters,machines,dockermachinetemplates", "-o", "name"])
            .await
            .lines()
            .all(|name| !name.contains(NAME))
    })
    .await;
}

/// Every container of both clusters stops, and `resume` starts them; then one does, and the others are left alone.
async fn all_stop(run: &Run, workload: &Path) {
    let all = [containers_of("management-cluster").await, containers_of("workload-cluster").await].concat();
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let look = async |format: &str| docker(&[&["inspect", "--format", format], names.as_slice()].concat()).await;
    let addresses = look("{{.NetworkSettings.Networks.kind.IPAddress}}").await;
    docker(&[&["stop", "--time", "1"], names.as_slice()].concat()).await;
    run.run(&["resume", "kubeadm-capd"]).await.ok();
    assert_eq!(look("{{.NetworkSettings.Networks.kind.IPAddress}}").await, addresses);
    let nodes = kubectl(run, workload, &["get", "nodes", "--no-headers"]).await;
    assert_eq!(nodes.lines().count(), 2, "{nodes}");

    let (started, worker) = (look("{{.State.StartedAt}}").await, names.iter().position(|name| name.contains("-md-0-")));
    docker(&["stop", "--time", "1", names[worker.unwrap()]]).await;
    run.run(&["resume", "kubeadm-capd"]).await.ok();
    let again = look("{{.State.StartedAt}}").await;
    let same = started.lines().zip(again.lines()).filter(|(before, now)| before == now).count();
    assert_eq!(same, names.len() - 1, "{started}{again}");
}

async fn kubectl(run: &Run, kubeconfig: &Path, args: &[&str]) -> String {
    let command = Command::new(run.tool("kubectl").await).arg("--kubeconfig").arg(kubeconfig).args(args);
    command.run(Duration::from_mins(3)).await.unwrap().text()
}
