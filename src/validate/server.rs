//! A real API server looks at every object: schema, defaults, admission, names.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::memory::{Known, Memory};
use crate::backend::{Local, LocalSpec};
use crate::clock::Deadline;
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::k8s::{self, Cluster, DynamicObject, apply_order, reference};
use crate::plan::{Mask, Plan, Problem};

/// The cluster's name.
const NAME: &str = "validate";
/// On whose behalf it is made.
const OWNER: &str = "validate";
/// How long it may take to start, and how long one environment may take.
const LIMIT: Duration = Duration::from_mins(2);
/// How many objects are looked at at once.
const PARALLEL: usize = 16;

/// A local cluster that holds nothing but namespaces and kinds; it starts when it is asked for the first time.
#[derive(Debug)]
pub struct Server {
    local: Local,
    /// The folder with what was said before.
    memory: PathBuf,
    /// What tells the server's program from others.
    program: String,
    events: Events,
    cancel: CancellationToken,
    running: OnceCell<Running>,
}

#[derive(Debug)]
struct Running {
    cluster: Cluster,
    /// Whether an earlier call left it running.
    found: bool,
}

/// What it says to a plan.
#[derive(Debug, Default)]
pub struct Answer {
    /// How many objects it accepts.
    pub accepted: usize,
    /// What it refuses.
    pub problems: Vec<Problem>,
    /// What it could not look at.
    pub notes: Vec<String>,
}

impl Server {
    /// A server made by the local backend. What it says is remembered in a folder, for servers of the same `program`.
    pub fn new(local: Local, memory: PathBuf, program: String, events: Events, cancel: CancellationToken) -> Self {
        Self { local, memory, program, events, cancel, running: OnceCell::new() }
    }

    /// The cluster: the one that an earlier call left running, or a new one.
    async fn cluster(&self) -> Result<&Cluster> {
        let start = async || {
            let found = self.local.find(NAME).await?;
            if let Some(made) = found.as_ref().filter(|made| made.owner != OWNER) {
                return Err(Failure::refused(format!("cluster {NAME} was made by {}, not by validate", made.owner))
                    .hint(format!("if nobody needs it: cluster-init local delete {NAME}; or pass --no-server")));
            }
            let spec = LocalSpec { throw_away: true, ..LocalSpec::new(NAME, OWNER) };
            let deadline = Deadline::after(LIMIT);
            let made = self.local.create_or_adopt(&spec, &self.events, deadline, &self.cancel).await?;
            let cluster = Cluster::connect(NAME, &made.kubeconfig).await?;
            Ok(Running { cluster, found: found.is_some() })
        };
        Ok(&self.running.get_or_try_init(start).await?.cluster)
    }

    /// Ends it, unless it is to stay, ran before, or was never asked.
    pub async fn end(self, keep: bool) -> Result<()> {
        match self.running.get() {
            Some(running) if !keep && !running.found => self.local.delete(NAME).await,
            _ => Ok(()),
        }
    }

    /// Has every object of a plan applied as a dry run.
    pub async fn ask(&self, plan: &Plan, mask: &Mask) -> Result<Answer> {
        let deadline = Deadline::after(LIMIT);
        let mut texts = BTreeSet::new();
        let mut objects: Vec<(&str, &DynamicObject)> = Vec::new();
        let mut asked_about = Vec::new();
        for part in &plan.parts {
            for object in &part.objects {
                // Both clusters get most objects.
                let text = serde_json::to_string(object).map_err(Failure::from_error)?;
                if texts.insert(text.clone()) {
                    objects.push((&part.folder, object));
                    asked_about.push(text);
                }
            }
        }
        let [namespaces, kinds, _] = apply_order(objects.iter().map(|(_, object)| (*object).clone()).collect());
        let real: Vec<DynamicObject> = namespaces.into_iter().chain(kinds.into_iter().map(own_kind)).collect();
        let memory = Memory::open(&self.memory, &plan.environment, &self.program, &real);
        let mut answer = Answer::default();
        // Without anything new, no server is needed.
        let new = asked_about.iter().any(|text| memory.recall(text).is_none());
        if new {
            answer.problems.extend(self.make(self.cluster().await?, &objects, real, deadline).await?);
            if !answer.problems.is_empty() {
                return Ok(answer);
            }
        }
        let verdict = async |folder: &str, object: &DynamicObject, text: &str| match memory.recall(text) {
            Some(Known::Accepted) => Ok(Verdict::Accepted),
            Some(Known::Unknown(note)) => Ok(Verdict::Unknown(note.clone())),
            None => look(self.cluster().await?, folder, object, plan.complete, mask).await,
        };
        let asked: Vec<_> = futures::stream::iter(objects.iter().zip(&asked_about))
            .map(|((folder, object), text)| verdict(folder, object, text))
            .buffered(PARALLEL)
            .collect()
            .await;
        let mut known = Vec::new();
        for (verdict, text) in asked.into_iter().zip(&asked_about) {
            match verdict? {
                Verdict::Accepted => {
                    answer.accepted += 1;
                    known.push((text.as_str(), Known::Accepted));
                }
                Verdict::Refused(problem) => answer.problems.push(problem),
                Verdict::Unknown(note) => {
                    known.push((text.as_str(), Known::Unknown(note.clone())));
                    answer.notes.push(note);
                }
            }
        }
        memory.keep(known);
        answer.notes.sort();
        answer.notes.dedup();
        Ok(answer)
    }

