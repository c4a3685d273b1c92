//! Blobs on their way into a layout: they lie beside its blobs until they are whole and have the right digest.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use super::digest::{Digest, Hasher, Hashing};
use super::error::{Error, Result};
use super::layout::Layout;
use super::spec::Descriptor;
use crate::fsx;

/// The folder of a layout for them.
const FOLDER: &str = "partial";

/// A blob of which some bytes are here.
pub(super) struct Partial {
    layout: Layout,
    blob: Descriptor,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    at: u64,
}

impl Layout {
    /// Removes what processes that were killed have left of blobs and of the index.
    pub fn remove_partial(&self) -> Result<()> {
        for name in fsx::list(self.folder())?.iter().filter(|name| name.starts_with(fsx::UNFINISHED)) {
            fsx::remove_file(&self.folder().join(name))?;
        }
        Ok(fsx::remove_dir(&self.folder().join(FOLDER))?)
    }
}

impl Partial {
    /// The blob with as much of it as an earlier process has left; that is read once.
    pub(super) fn open(layout: &Layout, blob: &Descriptor) -> Result<Self> {
        let folder = layout.folder().join(FOLDER);
        fsx::create_dir(&folder)?;
        let path = folder.join(blob.digest.hex());
        let mut partial = Self {
            layout: layout.clone(),
            blob: blob.clone(),
            file: fsx::append(&path)?,
            path,
            hasher: Hasher::default(),
            at: 0,
        };
        let mut left = Hashing::new(fsx::open(&partial.path)?);
        io::copy(&mut left, &mut io::sink()).map_err(partial.failed("read"))?;
        (partial.hasher, partial.at) = left.so_far();
        if partial.at > blob.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        Error::archive(format!("{action} {}", self.path.display()))
    }

    /// How many bytes are here.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Whether all are here.
    pub(super) fn is_whole(&self) -> bool {
        self.at == self.blob.size
    }

    /// Forgets what is here.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(self.failed("empty"))?;
        (self.hasher, self.at) = (Hasher::default(), 0);
        Ok(())
    }

    /// Adds bytes; those beyond the blob's size are left out. Returns how many were added.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<u64> {
        let room = usize::try_from(self.blob.size - self.at).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        self.file.write_all(bytes).map_err(self.failed("write"))?;
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len() as u64)
    }

    /// Puts the blob among the layout's when it has its digest; gives the other digest back when it has not, and forgets all.
    pub(super) fn finish(&mut self) -> Result<Option<Digest>> {
        let actual = self.hasher.clone().finish();
        if actual != self.blob.digest {
            self.restart()?;
            fsx::remove_file(&self.path)?;
            self.file = fsx::append(&self.path)?;
            return Ok(Some(actual));
        }
        self.file.sync_data().map_err(self.failed("write"))?;
        fsx::set_mode(&self.path, 0o644)?;
        fsx::rename(&self.path, &self.layout.blob_path(&self.blob.digest))?;
        Ok(None)
    }

    /// Leaves nothing behind.
    pub(super) fn remove(self) -> Result<()> {
        Ok(fsx::remove_file(&self.path)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn blob(content: &[u8]) -> Descriptor {
        Descriptor {
            media_type: "x".into(),
            digest: Digest::of(content),
            size: content.len() as u64,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn a_blob_goes_on_where_an_earlier_process_was() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(folder.path()).unwrap();
        let blob = blob(b"hello world");
        assert_eq!(Partial::open(&layout, &blob).unwrap().write(b"hello").unwrap(), 5);
        let mut partial = Partial::open(&layout, &blob).unwrap();
        assert_eq!((partial.at(), partial.is_whole()), (5, false));
        // More than there should be is not kept.
        assert_eq!(partial.write(b" world, and more").unwrap(), 6);
        assert!(partial.is_whole());
        assert_eq!(partial.finish().unwrap(), None);
        assert_eq!(layout.read(&blob.digest).unwrap(), b"hello world");
        fsx::write(&folder.path().join(".new-index"), "half").unwrap();
        layout.remove_partial().unwrap();
        assert_eq!(fsx::list(folder.path()).unwrap(), ["blobs", "index.json", "oci-layout"]);
    }

    #[test]
    fn what_is_wrong_never_becomes_a_blob() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(folder.path()).unwrap();
        let blob = blob(b"hello world");
        let mut partial = Partial::open(&layout, &blob).unwrap();
        partial.write(b"hello_world").unwrap();
        assert_eq!(partial.finish().unwrap(), Some(Digest::of(b"hello_world")));
        assert!(!layout.has(&blob.digest));
        // It begins anew.
        assert_eq!(partial.at(), 0);
        partial.write(b"hello world").unwrap();
        assert_eq!(partial.finish().unwrap(), None);
        assert!(layout.has(&blob.digest));
    }
}
