//! `cluster-init publish`: gives the management cluster a new revision of the repository.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::overriding::Overriding;
use super::{Global, Printer};
use crate::backend::{Addresses, Mirror};
use crate::bootstrap;
use crate::bundle::Bundle;
use crate::capi;
use crate::clock::Deadline;
use crate::docker::Docker;
use crate::environment::{Environment, Machines, Management, PHASES, Publication, Tools, Variables};
use crate::event::Events;
use crate::failure::Result;
use crate::git::Repository;
use crate::k8s::ObjectRef;
use crate::node::Home;
use crate::plan::{self, Cache};
use crate::ui;

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The environment that the management cluster was made for, or the path of its folder when it lies elsewhere.
    env: String,
    /// Publish the working tree although it holds changes that are not committed.
    #[arg(long)]
    dirty: bool,
    /// Return as soon as it is published, without waiting until every component is ready with it.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait.
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    overriding: Overriding,
}

/// What was published.
#[derive(Serialize)]
struct Report {
    environment: String,
    revision: String,
    chart: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().map_err(|error| error.to_string())?;
    Duration::try_from(parsed).map_err(|_| "it is negative".to_owned())
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let home = match &global.home {
        Some(home) => Home::at(home)?,
        None => Home::resolve()?,
    };
    let events = ui::events(ui::style(false), Vec::new());
    let repository = Repository::discover(Path::new("."))?;
    let environment = Environment::find(repository.root(), &args.env)?.overridden(&args.overriding.all()?)?;
    let bundle = Bundle::open(&global.bundle.clone().unwrap_or_else(|| home.bundle()), &home.unpacked())?;
    let (kustomize, helm) = (bundle.tool_async("kustomize").await?, bundle.tool_async("helm").await?);
    let tools = Tools { kustomize: &kustomize, helm: &helm };
    let upstream = |url: &str| Ok(bundle.manifest(url)?);
    let variables = environment.variables(Variables::from_process())?;
    let publication = Publication::prepare(&repository, &environment, tools, &upstream, &variables, args.dirty).await?;
    publication.check(tools, &PHASES).await?;
    publication.check_source(&repository, true).await?;
    let management = {
        let (_, _, kubeconfig) = bootstrap::management(&home, environment.name()).await?;
        Management::find(&home, environment.name(), &kubeconfig).await?
    };
    if environment.settings().machines == Machines::Docker {
        let cache = Cache::in_folder(home.rendered());
        let plan = plan::compose(&publication, environment.settings().backend, tools, &cache).await?;
        let mirror = Mirror::new(Docker::default(), bundle.clone(), home.clone());
        give_images(&mirror, &plan.machine_images(), &events, Deadline::after(args.timeout)).await?;
    }
    publication.give(&management).await?;
    events.note(format!("published {}", publication.revision));
    if !args.no_wait {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let watcher = tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.cancel();
            }
        });
        let result = publication.arrived(&management, &events, Deadline::after(args.timeout), &cancel).await;
        watcher.abort();
        result?;
    }
    // Machines may have been replaced: what a restart of docker must not take from them is known of the new ones, too.
    let clusters = capi::clusters(&management.cluster).await?;
    Addresses::of(&home, environment.name())?.follow(&Docker::default(), clusters).await?;
    drop(events);
    let report = Report {
        environment: environment.name().to_owned(),
        revision: publication.revision.tag(),
        chart: publication.chart.version().to_owned(),
    };
    printer.value(&report, |report| format!("{} is at {}", report.environment, report.revision))
}

/// Gives the registry beside the machines what the machines of this revision take.
async fn give_images(
    mirror: &Mirror,
    machines: &BTreeMap<String, ObjectRef>,
    events: &Events,
    deadline: Deadline,
) -> Result<()> {
    let cancel = CancellationToken::new();
    let served = mirror.serve(events, deadline, &cancel).await?;
    mirror.fill(&served, machines, events, &cancel).await
}
