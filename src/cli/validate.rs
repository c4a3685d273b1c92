//! `cluster-init validate`: everything that is wrong, with its place and what to do.

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;

use super::bootstrap::{places, stopping};
use super::overriding::Overriding;
use super::{Global, Printer, table};
use crate::backend::Local;
use crate::bundle::{Bundle, Error};
use crate::clock::human;
use crate::environment::{Environment, Tools, Variables};
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::git::Repository;
use crate::plan::Cache;
use crate::validate::{Checked, Server, Validator};

/// How many environments are looked at at once.
const PARALLEL: usize = 2;

/// Checks settings, values, rendering, references and images, and has a real API server look at every object. What is not
/// committed is checked too; nothing of the user's is changed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The environment, or the path of one elsewhere; all of the repository when none is named.
    env: Option<String>,
    /// Do not start an API server: the objects are not checked against their kinds.
    #[arg(long)]
    no_server: bool,
    /// Leave the API server running, so that the next call finds it (the local cluster `validate`).
    #[arg(long)]
    keep_server: bool,
    #[command(flatten)]
    overriding: Overriding,
    /// The repository's folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, folder) = places(global)?;
    let repository = Repository::discover(&args.repo)?;
    let bundle = match Bundle::open(&folder, &home.unpacked()) {
        Ok(bundle) => Some(bundle),
        Err(Error::NoBundle { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let programs = match &bundle {
        Some(bundle) => Some(tokio::try_join!(bundle.tool_async("kustomize"), bundle.tool_async("helm"))?),
        None => None,
    };
    let tools = programs.as_ref().map(|(kustomize, helm)| Tools { kustomize, helm });
    let variables = Variables::from_process();
    let cache = Cache::in_folder(home.rendered());
    let overrides = args.overriding.all()?;
    let validator = Validator {
        repository: &repository,
        bundle: bundle.as_ref().zip(tools),
        variables: &variables,
        overrides: &overrides,
        cache: &cache,
    };
    let names = match &args.env {
        Some(name) => vec![Environment::find(repository.root(), name).map(|_| name.clone())?],
        None => Environment::names(repository.root())?,
    };
    let server = bundle.as_ref().filter(|_| !args.no_server).map(|bundle| {
        let (local, answers) = (Local::new(home.clone(), folder), home.answers());
        let cancel = stopping("nothing is half done");
        Ok::<_, Failure>(Server::new(local, answers, bundle.digest_of("kube-apiserver")?, Events::silent(), cancel))
    });
    let server = server.transpose()?;
    let checks = names.iter().map(|name| validator.check(name, server.as_ref()));
    let all: Vec<Checked> = futures::stream::iter(checks).buffered(PARALLEL).collect().await;
    if let Some(server) = server {
        server.end(args.keep_server).await?;
    }
    printer.value(&all, |all| show(all))?;
    verdict(&all)
}

fn show(all: &[Checked]) -> String {
    let mut lines = Vec::new();
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    lines.push(table(&["ENVIRONMENT", "RESULT", "COMPONENTS", "OBJECTS", "ACCEPTED", "TIME"], &rows));
    for checked in all {
        for finding in &checked.findings {
            lines.push(format!("\n{}: {finding}", checked.environment));
            if !finding.remedy.is_empty() {
                lines.push(format!("  {}", finding.remedy));
            }
        }
        if !checked.notes.is_empty() {
            lines.push(String::new());
        }
        lines.extend(checked.notes.iter().map(|note| format!("{}: note: {note}", checked.environment)));
    }
    lines.join("\n")
}

fn row(checked: &Checked) -> Vec<String> {
    let result = match checked.findings.len() {
        0 => "valid".to_owned(),
        count => format!("{count} wrong"),
    };
    vec![
        checked.environment.clone(),
        result,
        checked.components.to_string(),
        checked.objects.to_string(),
        checked.accepted.to_string(),
        human(Duration::from_millis(checked.elapsed_ms)),
    ]
}

fn verdict(all: &[Checked]) -> Result<()> {
    let wrong: Vec<&str> =
        all.iter().filter(|checked| !checked.findings.is_empty()).map(|checked| checked.environment.as_str()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let found: usize = all.iter().map(|checked| checked.findings.len()).sum();
    Err(Failure::usage(format!("{found} mistake{} in {}", if found == 1 { "" } else { "s" }, wrong.join(", "))))
}
