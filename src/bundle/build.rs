//! Making a bundle: every part whose key has changed, and nothing else.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::binary;
use super::error::{Error, Result};
use super::parts::{Manifest, Part, Parts, Program};
use super::render::Renderer;
use super::store::{Bundle, KEY, KIND, PART, TOOLCHAIN, URL, VERSION, WITH, annotation, blocking};
use super::system::System;
use super::target::Target;
use super::toolchain::{Toolchain, binary_name};
use crate::clock::{Stopwatch, human};
use crate::event::Events;
use crate::fsx;
use crate::oci::{self, Descriptor, Digest, Layout, ProgramImage, REF_NAME, media};

/// The artifact type of manifests.
pub(super) const MANIFEST_TYPE: &str = "application/vnd.cluster-init.manifest.v1";
/// Where images have the files that they share.
const SHARED: &str = "usr/libexec/cluster-init";
/// Disk that the sources of all modules take.
const MODULES_SIZE: u64 = 4 << 30;
/// Disk that the compiled packages of one program take, on average.
const PACKAGES_SIZE: u64 = 170 << 20;
/// Disk that one program takes, in the bundle and beside it while it is made.
const PROGRAM_SIZE: u64 = 130 << 20;

/// Where and from what a bundle is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bundle's folder.
    pub folder: PathBuf,
    /// A folder for sources and programs on their way into the bundle.
    pub work: PathBuf,
    /// Where images are unpacked.
    pub unpacked: PathBuf,
    /// This program's file, which is a part, too.
    pub program: PathBuf,
    /// What else it is for (`docker`), beside what it was made with before.
    pub with: Vec<String>,
}

/// What a build did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// The bundle's folder.
    pub folder: PathBuf,
    /// Digest of the whole bundle.
    pub digest: Digest,
    /// Parts that were made.
    pub built: Vec<String>,
    /// Number of parts that were kept.
    pub kept: usize,
    /// Bytes of the bundle.
    pub size: u64,
}

/// Makes or completes the bundle; parts whose key is the same and whose blobs are sound are kept.
///
/// Every part is in the bundle's index as soon as it is made, so that an interrupted build goes on where it was.
pub async fn build(options: &Options, events: &Events, cancel: &CancellationToken) -> Result<Report> {
    fsx::create_dir(&options.folder)?;
    let lock = options.folder.join(".lock");
    let _lock = fsx::Lock::try_take(&lock)?.map_err(|holder| Error::Busy { folder: options.folder.clone(), holder })?;
    let all = Parts::own()?.all;
    let layout = Layout::open_or_create(&options.folder)?;
    let parts = wanted(&all, &layout, &options.with)?;
    let own = {
        let program = options.program.clone();
        blocking(move || fsx::read(&program).map(Digest::of)).await?
    };
    let keys: BTreeMap<String, Digest> =
        parts.iter().map(|part| (part.name().to_owned(), Parts::key(part, &all, &own))).collect();
    let mut builder = Builder { options, events, cancel, layout, parts, keys, toolchain: None, built: Vec::new() };
    let stale = builder.stale().await?;
    if !stale.is_empty() {
        builder.make(&stale).await?;
    }
    builder.finish()
}

/// The parts of every bundle, those that were asked for, and those that are for what the bundle was made with before.
pub(super) fn wanted(all: &[Part], layout: &Layout, with: &[String]) -> Result<Vec<Part>> {
    let known: BTreeSet<&str> = all.iter().filter_map(Part::with).collect();
    if let Some(name) = with.iter().find(|name| !known.contains(name.as_str())) {
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Error::NoGroup { name: name.clone(), known });
    }
    let mut groups: BTreeSet<&str> = layout.entries().iter().map(|entry| annotation(entry, WITH)).collect();
    groups.extend(with.iter().map(String::as_str));
    let is_wanted = |part: &&Part, groups: &BTreeSet<&str>| part.with().is_none_or(|with| groups.contains(with));
    // What is for an upgrade is made of, and runs beside, what is for docker.
    let laid: BTreeSet<&str> = all.iter().filter(|part| is_wanted(part, &groups)).flat_map(Part::programs).collect();
    groups.extend(all.iter().filter(|part| laid.contains(part.name())).filter_map(Part::with));
    Ok(all.iter().filter(|part| is_wanted(part, &groups)).cloned().collect())
}

