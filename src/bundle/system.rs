//! Images that hold a small Debian system: packages below, programs of other parts and files of ours on top.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::parts::file;
use super::toolchain::Toolchain;
use crate::exec::Command;
use crate::fsx;
use crate::oci::{Archive, Descriptor, Digest, Layout, SystemImage};

/// Installing packages takes this long at most: a slow mirror, a slow disk.
const INSTALL: Duration = Duration::from_mins(20);
/// Changes when packages are installed in another way.
const RECIPE: &str = "1";
/// What nobody reads in a container, and what differs from one installation to the next.
const LEFT_OUT: [&str; 4] = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*"];
/// Removes the package manager's own files.
const CLEAN: &str = r#"rm -rf "$1"/var/cache/* "$1"/var/lib/apt/lists/* "$1"/var/log/* "$1"/usr/share/perl* "$1"/etc/machine-id "$1"/var/lib/dbus/machine-id"#;
/// Makes /bin, /lib and /sbin links before packages are unpacked that hold files below them.
const MERGED: &str =
    r#"for d in bin lib lib64 sbin; do mkdir -p "$1/usr/$d"; [ -e "$1/$d" ] || ln -s "usr/$d" "$1/$d"; done"#;

/// An image of Debian packages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// The part's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for, when not every bundle has it.
    pub with: Option<String>,
    /// Debian's release.
    pub suite: String,
    /// How much is around the packages: a variant of mmdebstrap.
    pub variant: String,
    /// Packages; what they depend on comes with them.
    pub packages: Vec<String>,
    /// Programs of other parts, by their paths in the image.
    #[serde(default)]
    pub programs: BTreeMap<String, String>,
    /// Files that lie beside parts.toml, by their paths in the image.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// As `files`, and can be run.
    #[serde(default)]
    pub scripts: BTreeMap<String, String>,
    /// Small files by their content.
    #[serde(default)]
    pub texts: BTreeMap<String, String>,
    /// Symbolic links.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// Units that systemd must not start.
    #[serde(default)]
    pub masked: Vec<String>,
    /// References under which the image is found.
    pub images: Vec<String>,
    /// The first process and its arguments.
    pub entrypoint: Vec<String>,
    /// Variables.
    #[serde(default)]
    pub env: Vec<String>,
    /// The signal that ends it.
    pub stop: Option<String>,
}

impl System {
    /// The files beside parts.toml that it is made from.
    pub(super) fn sources(&self) -> impl Iterator<Item = &str> {
        self.files.values().chain(self.scripts.values()).map(String::as_str)
    }

    /// The archive of the installed packages, made when there is none for this list; kept in `work`, since packages change
    /// less often than what lies on top of them.
    pub(super) async fn base(&self, work: &Path) -> Result<PathBuf> {
        let packages: BTreeSet<&str> = self.packages.iter().map(String::as_str).collect();
        let packages = packages.into_iter().collect::<Vec<_>>().join(",");
        let key = Digest::of(format!("{RECIPE} {} {} {packages}", self.suite, self.variant));
        let path = work.join(format!("{}.tar", key.hex()));
        if path.is_file() {
            return Ok(path);
        }
        fsx::create_dir(work)?;
        let unfinished = work.join(format!("{}.unfinished.tar", key.hex()));
        let mut command = Command::new("mmdebstrap")
            .arg("--format=tar")
            .arg(format!("--variant={}", self.variant))
            .arg(format!("--include={packages}"))
            .arg(format!("--customize-hook={CLEAN}"))
            // So that the archive holds no time of its own.
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("DEBIAN_FRONTEND", "noninteractive");
        for path in LEFT_OUT {
            command = command.arg(format!("--dpkgopt=path-exclude={path}"));
        }
        if self.variant == "extract" {
            command = command.arg(format!("--setup-hook={MERGED}"));
        }
        let result = command.arg(&self.suite).arg(&unfinished).run(INSTALL).await;
        result.map_err(|source| Error::Debian { name: self.name.clone(), source: Box::new(source) })?;
        fsx::rename(&unfinished, &path)?;
        Ok(path)
    }

    /// Puts the image into a layout; `base` is the packages' archive, `programs` tells where a part's program is.
    pub(super) fn add(&self, layout: &Layout, base: &Path, programs: &BTreeMap<String, PathBuf>) -> Result<Descriptor> {
        let mut top = Archive::new();
        for (path, part) in &self.programs {
            if let Some(program) = programs.get(part) {
                top.insert_file(path, program, true);
            }
        }
        for (path, source) in &self.files {
            top.insert(path, file(source), false);
        }
        for (path, source) in &self.scripts {
            top.insert(path, file(source), true);
        }
        for (path, text) in &self.texts {
            top.insert(path, text.as_str(), false);
        }
        for (path, target) in &self.links {
            top.insert_link(path, target);
        }
        for unit in &self.masked {
            top.insert_link(&format!("etc/systemd/system/{unit}"), "/dev/null");
        }
        let image = SystemImage {
            base,
            top: &top,
            entrypoint: self.entrypoint.clone(),
            env: self.env.clone(),
            stop: self.stop.clone(),
            architecture: Toolchain::architecture(),
            annotations: BTreeMap::from([
                ("org.opencontainers.image.title".to_owned(), self.name.clone()),
                ("org.opencontainers.image.version".to_owned(), self.version.clone()),
            ]),
        };
        Ok(layout.add_system_image(&image)?)
    }
}
