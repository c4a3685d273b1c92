//! Takes one thing away; fine when it is gone already.

use super::plan::Target;
use crate::bootstrap::MANAGEMENT_KUBECONFIG;
use crate::docker::Docker;
use crate::failure::Result;
use crate::fsx;
use crate::node::{self, Home, NodeName};
use crate::saga::{Journal, Record};

/// Takes it away.
pub async fn remove(home: &Home, docker: &Docker, target: &Target) -> Result<()> {
    match target {
        Target::Node(name) => {
            let name = NodeName::new(name)?;
            let exists = node::list(home)?.into_iter().find(|node| node.config().name == name);
            match exists {
                Some(node) => node.delete().await,
                None => Ok(()),
            }
        }
        Target::Half(name) => node::remove_half(home, name).await,
        Target::Container(id) => Ok(docker.remove(id).await?),
        Target::Volume(name) => Ok(docker.remove_volume(name).await?),
        Target::Network(id) => Ok(docker.remove_network(id).await?),
        Target::Folder(path) => Ok(fsx::remove_dir(path)?),
        Target::File(path) => Ok(fsx::remove_file(path)?),
        Target::Run { folder, remains } => {
            // What leads to a cloud's cluster may be needed by whoever looks there.
            if remains.is_empty() {
                fsx::remove_file(&folder.join(MANAGEMENT_KUBECONFIG))?;
            }
            let journal = Journal::open(&folder.join("journal.ndjson"))?;
            Ok(journal.write(Record::Cleaned { remains: remains.clone() })?)
        }
    }
}
