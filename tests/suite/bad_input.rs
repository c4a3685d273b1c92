//! What users get wrong, and exactly what `validate` says to it: one entry of `bad_input.toml` a mistake.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_init::bundle::Bundle;
use cluster_init::environment::{Overrides, Tools, Variables};
use cluster_init::exec::Command;
use cluster_init::fsx;
use cluster_init::git::Repository;
use cluster_init::plan::Cache;
use cluster_init::validate::Validator;
use futures::StreamExt;
use serde::Deserialize;

use crate::support::{Home, bundle, ended};

/// The table.
const TABLE: &str = include_str!("bad_input.toml");
/// The file that most mistakes are in.
const VALUES: &str = "environment-values/local/values.yaml";
/// How many entries are tried at once.
const PARALLEL: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default = "local")]
    environment: String,
    /// The whole values file.
    values: Option<String>,
    /// Files: path and content.
    #[serde(default)]
    write: Vec<(String, String)>,
    /// Changes: path, what is there, what takes its place.
    #[serde(default)]
    replace: Vec<(String, String, String)>,
    /// Files that are gone.
    #[serde(default)]
    remove: Vec<String>,
    /// Whether an API server has to look.
    #[serde(default)]
    server: bool,
    /// The command that says it, when not `validate`.
    #[serde(default)]
    run: Vec<String>,
    said: Vec<String>,
}

fn local() -> String {
    "local".into()
}

impl Case {
    /// Makes the mistake in a working tree.
    fn make(&self, root: &Path) {
        if let Some(values) = &self.values {
            fsx::write(&root.join(VALUES), values).unwrap();
        }
        for (path, content) in &self.write {
            fsx::create_dir(root.join(path).parent().unwrap()).unwrap();
            fsx::write(&root.join(path), content).unwrap();
        }
        for (path, from, to) in &self.replace {
            let text = fsx::read_text(&root.join(path)).unwrap();
            assert!(text.contains(from.as_str()), "{}: {path} has no {from:?}", self.name);
            fsx::write(&root.join(path), text.replacen(from.as_str(), to, 1)).unwrap();
        }
        for path in &self.remove {
            fsx::remove_file(&root.join(path)).unwrap();
        }
    }
}

async fn run(program: &str, args: &[&str], folder: &Path) {
    let command = Command::new(program).args(args).folder(folder).env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.run(Duration::from_mins(1)).await.unwrap();
}

