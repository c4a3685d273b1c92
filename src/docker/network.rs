//! Networks, and the addresses of containers in them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ASK, Container, Docker, Result, WORK};

/// How a container is in a network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attached {
    #[serde(rename = "IPAddress", default)]
    address: String,
}

/// The networks of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Networks {
    #[serde(default)]
    networks: BTreeMap<String, Option<Attached>>,
}

impl Container {
    /// Its address in a network, as long as it runs.
    pub fn address(&self, network: &str) -> Option<&str> {
        let attached = self.network_settings.networks.get(network)?.as_ref()?;
        Some(attached.address.as_str()).filter(|address| !address.is_empty())
    }
}

impl Docker {
    /// Makes a bridge network when there is none of that name.
    pub async fn ensure_network(&self, name: &str) -> Result<()> {
        let inspect = self.command().args(["network", "inspect", "--format", "{{.Id}}", name]);
        match self.call(format!("look for network {name}"), inspect, ASK).await {
            Ok(_) => return Ok(()),
            Err(error) if error.not_found() => {}
            Err(error) => return Err(error),
        }
        // Docker knows which addresses are free. Only where they were asked for can a container ask for its own.
        self.create_network(name, &[]).await?;
        let ask = ["network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", name];
        let subnet =
            self.call(format!("ask for the addresses of network {name}"), self.command().args(ask), ASK).await?;
        let remove = self.command().args(["network", "rm", name]);
        match self.call(format!("make network {name} anew"), remove, ASK).await {
            // Somebody else uses it already, or was faster.
            Err(_) => Ok(()),
            Ok(_) => self.create_network(name, &[format!("--subnet={}", subnet.trim())]).await,
        }
    }

    async fn create_network(&self, name: &str, options: &[String]) -> Result<()> {
        let create = self.command().args(["network", "create", "--driver", "bridge"]);
        // As kind makes it: pods' addresses are translated by the nodes, and no more by the daemon.
        let create = create.args(["--opt", "com.docker.network.bridge.enable_ip_masquerade=true"]);
        match self.call(format!("make network {name}"), create.args(options).arg(name), ASK).await {
            // Somebody else was faster.
            Err(error) if error.exists() => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Gives a stopped container an address that it keeps.
    pub async fn pin(&self, container: &str, network: &str, address: &str) -> Result<()> {
        let disconnect = self.command().args(["network", "disconnect", "--force", network, container]);
        match self.call(format!("take container {container} out of network {network}"), disconnect, ASK).await {
            // An attempt that was killed came so far.
            Err(error) if !error.is_detached() => return Err(error),
            _ => {}
        }
        let connect = self.command().args(["network", "connect", "--ip", address, network, container]);
        self.call(format!("give container {container} the address {address}"), connect, ASK).await.map(|_| ())
    }

    /// Stops containers at the same time; data stays.
    pub async fn stop(&self, containers: &[&str]) -> Result<()> {
        if containers.is_empty() {
            return Ok(());
        }
        let stop = self.command().args(["stop", "--time", "5"]).args(containers);
        self.call(format!("stop containers {}", containers.join(", ")), stop, WORK).await.map(|_| ())
    }
}
