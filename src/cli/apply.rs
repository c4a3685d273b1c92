//! `cluster-init apply`: an environment on a cluster that exists.

use std::path::PathBuf;

use super::bootstrap::{places, stopping, times};
use super::overriding::{Deployed, absolute};
use super::{Format, Global, Printer};
use crate::bootstrap::{self, Options, Subject};
use crate::failure::{Failure, Result};
use crate::ui;

/// Gives a cluster that exists its Flux (unless it has one), the environment's values and the chart, and waits until every
/// component is ready; no bootstrap cluster is made, and nothing is moved. The same command brings it to another commit.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    deployed: Deployed,
    /// The kubeconfig of the cluster.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, bundle) = places(global)?;
    let kubeconfig = absolute(&args.kubeconfig)?;
    if !kubeconfig.is_file() {
        return Err(Failure::usage(format!("there is no file {}", args.kubeconfig.display()))
            .hint("--kubeconfig names the file that kubectl reaches the cluster with"));
    }
    let subject = Subject { kubeconfig: Some(kubeconfig), ..args.deployed.subject()? };
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
