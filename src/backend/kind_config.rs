//! What kind is told about the cluster that it is to make.

use std::collections::BTreeMap;
use std::path::Path;

use handlebars::Handlebars;
use serde_json::json;

use super::LocalSpec;
use super::kind::ANYWHERE;
use super::mirror;
use crate::bundle::Bundle;
use crate::failure::{Failure, Result};

/// What the user wants kind to be told besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindOptions {
    /// The port of the API server on the daemon's host; 0 for any that is free.
    pub api_port: u16,
    /// Feature gates of Kubernetes: `NAME=true`.
    pub feature_gates: Vec<String>,
    /// Mounts of the node: `HOST:NODE` or `HOST:NODE:ro`.
    pub mounts: Vec<String>,
}

/// The configuration; `host` is that of a daemon elsewhere.
pub fn write(bundle: &Bundle, name: &str, spec: &LocalSpec, hosts: &Path, host: Option<&str>) -> Result<String> {
    let tag = |part: &str| {
        mirror::reference(bundle, part)
            .map(|name| name.rsplit_once(':').map(|(_, tag)| tag.to_owned()).unwrap_or_default())
    };
    render(&facts(name, spec, hosts, host, &[mirror::reference(bundle, "node")?, tag("etcd")?, tag("coredns")?]))
}

fn facts(
    name: &str,
    spec: &LocalSpec,
    hosts: &Path,
    host: Option<&str>,
    [image, etcd, dns]: &[String; 3],
) -> serde_json::Value {
    let mount = |host: &str, node: &str, read_only: bool| json!({"host": quoted(host), "container": quoted(node), "read_only": read_only});
    let mut mounts = vec![mount(&hosts.to_string_lossy(), "/etc/containerd/certs.d", true)];
    for path in &spec.allowed_host_paths {
        let path = path.to_string_lossy();
        mounts.push(mount(&path, &path, false));
    }
    for text in &spec.kind.mounts {
        let mut parts = text.split(':');
        let (host, node) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        mounts.push(mount(host, node, parts.next() == Some("ro")));
    }
    let gates: BTreeMap<&str, &str> = spec.kind.feature_gates.iter().filter_map(|gate| gate.split_once('=')).collect();
    json!({
        "name": name,
        "owner": spec.owner,
        "image": image,
        "etcd": etcd,
        "dns": dns,
        "mounts": mounts,
        "address": if host.is_some() { ANYWHERE } else { "127.0.0.1" },
        "port": spec.kind.api_port,
        "gates": gates,
        "names": host.into_iter().chain(["localhost", "127.0.0.1", ANYWHERE]).collect::<Vec<_>>(),
    })
}

fn render(facts: &serde_json::Value) -> Result<String> {
    let mut page = Handlebars::new();
    page.set_strict_mode(true);
    page.register_escape_fn(handlebars::no_escape);
    page.render_template(include_str!("kind.yaml.hbs"), facts).map_err(Failure::from_error)
}

/// A path as a YAML string.
fn quoted(path: &str) -> String {
    // A JSON string is a YAML string.
    serde_json::Value::from(path).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn written(spec: &LocalSpec, host: Option<&str>) -> serde_json::Value {
        let images = ["ghcr.io/cluster-init/node:v1", "3.6.14-0", "v1.14.3"].map(str::to_owned);
        let facts = facts("x-bootstrap", spec, Path::new("/home/a b/certs.d"), host, &images);
        yaml::from_str(&render(&facts).unwrap(), "kind.yaml").unwrap()
    }

    #[test]
    fn the_config_is_what_kind_reads() {
        let mut spec = LocalSpec::new("x-bootstrap", "bootstrap x");
        spec.allowed_host_paths.push("/var/run/docker.sock".into());
        let parsed = written(&spec, Some("docker"));
        assert_eq!(parsed["nodes"][0]["image"], "ghcr.io/cluster-init/node:v1");
        assert_eq!(parsed["nodes"][0]["extraMounts"][0]["hostPath"], "/home/a b/certs.d");
        assert_eq!(parsed["nodes"][0]["extraMounts"][1]["readOnly"], false);
        let patch: serde_json::Value =
            yaml::from_str(parsed["kubeadmConfigPatches"][0].as_str().unwrap(), "patch").unwrap();
        assert_eq!(patch["etcd"]["local"]["imageTag"], "3.6.14-0");
        assert_eq!(patch["dns"]["imageTag"], "v1.14.3");
        assert_eq!(patch["apiServer"]["certSANs"], json!(["docker", "localhost", "127.0.0.1", "0.0.0.0"]));
        assert_eq!(parsed["networking"]["apiServerAddress"], "0.0.0.0");
        assert_eq!(parsed["featureGates"], json!({}));
    }

    #[test]
    fn what_the_user_wants_is_there_besides() {
        let mut spec = LocalSpec::new("x-bootstrap", "bootstrap x");
        spec.kind = KindOptions {
            api_port: 16443,
            feature_gates: vec!["NodeSwap=true".into(), "AllAlpha=false".into()],
            mounts: vec!["/srv/site:/srv/site:ro".into(), "/data:/var/data".into()],
        };
        let parsed = written(&spec, None);
        assert_eq!(parsed["networking"]["apiServerAddress"], "127.0.0.1");
        assert_eq!(parsed["networking"]["apiServerPort"], 16443);
        assert_eq!(parsed["featureGates"], json!({"AllAlpha": false, "NodeSwap": true}));
        let mounts = &parsed["nodes"][0]["extraMounts"];
        assert_eq!(mounts[1], json!({"hostPath": "/srv/site", "containerPath": "/srv/site", "readOnly": true}));
        assert_eq!(mounts[2], json!({"hostPath": "/data", "containerPath": "/var/data", "readOnly": false}));
    }
}
