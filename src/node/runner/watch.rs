//! The runner's trunk: watches the pods that are bound to the node and gives each a task of its own.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::events::Reporter;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::config::RunnerConfig;
use super::context::{NodeContext, PodContext, StopOrder};
use super::machine::Machine;
use super::node_object::Presence;
use super::objects::Objects;
use super::pod::{self, Ending};
use super::ports::PortPool;
use super::restore;
use super::server::Server;
use crate::failure::{Failure, Result};
use crate::k8s::Cluster;
use crate::node::profiles::Profiles;
use crate::{clock, fsx};

/// Pods of a daemon that ends are given this long.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// Processes of a pod whose object has vanished are given this long.
const VANISHED: Duration = Duration::from_secs(2);

/// The pod runner of one node.
#[derive(Debug)]
pub struct Runner {
    config: RunnerConfig,
}

struct Running {
    context: Arc<PodContext>,
    object: watch::Sender<Arc<Pod>>,
    stop: watch::Sender<Option<StopOrder>>,
    ending: watch::Sender<Option<Ending>>,
    task: JoinHandle<()>,
}

/// The pods that run, for the kubelet server.
pub type Directory = Arc<Mutex<HashMap<String, Arc<PodContext>>>>;

impl Runner {
    /// A runner that does nothing yet.
    pub fn new(config: RunnerConfig) -> Self {
        Self { config }
    }

    /// Runs the node's pods until cancelled; returns when none of their processes is left.
    pub async fn run(self, cancel: CancellationToken) -> Result<()> {
        let config = self.config;
        fsx::create_private_dir(&config.pods())?;
        let profiles = Profiles::load(&config.extra_profiles)?;
        let cluster = Cluster::connect(&config.node_name, &config.kubeconfig).await?;
        let client = cluster.client().clone();
        let machine = Machine::look(&config.pods());
        let (events, queue) = mpsc::unbounded_channel();
        let reporter = Reporter { controller: "kubelet".into(), instance: Some(config.node_name.clone()) };
        let publisher = tokio::spawn(NodeContext::publish(client.clone(), reporter, queue));
        let presence = Presence::new(client.clone(), config.clone(), machine.clone());
        let node = Arc::new(NodeContext {
            objects: Objects::new(client.clone()),
            ports: PortPool::default(),
            config,
            client,
            profiles,
            machine,
            events,
        });
        let directory = Directory::default();
        let port = node.config.kubelet_port;
        let server = Server::listen(port, &node.config.tls, directory.clone()).await?;
        let mut trunk = Trunk::new(node, directory)?;
        let (result, (), ()) =
            tokio::join!(trunk.follow(&cancel), presence.keep(cancel.clone()), server.serve(cancel.clone()));
        trunk.end().await;
        publisher.abort();
        result
    }
}

struct Trunk {
    node: Arc<NodeContext>,
    directory: Directory,
    running: HashMap<String, Running>,
    addresses: Addresses,
}

impl Trunk {
    fn new(node: Arc<NodeContext>, directory: Directory) -> Result<Self> {
        let addresses = Addresses::of(&node.config.pod_subnet)?;
        Ok(Self { node, directory, running: HashMap::new(), addresses })
    }

