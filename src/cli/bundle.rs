//! `cluster-init bundle`: make, move, list and verify the bundle.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::bootstrap::stopping;
use super::{Global, Printer, table};
use crate::bundle::{self, Bundle, Mirror, Options, Origin, Pushed, Site, size};
use crate::failure::{Failure, Result};
use crate::node::Home;
use crate::oci::{Access, Address, Digest, Registry};
use crate::ui;

/// Commands around the bundle.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make or complete the bundle from Go modules; what is there and unchanged is kept, what is broken is made again.
    Build {
        /// Also make the parts that only some environments need: `docker` (kind, the node image and its control plane's images),
        /// `upgrade` (those in another version of Kubernetes, beside the former). A bundle that has them keeps them up to date.
        #[arg(long, value_name = "WHAT")]
        with: Vec<String>,
    },
    /// List what the bundle holds.
    List,
    /// Compare everything in the bundle with its digests.
    Verify,
    /// Fill the bundle: from a registry that `bundle push` has filled, or from where upstream publishes its parts.
    ///
    /// What is there and sound is not moved again; what was half there goes on. Nothing gets into the bundle before it was
    /// compared with its digest. Stopped or cut at any moment, the same command goes on.
    #[command(after_help = PULL)]
    Pull {
        /// `HOST[:PORT][/PATH]` that `bundle push` has filled. Without one, images come from the registries that their names say,
        /// and manifests from the URLs of upstream's releases.
        registry: Option<String>,
        /// Take this bundle only: the digest that `bundle push` printed.
        #[arg(long, value_name = "DIGEST", requires = "registry")]
        digest: Option<Digest>,
        /// Also pull the parts that only some environments need (`docker`, `upgrade`), as with `bundle build`.
        #[arg(long, value_name = "WHAT", conflicts_with = "registry")]
        with: Vec<String>,
        /// Ask MIRROR before HOST, for images and for releases' URLs; `*` is every host. Repeat it for more: they are asked in turn.
        #[arg(long, value_name = "HOST=MIRROR")]
        mirror: Vec<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Push the bundle to a registry: its images, its manifests, and the index that `bundle pull` makes the same bundle from.
    ///
    /// Images get the name `REGISTRY/PATH:TAG` without that of the registry they come from: as containerd asks a mirror for them.
    /// What is there already is not pushed again, and what was half there goes on. Everything is compared with its digest before
    /// it leaves.
    #[command(after_help = PASSWORDS)]
    Push {
        /// `HOST[:PORT][/PATH]`; with a path, everything goes below it.
        registry: String,
        #[command(flatten)]
        reach: Reach,
    },
}

/// How registries are reached.
#[derive(Debug, clap::Args)]
pub struct Reach {
    /// Trust the authorities whose certificates are in this file (PEM), beside those of the host.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Speak HTTP without TLS to REGISTRY; `http://` before its name says the same.
    #[arg(long)]
    plain_http: bool,
}

impl Reach {
    fn address(&self, registry: &str) -> Result<Address> {
        let address: Address = registry.parse()?;
        Ok(Address { plain_http: address.plain_http || self.plain_http, ..address })
    }
}

/// Lines of help are short, for clap breaks those that are not.
const PASSWORDS: &str = "\
User and password are those that `docker login` keeps: in config.json of $DOCKER_CONFIG or
~/.docker, or in the programs that it names (credHelpers, credsStore). Proxies are those of
HTTPS_PROXY, HTTP_PROXY and NO_PROXY.";

const PULL: &str = "\
Examples:
  cluster-init bundle push registry.example.org/cluster-init      # on a host that has a bundle
  cluster-init bundle pull registry.example.org/cluster-init      # on one that shall have it
  cluster-init bundle pull                                        # on one that reaches upstream
  cluster-init bundle pull --mirror docker.io=mirror.example.org
  cluster-init bundle pull --mirror github.com=https://files.example.org/github

User and password are those that `docker login` keeps: in config.json of $DOCKER_CONFIG or
~/.docker, or in the programs that it names (credHelpers, credsStore). Proxies are those of
HTTPS_PROXY, HTTP_PROXY and NO_PROXY.";

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
        Command::Pull { registry, digest, with, mirror, reach } => {
            let from = match registry {
                Some(registry) => Origin::Registry { address: reach.address(&registry)?, digest },
                None if reach.plain_http => {
                    return Err(Failure::usage("--plain-http is for a registry that is named")
                        .hint("for mirrors: --mirror HOST=http://MIRROR"));
                }
                None => Origin::Upstream { with, program: own_program() },
            };
            // Not parsed by clap, which repeats what is wrong: it may hold a password.
            let mirrors = mirror.iter().map(|text| text.parse()).collect::<Result<Vec<Mirror>, _>>()?;
            pull(folder, from, mirrors, &Access::trusting(reach.ca_file.as_deref())?, printer).await
        }
        Command::Push { registry, reach } => {
            let access = Access::trusting(reach.ca_file.as_deref())?;
            let registry = Registry::at(reach.address(&registry)?, &access)?;
            push(&Bundle::open(&folder, &home.unpacked())?, registry, printer).await
        }
        Command::Verify => verify(Bundle::open(&folder, &home.unpacked())?, &folder, printer).await,
    }
}

/// This program. Not its path: the file may have been replaced since this process began.
fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

async fn build(home: &Home, folder: PathBuf, with: Vec<String>, printer: Printer) -> Result<()> {
    let options =
        Options { folder, work: home.cache().join("parts"), unpacked: home.unpacked(), program: own_program(), with };
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

async fn push(bundle: &Bundle, registry: Registry, printer: Printer) -> Result<()> {
    let registry = registry.with_credentials_of_docker().await?;
    let cancel = stopping("what is there is not pushed again");
    let events = ui::events(ui::style(false), Vec::new());
    let result = bundle.push(&registry, &events, &cancel).await;
    drop(events);
    let again = format!("cluster-init bundle push {}", registry.address());
    printer.value(&result.map_err(|error| error.going_on_with(&again))?, |pushed| {
        let Pushed { registry, images, manifests, digest } = pushed;
        format!("{registry} has {images} images and {manifests} manifests of the bundle {digest}")
    })
}

async fn pull(folder: PathBuf, from: Origin, mirrors: Vec<Mirror>, access: &Access, printer: Printer) -> Result<()> {
    let cancel = stopping("what has arrived is not pulled again");
    let events = ui::events(ui::style(false), Vec::new());
    let result = match Site::new(access.clone(), mirrors, &events) {
        Ok(site) => bundle::pull(folder, from, &site, &cancel).await,
        Err(error) => Err(error),
    };
    drop(events);
    printer.value(&result?, |pulled| {
        let came = match pulled.pulled.len() {
            0 => "everything was there".to_owned(),
            count => format!("{count} parts pulled, {} kept", pulled.kept),
        };
        format!("{}: {came}; {} moved, {}", pulled.folder.display(), size(pulled.moved), pulled.digest)
    })
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
