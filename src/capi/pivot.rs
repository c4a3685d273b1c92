//! Moves Cluster API objects from one cluster to another; see the module's diagram.
//!
//! Every phase can be run again from the live state: copies carry the pivot's mark, and the record on both clusters
//! says whether to roll back or forward. Nothing is deleted before every copy has been verified.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::api::DynamicObject;
use kube::core::GroupVersionKind;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::graph::{Graph, Uid};
use super::plan::{Item, Plan};
use super::record::{self, Phase, Record};
use super::transfer::{self, mark, patiently};
use super::{BLOCK_MOVE, Error, GROUP, MARK, PAUSED, differences, discover};
use crate::clock::{Deadline, Look, Stopwatch};
use crate::event::What;
use crate::failure::{Failure, Result};
use crate::k8s::{Cluster, ObjectRef, condition, reference};
use crate::saga::Scope;

/// How many requests are in flight at once.
const PARALLEL: usize = 16;
/// How long a rollback may take: it has a deadline of its own, since the step's has passed when it is needed most.
const ROLLBACK: Duration = Duration::from_mins(2);

/// One pivot.
#[derive(Debug)]
pub struct Pivot<'a> {
    source: &'a Cluster,
    target: &'a Cluster,
    id: String,
    scope: &'a Scope,
}

/// What a pivot did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Objects that moved.
    pub moved: usize,
    /// Objects that were copied and kept.
    pub kept: usize,
    /// Milliseconds of each phase, in order.
    pub phases: Vec<(&'static str, u64)>,
}

/// Objects by name.
type Index = BTreeMap<ObjectRef, DynamicObject>;

impl<'a> Pivot<'a> {
    /// A pivot with an id that stays the same when it is run again.
    pub fn new(source: &'a Cluster, target: &'a Cluster, id: &str, scope: &'a Scope) -> Self {
        Self { source, target, id: id.to_owned(), scope }
    }

    /// What would happen, without doing anything.
    pub async fn plan(&self) -> Result<Plan> {
        Ok(self.look().await?.1)
    }

    /// Does it, from wherever an earlier execution stopped.
    pub async fn run(mut self) -> Result<Report> {
        let mut report = Report::default();
        let found = self.find_record().await?;
        if let Some(record) = &found {
            // An execution that lost its journal goes on with the pivot that is there.
            self.id.clone_from(&record.id);
        }
        let plan = match found {
            Some(record) if record.phase == Phase::Done => return Ok(report),
            Some(record) if record.phase == Phase::Committed => record.plan,
            _ => self.copied(&mut report).await?,
        };
        // From here on only forwards: an interruption would leave the clusters paused, so it waits until the release.
        let scope = self.uninterrupted(self.scope.deadline);
        self.timed(&mut report, "delete", self.delete(&scope, &plan)).await?;
        self.timed(&mut report, "release", self.release(&scope, &plan)).await?;
        report.moved = plan.moved().count();
        report.kept = plan.copied().count() - report.moved;
        Ok(report)
    }

    /// The record that counts: the target's when it concerns this pivot, else the source's.
    async fn find_record(&self) -> Result<Option<Record>> {
        let concerns = |record: &Record| record.phase != Phase::Done || record.id == self.id;
        let target = record::recorded(self.target).await?.filter(concerns);
        let source = record::recorded(self.source).await?.filter(concerns);
        Ok(target.or(source))
    }

    /// Everything up to the point of no return; a failure rolls back.
    async fn copied(&self, report: &mut Report) -> Result<Plan> {
        let plan = match self.copy_and_verify(report).await {
            Ok(plan) => plan,
            Err(failure) => return Err(self.roll_back(failure).await),
        };
        // The target's record decides. Should its writing fail without telling whether it happened, the next run will see.
        let record = Record { id: self.id.clone(), phase: Phase::Committed, plan };
        self.timed(report, "commit", async {
            for cluster in [self.target, self.source] {
                patiently(self.scope, "the point of no return to be recorded".into(), async || {
                    record::write(cluster, &record).await
                })
                .await?;
            }
            Ok(())
        })
        .await?;
        Ok(record.plan)
    }