    /// Namespaces and kinds must be there before what is in them; everything else stays a dry run.
    async fn make(
        &self,
        cluster: &Cluster,
        objects: &[(&str, &DynamicObject)],
        real: Vec<DynamicObject>,
        deadline: Deadline,
    ) -> Result<Vec<Problem>> {
        let look = |object: &DynamicObject| {
            let object = object.clone();
            async move { (cluster.dry_run(&object, k8s::MANAGER, true).await, object) }
        };
        let looked: Vec<_> = futures::stream::iter(real.iter().map(look)).buffered(PARALLEL).collect().await;
        let mut problems = Vec::new();
        for (result, object) in looked {
            let Err(error) = result else { continue };
            let named = reference(&object);
            let folder = objects.iter().find(|(_, other)| reference(other) == named).map_or("", |(folder, _)| folder);
            problems.push(refused(folder, &object, &error, &Mask::default()).ok_or(error)?);
        }
        if problems.is_empty() {
            cluster.apply_all(real, deadline, &self.cancel).await?;
        }
        Ok(problems)
    }
}

async fn look(cluster: &Cluster, folder: &str, object: &DynamicObject, complete: bool, mask: &Mask) -> Result<Verdict> {
    match cluster.dry_run(object, k8s::MANAGER, true).await {
        Ok(_) => Ok(Verdict::Accepted),
        Err(k8s::Error::UnknownKind { kind, api_version, .. }) if !complete => {
            Ok(Verdict::Unknown(format!("{kind} of {api_version} was not looked at: its kind is not in the bundle")))
        }
        Err(k8s::Error::UnknownKind { kind, api_version, .. }) => {
            let named = reference(object);
            Ok(Verdict::Refused(Problem::object(
                folder,
                &named,
                "kind",
                format!("{named}: no component brings the kind {kind} of {api_version}"),
                "correct apiVersion and kind, or enable the component that brings it",
            )))
        }
        Err(error) => Ok(Verdict::Refused(refused(folder, object, &error, mask).ok_or(error)?)),
    }
}

enum Verdict {
    Accepted,
    Refused(Problem),
    Unknown(String),
}

/// A kind that needs no webhook to convert it: there is none here.
fn own_kind(mut kind: DynamicObject) -> DynamicObject {
    if let Some(spec) = kind.data["spec"].as_object_mut() {
        spec.insert("conversion".into(), json!({"strategy": "None"}));
    }
    kind
}

/// What the API server refuses about an object; `None` when it was not the object.
fn refused(folder: &str, object: &DynamicObject, error: &k8s::Error, mask: &Mask) -> Option<Problem> {
    let text = error.to_string();
    // Server-side apply calls what is no object of the kind an internal error.
    let untyped = text.contains("failed to create typed patch object");
    let about_it = |code| (400..500).contains(&code) && ![401, 408, 429].contains(&code);
    if !untyped && !error.code().is_some_and(about_it) {
        return None;
    }
    let named = reference(object);
    let said = text.split_once(" cluster: ").map_or(text.as_str(), |(_, said)| said);
    let said = match said.split_once("failed to create typed patch object (") {
        Some((_, rest)) => rest.split_once("): ").map_or(rest, |(_, said)| said),
        None => said,
    };
    let field = field_of(said);
    let message = format!("{named}: {}", mask.replace(said));
    Some(Problem::object(
        folder,
        &named,
        field,
        message,
        "correct it in the component, or in the values that it comes from",
    ))
}

/// The field that the API server names: `.spec.x: field not declared`, `unknown field "spec.x"`, `spec.x: Invalid value`.
fn field_of(said: &str) -> String {
    let words = said.split(|c: char| c.is_whitespace() || "\"',".contains(c));
    let field = words.map(|word| word.trim_matches(['.', ':'])).find(|word| {
        ["spec", "metadata", "data", "stringData", "rules", "webhooks", "subjects", "roleRef"]
            .iter()
            .any(|root| word.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])))
    });
    field.unwrap_or_default().replace('[', ".").replace(']', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_what_the_server_says() {
        let cases = [
            (
                "failed to create typed patch object (/a; v1): .spec.replcas: field not declared in schema",
                "spec.replcas",
            ),
            ("strict decoding error: unknown field \"spec.template.x\"", "spec.template.x"),
            ("Deployment.apps \"a\" is invalid: spec.containers[0].image: Required value", "spec.containers.0.image"),
            ("namespaces \"x\" not found", ""),
        ];
        for (said, field) in cases {
            assert_eq!(field_of(said), field, "{said}");
        }
    }
}
