//! The rendered environment: the values of the chart, open and secret.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::ssh_key::private_key;
use super::{Error, GitSource, Result, Secret, Variables};
use crate::flux::RELEASE_NAMESPACE;
use crate::git;
use crate::k8s::{DynamicObject, ObjectRef, reference};
use crate::yaml;

/// The ConfigMap with open values.
pub const VALUES: &str = "management-cluster-values";
/// The Secret with secret values and the credentials for Git; a GitRepository refers to it, too, and reads its own keys.
pub(super) const SECRETS: &str = "management-cluster-secrets";
/// The Secret with the credentials of the infrastructure.
pub(super) const INFRA_SECRETS: &str = "management-cluster-infra-secrets";
/// The Secret with the proxy that the Git server is reached through. Not `management-cluster-proxy`: to Cluster API that is the
/// authority of the cluster's front proxy.
const PROXY: &str = "git-proxy";
/// The Secret with what a GitRepository is read with over SSH. Apart from the other one: Flux would take a user's name and password there
/// for those of the key.
const SSH: &str = "git-ssh";
/// The Secret from which the management cluster's copies of all these are made.
pub(super) const COPY: &str = "management-cluster-copy";

/// What an environment gives the chart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The environment's name.
    pub environment: String,
    /// Values that all environments share.
    pub base_values: String,
    /// The environment's own values.
    pub values: String,
    /// Secret values.
    pub secrets: Secret,
    /// User name for Git repositories.
    pub username: Secret,
    /// Password or token for Git repositories.
    pub password: Secret,
    /// Private key for a Git server that is read over SSH.
    pub ssh_key: Secret,
    /// Credentials of the infrastructure, as values.
    pub infra_secrets: Secret,
    /// Where the clusters fetch the commit, when the source is Git.
    pub git: Option<GitSource>,
}

impl Configuration {
    /// Reads the objects that kustomize made of an environment, and replaces their variables.
    pub(super) fn read(environment: &str, objects: Vec<DynamicObject>, variables: &Variables) -> Result<Self> {
        let mut found = Self { environment: environment.to_owned(), ..Self::default() };
        let mut seen = Vec::new();
        for object in objects {
            let named = reference(&object);
            let name = named.name.clone();
            for (key, text) in texts(&object, environment, &named)? {
                let text = variables.replace(&text, &format!("environment {environment}, key {key} of {named}"))?;
                match (named.kind.as_str(), name.as_str(), key.as_str()) {
                    ("ConfigMap", VALUES, "base_values") => found.base_values = text,
                    ("ConfigMap", VALUES, "values") => found.values = text,
                    // Known better when it is published.
                    ("ConfigMap", VALUES, "CURRENT_COMMIT") => {}
                    ("Secret", SECRETS, "secrets") => found.secrets = Secret::new(text),
                    ("Secret", SECRETS, "username") => found.username = Secret::new(text),
                    ("Secret", SECRETS, "password") => found.password = Secret::new(text),
                    ("Secret", SECRETS, "identity") => {
                        let wrong = |(reason, remedy)| Error::PrivateKey {
                            environment: environment.to_owned(),
                            object: named.to_string(),
                            key: key.clone(),
                            reason,
                            remedy,
                        };
                        found.ssh_key = Secret::new(private_key(&text).map_err(wrong)?);
                    }
                    ("Secret", INFRA_SECRETS, "infra-secrets") => found.infra_secrets = Secret::new(text),
                    _ => {
                        let what = format!("key {key} of {named}");
                        return Err(Error::Unread { environment: environment.to_owned(), what });
                    }
                }
            }
            seen.push((named.kind, name));
        }
        if !seen.contains(&("ConfigMap".into(), VALUES.into())) {
            let what = format!("ConfigMap {VALUES}");
            return Err(Error::Missing { environment: environment.to_owned(), what });
        }
        found.check(environment)?;
        Ok(found)
    }

    /// The environment for which a ConfigMap with values was made.
    pub(super) fn environment_of(values: &DynamicObject) -> Option<&str> {
        values.data.pointer("/data/ENVIRONMENT").and_then(Value::as_str)
    }

