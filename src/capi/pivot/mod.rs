//! Moves Cluster API objects from one cluster to another.
//!
//! ```text
//!   look ─► plan ─► claim ─► fence ─► copy ─► verify ─► status ─► acknowledge ─► COMMIT ─► delete ─► release
//!                     └───────────────── any failure: roll back ───────────────┘   └─ any failure: roll forward ─┘
//! ```
//!
//! Every phase can be run again from the live state and the [record](Record) on both clusters. Nothing is deleted before
//! every copy has been verified, and then only in the version that was verified.

mod acknowledge;
mod agree;
mod back;
mod copy;
mod delete;
mod fence;
mod forward;
mod lock;
mod pace;
mod preflight;
mod record;
mod remove;
mod status;
mod verify;

pub use fence::{Fence, Held};
pub use record::{Holder, Phase, Record, recorded};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::TryFutureExt;
use kube::api::DynamicObject;
use serde::Serialize;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use self::agree::{Decision, decide};
use self::copy::{Copy, patiently};
use self::fence::Sides;
use self::pace::{Pace, each};
use self::record::Seen;
use self::verify::Verified;
use super::graph::{Graph, Kind, Uid};
use super::plan::{Facts, Item, Plan};
use super::{Error, Filter, discover};
use crate::clock::{Deadline, Look, Stopwatch};
use crate::event::What;
use crate::failure::{Failure, Result};
use crate::k8s::{Cluster, ObjectRef, reference};
use crate::saga::Scope;

/// How a pivot is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What is moved.
    pub filter: Filter,
    /// How others are kept from the objects meanwhile.
    pub fence: Fence,
    /// Whether to wait until the Clusters are on the target what they were on the source.
    pub settle: bool,
}

/// One pivot.
#[derive(Debug)]
pub struct Pivot<'a> {
    sides: Sides<'a>,
    id: String,
    options: Options,
    scope: &'a Scope,
    pace: Pace,
    /// The kinds that are looked at: definitions are large, and read once.
    kinds: OnceCell<Vec<Kind>>,
}

/// What a pivot did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Objects that moved.
    pub moved: Vec<ObjectRef>,
    /// Objects that were copied and kept.
    pub kept: Vec<ObjectRef>,
    /// Milliseconds of each phase, in order.
    pub phases: Vec<(&'static str, u64)>,
    /// Writes to both clusters.
    pub writes: u64,
    /// What a person should know beside.
    pub remarks: Vec<String>,
}

/// Objects by name.
type Index = BTreeMap<ObjectRef, DynamicObject>;

/// What tells a cluster from all others: the UID of its namespace kube-system.
pub async fn identity(cluster: &Cluster) -> Result<String> {
    let found = cluster.get(&ObjectRef::global("v1", "Namespace", "kube-system")).await?;
    found.and_then(|namespace| namespace.metadata.uid).ok_or_else(|| {
        Failure::failed(format!("the {} cluster has no namespace kube-system", cluster.name()))
            .hint("its API server may have started just now: try again")
    })
}

impl<'a> Pivot<'a> {
    /// A pivot with an id that stays the same when it is run again.
    pub fn new(source: &'a Cluster, target: &'a Cluster, id: &str, scope: &'a Scope) -> Self {
        let sides = Sides { source, target };
        Self {
            sides,
            id: id.to_owned(),
            options: Options::default(),
            scope,
            pace: Pace::default(),
            kinds: OnceCell::new(),
        }
    }

    /// Does it in another way than by default.
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// What would happen, without doing anything.
    pub async fn plan(&self) -> Result<Plan> {
        Ok(self.look().await?.2)
    }

    /// Does it, from wherever an earlier execution stopped.
    pub async fn run(mut self) -> Result<Report> {
        let mut report = Report::default();
        let written = self.written();
        let Some((claim, before)) = self.claim().await? else { return Ok(report) };
        let (record, verified) = match claim.phase {
            Phase::Copying => {
                let Some((record, verified)) = self.copied(claim, before, &mut report).await? else {
                    report.remarks.push("there is nothing to move".into());
                    return Ok(report);
                };
                (record, Some(verified))
            }
            _ => (claim, None),
        };
        let _heart = lock::Heart::start(self.sides.source, self.sides.target);
        let forward = self.forward(&record, verified, &mut report).await;
        forward.map_err(|failure| {
            failure.hint("every object has a verified copy, nothing is lost: the same command goes on from here")
        })?;
        report.moved = record.plan.moved().map(|item| item.object.clone()).collect();
        let kept = record.plan.copied().filter(|item| matches!(item.verdict, super::Verdict::Keep { .. }));
        report.kept = kept.map(|item| item.object.clone()).collect();
        report.remarks.extend(record.plan.remarks);
        report.writes = self.written() - written;
        Ok(report)
    }

