//! Networks, and the addresses of containers in them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ASK, Container, Docker, Error, Result, WORK, parse};

/// How often a network is looked for that others make and remove at the same time.
const ATTEMPTS: usize = 5;

/// How a container is in a network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attached {
    #[serde(rename = "IPAddress", default)]
    address: String,
}

/// A network, as `docker network inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    #[serde(default)]
    pub created: Option<jiff::Timestamp>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    containers: Option<BTreeMap<String, serde_json::Value>>,
}

impl Network {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// The ids of the containers that are in it and run.
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        self.containers.iter().flat_map(|all| all.keys().map(String::as_str))
    }
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
    /// The networks that a filter of docker's lets through (`label=NAME`, `name=^NAME$`).
    pub async fn networks(&self, filter: &str) -> Result<Vec<Network>> {
        let list = self.command().args(["network", "ls", "--no-trunc", "--quiet", "--filter", filter]);
        let ids = self.call(format!("list networks with {filter}"), list, ASK).await?;
        let mut found = Vec::new();
        for id in ids.split_whitespace() {
            let inspect = self.command().args(["network", "inspect", id]);
            match self.call(format!("look at network {id}"), inspect, ASK).await {
                Ok(text) => found.extend(parse::<Vec<Network>>("docker network inspect", &text)?),
                // Somebody else removed it.
                Err(error) if error.not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Removes a network; one that is gone is fine.
    pub async fn remove_network(&self, id: &str) -> Result<()> {
        let remove = self.command().args(["network", "rm", id]);
        match self.call(format!("remove network {id}"), remove, ASK).await {
            Err(error) if !error.not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a bridge network with the label `own` when there is none of that name; `look` marks what is made only to look. Docker
    /// gives a name twice when it is asked twice at once: the older one stays.
    pub async fn ensure_network(&self, name: &str, own: &str, look: &str) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let mut all: Vec<(Option<jiff::Timestamp>, String)> = self
                .networks(&format!("name=^{name}$"))
                .await?
                .into_iter()
                .map(|network| (network.created, network.id))
                .collect();
            if all.is_empty() {
                self.make_network(name, own, look).await?;
                continue;
            }
            all.sort();
            if all.len() == 1 {
                return Ok(());
            }
            for (_, id) in &all[1..] {
                self.remove_network(id).await?;
            }
        }
        Err(Error::Unsettled { name: name.to_owned(), attempts: ATTEMPTS })
    }

    /// Makes a network with addresses that were asked for: only there can a container ask for its own. Docker knows which are free,
    /// and says it of a network for that alone.
    async fn make_network(&self, name: &str, own: &str, look: &str) -> Result<()> {
        let probe = format!("{name}-{}", std::process::id());
        self.create_network(&probe, &[format!("--label={look}")]).await?;
        let ask = ["network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", &probe];
        let subnet =
            self.call(format!("ask for the addresses of network {probe}"), self.command().args(ask), ASK).await;
        let remove = self.command().args(["network", "rm", &probe]);
        self.call(format!("remove network {probe}"), remove, ASK).await?;
        self.create_network(name, &[format!("--subnet={}", subnet?.trim()), format!("--label={own}")]).await
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