    async fn follow(&mut self, cancel: &CancellationToken) -> Result<()> {
        let pods = Api::<Pod>::all(self.node.client.clone());
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node.config.node_name));
        let pace = backon::ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .without_max_times();
        let changes = watcher(pods, mine).backoff(watcher::ExponentialBackoff::from(pace));
        let mut changes = std::pin::pin!(changes);
        let mut listed = BTreeSet::new();
        let mut first = true;
        loop {
            let change = tokio::select! {
                change = changes.next() => change,
                () = cancel.cancelled() => return Ok(()),
            };
            match change {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(pod))) => {
                    listed.extend(pod.metadata.uid.clone());
                    self.take(pod);
                }
                Some(Ok(Event::InitDone)) => {
                    let gone: Vec<String> = self.running.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                    for uid in gone {
                        self.vanished(&uid);
                    }
                    if std::mem::take(&mut first) {
                        self.remove_orphans(&listed);
                    }
                }
                Some(Ok(Event::Apply(pod))) => self.take(pod),
                Some(Ok(Event::Delete(pod))) => self.vanished(&pod.metadata.uid.unwrap_or_default()),
                Some(Err(error)) => tracing::debug!(%error, "watch of the node's pods broke"),
                None => return Err(Failure::failed("the watch of the node's pods ended")),
            }
        }
    }

    /// Takes a new pod, or tells a running one that it changed.
    fn take(&mut self, pod: Pod) {
        self.forget_ended();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let grace = pod
            .metadata
            .deletion_grace_period_seconds
            .or(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds));
        if !self.running.contains_key(&uid) {
            self.begin(&uid, pod);
        } else if let Some(running) = self.running.get(&uid) {
            running.object.send_replace(Arc::new(pod));
        }
        if deleted && let Some(running) = self.running.get(&uid) {
            let grace = Duration::from_secs(u64::try_from(grace.unwrap_or(30)).unwrap_or_default());
            running.end(Ending::Deleted, grace);
        }
    }

    fn begin(&mut self, uid: &str, pod: Pod) {
        let known = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        let Some(ip) = self.addresses.take(known) else {
            tracing::warn!(node = self.node.config.node_name, "no pod address is left");
            return;
        };
        let view = restore::view(&pod, clock::now());
        let (object, object_seen) = watch::channel(Arc::new(pod));
        let (stop, stop_seen) = watch::channel(None);
        let (ending, ending_seen) = watch::channel(None);
        let context = Arc::new(PodContext::new(self.node.clone(), object_seen, stop_seen, ip.to_string(), view));
        let task = tokio::spawn(pod::live(context.clone(), ending_seen));
        self.directory.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), context.clone());
        self.running.insert(uid.to_owned(), Running { context, object, stop, ending, task });
    }

    /// The pod's object is gone.
    fn vanished(&mut self, uid: &str) {
        if let Some(running) = self.running.get(uid) {
            running.end(Ending::Gone, VANISHED);
        }
        self.forget_ended();
    }

    /// Forgets pods that are gone and whose tasks have ended; one with finalizers stays until its object is gone.
    fn forget_ended(&mut self) {
        let ended: Vec<String> = self
            .running
            .iter()
            .filter(|(_, running)| running.task.is_finished() && *running.ending.borrow() == Some(Ending::Gone))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in ended {
            if let Some(running) = self.running.remove(&uid) {
                self.addresses.release(&running.context.ip);
            }
            self.directory.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
        }
    }

    /// Removes folders of pods that no longer exist.
    fn remove_orphans(&self, listed: &BTreeSet<String>) {
        let pods = self.node.config.pods();
        for uid in fsx::list(&pods).unwrap_or_default() {
            if !listed.contains(&uid)
                && let Err(error) = fsx::remove_dir(&pods.join(&uid))
            {
                tracing::warn!(%error, "folder of an old pod stays");
            }
        }
    }

    /// Ends all pods' processes; the pods' objects stay.
    async fn end(self) {
        for running in self.running.values() {
            running.end(Ending::Kept, SHUTDOWN);
        }
        let limit = SHUTDOWN + Duration::from_secs(5);
        let tasks = futures::future::join_all(self.running.into_values().map(|running| running.task));
        if tokio::time::timeout(limit, tasks).await.is_err() {
            tracing::warn!("some pods did not end in time");
        }
    }
}

impl Running {
    /// Orders the pod to end; a later order may only leave less time.
    fn end(&self, ending: Ending, grace: Duration) {
        self.ending.send_modify(|now| {
            // Once the daemon ends, nobody deletes any more; once the object is gone, nobody needs to.
            if *now != Some(Ending::Kept) {
                *now = Some(ending);
            }
        });
        let own = self.context.spec().termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok());
        let grace = if ending == Ending::Kept { grace.min(Duration::from_secs(own.unwrap_or(30))) } else { grace };
        let order = StopOrder::within(grace);
        self.stop.send_if_modified(|now| {
            let sooner = now.is_none_or(|before| order.deadline < before.deadline);
            if sooner {
                *now = Some(order);
            }
            sooner
        });
    }
}

/// The addresses of a node's pods.
#[derive(Debug)]
struct Addresses {
    base: u32,
    size: u32,
    held: BTreeSet<u32>,
}

impl Addresses {
    fn of(subnet: &str) -> Result<Self> {
        let parsed = subnet.split_once('/').and_then(|(base, bits)| {
            let bits: u32 = bits.parse().ok().filter(|bits| (8..=30).contains(bits))?;
            Some((u32::from(base.parse::<Ipv4Addr>().ok()?), 1 << (32 - bits)))
        });
        let (base, size) = parsed.ok_or_else(|| Failure::usage(format!("{subnet:?} is no range of pod addresses")))?;
        Ok(Self { base, size, held: BTreeSet::new() })
    }

    /// An address, the known one if it is free; the first two and the last are not given away.
    fn take(&mut self, known: Option<&str>) -> Option<Ipv4Addr> {
        let known = known.and_then(|ip| Some(u32::from(ip.parse::<Ipv4Addr>().ok()?).wrapping_sub(self.base)));
        let usable = 2..self.size - 1;
        let known = known.filter(|offset| usable.contains(offset) && !self.held.contains(offset));
        let offset = known.or_else(|| usable.clone().find(|offset| !self.held.contains(offset)))?;
        self.held.insert(offset);
        Some(Ipv4Addr::from(self.base + offset))
    }

    fn release(&mut self, ip: &str) {
        if let Ok(ip) = ip.parse::<Ipv4Addr>() {
            self.held.remove(&u32::from(ip).wrapping_sub(self.base));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_distinct_and_kept() {
        let mut addresses = Addresses::of("198.18.3.0/24").unwrap();
        assert_eq!(addresses.take(Some("198.18.3.7")).unwrap().to_string(), "198.18.3.7");
        assert_eq!(addresses.take(Some("198.18.3.7")).unwrap().to_string(), "198.18.3.2");
        assert_eq!(addresses.take(Some("10.0.0.1")).unwrap().to_string(), "198.18.3.3");
        addresses.release("198.18.3.2");
        assert_eq!(addresses.take(None).unwrap().to_string(), "198.18.3.2");
        assert!(Addresses::of("nonsense").is_err());
        let mut tiny = Addresses::of("198.18.3.0/30").unwrap();
        assert!(tiny.take(None).is_some() && tiny.take(None).is_none());
    }
}
