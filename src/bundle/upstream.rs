//! Parts as upstream publishes them: images under their own names, manifests at their releases' URLs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};

use super::build::{self, MANIFEST_TYPE, entries_of, program_image};
use super::error::{Error, Result};
use super::parts::{Manifest, Part, Parts};
use super::pull::{Filling, Wanted, first};
use super::release;
use super::store::{KEY, PART, UPSTREAM, annotation, blocking};
use super::toolchain::Toolchain;
use crate::fsx;
use crate::oci::{self, Descriptor, Digest, Reference, Registry, media};

/// How many parts are looked for at once.
const QUESTIONS: usize = 8;

/// What is to be pulled, and how many parts there should be. What needs no registry is in the bundle when this returns.
///
/// A part that is there counts whether it was pulled or built, as it does for a build: each goes on where the other was.
pub(super) async fn wanted(filling: &Filling<'_>, with: &[String], program: PathBuf) -> Result<(Vec<Wanted>, usize)> {
    let all = Parts::own()?.all;
    let layout = filling.layout();
    let parts = build::wanted(&all, &layout, with)?;
    let own = {
        let program = program.clone();
        blocking(move || fsx::read(&program).map(Digest::of)).await?
    };
    let keys: BTreeMap<&str, String> =
        parts.iter().map(|part| (part.name(), Parts::key(part, &all, &own).to_string())).collect();
    let sound = sound(filling).await;
    let is_there = |part: &Part| {
        let has = |entry: &&Descriptor| {
            annotation(entry, PART) == part.name()
                && keys.get(part.name()).is_some_and(|key| annotation(entry, KEY) == key)
                && sound.contains(&entry.digest)
        };
        layout.entries().iter().filter(has).count() == part.references().len()
    };
    let found = futures::stream::iter(parts.iter().filter(|part| !is_there(part))).map(async |part| {
        let key = keys.get(part.name()).map(String::as_str).unwrap_or_default();
        match look(filling, part, key, &program).await {
            Ok(wanted) => Ok(wanted),
            Err(error) => filling.miss(part.name(), error).map(|()| None),
        }
    });
    let found: Vec<Option<Wanted>> = found.buffer_unordered(QUESTIONS).try_collect().await?;
    Ok((found.into_iter().flatten().collect(), parts.len()))
}

/// The digests of entries that hold what they should.
async fn sound(filling: &Filling<'_>) -> BTreeSet<Digest> {
    let layout = filling.layout();
    blocking(move || {
        let broken: BTreeSet<Digest> = layout.check().broken.into_iter().map(|(entry, _)| entry.digest).collect();
        layout.entries().iter().map(|entry| entry.digest.clone()).filter(|digest| !broken.contains(digest)).collect()
    })
    .await
}

/// Looks for one part; `None` when it is in the bundle then.
async fn look(filling: &Filling<'_>, part: &Part, key: &str, program: &Path) -> Result<Option<Wanted>> {
    match part {
        Part::Manifest(manifest) => release(filling, part, manifest, key).await.map(|()| None),
        Part::Tool(own) | Part::Image(own) if own.package.is_none() => {
            let (layout, spec, program) = (filling.layout(), own.clone(), program.to_owned());
            let made = blocking(move || program_image(&layout, &spec, &program)).await?;
            filling.index_part(part.name(), &entries_of(part, key, &made, None))?;
            filling.came(part.name());
            Ok(None)
        }
        Part::Tool(_) | Part::Image(_) | Part::System(_) => image(filling, part, key).await.map(Some),
    }
}

async fn release(filling: &Filling<'_>, part: &Part, manifest: &Manifest, key: &str) -> Result<()> {
    let (url, content) = release::manifest(filling.site, &manifest.url, manifest.digest.as_ref()).await?;
    let made = filling.layout().add_file_artifact(MANIFEST_TYPE, media::YAML, &content)?;
    let from = (UPSTREAM.to_owned(), format!("{url}@{}", Digest::of(&content)));
    filling.index_part(part.name(), &entries_of(part, key, &made, [from]))?;
    filling.came(part.name());
    Ok(())
}

/// Asks the registries of the part's names, one after the other: the same image is under all of them.
async fn image(filling: &Filling<'_>, part: &Part, key: &str) -> Result<Wanted> {
    let layout = filling.layout();
    let mut reason = None;
    for reference in part.references() {
        let (registries, repository, tag) = filling.site.upstream(&reference.parse::<Reference>()?).await?;
        let ask = async |registry: &Registry| {
            let found = registry.manifest_of_tag(&repository, &tag, Toolchain::architecture()).await?;
            Ok((registry.address().clone(), found))
        };
        match first(&registries, ask).await {
            Ok((address, found)) => {
                let mut made = layout.add(media::MANIFEST, &found.manifest)?;
                let manifest: oci::Manifest = serde_json::from_slice(&found.manifest).map_err(|source| {
                    oci::Error::Json { what: format!("the manifest of {address}/{repository}:{tag}"), source }
                })?;
                if !manifest.media_type.is_empty() {
                    made.media_type = manifest.media_type;
                }
                let from = (UPSTREAM.to_owned(), format!("{address}/{repository}:{tag}@{}", found.digest));
                let entries = entries_of(part, key, &made, [from]);
                filling.came(part.name());
                return Ok(Wanted { part: part.name().to_owned(), entries, registries, repository });
            }
            Err(error) => _ = reason.get_or_insert(error),
        }
    }
    Err(reason.unwrap_or_else(|| Error::NoPart { name: part.name().into(), folder: layout.folder().to_owned() }))
}
