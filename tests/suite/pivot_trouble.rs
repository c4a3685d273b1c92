//! Pivots that somebody disturbs: a change at the wrong moment, a second pivot, a source that must be as it was.

use std::time::Duration;

use cluster_init::clock::{Look, Wait};
use cluster_init::exec;
use cluster_init::fsx;
use cluster_init::k8s::{Cluster, DynamicObject, ObjectRef, reference};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::arena::{Arena, WORKERS, state};
use crate::story::until;
use crate::{kill_matrix, newborn, seed};

#[tokio::test(flavor = "multi_thread")]
async fn pivots_that_are_disturbed_lose_nothing() {
    let arena = Arena::new().await;
    newborn::is_introduced(&arena.clusters[0]).await;
    seed::populate(&arena.clusters[0], WORKERS).await;
    what_is_changed_after_the_point_of_no_return_is_not_deleted(&arena).await;
    a_second_pivot_is_refused_and_an_interruption_leaves_no_trace(&arena).await;
    a_pivot_is_taken_over_when_its_host_is_silent(&arena).await;
    what_changes_before_the_point_of_no_return_is_followed(&arena).await;
    a_target_that_is_full_does_not_hold_the_source(&arena).await;
    a_webhook_that_refuses_is_met_before_anything_is_touched(&arena).await;
    providers_are_stopped_and_started_again(&arena).await;
    seed::clear(&arena.clusters[0]).await;
    kill_matrix::sample(&arena).await;
    arena.end().await;
}

fn machine(name: &str) -> ObjectRef {
    ObjectRef::namespaced("cluster.x-k8s.io/v1beta2", "Machine", "default", name)
}

async fn what_is_changed_after_the_point_of_no_return_is_not_deleted(arena: &Arena) {
    let [source, target] = &arena.clusters;
    let before = state(source).await;
    assert!(arena.kill(0, "outcome:pivot:commit:after").await);
    assert_eq!(state(source).await.len(), before.len(), "nothing is deleted yet");

    let label = |value: Value| json!({"metadata": {"labels": {"late": value}}});
    source.merge(&machine("big-md-0"), &label(json!("yes"))).await.unwrap();
    let refused = arena.run(0).await;
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("Machine default/big-md-0 was changed on the source cluster after its copy was verified: metadata.labels.late"),
        "{}",
        refused.stderr
    );
    assert_eq!(state(source).await.len(), before.len(), "nothing is deleted");
    let backwards = arena.run(1).await;
    assert_eq!(backwards.code, 7, "{}", backwards.stderr);
    assert!(backwards.stderr.contains("another pivot has not ended: pivot "), "{}", backwards.stderr);

    // The same change on the copy: nothing is lost any more.
    target.merge(&machine("big-md-0"), &label(json!("yes"))).await.unwrap();
    arena.run(0).await.ok();
    assert_eq!(state(source).await.len(), 0);
    assert_eq!(state(target).await.len(), before.len());
}

async fn a_second_pivot_is_refused_and_an_interruption_leaves_no_trace(arena: &Arena) {
    let [target, source] = &arena.clusters;
    arena.block(1, true).await;
    let before = everything(source).await;
    let log = arena.home.path().join("first.log");
    let mut first = arena.held(1, &log).await;

    let second = arena.run(1).await;
    assert_eq!(second.code, 3, "{}", second.stderr);
    let pid = first.pid().unwrap();
    assert!(second.stderr.contains("a pivot between these clusters is already running: pivot "), "{}", second.stderr);
    assert!(second.stderr.contains(&format!("copying, of process {pid} on ")), "{}", second.stderr);

    exec::signal(pid, Signal::INT);
    let status = tokio::time::timeout(Duration::from_mins(1), first.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(5), "interrupted");
    assert_eq!(state(target).await.len(), 0, "no copy is left");
    let after = everything(source).await;
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old, new, "the source is exactly as it was");
    }
    assert_eq!(before.len(), after.len());
    arena.block(1, false).await;
}

