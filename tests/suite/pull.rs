//! `cluster-init bundle pull REGISTRY`: the bundle that was pushed, in another place, whatever the line and the storage do.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster_init::bundle::Bundle;
use cluster_init::exec;
use cluster_init::fsx;
use cluster_init::oci::Layout;

use crate::cutter::{Cutter, Fate};
use crate::registry::{LARGE, Server, command, configure, flip, layer, login, run, small_bundle};
use crate::support::Home;

/// The bundle in a folder is the one that was pushed, and sound; nothing else lies beside it.
#[track_caller]
fn assert_same(folder: &Path, pushed: &Layout) {
    let pulled = Layout::open(folder).unwrap();
    assert_eq!(pulled.digest().unwrap(), pushed.digest().unwrap());
    let check = pulled.check();
    assert!(check.broken.is_empty(), "{:?}", check.broken);
    assert_eq!(
        fsx::list(&folder.join("blobs/sha256")).unwrap(),
        fsx::list(&pushed.folder().join("blobs/sha256")).unwrap()
    );
    assert_eq!(fsx::list(folder).unwrap(), [".lock", "blobs", "index.json", "oci-layout"]);
}

/// A registry with a password that holds a small bundle.
async fn pushed(home: &Home) -> (Server, Layout) {
    let bundle = small_bundle(home.path());
    let server = Server::with_password(home).await;
    login(home, &[server.host()], "user", "secret");
    run(home, bundle.folder(), &["push", server.host(), "--plain-http"]).await.ok();
    (server, bundle)
}

fn target(home: &Home) -> PathBuf {
    home.path().join("pulled")
}

#[tokio::test]
async fn a_bundle_is_the_same_in_another_place() {
    let home = Home::new();
    let bundle = small_bundle(home.path());
    let server = Server::with_tls(&home).await;
    login(&home, &[server.host()], "user", "secret");
    let (ca, target) = (server.ca().display().to_string(), target(&home));
    let registry = format!("{}/team/site", server.host());
    let digest =
        run(&home, bundle.folder(), &["push", &registry, "--ca-file", &ca]).await.ok().json()["digest"].clone();
    let pull = ["pull", &registry, "--ca-file", &ca, "--digest", digest.as_str().unwrap()];
    let report = run(&home, &target, &pull).await.ok().json();
    assert_eq!(report["pulled"], serde_json::json!(["one", "three", "two"]));
    assert!(report["moved"].as_u64().unwrap() > LARGE as u64, "{report}");
    assert_same(&target, &bundle);
    let opened = Bundle::open(&target, &home.unpacked()).unwrap();
    assert_eq!(opened.manifest("https://example.org/three.yaml").unwrap().unwrap(), b"kind: List\n");
    assert!(opened.tool("one").unwrap().ends_with("bin/program"));

    // Again: nothing is moved.
    let blobs = |server: &Server| server.log().matches("GET /v2/team/site/library/two/blobs/").count();
    let before = blobs(&server);
    let report = run(&home, &target, &pull).await.ok().json();
    assert_eq!((&report["pulled"], &report["kept"], &report["moved"]), (&serde_json::json!([]), &3.into(), &0.into()));
    assert_eq!(blobs(&server), before);

    // What is missing or broken comes again, and other parts stay.
    let mut layout = Layout::open(&target).unwrap();
    flip(&layout.blob_path(&layer(&bundle, "two")));
    fsx::remove_file(&layout.blob_path(&layer(&bundle, "three"))).unwrap();
    let mut own = crate::registry::image(&layout, &[], "bin/own", b"own");
    own.annotations.insert("cluster-init.dev/part".into(), "own".into());
    own.annotations.insert("org.opencontainers.image.ref.name".into(), "example.org/own:1".into());
    layout.set_entries(layout.entries().iter().cloned().chain([own]).collect()).unwrap();
    let report = run(&home, &target, &pull).await.ok().json();
    assert_eq!(report["pulled"], serde_json::json!(["three", "two"]));
    let layout = Layout::open(&target).unwrap();
    assert_eq!((layout.entries().len(), layout.check().broken.len()), (4, 0));

    let other = format!("sha256:{}", "0".repeat(64));
    let refused = run(&home, &target, &["pull", &registry, "--ca-file", &ca, "--digest", &other]).await;
    assert_eq!(refused.code, 7);
    assert!(refused.stderr.contains("is another one: "), "{}", refused.stderr);
    server.stop().await;
}