    async fn copy_and_verify(&self, report: &mut Report) -> Result<Plan> {
        let (_, plan) = self.look().await?;
        plan.check()?;
        self.timed(report, "pause", async {
            let record = Record { id: self.id.clone(), phase: Phase::Copying, plan: Plan::default() };
            for cluster in [self.source, self.target] {
                record::write(cluster, &record).await?;
            }
            self.pause(&plan).await
        })
        .await?;
        // Looked at again, now that nothing changes any more.
        let (graph, plan) = self.look().await?;
        plan.check()?;
        self.timed(report, "copy", self.copy(&graph, &plan)).await?;
        self.timed(report, "verify", self.verify(&plan)).await?;
        Ok(plan)
    }

    /// Journals a phase, reports it and measures it.
    async fn timed<T>(
        &self,
        report: &mut Report,
        phase: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let watch = Stopwatch::start();
        let value = if matches!(phase, "delete" | "release") {
            // Not a safe point: see `run`.
            self.uninterrupted(self.scope.deadline).effect(phase, work).await
        } else {
            self.scope.effect(phase, work).await
        }?;
        report.phases.push((phase, u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX)));
        Ok(value)
    }

    fn uninterrupted(&self, deadline: Deadline) -> Scope {
        let mut scope = self.scope.clone();
        scope.deadline = deadline;
        scope.cancel = CancellationToken::new();
        scope
    }

    fn progress(&self, phase: &str, done: usize, total: usize) {
        self.scope.events.send(What::Progress {
            subject: "pivot".into(),
            state: phase.into(),
            done: Some(done as u64),
            total: Some(total as u64),
        });
    }

    async fn look(&self) -> Result<(Graph, Plan)> {
        let graph = Graph::of(&discover(self.source).await?);
        let kinds: HashSet<GroupVersionKind> =
            graph.nodes.values().filter(|n| n.in_scope).map(|n| n.reference.gvk()).collect();
        let mut served = HashSet::new();
        for kind in kinds {
            match self.target.resource(&kind).await {
                Ok(_) => {
                    served.insert(kind);
                }
                Err(crate::k8s::Error::UnknownKind { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let plan = super::plan(&graph, &served, &self.id);
        Ok((graph, plan))
    }

    /// Pauses what roots the move, and waits until every controller says that it has seen it.
    async fn pause(&self, plan: &Plan) -> Result<()> {
        let scope = self.uninterrupted(self.scope.deadline);
        each(plan.copied().filter(|i| pausable(&i.object)), async |item| {
            let pause = json!({"metadata": {"annotations": {MARK: self.id}}, "spec": {"paused": true}});
            let pause_class = json!({"metadata": {"annotations": {MARK: self.id, PAUSED: "true"}}});
            let pause = if item.object.kind == "Cluster" { pause } else { pause_class };
            transfer::patch(&scope, self.source, &item.object, &pause).await
        })
        .await?;
        self.scope
            .wait("every controller on the source to pause")
            .every(Duration::from_millis(50))
            .until(async || {
                let busy =
                    self.index(self.source, plan).await?.into_iter().find_map(|(name, o)| Some((name, busy(&o)?)));
                Ok(busy.map_or(Look::Ready(()), |(name, state)| Look::Pending(format!("{name} {state}"))))
            })
            .await
    }

    async fn copy(&self, graph: &Graph, plan: &Plan) -> Result<()> {
        // A request that is given up may still be served, after the rollback has looked: so none is given up.
        let scope = self.uninterrupted(self.scope.deadline);
        let namespaces: BTreeSet<&str> = plan.copied().filter_map(|i| i.object.namespace.as_deref()).collect();
        each(namespaces, async |name| transfer::namespace(&scope, self.target, name).await).await?;
        let uids: Mutex<BTreeMap<Uid, Uid>> = Mutex::default();
        let lock = || uids.lock().unwrap_or_else(PoisonError::into_inner);
        let total = plan.copied().count();
        for group in plan.groups() {
            self.scope.safe_point()?;
            each(group, async |(item, moves): (&Item, bool)| {
                let source = &graph.nodes[&item.uid].object;
                let copy = transfer::copy_of(source, &lock(), &self.id);
                let what = format!("{} to be copied to the {} cluster", item.object, self.target.name());
                let uid = patiently(&scope, what, async || transfer::create(self.target, source, &copy, !moves).await)
                    .await?;
                lock().insert(item.uid.clone(), uid);
                Ok(())
            })
            .await?;
            self.progress("copy", lock().len(), total);
        }
        Ok(())
    }

    /// Compares every copy with its source, both as they are now.
    async fn verify(&self, plan: &Plan) -> Result<()> {
        let (sources, copies) = tokio::try_join!(self.index(self.source, plan), self.index(self.target, plan))?;
        let uids: BTreeMap<Uid, Uid> =
            sources.iter().filter_map(|(name, source)| Some((Uid::of(source), Uid::of(copies.get(name)?)))).collect();
        let differs = |item: &Item| match (sources.get(&item.object), copies.get(&item.object)) {
            (None, _) => Some("the source is gone".into()),
            (_, None) => Some("there is no copy".into()),
            (Some(source), Some(_)) if Uid::of(source) != item.uid => Some("the source was replaced".into()),
            (Some(source), Some(copy)) if mark(copy) == Some(&self.id) => {
                let found = differences(source, copy, &uids);
                (!found.is_empty()).then(|| found.join(", "))
            }
            // What the target had before is its own; what moves was copied, or the copying would have failed.
            _ => None,
        };
        let mut differing = plan.copied().filter_map(|item| Some((item, differs(item)?)));
        match differing.next() {
            None => Ok(()),
            Some((item, what)) => {
                Err(Error::Differs { object: item.object.clone().into(), what, more: differing.count() }.into())
            }
        }
    }

    async fn delete(&self, scope: &Scope, plan: &Plan) -> Result<()> {
        let (sources, copies) = tokio::try_join!(self.index(self.source, plan), self.index(self.target, plan))?;
        if let Some(lost) = plan.moved().find(|i| sources.contains_key(&i.object) && !copies.contains_key(&i.object)) {
            return Err(Error::NoCopy { object: lost.object.clone().into(), cluster: self.target.name().into() }.into());
        }
        let total = plan.moved().count();
        let mut done = 0;
        for group in plan.groups().into_iter().rev() {
            let group: Vec<&Item> = group.into_iter().filter(|(_, moves)| *moves).map(|(item, _)| item).collect();
            done += group.len();
            each(group, async |item| transfer::remove(scope, self.source, &item.object, &item.uid).await).await?;
            self.progress("delete", done, total);
        }
        Ok(())
    }

    /// Lets the target's controllers work, and takes our marks away.
    async fn release(&self, scope: &Scope, plan: &Plan) -> Result<()> {
        let copies = self.index(self.target, plan).await?;
        let marked: Vec<&ObjectRef> =
            copies.iter().filter(|(_, o)| mark(o) == Some(&self.id)).map(|(name, _)| name).collect();
        let (roots, others): (Vec<&ObjectRef>, Vec<&ObjectRef>) = marked.into_iter().partition(|name| pausable(name));
        each(others, async |name| transfer::patch(scope, self.target, name, &unpaused(name)).await).await?;
        // Classes before the clusters that use them.
        let (clusters, classes): (Vec<&ObjectRef>, Vec<&ObjectRef>) =
            roots.into_iter().partition(|r| r.kind == "Cluster");
        for group in [classes, clusters] {
            each(group, async |name| transfer::patch(scope, self.target, name, &unpaused(name)).await).await?;
        }
        let record = Record { id: self.id.clone(), phase: Phase::Done, plan: plan.clone() };
        for cluster in [self.source, self.target] {
            patiently(scope, "the end of the pivot to be recorded".into(), async || {
                record::write(cluster, &record).await
            })
            .await?;
        }
        Ok(())
    }

    /// Takes our copies away and lifts the pause; returns the failure that made it necessary, with what became of it.
    async fn roll_back(&self, failure: Failure) -> Failure {
        let scope = self.uninterrupted(Deadline::after(ROLLBACK));
        self.scope.events.warn(format!("the pivot is rolled back: {failure}"));
        match self.undo(&scope).await {
            Ok(()) => failure.hint("the source cluster is as it was: nothing was moved"),
            Err(second) => failure.hint(format!(
                "rolling back did not succeed ({second}): the Cluster may still be paused; running the pivot again goes on from there"
            )),
        }
    }

    /// Undoes a pivot that has not passed the point of no return.
    pub async fn undo(&self, scope: &Scope) -> Result<()> {
        let graph = Graph::of(&discover(self.target).await?);
        let (groups, blocked) = graph.groups();
        for group in std::iter::once(blocked).chain(groups.into_iter().rev()) {
            let ours = group.into_iter().filter(|uid| mark(&graph.nodes[*uid].object) == Some(&self.id));
            each(ours, async |uid| transfer::remove(scope, self.target, &graph.nodes[uid].reference, uid).await)
                .await?;
        }
        let found = discover(self.source).await?;
        let paused = found.objects().filter(|o| mark(o) == Some(&self.id)).map(reference);
        each(paused, async |name| transfer::patch(scope, self.source, &name, &unpaused(&name)).await).await?;
        for cluster in [self.target, self.source] {
            record::remove(cluster).await?;
        }
        Ok(())
    }

    /// The live objects of the plan's kinds, by name.
    async fn index(&self, cluster: &Cluster, plan: &Plan) -> Result<Index> {
        let kinds: HashSet<GroupVersionKind> = plan.copied().map(|item| item.object.gvk()).collect();
        let names: HashSet<&ObjectRef> = plan.copied().map(|item| &item.object).collect();
        let lists = futures::stream::iter(kinds.into_iter().map(async |kind| cluster.list(&kind, None, None).await))
            .buffer_unordered(PARALLEL)
            .collect::<Vec<_>>()
            .await;
        let mut index = Index::new();
        for list in lists {
            index.extend(list?.into_iter().map(|o| (reference(&o), o)).filter(|(name, _)| names.contains(name)));
        }
        Ok(index)
    }
}

/// Does the work for every item, in parallel; when some fail, the others are still done before the first failure is returned.
async fn each<T, F: Future<Output = Result<()>>>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> F,
) -> Result<()> {
    let all = futures::stream::iter(items.into_iter().map(work));
    let results: Vec<Result<()>> = all.buffer_unordered(PARALLEL).collect().await;
    results.into_iter().collect()
}

/// Whether pausing the object pauses what descends from it.
fn pausable(object: &ObjectRef) -> bool {
    object.group() == GROUP && matches!(object.kind.as_str(), "Cluster" | "ClusterClass")
}

/// The patch that takes our mark away, and the pause with it.
fn unpaused(object: &ObjectRef) -> serde_json::Value {
    match object.kind.as_str() {
        "Cluster" if pausable(object) => json!({"metadata": {"annotations": {MARK: null}}, "spec": {"paused": null}}),
        "ClusterClass" if pausable(object) => json!({"metadata": {"annotations": {MARK: null, PAUSED: null}}}),
        _ => json!({"metadata": {"annotations": {MARK: null}}}),
    }
}

/// Why an object's controller may still be at work; `None` when it says that it is paused or does not report it.
fn busy(object: &DynamicObject) -> Option<&'static str> {
    if object.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(BLOCK_MOVE)) {
        return Some("asks not to be moved yet (annotation clusterctl.cluster.x-k8s.io/block-move)");
    }
    let cluster = reference(object).kind == "Cluster";
    match condition(object, "Paused") {
        None if cluster => Some("has no Paused condition"),
        Some(paused) if paused["status"] != "True" => Some("is not paused yet"),
        Some(paused) if cluster && paused["observedGeneration"].as_i64() < object.metadata.generation => {
            Some("is not paused yet")
        }
        _ => None,
    }
}
