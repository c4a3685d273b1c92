//! An image of a layout: its configuration, and its files.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::digest::Digest;
use super::error::{Error, Result};
use super::layout::Layout;
use super::spec::{ConfigFile, Manifest};
use super::unpack;
use crate::fsx;

/// Where layers lie that several images may have.
const LAYERS: &str = "layers";
/// How long somebody else may take to unpack one.
const PATIENCE: Duration = Duration::from_mins(2);

/// An image of a layout.
#[derive(Clone, Debug)]
pub struct Image {
    layout: Layout,
    digest: Digest,
    manifest: Manifest,
}

/// How an image's program is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or the whole command where there is no entry point.
    pub cmd: Vec<String>,
    /// `NAME=VALUE` pairs.
    pub env: Vec<String>,
    /// Whom it runs as: name or number, perhaps with a group after a colon.
    pub user: String,
    /// Where it is started.
    pub working_dir: String,
}

impl ImageConfig {
    /// The value of a variable.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Finds a program of the image, given as a path in it or as a name on its PATH, in the folder `root` that the image
    /// was unpacked into.
    pub fn find(&self, root: &Path, program: &str) -> Option<PathBuf> {
        let real_root = root.canonicalize().ok()?;
        let inside = |path: &str| {
            let path = root.join(path.trim_start_matches('/'));
            // A link may not lead out of the image.
            let real = path.canonicalize().ok()?;
            (real.starts_with(&real_root) && real.is_file()).then_some(path)
        };
        if program.contains('/') {
            return inside(program);
        }
        let path = self.env("PATH").unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        path.split(':').find_map(|folder| inside(&format!("{folder}/{program}")))
    }
}

impl Image {
    pub(super) fn new(layout: Layout, digest: Digest, manifest: Manifest) -> Self {
        Self { layout, digest, manifest }
    }

    /// The digest of its manifest, by which the image is known.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of all its layers.
    pub fn size(&self) -> u64 {
        self.manifest.layers.iter().map(|layer| layer.size).sum()
    }

    /// How its program is started.
    pub fn config(&self) -> Result<ImageConfig> {
        let file: ConfigFile = self.layout.json(&self.manifest.config.digest, "image configuration")?;
        Ok(ImageConfig {
            entrypoint: file.config.entrypoint.unwrap_or_default(),
            cmd: file.config.cmd.unwrap_or_default(),
            env: file.config.env.unwrap_or_default(),
            user: file.config.user,
            working_dir: file.config.working_dir,
        })
    }

    /// The folder below `cache` that holds, or will hold, its files.
    pub fn unpacked_path(&self, cache: &Path) -> PathBuf {
        cache.join(self.digest.hex())
    }

    /// Unpacks its layers into a folder of `cache` that is named after its digest, and returns that folder.
    ///
    /// Nothing is done when the folder is there: it appears only when it is complete. Processes that unpack the same
    /// image at the same time do not disturb each other. Every layer is compared with its digest on the way. This reads
    /// and writes the whole image, so asynchronous callers move it to a blocking thread.
    pub fn unpack(&self, cache: &Path) -> Result<PathBuf> {
        let (lower, own) = match self.manifest.layers.split_first() {
            Some((first, [])) => (None, std::slice::from_ref(first)),
            Some((first, rest)) => (Some(first), rest),
            None => (None, [].as_slice()),
        };
        complete(cache, &self.unpacked_path(cache), |folder| {
            if let Some(lower) = lower {
                // Other images may have it, too. Its files are linked: they are on disk once, and once in memory when they run.
                let layers = cache.join(LAYERS);
                fsx::create_private_dir(&layers)?;
                let shared = layers.join(lower.digest.hex());
                // Pods that start together have it unpacked by the first of them: it is large. Who waited long enough does it, too.
                let _lock =
                    if shared.is_dir() { None } else { fsx::Lock::take_within(&layers.join(".lock"), PATIENCE)? };
                let shared = complete(&layers, &shared, |folder| unpack::layer(&self.layout, lower, folder))?;
                link_tree(&shared, folder)?;
            }
            own.iter().try_for_each(|layer| unpack::layer(&self.layout, layer, folder))
        })
    }
}

/// Makes `target`, a folder of `parent`, with what `fill` puts into a folder, unless it is there: it appears only when it is complete.
fn complete(parent: &Path, target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    if target.is_dir() {
        return Ok(target.to_owned());
    }
    fsx::create_private_dir(parent)?;
    let temporary = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(parent)
        .map_err(Error::archive(format!("unpack an image into {}", parent.display())))?;
    fill(temporary.path())?;
    fsx::set_mode(temporary.path(), 0o755)?;
    // Given away here: after the rename there is nothing left to remove.
    let folder = temporary.keep();
    match fsx::rename(&folder, target) {
        Ok(()) => Ok(target.to_owned()),
        Err(error) => {
            fsx::remove_dir(&folder)?;
            // Somebody else was faster; what is there is the same.
            if target.is_dir() { Ok(target.to_owned()) } else { Err(error.into()) }
        }
    }
}

/// The same tree with its files as further names of the same files. Layers on top replace files and never write into them.
fn link_tree(from: &Path, to: &Path) -> Result<()> {
    for name in fsx::list(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        let meta = source.symlink_metadata().map_err(Error::archive(format!("look at {}", source.display())))?;
        if meta.is_dir() {
            fsx::create_dir(&target)?;
            fsx::set_mode(&target, meta.permissions().mode() & 0o777)?;
            link_tree(&source, &target)?;
        } else {
            // Also of a symbolic link it is the name that is linked.
            fsx::hard_link(&source, &target)?;
        }
    }
    Ok(())
}
