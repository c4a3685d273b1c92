//! The scenarios that Cluster API's own tests of a move have, as worlds of our own with the groups that are expected.

use super::*;

const BOOTSTRAP: &str = "bootstrap.cluster.x-k8s.io/v1beta2";
const CONTROL_PLANE: &str = "controlplane.cluster.x-k8s.io/v1beta2";
const ADDONS: &str = "addons.cluster.x-k8s.io/v1beta2";

impl World {
    fn cluster(self, name: &str) -> Self {
        let (infra, ca, kubeconfig) = (format!("{name}-infra"), format!("{name}-ca"), format!("{name}-kubeconfig"));
        self.add(CLUSTER, "Cluster", name, &[])
            .add(INFRA, "LocalCluster", &infra, &[name])
            .add("v1", "Secret", &ca, &[])
            .add("v1", "Secret", &kubeconfig, &[name])
    }

    fn machine(self, name: &str, owner: &str) -> Self {
        let (config, data) = (format!("{name}-config"), format!("{name}-data"));
        self.machine_with_static_bootstrap(name, owner).add(BOOTSTRAP, "KubeadmConfig", &config, &[name]).add(
            "v1",
            "Secret",
            &data,
            &[&config],
        )
    }

    fn machine_with_static_bootstrap(self, name: &str, owner: &str) -> Self {
        let infra = format!("{name}-infra");
        self.add(CLUSTER, "Machine", name, &[owner]).add(INFRA, "LocalMachine", &infra, &[name])
    }

    fn class(self, name: &str) -> Self {
        let template = format!("{name}-template");
        self.add(CLUSTER, "ClusterClass", name, &[]).add(INFRA, "LocalClusterTemplate", &template, &[name])
    }

    fn of_class(self, cluster: &str, class: &str) -> Self {
        self.edit(cluster, |o| o.data["spec"] = json!({"topology": {"classRef": {"name": class}}}))
    }

    fn labelled(self, name: &str) -> Self {
        self.edit(name, |o| o.metadata.labels = Some([(MOVE.to_owned(), String::new())].into()))
    }
}

/// `a b | c d`: groups of names.
fn groups(world: &World) -> String {
    world.groups().iter().map(|group| group.join(" ")).collect::<Vec<_>>().join(" | ")
}

