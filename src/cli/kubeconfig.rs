//! `cluster-init kubeconfig`: the management cluster's kubeconfig on standard output.

use super::bootstrap::places;
use super::{Global, Printer};
use crate::bootstrap;
use crate::environment::Environment;
use crate::failure::Result;
use crate::fsx;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The environment, or the path of its folder when it lies elsewhere.
    env: String,
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, _) = places(global)?;
    let (_, _, path) = bootstrap::management(&home, &Environment::name_of(&args.env)).await?;
    printer.raw(&fsx::read(&path)?)
}
