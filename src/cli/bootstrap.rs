//! `cluster-init bootstrap` and `resume`: the story, told or gone on with.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::overriding::{Deployed, Overriding};
use super::{Format, Global, Printer, table};
use crate::bootstrap::{self, Ended, Options, Subject};
use crate::clock::human;
use crate::failure::{Kind, Result};
use crate::node::Home;
use crate::saga::Outcome;
use crate::ui;

/// Options of `bootstrap`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    deployed: Deployed,
    /// Keep the bootstrap cluster.
    #[arg(long)]
    keep: bool,
    /// What makes the bootstrap cluster (`local`, `kind`), in place of what bootstrap.toml says.
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
}

/// Options of `resume`.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// The environment; not needed when only one has an unfinished run.
    env: Option<String>,
    #[command(flatten)]
    overriding: Overriding,
}

/// Runs `bootstrap`.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, bundle) = places(global)?;
    let mut subject = Subject { keep: args.keep, ..args.deployed.subject()? };
    if let Some(backend) = &args.backend {
        subject.overrides = subject.overrides.with("--backend", "backend", backend)?;
    }
    let cancel = stopping("cluster-init resume goes on");
    let events = |more| ui::events(ui::style(printer.format() == Format::Json), more);
    let ended = bootstrap::bootstrap(Options { home, bundle, subject }, &events, &cancel).await?;
    report(&ended, printer)
}

/// Runs `resume`.
pub async fn resume(args: ResumeArgs, global: &Global, printer: Printer) -> Result<()> {
    let (home, bundle) = places(global)?;
    let cancel = stopping("cluster-init resume goes on");
    let events = |more| ui::events(ui::style(printer.format() == Format::Json), more);
    let overrides = args.overriding.flags()?;
    let ended = bootstrap::resume(home, bundle, args.env, &overrides, &events, &cancel).await?;
    report(&ended, printer)
}

/// The home and the bundle that the options name.
pub fn places(global: &Global) -> Result<(Home, PathBuf)> {
    let home = match &global.home {
        Some(home) => Home::at(home)?,
        None => Home::resolve()?,
    };
    let bundle = global.bundle.clone().unwrap_or_else(|| home.bundle());
    Ok((home, bundle))
}

/// A token that the first SIGINT or SIGTERM cancels; the second one ends the process at once.
pub fn stopping(goes_on: &'static str) -> CancellationToken {
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        signal().await;
        token.cancel();
        ui::narrate("stopping at the next safe point; once more stops at once");
        signal().await;
        ui::narrate(&format!("stopped; the journal is true: {goes_on}"));
        #[expect(clippy::exit, reason = "the user asked twice; the journal says what is half done")]
        std::process::exit(i32::from(Kind::Interrupted.exit_code()));
    });
    cancel
}

/// Waits for SIGINT or SIGTERM.
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// What each step took.
pub fn times(ended: &Ended) -> String {
    let time = |ms: u64| human(Duration::from_millis(ms));
    let row = |step: &Outcome| {
        vec![step.step.to_string(), if step.already { "already done".into() } else { time(step.elapsed_ms) }]
    };
    let mut rows: Vec<Vec<String>> = ended.steps.iter().map(row).collect();
    rows.push(vec!["in all".into(), time(ended.elapsed_ms)]);
    table(&["STEP", "TIME"], &rows)
}

/// What a person does next; programs have read the events.
fn report(ended: &Ended, printer: Printer) -> Result<()> {
    let environment = &ended.environment;
    if printer.format() == Format::Json {
        return Ok(());
    }
    if ended.already {
        ui::narrate(&format!("{environment} manages itself already (run {}); nothing to do", ended.run));
    } else {
        ui::narrate(&format!("\n{}\n", times(ended)));
        ui::narrate(&format!("{environment} manages itself now. Try:"));
    }
    ui::narrate(&format!("  cluster-init status {environment}"));
    ui::narrate(&format!("  export KUBECONFIG={}", ended.kubeconfig.display()));
    ui::narrate("  kubectl get clusters,machines,kustomizations,helmreleases -A");
    ui::narrate(&format!("  cluster-init publish {}    # after the next commit", ended.reference));
    // Data: where the management cluster's kubeconfig is.
    printer.raw(format!("{}\n", ended.kubeconfig.display()).as_bytes())
}