#[test]
fn upstreams_scenarios_have_the_groups_that_are_expected() {
    let new = World::default;
    let cases: [(&str, World, &str); 17] = [
        ("cluster", new().cluster("c"), "c | c-ca c-infra c-kubeconfig"),
        (
            "cluster with a class",
            new().class("k").cluster("c").of_class("c", "k"),
            "k | c k-template | c-ca c-infra c-kubeconfig",
        ),
        ("an unused class", new().class("k").cluster("c"), "c k | c-ca c-infra c-kubeconfig k-template"),
        (
            "machine",
            new().cluster("c").machine("m", "c"),
            "c | c-ca c-infra c-kubeconfig m | m-config m-infra | m-data",
        ),
        (
            "machine set",
            new().cluster("c").add(CLUSTER, "MachineSet", "ms", &["c"]).machine("m", "ms"),
            "c | c-ca c-infra c-kubeconfig ms | m | m-config m-infra | m-data",
        ),
        (
            "machine deployment",
            new()
                .cluster("c")
                .add(CLUSTER, "MachineDeployment", "md", &["c"])
                .add(CLUSTER, "MachineSet", "ms", &["md"])
                .machine("m", "ms"),
            "c | c-ca c-infra c-kubeconfig md | ms | m | m-config m-infra | m-data",
        ),
        (
            "machine deployment with static bootstrap",
            new()
                .cluster("c")
                .add(CLUSTER, "MachineDeployment", "md", &["c"])
                .add(CLUSTER, "MachineSet", "ms", &["md"])
                .machine_with_static_bootstrap("m", "ms"),
            "c | c-ca c-infra c-kubeconfig md | ms | m | m-infra",
        ),
        (
            "control plane",
            new()
                .cluster("c")
                .add(CONTROL_PLANE, "KubeadmControlPlane", "cp", &["c"])
                .add("v1", "Secret", "c-sa", &["cp"])
                .machine("m", "cp"),
            "c | c-ca c-infra c-kubeconfig cp | c-sa m | m-config m-infra | m-data",
        ),
        (
            "machine pool",
            new()
                .cluster("c")
                .add(CLUSTER, "MachinePool", "mp", &["c"])
                .add(INFRA, "LocalMachinePool", "mp-infra", &["mp"])
                .add(BOOTSTRAP, "KubeadmConfig", "mp-config", &["mp"])
                .add("v1", "Secret", "mp-data", &["mp-config"]),
            "c | c-ca c-infra c-kubeconfig mp | mp-config mp-infra | mp-data",
        ),
        ("two clusters", new().cluster("a").cluster("b"), "a b | a-ca a-infra a-kubeconfig b-ca b-infra b-kubeconfig"),
        (
            "two clusters that share an object",
            new().cluster("a").cluster("b").add(INFRA, "Template", "shared", &["a", "b"]),
            "a b | a-ca a-infra a-kubeconfig b-ca b-infra b-kubeconfig shared",
        ),
        (
            "a resource set that was applied",
            new()
                .cluster("c")
                .add(ADDONS, "ClusterResourceSet", "crs", &[])
                .add("v1", "Secret", "resource-1", &["crs"])
                .add("v1", "ConfigMap", "resource-2", &["crs"])
                .add(ADDONS, "ClusterResourceSetBinding", "binding", &["crs"])
                .edit("binding", |o| o.data["spec"] = json!({"clusterName": "c"})),
            "c crs | binding c-ca c-infra c-kubeconfig resource-1 resource-2",
        ),
        (
            "two clusters of two classes",
            new().class("k1").class("k2").cluster("a").cluster("b").of_class("a", "k1").of_class("b", "k2"),
            "k1 k2 | a b k1-template k2-template | a-ca a-infra a-kubeconfig b-ca b-infra b-kubeconfig",
        ),
        (
            "two clusters of one class",
            new().class("k").cluster("a").cluster("b").of_class("a", "k").of_class("b", "k"),
            "k | a b k-template | a-ca a-infra a-kubeconfig b-ca b-infra b-kubeconfig",
        ),
        (
            "an external object that is labelled to move, and a global one",
            new().cluster("c").add(INFRA, "External", "external", &[]).labelled("external").add(
                INFRA,
                "GlobalExternal",
                "global",
                &[],
            ),
            "[global] c external | c-ca c-infra c-kubeconfig",
        ),
        (
            "a credential that a cluster owns",
            new().cluster("c").add("v1", "Secret", "credential", &["c"]).add("v1", "Secret", "c-credential", &[]),
            "c | c-ca c-infra c-kubeconfig credential",
        ),
        (
            "a global identity with its Secret in the provider's namespace",
            new()
                .cluster("c")
                .add(INFRA, "GlobalIdentity", "identity", &[])
                .add("v1", "Secret", "password", &["identity"])
                .edit("password", |o| o.metadata.namespace = Some("provider-system".into())),
            "[identity] c | [password] c-ca c-infra c-kubeconfig",
        ),
    ];
    for (name, world, expected) in cases {
        assert_eq!(groups(&world), expected, "{name}");
        world.plan().check().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn what_is_paused_is_refused() {
    let annotated = |o: &mut DynamicObject| {
        o.metadata.annotations = Some([(PAUSED.to_owned(), String::new())].into());
    };
    let paused = |o: &mut DynamicObject| o.data["spec"]["paused"] = json!(true);
    for (name, world) in [
        ("c", World::default().cluster("c").edit("c", paused)),
        ("c", World::default().cluster("c").edit("c", annotated)),
        ("k", World::default().class("k").edit("k", annotated)),
    ] {
        assert_eq!(world.why(name), "somebody else paused it");
        world.plan().check().unwrap_err();
    }
}

/// When a Cluster counts as provisioned.
#[test]
fn what_is_not_provisioned_is_refused() {
    let initialization = |infrastructure: bool, control_plane: bool| {
        move |o: &mut DynamicObject| {
            o.data["spec"] = json!({"controlPlaneRef": {"name": "cp"}});
            o.data["status"]["initialization"] =
                json!({"infrastructureProvisioned": infrastructure, "controlPlaneInitialized": control_plane});
        }
    };
    let why = |edit: &dyn Fn(&mut DynamicObject)| World::default().cluster("c").edit("c", edit).why("c");
    assert_eq!(why(&initialization(true, true)), "Move { group: 0 }");
    assert_eq!(why(&initialization(false, true)), "its infrastructure is not provisioned");
    assert_eq!(why(&initialization(true, false)), "its control plane is not initialized");
    assert_eq!(why(&|o| o.data["status"]["conditions"] = json!([])), "its control plane is not initialized");
    let no_node = World::default().cluster("c").machine("m", "c").edit("m", |o| o.data["status"] = json!({}));
    assert_eq!(no_node.why("m"), "it has no Node yet");
}