    /// Every text that is merged into the values must be a map, or empty.
    fn check(&self, environment: &str) -> Result<()> {
        let open = [("base_values", &self.base_values), ("values", &self.values)];
        let secret = [("secrets", SECRETS, &self.secrets), ("infra-secrets", INFRA_SECRETS, &self.infra_secrets)];
        let open = open.into_iter().map(|(key, text)| (key, format!("ConfigMap {VALUES}"), text.as_str(), false));
        let secret = secret.into_iter().map(|(key, name, text)| (key, format!("Secret {name}"), text.expose(), true));
        for (key, object, text, hidden) in open.chain(secret) {
            let reason = match yaml::from_str::<Value>(text, key) {
                Ok(Value::Null | Value::Object(_)) => continue,
                Ok(_) => "it is no map of values".to_owned(),
                // The library's message may quote the text.
                Err(error) if hidden => format!("it is no YAML, line {}", error.line),
                Err(error) => error.to_string(),
            };
            return Err(Error::NoValues { environment: environment.to_owned(), object, key: key.to_owned(), reason });
        }
        Ok(())
    }

    /// The values in the order in which the HelmRelease merges them, without what it sets from single keys.
    pub fn layers(&self) -> [&str; 4] {
        [&self.base_values, &self.values, self.secrets.expose(), self.infra_secrets.expose()]
    }