/// A pivot is frozen, and its record says that it runs on another host: as long as that one shows signs of life it is
/// left alone, then it is taken over; the frozen one may not take anything back when it wakes.
async fn a_pivot_is_taken_over_when_its_host_is_silent(arena: &Arena) {
    let [target, source] = &arena.clusters;
    arena.block(1, true).await;
    let (before, whole) = (state(source).await, everything(source).await);
    let log = arena.home.path().join("frozen.log");
    let mut frozen = arena.held(1, &log).await;
    exec::signal(frozen.pid().unwrap(), Signal::STOP);
    let record = ObjectRef::namespaced("v1", "ConfigMap", "default", "cluster-init-pivot");
    let holder = json!({"host": "elsewhere", "pid": 1, "started": 1, "place": "another"}).to_string();
    for cluster in [source, target] {
        cluster.merge(&record, &json!({"data": {"holder": holder}})).await.unwrap();
    }
    let mut beat = 0;
    let beats = Wait::new("the second pivot to look", Duration::from_mins(1)).every(Duration::from_millis(500));
    let beats = beats.until(async || {
        beat += 1;
        source.merge(&record, &json!({"data": {"pulse": format!("beat {beat}")}})).await?;
        Ok(Look::<()>::Pending("it lives".into()))
    });
    let second = tokio::select! {
        second = arena.run_elsewhere(1) => second,
        ended = beats => panic!("{ended:?}"),
    };
    assert_eq!(second.code, 3, "{}", second.stderr);
    assert!(second.stderr.contains("copying, of process 1 on elsewhere"), "{}", second.stderr);

    exec::signal(frozen.pid().unwrap(), Signal::INT);
    exec::signal(frozen.pid().unwrap(), Signal::CONT);
    tokio::time::timeout(Duration::from_mins(1), frozen.wait()).await.unwrap().unwrap();
    let said = fsx::read_text(&log).unwrap();
    assert!(said.contains("rolling back did not succeed (another pivot has not ended: pivot "), "{said}");
    assert_ne!(everything(source).await, whole, "it is still paused: the other one works on it");

    arena.block(1, false).await;
    arena.run_elsewhere(1).await.ok();
    assert_eq!(state(source).await.len(), 0);
    assert_eq!(state(target).await.len(), before.len());
    arena.move_from(0).await;
}

/// A pivot died when everything was copied; until it goes on, somebody adds, removes and changes objects on the source.
async fn what_changes_before_the_point_of_no_return_is_followed(arena: &Arena) {
    let [target, source] = &arena.clusters;
    assert!(arena.kill(1, "outcome:pivot:copy:after").await);
    let secret = |name: &str| ObjectRef::namespaced("v1", "Secret", "default", name);
    let gone = source.get(&secret("big-extra-0")).await.unwrap().unwrap();
    source.delete(&reference(&gone), &kube::api::DeleteParams::default()).await.unwrap();
    let mut added = gone.clone();
    added.metadata = kube::api::ObjectMeta {
        name: Some("big-extra-2".into()),
        namespace: gone.metadata.namespace,
        owner_references: gone.metadata.owner_references,
        ..kube::api::ObjectMeta::default()
    };
    source.apply(&added).await.unwrap();
    source.merge(&machine("big-md-0"), &json!({"metadata": {"labels": {"early": "yes"}}})).await.unwrap();
    let before = state(source).await;

    // A copy that is not what its source is any more ends this attempt, without a trace.
    let refused = arena.run(1).await;
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let said = "the copy of Machine default/big-md-0 differs from its source: it was changed after it was copied: metadata.labels.early";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    assert_eq!(state(target).await.len(), 0, "no copy is left");

    // Without it, what was added is copied, and what is gone stays gone.
    assert!(arena.kill(1, "outcome:pivot:copy:after").await);
    source.delete(&reference(&added), &kube::api::DeleteParams::default()).await.unwrap();
    let mut again = added.clone();
    again.metadata.name = Some("big-extra-0".into());
    source.apply(&again).await.unwrap();
    arena.run(1).await.ok();
    let after = state(target).await;
    assert_eq!(state(source).await.len(), 0);
    assert!(after.contains_key(&secret("big-extra-0")) && !after.contains_key(&secret("big-extra-2")));
    assert_eq!(after.len(), before.len());
    arena.move_from(0).await;
}