#[tokio::test]
async fn what_a_registry_refuses_is_told_with_a_remedy_and_without_the_password() {
    let home = Home::new();
    let server = Server::with_tls(&home).await;
    let (ca, target) = (server.ca().display().to_string(), target(&home));
    let trusting = ["pull", server.host(), "--ca-file", &ca];
    let says = async |args: &[&str], text: &str, hint: &str| {
        let ended = run(&home, &target, args).await;
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        for text in [text, hint, server.host()] {
            assert!(ended.stderr.contains(text), "missing: {text}\n{}", ended.stderr);
        }
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    };
    let log_in = format!("hint: docker login {}", server.host());
    says(&trusting, "it asks for a user and a password", &log_in).await;
    login(&home, &[server.host()], "user", "hunter2");
    says(&trusting, "it refuses the user or the password", &log_in).await;
    let untrusted = ["pull", server.host()];
    says(&untrusted, "its certificate is not trusted: UnknownIssuer", "hint: name the certificate of its authority")
        .await;
    let plain = ["pull", server.host(), "--plain-http"];
    says(&plain, "it answers 400", "hint: ").await;

    // The right password, from a program that docker's configuration names.
    let helper = home.path().join("docker-credential-test");
    let script = "#!/bin/sh\nread host\n[ \"$1 $host\" = \"get $WANTED\" ] && echo '{\"Username\":\"user\",\"Secret\":\"secret\"}'\n";
    fsx::write_mode(&helper, script, 0o755).unwrap();
    configure(&home, &serde_json::json!({"credHelpers": {server.host(): "test"}}));
    let path = format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap());
    let asking = command(&home, &target, &trusting).env("PATH", path).env("WANTED", server.host());
    let ended = crate::support::ended(asking.run(Duration::from_mins(1)).await);
    // It is let in, and finds nothing.
    assert!(
        ended.stderr.contains(&format!("{} holds no bundle of this version (v", server.host())),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("hint: put it there, from a host that has it: cluster-init bundle push "),
        "{}",
        ended.stderr
    );
    configure(&home, &serde_json::json!({"credsStore": "nothing"}));
    says(&trusting, "docker-credential-nothing is not installed", "hint: docker login shows").await;
    server.stop().await;
}

#[tokio::test]
async fn a_line_that_breaks_is_gone_on_with() {
    let home = Home::new();
    let (server, bundle) = pushed(&home).await;
    let line = Cutter::start(server.host(), LARGE / 3, Fate::Cut(3)).await;
    login(&home, &[line.host()], "user", "secret");
    let target = target(&home);
    let ended = run(&home, &target, &["pull", line.host(), "--plain-http"]).await.ok();
    assert!(line.cuts() >= 2, "{}", ended.stderr);
    let blob = layer(&bundle, "two");
    let times = ended.stderr.matches(&format!("blob {blob} goes on at byte ")).count();
    assert!(times >= 2, "{}", ended.stderr);
    assert!(server.log().contains("http.response.status=206"), "{}", server.log());
    assert_same(&target, &bundle);
    server.stop().await;
}

#[tokio::test]
async fn a_line_that_dies_is_given_up_and_gone_on_with_later() {
    let home = Home::new();
    let (server, bundle) = pushed(&home).await;
    let line = Cutter::start(server.host(), LARGE / 2, Fate::Dead).await;
    login(&home, &[line.host(), server.host()], "user", "secret");
    let target = target(&home);
    let begin = Instant::now();
    let ended = run(&home, &target, &["pull", line.host(), "--plain-http"]).await;
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(begin.elapsed() < Duration::from_secs(15));
    assert!(ended.stderr.contains("error: failed to "), "{}", ended.stderr);
    assert!(ended.stderr.contains("go on with: cluster-init bundle pull "), "{}", ended.stderr);
    // What is incomplete is not in the index.
    assert!(!fsx::read_text(&target.join("index.json")).unwrap().contains("library/two"));
    run(&home, &target, &["pull", server.host(), "--plain-http"]).await.ok();
    assert_same(&target, &bundle);
    server.stop().await;
}

