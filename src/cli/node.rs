//! `cluster-init node`: the daemon of one node; started by others, not by people.

use std::path::PathBuf;

use crate::failure::Result;
use crate::node;

/// Runs one node of a local cluster until it is told to stop.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's folder, which holds node.yaml.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<()> {
    node::run(&args.dir).await
}