struct Builder<'a> {
    options: &'a Options,
    events: &'a Events,
    cancel: &'a CancellationToken,
    layout: Layout,
    parts: Vec<Part>,
    keys: BTreeMap<String, Digest>,
    toolchain: Option<Toolchain>,
    built: Vec<String>,
}

impl Builder<'_> {
    /// Drops entries that are out of date, broken or of parts that are no more; returns the parts to be made.
    async fn stale(&mut self) -> Result<Vec<Part>> {
        Parts::write_modules(&self.modules())?;
        let toolchain = Toolchain::find(&self.modules()).await;
        let version = toolchain.as_ref().ok().map(|toolchain| toolchain.version().to_owned());
        let layout = self.layout.clone();
        // Reading everything is what makes this command the one that repairs.
        let broken: BTreeSet<Digest> =
            blocking(move || layout.check()).await.broken.into_iter().map(|(entry, _)| entry.digest).collect();
        let sound = |entry: &&Descriptor| {
            let part = self.parts.iter().find(|part| part.name() == annotation(entry, PART));
            part.is_some_and(|part| {
                let key = self.keys.get(part.name()).map(ToString::to_string).unwrap_or_default();
                let made_by = entry.annotations.get(TOOLCHAIN);
                annotation(entry, KEY) == key
                    // Without a toolchain there is no telling which version it would be.
                    && (made_by.is_none() || version.is_none() || made_by == version.as_ref())
                    && !broken.contains(&entry.digest)
            })
        };
        let kept: Vec<Descriptor> = self.layout.entries().iter().filter(sound).cloned().collect();
        let present: BTreeSet<(&str, &str)> = kept.iter().map(|e| (annotation(e, PART), reference(e))).collect();
        let stale: Vec<Part> = self
            .parts
            .iter()
            .filter(|part| part.references().iter().any(|reference| !present.contains(&(part.name(), *reference))))
            .cloned()
            .collect();
        if kept.len() != self.layout.entries().len() {
            self.layout.set_entries(kept.clone())?;
        }
        if stale.iter().any(|part| part.go_program().is_some() || matches!(part, Part::Manifest(_))) {
            self.toolchain = Some(toolchain?);
        }
        Ok(stale)
    }

    fn modules(&self) -> PathBuf {
        self.options.work.join("modules")
    }

    async fn make(&mut self, stale: &[Part]) -> Result<()> {
        let names: Vec<&str> = stale.iter().map(Part::name).collect();
        self.events.note(format!("{} of {} parts have to be made", names.len(), self.keys.len()));
        let programs: Vec<&Program> = stale.iter().filter_map(Part::go_program).collect();
        self.check_disk(programs.len() as u64)?;
        for part in stale {
            if let (None, Part::Tool(own) | Part::Image(own)) = (part.go_program(), part) {
                let (layout, spec, path) = (self.layout.clone(), own.clone(), self.options.program.clone());
                let watch = Stopwatch::start();
                let entry = blocking(move || program_image(&layout, &spec, &path)).await?;
                self.index(&own.name, &entry, None, watch)?;
            }
        }
        let parts = self.parts.clone();
        let all: Vec<&Program> = parts.iter().filter_map(Part::go_program).collect();
        let stale_names: BTreeSet<&str> = programs.iter().map(|program| program.name.as_str()).collect();
        for round in rounds(Target::of(&programs, &all)) {
            self.compile(&round, &stale_names).await?;
        }
        let manifests: Vec<&Manifest> = stale
            .iter()
            .filter_map(|part| match part {
                Part::Manifest(manifest) => Some(manifest),
                _ => None,
            })
            .collect();
        if !manifests.is_empty() {
            self.render(&manifests).await?;
        }
        for part in stale {
            if let Part::System(system) = part {
                self.add_system(system).await?;
            }
        }
        Ok(())
    }

    /// Installs packages, lays the programs of other parts on top, and puts the image into the index.
    async fn add_system(&mut self, system: &System) -> Result<()> {
        let watch = Stopwatch::start();
        self.events.note(format!("installing the Debian packages of {}", system.name));
        let work = self.options.work.join("debian");
        let base = self.cancel.run_until_cancelled(system.base(&work)).await.ok_or(Error::Interrupted)??;
        let bundle = Bundle::of(self.layout.clone(), &self.options.unpacked);
        let mut programs = BTreeMap::new();
        for part in system.programs.values() {
            programs.insert(part.clone(), bundle.tool_async(part).await?);
        }
        let (layout, spec) = (self.layout.clone(), system.clone());
        let entry = blocking(move || spec.add(&layout, &base, &programs)).await?;
        self.index(&system.name, &entry, None, watch)
    }

    /// Refuses to begin what a full disk would end.
    fn check_disk(&self, programs: u64) -> Result<()> {
        let mut needs: Vec<(&Path, u64)> = vec![(&self.options.folder, (programs + 1) * PROGRAM_SIZE)];
        if let Some(toolchain) = self.toolchain.as_ref().filter(|_| programs > 0) {
            needs.push((&self.options.work, programs * (PROGRAM_SIZE + PACKAGES_SIZE)));
            needs.push((toolchain.cache(), programs * PACKAGES_SIZE));
            if !toolchain.module_cache().join("k8s.io").exists() {
                needs.push((toolchain.module_cache(), MODULES_SIZE));
            }
        }
        enough_disk(&needs, |path| Ok((fsx::device(path)?, fsx::free_bytes(path)?)))
    }

    /// Builds targets of one module whose names differ, and puts what is stale of them into images.
    async fn compile(&mut self, targets: &[Target<'_>], stale: &BTreeSet<&str>) -> Result<()> {
        let Some(toolchain) = self.toolchain.clone() else { return Ok(()) };
        let count: usize = targets.iter().map(|target| target.members.len()).sum();
        self.events.note(format!("building {count} programs with {}", toolchain.version()));
        let out = self.options.work.join("out");
        let watch = Stopwatch::start();
        let (events, cancel) = (self.events.clone(), self.cancel.clone());
        let module = targets.first().map_or("", |target| target.module);
        let modfile = binary::prepare(&toolchain, module, targets).await?;
        let this = &mut *self;
        toolchain
            .build(targets, &modfile, &out, &events, &cancel, async |target: &Target<'_>, path: &Path| {
                this.add_target(target, stale, path, watch).await
            })
            .await
    }

    /// Puts programs into images and the images into the index.
    async fn add_target(
        &mut self,
        target: &Target<'_>,
        stale: &BTreeSet<&str>,
        path: &Path,
        watch: Stopwatch,
    ) -> Result<()> {
        let toolchain = self.toolchain.as_ref().map(|toolchain| toolchain.version().to_owned());
        let shared = match target.binary {
            None => None,
            Some(binary) => {
                let (layout, names, path) = (self.layout.clone(), target.names(), path.to_owned());
                let folder = format!("{SHARED}/{binary}");
                Some(blocking(move || layout.add_shared_file(&folder, &names, &path)).await?)
            }
        };
        for program in target.members.iter().copied().filter(|program| stale.contains(program.name.as_str())) {
            let (layout, spec, path, shared) = (self.layout.clone(), program.clone(), path.to_owned(), shared.clone());
            let entry = blocking(move || match shared {
                Some(file) => layout.add_shared_image(&image_of(&spec), &file, &spec.name),
                None => program_image(&layout, &spec, &path),
            })
            .await?;
            self.index(&program.name, &entry, toolchain.as_deref(), watch)?;
        }
        Ok(())
    }

    /// Renders manifests with the bundle's own kustomize and helm.
    async fn render(&mut self, manifests: &[&Manifest]) -> Result<()> {
        let Some(toolchain) = self.toolchain.clone() else { return Ok(()) };
        let bundle = Bundle::of(self.layout.clone(), &self.options.unpacked);
        let renderer = Renderer {
            kustomize: bundle.tool_async("kustomize").await?,
            helm: bundle.tool_async("helm").await?,
            work: self.options.work.join("render"),
        };
        let mut folders: BTreeMap<(&str, &str), PathBuf> = BTreeMap::new();
        for manifest in manifests {
            if let Entry::Vacant(place) = folders.entry((&manifest.module, &manifest.from)) {
                place.insert(toolchain.module_folder(&manifest.module, &manifest.from).await?);
            }
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut rendered = futures::stream::iter(manifests)
            .map(async |manifest| {
                let watch = Stopwatch::start();
                let folder = &folders[&(manifest.module.as_str(), manifest.from.as_str())];
                renderer.render(manifest, folder).await.map(|content| (manifest, content, watch))
            })
            .buffered(processors);
        while let Some(next) = self.cancel.run_until_cancelled(rendered.next()).await.ok_or(Error::Interrupted)? {
            let (manifest, content, watch) = next?;
            let entry = self.layout.add_file_artifact(MANIFEST_TYPE, media::YAML, &content)?;
            self.index(&manifest.name, &entry, None, watch)?;
        }
        drop(rendered);
        fsx::remove_dir(&renderer.work)?;
        Ok(())
    }

    /// Puts a part into the index, once for each of its references.
    fn index(&mut self, name: &str, made: &Descriptor, toolchain: Option<&str>, watch: Stopwatch) -> Result<()> {
        let Some(part) = self.parts.iter().find(|part| part.name() == name) else { return Ok(()) };
        let mut entries: Vec<Descriptor> =
            self.layout.entries().iter().filter(|entry| annotation(entry, PART) != name).cloned().collect();
        let key = self.keys.get(name).map(ToString::to_string).unwrap_or_default();
        let toolchain = toolchain.map(|version| (TOOLCHAIN.to_owned(), version.to_owned()));
        entries.extend(entries_of(part, &key, made, toolchain));
        self.layout.set_entries(entries)?;
        self.built.push(name.to_owned());
        self.events.note(format!("part {name} {} made after {}", part.version(), human(watch.elapsed())));
        Ok(())
    }

    fn finish(self) -> Result<Report> {
        if !self.built.is_empty() {
            self.layout.prune()?;
        }
        let mut sizes: BTreeMap<Digest, u64> = BTreeMap::new();
        for entry in self.layout.entries() {
            sizes.extend(self.layout.closure(entry)?.into_iter().map(|blob| (blob.digest, blob.size)));
        }
        Ok(Report {
            folder: self.options.folder.clone(),
            digest: self.layout.digest()?,
            kept: self.parts.len() - self.built.len(),
            built: self.built,
            size: sizes.values().sum(),
        })
    }
}