#[tokio::test]
async fn a_pull_that_was_killed_goes_on_in_the_middle_of_a_blob() {
    let home = Home::new();
    let (server, bundle) = pushed(&home).await;
    let line = Cutter::start(server.host(), LARGE / 2, Fate::Hang).await;
    login(&home, &[line.host(), server.host()], "user", "secret");
    let (target, log) = (target(&home), home.path().join("log"));
    let mut child = command(&home, &target, &["pull", line.host(), "--plain-http"]).spawn(&log).unwrap();
    let blob = layer(&bundle, "two");
    let half = target.join("partial").join(blob.hex());
    let deadline = Instant::now() + Duration::from_secs(20);
    while half.metadata().map_or(0, |meta| meta.len()) < LARGE as u64 / 4 {
        assert!(Instant::now() < deadline, "{}", fsx::read_text(&log).unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    exec::signal_group(child.pid().unwrap(), rustix::process::Signal::KILL);
    child.wait().await.unwrap();
    let had = half.metadata().unwrap().len();
    assert!(Layout::open(&target).unwrap().check().broken.is_empty());

    let ended = run(&home, &target, &["pull", server.host(), "--plain-http"]).await.ok();
    assert!(ended.stderr.contains(&format!("blob {blob} goes on at byte {had}")), "{}", ended.stderr);
    assert_same(&target, &bundle);

    // What was left may be wrong, too: then it begins anew.
    fsx::remove_file(&target.join("blobs/sha256").join(blob.hex())).unwrap();
    fsx::create_dir(half.parent().unwrap()).unwrap();
    fsx::write(&half, vec![0; 1000]).unwrap();
    let ended = run(&home, &target, &["pull", server.host(), "--plain-http"]).await.ok();
    assert!(ended.stderr.contains(&format!("blob {blob} is wrong in pieces; it begins anew")), "{}", ended.stderr);
    assert_same(&target, &bundle);
    server.stop().await;
}

#[tokio::test]
async fn what_a_registry_holds_corrupt_is_refused_and_comes_from_a_mirror() {
    let home = Home::new();
    let (server, bundle) = pushed(&home).await;
    let mirror = Server::plain(&home).await;
    run(&home, bundle.folder(), &["push", mirror.host(), "--plain-http"]).await.ok();
    let blob = layer(&bundle, "two");
    flip(&server.blob(&blob));
    let manifest = bundle.entries().iter().find(|entry| entry.annotations["cluster-init.dev/part"] == "three").unwrap();
    flip(&server.blob(&manifest.digest));
    let target = target(&home);
    let ended = run(&home, &target, &["pull", server.host(), "--plain-http"]).await;
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let host = server.host();
    for text in [
        "2 of 3 parts could not be pulled: ".to_owned(),
        format!("part two: blob {blob} from {host}/library/two is corrupt: its content has the digest sha256:"),
        format!("part three: the manifest from {host}/cluster-init/manifests/three@{} is corrupt: ", manifest.digest),
        format!("hint: nothing of it was kept; the storage of {host}, or what lies between, changes content"),
        format!("hint: what is sound was kept; go on with: cluster-init bundle pull {host}"),
    ] {
        assert!(ended.stderr.contains(&text), "missing: {text}\n{}", ended.stderr);
    }
    // The sound part is there; of the others there is nothing.
    let layout = Layout::open(&target).unwrap();
    assert_eq!((layout.entries().len(), layout.check().broken.len()), (1, 0));
    assert!(!layout.has(&blob) && !layout.has(&manifest.digest));
    assert_eq!(fsx::list(&target.join("partial")).unwrap(), Vec::<String>::new());

    let through = format!("{host}=http://{}", mirror.host());
    let pull = ["pull", host, "--plain-http", "--mirror", &through];
    let report = run(&home, &target, &pull).await.ok().json();
    assert_eq!(report["pulled"], serde_json::json!(["three", "two"]));
    assert_same(&target, &bundle);
    server.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn a_bundle_is_filled_by_one_process_at_a_time() {
    let home = Home::new();
    let target = target(&home);
    fsx::create_dir(&target).unwrap();
    let _lock = fsx::Lock::try_take(&target.join(".lock")).unwrap().unwrap();
    let ended = run(&home, &target, &["pull", "127.0.0.1:1", "--plain-http"]).await;
    assert_eq!(ended.code, 7, "{}", ended.stderr);
    assert!(
        ended.stderr.contains(&format!("process {} is making the bundle ", std::process::id())),
        "{}",
        ended.stderr
    );
}
