//! `cluster-init pivot`: moves what Cluster API manages from one cluster to another.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::bootstrap::{places, stopping};
use super::{Format, Global, Printer, table};
use crate::capi::{Item, Pivot, Plan, Report, Verdict};
use crate::clock::human;
use crate::failure::{Failure, Result};
use crate::fsx;
use crate::k8s::{Cluster, ObjectRef};
use crate::saga::{Journal, RunId, Scope};
use crate::ui;

/// Moves every Cluster API object of a cluster to another one: plan, pause, copy, verify, delete, release. Nothing is
/// deleted before every copy was compared with its source; a failure before that leaves the source as it was. Killed at
/// any moment, the same command goes on. What deploys the objects (Flux, Argo CD) must be suspended first.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kubeconfig of the cluster that has the objects.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The kubeconfig of the cluster that is to have them; the same providers must run on it.
    #[arg(long, value_name = "FILE")]
    to_kubeconfig: PathBuf,
    /// Show what would become of every object, and do nothing.
    #[arg(long)]
    plan: bool,
    /// Minutes until it must be done.
    #[arg(long, value_name = "MINUTES", default_value_t = 30)]
    timeout: u64,
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, _) = places(global)?;
    let source = Cluster::connect("source", &args.kubeconfig).await?;
    let target = Cluster::connect("target", &args.to_kubeconfig).await?;
    differ(&source, &target, &args).await?;

    let folder = home.root().join("pivots");
    fsx::create_private_dir(&folder)?;
    let _lock = fsx::Lock::try_take(&folder.join("lock"))?.map_err(|pid| {
        Failure::preflight(format!("a pivot is already running (pid {pid})"))
            .hint(format!("wait for it, or stop it: kill -INT {pid}"))
    })?;
    let id = RunId::fresh();
    let journal = Arc::new(Journal::open(&folder.join(format!("{}.ndjson", id.0)))?);
    let cancel = stopping("the same command goes on");
    let events = ui::events(ui::style(printer.format() == Format::Json), Vec::new());
    let scope = Scope::detached("pivot", journal, events, Duration::from_mins(args.timeout), cancel);
    let pivot = Pivot::new(&source, &target, &id.0, &scope);
    if args.plan {
        let plan = pivot.plan().await?;
        printer.value(&plan, show)?;
        return Ok(plan.check()?);
    }
    let report = pivot.run().await?;
    printer.value(&report, told)
}

/// Refuses to move a cluster's objects to itself.
async fn differ(source: &Cluster, target: &Cluster, args: &Args) -> Result<()> {
    let (from, to) = tokio::try_join!(identity(source, &args.kubeconfig), identity(target, &args.to_kubeconfig))?;
    if from != to {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{} and {} lead to the same cluster: there is nowhere to move to",
        args.kubeconfig.display(),
        args.to_kubeconfig.display()
    ))
    .hint("--kubeconfig names the cluster that has the objects, --to-kubeconfig the one that is to have them"))
}

/// What tells a cluster from all others: the UID of its namespace kube-system.
async fn identity(cluster: &Cluster, kubeconfig: &Path) -> Result<String> {
    let found = cluster.get(&ObjectRef::global("v1", "Namespace", "kube-system")).await?;
    found.and_then(|namespace| namespace.metadata.uid).ok_or_else(|| {
        Failure::failed(format!("the cluster of {} has no namespace kube-system", kubeconfig.display()))
            .hint("its API server may have started just now: try again")
    })
}

fn show(plan: &Plan) -> String {
    let rows: Vec<Vec<String>> = plan.items.iter().map(row).collect();
    if rows.is_empty() {
        return "there is nothing to move".into();
    }
    table(&["OBJECT", "WHAT BECOMES OF IT"], &rows)
}

fn row(item: &Item) -> Vec<String> {
    let fate = match &item.verdict {
        Verdict::Move { group } => format!("moves, in group {}", group + 1),
        Verdict::Keep { group } => format!("is copied in group {} and kept", group + 1),
        Verdict::Stay { reason } => format!("stays: {reason}"),
        Verdict::Forbid { reason, remedy } => format!("forbids the move: {reason}; {remedy}"),
    };
    vec![item.object.to_string(), fate]
}

fn told(report: &Report) -> String {
    let phases: Vec<String> =
        report.phases.iter().map(|(phase, ms)| format!("{phase} {}", human(Duration::from_millis(*ms)))).collect();
    let phases = if phases.is_empty() { "it was done already".into() } else { phases.join(", ") };
    format!("{} objects moved, {} kept: {phases}", report.moved, report.kept)
}