/// Whole objects, but for what counts their writes.
async fn everything(cluster: &Cluster) -> Vec<Value> {
    let found = cluster_init::capi::discover(cluster).await.unwrap();
    let whole = |object: &DynamicObject| {
        let mut object = object.clone();
        object.metadata.resource_version = None;
        object.metadata.generation = None;
        serde_json::to_value(&object).unwrap()
    };
    let of_the_test = |object: &&DynamicObject| {
        let name = reference(object);
        name.namespace.as_deref() == Some("default") && name.name != "cluster-init-pivot"
    };
    found.objects().filter(of_the_test).map(whole).collect()
}

async fn a_webhook_that_refuses_is_met_before_anything_is_touched(arena: &Arena) {
    let [target, source] = &arena.clusters;
    let before = everything(source).await;
    // Nobody answers there, which refuses every Machine; a policy says so at once.
    let policy: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-machines"},
        "spec": {"failurePolicy": "Fail", "validations": [{"expression": "false", "message": "no machines here"}],
            "matchConstraints": {"resourceRules": [{"apiGroups": ["cluster.x-k8s.io"], "apiVersions": ["*"],
                "operations": ["CREATE"], "resources": ["machines"]}]}}}))
    .unwrap();
    let binding: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-machines"}, "spec": {"policyName": "no-machines", "validationActions": ["Deny"]}}))
    .unwrap();
    target.apply(&policy).await.unwrap();
    target.apply(&binding).await.unwrap();
    let mut refused = arena.run(1).await;
    // A policy takes effect a moment after it was made: until then the move succeeds, or is rolled back.
    for _ in 0..20 {
        match refused.code {
            7 => break,
            0 => {
                arena.run(0).await.ok();
            }
            _ => assert!(refused.stderr.contains("denied request: no machines here"), "{}", refused.stderr),
        }
        refused = arena.run(1).await;
    }
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(refused.stderr.contains("the target refuses it"), "{}", refused.stderr);
    assert!(refused.stderr.contains("no machines here"), "{}", refused.stderr);
    assert_eq!(everything(source).await.len(), before.len());
    assert_eq!(state(target).await.len(), 0);
    for object in [&binding, &policy] {
        target.delete(&reference(object), &kube::api::DeleteParams::default()).await.unwrap();
    }
    // It holds a moment longer than it is there: what comes next moves Machines.
    let name = ObjectRef::namespaced("cluster.x-k8s.io/v1beta2", "Machine", "default", "big-cp-2");
    let mut machine = source.get(&name).await.unwrap().unwrap();
    machine.metadata = serde_json::from_value(json!({"name": "probe", "namespace": "default"})).unwrap();
    until("end of the policy", async || match target.dry_run(&machine, "test", false).await {
        Ok(_) => true,
        Err(error) => {
            let said = cluster_init::failure::Failure::from(error).chain().join(": ");
            assert!(said.contains("no machines here"), "{said}");
            false
        }
    })
    .await;
}

