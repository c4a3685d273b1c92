//! What is kept of a failure for whoever looks into it: objects, logs, the journal; never a Secret.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use handlebars::Handlebars;
use kube::api::{Api, DynamicObject, LogParams};
use serde_json::{Value, json};

use super::story::Side;
use super::{Story, access};
use crate::failure::{Failure, Result};
use crate::k8s::reference;
use crate::node::{self, Node};
use crate::watch::{self, Snapshot, blame};
use crate::{fsx, yaml};

/// How long a cluster may take to be looked at: it may be the one that failed.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);
/// How much of a log is kept.
const LOG: usize = 512 << 10;

/// Collects into the run's `support` folder, which is made anew.
pub async fn collect(story: &Story, failure: &Failure) -> Result<PathBuf> {
    let folder = story.run.support();
    fsx::remove_dir(&folder)?;
    fsx::create_private_dir(&folder)?;
    let secrets = Redaction::of(story).await;
    let mut unread = Vec::new();
    let mut seen: Vec<Snapshot> = Vec::new();
    for side in [story.bootstrap().await.ok(), story.find_management().await.ok().flatten()].into_iter().flatten() {
        let name = side.cluster.name().to_owned();
        match tokio::time::timeout(LIMIT, cluster(side, &folder.join(&name), &secrets)).await {
            Ok(Ok(snapshot)) => seen.push(snapshot),
            Ok(Err(error)) => unread.push(format!("the {name} cluster was not read: {error}")),
            Err(_) => unread.push(format!("the {name} cluster did not answer in time")),
        }
    }
    let blame = seen.first().and_then(|first| blame(first, seen.get(1))).map(|found| found.to_string());
    let management = story.cluster_name().await.unwrap_or_default();
    for node in node::list(&story.home)? {
        let ours = [&management, &access::name(story.environment.name())].contains(&&node.config().cluster);
        if ours {
            logs_of(&node, &folder.join("nodes"), &secrets)?;
        }
    }
    let summary = summary(&json!({
        "environment": story.environment.name(),
        "again": story.subject.again(),
        "run": story.run.id.0,
        "version": env!("CARGO_PKG_VERSION"),
        "chain": failure.chain(),
        "hints": failure.hints,
        "blame": blame,
        "unread": unread,
    }))?;
    fsx::write_private(&folder.join("failure.txt"), secrets.apply(&summary))?;
    Ok(folder)
}

/// The page that is read first.
fn summary(facts: &Value) -> Result<String> {
    let mut page = Handlebars::new();
    // A name that the template has and the facts do not is a mistake of ours; text is text, not HTML.
    page.set_strict_mode(true);
    page.register_escape_fn(handlebars::no_escape);
    page.render_template(include_str!("failure.txt.hbs"), facts).map_err(Failure::from_error)
}

/// Objects and pod logs of one cluster.
async fn cluster(side: &Side, folder: &Path, secrets: &Redaction) -> Result<Snapshot> {
    let (snapshot, troubles) = watch::collect(&side.cluster).await;
    fsx::create_private_dir(folder)?;
    let mut kinds: std::collections::BTreeMap<String, Vec<Value>> = std::collections::BTreeMap::new();
    for object in snapshot.iter() {
        kinds.entry(reference(object).kind).or_default().push(plain(object));
    }
    for (kind, objects) in kinds {
        let text = yaml::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
        fsx::write_private(&folder.join(format!("{}.yaml", kind.to_lowercase())), secrets.apply(&text))?;
    }
    if !troubles.is_empty() {
        fsx::write_private(&folder.join("not-read.txt"), troubles.join("\n"))?;
    }
    let logs = folder.join("logs");
    fsx::create_private_dir(&logs)?;
    let pods: Vec<&DynamicObject> = snapshot.kind("Pod").collect();
    futures::stream::iter(pods).for_each_concurrent(4, async |pod| pod_logs(side, pod, &logs, secrets).await).await;
    Ok(snapshot)
}

/// An object without what is of no use to a reader.
fn plain(object: &DynamicObject) -> Value {
    let mut object = object.clone();
    object.metadata.managed_fields = None;
    serde_json::to_value(&object).unwrap_or_default()
}

