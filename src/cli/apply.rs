//! `cluster-init apply`: an environment on a cluster that exists.

use std::path::PathBuf;

use super::bootstrap::{places, stopping, times};
use super::overriding::Overriding;
use super::{Format, Global, Printer};
use crate::bootstrap::{self, Options, Subject};
use crate::failure::{Failure, Result};
use crate::ui;

/// Gives a cluster that exists its Flux (unless it has one), the environment's values and the chart, and waits until every
/// component is ready; no bootstrap cluster is made, and nothing is moved. The same command brings it to another commit.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The environment: a folder of environment-values, or the path of one elsewhere.
    env: String,
    /// The kubeconfig of the cluster.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Deploy the working tree although it holds changes that are not committed.
    #[arg(long)]
    dirty: bool,
    /// Leave a preflight check out; may be given several times, in place of those of bootstrap.toml.
    #[arg(long, value_name = "NAME")]
    skip_check: Vec<String>,
    #[command(flatten)]
    overriding: Overriding,
    /// The repository's folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, bundle) = places(global)?;
    let absolute = |path: &PathBuf| {
        std::path::absolute(path)
            .map_err(|error| Failure::usage(format!("there is no {}", path.display())).caused_by(error))
    };
    let kubeconfig = absolute(&args.kubeconfig)?;
    if !kubeconfig.is_file() {
        return Err(Failure::usage(format!("there is no file {}", args.kubeconfig.display()))
            .hint("--kubeconfig names the file that kubectl reaches the cluster with"));
    }
    let mut overrides = args.overriding.all()?;
    if !args.skip_check.is_empty() {
        overrides = overrides.with("--skip-check", "skip_checks", &args.skip_check.join(","))?;
    }
    let subject = Subject {
        environment: args.env,
        repository: absolute(&args.repo)?,
        dirty: args.dirty,
        keep: false,
        overrides,
        kubeconfig: Some(kubeconfig),
    };
    let cancel = stopping("the same command goes on");
    let events = |more| ui::events(ui::style(printer.format() == Format::Json), more);
    let ended = bootstrap::apply(Options { home, bundle, subject: subject.clone() }, &events, &cancel).await?;
    if printer.format() != Format::Json {
        ui::narrate(&format!("\n{}\n", times(&ended)));
        ui::narrate(&format!("every component of {} is ready. After the next commit:", subject.environment));
        ui::narrate(&format!("  {}", subject.again()));
    }
    Ok(())
}