async fn providers_are_stopped_and_started_again(arena: &Arena) {
    let [target, source] = &arena.clusters;
    let before = state(source).await;
    let labels = json!({"cluster.x-k8s.io/provider": "cluster-api"});
    let deployment: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "manager", "namespace": "default", "labels": labels},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "manager"}}, "template": {
            "metadata": {"labels": {"app": "manager"}},
            "spec": {"containers": [{"name": "manager", "image": "example.org/manager:v1.2.3"}]}}}}))
    .unwrap();
    // Its service does not exist: without the fence, nothing could be deleted.
    let webhook: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "guard", "labels": labels},
        "webhooks": [{"name": "guard.example.org", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"service": {"name": "guard", "namespace": "default"}}, "failurePolicy": "Fail",
            "rules": [{"apiGroups": ["cluster.x-k8s.io"], "apiVersions": ["*"], "operations": ["DELETE"],
                "resources": ["machines"]}]}]}))
    .unwrap();
    for object in [&deployment, &webhook] {
        source.apply(object).await.unwrap();
    }
    let lacking = arena.run(1).await;
    assert_eq!(lacking.code, 7, "{}", lacking.stderr);
    assert!(lacking.stderr.contains("provider cluster-api does not run on the target"), "{}", lacking.stderr);
    let mut there = deployment.clone();
    there.data["spec"]["replicas"] = json!(0);
    target.apply(&there).await.unwrap();

    let command = arena.pivot(1).args(["--fence", "stop"]);
    crate::support::ended(command.run(Duration::from_mins(2)).await).ok();
    assert!(state(target).await.keys().eq(before.keys()));
    let live = source.get(&reference(&deployment)).await.unwrap().unwrap();
    assert_eq!(live.data["spec"]["replicas"], 2, "the providers run again");
    let live = source.get(&reference(&webhook)).await.unwrap().unwrap();
    assert_eq!(live.data["webhooks"][0]["name"], "guard.example.org");
    assert!(live.metadata.annotations.is_none_or(|a| a.is_empty()));
    for (cluster, object) in [(source, &webhook), (source, &deployment), (target, &deployment)] {
        cluster.delete(&reference(object), &kube::api::DeleteParams::default()).await.unwrap();
    }
}

/// The source is let go even if the target never answers again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for minutes: run by tools/kill-matrix"]
async fn a_target_that_dies_does_not_hold_the_source() {
    let arena = Arena::new().await;
    let [source, target] = &arena.clusters;
    seed::populate(source, WORKERS).await;
    let before = state(source).await;
    arena.block(0, true).await;
    let log = arena.home.path().join("dying.log");
    let mut pivot = arena.held(0, &log).await;
    arena.home.run(["local", "stop", "right"]).await.ok();
    arena.block(0, false).await;
    let status = tokio::time::timeout(Duration::from_mins(5), pivot.wait()).await.unwrap().unwrap();
    assert!(!status.success());
    let said = fsx::read_text(&log).unwrap();
    assert!(said.contains("waited 60s for Namespace default on the target cluster"), "{said}");
    assert_eq!(state(source).await, before, "it is let go");

    arena.home.run(["local", "start", "right"]).await.ok();
    arena.run(0).await.ok();
    assert_eq!(state(source).await.len(), 0);
    assert_eq!(state(target).await.len(), before.len());
    arena.end().await;
}

/// Nor does one whose etcd takes no more: that ends at once, for no waiting makes room.
async fn a_target_that_is_full_does_not_hold_the_source(arena: &Arena) {
    let [target, source] = &arena.clusters;
    let before = state(source).await;
    arena.block(1, true).await;
    let log = arena.home.path().join("full.log");
    let mut pivot = arena.held(1, &log).await;
    alarm(arena, "left", "ACTIVATE").await;
    arena.block(1, false).await;
    let status = tokio::time::timeout(Duration::from_mins(1), pivot.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
    let said = fsx::read_text(&log).unwrap();
    for sentence in
        ["database space exceeded", "its etcd is full: compact and defragment it", "the source cluster is as it was"]
    {
        assert!(said.contains(sentence), "{said}");
    }
    assert_eq!(state(source).await, before, "it is let go");

    alarm(arena, "left", "DEACTIVATE").await;
    arena.run(1).await.ok();
    assert_eq!(state(source).await.len(), 0);
    assert_eq!(state(target).await.len(), before.len());
    arena.move_from(0).await;
}

/// Has etcd raise or clear the alarm that it raises when its quota is used up.
async fn alarm(arena: &Arena, cluster: &str, action: &str) {
    let name = cluster_init::node::NodeName::new(cluster).unwrap();
    let folder = cluster_init::node::Home::at(arena.home.path()).unwrap().node(&name);
    let socket = cluster_init::node::NodeConfig::read(&folder).unwrap().sockets.join("etcd.sock");
    let body = json!({"action": action, "alarm": "NOSPACE"}).to_string();
    let request = format!(
        "POST /v3/maintenance/alarm HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