    /// A digest of everything: when it changes, the release must be looked at again.
    pub fn digest(&self) -> String {
        let mut all = Sha256::new();
        let git = self.git.iter().flat_map(|git| [git.url.as_str(), &git.branch, &git.ca, &git.known_hosts]);
        let secret = [&self.username, &self.password, &self.ssh_key].map(Secret::expose);
        for text in self.layers().into_iter().chain(secret).chain(git) {
            all.update((text.len() as u64).to_be_bytes());
            all.update(text);
        }
        all.finalize().iter().fold(String::from("sha256:"), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// The spec of a Git source's GitRepository, as JSON: where it is, and what of it is deployed. Empty for other sources.
    pub(super) fn git_spec(&self, commit: &str, follow: bool) -> String {
        let Some(git) = &self.git else { return String::new() };
        let secret = if git::is_ssh(&git.url) { SSH } else { SECRETS };
        let mut spec = json!({"interval": "1m", "timeout": "60s", "url": git.url, "secretRef": {"name": secret},
            "ref": git.reference(commit, follow)});
        if !self.git_proxy().expose().is_empty() {
            spec["proxySecretRef"] = json!({"name": PROXY});
        }
        spec.to_string()
    }

    /// The management cluster's name: of its Cluster object, and so of its machines, nodes and containers.
    pub fn cluster_name(&self) -> String {
        let last = self
            .parsed_layers()
            .filter_map(|values| Some(values.pointer("/cluster/name")?.as_str()?.to_owned()))
            .last();
        last.unwrap_or_else(|| super::MANAGEMENT_CLUSTER.to_owned())
    }

    /// The layers of values as the chart puts them over each other.
    fn parsed_layers(&self) -> impl Iterator<Item = Value> {
        // What is no map of values was refused before.
        self.layers().into_iter().map(|layer| yaml::from_str(layer, "values").unwrap_or_default())
    }

    /// The URL of the proxy that the Git server is reached through; empty where it is reached directly.
    fn git_proxy(&self) -> Secret {
        let url = self.git.as_ref().map(|git| git.url.as_str()).filter(|url| !git::is_ssh(url));
        let host = url.and_then(|url| Some(url.parse::<http::Uri>().ok()?.host()?.to_owned()));
        let Some(host) = host else { return Secret::default() };
        let mut proxies = Map::new();
        for values in self.parsed_layers() {
            proxies.extend(values["proxies"].as_object().cloned().unwrap_or_default());
        }
        let text = |name: &str| proxies.get(name).and_then(Value::as_str).unwrap_or_default();
        let named = |name: &str| host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        let mut direct = text("no_proxy").split(',').map(|name| name.trim().trim_start_matches(['*', '.']));
        match text("https_proxy") {
            _ if direct.any(|name| !name.is_empty() && named(name)) => Secret::default(),
            "" => Secret::new(text("http_proxy").to_owned()),
            proxy => Secret::new(proxy.to_owned()),
        }
    }

    /// The certificates that a Git server is told by.
    fn git_ca(&self) -> &str {
        self.git.as_ref().map_or("", |git| &git.ca)
    }

    /// The keys that a Git server is told by.
    fn known_hosts(&self) -> &str {
        self.git.as_ref().map_or("", |git| &git.known_hosts)
    }

    /// The ConfigMap and the Secrets for one revision; with `follow` a Git source's branch instead of it.
    pub fn objects(&self, commit: &str, chart_version: &str, follow: bool) -> Vec<DynamicObject> {
        let values = json!({
            "base_values": self.base_values,
            "values": self.values,
            "ENVIRONMENT": self.environment,
            "CURRENT_COMMIT": commit,
            "CHART_VERSION": chart_version,
            "VALUES_DIGEST": self.digest(),
            "GIT_SPEC": self.git_spec(commit, follow),
        });
        let secrets = json!({
            "secrets": encode(&self.secrets),
            "username": encode(&self.username),
            "password": encode(&self.password),
            "ca.crt": STANDARD.encode(self.git_ca()),
        });
        let ssh = json!({"identity": encode(&self.ssh_key), "known_hosts": STANDARD.encode(self.known_hosts())});
        vec![
            // The label makes kustomize-controller react at once; see kustomize-components/management-cluster-configs.
            object("ConfigMap", VALUES, &json!({"reconcile.fluxcd.io/watch": "Kustomization"}), &values),
            object("Secret", SECRETS, &json!({}), &secrets),
            object("Secret", INFRA_SECRETS, &json!({}), &json!({"infra-secrets": encode(&self.infra_secrets)})),
            object("Secret", PROXY, &json!({}), &json!({"address": encode(&self.git_proxy())})),
            object("Secret", SSH, &json!({}), &ssh),
        ]
    }

    /// The Secret from which `management-cluster-configs` makes the same objects on the management cluster: one variable a
    /// key, each a JSON string.
    pub fn copy(&self, commit: &str, chart_version: &str) -> DynamicObject {
        let (digest, git_proxy) = (self.digest(), self.git_proxy());
        let git_spec = self.git_spec(commit, false);
        let variables = [
            ("BASE_VALUES_JSON", self.base_values.as_str()),
            ("VALUES_JSON", &self.values),
            ("ENVIRONMENT_JSON", &self.environment),
            ("CURRENT_COMMIT_JSON", commit),
            ("CHART_VERSION_JSON", chart_version),
            ("VALUES_DIGEST_JSON", &digest),
            ("GIT_SPEC_JSON", &git_spec),
            ("GIT_PROXY_JSON", git_proxy.expose()),
            ("GIT_CA_JSON", self.git_ca()),
            ("GIT_KNOWN_HOSTS_JSON", self.known_hosts()),
            ("SSH_KEY_JSON", self.ssh_key.expose()),
            ("SECRETS_JSON", self.secrets.expose()),
            ("USERNAME_JSON", self.username.expose()),
            ("PASSWORD_JSON", self.password.expose()),
            ("INFRA_SECRETS_JSON", self.infra_secrets.expose()),
        ];
        let data: Map<String, Value> = variables
            .into_iter()
            .map(|(name, text)| (name.to_owned(), json!(STANDARD.encode(yaml_string(text)))))
            .collect();
        object("Secret", COPY, &json!({"reconcile.fluxcd.io/watch": "Kustomization"}), &Value::Object(data))
    }
}

/// The texts of a ConfigMap or Secret by their keys.
fn texts(object: &DynamicObject, environment: &str, named: &ObjectRef) -> Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for field in ["data", "stringData"] {
        for (key, value) in object.data[field].as_object().into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            let plain = named.kind != "Secret" || field == "stringData";
            // Long values are folded over lines.
            let folded = text.split_whitespace().collect::<String>();
            let decoded = STANDARD.decode(folded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let Some(text) = (if plain { Some(text.to_owned()) } else { decoded }) else {
                return Err(Error::NoValues {
                    environment: environment.to_owned(),
                    object: named.to_string(),
                    key: key.clone(),
                    reason: "it is no text".into(),
                });
            };
            texts.push((key.clone(), text));
        }
    }
    Ok(texts)
}

/// The texts of a ConfigMap or Secret by their keys; what is no text is left out.
pub fn texts_of(object: &DynamicObject) -> Vec<(String, String)> {
    texts(object, "", &reference(object)).unwrap_or_default()
}

fn encode(secret: &Secret) -> String {
    STANDARD.encode(secret.expose())
}

fn object(kind: &str, name: &str, labels: &Value, data: &Value) -> DynamicObject {
    let mut object =
        DynamicObject::new(name, &kube::api::ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&()));
    object.types = Some(kube::api::TypeMeta { api_version: "v1".into(), kind: kind.into() });
    object.metadata.namespace = Some(RELEASE_NAMESPACE.into());
    object.metadata.labels = serde_json::from_value(labels.clone())
        .ok()
        .filter(|labels: &std::collections::BTreeMap<_, _>| !labels.is_empty());
    object.data = if kind == "Secret" { json!({"type": "Opaque", "data": data}) } else { json!({"data": data}) };
    object
}