/// Puts a program into an image of its own.
pub(super) fn program_image(layout: &Layout, program: &Program, path: &Path) -> oci::Result<Descriptor> {
    layout.add_program_image(&image_of(program), path)
}

/// What the image of a program says about it.
fn image_of(program: &Program) -> ProgramImage<'_> {
    let entrypoint =
        if program.entrypoint.is_empty() { vec![format!("/{}", program.path)] } else { program.entrypoint.clone() };
    let annotations = BTreeMap::from([
        ("org.opencontainers.image.title".to_owned(), program.name.clone()),
        ("org.opencontainers.image.version".to_owned(), program.version.clone()),
    ]);
    ProgramImage {
        path: &program.path,
        entrypoint,
        cmd: program.cmd.clone(),
        user: &program.user,
        files: program.files.iter().map(|(name, text)| (name.clone(), text.trim_start().to_owned())).collect(),
        architecture: Toolchain::architecture(),
        annotations,
    }
}

/// The index's entries of a part, one for each of its references, with the facts that every entry has and some more.
pub(super) fn entries_of(
    part: &Part,
    key: &str,
    made: &Descriptor,
    more: impl IntoIterator<Item = (String, String)>,
) -> Vec<Descriptor> {
    let label = if matches!(part, Part::Manifest(_)) { URL } else { REF_NAME };
    let facts = [(PART, part.name()), (VERSION, part.version()), (KIND, part.kind()), (KEY, key)];
    let mut common: BTreeMap<String, String> = facts.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    common.extend(part.with().map(|with| (WITH.to_owned(), with.to_owned())));
    common.extend(more);
    let entry = |reference: &str| {
        let mut entry = made.clone();
        entry.annotations = common.clone();
        entry.annotations.insert(label.to_owned(), reference.to_owned());
        entry
    };
    part.references().into_iter().map(entry).collect()
}

