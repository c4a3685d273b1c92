//! The repository's content: the chart in both phases, its messages, every component, the environments.

use crate::support;

use std::path::{Path, PathBuf};

use cluster_init::bundle::Bundle;
use cluster_init::environment::{Environment, GitSource, PHASES, Publication, Tools, Variables, Variant};
use cluster_init::failure::Failure;
use cluster_init::flux::{self, Chart};
use cluster_init::git::{CommitId, Revision, Tree};
use cluster_init::{fsx, yaml};
use futures::StreamExt;
use serde_json::{Value, json};

/// A commit that stays the same, for snapshots.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct Content {
    bundle: Bundle,
    kustomize: PathBuf,
    helm: PathBuf,
    tree: Tree,
}

impl Content {
    /// The repository as it lies here, and the tools of the suite's bundle.
    fn new() -> Self {
        // By content, hence shared by all tests and all runs.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unpacked");
        let bundle = Bundle::open(&support::bundle(), &cache).unwrap();
        let mut tree = Tree::default();
        for folder in ["charts", "kustomize-components"] {
            read(root(), folder, &mut tree);
        }
        let (kustomize, helm) = (bundle.tool("kustomize").unwrap(), bundle.tool("helm").unwrap());
        Self { bundle, kustomize, helm, tree }
    }

