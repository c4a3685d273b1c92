//! The list of parts, and the Go modules that they are made from.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::system::System;
use crate::fsx;
use crate::oci::Digest;

/// Changes when the way in which parts are made changes what they are.
const RECIPE: &str = "2";

/// The path of packages that lie beside parts.toml.
pub(super) const OWN_PACKAGES: &str = "cluster-init.dev/parts/";

/// The files of `tools/parts`, by their paths in it.
const FILES: [(&str, &str); 34] = [
    ("parts.toml", include_str!("../../tools/parts/parts.toml")),
    ("go.mod", include_str!("../../tools/parts/go.mod")),
    ("go.sum", include_str!("../../tools/parts/go.sum")),
    ("etcd/main.go", include_str!("../../tools/parts/etcd/main.go")),
    ("registry/main.go", include_str!("../../tools/parts/registry/main.go")),
    ("cert-manager/go.mod", include_str!("../../tools/parts/cert-manager/go.mod")),
    ("cert-manager/go.sum", include_str!("../../tools/parts/cert-manager/go.sum")),
    ("providers/go.mod", include_str!("../../tools/parts/providers/go.mod")),
    ("providers/go.sum", include_str!("../../tools/parts/providers/go.sum")),
    ("rke2/go.mod", include_str!("../../tools/parts/rke2/go.mod")),
    ("rke2/go.sum", include_str!("../../tools/parts/rke2/go.sum")),
    ("storage/go.mod", include_str!("../../tools/parts/storage/go.mod")),
    ("storage/go.sum", include_str!("../../tools/parts/storage/go.sum")),
    ("upgrade/go.mod", include_str!("../../tools/parts/upgrade/go.mod")),
    ("upgrade/go.sum", include_str!("../../tools/parts/upgrade/go.sum")),
    ("node/go.mod", include_str!("../../tools/parts/node/go.mod")),
    ("node/go.sum", include_str!("../../tools/parts/node/go.sum")),
    ("node/coredns/main.go", include_str!("../../tools/parts/node/coredns/main.go")),
    ("node/crictl/main.go", include_str!("../../tools/parts/node/crictl/main.go")),
    ("docker-socket/main.go", include_str!("../../tools/parts/docker-socket/main.go")),
    ("node/pause/main.go", include_str!("../../tools/parts/node/pause/main.go")),
    ("node/haproxy/haproxy", include_str!("../../tools/parts/node/haproxy/haproxy")),
    ("node/haproxy/haproxy.cfg", include_str!("../../tools/parts/node/haproxy/haproxy.cfg")),
    ("node/haproxy/limits.cfg", include_str!("../../tools/parts/node/haproxy/limits.cfg")),
    ("node/rootfs/containerd.service.conf", include_str!("../../tools/parts/node/rootfs/containerd.service.conf")),
    ("node/rootfs/containerd.toml", include_str!("../../tools/parts/node/rootfs/containerd.toml")),
    ("node/rootfs/default-cni.yaml", include_str!("../../tools/parts/node/rootfs/default-cni.yaml")),
    ("node/rootfs/coredns-patch.yaml", include_str!("../../tools/parts/node/rootfs/coredns-patch.yaml")),
    ("node/rootfs/default-storage.yaml", include_str!("../../tools/parts/node/rootfs/default-storage.yaml")),
    ("node/rootfs/entrypoint", include_str!("../../tools/parts/node/rootfs/entrypoint")),
    ("node/rootfs/kubelet.service", include_str!("../../tools/parts/node/rootfs/kubelet.service")),
    ("node/rootfs/kubelet.slice", include_str!("../../tools/parts/node/rootfs/kubelet.slice")),
    ("node/rootfs/proxied", include_str!("../../tools/parts/node/rootfs/proxied")),
    ("node/rootfs/runc", include_str!("../../tools/parts/node/rootfs/runc")),
];

/// One part, as `parts.toml` describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Part {
    /// A program that this program starts itself; it is kept as an image, too.
    Tool(Program),
    /// An image that pods run.
    Image(Program),
    /// An image of Debian packages with programs of other parts on top.
    System(System),
    /// The content of an upstream release's file.
    Manifest(Manifest),
}

