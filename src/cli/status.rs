//! `cluster-init status`: whether an environment manages itself and everything on it is ready.

use super::bootstrap::places;
use super::{Global, Printer, table};
use crate::bootstrap::{self, Status};
use crate::environment::Environment;
use crate::failure::{Failure, Result};

/// Options of the command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The environment, or the path of its folder when it lies elsewhere.
    env: String,
}

/// Runs the command.
pub async fn run(args: Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, _) = places(global)?;
    let status = bootstrap::status(&home, &Environment::name_of(&args.env)).await?;
    printer.value(&status, text)?;
    match status.troubles.first() {
        None if status.self_managed => Ok(()),
        None => Err(Failure::failed(format!("{} does not manage itself", args.env))),
        Some(trouble) => {
            let more = status.troubles.len() - 1;
            let others = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            Err(Failure::failed(format!("{} is not well: {trouble}{others}", args.env))
                .hint(format!("see it change: cluster-init watch {}", args.env)))
        }
    }
}

fn text(status: &Status) -> String {
    let yes = |what| if what { "yes" } else { "no" }.to_owned();
    let components: Vec<Vec<String>> = status
        .components
        .iter()
        .map(|c| vec![c.name.clone(), yes(c.ready), short(&c.revision), c.state.clone()])
        .collect();
    let machines: Vec<Vec<String>> = status
        .machines
        .iter()
        .map(|m| {
            let role = if m.control_plane { "control-plane" } else { "worker" };
            vec![m.name.clone(), role.into(), m.node.clone(), m.provider_id.clone()]
        })
        .collect();
    let head = if status.is_well() {
        format!("{} manages itself; everything is ready", status.environment)
    } else if status.self_managed {
        format!("{} manages itself; not everything is ready", status.environment)
    } else {
        format!("{} does not manage itself", status.environment)
    };
    let rest = if status.bootstrap_cluster { "\nthe bootstrap cluster still exists" } else { "" };
    format!(
        "{head}{rest}\n\n{}\n\n{}",
        table(&["COMPONENT", "READY", "REVISION", "STATE"], &components),
        table(&["MACHINE", "ROLE", "NODE", "PROVIDER ID"], &machines)
    )
}

/// A revision as a person tells it from another.
fn short(revision: &str) -> String {
    if revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit()) {
        revision[..12].to_owned()
    } else {
        revision.chars().take(26).collect()
    }
}