/// Compares what folders need with what is free on the file systems that they are on; `look` tells a path's file system
/// and the bytes that are free there.
pub(super) fn enough_disk(needs: &[(&Path, u64)], look: impl Fn(&Path) -> Result<(u64, u64)>) -> Result<()> {
    let mut file_systems: BTreeMap<u64, (PathBuf, u64, u64)> = BTreeMap::new();
    for (path, need) in needs {
        let (device, free) = look(path)?;
        file_systems.entry(device).or_insert_with(|| ((*path).to_owned(), 0, free)).1 += need;
    }
    match file_systems.into_values().find(|(_, need, free)| free < need) {
        Some((path, need, free)) => Err(Error::Disk { path, need, free }),
        None => Ok(()),
    }
}

fn reference(entry: &Descriptor) -> &str {
    entry.annotations.get(URL).or_else(|| entry.annotations.get(REF_NAME)).map_or("", String::as_str)
}

/// Splits targets into rounds that one `go build` can make: of one module, no two with the same name.
fn rounds(targets: Vec<Target<'_>>) -> Vec<Vec<Target<'_>>> {
    let mut rounds: Vec<Vec<Target>> = Vec::new();
    let name = |target: &Target| binary_name(&target.package("")).to_owned();
    for target in targets {
        let fits = |round: &&mut Vec<Target>| {
            round.iter().all(|other| other.module == target.module && name(other) != name(&target))
        };
        match rounds.iter_mut().find(fits) {
            Some(round) => round.push(target),
            None => rounds.push(vec![target]),
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_on_one_disk_share_what_is_free() {
        let needs = [(Path::new("/a/x"), 6 << 30), (Path::new("/b"), 1 << 30), (Path::new("/a/y"), 5 << 30)];
        let device = |path: &Path| u64::from(path.starts_with("/a"));
        assert!(enough_disk(&needs, |path| Ok((device(path), 11 << 30))).is_ok());
        let error = enough_disk(&needs, |path| Ok((device(path), 10 << 30))).unwrap_err();
        assert_eq!(error.to_string(), "/a/x needs 11.8 GB of free disk, and there are 10.7 GB");
        assert_eq!(crate::failure::Failure::from(error).kind, crate::failure::Kind::Preflight);
    }

    #[test]
    fn an_upgrade_brings_what_it_is_made_of() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(folder.path()).unwrap();
        let all = Parts::own().unwrap().all;
        let groups = |with: &[&str]| {
            let with: Vec<String> = with.iter().map(|name| (*name).to_owned()).collect();
            let parts = wanted(&all, &layout, &with).unwrap();
            parts.iter().filter_map(|part| part.with().map(str::to_owned)).collect::<BTreeSet<_>>()
        };
        assert_eq!(groups(&[]), BTreeSet::new());
        assert_eq!(groups(&["docker"]), ["docker".to_owned()].into());
        assert_eq!(groups(&["upgrade"]), ["docker".to_owned(), "upgrade".to_owned()].into());
        let error = wanted(&all, &layout, &["other".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "there are no parts for \"other\" (known: docker, upgrade)");
    }

    #[test]
    fn a_module_is_built_in_one_go_unless_names_meet() {
        let parts = Parts::own().unwrap().all;
        let programs: Vec<&Program> =
            parts.iter().filter(|part| part.with().is_none()).filter_map(Part::go_program).collect();
        let modules: Vec<&str> = rounds(Target::of(&programs, &programs)).iter().map(|round| round[0].module).collect();
        assert_eq!(modules, ["", "cert-manager"]);
        let mut one = (*programs.iter().find(|program| program.binary.is_none()).unwrap()).clone();
        let other = one.clone();
        one.package = Some("example.org/other/etcd".into());
        let both = [&one, &Program { package: Some("example.org/etcd".into()), ..other }];
        assert_eq!(rounds(Target::of(&both, &both)).len(), 2);
    }
}
