//! The downward API: what a pod may learn about itself.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What the downward API draws from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its address.
    pub pod_ip: &'a str,
    /// Its node's address.
    pub host_ip: &'a str,
    /// The node's processors.
    pub cpus: u64,
    /// The node's memory in bytes.
    pub memory: u64,
}

/// The value of a field path such as `metadata.name` or `metadata.labels['app']`.
pub fn field(path: &str, facts: &Facts<'_>) -> Result<String, String> {
    let meta = &facts.pod.metadata;
    let spec = facts.pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let values = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("field path {path:?} is not supported")),
        };
        return Ok(values.as_ref().and_then(|v| v.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.iter().flatten()),
        "metadata.annotations" => lines(meta.annotations.iter().flatten()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.to_owned(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.to_owned(),
        _ => return Err(format!("field path {path:?} is not supported")),
    })
}

fn lines<'a>(map: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    map.map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// The value of a resource field such as `limits.cpu`; a limit that is not set is the node's capacity.
pub fn resource(container: &Container, selector: &ResourceFieldSelector, facts: &Facts<'_>) -> Result<String, String> {
    let named = match &selector.container_name {
        Some(name) => {
            let spec = facts.pod.spec.as_ref();
            spec.and_then(|s| s.containers.iter().chain(s.init_containers.iter().flatten()).find(|c| &c.name == name))
                .ok_or_else(|| format!("no container {name:?} in this pod"))?
        }
        None => container,
    };
    let unsupported = || format!("resource {:?} is not supported", selector.resource);
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = named.resources.as_ref();
    let quantity = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()?.get(name)),
        "requests" => resources.and_then(|r| r.requests.as_ref()?.get(name)),
        _ => return Err(unsupported()),
    };
    let capacity = match name {
        "cpu" => facts.cpus as f64,
        "memory" => facts.memory as f64,
        "ephemeral-storage" => 0.0,
        _ => return Err(unsupported()),
    };
    let value = match quantity {
        Some(Quantity(text)) => parse(text).ok_or_else(|| format!("quantity {text:?} cannot be read"))?,
        None if list == "requests" => 0.0,
        None => capacity,
    };
    let divisor = match &selector.divisor {
        Some(Quantity(text)) if text != "0" && !text.is_empty() => {
            parse(text).ok_or_else(|| format!("divisor {text:?} cannot be read"))?
        }
        _ => 1.0,
    };
    Ok(format!("{:.0}", (value / divisor).ceil()))
}

/// A Kubernetes quantity as a number: `100m`, `64Mi`, `1e3`.
fn parse(text: &str) -> Option<f64> {
    let split = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '-' | '+'));
    let (number, suffix) = split.map_or((text, ""), |i| text.split_at(i));
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024f64,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "a\"b", "z": "1"}},
            "spec": {"nodeName": "node", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}
            ]}
        }))
        .unwrap()
    }

    #[test]
    fn fields_are_found() {
        let pod = pod();
        let facts = Facts { pod: &pod, pod_ip: "198.18.0.2", host_ip: "198.19.0.1", cpus: 2, memory: 1 << 30 };
        assert_eq!(field("metadata.labels['z']", &facts).unwrap(), "1");
        assert_eq!(field("metadata.labels", &facts).unwrap(), "app=\"a\\\"b\"\nz=\"1\"");
        assert_eq!(field("status.podIP", &facts).unwrap(), "198.18.0.2");
        assert_eq!(field("spec.nodeName", &facts).unwrap(), "node");
        assert!(field("spec.secret", &facts).unwrap_err().contains("spec.secret"));
    }

    #[test]
    fn resources_are_counted_in_the_divisor() {
        let pod = pod();
        let facts = Facts { pod: &pod, pod_ip: "", host_ip: "", cpus: 2, memory: 1 << 30 };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let ask = |name: &str, divisor: &str| {
            let selector = ResourceFieldSelector {
                resource: name.into(),
                divisor: Some(Quantity(divisor.into())),
                container_name: None,
            };
            resource(container, &selector, &facts).unwrap()
        };
        assert_eq!(ask("limits.memory", "1Mi"), "64");
        assert_eq!(ask("limits.memory", "0"), "67108864");
        assert_eq!(ask("requests.cpu", "1m"), "250");
        assert_eq!(ask("requests.cpu", "1"), "1");
        assert_eq!(ask("limits.cpu", "1"), "2");
    }
}
