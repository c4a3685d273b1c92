//! When a Flux object is ready, as pure functions over its live state.

use serde_json::Value;

use super::SOURCE_NAME;
use crate::k8s::{DynamicObject, Readiness, condition, readiness as general};

/// Which revision must have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// Any.
    Any,
    /// This one: the tag of a source artifact, or the version of a chart.
    Revision(&'a str),
}

/// Judges a Flux object: its controller has seen the latest change, it is not suspended, it is ready, and what it is ready
/// with is the expected revision. Failures that only a change of the repository or of the values can heal are told apart.
pub fn readiness(object: &DynamicObject, expected: Expected<'_>) -> Readiness {
    let state = general(object);
    if state.is_ready() {
        return match (expected, revision(object)) {
            (Expected::Revision(wanted), Some(has)) if !matches(has, wanted) => {
                Readiness::Progressing(format!("still at revision {}", short(has)))
            }
            (Expected::Revision(wanted), None) if kind(object) != "HelmRepository" => {
                Readiness::Progressing(format!("revision {} has not arrived", short(wanted)))
            }
            _ => Readiness::Ready,
        };
    }
    if object.metadata.deletion_timestamp.is_some() || object.data.pointer("/spec/suspend") == Some(&Value::Bool(true))
    {
        return state;
    }
    // kustomize-controller raises observedGeneration only once it is done; until then its condition says more.
    let Some(ready) = condition(object, "Ready") else { return state };
    let generation = object.metadata.generation.unwrap_or(0);
    if ready["observedGeneration"].as_i64().is_some_and(|seen| seen < generation) || ready["status"] == "True" {
        return state;
    }
    let reason = ready["reason"].as_str().unwrap_or_default();
    let message = explain(ready["message"].as_str().unwrap_or_default());
    let words = if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") };
    let stalled = condition(object, "Stalled").is_some_and(|c| c["status"] == "True");
    if stalled || hopeless(reason, ready["message"].as_str().unwrap_or_default()) {
        Readiness::Failed(words)
    } else {
        Readiness::Progressing(words)
    }
}

/// Whether trying again cannot help: the repository, the chart or the values must change.
fn hopeless(reason: &str, message: &str) -> bool {
    // A ConfigMap or Secret with variables may still come.
    let build = reason == "BuildFailed" && !message.contains("substitute from");
    build
        || [
            "execution error at (",
            "specifications of the schema",
            "kustomization path not found",
            "install retries exhausted",
            "upgrade retries exhausted",
            "terminal error",
        ]
        .iter()
        .any(|sign| message.contains(sign))
}

/// The revision that an object is ready with.
fn revision(object: &DynamicObject) -> Option<&str> {
    let pointer = match kind(object) {
        "Kustomization" => "/status/lastAppliedRevision",
        "HelmRelease" => "/status/history/0/chartVersion",
        _ => "/status/artifact/revision",
    };
    object.data.pointer(pointer)?.as_str()
}

/// Whether `has` is the wanted revision or version. To a version Flux adds the generation of the chart's object ("+2", or ".2"
/// where it has added the commit).
fn matches(has: &str, wanted: &str) -> bool {
    revision_name(has) == wanted || has.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(['+', '.']))
}

/// What a revision is called by people: the tag of "tag@sha256:...", the commit of "branch@sha1:...".
pub fn revision_name(revision: &str) -> &str {
    match revision.rsplit_once("sha1:") {
        Some((_, commit)) => commit,
        None => revision.split('@').next().unwrap_or(revision),
    }
}

/// What a Kustomization of the release must be at: this revision where it is served from this repository; a component of another
/// repository has revisions of its own.
pub fn expected<'a>(kustomization: &DynamicObject, revision: &'a str) -> Expected<'a> {
    let source = kustomization.data.pointer("/spec/sourceRef/name").and_then(Value::as_str);
    if source == Some(SOURCE_NAME) { Expected::Revision(revision) } else { Expected::Any }
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

/// A revision as a person tells it from another.
fn short(revision: &str) -> String {
    revision_name(revision).chars().take(26).collect()
}

