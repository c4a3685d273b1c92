//! A container's environment as Kubernetes defines it: `env`, `envFrom`, `valueFrom`, `$(VAR)`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMapEnvSource, Container, EnvVarSource, SecretEnvSource};

use super::downward::{self, Facts};
use super::objects::{Content, SourceKind, SourceRef};

/// ConfigMaps and Secrets that were read for a container; `None` for one that does not exist.
pub type Sources = BTreeMap<SourceRef, Option<Content>>;

/// The ConfigMaps and Secrets that a container's environment comes from.
pub fn needed(container: &Container) -> Vec<SourceRef> {
    let mut needed = Vec::new();
    for from in container.env_from.iter().flatten() {
        needed.extend(from.config_map_ref.iter().map(|r| SourceRef::new(SourceKind::ConfigMap, &r.name)));
        needed.extend(from.secret_ref.iter().map(|r| SourceRef::new(SourceKind::Secret, &r.name)));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        needed.extend(source.config_map_key_ref.iter().map(|r| SourceRef::new(SourceKind::ConfigMap, &r.name)));
        needed.extend(source.secret_key_ref.iter().map(|r| SourceRef::new(SourceKind::Secret, &r.name)));
    }
    needed.sort();
    needed.dedup();
    needed
}

/// The environment: the image's, then the Services', then the container's own; later ones win.
pub fn build(
    container: &Container,
    image: &[(String, String)],
    services: &[(String, String)],
    sources: &Sources,
    facts: &Facts<'_>,
) -> Result<BTreeMap<String, String>, String> {
    let mut env: BTreeMap<String, String> = image.iter().chain(services).cloned().collect();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let content = match (&from.config_map_ref, &from.secret_ref) {
            (Some(ConfigMapEnvSource { name, optional }), _) => whole(sources, SourceKind::ConfigMap, name, *optional)?,
            (_, Some(SecretEnvSource { name, optional })) => whole(sources, SourceKind::Secret, name, *optional)?,
            _ => None,
        };
        for (key, value) in content.into_iter().flatten() {
            env.insert(format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => Some(expand(text, &env)),
            (_, Some(source)) => from_source(container, source, sources, facts)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.insert(var.name.clone(), value);
        }
    }
    Ok(env)
}

fn whole<'a>(
    sources: &'a Sources,
    kind: SourceKind,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a Content>, String> {
    match sources.get(&SourceRef::new(kind, name)) {
        Some(Some(content)) => Ok(Some(content)),
        _ if optional == Some(true) => Ok(None),
        _ => Err(format!("{kind} {name:?} not found")),
    }
}

fn key(
    sources: &Sources,
    kind: SourceKind,
    name: &str,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, String> {
    match whole(sources, kind, name, optional)?.map(|content| content.get(key)) {
        Some(Some(value)) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        Some(None) if optional != Some(true) => Err(format!("couldn't find key {key} in {kind} {name:?}")),
        _ => Ok(None),
    }
}

fn from_source(
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
    facts: &Facts<'_>,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        downward::field(&field.field_path, facts).map(Some)
    } else if let Some(resource) = &source.resource_field_ref {
        downward::resource(container, resource, facts).map(Some)
    } else if let Some(r) = &source.config_map_key_ref {
        key(sources, SourceKind::ConfigMap, &r.name, &r.key, r.optional)
    } else if let Some(r) = &source.secret_key_ref {
        key(sources, SourceKind::Secret, &r.name, &r.key, r.optional)
    } else {
        Err("a valueFrom of a kind that this node does not know".into())
    }
}

/// Replaces `$(VAR)` by the variable's value; `$$` stands for `$`, an unknown variable stays as it is written.
pub fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            tail
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match env.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            tail
        } else {
            out.push('$');
            after
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn expansion_follows_kubernetes() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        let cases = [
            ("$(A)-$(A)", "1-1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$A ${A} 5$", "$A ${A} 5$"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
        ];
        for (from, to) in cases {
            assert_eq!(expand(from, &env), to, "{from}");
        }
    }

    #[test]
    fn later_sources_win_and_may_refer_to_earlier_ones() {
        let container = container(json!({
            "name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
            "env": [
                {"name": "ONE", "value": "1"},
                {"name": "TWO", "value": "$(ONE)$(P_k)$(HOST)"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
                {"name": "OPT", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": true}}},
            ]
        }));
        let sources = Sources::from([
            (SourceRef::new(SourceKind::ConfigMap, "cm"), Some(Content::from([("k".into(), b"v".to_vec())]))),
            (SourceRef::new(SourceKind::Secret, "s"), Some(Content::from([("password".into(), b"pw".to_vec())]))),
            (SourceRef::new(SourceKind::Secret, "none"), None),
        ]);
        assert_eq!(needed(&container), sources.keys().cloned().collect::<Vec<_>>());
        let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).unwrap();
        let facts = Facts { pod: &pod, pod_ip: "198.18.0.2", host_ip: "198.19.0.1", cpus: 2, memory: 1 << 30 };
        let services = [("HOST".to_owned(), "h".to_owned())];
        let image = [("ONE".to_owned(), "image".to_owned()), ("PATH".to_owned(), "/bin".to_owned())];
        let env = build(&container, &image, &services, &sources, &facts).unwrap();
        assert_eq!(env["TWO"], "1vh");
        assert_eq!(env["POD"], "p");
        assert_eq!(env["S"], "pw");
        assert_eq!(env["PATH"], "/bin");
        assert!(!env.contains_key("OPT"));
    }

    #[test]
    fn a_missing_source_is_named() {
        let container = container(json!({
            "name": "c",
            "env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}}]
        }));
        let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).unwrap();
        let facts = Facts { pod: &pod, pod_ip: "", host_ip: "", cpus: 2, memory: 1 << 30 };
        let error = build(&container, &[], &[], &Sources::new(), &facts).unwrap_err();
        assert_eq!(error, "secret \"s\" not found");
        let empty = Sources::from([(SourceRef::new(SourceKind::Secret, "s"), Some(Content::new()))]);
        let error = build(&container, &[], &[], &empty, &facts).unwrap_err();
        assert_eq!(error, "couldn't find key password in secret \"s\"");
    }
}