/// A program and the image around it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The part's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for, when not every bundle has it.
    pub with: Option<String>,
    /// The Go module whose version this is.
    pub from: Option<String>,
    /// The Go package; none for this program itself.
    pub package: Option<String>,
    /// The folder with the go.mod that it is built from.
    #[serde(default)]
    pub module: String,
    /// The file that it is linked into, with the others of that name and module; a file of its own when not given.
    pub binary: Option<String>,
    /// A package with variables for the version's parts.
    pub stamp: Option<String>,
    /// One variable for the version.
    pub variable: Option<String>,
    /// References under which pods find the image.
    pub images: Vec<String>,
    /// The program's path in the image.
    pub path: String,
    /// The program and its first arguments; the path when empty.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Arguments that a pod may replace.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Whom it runs as.
    pub user: String,
    /// Small files beside the program.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// An upstream manifest and how its content is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The part's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The Go module that holds its sources.
    pub from: String,
    /// The folder with the go.mod that requires that module.
    #[serde(default)]
    pub module: String,
    /// The URL that components refer to.
    pub url: String,
    /// The digest of what upstream publishes there, for `bundle pull`; left out of the key, for what is made has its own.
    #[serde(default, skip_serializing)]
    pub digest: Option<Digest>,
    /// How the content is made.
    pub render: Render,
    /// The folder or file in the module.
    pub folder: String,
    /// Texts that the release process replaces.
    #[serde(default)]
    pub replace: Vec<(String, String)>,
    /// A chart's folder of CRDs.
    #[serde(default)]
    pub crds: String,
    /// A file that comes before a chart's own.
    #[serde(default)]
    pub before: String,
    /// The namespace that a chart is rendered for.
    #[serde(default)]
    pub namespace: String,
    /// A chart's values.
    #[serde(default)]
    pub set: Vec<String>,
}

/// How a manifest's content is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Render {
    /// `kustomize build`.
    Kustomize,
    /// `helm template`.
    Chart,
    /// The file as it is.
    File,
}

impl Program {
    /// Whether both are in one file; every program is with itself.
    fn is_linked_with(&self, other: &Self) -> bool {
        self.name == other.name || (self.binary.is_some() && self.binary == other.binary && self.module == other.module)
    }
}

impl Part {
    /// The part's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Tool(program) | Self::Image(program) => &program.name,
            Self::System(system) => &system.name,
            Self::Manifest(manifest) => &manifest.name,
        }
    }

    /// The part's version.
    pub fn version(&self) -> &str {
        match self {
            Self::Tool(program) | Self::Image(program) => &program.version,
            Self::System(system) => &system.version,
            Self::Manifest(manifest) => &manifest.version,
        }
    }

    /// The kind's name.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Tool(_) => "tool",
            // To whoever runs it, it is an image as any other.
            Self::Image(_) | Self::System(_) => "image",
            Self::Manifest(_) => "manifest",
        }
    }

    /// What the part is for, when not every bundle has it.
    pub fn with(&self) -> Option<&str> {
        match self {
            Self::Tool(program) | Self::Image(program) => program.with.as_deref(),
            Self::System(system) => system.with.as_deref(),
            Self::Manifest(_) => None,
        }
    }

    /// What the index knows the part by: its images' references, or its URL.
    pub(super) fn references(&self) -> Vec<&str> {
        match self {
            Self::Tool(program) | Self::Image(program) => program.images.iter().map(String::as_str).collect(),
            Self::System(system) => system.images.iter().map(String::as_str).collect(),
            Self::Manifest(manifest) => vec![&manifest.url],
        }
    }

    /// The parts whose programs are laid into it.
    pub(super) fn programs(&self) -> impl Iterator<Item = &str> {
        let programs = match self {
            Self::System(system) => Some(system.programs.values().map(String::as_str)),
            _ => None,
        };
        programs.into_iter().flatten()
    }

    /// The program, when it is one that Go builds.
    pub(super) fn go_program(&self) -> Option<&Program> {
        match self {
            Self::Tool(program) | Self::Image(program) => Some(program).filter(|program| program.package.is_some()),
            Self::System(_) | Self::Manifest(_) => None,
        }
    }

    fn module(&self) -> &str {
        match self {
            Self::Tool(program) | Self::Image(program) => &program.module,
            Self::System(_) => "",
            Self::Manifest(manifest) => &manifest.module,
        }
    }

    fn fill(&mut self) {
        let version = self.version().to_owned();
        let fill = |text: &mut String| {
            *text = text.replace("{version}", &version).replace("{number}", version.trim_start_matches('v'));
        };
        match self {
            Self::Tool(program) | Self::Image(program) => program.images.iter_mut().for_each(fill),
            Self::System(system) => system.images.iter_mut().for_each(fill),
            Self::Manifest(manifest) => {
                fill(&mut manifest.url);
                manifest.replace.iter_mut().for_each(|(_, to)| fill(to));
            }
        }
    }
}

