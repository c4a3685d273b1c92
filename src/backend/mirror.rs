//! A registry beside the nodes that are containers: it holds the bundle's images under their upstream names, so that every
//! manifest stays as it is and no node needs a way out.
//!
//! It belongs to the machines, not to one cluster: a management cluster takes the images of tomorrow's machines from it, too,
//! and it stays when the bootstrap cluster goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use crate::bundle::{Bundle, Entry, place};
use crate::clock::{Deadline, Look, Wait};
use crate::docker::{self, Docker};
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::fsx;
use crate::k8s::ObjectRef;
use crate::node::Home;
use crate::oci::Image;
use crate::oci::push::Registry;

/// The container's name, which is also its host name on the nodes' network.
pub const MIRROR: &str = "cluster-init-mirror";
/// The network of kind's nodes and of Cluster API's docker provider; neither lets others be chosen.
pub const NETWORK: &str = "kind";
/// The label of containers and volumes that are ours; its value says what they are.
pub const LABEL: &str = "cluster-init.dev/owned";
/// The label with the digest of the image that the container was made from.
const IMAGE: &str = "cluster-init.dev/image";
/// The label with the address of the daemon's host at which its port is published.
const REACHED: &str = "cluster-init.dev/published";
/// The address that only the daemon's host itself reaches.
const HERE: &str = "127.0.0.1";
const PORT: u16 = 5000;
/// What docker itself starts, rather than a node.
const FOR_DOCKER: [&str; 2] = ["node", "haproxy"];

/// What every environment with containers takes of the bundle, beside what is in every bundle.
const GROUP: &str = "docker";
/// What brings further versions.
const UPGRADE: &str = "upgrade";

/// A registry that answers.
#[derive(Debug)]
pub struct Served {
    registry: Registry,
    /// Its address as the daemon reaches it.
    near: String,
    /// What it was given.
    given: Mutex<BTreeSet<String>>,
}

/// The mirror of a bundle.
#[derive(Clone, Debug)]
pub struct Mirror {
    docker: Docker,
    bundle: Bundle,
    home: Home,
}

impl Mirror {
    /// The mirror that serves a bundle's images.
    pub fn new(docker: Docker, bundle: Bundle, home: Home) -> Self {
        Self { docker, bundle, home }
    }

    /// Starts it when it does not run, and waits until it answers.
    pub async fn serve(&self, events: &Events, deadline: Deadline, cancel: &CancellationToken) -> Result<Served> {
        self.network().await?;
        self.start(events).await?;
        let host = self.docker.elsewhere().await?.unwrap_or_else(|| HERE.into());
        let (registry, port) = Wait::new(format!("the registry in container {MIRROR} at {host}"), deadline.left())
            .within(deadline, cancel)
            .every(Duration::from_millis(50))
            .until(async || {
                let published = match self.docker.port(MIRROR, PORT).await {
                    // It is only just being made.
                    Err(error @ docker::Error::Answer { .. }) => return Ok(Look::Pending(error.to_string())),
                    published => published?,
                };
                let port = published.rsplit(':').next().unwrap_or_default().to_owned();
                let registry = Registry::new(&format!("{host}:{port}"), true, None)?;
                Ok(match registry.answers().await {
                    Ok(()) => Look::Ready((registry, port)),
                    Err(error) => Look::Pending(error.to_string()),
                })
            })
            .await?;
        // To the daemon, its own host is near in any case.
        Ok(Served { registry, near: format!("{HERE}:{port}"), given: Mutex::default() })
    }

    /// Gives it what it lacks, and docker the images that it starts machines from.
    pub async fn fill(
        &self,
        served: &Served,
        machines: &BTreeMap<String, ObjectRef>,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut wanted = BTreeSet::from([GROUP.to_owned()]);
        let mut images: BTreeSet<String> =
            FOR_DOCKER.into_iter().map(|part| self.reference(part)).collect::<Result<_>>()?;
        let entries = self.bundle.entries()?;
        for (image, template) in machines {
            match entries.iter().find(|entry| entry.reference == *image) {
                Some(entry) => {
                    wanted.insert(entry.with.clone());
                    images.insert(image.clone());
                }
                None => refuse_unless_foreign(image, template, &entries)?,
            }
        }
        let lacks = !wanted.is_subset(&served.given.lock().unwrap_or_else(PoisonError::into_inner));
        if lacks {
            self.bundle.push_images(&served.registry, &wanted, events, cancel).await?;
            served.given.lock().unwrap_or_else(PoisonError::into_inner).extend(wanted);
        }
        futures::stream::iter(&images).map(Ok).try_for_each(|image| self.load(image, &served.near, events)).await
    }

