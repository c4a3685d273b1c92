use jiff::Timestamp;

use super::*;
use crate::backend::MIRROR;
use crate::bootstrap::Makes;
use crate::cleanup::seen::{Container, Contents, Daemon, Network, Node, Other, Run, Seen, Volume};
use crate::environment::{Backend, Machines};
use crate::node::Role;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + minute * 60).unwrap()
}

/// A run from one minute to another, which came to make machines a minute after its beginning.
fn run(id: &str, minutes: (i64, i64), infrastructure: &str) -> Run {
    let machines = if infrastructure == "DockerCluster" { Machines::Docker } else { Machines::Any };
    Run {
        id: id.into(),
        folder: format!("/home/runs/e/{id}"),
        from: at(minutes.0),
        until: at(minutes.1),
        makes: Some(Makes {
            cluster: "c".into(),
            machines,
            backend: Backend::Local,
            infrastructure: Some(infrastructure.into()),
        }),
        released: Some(at(minutes.0 + 1)),
        handed_over: false,
        kubeconfig: false,
    }
}

fn node(name: &str, cluster: &str, role: Role, owner: &str) -> Node {
    let folder = format!("/home/nodes/{name}");
    Node { name: name.into(), folder, cluster: cluster.into(), role, owner: owner.into() }
}

fn machine(name: &str, minute: i64) -> Container {
    let (id, role) = (format!("id-{name}"), if name.contains("plane") { "control-plane" } else { "worker" });
    Container {
        id,
        name: name.into(),
        created: Some(at(minute)),
        cluster: Some("c".into()),
        role: Some(role.into()),
        ..Container::default()
    }
}

fn mirror() -> Container {
    let (id, name) = ("id-mirror".into(), MIRROR.into());
    Container { id, name, label: Some("mirror".into()), mounts_mirror: true, ..Container::default() }
}

fn network(label: Option<&str>, containers: &[&str]) -> Network {
    Network {
        id: "net".into(),
        name: "kind".into(),
        created: Some(at(0)),
        label: label.map(str::to_owned),
        containers: containers.iter().map(|id| (*id).to_owned()).collect(),
    }
}

fn seen(runs: Vec<Run>) -> Seen {
    Seen { environment: "e".into(), home: "/home".into(), now: at(100), runs, ..Seen::default() }
}

fn docker(contents: Contents) -> Daemon {
    Daemon::Answers(Contents { place: "docker".into(), ..contents })
}

/// One line an object, as it is shown.
fn lines(seen: &Seen) -> Vec<String> {
    let line = |item: Item| {
        let fate = match item.fate {
            Fate::Goes { stage } => format!("{stage:?}"),
            other => format!("{other:?}"),
        };
        format!("{fate}: {}: {}", item.object, item.why)
    };
    plan(seen).into_iter().map(line).collect()
}

#[test]
fn nothing_is_nothing() {
    assert_eq!(lines(&seen(Vec::new())), Vec::<String>::new());
}

#[test]
fn those_who_make_things_go_first() {
    let mut seen = seen(vec![run("r1", (0, 9), "LocalCluster")]);
    seen.nodes = vec![
        node("c-md-0-x", "c", Role::Worker, "machine default/c-md-0-x"),
        node("w-md-0-x", "w", Role::ControlPlane, "machine default/w-md-0-x"),
        node("c-plane", "c", Role::ControlPlane, "machine default/c-plane"),
        node("e-bootstrap", "e-bootstrap", Role::ControlPlane, "bootstrap e"),
        node("mine", "mine", Role::ControlPlane, "local create"),
    ];
    seen.halves = vec!["c-plane-2".into(), "mine-2".into()];
    seen.live.insert("w".into(), "bootstrap");
    assert_eq!(
        lines(&seen),
        [
            "BootstrapCluster: node e-bootstrap: made by bootstrap e",
            "ControlPlanes: node c-plane: of cluster c, which run r1 was making",
            "Machines: node c-md-0-x: of cluster c, which run r1 was making",
            "Machines: node w-md-0-x: of cluster w, which is on the bootstrap cluster",
            "Storage: folder of node c-plane-2: a node of this name was made or deleted half, and nothing runs in it",
            "Records: run r1: not gone on with any more; its logs stay to be read",
        ]
    );
}

#[test]
fn what_others_made_stays() {
    let mut seen = seen(vec![run("r1", (0, 9), "LocalCluster")]);
    seen.nodes = vec![
        node("e-bootstrap", "e-bootstrap", Role::ControlPlane, "local create"),
        node("c", "c", Role::ControlPlane, "local create"),
        node("c-plane", "c", Role::ControlPlane, "machine default/c-plane"),
    ];
    let other = |minutes| Other { name: "f".into(), docker: false, runs: vec![run("r2", minutes, "LocalCluster")] };
    // It began when this environment's run had ended, and found no such cluster then.
    seen.others = vec![other((20, 30))];
    assert_eq!(
        lines(&seen)[1..],
        [
            "Stays: node e-bootstrap: made by local create, not by a bootstrap of e",
            "Stays: node c: made by local create, and no machine of Cluster API's",
            "Stays: node c-plane: of cluster c, which environment f made later",
        ]
    );
    // It was over before.
    seen.others = vec![other((-20, -10))];
    assert!(lines(&seen)[0].starts_with("ControlPlanes: node c-plane"), "{:?}", lines(&seen));
    // At the same time: nobody can tell, and the run stays to be asked.
    seen.others = vec![other((5, 30))];
    let all = lines(&seen);
    assert_eq!(all[0], "Remains: node c-plane: of cluster c, which environment f was making at the same time");
    assert!(all.contains(&"Stays: run r1: it tells what is its own, as long as something remains".to_owned()));
}

