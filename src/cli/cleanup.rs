//! `cluster-init cleanup`: takes away what runs of an environment left.

use std::path::PathBuf;

use super::bootstrap::{places, stopping};
use super::overriding::{Overriding, absolute};
use super::{Format, Global, Printer, table};
use crate::cleanup::{self, Fate, Item, Options, Report};
use crate::failure::Result;
use crate::ui;

const MORE: &str = "\
Examples:
  cluster-init cleanup local --dry-run            each object, where it is, what becomes of it, why
  cluster-init cleanup local                      takes away what goes; asks no question
  cluster-init cleanup local --even-self-managed  a management cluster that was finished, too

What is not provably the environment's stays, and is listed with the reason. A cloud is not
looked into: when a run had come to make machines there, it is said by which names they are
found, with exit code 6.

Exit codes:
  0  nothing is left, or nothing was there
  2  there is no such environment, and no run of it
  5  interrupted; the same command goes on
  6  something remains: each is named, and why
  7  refused: a process is at work on it, or its management cluster manages itself";

/// Options of the command.
#[derive(Debug, clap::Args)]
#[command(after_long_help = MORE)]
pub struct Args {
    /// The environment, or the path of its folder when it lies elsewhere. One that the repository has no more is known by its runs.
    env: String,
    /// Show what would become of everything that is found, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Take the management cluster away although it manages itself; what it manages elsewhere would be left to nobody.
    #[arg(long)]
    even_self_managed: bool,
    #[command(flatten)]
    overriding: Overriding,
    /// The repository's folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, _) = places(global)?;
    let cancel = stopping("the same command goes on");
    let events = |more| ui::events(ui::style(printer.format() == Format::Json), more);
    let options = Options {
        home,
        repository: absolute(&args.repo)?,
        environment: args.env,
        overrides: args.overriding.all()?,
        dry_run: args.dry_run,
        even_self_managed: args.even_self_managed,
    };
    let report = cleanup::cleanup(&options, &events, &cancel).await?;
    if report.dry_run {
        printer.value(&report, text)?;
    } else {
        printer.last(&report, text)?;
    }
    report.failure.map_or(Ok(()), Err)
}

fn text(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report.items.iter().map(row).collect();
    let all = if rows.is_empty() { String::new() } else { table(&["OBJECT", "WHERE", "WHAT BECOMES OF IT"], &rows) };
    let (environment, removed) = (&report.environment, report.removed.len());
    let last = match (report.dry_run, removed) {
        (true, _) if rows.is_empty() => format!("there is nothing of {environment}"),
        (true, _) => return all,
        (false, 0) => format!("there is nothing of {environment} to be removed"),
        (false, 1) => format!("removed 1 object of {environment}"),
        (false, _) => format!("removed {removed} objects of {environment}"),
    };
    let last = if report.failure.is_some() { format!("{last}; something remains") } else { last };
    if all.is_empty() { last } else { format!("{all}\n\n{last}") }
}

fn row(item: &Item) -> Vec<String> {
    let fate = match item.fate {
        Fate::Goes { .. } => "goes",
        Fate::Remains => "remains",
        Fate::Stays => "stays",
    };
    vec![item.object.clone(), item.place.clone(), format!("{fate}: {}", item.why)]
}