/// A text as a JSON string that is a YAML string, too: without characters that YAML does not allow or takes for line breaks.
fn yaml_string(text: &str) -> String {
    let json = Value::String(text.to_owned()).to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(values: &str, secrets: &str) -> Vec<DynamicObject> {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {VALUES}, namespace: default}}\ndata: {{values: {values:?}, CURRENT_COMMIT: '${{CURRENT_COMMIT}}'}}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: {SECRETS}, namespace: default}}\ndata: {{secrets: {}, password: {}}}\n",
            STANDARD.encode(secrets),
            STANDARD.encode("${TOKEN}"),
        );
        crate::k8s::parse(&text, "test").unwrap()
    }

    fn variables() -> Variables {
        Variables::of([("TOKEN", "a\"b: ,c"), ("CURRENT_COMMIT", "abc")])
    }

    #[test]
    fn a_git_server_is_reached_through_the_proxy_unless_no_proxy_names_it() {
        let cases = [
            ("", "", ""),
            (
                "{https_proxy: 'http://me:p%40x@proxy:3128'}",
                "{http_proxy: 'http://other:80'}",
                "http://me:p%40x@proxy:3128",
            ),
            ("{http_proxy: 'http://proxy:3128'}", "", "http://proxy:3128"),
            ("{https_proxy: 'http://proxy:3128'}", "{https_proxy: ''}", ""),
            ("{https_proxy: 'http://proxy:3128', no_proxy: 'localhost, .example.org'}", "", ""),
            ("{https_proxy: 'http://proxy:3128', no_proxy: 'git.example.org'}", "", ""),
            ("{https_proxy: 'http://proxy:3128', no_proxy: 'ple.org,example.com'}", "", "http://proxy:3128"),
        ];
        for (base, own, proxy) in cases {
            let values = |proxies: &str| if proxies.is_empty() { String::new() } else { format!("proxies: {proxies}") };
            let git = GitSource {
                url: "https://git.example.org/a.git".into(),
                branch: "main".into(),
                follow: false,
                ca: String::new(),
                known_hosts: String::new(),
            };
            let found = Configuration {
                base_values: values(base),
                values: values(own),
                git: Some(git),
                ..Configuration::default()
            };
            assert_eq!(found.git_proxy().expose(), proxy, "{base} {own}");
            let spec: Value = serde_json::from_str(&found.git_spec("c0ffee", false)).unwrap();
            assert_eq!(spec["ref"], json!({"branch": "main", "commit": "c0ffee"}));
            assert_eq!(spec.get("proxySecretRef").is_some(), !proxy.is_empty(), "{base} {own}");
            assert!(!spec.to_string().contains("3128"), "the proxy's password stays in the Secret");
        }
    }

    #[test]
    fn no_object_has_a_name_that_cluster_api_gives_to_a_secret_of_the_cluster() {
        let configuration = Configuration::default();
        let mut objects = configuration.objects("1234567", "0.1.0", false);
        objects.push(configuration.copy("1234567", "0.1.0"));
        for purpose in ["ca", "etcd", "proxy", "sa", "kubeconfig"] {
            let taken = format!("{}-{purpose}", crate::environment::MANAGEMENT_CLUSTER);
            assert!(objects.iter().all(|object| object.metadata.name.as_deref() != Some(&taken)), "{taken}");
        }
    }

    #[test]
    fn the_last_layer_names_the_management_cluster() {
        let mut configuration = Configuration { base_values: "cluster: {capd: {}}".into(), ..Configuration::default() };
        assert_eq!(configuration.cluster_name(), "management-cluster");
        configuration.base_values = "cluster: {name: base}".into();
        configuration.values = "cluster: {name: second}".into();
        assert_eq!(configuration.cluster_name(), "second");
    }

    #[test]
    fn an_environment_becomes_the_objects_that_the_release_reads() {
        let configuration = Configuration::read("local", rendered("a: 1\n", "b: ${TOKEN:-x}"), &variables());
        assert!(configuration.is_err(), "a quote in a value breaks the YAML around it, and is found");
        let configuration = Configuration::read("local", rendered("a: 1\n", "b: 1"), &variables()).unwrap();
        assert_eq!(configuration.password.expose(), "a\"b: ,c");
        let objects = configuration.objects("1234567", "0.1.0-g1234567", false);
        let named: Vec<String> = objects.iter().map(|o| reference(o).to_string()).collect();
        assert_eq!(
            named,
            [
                "ConfigMap default/management-cluster-values",
                "Secret default/management-cluster-secrets",
                "Secret default/management-cluster-infra-secrets",
                "Secret default/git-proxy",
                "Secret default/git-ssh",
            ]
        );
        assert_eq!(objects[0].data["data"]["CURRENT_COMMIT"], "1234567");
        assert_eq!(objects[1].data["data"]["password"], STANDARD.encode("a\"b: ,c"));
        let copy = configuration.copy("1234567", "0.1.0-g1234567");
        let commit = STANDARD.decode(copy.data["data"]["CURRENT_COMMIT_JSON"].as_str().unwrap()).unwrap();
        assert_eq!(commit, b"\"1234567\"");
    }

    #[test]
    fn the_digest_follows_every_value() {
        let one = Configuration::read("local", rendered("a: 1\n", "b: 1"), &variables()).unwrap();
        let other = Configuration { password: Secret::new("other"), ..one.clone() };
        assert_ne!(one.digest(), other.digest());
        assert_eq!(one.digest(), one.clone().digest());
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not_quoted() {
        let read = |objects| Configuration::read("local", objects, &variables()).unwrap_err().to_string();
        assert_eq!(
            read(rendered("- a\n", "")),
            "environment local, key values of ConfigMap management-cluster-values: it is no map of values"
        );
        let said = read(rendered("", "hunter2: [\n"));
        assert!(
            said.starts_with("environment local, key secrets of Secret management-cluster-secrets: it is no YAML"),
            "{said}"
        );
        assert!(!said.contains("hunter2"));
        let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other, namespace: default}\ndata: {x: y}\n";
        assert_eq!(
            read(crate::k8s::parse(other, "t").unwrap()),
            "environment local renders key x of ConfigMap default/other, which nothing reads"
        );
        assert_eq!(read(Vec::new()), "environment local renders no ConfigMap management-cluster-values");
        let debug = format!("{:?}", Configuration::read("local", rendered("", "x: hunter2"), &variables()).unwrap());
        assert!(!debug.contains("hunter2"), "{debug}");
    }

    proptest! {
        #[test]
        fn a_copied_text_comes_back_and_is_one_line(text in any::<String>()) {
            let string = yaml_string(&text);
            prop_assert!(!string.contains('\n'));
            let read: String = yaml::from_str(&string, "t").unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
