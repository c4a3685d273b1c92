//! `cluster-init watch`: what changes on an environment's management cluster, until interrupted.

use super::bootstrap::places;
use super::{Format, Global, Printer};
use crate::bootstrap;
use crate::environment::Environment;
use crate::failure::Result;
use crate::ui;
use crate::watch::Live;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The environment, or the path of its folder when it lies elsewhere.
    env: String,
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, _) = places(global)?;
    let (cluster, _, _) = bootstrap::management(&home, &Environment::name_of(&args.env)).await?;
    // A list that grows is read better than a view that hides what is ready.
    let style = if printer.format() == Format::Json { ui::Style::Ndjson } else { ui::Style::Plain };
    let events = ui::events(style, Vec::new());
    let _live = Live::start(&cluster, &events);
    // Interrupting it is how it ends.
    let _ = tokio::signal::ctrl_c().await;
    Ok(())
}
