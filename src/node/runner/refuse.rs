//! Pods that a node of plain processes cannot run, and says so instead of running them wrongly.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::node::profiles::Profiles;

/// Why a pod is refused; `None` when it is not.
pub fn reason(pod: &Pod, profiles: &Profiles) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for (asked, what) in [(spec.host_pid, "hostPID"), (spec.host_ipc, "hostIPC")] {
        if asked == Some(true) {
            return Some(format!("pods with {what} are refused: a local node gives pods no power over its host"));
        }
    }
    let os = spec.os.as_ref().map_or("linux", |os| os.name.as_str());
    if os != "linux" {
        return Some(format!("pods for {os} are refused: this node runs linux"));
    }
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.filter(|container| is_privileged(container)).find_map(|container| {
        let words: Vec<String> =
            container.command.iter().flatten().chain(container.args.iter().flatten()).cloned().collect();
        let image = container.image.as_deref().unwrap_or_default();
        let excused = profiles.find(image, &words).is_some_and(|profile| profile.without_privileges);
        (!excused).then(|| {
            format!(
                "container {:?} is privileged, which is refused: a local node gives pods no power over its host; if {image} works without, say `without_privileges = true` in its profile",
                container.name
            )
        })
    })
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reason_of(spec: &serde_json::Value) -> Option<String> {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        reason(&pod, &Profiles::load(&[]).unwrap())
    }

    #[test]
    fn power_over_the_host_is_refused() {
        let privileged = |image: &str| json!({"containers": [{"name": "c", "image": image, "securityContext": {"privileged": true}}]});
        assert_eq!(reason_of(&json!({"containers": [{"name": "c", "image": "i"}]})), None);
        assert!(reason_of(&json!({"hostPID": true, "containers": []})).unwrap().contains("hostPID"));
        assert!(reason_of(&privileged("example.org/x:1")).unwrap().contains("without_privileges"));
        assert_eq!(reason_of(&privileged("gcr.io/k8s-staging-cluster-api/capd-manager:v1.14.0")), None);
    }
}