/// This repository's content as a repository of its own.
pub async fn original() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["charts", "environment-values", "kustomize-components", "bootstrap.toml"] {
        let from = here.join(name).display().to_string();
        run("cp", &["-r", &from, "."], folder.path()).await;
    }
    run("git", &["init", "-q"], folder.path()).await;
    run("git", &["add", "."], folder.path()).await;
    run("git", &["-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "all"], folder.path()).await;
    folder
}

struct Programs {
    bundle: Bundle,
    kustomize: PathBuf,
    helm: PathBuf,
    cache: Cache,
}

/// A working tree with the mistake.
async fn tree(case: &Case, original: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    run("cp", &["-r", &format!("{}/.", original.display()), "."], folder.path()).await;
    case.make(folder.path());
    folder
}

/// What is said to one entry: place, message and remedy of each finding.
async fn said(case: &Case, original: &Path, programs: &Programs) -> Vec<String> {
    let folder = tree(case, original).await;
    let repository = Repository::discover(folder.path()).unwrap();
    let tools = Tools { kustomize: &programs.kustomize, helm: &programs.helm };
    let validator = Validator {
        repository: &repository,
        bundle: Some((&programs.bundle, tools)),
        // No variable of the user's: every message must be the same everywhere.
        variables: &Variables::default(),
        overrides: &Overrides::default(),
        cache: &programs.cache,
    };
    let checked = validator.check(&case.environment, None).await;
    checked.findings.iter().map(|finding| without_lines(&format!("{finding} | {}", finding.remedy))).collect()
}

/// What a command says to one entry: the lines of its failure.
async fn said_by_command(case: &Case, original: &Path, home: &Home) -> Vec<String> {
    let folder = tree(case, original).await;
    let command = home.command(&case.run).folder(folder.path()).env_remove("GITLAB_USER").env_remove("GITLAB_TOKEN");
    let ended = ended(command.run(Duration::from_mins(1)).await);
    let lines = ended.stderr.lines().skip_while(|line| !line.starts_with("error: "));
    lines.map(|line| line.trim().to_owned()).collect()
}

/// The same with an API server: said by the program, because only it can be a server's daemon.
async fn said_by_server(case: &Case, original: &Path, home: &Home) -> Vec<String> {
    let folder = tree(case, original).await;
    let ended = home
        .run([
            "validate",
            &case.environment,
            "--output",
            "json",
            "--keep-server",
            "--repo",
            folder.path().to_str().unwrap(),
        ])
        .await;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let findings = ended.json()[0]["findings"].as_array().cloned().unwrap_or_default();
    findings.iter().map(|f| format!("{}: {} | {}", text(&f["at"]), text(&f["message"]), text(&f["remedy"]))).collect()
}

/// Lines of the chart change with every release; those of the mistakes' own files do not.
fn without_lines(said: &str) -> String {
    let Some((place, rest)) = said.split_once(": ").filter(|(place, _)| place.starts_with("charts/")) else {
        return said.to_owned();
    };
    format!("{}: {rest}", place.split(':').next().unwrap_or(place))
}

fn differences(cases: &[&Case], all: &[Vec<String>]) -> String {
    let mut out = String::new();
    for (case, said) in cases.iter().zip(all) {
        if *said != case.said {
            let (name, expected) = (&case.name, &case.said);
            let _ = write!(out, "\n{name}\n  expected {expected:#?}\n  said     {said:#?}\n");
        }
    }
    out
}

fn table() -> Vec<Case> {
    toml::from_str::<Table>(TABLE).unwrap().case
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_named_with_its_place_and_a_remedy() {
    let table = table();
    assert!(table.len() >= 40, "the table has {} entries", table.len());
    let bundle = Bundle::open(&bundle(), &Home::new().unpacked()).unwrap();
    let (kustomize, helm) = (bundle.tool("kustomize").unwrap(), bundle.tool("helm").unwrap());
    let programs = Programs { bundle, kustomize, helm, cache: Cache::default() };
    let original = original().await;
    let cases: Vec<&Case> = table.iter().filter(|case| !case.server && case.run.is_empty()).collect();
    let checks = cases.iter().map(|case| said(case, original.path(), &programs));
    let all: Vec<Vec<String>> = futures::stream::iter(checks).buffered(PARALLEL).collect().await;
    let wrong = differences(&cases, &all);
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_say_what_is_wrong_before_they_do_anything() {
    let home = Home::new();
    bundle();
    let original = original().await;
    let table = table();
    let cases: Vec<&Case> = table.iter().filter(|case| !case.run.is_empty()).collect();
    let mut all = Vec::new();
    for case in &cases {
        all.push(said_by_command(case, original.path(), &home).await);
    }
    let wrong = differences(&cases, &all);
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(fsx::list(&home.path().join("nodes")).unwrap_or_default(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_finds_what_only_it_can_know() {
    let home = Home::new();
    bundle();
    let original = original().await;
    let table = table();
    let cases: Vec<&Case> = table.iter().filter(|case| case.server).collect();
    // The first one starts the server that the others use.
    let mut all = vec![said_by_server(cases[0], original.path(), &home).await];
    let checks = cases[1..].iter().map(|case| said_by_server(case, original.path(), &home));
    all.extend(futures::stream::iter(checks).buffered(PARALLEL).collect::<Vec<_>>().await);
    let valid =
        home.run(["validate", "local", "--repo", original.path().to_str().unwrap(), "--output", "json"]).await.ok();
    home.run(["local", "delete", "validate"]).await.ok();
    // What was accepted once needs no server again: here none could be made.
    fsx::remove_dir(&home.path().join("nodes")).unwrap();
    fsx::write(&home.path().join("nodes"), "").unwrap();
    let again =
        home.run(["validate", "local", "--repo", original.path().to_str().unwrap(), "--output", "json"]).await.ok();
    let wrong = differences(&cases, &all);
    assert!(wrong.is_empty(), "{wrong}");
    let valid = valid.json();
    assert!(valid[0]["accepted"].as_u64().unwrap() > 100, "{valid}");
    assert_eq!(valid[0]["findings"], serde_json::json!([]));
    assert_eq!(again.json()[0]["accepted"], valid[0]["accepted"]);
}
