//! Networks, and the addresses of containers in them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ASK, Container, Docker, Error, Result, WORK};

/// How often a network is looked for that others make and remove at the same time.
const ATTEMPTS: usize = 5;

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
    /// Makes a bridge network when there is none of that name; `label` marks what is made only to look. Docker gives a name twice when
    /// it is asked twice at once: the older one stays.
    pub async fn ensure_network(&self, name: &str, label: &str) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let mut all = self.networks(name).await?;
            if all.is_empty() {
                self.make_network(name, label).await?;
                continue;
            }
            all.sort();
            if all.len() == 1 {
                return Ok(());
            }
            for (_, id) in &all[1..] {
                let remove = self.command().args(["network", "rm", id]);
                match self.call(format!("remove network {id}, the second of the name {name}"), remove, ASK).await {
                    Err(error) if !error.not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        Err(Error::Unsettled { name: name.to_owned(), attempts: ATTEMPTS })
    }

    /// The networks of a name: when each was made, and its id.
    async fn networks(&self, name: &str) -> Result<Vec<(String, String)>> {
        let filter = format!("name=^{name}$");
        let list = self.command().args(["network", "ls", "--no-trunc", "--filter", &filter, "--format", "{{.ID}}"]);
        let ids = self.call(format!("look for network {name}"), list, ASK).await?;
        let mut found = Vec::new();
        for id in ids.split_whitespace() {
            let inspect = self.command().args(["network", "inspect", "--format", "{{json .Created}}", id]);
            match self.call(format!("look at network {name}"), inspect, ASK).await {
                Ok(created) => found.push((created.trim().to_owned(), id.to_owned())),
                // Somebody else removed it.
                Err(error) if error.not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Makes a network with addresses that were asked for: only there can a container ask for its own. Docker knows which are free,
    /// and says it of a network for that alone.
    async fn make_network(&self, name: &str, label: &str) -> Result<()> {
        let probe = format!("{name}-{}", std::process::id());
        self.create_network(&probe, &[format!("--label={label}")]).await?;
        let ask = ["network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", &probe];
        let subnet =
            self.call(format!("ask for the addresses of network {probe}"), self.command().args(ask), ASK).await;
        let remove = self.command().args(["network", "rm", &probe]);
        self.call(format!("remove network {probe}"), remove, ASK).await?;
        self.create_network(name, &[format!("--subnet={}", subnet?.trim())]).await
    }

    async fn create_network(&self, name: &str, options: &[String]) -> Result<()> {
        let create = self.command().args(["network", "create", "--driver", "bridge"]);
        // As kind makes it: pods' addresses are translated by the nodes, and no more by the daemon.
        let create = create.args(["--opt", "com.docker.network.bridge.enable_ip_masquerade=true"]);
        match self.call(format!("make network {name}"), create.args(options).arg(name), ASK).await {
            // Somebody else was faster, with the name or the addresses.
            Err(error) if error.exists() || error.overlaps() => Ok(()),
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