    fn tools(&self) -> Tools<'_> {
        Tools { kustomize: &self.kustomize, helm: &self.helm }
    }

    fn chart(&self) -> Chart {
        Chart::of(&self.tree, &revision(), false).unwrap()
    }

    fn assembled(&self) -> Tree {
        let upstream = |url: &str| Ok(self.bundle.manifest(url)?);
        let components = self.tree.only(&["kustomize-components".into()]);
        flux::assemble_available(&components, &upstream).unwrap_or_else(|error| panic!("{error}")).0
    }

    /// What is published for `local` from here.
    async fn publication(&self) -> Publication {
        let environment = Environment::find(root(), "local").unwrap();
        // No variable of the user's: the environment must need none.
        let variables = Variables::default().with("CURRENT_COMMIT", COMMIT);
        let configuration = environment.configure(&self.kustomize, &variables).await.unwrap();
        Publication {
            revision: revision(),
            source: self.assembled(),
            missing: Vec::new(),
            chart: self.chart(),
            configuration,
            origin: "origin".into(),
            created: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    /// What the chart says to values that are wrong.
    async fn complaint(&self, phase: &'static str, values: &str) -> String {
        let base = json!({"source": "oci", "current_commit": COMMIT}).to_string();
        match self.chart().render(&self.helm, phase, &[&base, values]).await {
            Ok(objects) => panic!("the chart renders {} objects with {values}", objects.len()),
            Err(error) => Failure::from(error).message,
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn revision() -> Revision {
    Revision::Commit(CommitId::new(COMMIT))
}

fn read(root: &Path, path: &str, tree: &mut Tree) {
    let on_disk = root.join(path);
    if on_disk.is_dir() {
        for name in fsx::list(&on_disk).unwrap() {
            read(root, &format!("{path}/{name}"), tree);
        }
    } else {
        tree.insert(path, fsx::read(&on_disk).unwrap());
    }
}

/// Objects as YAML, in order of kind and name.
fn as_yaml(mut objects: Vec<Value>) -> String {
    objects.sort_by_key(|object| (object["kind"].to_string(), object["metadata"]["name"].to_string()));
    objects.iter().map(|object| yaml::to_string(object).unwrap()).collect::<Vec<_>>().join("---\n")
}

fn names(objects: &[Value]) -> Vec<String> {
    let mut names: Vec<String> = objects
        .iter()
        .map(|o| format!("{} {}", o["kind"].as_str().unwrap(), o["metadata"]["name"].as_str().unwrap()))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_chart_renders_both_phases_of_the_local_environment() {
    let content = Content::new();
    let publication = content.publication().await;
    publication.check(content.tools(), &PHASES).await.unwrap();
    for phase in ["bootstrap", "management"] {
        let objects = publication.components(content.tools(), phase).await.unwrap();
        insta::assert_snapshot!(format!("chart_{phase}"), as_yaml(objects));
    }
}

#[tokio::test]
async fn the_release_has_three_variants() {
    let content = Content::new();
    let publication = content.publication().await;
    for variant in [Variant::Bootstrap, Variant::ManagementBeforePivot, Variant::Management] {
        let objects = publication.release(content.tools(), variant).await.unwrap();
        let objects: Vec<Value> = objects.iter().map(|o| serde_json::to_value(o).unwrap()).collect();
        assert!(!as_yaml(objects.clone()).contains("${"), "a variable is left");
        insta::assert_snapshot!(format!("release_{}", variant.folder()), as_yaml(objects));
    }
}

#[tokio::test]
async fn git_sources_have_one_repository_and_one_secret_a_component() {
    let content = Content::new();
    let values = json!({
        "current_commit": COMMIT,
        "git_auth_default": {"username": "me", "password": "p,a=s{s}"},
        "git_repo_templates": {"other": {"spec": {"url": "https://git.example.com/other.git"}, "auth": {"username": "you", "password": "x"}}},
        "components": {
            "capi": {"ref_override": {"branch": "main"}},
            "extra": {"repo": "other", "path": "./deploy", "depends_on": ["capi"]},
        },
    });
    let objects = content.chart().render(&content.helm, "management", &[&values.to_string()]).await.unwrap();
    let find = |kind: &str, name: &str| {
        let found = objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name} in {:?}", names(&objects)))
    };
    assert!(!objects.iter().any(|o| o["kind"] == "OCIRepository"));
    assert_eq!(find("GitRepository", "component-capi")["spec"]["ref"], json!({"branch": "main"}));
    let cluster = find("GitRepository", "component-cluster");
    assert_eq!(cluster["spec"]["url"], "https://github.com/cluster-init/cluster-init.git");
    assert_eq!(cluster["spec"]["ref"], json!({"commit": COMMIT}));
    assert_eq!(cluster["spec"]["secretRef"], json!({"name": "git-auth-repo-component-cluster"}));
    let secret = find("Secret", "git-auth-repo-component-cluster");
    assert_eq!(secret["stringData"], json!({"username": "me", "password": "p,a=s{s}"}));
    assert_eq!(find("Secret", "git-auth-repo-component-extra")["stringData"]["username"], "you");
    assert_eq!(
        find("Kustomization", "extra")["spec"]["sourceRef"],
        json!({"kind": "GitRepository", "name": "component-extra"})
    );
    assert_eq!(find("Kustomization", "extra")["spec"]["path"], "./deploy");
}

#[tokio::test]
async fn a_git_server_serves_the_chart_and_all_components_from_one_commit() {
    let content = Content::new();
    let mut publication = content.publication().await;
    publication.chart = Chart::of(&content.tree, &revision(), true).unwrap();
    publication.configuration.git = Some(GitSource {
        url: "https://git.example.org/site.git".into(),
        branch: "main".into(),
        follow: true,
        ca: "a certificate".into(),
        known_hosts: String::new(),
    });
    publication.check(content.tools(), &PHASES).await.unwrap();
    assert!(publication.packages().unwrap().is_empty());
    let reference = json!({"branch": "main", "commit": COMMIT});
    for variant in [Variant::Bootstrap, Variant::ManagementBeforePivot, Variant::Management] {
        let objects = publication.release(content.tools(), variant).await.unwrap();
        let objects: Vec<Value> = objects.iter().map(|o| serde_json::to_value(o).unwrap()).collect();
        assert_eq!(names(&objects), ["GitRepository telco-cloud-init", "HelmRelease telco-cloud-init"]);
        let source = objects.iter().find(|o| o["kind"] == "GitRepository").unwrap();
        assert_eq!(source["spec"]["ref"], reference);
        assert_eq!(source["spec"]["secretRef"]["name"], "management-cluster-secrets");
        let release = objects.iter().find(|o| o["kind"] == "HelmRelease").unwrap();
        let files = release["spec"]["chart"]["spec"]["valuesFiles"].as_array().unwrap();
        assert!(files.iter().all(|file| content.tree.get(file.as_str().unwrap()).is_some()), "{files:?}");
        assert_eq!(files.len(), if variant == Variant::Bootstrap { 2 } else { 1 });
        let held = release["spec"]["values"]["components"]["cluster"]["enabled"] == "no";
        assert_eq!(held, variant == Variant::ManagementBeforePivot);
    }
    for phase in ["bootstrap", "management"] {
        let objects = publication.components(content.tools(), phase).await.unwrap();
        let sources: Vec<&Value> =
            objects.iter().filter(|o| o["apiVersion"] == "source.toolkit.fluxcd.io/v1").collect();
        assert_eq!(sources.len(), 1, "{:?}", names(&objects));
        assert_eq!(sources[0]["metadata"]["name"], "cluster-init");
        assert_eq!(sources[0]["spec"]["ref"], reference);
        assert!(!names(&objects).iter().any(|name| name.contains("registry") || name.starts_with("Secret")));
    }
    let [pinned, settled] = [publication.objects(), publication.settled()];
    let told = |objects: &[cluster_init::k8s::DynamicObject]| {
        let spec = objects[0].data["data"]["GIT_SPEC"].as_str().unwrap();
        serde_json::from_str::<Value>(spec).unwrap()["ref"].clone()
    };
    assert_eq!(told(&pinned), reference);
    assert_eq!(told(&settled), json!({"branch": "main", "commit": ""}));
}

#[tokio::test]
async fn a_site_s_proxy_mirrors_and_authority_reach_machines_and_flux() {
    let content = Content::new();
    let variable = |name: &str| format!(r#"{{{{ include "telco-cloud-init.{name}" . }}}}"#);
    let helpers = ["kubeadm-files", "kubeadm-commands", "rke2-files", "rke2-commands"];
    let secrets: Value = helpers.iter().map(|name| ((*name).to_owned(), json!(variable(name)))).collect();
    let site = json!({
        "current_commit": COMMIT,
        "proxies": {"http_proxy": "http://proxy:3128", "https_proxy": "http://me:p%40x@proxy:3128", "no_proxy": "10.0.0.0/8, .example.org"},
        "registry_mirrors": {"docker.io": ["https://mirror.example.org"]},
        "ca_certificates": "-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n",
        "git_repo_templates": {"near": {"spec": {"url": "https://git.example.org/a.git"}}, "ssh": {"spec": {"url": "ssh://git@far/a.git"}}},
        "components": {"near": {"repo": "near"}, "ssh": {"repo": "ssh"}, "cluster": {"secrets": secrets}},
    });
    let objects = content.chart().render(&content.helm, "management", &[&site.to_string()]).await.unwrap();
    let find =
        |name: &str| objects.iter().find(|o| o["metadata"]["name"] == name && o["kind"] != "Kustomization").unwrap();
    assert_eq!(find("site-proxy")["stringData"]["address"], "http://me:p%40x@proxy:3128");
    assert_eq!(find("component-capi")["spec"]["proxySecretRef"], json!({"name": "site-proxy"}));
    assert_eq!(find("component-near")["spec"]["proxySecretRef"], Value::Null, "no_proxy names its domain");
    assert_eq!(find("component-ssh")["spec"]["proxySecretRef"], Value::Null);
    let machines = &find("component-cluster-secrets")["stringData"];
    let lists = helpers.map(|name| {
        let list: Value = serde_json::from_str(machines[name].as_str().unwrap()).unwrap();
        (name, list)
    });
    insta::assert_yaml_snapshot!("machines_of_a_site", std::collections::BTreeMap::from(lists));

    let plain = json!({"current_commit": COMMIT, "components": {"cluster": {"secrets": site["components"]["cluster"]["secrets"]}}});
    let objects = content.chart().render(&content.helm, "management", &[&plain.to_string()]).await.unwrap();
    assert!(!objects.iter().any(|o| o["metadata"]["name"] == "site-proxy" || o["spec"]["proxySecretRef"].is_object()));
    let secret = objects.iter().find(|o| o["metadata"]["name"] == "component-cluster-secrets").unwrap();
    let texts = helpers.map(|name| secret["stringData"][name].as_str().unwrap());
    let marked = r#"[{"content":"Set up by cluster-init.\n","path":"/etc/cluster-init","permissions":"0644"}]"#;
    assert_eq!(
        texts,
        [marked, r#"["true"]"#, "[]", "[]"],
        "a site without either asks nothing; kubeadm's lists may not be empty"
    );
}

#[tokio::test]
async fn a_component_may_have_another_revision_of_the_artifact() {
    let content = Content::new();
    let values =
        json!({"source": "oci", "current_commit": COMMIT, "components": {"capi": {"ref_override": {"tag": "v1"}}}});
    let objects = content.chart().render(&content.helm, "management", &[&values.to_string()]).await.unwrap();
    let sources: Vec<&Value> = objects.iter().filter(|o| o["kind"] == "OCIRepository").collect();
    assert_eq!(sources.len(), 2);
    let own = sources.iter().find(|o| o["metadata"]["name"] == "component-capi").unwrap();
    assert_eq!(own["spec"]["ref"], json!({"tag": "v1"}));
}

#[tokio::test]
async fn wrong_values_are_named_by_their_key() {
    let content = Content::new();
    let off = r#"{"enabled": "no"}"#;
    let nothing = format!(
        r#"{{"component_default_enable": "no", "components": {{"flux-system": {off}, "registry": {off}, "telco-cloud-init": {off}}}}}"#
    );
    let cases = [
        (r#"{"phase": "boot"}"#, "phase: value must be one of 'bootstrap', 'management'"),
        (r#"{"source": "svn"}"#, "source: value must be one of 'git', 'oci'"),
        (r#"{"current_commit": ""}"#, "current_commit: empty: it names the artifact to deploy"),
        (
            r#"{"components": {"capi": {"enabled": "maybe"}}}"#,
            r#"components.capi.enabled: unknown value "maybe": use yes, no, bootstrap-only or management-only"#,
        ),
        (
            r#"{"component_default_enable": "maybe"}"#,
            r#"component_default_enable: unknown value "maybe": use yes, no, bootstrap-only or management-only"#,
        ),
        (
            r#"{"components": {"capi": {"repo": "elsewhere"}}}"#,
            r#"components.capi.repo: unknown repository "elsewhere" (known: cluster-init)"#,
        ),
        (
            r#"{"components": {"cert-manger": {"enabled": "no"}}}"#,
            "components.cert-manger.repo: missing: either cert-manger is not the name of a component, or it is a new one and must say its repository",
        ),
        (
            r#"{"components": {"capi": {"depends_on": ["cert-manger"]}}}"#,
            r#"components.capi.depends_on: unknown component "cert-manger" (known: cabpk, cabpr, capd, capi, capi-definitions, capi-local, capo, cert-manager, cluster, cluster-resource-sets, flux-system, local-path-storage, metallb, metallb-pool, orc, providers, registry, telco-cloud-init, workload-cluster)"#,
        ),
        (
            r#"{"components": {"cert-manager": {"enabled": "no"}}}"#,
            r#"components.capi.depends_on: component "cert-manager" is not enabled in phase management: enable it or drop the dependency"#,
        ),
        (
            r#"{"components": {"cert-manager": {"depends_on": ["cluster"]}}}"#,
            "components.capi.depends_on: cycle: capi -> cert-manager -> cluster -> capi",
        ),
        (
            r#"{"components": {"cert-manager": {"depends_on": ["cert-manager"]}}}"#,
            "components.cert-manager.depends_on: cycle: cert-manager -> cert-manager",
        ),
        (&nothing, "components: none is enabled in phase management: the chart renders nothing"),
        (
            r#"{"source": "git", "git_repo_templates": {"cluster-init": {"spec": {"url": "https://x/y.git"}}}}"#,
            "git_repo_templates.cluster-init: both base_url and spec.url are set: keep one",
        ),
        (
            r#"{"source": "git", "git_repo_templates": {"cluster-init": {"base_url": null}}}"#,
            "git_repo_templates.cluster-init: neither base_url nor spec.url is set: set one",
        ),
        (r#"{"compnents": {}}"#, "additional properties 'compnents' not allowed"),
        (
            r#"{"components": {"capi": {"enabld": "no"}}}"#,
            "components.capi: additional properties 'enabld' not allowed",
        ),
        (
            r#"{"components": {"capi": {"depends_on": "cert-manager"}}}"#,
            "components.capi.depends_on: got string, want array",
        ),
    ];
    let complaints = cases.iter().map(|(values, _)| content.complaint("management", values));
    let complaints: Vec<String> = futures::stream::iter(complaints).buffered(4).collect().await;
    for ((values, said), complaint) in cases.iter().zip(complaints) {
        assert_eq!(complaint, format!("chart telco-cloud-init, phase management: {said}"), "{values}");
    }
    // A dependency on a component of the other phase only.
    let said = content.complaint("bootstrap", r#"{"components": {"capi": {"depends_on": ["flux-system"]}}}"#).await;
    assert!(said.contains("flux-system\" is not enabled in phase bootstrap"), "{said}");
}

#[tokio::test]
async fn a_path_that_does_not_exist_is_found_before_anything_is_deployed() {
    let content = Content::new();
    let mut publication = content.publication().await;
    publication.configuration.values = "source: oci\ncomponents: {capi: {path: ./kustomize-components/cpi}}\n".into();
    let error = publication.check(content.tools(), &PHASES).await.unwrap_err();
    assert_eq!(error.to_string(), "components.capi.path: the repository has no folder ./kustomize-components/cpi");
}

#[tokio::test]
async fn every_component_builds_and_has_its_images_in_the_bundle() {
    let content = Content::new();
    let assembled = content.assembled();
    let folders = [
        "flux-system",
        "registry",
        "cert-manager",
        "capi",
        "cabpk",
        "cabpr",
        "capd",
        "capi-local",
        "capo",
        "orc",
        "local-path-storage",
        "metallb",
        "metallb-pool",
        "cluster-resource-sets",
        "management-cluster/local",
        "management-cluster/kubeadm-capd",
        "management-cluster/kubeadm-capo",
        "management-cluster/rke2-capd",
        "management-cluster/rke2-capo",
        "workload-cluster/kubeadm-capd",
        "workload-cluster/local",
        "management-cluster-configs",
        "telco-cloud-init/bootstrap",
        "telco-cloud-init/management-before-pivot",
        "telco-cloud-init/management",
    ];
    // The bundle has manifests only of what runs on a cluster with a network, and the RKE2 providers only when it is for docker.
    let mut without_images = vec!["capo", "orc", "metallb"];
    if content.bundle.entries().unwrap().iter().all(|entry| entry.part != "node") {
        without_images.extend(["cabpr", "local-path-storage"]);
    }
    let rendered = flux::render(&content.kustomize, &assembled, &folders).await.unwrap();
    for component in &rendered {
        assert!(!component.objects.is_empty(), "{} is empty", component.component);
        for object in &component.objects {
            let text = serde_json::to_string(object).unwrap();
            let name = cluster_init::k8s::reference(object);
            // Flux replaces variables in these only; Cluster API's manifests have a default for each. Descriptions may hold what they like.
            let replaced = [
                "capi",
                "cabpk",
                "cabpr",
                "capd",
                "capo",
                "management-cluster-configs",
                "management-cluster",
                "metallb-pool",
                "telco-cloud-init",
                "workload-cluster",
            ];
            let described = name.kind == "CustomResourceDefinition";
            if !described && !replaced.iter().any(|folder| component.component.split('/').next() == Some(folder)) {
                assert!(!text.contains("${"), "{name} of {} holds a variable", component.component);
            }
            if component.component.starts_with("ca") && replaced.contains(&component.component.as_str()) {
                let open = text.split("${").skip(1).filter(|rest| !rest.split('}').next().unwrap().contains(":="));
                assert_eq!(open.count(), 0, "{name} holds a variable without a default");
            }
            if without_images.contains(&component.component.as_str()) {
                continue;
            }
            for image in images(&serde_json::to_value(object).unwrap()) {
                content.bundle.image(&image).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
}

/// The images of a workload's containers.
fn images(object: &Value) -> Vec<String> {
    let pod = object.pointer("/spec/template/spec");
    let containers = ["containers", "initContainers"].map(|field| pod.and_then(|pod| pod[field].as_array()));
    let all = containers.into_iter().flatten().flatten();
    all.filter_map(|container| container["image"].as_str()).map(str::to_owned).collect()
}
