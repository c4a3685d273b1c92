//! Images made of one program, or of an archive with files on top.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::archive::Archive;
use super::digest::Digest;
use super::error::Result;
use super::layout::Layout;
use super::spec::{ConfigFile, Descriptor, Manifest, RootFs, RunConfig, media};
use crate::fsx;

/// What an image of one static program says about it.
#[derive(Clone, Debug)]
pub struct ProgramImage<'a> {
    /// The program's path in the image, without the leading slash.
    pub path: &'a str,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments that a pod may replace.
    pub cmd: Vec<String>,
    /// Whom it runs as: a number, so that Kubernetes can tell that it is not root.
    pub user: &'a str,
    /// Small files beside the program.
    pub files: BTreeMap<String, String>,
    /// The processor as Go and OCI name it.
    pub architecture: &'a str,
    /// Facts about the image.
    pub annotations: BTreeMap<String, String>,
}

/// A file with several names that is the lower layer of several images: what they share is there once.
#[derive(Clone, Debug)]
pub struct SharedFile {
    layer: Descriptor,
    folder: String,
}

/// What an image of a whole system says about it.
#[derive(Clone, Debug)]
pub struct SystemImage<'a> {
    /// The archive that is the lower layer.
    pub base: &'a Path,
    /// What lies on top.
    pub top: &'a Archive,
    /// The first process and its arguments.
    pub entrypoint: Vec<String>,
    /// Variables beside PATH.
    pub env: Vec<String>,
    /// The signal that ends it.
    pub stop: Option<String>,
    /// The processor as Go and OCI name it.
    pub architecture: &'a str,
    /// Facts about the image.
    pub annotations: BTreeMap<String, String>,
}

