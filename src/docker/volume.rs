//! Volumes: files for containers, wherever the daemon is. A folder of this host may mean nothing to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ASK, Docker, Result, WORK, parse};

/// A volume, as `docker volume inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Where its files are on the daemon's host.
    pub mountpoint: PathBuf,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Volume {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }
}

impl Docker {
    /// The volume with a name.
    pub async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let inspect = self.command().args(["volume", "inspect", name]);
        match self.call(format!("look at volume {name}"), inspect, ASK).await {
            Ok(text) => Ok(parse::<Vec<Volume>>("docker volume inspect", &text)?.pop()),
            Err(error) if error.not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The volumes that carry a label (`NAME` or `NAME=VALUE`).
    pub async fn volumes(&self, label: &str) -> Result<Vec<Volume>> {
        let list = self.command().args(["volume", "ls", "--quiet", "--filter"]).arg(format!("label={label}"));
        let names = self.call(format!("list volumes with the label {label}"), list, ASK).await?;
        let mut all = Vec::new();
        for name in names.split_whitespace() {
            // One may go while the others are looked at.
            all.extend(self.volume(name).await?);
        }
        Ok(all)
    }

    /// Makes an empty volume when there is none of that name.
    pub async fn ensure_volume(&self, name: &str, label: &str) -> Result<()> {
        let create = self.command().args(["volume", "create", "--label", label, name]);
        match self.call(format!("make volume {name}"), create, ASK).await {
            // It is there with other labels, or without any.
            Err(error) if !error.exists() => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a volume of that name anew, with the files of a folder of this host. Docker copies through a container, which is made from
    /// any image, and is never started.
    pub async fn make_volume(&self, name: &str, labels: &[(&str, &str)], folder: &Path, image: &str) -> Result<()> {
        self.remove(name).await?;
        self.remove_volume(name).await?;
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("--label={label}={value}")).collect();
        let create = self.command().args(["volume", "create"]).args(&labels).arg(name);
        self.call(format!("make volume {name}"), create, ASK).await?;
        let create = self.command().args(["container", "create", "--name", name]).args(&labels);
        let create = create.arg(format!("--volume={name}:/files")).arg(image);
        self.call(format!("make a container for volume {name}"), create, WORK).await?;
        let copy = self.command().arg("cp").arg(folder.join(".")).arg(format!("{name}:/files"));
        self.call(format!("copy files to volume {name}"), copy, WORK).await?;
        self.remove(name).await
    }

    /// Removes a volume; one that is gone is fine.
    pub async fn remove_volume(&self, name: &str) -> Result<()> {
        let remove = self.command().args(["volume", "rm", name]);
        match self.call(format!("remove volume {name}"), remove, WORK).await {
            Err(error) if !error.not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_understood() {
        let text = r#"[{"Driver": "local", "Labels": {"a": "b"}, "Mountpoint": "/var/lib/docker/volumes/v/_data", "Name": "v"}]"#;
        let volume = parse::<Vec<Volume>>("t", text).unwrap().pop().unwrap();
        assert_eq!((volume.label("a"), volume.mountpoint.ends_with("v/_data")), (Some("b"), true));
        let text = r#"[{"Labels": null, "Mountpoint": "/x"}]"#;
        assert_eq!(parse::<Vec<Volume>>("t", text).unwrap()[0].label("a"), None);
    }
}
