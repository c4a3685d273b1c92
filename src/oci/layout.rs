//! The folder of an OCI image layout.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::digest::{Digest, Hashing};
use super::error::{Error, Result};
use super::image::Image;
use super::reference::Reference;
use super::spec::{Descriptor, Index, Manifest, REF_NAME, media};
use crate::fsx;

/// An OCI image layout: a folder with an index and blobs.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
    index: Index,
}

/// What [`Layout::check`] found.
#[derive(Debug, Default)]
pub struct Check {
    /// Number of blobs that were read.
    pub blobs: usize,
    /// Bytes that were read.
    pub bytes: u64,
    /// The index entries that do not hold what they should, with the reason.
    pub broken: Vec<(Descriptor, Error)>,
}

impl Layout {
    /// Opens the layout in a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("index.json");
        let text = match fsx::read(&path) {
            Err(error) if error.not_found() => return Err(Error::NoLayout { folder: folder.to_owned() }),
            result => result?,
        };
        let index =
            serde_json::from_slice(&text).map_err(|source| Error::Json { what: path.display().to_string(), source })?;
        Ok(Self { folder: folder.to_owned(), index })
    }

    /// Opens the layout in a folder, or makes an empty one there.
    pub fn open_or_create(folder: &Path) -> Result<Self> {
        match Self::open(folder) {
            Err(Error::NoLayout { .. }) => {}
            result => return result,
        }
        fsx::create_dir(&folder.join("blobs/sha256"))?;
        fsx::write(&folder.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}\n")?;
        let layout = Self { folder: folder.to_owned(), index: Index::default() };
        layout.save()?;
        Ok(layout)
    }

    /// The layout's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The entries of the index.
    pub fn entries(&self) -> &[Descriptor] {
        &self.index.manifests
    }

    /// Replaces the entries of the index; they are sorted, so that their order does not depend on that of the work.
    pub fn set_entries(&mut self, mut entries: Vec<Descriptor>) -> Result<()> {
        entries.sort_by(|a, b| (&a.annotations, &a.digest).cmp(&(&b.annotations, &b.digest)));
        self.index.manifests = entries;
        self.save()
    }

    /// The index as it lies in the folder.
    pub fn index_bytes(&self) -> Result<Vec<u8>> {
        let what = "the index".to_owned();
        let mut text = serde_json::to_vec_pretty(&self.index).map_err(|source| Error::Json { what, source })?;
        text.push(b'\n');
        Ok(text)
    }

    fn save(&self) -> Result<()> {
        fsx::write(&self.folder.join("index.json"), self.index_bytes()?)?;
        Ok(())
    }

    /// The digest of the index, and with it of all that the layout holds.
    pub fn digest(&self) -> Result<Digest> {
        Ok(Digest::of(self.index_bytes()?))
    }

    /// Finds an image by reference; `docker.io` and `latest` may be left out, and a digest is honoured.
    pub fn resolve(&self, reference: &str) -> Result<Image> {
        let wanted: Reference = reference.parse()?;
        let entry = self.index.manifests.iter().find(|entry| {
            let named = entry.annotations.get(REF_NAME).and_then(|name| name.parse::<Reference>().ok());
            named.is_some_and(|named| {
                named.name == wanted.name
                    && wanted.tag.as_ref().is_none_or(|tag| named.tag.as_ref() == Some(tag))
                    && wanted.digest.as_ref().is_none_or(|digest| *digest == entry.digest)
            })
        });
        match entry {
            Some(entry) => self.image(entry),
            None => Err(Error::Unknown { reference: wanted.to_string(), folder: self.folder.clone() }),
        }
    }

    /// The image of an index entry.
    pub fn image(&self, entry: &Descriptor) -> Result<Image> {
        let manifest = self.manifest(entry)?;
        Ok(Image::new(self.clone(), entry.digest.clone(), manifest))
    }

    /// The manifest of an index entry.
    pub fn manifest(&self, entry: &Descriptor) -> Result<Manifest> {
        self.json(&entry.digest, "manifest")
    }

    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, digest: &Digest, what: &str) -> Result<T> {
        let content = self.read(digest)?;
        serde_json::from_slice(&content).map_err(|source| Error::Json { what: format!("{what} {digest}"), source })
    }

    /// The path of a blob.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// Whether a blob is there; its content is not looked at.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Opens a blob without looking at its content; the reader of a whole blob compares the digest.
    pub(super) fn open_blob(&self, digest: &Digest) -> Result<std::fs::File> {
        fsx::open(&self.blob_path(digest)).map_err(|error| {
            if error.not_found() {
                Error::Missing { digest: digest.clone(), folder: self.folder.clone() }
            } else {
                error.into()
            }
        })
    }

    /// Compares the digest of what was read with the expected one.
    pub(super) fn compare(&self, expected: &Digest, actual: Digest) -> Result<()> {
        if *expected == actual {
            Ok(())
        } else {
            Err(Error::Corrupt { digest: expected.clone(), actual, folder: self.folder.clone() })
        }
    }

    /// Reads a small blob and verifies it.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        self.open_blob(digest)?.read_to_end(&mut content).map_err(Error::archive(format!("read blob {digest}")))?;
        self.compare(digest, Digest::of(&content))?;
        Ok(content)
    }

    /// Reads a blob to the end, keeps nothing, and verifies it; returns its size.
    pub fn verify(&self, digest: &Digest) -> Result<u64> {
        let mut reader = BufReader::with_capacity(1 << 20, Hashing::new(self.open_blob(digest)?));
        io::copy(&mut reader, &mut io::sink()).map_err(Error::archive(format!("read blob {digest}")))?;
        let (_, actual, count) = reader.into_inner().finish();
        self.compare(digest, actual)?;
        Ok(count)
    }

    /// Adds a blob.
    pub fn add(&self, media_type: &str, content: &[u8]) -> Result<Descriptor> {
        self.add_from(media_type, |writer| writer.write_all(content))
    }

    /// Adds a blob that `fill` writes; it appears under its name when it is complete.
    pub fn add_from(
        &self,
        media_type: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Descriptor> {
        let blobs = self.folder.join("blobs/sha256");
        let failed = || Error::archive(format!("write a blob into {}", blobs.display()));
        let temporary = tempfile::Builder::new().prefix(".new-").tempfile_in(&blobs).map_err(failed())?;
        let mut writer = Hashing::new(temporary);
        fill(&mut writer).map_err(failed())?;
        let (temporary, digest, size) = writer.finish();
        fsx::set_mode(temporary.path(), 0o644)?;
        temporary.as_file().sync_data().map_err(failed())?;
        temporary.persist(self.blob_path(&digest)).map_err(|error| failed()(error.error))?;
        Ok(Descriptor { media_type: media_type.into(), digest, size, annotations: BTreeMap::new() })
    }

    /// Adds a document as JSON.
    pub fn add_json<T: serde::Serialize>(&self, media_type: &str, document: &T) -> Result<Descriptor> {
        let what = media_type.to_owned();
        let content = serde_json::to_vec(document).map_err(|source| Error::Json { what, source })?;
        self.add(media_type, &content)
    }

    /// Adds the manifest of an image or artifact whose blobs are there.
    pub fn add_manifest(&self, manifest: &Manifest) -> Result<Descriptor> {
        self.add_json(media::MANIFEST, manifest)
    }

    /// Everything that an entry needs, itself first.
    pub fn closure(&self, entry: &Descriptor) -> Result<Vec<Descriptor>> {
        let manifest = self.manifest(entry)?;
        let mut all = vec![entry.clone(), manifest.config];
        all.extend(manifest.layers);
        Ok(all)
    }

    /// Whether all blobs of an entry are there with the right size; their content is not read.
    pub fn complete(&self, entry: &Descriptor) -> bool {
        self.closure(entry).is_ok_and(|all| {
            all.iter().all(|blob| {
                self.blob_path(&blob.digest).metadata().is_ok_and(|meta| meta.is_file() && meta.len() == blob.size)
            })
        })
    }

    /// Removes blobs that no entry needs; returns how many bytes that freed.
    pub fn prune(&self) -> Result<u64> {
        let mut needed = BTreeSet::new();
        for entry in self.entries() {
            needed.extend(self.closure(entry)?.into_iter().map(|blob| blob.digest.hex().to_owned()));
        }
        let blobs = self.folder.join("blobs/sha256");
        let mut freed = 0;
        for name in fsx::list(&blobs)? {
            if !needed.contains(&name) {
                let path = blobs.join(name);
                freed += path.metadata().map_or(0, |meta| meta.len());
                fsx::remove_file(&path)?;
            }
        }
        Ok(freed)
    }

    /// Reads every blob that an entry needs, on as many threads as there are processors.
    pub fn check(&self) -> Check {
        let mut check = Check::default();
        let mut users: BTreeMap<Digest, Vec<&Descriptor>> = BTreeMap::new();
        for entry in self.entries() {
            match self.closure(entry) {
                Ok(all) => all.into_iter().for_each(|blob| users.entry(blob.digest).or_default().push(entry)),
                Err(error) => check.broken.push((entry.clone(), error)),
            }
        }
        let mut work: Vec<_> = users.keys().collect();
        // The longest first, so that no thread is left alone with one at the end.
        work.sort_by_key(|digest| std::cmp::Reverse(self.blob_path(digest).metadata().map_or(0, |meta| meta.len())));
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some(digest) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = self.verify(digest);
                        results.lock().unwrap_or_else(PoisonError::into_inner).push((*digest, result));
                    }
                });
            }
        });
        for (digest, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match result {
                Ok(bytes) => {
                    check.blobs += 1;
                    check.bytes += bytes;
                }
                Err(error) => {
                    // A blob that several entries share is reported with the first of them.
                    if let Some(entry) = users.get(digest).and_then(|entries| entries.first()) {
                        check.broken.push(((*entry).clone(), error));
                    }
                }
            }
        }
        check
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout_with_image(folder: &Path) -> (Layout, Descriptor, Descriptor) {
        let mut layout = Layout::open_or_create(folder).unwrap();
        let config = layout
            .add(media::CONFIG, br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#)
            .unwrap();
        let layer = layout.add(media::LAYER, &[0; 1024]).unwrap();
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            artifact_type: None,
            config,
            layers: vec![layer.clone()],
            annotations: BTreeMap::new(),
        };
        let mut entry = layout.add_manifest(&manifest).unwrap();
        entry.annotations.insert(REF_NAME.into(), "quay.io/a/b:v1".into());
        layout.set_entries(vec![entry.clone()]).unwrap();
        (layout, entry, layer)
    }

    #[test]
    fn an_image_is_found_by_tag_and_by_digest() {
        let folder = tempfile::tempdir().unwrap();
        let (_, entry, _) = layout_with_image(folder.path());
        let layout = Layout::open(folder.path()).unwrap();
        assert_eq!(*layout.resolve("quay.io/a/b:v1").unwrap().digest(), entry.digest);
        assert_eq!(*layout.resolve(&format!("quay.io/a/b@{}", entry.digest)).unwrap().digest(), entry.digest);
        let wrong = format!("quay.io/a/b:v1@{}", Digest::of("other"));
        assert!(matches!(layout.resolve(&wrong).unwrap_err(), Error::Unknown { .. }));
        let error = layout.resolve("b:v2").unwrap_err().to_string();
        assert!(error.starts_with("there is no image docker.io/library/b:v2 in "), "{error}");
    }

    #[test]
    fn a_folder_without_layout_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Layout::open(folder.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("there is no OCI image layout in {}", folder.path().display()));
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, entry, layer) = layout_with_image(folder.path());
        assert!(layout.check().broken.is_empty());
        let mut content = vec![0; 1024];
        content[77] = 1;
        fsx::write(&layout.blob_path(&layer.digest), content).unwrap();
        // The size is still right, so only reading finds it.
        assert!(layout.complete(&entry));
        let check = layout.check();
        assert_eq!(check.broken.len(), 1);
        assert!(matches!(&check.broken[0].1, Error::Corrupt { digest, .. } if *digest == layer.digest));
    }

    #[test]
    fn a_missing_blob_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, entry, layer) = layout_with_image(folder.path());
        fsx::remove_file(&layout.blob_path(&layer.digest)).unwrap();
        assert!(!layout.complete(&entry));
        let check = layout.check();
        assert_eq!(check.broken[0].1.blob(), Some(&layer.digest));
        assert!(check.broken[0].1.to_string().starts_with(&format!("blob {} is missing from ", layer.digest)));
    }

    #[test]
    fn a_corrupt_manifest_is_found_when_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, entry, _) = layout_with_image(folder.path());
        fsx::write(&layout.blob_path(&entry.digest), "{}").unwrap();
        assert!(matches!(layout.resolve("quay.io/a/b:v1").unwrap_err(), Error::Corrupt { .. }));
    }

    #[test]
    fn pruning_keeps_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, entry, _) = layout_with_image(folder.path());
        layout.add(media::YAML, b"nobody needs me").unwrap();
        assert_eq!(layout.prune().unwrap(), 15);
        assert!(layout.complete(&entry));
    }
}
