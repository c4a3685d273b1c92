//! `cluster-init provider`: Cluster API's `local` provider, and its definitions.

use clap::Subcommand;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Format, Global, Printer};
use crate::failure::{Failure, Result};
use crate::node::Home;
use crate::provider::{Context, Health, crds, files, run as run_controllers};

/// What a provider is asked to do.
#[derive(Debug, Subcommand)]
pub enum Provider {
    /// Run the controllers of the `local` provider, as its pod does.
    ///
    /// The cluster is the one of KUBECONFIG, else the one whose pod this is.
    Local {
        /// Where /healthz and /readyz are served; without a host on every address, as in a pod.
        #[arg(long, default_value = ":9440", value_name = "[HOST]:PORT")]
        health_addr: String,
    },
    /// Print the CustomResourceDefinitions of the `local` provider.
    Crds {
        /// Write one file each into this folder instead.
        #[arg(long, value_name = "DIR")]
        write: Option<std::path::PathBuf>,
    },
}

/// Runs the command.
pub async fn run(command: Provider, global: &Global, printer: Printer) -> Result<()> {
    match command {
        Provider::Local { health_addr } => local(&health_addr, global).await,
        Provider::Crds { write: Some(folder) } => {
            crate::fsx::create_dir(&folder)?;
            for (name, text) in files()? {
                crate::fsx::write(&folder.join(name), text)?;
            }
            Ok(())
        }
        Provider::Crds { write: None } => match printer.format() {
            Format::Json => printer.value(&crds(), |_| String::new()),
            Format::Text | Format::Yaml => {
                let texts: Vec<String> = files()?.into_iter().map(|(_, text)| text).collect();
                printer.raw(texts.join("---\n").as_bytes())
            }
        },
    }
}

async fn local(health_addr: &str, global: &Global) -> Result<()> {
    let home = match &global.home {
        Some(home) => Home::at(home)?,
        None => Home::resolve()?,
    };
    let bundle = global.bundle.clone().unwrap_or_else(|| home.bundle());
    let listener = Health::listen(health_addr).await?;
    let config = crate::k8s::own_config().await?;
    let server = config.cluster_url.clone();
    let client = kube::Client::try_from(config)
        .map_err(|error| Failure::failed("failed to make a client of the cluster").caused_by(error))?;
    let context = Context::new(client, &server, home, bundle);
    let health = Health::default();
    let cancel = stop_on_signal()?;
    let server = tokio::spawn(health.clone().serve(listener));
    let result = run_controllers(context, &health, &cancel).await;
    server.abort();
    match result {
        // Told to stop while it waited for its definitions: as asked.
        Err(_) if cancel.is_cancelled() => Ok(()),
        result => result,
    }
}

fn stop_on_signal() -> Result<CancellationToken> {
    let fail = |error| Failure::failed("failed to listen for signals").caused_by(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(cancel)
}
