//! What the steps share: the environment, the run, and the clusters as they are found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{OnceCell, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::access;
use super::run::{Makes, Run, Subject};
use crate::backend::{Backend, Made, reachable};
use crate::bundle::Bundle;
use crate::capi::{self, Phase};
use crate::clock::Deadline;
use crate::docker::Docker;
use crate::environment::{self, Environment, Machines, Publication, Tools, Variables, Variant};
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::flux::{self, Hastener};
use crate::fsx;
use crate::git::Repository;
use crate::k8s::{Cluster, ObjectRef};
use crate::node::Home;
use crate::plan::{self, Cache};
use crate::saga::Scope;
use crate::watch::{Follow, Live};

/// Namespace of everything of ours.
pub const NAMESPACE: &str = "default";

/// One story being told.
#[derive(Debug)]
pub struct Story {
    /// How it was started.
    pub subject: Subject,
    /// Where clusters and runs live.
    pub home: Home,
    /// The run.
    pub run: Run,
    /// The environment.
    pub environment: Environment,
    /// The bundle's folder.
    pub bundle_folder: PathBuf,
    /// What makes the bootstrap cluster.
    pub backend: Backend,
    docker: Option<Docker>,
    /// When the whole of it must be done.
    pub deadline: Deadline,
    events: Events,
    repository: Repository,
    bundle: OnceCell<Bundle>,
    tools: OnceCell<[PathBuf; 2]>,
    publication: OnceCell<Publication>,
    bootstrap: OnceCell<Side>,
    management: OnceCell<Side>,
    remote: watch::Sender<Option<Cluster>>,
    /// The kind of infrastructure that the management cluster is made on, when preflight looked for it.
    pub(super) infrastructure: OnceCell<Option<String>>,
    /// Whether this process has installed the management cluster's Flux.
    pub(super) installed: OnceCell<()>,
}

/// A cluster with what follows and hurries it; both end with the story.
#[derive(Debug)]
pub struct Side {
    /// The cluster.
    pub cluster: Cluster,
    /// Its live objects.
    pub live: Live,
    _hasten: DropGuard,
}

impl Side {
    fn of(cluster: Cluster, events: &Events, remote: watch::Receiver<Option<Cluster>>) -> Self {
        let live = Live::start(&cluster, events);
        let stop = CancellationToken::new();
        tokio::spawn(Hastener::new(cluster.clone(), remote, events.clone()).run(stop.clone()));
        Self { cluster, live, _hasten: stop.drop_guard() }
    }
}

impl Story {
    /// Prepares to tell it.
    pub fn new(
        subject: Subject,
        home: Home,
        run: Run,
        environment: Environment,
        repository: Repository,
        bundle_folder: PathBuf,
        events: Events,
    ) -> Self {
        let settings = environment.settings();
        let uses_docker = settings.machines == Machines::Docker || settings.backend == environment::Backend::Kind;
        let docker = uses_docker.then(Docker::default);
        let backend = access::backend(environment.settings(), &home, &bundle_folder);
        let deadline = Deadline::after(environment.settings().deadline);
        Self {
            subject,
            home,
            run,
            environment,
            bundle_folder,
            backend,
            docker,
            deadline,
            events,
            repository,
            bundle: OnceCell::new(),
            tools: OnceCell::new(),
            publication: OnceCell::new(),
            bootstrap: OnceCell::new(),
            management: OnceCell::new(),
            remote: watch::Sender::new(None),
            infrastructure: OnceCell::new(),
            installed: OnceCell::new(),
        }
    }

    /// At most `limit`, and no longer than the whole may take.
    pub fn at_most(&self, limit: Duration) -> Duration {
        self.deadline.left().min(limit).max(Duration::from_secs(1))
    }

    /// The local Docker, when the bootstrap cluster or the machines need it.
    pub fn docker(&self) -> Option<&Docker> {
        self.docker.as_ref()
    }

    /// The bundle.
    pub async fn bundle(&self) -> Result<&Bundle> {
        self.bundle.get_or_try_init(async || Ok(Bundle::open(&self.bundle_folder, &self.home.unpacked())?)).await
    }