#[test]
fn machines_that_nobody_knows_are_told_and_left() {
    let mut seen = seen(vec![run("r1", (0, 9), "LocalCluster")]);
    seen.nodes = vec![node("w-1", "w", Role::Worker, "machine default/w-1")];
    assert_eq!(lines(&seen)[0], "Remains: node w-1: of cluster w: nothing says that e made that");
    assert_eq!(plan(&seen)[0].remedy.as_deref(), Some("cluster-init local delete w"));
    // Another environment may have made it.
    seen.others = vec![Other { name: "f".into(), docker: false, runs: Vec::new() }];
    assert!(lines(&seen).contains(&"Stays: node w-1: of cluster w: nothing says that e made that".to_owned()));
}

#[test]
fn machines_in_containers_go_when_a_run_has_seen_them_or_was_making_them() {
    let mut seen = seen(vec![run("r1", (0, 9), "DockerCluster")]);
    let (mut known, mut theirs) = (machine("c-plane", 3), machine("d-1", 3));
    known.known = Some("e".into());
    theirs.cluster = Some("d".into());
    let contents = |containers: &[Container]| Contents {
        containers: containers.to_vec(),
        volumes: vec![Volume { name: MIRROR.into(), ..Volume::default() }],
        networks: vec![network(Some("network"), &["id-c-plane", "id-mirror"])],
        ..Contents::default()
    };
    seen.daemon = docker(contents(&[known.clone(), machine("c-md", 4), mirror()]));
    seen.addresses = Some("/home/docker/e.json".into());
    assert_eq!(
        lines(&seen),
        [
            "ControlPlanes: container c-plane: a machine of cluster c, seen by a run of e",
            "Machines: container c-md: a machine of cluster c, as c-plane, which a run of e has seen",
            "Shared: container cluster-init-mirror: its label says that it is the registry beside the machines, and no machine is left",
            "Shared: volume cluster-init-mirror: the registry's images",
            "Shared: network kind: its label says that cluster-init made it for machines, and none is left",
            "Records: addresses of its containers: a file of this home",
            "Records: run r1: not gone on with any more; its logs stay to be read",
        ]
    );
    // A machine of anybody's keeps what is shared, and is none of our business.
    seen.daemon = docker(contents(&[known, theirs, mirror()]));
    assert_eq!(
        lines(&seen)[3..],
        [
            "Stays: container cluster-init-mirror: container d-1 of cluster d may use it",
            "Stays: volume cluster-init-mirror: container d-1 of cluster d may use it",
            "Stays: network kind: container d-1 of cluster d may use it",
        ]
    );
    // Nobody has seen it, but it was made since the run had the cluster made.
    seen.daemon = docker(contents(&[machine("c-md", 4)]));
    assert_eq!(lines(&seen)[0], "Machines: container c-md: a machine of cluster c, which run r1 was making");
    // It was there before: it has the name of the cluster, and no more.
    seen.daemon = docker(contents(&[machine("c-md", 0)]));
    let first = plan(&seen).remove(0);
    assert_eq!((first.fate, first.object.as_str()), (Fate::Remains, "container c-md"));
    assert_eq!(first.remedy.as_deref(), Some("if nobody needs it: docker rm --force --volumes c-md"));
    // Another environment of this home has seen its like.
    let mut sibling = machine("c-plane", 3);
    sibling.known = Some("f".into());
    seen.daemon = docker(contents(&[sibling, machine("c-md", 4)]));
    assert!(plan(&seen).iter().all(|item| !item.goes_at(Stage::Machines)), "{:?}", lines(&seen));
}

#[test]
fn a_kind_cluster_is_ours_by_its_volume_only() {
    let mut seen = seen(Vec::new());
    seen.kind_files = true;
    let node = Container { cluster: Some("e-bootstrap".into()), ..machine("e-bootstrap-plane", 3) };
    let volume = |home: &str| Volume {
        name: "e-bootstrap-certs.d".into(),
        label: Some("certs.d".into()),
        home: Some(home.into()),
    };
    let contents = |ours: bool, home: &str| Contents {
        containers: vec![node.clone()],
        volumes: vec![volume(home)],
        bootstrap_is_ours: ours,
        ..Contents::default()
    };
    seen.daemon = docker(contents(true, "/home"));
    assert_eq!(
        lines(&seen),
        [
            "BootstrapCluster: container e-bootstrap-plane: a node of kind cluster e-bootstrap, which mounts a volume with this home",
            "Storage: volume e-bootstrap-certs.d: its label names this home",
            "Storage: files of kind cluster e-bootstrap: files of this home",
        ]
    );
    seen.daemon = docker(contents(false, "/elsewhere"));
    assert_eq!(
        lines(&seen)[1..],
        [
            "Stays: container e-bootstrap-plane: of kind cluster e-bootstrap, which was not made from this home",
            "Stays: volume e-bootstrap-certs.d: no label of it names this home",
        ]
    );
}

