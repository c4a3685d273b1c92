//! `cluster-init local`: clusters of plain processes, for direct use.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Global, Printer, table};
use crate::backend::{Local, LocalSpec, Made};
use crate::clock::{Deadline, Stopwatch, human};
use crate::failure::{Failure, Result};
use crate::k8s::Cluster;
use crate::node::{Home, State};
use crate::ui;

/// Who a cluster made here belongs to.
const OWNER: &str = "local create";

/// What `local` can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a cluster, or start the one of that name; returns when it is ready.
    Create {
        /// Name of the cluster.
        name: String,
        /// How many workers join the control plane.
        #[arg(long, value_name = "N", default_value_t = 0)]
        workers: u32,
        /// A folder of the host that pods may mount; may be given several times.
        #[arg(long, value_name = "DIR")]
        allow_host_path: Vec<std::path::PathBuf>,
        /// A file with further profiles, written as those of the README; may be given several times.
        #[arg(long, value_name = "FILE")]
        profiles: Vec<std::path::PathBuf>,
        /// For a cluster that lives for minutes: its data do not survive a crash of the host, and its API server may use
        /// 1 GiB before it saves memory; both are faster.
        #[arg(long)]
        throw_away: bool,
        /// Seconds until it must be ready.
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        timeout: u64,
    },
    /// List the clusters of this user and their nodes.
    List,
    /// Print a cluster administrator's kubeconfig.
    Kubeconfig {
        /// Name of the cluster.
        name: String,
    },
    /// Start a stopped cluster on its data.
    Start {
        /// Name of the cluster.
        name: String,
        /// Seconds until it must be ready.
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        timeout: u64,
    },
    /// Stop a cluster; its data stays.
    Stop {
        /// Name of the cluster.
        name: String,
    },
    /// Delete a cluster: no process and no file is left.
    Delete {
        /// Name of the cluster.
        name: String,
        /// Delete it although it manages clusters by Cluster API, which nobody would manage any more.
        #[arg(long)]
        force: bool,
    },
}

/// Runs the command.
pub async fn run(command: Command, global: &Global, printer: Printer) -> Result<()> {
    let home = match &global.home {
        Some(home) => Home::at(home)?,
        None => Home::resolve()?,
    };
    let bundle = global.bundle.clone().unwrap_or_else(|| home.bundle());
    let local = Local::new(home, bundle);
    // Narration is plain here: the whole thing takes seconds.
    let events = ui::events(ui::Style::Plain, Vec::new());
    let cancel = CancellationToken::new();
    match command {
        Command::Create { name, workers, allow_host_path, profiles, throw_away, timeout } => {
            let watch = Stopwatch::start();
            let mut spec = LocalSpec::new(name, OWNER);
            spec.workers = workers;
            spec.allowed_host_paths = allow_host_path;
            spec.profiles = profiles;
            spec.throw_away = throw_away;
            let deadline = Deadline::after(Duration::from_secs(timeout));
            let made = local.create_or_adopt(&spec, &events, deadline, &cancel).await?;
            events.note(format!("cluster {} is ready after {}", made.name, human(watch.elapsed())));
            printer.value(&made, |made| format!("export KUBECONFIG={}", made.kubeconfig.display()))
        }
        Command::List => printer.value(&local.list().await?, |all| list(all)),
        Command::Kubeconfig { name } => printer.raw(local.control_plane(&name)?.kubeconfig()?.as_bytes()),
        Command::Start { name, timeout } => {
            local.start(&name, Deadline::after(Duration::from_secs(timeout)), &cancel).await?;
            events.note(format!("cluster {name} is ready"));
            Ok(())
        }
        Command::Stop { name } => {
            local.control_plane(&name)?;
            local.stop(&name).await?;
            events.note(format!("cluster {name} is stopped"));
            Ok(())
        }
        Command::Delete { name, force } => {
            // A cluster without control plane is the rest of a deletion that was interrupted.
            if !local.nodes(&name)?.is_empty() && !force {
                refuse_managing(&local, &name).await?;
            } else if local.nodes(&name)?.is_empty() {
                local.control_plane(&name)?;
            }
            local.delete(&name).await?;
            events.note(format!("cluster {name} is deleted"));
            Ok(())
        }
    }
}

fn list(all: &[Made]) -> String {
    let mut rows = Vec::new();
    for made in all {
        for node in &made.nodes {
            rows.push(vec![
                made.name.clone(),
                node.name.clone(),
                node.role.clone(),
                node.state.to_string(),
                node.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
                made.server.clone(),
                made.owner.clone(),
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    table(&["CLUSTER", "NODE", "ROLE", "STATE", "PID", "SERVER", "MADE BY"], &rows)
}

/// Refuses to delete a cluster that holds Cluster API objects: what they stand for would be managed by nobody.
async fn refuse_managing(local: &Local, name: &str) -> Result<()> {
    let Some(made) = local.find(name).await? else { return Ok(()) };
    let refuse = |what: String| {
        Failure::refused(format!("cluster {name} {what}; deleted, nobody would manage what they stand for"))
            .hint("move them to another cluster first (cluster-init pivot), or delete them there")
            .hint(format!("to delete it all the same: cluster-init local delete {name} --force"))
    };
    if !made.nodes.iter().any(|node| node.role == "control-plane") {
        return Ok(());
    }
    if made.state == State::Stopped {
        return if local.data_mentions(name, "/registry/cluster.x-k8s.io/clusters/")? {
            Err(refuse("is stopped and its data may hold Cluster API clusters".into())
                .hint(format!("to see them: cluster-init local start {name}")))
        } else {
            Ok(())
        };
    }
    let clusters = managed(&Cluster::connect(name, &made.kubeconfig).await?).await.map_err(|failure| {
        failure
            .context(format!("failed to see whether cluster {name} manages others"))
            .hint(format!("to delete it all the same: cluster-init local delete {name} --force"))
    })?;
    if clusters.is_empty() {
        Ok(())
    } else {
        Err(refuse(format!("holds Cluster API clusters: {}", clusters.join(", "))))
    }
}

/// Cluster API's clusters in a cluster, as `namespace/name`.
async fn managed(cluster: &Cluster) -> Result<Vec<String>> {
    let group = http::Request::get("/apis/cluster.x-k8s.io").body(Vec::new()).map_err(Failure::from_error)?;
    let group: serde_json::Value = match cluster.client().request(group).await {
        Ok(group) => group,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        Err(error) => return Err(Failure::from_error(error)),
    };
    let Some(version) = group["preferredVersion"]["groupVersion"].as_str() else { return Ok(Vec::new()) };
    let request =
        http::Request::get(format!("/apis/{version}/clusters")).body(Vec::new()).map_err(Failure::from_error)?;
    let found: serde_json::Value = match cluster.client().request(request).await {
        Ok(found) => found,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Vec::new()),
        Err(error) => return Err(Failure::from_error(error)),
    };
    let text =
        |object: &serde_json::Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let items = found["items"].as_array().into_iter().flatten();
    Ok(items.map(|object| format!("{}/{}", text(object, "namespace"), text(object, "name"))).collect())
}
