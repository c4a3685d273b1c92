//! The command line: one file a command; parses, calls the library, prints.
//!
//! Data goes to standard output, narration to standard error.

mod apply;
mod bootstrap;
mod bundle;
mod cleanup;
mod generate;
mod kubeconfig;
mod local;
mod node;
mod output;
mod overriding;
mod pivot;
mod plan;
mod provider;
mod publish;
mod status;
mod validate;
mod vendor;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use output::{Format, Printer, table};

use crate::exec;
use crate::failure::{Failure, Result};
use crate::ui;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a step or command failed
  2  usage or configuration is wrong
  3  a preflight check refused
  4  timeout, or no progress
  5  interrupted; the run can be resumed
  6  leftovers remain
  7  refused for safety";

/// Turns a Git repository into a self-managed Cluster API management cluster.
#[derive(Debug, Parser)]
#[command(name = "cluster-init", version, after_help = EXIT_CODES, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// How data is printed on standard output.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, env = "CLUSTER_INIT_OUTPUT")]
    pub output: Format,
    /// Folder with clusters, runs and the default bundle [default: $XDG_DATA_HOME/cluster-init].
    #[arg(long, global = true, env = "CLUSTER_INIT_HOME", value_name = "DIR")]
    pub home: Option<std::path::PathBuf>,
    /// The bundle: an OCI image layout with every binary, image and manifest [default: HOME/bundle].
    #[arg(long, global = true, env = "CLUSTER_INIT_BUNDLE", value_name = "DIR")]
    pub bundle: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn a repository's environment into a self-managed management cluster.
    Bootstrap(bootstrap::Args),
    /// Go on with a bootstrap that was interrupted or has failed.
    ///
    /// After one that ended well, where machines are containers: start those that docker has stopped, at the addresses that they
    /// had, and wait until everything is well.
    Resume(bootstrap::ResumeArgs),
    /// Take away what a broken bootstrap left on this host and its Docker daemon.
    ///
    /// Only what provably comes from a run of the environment goes: the bootstrap cluster, machines that are processes or containers
    /// here, their volumes, and the registry beside them once nobody else uses it. Those who make things go first. The runs are closed:
    /// the next bootstrap begins anew, and their logs stay.
    Cleanup(cleanup::Args),
    /// Give an environment to a cluster that exists, without bootstrap cluster and pivot.
    Apply(apply::Args),
    /// Show what every cluster would be given, and change nothing.
    Plan(plan::Args),
    /// Look for everything that is wrong with an environment, or with all, and change nothing.
    Validate(validate::Args),
    /// Put upstream's manifests into the working tree, for sites whose clusters reach Git only.
    Vendor(vendor::Args),
    /// Write the references of settings and values, and the values' schema, anew.
    Generate(generate::Args),
    /// Show whether an environment manages itself and everything is ready; the exit code says it too.
    Status(status::Args),
    /// Print the management cluster's kubeconfig.
    Kubeconfig(kubeconfig::Args),
    /// Follow what changes on the management cluster.
    Watch(watch::Args),
    /// Make, move, list and verify the bundle: every binary, image and manifest that a run needs.
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Give the management cluster a new revision of the repository.
    Publish(publish::Args),
    /// Move what Cluster API manages from one cluster to another.
    ///
    /// Plan, fence, copy, verify, delete, release. Nothing is deleted before every copy was compared with its source; a
    /// failure before that leaves the source as it was. Killed at any moment, the same command goes on, from any machine
    /// that has the two kubeconfigs. Back again is the same command with the kubeconfigs exchanged.
    Pivot(pivot::Args),
    /// Clusters of plain processes on this host, for direct use.
    #[command(subcommand)]
    Local(local::Command),
    /// Run one node of a local cluster (started by the other commands).
    #[command(hide = true)]
    Node(node::Args),
    /// Print a shell's completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Cluster API's provider for clusters on this host.
    #[command(subcommand)]
    Provider(provider::Provider),
}

impl Command {
    /// What is logged when CLUSTER_INIT_LOG says nothing: programs that run in the background log, commands narrate.
    const fn log(&self) -> &'static str {
        match self {
            Self::Provider(provider::Provider::Local { .. }) => "off,cluster_init=info",
            _ => "off",
        }
    }
}

/// Runs the program and maps its result to the documented exit code.
pub fn main() -> ExitCode {
    if let Err(error) = exec::become_tied_child() {
        return fail(&error.into());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help on standard output and errors on standard error.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    ui::init_tracing(cli.command.log());
    // One TLS provider for everything; a second installation cannot happen in a fresh process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::failed("failed to start the runtime").caused_by(error)),
    };
    let result = runtime.block_on(run(cli));
    // Children and daemons have owners; nothing here is worth waiting for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    ui::print_failure(failure);
    ExitCode::from(failure.kind.exit_code())
}

async fn run(cli: Cli) -> Result<()> {
    let printer = Printer::new(cli.global.output);
    match cli.command {
        Command::Bootstrap(args) => bootstrap::run(args, &cli.global, printer).await,
        Command::Resume(args) => bootstrap::resume(args, &cli.global, printer).await,
        Command::Cleanup(args) => cleanup::run(args, &cli.global, printer).await,
        Command::Apply(args) => apply::run(args, &cli.global, printer).await,
        Command::Plan(args) => plan::run(args, &cli.global, printer).await,
        Command::Validate(args) => validate::run(args, &cli.global, printer).await,
        Command::Vendor(args) => vendor::run(&args, &cli.global, printer),
        Command::Generate(args) => generate::run(&args, printer),
        Command::Status(args) => status::run(args, &cli.global, printer).await,
        Command::Kubeconfig(args) => kubeconfig::run(args, &cli.global, printer).await,
        Command::Watch(args) => watch::run(args, &cli.global, printer).await,
        Command::Bundle(command) => bundle::run(command, &cli.global, printer).await,
        Command::Provider(command) => provider::run(command, &cli.global, printer).await,
        Command::Publish(args) => publish::run(args, &cli.global, printer).await,
        Command::Pivot(args) => pivot::run(args, &cli.global, printer).await,
        Command::Local(command) => local::run(command, &cli.global, printer).await,
        Command::Node(args) => node::run(args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "cluster-init", &mut script);
            printer.raw(&script)
        }
    }
}
