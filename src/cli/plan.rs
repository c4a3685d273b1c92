//! `cluster-init plan`: what every cluster would be given.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::bootstrap::places;
use super::overriding::Overriding;
use super::{Format, Global, Printer};
use crate::bundle::Bundle;
use crate::environment::{Environment, Publication, Tools, Variables};
use crate::failure::{Failure, Result};
use crate::git::Repository;
use crate::k8s::Cluster;
use crate::plan::{self, Cache, Change, Difference, Mask, Plan, Target};
use crate::ui;

/// Shows what would be created where: as a tree, with `--output yaml` as manifests, with `--output json` as both, or as the
/// difference to a live cluster. Nothing is changed anywhere; secrets are not shown. What is not committed is part of it;
/// `bootstrap` shows the same digest for the same content.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The environment: a folder of environment-values, or the path of one elsewhere.
    env: String,
    /// Show the difference to the cluster of this kubeconfig.
    #[arg(long, value_name = "KUBECONFIG")]
    against: Option<PathBuf>,
    /// Only what this cluster gets; with --against the cluster that the kubeconfig is of [default there: management].
    #[arg(long, value_enum)]
    cluster: Option<Which>,
    /// A line for every object, also where there are many.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    overriding: Overriding,
    /// The repository's folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
}

/// A cluster of the story.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Which {
    /// The temporary one.
    Bootstrap,
    /// The one that stays.
    Management,
}

impl From<Which> for Target {
    fn from(which: Which) -> Self {
        match which {
            Which::Bootstrap => Self::Bootstrap,
            Which::Management => Self::Management,
        }
    }
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, folder) = places(global)?;
    let repository = Repository::discover(&args.repo)?;
    let environment = Environment::find(repository.root(), &args.env)?.overridden(&args.overriding.all()?)?;
    let bundle = Bundle::open(&folder, &home.unpacked())?;
    let (kustomize, helm) = tokio::try_join!(bundle.tool_async("kustomize"), bundle.tool_async("helm"))?;
    let tools = Tools { kustomize: &kustomize, helm: &helm };
    let variables = environment.variables(Variables::from_process())?;
    let unknown = environment.unknown_secrets(&variables)?;
    if !unknown.is_empty() {
        ui::narrate(&format!("not defined, hence not the digest that bootstrap will show: {}", unknown.join(", ")));
    }
    let variables = variables.with_stand_ins(&unknown);
    let upstream = |url: &str| Ok(bundle.manifest(url)?);
    let publication = Publication::prepare(&repository, &environment, tools, &upstream, &variables, true).await?;
    let cache = Cache::in_folder(home.rendered());
    let plan = plan::compose(&publication, environment.settings().backend, tools, &cache).await?;
    refuse(&plan, &args.env)?;
    for note in &plan.notes {
        ui::narrate(&format!("{note}: it is not in the plan"));
    }
    let mask = Mask::of(&publication.configuration);
    if let Some(kubeconfig) = &args.against {
        let target = args.cluster.map_or(Target::Management, Target::from);
        let cluster = Cluster::connect(&target.to_string(), kubeconfig).await?;
        let differences = plan::against(&plan, target, &cluster, &mask).await?;
        let shown = Compared { environment: plan.environment, digest: plan.digest, cluster: target, differences };
        return printer.value(&shown, show);
    }
    let plan = plan.masked(&mask).only(args.cluster.map(Target::from));
    match printer.format() {
        Format::Yaml => printer.raw(plan::manifests(&plan)?.as_bytes()),
        _ => printer.value(&plan, |plan| plan::draw(plan, args.all)),
    }
}

fn refuse(plan: &Plan, environment: &str) -> Result<()> {
    let Some(first) = plan.problems.first() else { return Ok(()) };
    let more = match plan.problems.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Err(Failure::usage(format!("{}{more}", first.message))
        .hint(first.remedy.clone())
        .hint(format!("all of it, with places: cluster-init validate {environment}")))
}

#[derive(Serialize)]
struct Compared {
    environment: String,
    digest: String,
    cluster: Target,
    differences: Vec<Difference>,
}

fn show(shown: &Compared) -> String {
    let mut out = format!("environment {}, {} cluster\n{}\n\n", shown.environment, shown.cluster, shown.digest);
    // Writing to a String cannot fail.
    for difference in &shown.differences {
        let _ = match difference {
            Difference::Create { object } => writeln!(out, "+ {object}"),
            Difference::Delete { object } => writeln!(out, "- {object}"),
            Difference::Change { object, changes } => {
                let lines: String = changes.iter().map(line).collect();
                write!(out, "~ {object}\n{lines}")
            }
        };
    }
    let count = |wanted: fn(&Difference) -> bool| shown.differences.iter().filter(|found| wanted(found)).count();
    let made = count(|found| matches!(found, Difference::Create { .. }));
    let changed = count(|found| matches!(found, Difference::Change { .. }));
    let gone = count(|found| matches!(found, Difference::Delete { .. }));
    let _ = match shown.differences.len() {
        0 => writeln!(out, "nothing would change"),
        _ => writeln!(out, "{made} to create, {changed} to change, {gone} to delete"),
    };
    out
}

fn line(change: &Change) -> String {
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "(none)".to_owned(),
        value => {
            let text = value.to_string();
            match text.char_indices().nth(100) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        }
    };
    format!("    {}: {} -> {}\n", change.field, text(&change.before), text(&change.after))
}