/// All parts.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The parts in the order of the file.
    pub all: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    part: Vec<toml::Table>,
}

/// What a part says itself on top of the part that it is like.
fn complete(mut part: toml::Table, all: &[toml::Table]) -> Result<toml::Table> {
    let Some(like) = part.remove("like") else { return Ok(part) };
    let other = all.iter().find(|other| other.get("name") == Some(&like) && !other.contains_key("like"));
    let reason = || format!("no part is named {like} and stands for itself");
    let mut whole = other.cloned().ok_or_else(|| Error::Parts { reason: reason() })?;
    for (key, value) in part {
        match (whole.get_mut(&key), value) {
            (Some(toml::Value::Table(there)), toml::Value::Table(here)) => there.extend(here),
            (_, value) => {
                whole.insert(key, value);
            }
        }
    }
    Ok(whole)
}

/// The content of a file that lies beside parts.toml.
pub(super) fn file(path: &str) -> &'static str {
    FILES.iter().find(|(name, _)| *name == path).map_or("", |(_, content)| content)
}

impl Parts {
    /// The parts that this program was built with.
    pub fn own() -> Result<Self> {
        let wrong = |error: toml::de::Error| Error::Parts { reason: error.to_string() };
        let File { part: tables } = toml::from_str(file("parts.toml")).map_err(wrong)?;
        let mut all = Vec::new();
        for table in &tables {
            let mut part: Part = complete(table.clone(), &tables)?.try_into().map_err(wrong)?;
            part.fill();
            all.push(part);
        }
        Ok(Self { all })
    }

    /// Where a part's image holds its program.
    pub(super) fn path(&self, name: &str) -> Option<String> {
        self.all.iter().find(|part| part.name() == name).and_then(|part| match part {
            Part::Tool(program) | Part::Image(program) => Some(program.path.clone()),
            Part::System(_) | Part::Manifest(_) => None,
        })
    }

    /// Everything that a part is made from, as one digest; the toolchain is not in it. `program` is the digest of this
    /// program, which is a part, too.
    pub(super) fn key(part: &Part, all: &[Part], program: &Digest) -> Digest {
        let mut text = format!("recipe {RECIPE}\n{}\n", serde_json::to_string(part).unwrap_or_default());
        let mut add = |content: &str| {
            text.push_str(&Digest::of(content).to_string());
            text.push('\n');
        };
        if let Part::System(system) = part {
            system.sources().for_each(|path| add(file(path)));
            for name in system.programs.values() {
                let found = all.iter().find(|other| other.name() == name);
                add(&found.map_or_else(String::new, |other| Self::key(other, all, program).to_string()));
            }
            return Digest::of(text);
        }
        let folder = part.module();
        let beside = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        match part.go_program() {
            None if matches!(part, Part::Manifest(_)) => add(file(&beside("go.mod"))),
            None => add(&program.to_string()),
            Some(go) => {
                add(std::env::consts::ARCH);
                add(file(&beside("go.mod")));
                add(file(&beside("go.sum")));
                let linked = all.iter().filter_map(Part::go_program).filter(|other| go.is_linked_with(other));
                for program in linked {
                    add(&serde_json::to_string(program).unwrap_or_default());
                    if let Some(own) = program.package.as_deref().and_then(|package| package.strip_prefix(OWN_PACKAGES))
                    {
                        add(file(&format!("{own}/main.go")));
                    }
                }
            }
        }
        Digest::of(text)
    }