/// Logs of all containers of a pod; a log that cannot be read is left out, since its pod says why.
async fn pod_logs(side: &Side, pod: &DynamicObject, folder: &Path, secrets: &Redaction) {
    let name = reference(pod);
    let namespace = name.namespace.clone().unwrap_or_default();
    let api: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(side.cluster.client().clone(), &namespace);
    let containers = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|field| pod.data["spec"][field].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str());
    for container in containers {
        let params = LogParams { container: Some(container.into()), tail_lines: Some(2000), ..LogParams::default() };
        if let Ok(text) = api.logs(&name.name, &params).await
            && !text.is_empty()
        {
            let file = folder.join(format!("{namespace}_{}_{container}.log", name.name));
            // One log that cannot be kept does not lose the others.
            let _ = fsx::write_private(&file, secrets.apply(&text));
        }
    }
}

/// The logs of a node's own processes.
fn logs_of(node: &Node, folder: &Path, secrets: &Redaction) -> Result<()> {
    let folder = folder.join(node.config().name.as_str());
    fsx::create_private_dir(&folder)?;
    for file in fsx::list(&node.paths().logs)? {
        let path = node.paths().logs.join(&file);
        if !path.is_file() {
            continue;
        }
        let bytes = fsx::read(&path)?;
        let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG)..]).into_owned();
        fsx::write_private(&folder.join(file), secrets.apply(&text))?;
    }
    Ok(())
}

/// Texts that must not get into the folder.
struct Redaction(Vec<String>);

impl Redaction {
    /// The secret values of the environment.
    async fn of(story: &Story) -> Self {
        let Ok(publication) = story.publication().await else { return Self(Vec::new()) };
        let configuration = &publication.configuration;
        let mut values = vec![configuration.username.expose().to_owned(), configuration.password.expose().to_owned()];
        for text in [&configuration.secrets, &configuration.infra_secrets] {
            if let Ok(value) = yaml::from_str::<Value>(text.expose(), "secrets") {
                strings(&value, &mut values);
            }
        }
        // Short words would redact half of every log.
        values.retain(|value| value.len() >= 6);
        Self(values)
    }

    fn apply(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for value in &self.0 {
            out = out.replace(value, "[redacted]");
        }
        private_keys(&tokens(&out))
    }
}

fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, found)),
        _ => {}
    }
}

/// Takes JSON web tokens out, which begin like no other word.
fn tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("eyJ") {
        let end = rest[at..]
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=')))
            .map_or(rest.len(), |end| at + end);
        out.push_str(&rest[..at]);
        out.push_str(if end - at > 40 { "[redacted]" } else { &rest[at..end] });
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// Takes private keys in PEM out.
fn private_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("PRIVATE KEY-----") {
        out.push_str(before);
        out.push_str("PRIVATE KEY-----[redacted]");
        rest = after.split_once("-----END").map_or("", |(_, after)| after);
        if let Some((_, after)) = rest.split_once("-----") {
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_page_says_what_failed_and_how_to_go_on() {
        let facts = json!({"environment": "local", "again": "cluster-init resume local", "run": "r1", "version": "1.0.0", "chain": ["step flux", "a <b> & \"c\""],
            "hints": ["look there"], "blame": "release\n  Pod x", "unread": ["the management cluster did not answer in time"]});
        insta::assert_snapshot!(summary(&facts).unwrap(), @r#"
        local: run r1 of cluster-init 1.0.0 failed.

        step flux
          caused by: a <b> & "c"
          hint: look there

        What blocks what, the root cause last:
        release
          Pod x

        the management cluster did not answer in time

        When that is mended, go on with: cluster-init resume local
        "#);
    }

    #[test]
    fn secrets_are_redacted() {
        let redaction = Redaction(vec!["s3cretpass".into()]);
        let token = format!("Bearer eyJ{}.x", "a".repeat(50));
        let text = format!(
            "url https://user:s3cretpass@host\n{token} end\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nafter"
        );
        let clean = redaction.apply(&text);
        assert_eq!(
            clean,
            "url https://user:[redacted]@host\nBearer [redacted] end\n-----BEGIN RSA PRIVATE KEY-----[redacted]\nafter"
        );
    }
}
