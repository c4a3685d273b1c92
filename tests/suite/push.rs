//! `cluster-init bundle push`: a bundle in a registry that wants a password, over a line that breaks.

use std::time::Duration;

use cluster_init::oci::Layout;

use crate::cutter::{Cutter, Fate};
use crate::registry::{LARGE, Server, command, flip, layer, login, run, small_bundle};
use crate::support::{Home, ended};

#[tokio::test]
async fn images_are_pushed_with_the_password_of_docker() {
    let home = Home::new();
    let bundle = small_bundle(home.path());
    let server = Server::with_password(&home).await;
    let push = ["push", server.host(), "--plain-http"];
    let refused = run(&home, bundle.folder(), &push).await;
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("it asks for a user and a password"), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("hint: docker login {}", server.host())), "{}", refused.stderr);

    login(&home, &[server.host()], "user", "secret");
    let pushed = run(&home, bundle.folder(), &push).await.ok().json();
    assert_eq!((&pushed["images"], &pushed["manifests"]), (&2.into(), &1.into()));
    assert_eq!(pushed["digest"], bundle.digest().unwrap().to_string());
    // By the paths as which containerd asks a mirror for them.
    assert!(server.repository("team/one/_manifests/tags/v1").is_dir());
    assert!(server.repository("library/two/_manifests/tags/2").is_dir());
    assert!(server.repository("cluster-init/manifests/three/_manifests/tags/v3-x").is_dir());
    // Again: nothing is uploaded.
    let uploads = || server.count("PATCH") + server.count("POST");
    let before = uploads();
    assert!(before > 0, "{}", server.log());
    run(&home, bundle.folder(), &push).await.ok();
    assert_eq!(uploads(), before);
    // Below a path: other repositories.
    let below = format!("http://{}/harbor/project", server.host());
    run(&home, bundle.folder(), &["push", &below]).await.ok();
    assert!(server.repository("harbor/project/team/one/_manifests/tags/v1").is_dir());
    server.stop().await;
}

#[tokio::test]
async fn an_upload_that_is_cut_goes_on() {
    let home = Home::new();
    let bundle = small_bundle(home.path());
    let server = Server::with_tls(&home).await;
    let line = Cutter::start(server.host(), LARGE / 3, Fate::Cut(3)).await;
    login(&home, &[line.host()], "user", "secret");
    let ca = server.ca().display().to_string();
    let pushed = run(&home, bundle.folder(), &["push", line.host(), "--ca-file", &ca]).await.ok();
    assert!(line.cuts() >= 2, "{}", pushed.stderr);
    let blob = layer(&bundle, "two");
    let goes_on = format!("blob {blob} goes on at byte ");
    assert!(pushed.stderr.contains(&goes_on), "{}\n{}", pushed.stderr, server.log());
    assert_eq!(cluster_init::fsx::read(&server.blob(&blob)).unwrap(), bundle.read(&blob).unwrap());
    server.stop().await;
}

#[tokio::test]
async fn what_is_corrupt_is_not_pushed() {
    let home = Home::new();
    let bundle = small_bundle(home.path());
    let server = Server::plain(&home).await;
    let blob = layer(&bundle, "two");
    flip(&bundle.blob_path(&blob));
    let refused = run(&home, bundle.folder(), &["push", server.host(), "--plain-http"]).await;
    assert_eq!(refused.code, 1);
    for text in [format!("part two is unusable: blob {blob} in "), "hint: repair it: cluster-init bundle build".into()]
    {
        assert!(refused.stderr.contains(&text) || refused.stderr.contains("caused by: blob"), "{}", refused.stderr);
    }
    assert!(!server.blob(&blob).exists());
    // Nobody finds a bundle that is not whole.
    assert!(!server.repository("cluster-init/bundle").exists());
    server.stop().await;
}

#[tokio::test]
async fn a_push_that_was_stopped_goes_on() {
    let home = Home::new();
    let bundle = small_bundle(home.path());
    let server = Server::plain(&home).await;
    let line = Cutter::start(server.host(), LARGE / 2, Fate::Hang).await;
    let log = home.path().join("log");
    let mut child = command(&home, bundle.folder(), &["push", line.host(), "--plain-http"]).spawn(&log).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !server.repository("team/one/_manifests/tags/v1").exists() {
        assert!(std::time::Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster_init::exec::signal(child.pid().unwrap(), rustix::process::Signal::INT);
    let status = child.wait().await.unwrap();
    let said = cluster_init::fsx::read_text(&log).unwrap();
    assert_eq!(status.code(), Some(5), "{said}");
    let hint = format!("go on with: cluster-init bundle push {}", line.host());
    assert!(said.contains(&hint), "{said}");
    let direct = command(&home, bundle.folder(), &["push", server.host(), "--plain-http"]);
    ended(direct.run(Duration::from_mins(1)).await).ok();
    let target = home.path().join("other");
    run(&home, &target, &["pull", server.host(), "--plain-http"]).await.ok();
    assert_eq!(Layout::open(&target).unwrap().digest().unwrap(), bundle.digest().unwrap());
    server.stop().await;
}