/// What a chart, Helm or Flux says about a failure, without the trace of templates around it.
pub fn explain(text: &str) -> String {
    if let Some((_, rest)) = text.split_once("execution error at (") {
        let said = rest.split_once("): ").map_or(rest, |(_, said)| said);
        return said.lines().next().unwrap_or_default().trim().to_owned();
    }
    if text.contains("specifications of the schema") {
        let said: Vec<String> = text.lines().filter_map(schema_line).collect();
        if !said.is_empty() {
            return said.join("; ");
        }
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Use --debug"));
    lines.collect::<Vec<_>>().join(" ").trim_start_matches("Error: ").to_owned()
}

/// A line of a schema's complaint, `- at '/components/capi': message`, with the key as it is written in values.
fn schema_line(line: &str) -> Option<String> {
    let (pointer, message) = line.trim().strip_prefix("- at '")?.split_once("': ")?;
    let key = pointer.trim_start_matches('/').replace('/', ".");
    if let (Some(name), "missing property 'repo'") = (key.strip_prefix("components."), message) {
        return Some(format!(
            "{key}.repo: missing: either {name} is not the name of a component, or it is a new one and must say its repository"
        ));
    }
    Some(if key.is_empty() { message.to_owned() } else { format!("{key}: {message}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(kind: &str, spec: &Value, status: &Value) -> DynamicObject {
        let value = json!({"apiVersion": "a/v1", "kind": kind, "metadata": {"name": "a", "generation": 3}, "spec": spec, "status": status});
        serde_json::from_value(value).unwrap()
    }

    fn conditions(status: &str, reason: &str, message: &str) -> Value {
        json!([{"type": "Ready", "status": status, "reason": reason, "message": message, "observedGeneration": 3}])
    }

    #[test]
    fn ready_means_ready_with_the_expected_revision() {
        let ready = |kind, revision: Value| {
            let mut status = json!({"observedGeneration": 3, "conditions": conditions("True", "Succeeded", "")});
            status.as_object_mut().unwrap().extend(revision.as_object().unwrap().clone());
            object(kind, &json!({}), &status)
        };
        let kustomization = ready("Kustomization", json!({"lastAppliedRevision": "abc@sha256:00"}));
        let release =
            ready("HelmRelease", json!({"history": [{"chartVersion": "0.1.0-gabc"}, {"chartVersion": "0.1.0-gold"}]}));
        let source = ready("OCIRepository", json!({"artifact": {"revision": "abc@sha256:00"}}));
        for (object, good, stale) in
            [(&kustomization, "abc", "ab"), (&release, "0.1.0-gabc", "0.1.0-gold"), (&source, "abc", "abcd")]
        {
            assert_eq!(readiness(object, Expected::Any), Readiness::Ready);
            assert_eq!(readiness(object, Expected::Revision(good)), Readiness::Ready);
            assert!(matches!(readiness(object, Expected::Revision(stale)), Readiness::Progressing(_)));
        }
        let never = ready("Kustomization", json!({}));
        assert_eq!(readiness(&never, Expected::Revision("abc")).state(), "revision abc has not arrived");
        let repository = ready("HelmRepository", json!({}));
        assert_eq!(readiness(&repository, Expected::Revision("abc")), Readiness::Ready);
    }

    #[test]
    fn suspended_and_unseen_are_not_ready() {
        let status = json!({"observedGeneration": 3, "conditions": conditions("True", "Succeeded", "")});
        let suspended = object("Kustomization", &json!({"suspend": true}), &status);
        assert_eq!(readiness(&suspended, Expected::Any), Readiness::Progressing("suspended".into()));
        let unseen = json!({"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2}]});
        let unseen = object("Kustomization", &json!({}), &unseen);
        assert_eq!(readiness(&unseen, Expected::Any).state(), "its controller has not seen the latest change yet");
        assert_eq!(
            readiness(&object("HelmRelease", &json!({}), &json!({})), Expected::Any).state(),
            "not reconciled yet"
        );
    }

    #[test]
    fn a_failure_is_told_before_the_generation_is_observed() {
        let status =
            |reason, message| json!({"observedGeneration": 1, "conditions": conditions("False", reason, message)});
        let cases = [
            ("DependencyNotReady", "dependency 'default/capi' is not ready", false),
            ("ReconciliationFailed", "Internal error: failed calling webhook", false),
            ("BuildFailed", "substitute from 'Secret/x' error: not found", false),
            ("BuildFailed", "kustomize build failed: no such file", true),
            ("ArtifactFailed", "kustomization path not found: stat /tmp/x", true),
            ("InstallFailed", "Helm install failed: execution error at (a/b.yaml:1:2): phase: unknown value", true),
        ];
        for (reason, message, failed) in cases {
            let state = readiness(&object("Kustomization", &json!({}), &status(reason, message)), Expected::Any);
            assert_eq!(matches!(state, Readiness::Failed(_)), failed, "{state:?}");
            assert!(state.state().starts_with(reason), "{state:?}");
        }
    }

    #[test]
    fn traces_are_taken_away() {
        let cases = [
            (
                "Error: execution error at (telco-cloud-init/templates/sources.yaml:8:19): components.a.repo: unknown repository \"x\"\n\nUse --debug flag to render out invalid YAML\n",
                "components.a.repo: unknown repository \"x\"",
            ),
            (
                "Error: values don't meet the specifications of the schema(s) in the following chart(s):\ntelco-cloud-init:\n- at '/components/capi': additional properties 'enabld' not allowed\n- at '': additional properties 'foo' not allowed\n",
                "components.capi: additional properties 'enabld' not allowed; additional properties 'foo' not allowed",
            ),
            (
                "Error: values don't meet the specifications of the schema(s) in the following chart(s):\ntelco-cloud-init:\n- at '/components/x': missing property 'repo'\n",
                "components.x.repo: missing: either x is not the name of a component, or it is a new one and must say its repository",
            ),
            ("Error: cannot load values.yaml: x\n\nUse --debug flag\n", "cannot load values.yaml: x"),
        ];
        for (text, said) in cases {
            assert_eq!(explain(text), said);
        }
    }
}