impl Layout {
    /// Adds an image of an archive with files on top; the entry still has to be put into the index.
    pub fn add_system_image(&self, image: &SystemImage) -> Result<Descriptor> {
        let base = self.add_from(media::LAYER, |out| {
            let mut file = fsx::open(image.base).map_err(|error| error.source)?;
            std::io::copy(&mut file, out).map(|_| ())
        })?;
        let top = self.add_from(media::LAYER, |out| image.top.write_tar(out))?;
        let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        env.extend(image.env.iter().cloned());
        let config = self.add_json(
            media::CONFIG,
            &ConfigFile {
                architecture: image.architecture.into(),
                os: "linux".into(),
                config: RunConfig {
                    env: Some(env),
                    entrypoint: Some(image.entrypoint.clone()),
                    stop_signal: image.stop.clone(),
                    ..RunConfig::default()
                },
                rootfs: RootFs { kind: "layers".into(), diff_ids: vec![base.digest.clone(), top.digest.clone()] },
            },
        )?;
        self.add_manifest(&Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            artifact_type: None,
            config,
            layers: vec![base, top],
            annotations: image.annotations.clone(),
        })
    }

    /// Adds a layer of one program that has several names in a folder, given without the leading slash.
    pub fn add_shared_file(&self, folder: &str, names: &BTreeSet<String>, program: &Path) -> Result<SharedFile> {
        let mut archive = Archive::new();
        let mut first: Option<String> = None;
        for name in names {
            let path = format!("{folder}/{name}");
            if let Some(file) = &first {
                archive.insert_name(&path, file);
            } else {
                archive.insert_file(&path, program, true);
                first = Some(path);
            }
        }
        let layer = self.add_from(media::LAYER, |out| archive.write_tar(out))?;
        Ok(SharedFile { layer, folder: folder.to_owned() })
    }

    /// Adds an image of one program; the entry still has to be put into the index.
    pub fn add_program_image(&self, image: &ProgramImage, program: &Path) -> Result<Descriptor> {
        let mut archive = Archive::new();
        archive.insert_file(image.path, program, true);
        self.add_image(image, None, archive)
    }

    /// Adds an image of a program that is one of the names of a shared file.
    pub fn add_shared_image(&self, image: &ProgramImage, file: &SharedFile, name: &str) -> Result<Descriptor> {
        let mut archive = Archive::new();
        // Relative: the image may be unpacked into any folder.
        let up = "../".repeat(image.path.matches('/').count());
        archive.insert_link(image.path, &format!("{up}{}/{name}", file.folder));
        self.add_image(image, Some(file.layer.clone()), archive)
    }

    fn add_image(&self, image: &ProgramImage, lower: Option<Descriptor>, mut archive: Archive) -> Result<Descriptor> {
        for (path, content) in &image.files {
            archive.insert(path, content.as_bytes(), false);
        }
        let layer = self.add_from(media::LAYER, |out| archive.write_tar(out))?;
        let layers: Vec<Descriptor> = lower.into_iter().chain([layer]).collect();
        let folder = image.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let config = self.add_json(
            media::CONFIG,
            &ConfigFile {
                architecture: image.architecture.into(),
                os: "linux".into(),
                config: RunConfig {
                    user: image.user.into(),
                    env: Some(vec![format!("PATH=/{folder}:/usr/local/bin:/usr/bin:/bin")]),
                    entrypoint: Some(image.entrypoint.clone()).filter(|list| !list.is_empty()),
                    cmd: Some(image.cmd.clone()).filter(|list| !list.is_empty()),
                    working_dir: "/".into(),
                    stop_signal: None,
                },
                // A layer that is not compressed is its own diff.
                rootfs: RootFs {
                    kind: "layers".into(),
                    diff_ids: layers.iter().map(|layer| layer.digest.clone()).collect(),
                },
            },
        )?;
        self.add_manifest(&Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            artifact_type: None,
            config,
            layers,
            annotations: image.annotations.clone(),
        })
    }

    /// Adds an artifact that is one file; the entry still has to be put into the index.
    pub fn add_file_artifact(&self, artifact_type: &str, media_type: &str, content: &[u8]) -> Result<Descriptor> {
        let config = self.add(media::EMPTY, b"{}")?;
        let layer = self.add(media_type, content)?;
        self.add_manifest(&Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            artifact_type: Some(artifact_type.into()),
            config,
            layers: vec![layer],
            annotations: BTreeMap::new(),
        })
    }

    /// The content of an artifact that is one file.
    pub fn file_artifact(&self, entry: &Descriptor) -> Result<Vec<u8>> {
        let manifest = self.manifest(entry)?;
        let digest = manifest.layers.first().map_or_else(|| Digest::of(""), |layer| layer.digest.clone());
        self.read(&digest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::REF_NAME;
    use super::*;

    fn spec() -> ProgramImage<'static> {
        ProgramImage {
            path: "usr/local/bin/tool",
            entrypoint: vec!["tool".into()],
            cmd: vec!["serve".into()],
            user: "65532",
            files: BTreeMap::from([("etc/tool.yml".into(), "a: b\n".into())]),
            architecture: "amd64",
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn an_image_goes_in_and_comes_out() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fsx::write(&program, "#!/bin/sh\necho hello\n").unwrap();
        let mut layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let mut entry = layout.add_program_image(&spec(), &program).unwrap();
        entry.annotations.insert(REF_NAME.into(), "docker.io/library/tool:1".into());
        layout.set_entries(vec![entry]).unwrap();

        let image = layout.resolve("tool:1").unwrap();
        let config = image.config().unwrap();
        assert_eq!(
            (config.entrypoint[0].as_str(), config.cmd[0].as_str(), config.user.as_str()),
            ("tool", "serve", "65532")
        );
        let cache = folder.path().join("cache");
        let root = image.unpack(&cache).unwrap();
        assert_eq!(root, cache.join(image.digest().hex()));
        let found = config.find(&root, "tool").unwrap();
        assert_eq!(fsx::read_text(&found).unwrap(), "#!/bin/sh\necho hello\n");
        assert_eq!(config.find(&root, "/usr/local/bin/tool"), Some(found));
        assert_eq!(config.find(&root, "no-such-tool"), None);
        assert_eq!(fsx::read_text(&root.join("etc/tool.yml")).unwrap(), "a: b\n");
        // The second time nothing is read.
        fsx::remove_dir(&layout.folder().join("blobs")).unwrap();
        assert_eq!(image.unpack(&cache).unwrap(), root);
    }

    #[test]
    fn a_system_has_its_files_on_top_of_the_packages() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base.tar");
        let mut packages = Archive::new();
        packages.insert("etc/runc.conf", "of the package", false);
        packages.insert("usr/bin/sh", "shell", true);
        packages.write_tar(fsx::create(&base).unwrap()).unwrap();
        let mut top = Archive::new();
        top.insert("etc/runc.conf", "ours", false);
        let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let image = SystemImage {
            base: &base,
            top: &top,
            entrypoint: vec!["/usr/bin/sh".into()],
            env: vec!["container=docker".into()],
            stop: Some("SIGRTMIN+3".into()),
            architecture: "amd64",
            annotations: BTreeMap::new(),
        };
        let entry = layout.add_system_image(&image).unwrap();
        assert_eq!(layout.add_system_image(&image).unwrap(), entry);
        let image = layout.image(&entry).unwrap();
        assert_eq!(image.manifest().layers.len(), 2);
        let text = String::from_utf8(layout.read(&image.manifest().config.digest).unwrap()).unwrap();
        assert!(text.contains(r#""StopSignal":"SIGRTMIN+3""#) && text.contains("container=docker"), "{text}");
        let root = image.unpack(&folder.path().join("cache")).unwrap();
        assert_eq!(fsx::read_text(&root.join("etc/runc.conf")).unwrap(), "ours");
        assert_eq!(fsx::read_text(&root.join("usr/bin/sh")).unwrap(), "shell");
    }

    #[test]
    fn images_share_a_file_under_a_name_for_each() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fsx::write(&program, "#!/bin/sh\nreadlink -f \"$0\"\n").unwrap();
        let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let names = ["one", "two"].map(str::to_owned).into();
        let file = layout.add_shared_file("usr/libexec/both", &names, &program).unwrap();
        let cache = folder.path().join("cache");
        let unpacked = names.iter().map(|name| {
            let entry = layout.add_shared_image(&spec(), &file, name).unwrap();
            let image = layout.image(&entry).unwrap();
            assert_eq!(image.manifest().layers[0], file.layer);
            let root = image.unpack(&cache).unwrap();
            assert_eq!(fsx::read_text(&root.join("etc/tool.yml")).unwrap(), "a: b\n");
            let found = image.config().unwrap().find(&root, "tool").unwrap();
            let real = found.canonicalize().unwrap();
            assert_eq!(real, root.canonicalize().unwrap().join("usr/libexec/both").join(name));
            real.metadata().unwrap().ino()
        });
        let files: BTreeSet<u64> = unpacked.collect();
        assert_eq!(files.len(), 1, "one file on disk, hence once in memory");
    }

    #[test]
    fn unpacking_at_the_same_time_is_safe() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fsx::write(&program, vec![7; 3_000_000]).unwrap();
        let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let entry = layout.add_program_image(&spec(), &program).unwrap();
        let image = layout.image(&entry).unwrap();
        let cache = folder.path().join("cache");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| image.unpack(&cache).unwrap());
            }
        });
        assert_eq!(fsx::list(&cache).unwrap(), [image.digest().hex()]);
    }

    #[test]
    fn a_corrupt_layer_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fsx::write(&program, "abc").unwrap();
        let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let entry = layout.add_program_image(&spec(), &program).unwrap();
        let image = layout.image(&entry).unwrap();
        let layer = layout.blob_path(&image.manifest().layers[0].digest);
        let mut content = fsx::read(&layer).unwrap();
        let at = content.windows(3).position(|w| w == b"abc").unwrap();
        content[at] = b'x';
        fsx::write(&layer, content).unwrap();
        let cache = folder.path().join("cache");
        assert!(matches!(image.unpack(&cache).unwrap_err(), super::super::Error::Corrupt { .. }));
        assert!(fsx::list(&cache).unwrap().is_empty());
    }
}