    fn written(&self) -> u64 {
        self.sides.source.writes() + self.sides.target.writes()
    }

    /// Decides from what is written on both clusters and here; `None` when it is all done. A pivot that is under way
    /// is taken over if nobody works on it.
    /// Of one that begins, what is there instead of its record is returned too: it is claimed when its plan is known.
    async fn claim(&mut self) -> Result<Option<(Record, Option<[Option<Seen>; 2]>)>> {
        let Sides { source, target } = self.sides;
        let (from, to) = tokio::try_join!(identity(source), identity(target))?;
        let (on_source, on_target) = tokio::try_join!(record::seen(source), record::seen(target))?;
        let text = |seen: &Option<Seen>| seen.as_ref().map(|seen| seen.record.clone());
        let (says, there) = (text(&on_source), text(&on_target));
        let mut record = match decide(&self.id, (&from, &to), self.journalled(), says.as_ref(), there.as_ref()) {
            Decision::Done => return Ok(None),
            Decision::Other(record) => return Err(Error::Other(record.line()).into()),
            Decision::Disagree(source_says, target_says, journal_says) => {
                return Err(Error::Disagree { source_says, target_says, journal_says }.into());
            }
            Decision::Begin => Record {
                id: self.id.clone(),
                phase: Phase::Copying,
                from,
                to,
                holder: lock::myself(),
                pulse: String::new(),
                plan: Plan::default(),
                fence: Vec::new(),
            },
            Decision::GoOn(record) => {
                lock::refuse_living(&record, source, target).await?;
                self.id.clone_from(&record.id);
                record
            }
        };
        record.holder = lock::myself();
        record.pulse = lock::pulse();
        let going_on = [&says, &there].into_iter().flatten().any(|seen| seen.id == record.id);
        let before = [on_source, on_target];
        if going_on {
            self.scope.effect("claim", self.write_claim(&record, &before)).await?;
            self.scope.events.note(format!("going on with {}", record.line()));
        }
        Ok(Some((record, (!going_on).then_some(before))))
    }

