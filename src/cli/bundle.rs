//! `cluster-init bundle`: make, list and verify the bundle.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::bootstrap::stopping;
use super::{Global, Printer, table};
use crate::bundle::{self, Bundle, Options, size};
use crate::failure::{Failure, Result};
use crate::node::Home;
use crate::oci::push::Registry;
use crate::ui;

/// Commands around the bundle.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make or complete the bundle from Go modules; what is there and unchanged is kept, what is broken is made again.
    Build {
        /// Also make the parts that only some environments need: `docker` (kind, the node image and its control plane's images).
        /// A bundle that has them keeps them up to date.
        #[arg(long, value_name = "WHAT")]
        with: Vec<String>,
    },
    /// List what the bundle holds.
    List,
    /// Compare everything in the bundle with its digests.
    Verify,
    /// Push its images to a registry, as `REGISTRY/PATH:TAG` without the name of the registry they come from: as containerd asks a
    /// mirror for them. What is there already is not pushed again. User and password come from the configuration of docker.
    Push {
        /// `HOST[:PORT]`.
        registry: String,
        /// Speak HTTP without TLS.
        #[arg(long)]
        plain_http: bool,
    },
}

/// Runs one of them.
pub async fn run(command: Command, global: &Global, printer: Printer) -> Result<()> {
    let home = match &global.home {
        Some(home) => Home::at(home)?,
        None => Home::resolve()?,
    };
    let folder = global.bundle.clone().unwrap_or_else(|| home.bundle());
    match command {
        Command::Build { with } => build(&home, folder, with, printer).await,
        Command::List => list(&Bundle::open(&folder, &home.unpacked())?, printer),
        Command::Push { registry, plain_http } => {
            push(&Bundle::open(&folder, &home.unpacked())?, &registry, plain_http, printer).await
        }
        Command::Verify => verify(Bundle::open(&folder, &home.unpacked())?, &folder, printer).await,
    }
}

async fn build(home: &Home, folder: PathBuf, with: Vec<String>, printer: Printer) -> Result<()> {
    let options = Options {
        folder,
        work: home.cache().join("parts"),
        unpacked: home.unpacked(),
        // Not its path: the file may have been replaced since this process began.
        program: PathBuf::from("/proc/self/exe"),
        with,
    };
    let cancel = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Failure::failed("failed to listen for signals").caused_by(error))?;
    let stop = cancel.clone();
    let watcher = tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    let events = ui::events(ui::style(false), Vec::new());
    let result = bundle::build(&options, &events, &cancel).await;
    drop(events);
    watcher.abort();
    let report = result?;
    printer.value(&report, |report| {
        let made = match report.built.len() {
            0 => "nothing had to be made".to_owned(),
            count => format!("{count} parts made, {} kept", report.kept),
        };
        format!("{}: {made}; {}, {}", report.folder.display(), size(report.size), report.digest)
    })
}

fn list(bundle: &Bundle, printer: Printer) -> Result<()> {
    let entries = bundle.entries()?;
    printer.value(&entries, |entries| {
        let rows: Vec<Vec<String>> = entries
            .iter()
            .map(|entry| {
                let digest = entry.digest.short().to_owned();
                let cells = [&entry.part, &entry.version, &entry.kind];
                let mut row: Vec<String> = cells.into_iter().cloned().collect();
                row.extend([size(entry.size), digest, entry.reference.clone()]);
                row
            })
            .collect();
        table(&["PART", "VERSION", "KIND", "SIZE", "DIGEST", "REFERENCE"], &rows)
    })
}

#[derive(Serialize)]
struct Pushed {
    registry: String,
    images: u64,
}

async fn push(bundle: &Bundle, host: &str, plain_http: bool, printer: Printer) -> Result<()> {
    let registry = Registry::new(host, plain_http, None)?.with_credentials_of_docker()?;
    let cancel = stopping("what is there is not pushed again");
    let events = ui::events(ui::style(false), Vec::new());
    let result = bundle.push(&registry, &events, &cancel).await;
    drop(events);
    let pushed = Pushed { registry: host.to_owned(), images: result? };
    printer.value(&pushed, |pushed| format!("{} has {} images of the bundle", pushed.registry, pushed.images))
}

#[derive(Serialize)]
struct Sound {
    digest: String,
    blobs: usize,
    bytes: u64,
}

async fn verify(bundle: Bundle, folder: &Path, printer: Printer) -> Result<()> {
    let digest = bundle.digest()?.to_string();
    let verified = tokio::task::spawn_blocking(move || bundle.verify())
        .await
        .map_err(|error| Failure::failed("failed to verify the bundle").caused_by(error))??;
    if verified.broken.is_empty() {
        let sound = Sound { digest, blobs: verified.blobs, bytes: verified.bytes };
        return printer.value(&sound, |sound| {
            format!("{}: {} blobs, {}, all sound; {}", folder.display(), sound.blobs, size(sound.bytes), sound.digest)
        });
    }
    let broken: Vec<String> = verified.broken.into_iter().map(|error| Failure::from(error).to_string()).collect();
    let count = broken.len();
    Err(Failure::failed(format!("the bundle {} is broken in {count} places: {}", folder.display(), broken.join("; ")))
        .hint(format!("repair it: {}", bundle::REPAIR)))
}