    async fn network(&self) -> Result<()> {
        Ok(self.docker.ensure_network(NETWORK, &format!("{LABEL}=network"), &format!("{LABEL}=look")).await?)
    }

    /// Starts the container, anew when it was made from another image.
    async fn start(&self, events: &Events) -> Result<()> {
        let name = self.reference("registry")?;
        let image = self.bundle.image(&name)?;
        let digest = image.digest().to_string();
        // The daemon's own host would not let anybody else in.
        let reached = if self.docker.elsewhere().await?.is_some() { "0.0.0.0" } else { HERE };
        if let Some(found) = self.docker.container(MIRROR).await? {
            if found.label(LABEL) != Some("mirror") {
                return Err(Failure::refused(format!("there is a container {MIRROR} that is not ours"))
                    .hint(format!("if nobody needs it: docker rm --force {MIRROR}")));
            }
            if found.label(IMAGE) == Some(&digest) && (reached == HERE || found.label(REACHED) == Some(reached)) {
                return if found.runs() { Ok(()) } else { Ok(self.docker.start(MIRROR).await?) };
            }
            self.docker.remove(MIRROR).await?;
        }
        events.progress("mirror", "starting a registry for the nodes");
        let config = image.manifest().config.digest.to_string();
        if self.docker.image(&name).await?.as_deref() != Some(config.as_str()) {
            self.load_archive(&name, &image).await?;
        }
        let options = [
            format!("--network={NETWORK}"),
            format!("--publish={reached}::{PORT}"),
            format!("--label={LABEL}=mirror"),
            format!("--label={IMAGE}={digest}"),
            format!("--label={REACHED}={reached}"),
            format!("--volume={MIRROR}:/var/lib/registry"),
            "--restart=unless-stopped".into(),
            "--env=OTEL_TRACES_EXPORTER=none".into(),
        ];
        // Made by its own name it would have no label, by which it is told from anybody else's.
        self.docker.ensure_volume(MIRROR, &format!("{LABEL}=mirror")).await?;
        match self.docker.run(MIRROR, &options, &name).await {
            // Another environment was faster, and gives it what it lacks as this one does.
            Err(error) if error.in_use() => Ok(()),
            // Another environment made the network at the same time: the younger one goes. The container is made, and not started.
            Err(error) if error.is_ambiguous() => {
                self.network().await?;
                Ok(self.docker.start(MIRROR).await?)
            }
            result => Ok(result.map(|_| ())?),
        }
    }

    /// Gives docker an image as a file.
    async fn load_archive(&self, name: &str, image: &Image) -> Result<()> {
        let folder = self.home.cache();
        fsx::create_dir(&folder)?;
        // Another environment may be doing the same.
        let archive = tempfile::Builder::new().prefix("image-").tempfile_in(&folder).map_err(Failure::from_error)?;
        image.write_docker_archive(name, fsx::create(archive.path())?)?;
        Ok(self.docker.load(archive.path()).await?)
    }

    /// Has docker pull an image from the mirror; layers that it has are not read again.
    async fn load(&self, name: &str, address: &str, events: &Events) -> Result<()> {
        let image = self.bundle.image(name)?;
        let config = image.manifest().config.digest.to_string();
        if self.docker.image(name).await?.as_deref() == Some(config.as_str()) {
            return Ok(());
        }
        events.progress("mirror", format!("giving docker the image {name}"));
        if self.docker.is_podman().await? {
            // It asks for TLS on loopback, too.
            return self.load_archive(name, &image).await;
        }
        let (repository, tag) = place(&name.parse()?);
        Ok(self.docker.pull_as(&format!("{address}/{repository}:{tag}"), name).await?)
    }

    /// The reference of a part's image.
    pub fn reference(&self, part: &str) -> Result<String> {
        reference(&self.bundle, part)
    }

    /// Writes the folder that tells a node's containerd to ask the mirror first, for images of every registry.
    pub fn write_hosts(folder: &Path) -> Result<PathBuf> {
        let default = folder.join("_default");
        fsx::create_dir(&default)?;
        fsx::write(&default.join("hosts.toml"), hosts())?;
        Ok(folder.to_owned())
    }
}