    /// Writes a claim on both clusters, the source's first: of two processes, one is told to stop.
    async fn write_claim(&self, record: &Record, before: &[Option<Seen>; 2]) -> Result<()> {
        for (cluster, seen) in [self.sides.source, self.sides.target].into_iter().zip(before) {
            match record::claim(cluster, record, seen.as_ref()).await {
                Err(Error::Cluster(error)) if error.conflict() => {
                    let other = record::recorded(cluster).await?.map(|record| record.line());
                    return Err(Error::Other(other.unwrap_or_else(|| "it began just now".into())).into());
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// How far the journal says that this pivot came.
    fn journalled(&self) -> Option<Phase> {
        let happened = |phase: &str| self.scope.happened(phase);
        match () {
            () if happened("release") => Some(Phase::Done),
            () if happened("commit") => Some(Phase::Committed),
            () if happened("fence") => Some(Phase::Copying),
            () => None,
        }
    }

    /// Everything up to the point of no return; a failure rolls back. `None` when there is nothing to move.
    async fn copied(
        &self,
        mut record: Record,
        before: Option<[Option<Seen>; 2]>,
        report: &mut Report,
    ) -> Result<Option<(Record, Verified)>> {
        let first = async {
            let (graph, facts, plan) = self.look().await?;
            plan.check()?;
            let fence = self.fence(&graph, &plan).await?;
            Ok((facts, fence, plan.copied().next().is_none()))
        };
        let (facts, more) = match first.await {
            Ok((_, _, true)) if before.is_some() => return Ok(None),
            Ok((facts, fence, _)) => (facts, fence),
            // Nothing has been touched, unless an earlier execution did.
            Err(failure) if before.is_some() => return Err(failure),
            Err(failure) => return Err(self.roll_back(&record, failure).await),
        };
        fence::extend(&mut record.fence, more);
        let claimed = match &before {
            Some(before) => self.scope.effect("claim", self.write_claim(&record, before)).await,
            None => self.write_both(&record, false).await,
        };
        let _heart = lock::Heart::start(self.sides.source, self.sides.target);
        let work = async {
            claimed?;
            self.copy_and_verify(&mut record, &facts, before.is_none(), report).await
        };
        match work.await {
            Ok((plan, verified)) => {
                record.plan = plan;
                record.phase = Phase::Committed;
                // The target's record decides. Should its writing fail without telling whether it happened, the next
                // run will see.
                self.timed(report, "commit", self.write_both(&record, true)).await?;
                Ok(Some((record, verified)))
            }
            Err(failure) => Err(self.roll_back(&record, failure).await),
        }
    }

    async fn copy_and_verify(
        &self,
        record: &mut Record,
        facts: &Facts,
        again: bool,
        report: &mut Report,
    ) -> Result<(Plan, Verified)> {
        let (graph, mut plan) = self.timed(report, "fence", self.hold(record, facts)).await?;
        plan.check()?;
        self.timed(report, "copy", self.copy(&graph, &plan, record, again)).await?;
        let verified = self.timed(report, "verify", self.verify(&mut plan, facts)).await?;
        self.timed(report, "status", self.status(&plan, &verified)).await?;
        self.timed(report, "acknowledge", self.acknowledged(&plan, &verified)).await?;
        Ok((plan, verified))
    }

    /// Writes the record of this pivot on both clusters.
    async fn write_both(&self, record: &Record, target_first: bool) -> Result<()> {
        let Sides { source, target } = self.sides;
        let scope = self.uninterrupted(self.scope.deadline);
        for cluster in if target_first { [target, source] } else { [source, target] } {
            patiently(&scope, &self.pace, "the pivot's record to be written".into(), async || {
                record::write(cluster, record).await
            })
            .await?;
        }
        Ok(())
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
            // Not a safe point: an interruption would leave the clusters paused.
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

    /// Reports how many objects a phase is through with, and how many a second.
    fn progress(&self, phase: &str, done: usize, total: usize, since: Stopwatch) {
        let rate = done as f64 / since.elapsed().as_secs_f64().max(0.001);
        self.scope.events.send(What::Progress {
            subject: "pivot".into(),
            state: format!("{phase}, {rate:.0} a second"),
            done: Some(done as u64),
            total: Some(total as u64),
        });
    }

    async fn graph(&self) -> Result<Graph> {
        let source = self.sides.source;
        let kinds = self.kinds.get_or_try_init(|| discover::kinds(source)).map_err(Failure::from).await?;
        Ok(Graph::filtered(&discover::list(source, kinds.clone()).await?, &self.options.filter))
    }

    async fn look(&self) -> Result<(Graph, Facts, Plan)> {
        let graph = self.graph().await?;
        self.options.filter.check(&graph).map_err(Error::Filter)?;
        let facts = preflight::facts(self.sides.source, self.sides.target, &graph, &self.id).await?;
        let plan = super::plan(&graph, &facts, &self.id);
        Ok((graph, facts, plan))
    }

    /// What must be held for the plan.
    async fn fence(&self, graph: &Graph, plan: &Plan) -> Result<Vec<Held>> {
        let Sides { source, target } = self.sides;
        let mut fence = fence::pauses(graph, plan, &self.id);
        let mut deployers = fence::deployers(plan.copied().map(|item| &graph.nodes[&item.uid].object));
        if self.options.fence == Fence::Stop {
            let (stops, deployed) = fence::stops(source, &self.id).await?;
            deployers.extend(deployed);
            fence::extend(&mut fence, stops);
        }
        fence::extend(&mut fence, fence::suspensions(source, false, &deployers, &self.id).await?);
        fence::extend(&mut fence, fence::suspensions(target, true, &deployers, &self.id).await?);
        Ok(fence)
    }

    /// Puts the fence up, and waits until everybody stands still; returns what there is then.
    async fn hold(&self, record: &mut Record, facts: &Facts) -> Result<(Graph, Plan)> {
        let scope = self.uninterrupted(self.scope.deadline);
        fence::hold(&scope, &self.pace, self.sides, &record.fence).await?;
        fence::settled(self.scope, self.sides, &record.fence).await?;
        self.scope
            .wait("every controller on the source to pause")
            .every(Duration::from_millis(50))
            .until(async || {
                let graph = self.graph().await?;
                let plan = super::plan(&graph, facts, &self.id);
                let mut more = fence::pauses(&graph, &plan, &self.id);
                more.retain(|held| !record.fence.iter().any(|other| other.object == held.object));
                if !more.is_empty() {
                    // A Cluster that somebody made just now.
                    record.fence.extend(more.iter().cloned());
                    self.write_both(record, false).await?;
                    fence::hold(&scope, &self.pace, self.sides, &more).await?;
                    return Ok(Look::Pending(format!("{} is not paused yet", more[0].object)));
                }
                let stopped = self.options.fence == Fence::Stop;
                let busy = plan
                    .copied()
                    .find_map(|item| Some((item, fence::busy(&graph.nodes[&item.uid].object, item, stopped)?)));
                Ok(match busy {
                    Some((item, state)) => Look::Pending(format!("{} {state}", item.object)),
                    None => Look::Ready((graph, plan)),
                })
            })
            .await
    }

    async fn copy(&self, graph: &Graph, plan: &Plan, record: &Record, again: bool) -> Result<()> {
        let target = self.sides.target;
        // A request that is given up may still be served, after the rollback has looked: so none is given up.
        let scope = self.uninterrupted(self.scope.deadline);
        let namespaces: BTreeSet<&str> = plan.copied().filter_map(|i| i.object.namespace.as_deref()).collect();
        each(&self.pace, namespaces, async |name| copy::namespace(&scope, &self.pace, target, name).await).await?;
        // What an earlier execution copied, and what is shared; else the plan has seen that there is nothing.
        let there = if again { self.index(target, plan).await? } else { Index::new() };
        if again {
            // What went from the source since then must not come back.
            let planned: BTreeSet<&ObjectRef> = plan.copied().map(|item| &item.object).collect();
            self.remove_copies(&scope, |name| !planned.contains(name)).await?;
        }
        let originals = fence::originals(&record.fence);
        let known: Mutex<(BTreeMap<Uid, Uid>, BTreeSet<Uid>)> = Mutex::default();
        let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, watch) = (plan.copied().count(), Stopwatch::start());
        for group in plan.groups() {
            self.scope.safe_point()?;
            each(&self.pace, group, async |(item, moves): (&Item, bool)| {
                let source = &graph.nodes[&item.uid].object;
                let managers = originals.get(&item.object).and_then(|held| held.managers());
                let (copy, trusted) = {
                    let known = lock();
                    let owners = source.metadata.owner_references.iter().flatten();
                    let owners = owners.filter_map(|owner| known.0.get(&Uid(owner.uid.clone())));
                    let trusted = owners.filter(|uid| known.1.contains(*uid)).cloned().collect();
                    (Copy::of(source, managers.as_ref(), &known.0, &trusted, &self.id), trusted)
                };
                let what = format!("{} to be copied to the {} cluster", item.object, target.name());
                let (uid, ours) = patiently(&scope, &self.pace, what, async || {
                    copy::create(target, &copy, &trusted, !moves, there.get(&item.object)).await
                })
                .await?;
                let mut known = lock();
                if ours {
                    known.1.insert(uid.clone());
                }
                known.0.insert(item.uid.clone(), uid);
                Ok(())
            })
            .await?;
            self.progress("copy", lock().0.len(), total, watch);
        }
        Ok(())
    }

    /// The live objects of the plan, by name.
    async fn index(&self, cluster: &Cluster, plan: &Plan) -> Result<Index> {
        let kinds = plan.copied().map(|item| item.object.gvk()).collect();
        let names: BTreeSet<&ObjectRef> = plan.copied().map(|item| &item.object).collect();
        let found = discover::of_kinds(cluster, &kinds).map_err(Failure::from).await?;
        Ok(found.into_iter().map(|o| (reference(&o), o)).filter(|(name, _)| names.contains(name)).collect())
    }
}