#[test]
fn what_is_shared_stays_as_long_as_another_environment_uses_it() {
    let mut seen = seen(Vec::new());
    let all = |label, containers: &[&str]| {
        docker(Contents {
            containers: vec![mirror()],
            networks: vec![network(label, containers)],
            ..Contents::default()
        })
    };
    seen.daemon = all(Some("network"), &["id-mirror"]);
    seen.others = vec![Other { name: "f".into(), docker: true, runs: Vec::new() }];
    assert!(lines(&seen).iter().all(|line| line.ends_with("environment f uses it")), "{:?}", lines(&seen));
    seen.others[0].docker = false;
    assert_eq!(plan(&seen).iter().filter(|item| item.goes_at(Stage::Shared)).count(), 2);
    seen.daemon = all(Some("network"), &["id-mirror", "id-web"]);
    assert!(lines(&seen).contains(&"Stays: network kind: container id-web is in it".to_owned()));
    seen.daemon = all(None, &[]);
    let said = "Stays: network kind: it has no label of ours: kind makes one of this name, too";
    assert!(lines(&seen).contains(&said.to_owned()), "{:?}", lines(&seen));
}

#[test]
fn what_was_made_to_look_goes_when_nobody_looks_any_more() {
    let mut seen = seen(Vec::new());
    let look = |minute| Container { label: Some("look".into()), cluster: None, ..machine("x", minute) };
    seen.daemon = docker(Contents { containers: vec![look(98)], ..Contents::default() });
    assert!(plan(&seen)[0].goes());
    seen.daemon = docker(Contents { containers: vec![look(100)], ..Contents::default() });
    assert_eq!(plan(&seen)[0].fate, Fate::Stays);
}

#[test]
fn a_daemon_that_is_silent_leaves_something_to_be_looked_at() {
    let mut seen = seen(vec![run("r1", (0, 9), "DockerCluster")]);
    seen.kind_files = true;
    seen.daemon = Daemon::Silent("it does not answer".into());
    assert_eq!(
        lines(&seen),
        [
            "Remains: what its runs left there: not looked for: it does not answer",
            "Stays: files of kind cluster e-bootstrap: they tell whose the cluster is, as long as docker does not answer",
            "Stays: run r1: it tells what is its own, as long as something remains",
        ]
    );
}

#[test]
fn a_cloud_is_told_of_and_the_run_is_closed_all_the_same() {
    let mut seen = seen(vec![run("r1", (0, 9), "OpenStackCluster")]);
    seen.nodes = vec![node("e-bootstrap", "e-bootstrap", Role::ControlPlane, "bootstrap e")];
    let items = plan(&seen);
    assert_eq!(items.len(), 3);
    let remains = items.iter().find(|item| item.fate == Fate::Remains).unwrap();
    assert_eq!((remains.place.as_str(), remains.object.as_str()), ("OpenStack", "what run r1 made there"));
    assert!(remains.why.contains("k8s-clusterapi-cluster-default-c,"), "{}", remains.why);
    let Some(Target::Run { remains, .. }) = &items[1].target else { panic!("{items:?}") };
    assert_eq!(remains.len(), 1, "told again by the next cleanup");
    // It had not come so far.
    seen.runs[0].released = None;
    assert!(plan(&seen).iter().all(Item::goes));
    // A cleanup before this one did not look, and no run has begun since.
    seen.runs.clear();
    seen.nodes.clear();
    seen.unseen = Some(("/home/runs/e/r1".into(), vec!["it is in the cloud".into()]));
    assert_eq!(lines(&seen), ["Remains: what an earlier run made elsewhere: it is in the cloud"]);
}

#[test]
fn a_management_cluster_that_manages_itself_is_told_from_a_broken_one() {
    let mut seen = seen(vec![run("r1", (0, 9), "LocalCluster")]);
    seen.nodes = vec![node("c-plane", "c", Role::ControlPlane, "machine default/c-plane")];
    assert!(self_managed(&seen, &plan(&seen)).is_none());
    seen.runs[0].handed_over = true;
    assert_eq!(self_managed(&seen, &plan(&seen)).unwrap().id, "r1");
    // Somebody has deleted it.
    seen.nodes.clear();
    assert!(self_managed(&seen, &plan(&seen)).is_none());
    // Nobody can see whether it is there.
    seen.runs = vec![Run { handed_over: true, ..run("r2", (0, 9), "OpenStackCluster") }];
    assert_eq!(self_managed(&seen, &plan(&seen)).unwrap().id, "r2");
}