    /// The programs that rendering takes.
    pub async fn tools(&self) -> Result<Tools<'_>> {
        let bundle = self.bundle().await?;
        let found = self
            .tools
            .get_or_try_init(async || {
                let (kustomize, helm) = tokio::try_join!(bundle.tool_async("kustomize"), bundle.tool_async("helm"))?;
                Ok::<_, Failure>([kustomize, helm])
            })
            .await?;
        Ok(Tools { kustomize: &found[0], helm: &found[1] })
    }

    /// What is deployed.
    pub async fn publication(&self) -> Result<&Publication> {
        let bundle = self.bundle().await?;
        let tools = self.tools().await?;
        self.publication
            .get_or_try_init(async || {
                let upstream = |url: &str| bundle.manifest(url).map_err(Failure::from);
                let variables = self.environment.variables(Variables::from_process())?;
                let dirty = self.subject.dirty;
                Publication::prepare(&self.repository, &self.environment, tools, &upstream, &variables, dirty)
                    .await
                    .map_err(Failure::from)
            })
            .await
    }

    /// The images that machines are to be started from, where they are containers, each with a template that says so.
    pub async fn machine_images(&self) -> Result<BTreeMap<String, ObjectRef>> {
        let (publication, cache) = (self.publication().await?, Cache::in_folder(self.home.rendered()));
        let backend = self.environment.settings().backend;
        Ok(plan::compose(publication, backend, self.tools().await?, &cache).await?.machine_images())
    }

    /// The management cluster's name.
    pub async fn cluster_name(&self) -> Result<String> {
        Ok(self.publication().await?.configuration.cluster_name())
    }

    /// What it makes, for whoever takes that away.
    pub async fn makes(&self) -> Result<Makes> {
        let settings = self.environment.settings();
        Ok(Makes {
            cluster: self.cluster_name().await?,
            machines: settings.machines,
            backend: settings.backend,
            infrastructure: self.infrastructure.get().cloned().flatten(),
        })
    }

    /// Whether the chart goes to a cluster that exists, and there is no bootstrap cluster.
    pub fn applies(&self) -> bool {
        self.subject.kubeconfig.is_some()
    }

    /// The variant of the release that the first cluster gets.
    pub fn variant(&self) -> Variant {
        if self.applies() { Variant::Management } else { Variant::Bootstrap }
    }

    /// What clusters fetch, looked for where they will look for it.
    pub async fn check_source(&self) -> Result<String> {
        self.publication().await?.check_source(&self.repository, false).await
    }

    /// The bootstrap cluster as its backend sees it.
    pub async fn made(&self) -> Result<Option<Made>> {
        self.backend.find(&access::name(self.environment.name())).await
    }

    /// The first cluster: the bootstrap cluster, or the one that exists; an error when there is none.
    pub async fn bootstrap(&self) -> Result<&Side> {
        self.bootstrap
            .get_or_try_init(async || {
                let cluster = if let Some(kubeconfig) = &self.subject.kubeconfig {
                    Cluster::connect("existing", kubeconfig).await?
                } else {
                    let made = self.made().await?.ok_or_else(|| Failure::failed("there is no bootstrap cluster"))?;
                    Cluster::connect("bootstrap", &made.kubeconfig).await?
                };
                Ok(Side::of(cluster, &self.events, self.remote.subscribe()))
            })
            .await
    }

    /// The management cluster, `None` as long as nobody knows how to reach it.
    pub async fn find_management(&self) -> Result<Option<&Side>> {
        if let Some(side) = self.management.get() {
            return Ok(Some(side));
        }
        // An existing cluster may have made others, but hands nothing over.
        if self.applies() {
            return Ok(None);
        }
        let path = self.run.kubeconfig();
        let known = fsx::read_text_if_present(&path)?;
        let text = if let Some(text) = &known {
            text.clone()
        } else {
            let bootstrap = self.bootstrap().await?;
            let secret = format!("{}-kubeconfig", self.cluster_name().await?);
            let Some(text) = bootstrap.cluster.secret_text(NAMESPACE, &secret, "value").await? else {
                return Ok(None);
            };
            text
        };
        let text = match &self.docker {
            Some(docker) if self.environment.settings().machines == Machines::Docker => {
                reachable(docker, &self.cluster_name().await?, &text).await?
            }
            _ => text,
        };
        if known.as_ref() != Some(&text) {
            fsx::write_private(&path, &text)?;
        }
        let cluster = Cluster::connect("management", &path).await?;
        self.remote.send_replace(Some(cluster.clone()));
        let side = Side::of(cluster, &self.events, watch::Sender::new(None).subscribe());
        Ok(Some(self.management.get_or_init(async || side).await))
    }

    /// The management cluster.
    pub async fn management(&self) -> Result<&Side> {
        self.find_management()
            .await?
            .ok_or_else(|| Failure::failed("the management cluster has published no kubeconfig"))
    }

    /// Whether the Cluster API objects are on the management cluster, for good: then nothing before the pivot is done again.
    pub async fn moved(&self) -> Result<bool> {
        if fsx::read_text_if_present(&self.run.kubeconfig())?.is_none() {
            return Ok(false);
        }
        let done =
            |record: Option<capi::Record>| record.is_some_and(|r| r.phase == Phase::Done && r.id == self.run.id.0);
        // The bootstrap cluster is told first that the pivot is done. The management cluster is asked only when the other
        // is gone: on a run that goes on, its API server may not have started yet.
        if let Ok(bootstrap) = self.bootstrap().await
            && let Ok(record) = capi::recorded(&bootstrap.cluster).await
        {
            return Ok(done(record));
        }
        let side = self.management().await?;
        Ok(done(capi::recorded(&side.cluster).await.map_err(Failure::from)?))
    }

    /// Whether the pivot has begun: Flux on the bootstrap cluster is held, so what it deployed must not be waited for.
    pub async fn fenced(&self) -> Result<bool> {
        if self.applies() {
            return Ok(false);
        }
        if self.moved().await? {
            return Ok(true);
        }
        let release = self.bootstrap().await?.cluster.get(&flux::release()).await?;
        Ok(release.is_some_and(|release| release.data["spec"]["suspend"] == true))
    }

    /// Waits on a cluster's objects, with the environment's patience.
    pub fn follow<'a>(&self, what: &str, scope: &'a Scope, side: &'a Side) -> Follow<'a> {
        Follow::new(what, self.environment.settings().no_progress, scope, &side.cluster, &side.live)
    }
}