/// The reference of a part's image in a bundle.
pub fn reference(bundle: &Bundle, part: &str) -> Result<String> {
    let entry = bundle.entries()?.into_iter().find(|entry| entry.part == part);
    entry.map(|entry| entry.reference).ok_or_else(|| {
        Failure::preflight(format!("the bundle {} has no part {part}", bundle.folder().display()))
            .hint("make the parts for machines in containers: cluster-init bundle build --with docker")
    })
}

/// An image that the bundle does not have is the site's own, unless the bundle has it in other versions: then nobody else has it.
fn refuse_unless_foreign(image: &str, template: &ObjectRef, entries: &[Entry]) -> Result<()> {
    let repository = |image: &str| image.rsplit_once(':').map_or(image, |(repository, _)| repository).to_owned();
    let others: Vec<&str> =
        entries.iter().filter(|e| repository(&e.reference) == repository(image)).map(|e| e.version.as_str()).collect();
    if others.is_empty() {
        return Ok(());
    }
    let failure = Failure::preflight(format!(
        "{template}: machines are to be started from {image}, which the bundle has only as {}",
        others.join(", ")
    ))
    .hint("name a version that the bundle has in the environment's values");
    let has_more = entries.iter().any(|entry| entry.with == UPGRADE);
    Err(if has_more { failure } else { failure.hint("or bring another one: cluster-init bundle build --with upgrade") })
}

fn hosts() -> String {
    format!("[host.\"http://{MIRROR}:{PORT}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bundle::{Part, Parts};

    #[test]
    fn no_two_images_share_a_place() {
        let mut places: BTreeMap<_, String> = BTreeMap::new();
        for part in Parts::own().unwrap().all {
            let images = match &part {
                Part::Tool(program) | Part::Image(program) => program.images.clone(),
                Part::System(system) => system.images.clone(),
                Part::Manifest(_) => continue,
            };
            for image in images {
                let before = places.insert(place(&image.parse().unwrap()), part.name().to_owned());
                // The same image under the names of two registries is one image.
                assert!(before.is_none_or(|before| before == part.name()), "{image}");
            }
        }
        let (repository, tag) = place(&"registry:3.1.2".parse().unwrap());
        assert_eq!((repository.as_str(), tag.as_str()), ("library/registry", "3.1.2"));
    }

    #[test]
    fn a_version_that_nobody_has_is_refused_and_an_image_of_the_site_is_not() {
        let entry = |reference: &str, version: &str, with: &str| Entry {
            part: "node".into(),
            version: version.into(),
            kind: "image".into(),
            with: with.into(),
            reference: reference.into(),
            size: 1,
            digest: crate::oci::Digest::of(reference),
        };
        let template = ObjectRef::namespaced("v1", "DockerMachineTemplate", "default", "t");
        let mut entries = vec![entry("ghcr.io/cluster-init/node:v1.36.1", "v1.36.1", "docker")];
        assert!(refuse_unless_foreign("registry.example.org/node:v1.36.9", &template, &entries).is_ok());
        let refused = |entries: &[Entry]| {
            let error = refuse_unless_foreign("ghcr.io/cluster-init/node:v1.36.9", &template, entries).unwrap_err();
            format!("{} | {}", error, error.hints.join(" | "))
        };
        let one = "DockerMachineTemplate default/t: machines are to be started from ghcr.io/cluster-init/node:v1.36.9, which the bundle has \
                   only as v1.36.1 | name a version that the bundle has in the environment's values";
        assert_eq!(
            refused(&entries),
            format!("{one} | or bring another one: cluster-init bundle build --with upgrade")
        );
        entries.push(entry("ghcr.io/cluster-init/node:v1.36.3", "v1.36.3", UPGRADE));
        assert_eq!(refused(&entries), one.replace("only as v1.36.1", "only as v1.36.1, v1.36.3"));
    }

    #[test]
    fn nodes_are_sent_to_the_mirror() {
        let folder = tempfile::tempdir().unwrap();
        Mirror::write_hosts(&folder.path().join("certs.d")).unwrap();
        let text = fsx::read_text(&folder.path().join("certs.d/_default/hosts.toml")).unwrap();
        assert_eq!(text, "[host.\"http://cluster-init-mirror:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    }
}