    /// Writes the Go modules into a folder; files that are as they should be are not touched.
    pub(super) fn write_modules(folder: &Path) -> Result<()> {
        for (path, content) in FILES {
            let path = folder.join(path);
            if fsx::read_text_if_present(&path)?.as_deref() != Some(content) {
                fsx::create_dir(path.parent().unwrap_or(folder))?;
                fsx::write(&path, content)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_references_are_unique() {
        let parts = Parts::own().unwrap();
        let names: BTreeSet<_> = parts.all.iter().map(Part::name).collect();
        assert_eq!(names.len(), parts.all.len());
        let references: Vec<_> = parts.all.iter().flat_map(Part::references).collect();
        assert_eq!(references.iter().collect::<BTreeSet<_>>().len(), references.len());
        for part in &parts.all {
            if !matches!(part, Part::Manifest(_)) {
                for reference in part.references() {
                    assert_eq!(reference.parse::<crate::oci::Reference>().unwrap().to_string(), reference);
                }
            }
        }
    }

    #[test]
    fn versions_are_those_of_the_modules() {
        for part in Parts::own().unwrap().all {
            let from = match &part {
                Part::Manifest(manifest) => Some(manifest.from.clone()),
                Part::Tool(program) | Part::Image(program) => program.from.clone(),
                Part::System(_) => continue,
            };
            let Some(from) = from else {
                // Programs of ours for nodes have versions of what they stand in for.
                if part.module() == "node" {
                    continue;
                }
                assert_eq!(part.version(), concat!("v", env!("CARGO_PKG_VERSION")));
                continue;
            };
            let folder = part.module();
            let module = file(&if folder.is_empty() { "go.mod".into() } else { format!("{folder}/go.mod") });
            let wanted = format!("{from} {}", part.version());
            let required = module
                .lines()
                .map(|line| line.trim().trim_start_matches("require ").trim_end_matches(" // indirect"))
                .any(|line| line == wanted);
            assert!(required, "{}: go.mod does not require {wanted}", part.name());
        }
    }

    #[test]
    fn systems_are_made_of_what_there_is() {
        let parts = Parts::own().unwrap().all;
        let kubectl = parts.iter().find(|part| part.name() == "kubectl").unwrap().clone();
        let Part::Tool(mut other) = kubectl else { panic!("kubectl is a tool") };
        other.version = "v0.0.0".into();
        let changed: Vec<Part> =
            parts.iter().map(|p| if p.name() == "kubectl" { Part::Tool(other.clone()) } else { p.clone() }).collect();
        let own = Digest::of("own");
        for part in &parts {
            let Part::System(system) = part else { continue };
            for source in system.sources() {
                assert!(!file(source).is_empty(), "{}: there is no {source}", part.name());
            }
            for program in system.programs.values() {
                assert!(parts.iter().any(|other| other.name() == program), "{}: no part {program}", part.name());
            }
            let uses = system.programs.values().any(|name| name == "kubectl");
            assert_eq!(Parts::key(part, &parts, &own) != Parts::key(part, &changed, &own), uses, "{}", part.name());
        }
    }

    #[test]
    fn a_part_that_is_like_another_says_only_what_differs() {
        let table = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
        let node = table("name = 'node'\nversion = 'v1'\npackages = ['a']\ntexts = { x = '1', y = '2' }");
        let other = table("name = 'other'\nlike = 'node'\nversion = 'v2'\ntexts = { y = '3' }");
        let whole = complete(other.clone(), &[node.clone(), other]).unwrap();
        assert_eq!(whole, table("name = 'other'\nversion = 'v2'\npackages = ['a']\ntexts = { x = '1', y = '3' }"));
        let nobody = complete(table("name = 'other'\nlike = 'none'"), &[node]).unwrap_err().to_string();
        assert!(nobody.contains("no part is named \"none\" and stands for itself"), "{nobody}");
    }

    #[test]
    fn every_package_is_a_tool_of_its_module() {
        for part in Parts::own().unwrap().all {
            if let Some(package) = part.go_program().and_then(|go| go.package.as_deref()) {
                let folder = part.module();
                let module = file(&if folder.is_empty() { "go.mod".into() } else { format!("{folder}/go.mod") });
                let own =
                    package.strip_prefix(OWN_PACKAGES).is_some_and(|own| !file(&format!("{own}/main.go")).is_empty());
                assert!(own || module.lines().any(|line| line.trim() == package), "{package}");
            }
        }
    }

    #[test]
    fn a_key_changes_with_what_the_part_is_made_from() {
        let parts = Parts::own().unwrap().all;
        let (one, two) = (Digest::of("one"), Digest::of("two"));
        let part = |name: &str| parts.iter().find(|part| part.name() == name).unwrap().clone();
        let etcd = part("etcd");
        assert_eq!(Parts::key(&etcd, &parts, &one), Parts::key(&etcd, &parts, &two));
        let Part::Tool(mut changed) = etcd.clone() else { panic!("etcd is a tool") };
        changed.user = "1".into();
        assert_ne!(Parts::key(&etcd, &parts, &one), Parts::key(&Part::Tool(changed), &parts, &one));
        let own = part("cluster-init");
        assert_ne!(Parts::key(&own, &parts, &one), Parts::key(&own, &parts, &two));
    }
}
