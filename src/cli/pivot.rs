//! `cluster-init pivot`: moves what Cluster API manages from one cluster to another.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::bootstrap::{places, stopping};
use super::{Format, Global, Printer, table};
use crate::capi::{self, Fence, Filter, Item, Options, Phase, Pivot, Plan, Report, Verdict};
use crate::clock::human;
use crate::failure::{Failure, Result};
use crate::fsx;
use crate::k8s::{Cluster, ObjectRef};
use crate::saga::{Journal, RunId, Scope};
use crate::ui;

/// Options of `pivot`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kubeconfig of the cluster that has the objects.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The kubeconfig of the cluster that is to have them; the same providers must run on it.
    #[arg(long, value_name = "FILE")]
    to_kubeconfig: PathBuf,
    /// Only this namespace, with the classes and identities that its Clusters use from others.
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Every namespace; the default.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Only this Cluster, with what it uses; may be given several times. What Clusters that stay use too is copied and
    /// kept.
    #[arg(long, value_name = "NAME")]
    cluster: Vec<String>,
    /// How controllers are kept from the objects meanwhile.
    #[arg(long, value_enum, default_value_t)]
    fence: FenceArg,
    /// Show what would become of every object, and do nothing.
    #[arg(long)]
    plan: bool,
    /// Minutes until it must be done.
    #[arg(long, value_name = "MINUTES", default_value_t = 30)]
    timeout: u64,
}

/// How controllers are kept from the objects.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum FenceArg {
    /// Clusters and ClusterClasses are paused, what deploys them is suspended.
    #[default]
    Pause,
    /// Besides, the source's providers are scaled to zero and their webhooks set aside until the end.
    Stop,
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, _) = places(global)?;
    let source = Cluster::connect("source", &args.kubeconfig).await?;
    let target = Cluster::connect("target", &args.to_kubeconfig).await?;
    differ(&source, &target, &args).await?;

    let folder = home.root().join("pivots");
    fsx::create_private_dir(&folder)?;
    // One that did not end goes on, with its journal if that is here.
    let (there, here) = tokio::try_join!(capi::recorded(&target), capi::recorded(&source))?;
    let unfinished = [there, here].into_iter().flatten().find(|record| record.phase != Phase::Done);
    let id = unfinished.map_or_else(|| RunId::fresh().0, |record| record.id);
    let journal = if args.plan {
        Arc::new(Journal::nowhere())
    } else {
        Arc::new(Journal::open(&folder.join(format!("{id}.ndjson")))?)
    };
    let cancel = stopping("the same command goes on");
    let events = ui::events(ui::style(printer.format() == Format::Json), Vec::new());
    let scope = Scope::detached("pivot", journal, events, Duration::from_mins(args.timeout), cancel);
    let options = Options {
        filter: Filter { namespace: args.namespace, clusters: args.cluster },
        fence: match args.fence {
            FenceArg::Pause => Fence::Pause,
            FenceArg::Stop => Fence::Stop,
        },
        settle: true,
    };
    let pivot = Pivot::new(&source, &target, &id, &scope).with(options);
    if args.plan {
        let plan = pivot.plan().await?;
        printer.value(&plan, show)?;
        return Ok(plan.check()?);
    }
    let report = pivot.run().await?;
    printer.last(&report, told)
}

/// Refuses to move a cluster's objects to itself.
async fn differ(source: &Cluster, target: &Cluster, args: &Args) -> Result<()> {
    let (from, to) = tokio::try_join!(capi::identity(source), capi::identity(target))?;
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

fn show(plan: &Plan) -> String {
    let rows: Vec<Vec<String>> = plan.items.iter().map(row).collect();
    if rows.is_empty() {
        return "there is nothing to move".into();
    }
    let mut text = table(&["OBJECT", "WHAT BECOMES OF IT"], &rows);
    for remark in &plan.remarks {
        text = format!("{text}\n{remark}");
    }
    text
}

fn row(item: &Item) -> Vec<String> {
    let fate = match &item.verdict {
        Verdict::Move { group } => format!("moves, in group {}", group + 1),
        Verdict::Keep { group, reason } => format!("is copied in group {} and kept: {reason}", group + 1),
        Verdict::Stay { reason } => format!("stays: {reason}"),
        Verdict::Forbid { reason, remedy } => format!("forbids the move: {reason}; {remedy}"),
    };
    vec![item.object.to_string(), fate]
}

fn told(report: &Report) -> String {
    if report.phases.is_empty() {
        return report.remarks.first().cloned().unwrap_or_else(|| "it was done already".into());
    }
    let millis: u64 = report.phases.iter().map(|(_, ms)| ms).sum();
    let phases: Vec<String> =
        report.phases.iter().map(|(phase, ms)| format!("{phase} {}", human(Duration::from_millis(*ms)))).collect();
    let mut lines = vec![
        format!("moved {}, copied and kept {}", kinds(&report.moved), kinds(&report.kept)),
        format!(
            "{} writes, {:.0} a second: {}",
            report.writes,
            report.writes as f64 * 1000.0 / (millis.max(1) as f64),
            phases.join(", ")
        ),
    ];
    lines.extend(report.remarks.iter().cloned());
    lines.join("\n")
}

/// `12 objects (2 Cluster, 10 Secret)`.
fn kinds(objects: &[ObjectRef]) -> String {
    if objects.is_empty() {
        return "nothing".into();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for object in objects {
        *counts.entry(&object.kind).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!("{} objects ({})", objects.len(), counts.join(", "))
}
