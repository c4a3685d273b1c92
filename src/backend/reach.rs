//! Clusters of a Docker daemon on another host: this host reaches the ports that they publish there, and not their network.

use serde_json::{Value, json};

use crate::docker::Docker;
use crate::failure::{Failure, Result};
use crate::yaml;

/// The port of an API server in its container.
const API_SERVER: u16 = 6443;

/// The kubeconfig of a cluster that Cluster API's docker provider made, as this host can use it. Where the daemon is here, its load
/// balancer is reached in the containers' network; elsewhere, at the port that it publishes there, which changes when it starts again.
pub async fn reachable(docker: &Docker, cluster: &str, kubeconfig: &str) -> Result<String> {
    let Some(host) = docker.elsewhere().await? else { return Ok(kubeconfig.to_owned()) };
    let published = docker.port(&format!("{cluster}-lb"), API_SERVER).await?;
    let port = published.rsplit(':').next().unwrap_or_default();
    through(kubeconfig, &format!("https://{host}:{port}"))
}

/// The same kubeconfig with another URL of its server, which is still told by the name that its certificate has.
fn through(kubeconfig: &str, url: &str) -> Result<String> {
    let mut parsed: Value = yaml::from_str(kubeconfig, "the cluster's kubeconfig")?;
    let cluster = parsed.pointer_mut("/clusters/0/cluster").and_then(Value::as_object_mut);
    let cluster = cluster.ok_or_else(|| Failure::failed("the cluster's kubeconfig names no cluster"))?;
    if !cluster.contains_key("tls-server-name") {
        let server: http::Uri = cluster
            .get("server")
            .and_then(|server| server.as_str()?.parse().ok())
            .ok_or_else(|| Failure::failed("the cluster's kubeconfig names no server"))?;
        cluster.insert("tls-server-name".into(), json!(server.host().unwrap_or_default()));
    }
    cluster.insert("server".into(), json!(url));
    Ok(yaml::to_string(&parsed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_name_at_another_address() {
        let text = "clusters:\n- cluster:\n    server: https://172.18.0.4:6443\n  name: c\n";
        let once = through(text, "https://docker:40001").unwrap();
        let twice = through(&once, "https://docker:40002").unwrap();
        let parsed: Value = yaml::from_str(&twice, "t").unwrap();
        let expected = json!({"server": "https://docker:40002", "tls-server-name": "172.18.0.4"});
        assert_eq!(parsed["clusters"][0]["cluster"], expected);
    }
}
