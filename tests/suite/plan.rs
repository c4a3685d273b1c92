//! `cluster-init plan` as a user meets it.

use std::time::Duration;

use cluster_init::exec::Command;
use cluster_init::k8s;

use crate::support::{Ended, Home, bundle, ended};

/// What no output may hold.
const SECRET: &str = "correct-horse-battery";

async fn plan(home: &Home, args: &[&str]) -> Ended {
    bundle();
    let credentials = ["OS_AUTH_URL", "OS_REGION_NAME", "OS_APPLICATION_CREDENTIAL_ID"];
    let mut command = home.command(["plan"].iter().chain(args)).env("OS_APPLICATION_CREDENTIAL_SECRET", SECRET);
    command = command.env("GITLAB_USER", "me").env("GITLAB_TOKEN", SECRET);
    for name in credentials {
        command = command.env(name, format!("value-of-{name}"));
    }
    ended(command.folder(std::path::Path::new(env!("CARGO_MANIFEST_DIR"))).run(Duration::from_mins(2)).await)
}

#[tokio::test]
async fn a_plan_says_what_each_cluster_gets_and_shows_no_secret() {
    let home = Home::new();
    let (tree, yaml, json) = tokio::join!(
        plan(&home, &["kubeadm-capo"]),
        plan(&home, &["kubeadm-capo", "--output", "yaml", "--cluster", "management"]),
        plan(&home, &["kubeadm-capo", "--output", "json"]),
    );
    let (tree, yaml, json) = (tree.ok(), yaml.ok(), json.ok());
    for line in [
        "bootstrap cluster kubeadm-capo-bootstrap, backend local, deleted after the hand-over",
        "    └── cluster  (kustomize-components/management-cluster/kubeadm-capo)  after capi, capi-definitions, cabpk, capo, cluster-resource-sets",
        "management cluster management-cluster",
    ] {
        assert!(tree.stdout.contains(line), "missing: {line}\n{}", tree.stdout);
    }
    // Manifests are what an API server takes, values replaced, secrets not.
    let objects = k8s::parse(&yaml.stdout, "plan").unwrap();
    let workers = objects.iter().find(|o| o.types.as_ref().unwrap().kind == "MachineDeployment").unwrap();
    assert_eq!(workers.data["spec"]["replicas"], 2);
    let cloud = objects.iter().find(|o| o.metadata.name.as_deref() == Some("management-cluster-cloud-config")).unwrap();
    assert_eq!(cloud.data["stringData"]["clouds.yaml"], "***");
    let json_plan = json.json();
    let digest = json_plan["digest"].as_str().unwrap();
    for ended in [&tree, &yaml, &json] {
        assert!(ended.stdout.contains(digest), "the digest is not in each form");
        assert!(!ended.stdout.contains(SECRET) && !ended.stderr.contains(SECRET), "the secret is shown");
        assert!(!ended.stdout.contains("${OPENSTACK"), "a variable is left");
    }
    assert_eq!(cluster_init::fsx::list(&home.path().join("nodes")).unwrap_or_default(), Vec::<String>::new());
}

#[tokio::test]
async fn a_machine_that_cannot_have_rke2_names_the_image_and_the_remedy_in_one_line() {
    let home = Home::new();
    let plan = plan(&home, &["rke2-capd", "--output", "yaml", "--cluster", "management"]).await.ok();
    let objects = k8s::parse(&plan.stdout, "plan").unwrap();
    let control_plane = objects.iter().find(|o| o.types.as_ref().unwrap().kind == "RKE2ControlPlane").unwrap();
    let script = control_plane.data["spec"]["files"][0]["content"].as_str().unwrap();
    assert!(!script.contains("${"), "{script}");
    // What the machine runs, on a site where no name is known; then on one that reaches everything.
    let run = async |curl: &str| {
        let script = format!("curl() {{ {curl}; }}\n{script}");
        ended(Command::new("sh").args(["-c", &script]).run(Duration::from_mins(1)).await)
    };
    let refused = run("for try in 1 2; do echo 'curl: (6) no such host' >&2; done; return 6").await;
    let said = "RKE2 cannot be installed: image docker.io/rancher/rke2-runtime:v1.34.1-rke2r1 is missing (curl: (6) no such host); \
        let this site reach docker.io and get.rke2.io, or set cluster.capd.image to an image that holds RKE2, and cluster.capd.air_gapped\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (1, said));
    run("true").await.ok();
}

#[tokio::test]
async fn without_a_bundle_and_without_an_environment_it_says_what_to_do() {
    let home = Home::new();
    let ended = plan(&home, &["kubeadm-cpo"]).await;
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("did you mean kubeadm-capo?"), "{}", ended.stderr);
    let ended = plan(&home, &["local", "--bundle", "/nonexistent"]).await;
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("cluster-init bundle build"), "{}", ended.stderr);
}

#[tokio::test]
async fn vendoring_changes_files_and_not_what_is_deployed() {
    let home = Home::new();
    let repository = crate::bad_input::original().await;
    let root = repository.path().to_str().unwrap();
    let objects = async || {
        let json = plan(&home, &["kubeadm-capo", "--repo", root, "--output", "json"]).await.ok().json();
        let parts = json["parts"].as_array().unwrap().clone();
        // What the chart renders and the environment's objects name the revision, which is another one.
        let own = |part: &serde_json::Value| part["by"] != "chart" && part["folder"].is_string();
        let named = |part: &serde_json::Value| part["folder"].as_str().unwrap().contains("management-cluster-configs");
        let telco = |part: &serde_json::Value| part["folder"].as_str().unwrap().contains("telco-cloud-init");
        parts.into_iter().filter(|part| own(part) && !named(part) && !telco(part)).collect::<Vec<_>>()
    };
    let before = objects().await;
    bundle();
    let report = home.run(["vendor", "--repo", root, "--output", "json"]).await.ok().json();
    assert!(report["written"].as_array().unwrap().len() > 20, "{report}");
    let left = report["left"].as_array().unwrap();
    assert!(left.iter().all(|url| url.as_str().unwrap().contains("calico")), "{report}");
    let capi = repository.path().join("kustomize-components/capi");
    let text = cluster_init::fsx::read_text(&capi.join("kustomization.yaml")).unwrap();
    assert!(!text.contains("https://"), "{text}");
    assert_eq!(objects().await, before);
    let again = home.run(["vendor", "--repo", root, "--output", "json"]).await.ok().json();
    assert_eq!(again["written"], serde_json::json!([]));
}
