//! Environments outside of the repository, named by their paths; settings by flags and variables.

use std::path::Path;
use std::time::Duration;

use cluster_init::exec::{self, Command};
use cluster_init::fsx;

use crate::support::{Ended, Home, bundle, ended};

const KUSTOMIZATION: &str = "\
resources: [../../repo/environment-values/base]
configMapGenerator:
  - name: management-cluster-values
    namespace: default
    behavior: merge
    files: [values=values.yaml]
generatorOptions: {disableNameSuffixHash: true}
";

/// `repo` with this repository's content, and `my-envs/foo` beside it.
async fn beside() -> tempfile::TempDir {
    let original = crate::bad_input::original().await;
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (original.path().display().to_string(), folder.path().join("repo").display().to_string());
    Command::new("cp").args(["-r", &from, &to]).run(Duration::from_mins(1)).await.unwrap();
    let own = folder.path().join("my-envs/foo");
    fsx::create_dir(&own).unwrap();
    let values = fsx::read_text(&folder.path().join("repo/environment-values/local/values.yaml")).unwrap();
    fsx::write(&own.join("values.yaml"), values).unwrap();
    fsx::write(&own.join("kustomization.yaml"), KUSTOMIZATION).unwrap();
    folder
}

fn here(home: &Home, folder: &Path, args: &[&str]) -> exec::Command {
    home.command(args).folder(folder.join("repo"))
}

async fn run(home: &Home, folder: &Path, args: &[&str]) -> Ended {
    ended(here(home, folder, args).run(Duration::from_mins(2)).await)
}

#[tokio::test]
async fn an_environment_may_lie_outside_of_the_repository() {
    bundle();
    let home = Home::new();
    let folder = beside().await;
    let root = folder.path().canonicalize().unwrap();
    let plan = run(&home, &root, &["plan", "../my-envs/foo", "--output", "json"]).await.ok().json();
    assert_eq!(plan["environment"], "foo");
    // The same values, hence the same objects under another name.
    let local = run(&home, &root, &["plan", "environment-values/local", "--output", "json"]).await.ok().json();
    assert_eq!(local["environment"], "local");
    assert_eq!(local["parts"].as_array().unwrap().len(), plan["parts"].as_array().unwrap().len());
    let valid = run(&home, &root, &["validate", "../my-envs/foo", "--no-server", "--output", "json"]).await.ok().json();
    assert_eq!(valid[0]["findings"], serde_json::json!([]), "{valid}");

    // Its own settings and mistakes have their places.
    let own = root.join("my-envs/foo");
    fsx::write(&own.join("bootstrap.toml"), "[defaults]\nbackend = 'kind'\n").unwrap();
    let plan = run(&home, &root, &["plan", "../my-envs/foo", "--output", "json"]).await.ok().json();
    assert_eq!(plan["backend"], "kind");
    fsx::write(&own.join("bootstrap.toml"), "[defaults]\nbackend = 'knd'\n").unwrap();
    let ended = run(&home, &root, &["plan", "../my-envs/foo"]).await;
    let said = format!("{}/bootstrap.toml:2:11: backend: unknown value \"knd\"", own.display());
    assert!(ended.code == 2 && ended.stderr.contains(&said), "{}", ended.stderr);
    fsx::remove_file(&own.join("bootstrap.toml")).unwrap();
    fsx::write(&own.join("values.yaml"), "components:\n  cappi: {}\n").unwrap();
    let wrong = run(&home, &root, &["validate", "../my-envs/foo", "--no-server", "--output", "json"]).await.json();
    assert_eq!(wrong[0]["findings"][0]["at"], format!("{}/values.yaml:2:3", own.display()));
    assert_eq!(wrong[0]["findings"][0]["message"], "components.cappi: unknown component cappi");
}

#[tokio::test]
async fn what_is_no_environment_is_told_with_what_to_do() {
    let home = Home::new();
    let folder = beside().await;
    let root = folder.path().canonicalize().unwrap();
    let base = root.join("repo/environment-values/base").display().to_string();
    for name in ["my-envs/local", "my-envs/empty"] {
        fsx::create_dir(&root.join(name)).unwrap();
    }
    fsx::write(&root.join("my-envs/local/kustomization.yaml"), KUSTOMIZATION).unwrap();
    let builds = format!("an environment is a folder whose kustomization builds on {base}");
    let cases = [
        ("../my-envs/fo", "../my-envs/fo is no environment: there is no such folder", "did you mean ../my-envs/foo?"),
        ("../elsewhere/x", "../elsewhere/x is no environment: there is no such folder", &builds),
        (
            "../my-envs",
            "../my-envs is no environment: it has no kustomization.yaml",
            "did you mean ../my-envs/foo or ../my-envs/local?",
        ),
        ("../my-envs/empty", "../my-envs/empty is no environment: it has no kustomization.yaml", &builds),
        (
            "../my-envs/foo/kustomization.yaml",
            "../my-envs/foo/kustomization.yaml is no environment: it is a file",
            "name its folder: ../my-envs/foo",
        ),
        ("../my-envs/foo/values.yaml", "../my-envs/foo/values.yaml is no environment: it is a file", &builds),
        (
            "./environment-values/base",
            "./environment-values/base is no environment: it is what environments share",
            "name one of kubeadm-capd, kubeadm-capo, local, rke2-capd, rke2-capo",
        ),
        (
            "../my-envs/local",
            "environment ../my-envs/local has the name of environment-values/local",
            "clusters and runs are told apart by that name: give one of the folders another",
        ),
    ];
    for (path, said, remedy) in cases {
        for command in ["plan", "validate", "bootstrap"] {
            let ended = run(&home, &root, &[command, path]).await;
            assert_eq!(ended.code, 2, "{command} {path}: {}", ended.stderr);
            assert!(ended.stderr.contains(said) && ended.stderr.contains(remedy), "{command} {path}: {}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn flags_and_variables_override_settings() {
    bundle();
    let home = Home::new();
    let folder = beside().await;
    let backend = async |args: &[&str], variable: Option<&str>| {
        let all = [&["plan", "local", "--output", "json", "--cluster", "bootstrap"], args].concat();
        let mut command = here(&home, folder.path(), &all);
        if let Some(value) = variable {
            command = command.env("CLUSTER_INIT_BACKEND", value);
        }
        ended(command.run(Duration::from_mins(1)).await)
    };
    assert_eq!(backend(&[], None).await.ok().json()["backend"], "local");
    assert_eq!(backend(&[], Some("kind")).await.ok().json()["backend"], "kind");
    assert_eq!(backend(&["-s", "backend=local"], Some("kind")).await.ok().json()["backend"], "local");
    let ended = backend(&["--set", "bakend=kind"], None).await;
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("--set bakend: unknown key bakend"), "{}", ended.stderr);
    assert!(ended.stderr.contains("did you mean backend?"), "{}", ended.stderr);
}
