//! Images made of one program.

use std::collections::BTreeMap;
use std::path::Path;

use super::archive::Archive;
use super::digest::Digest;
use super::error::Result;
use super::layout::Layout;
use super::spec::{ConfigFile, Descriptor, Manifest, RootFs, RunConfig, media};

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

impl Layout {
    /// Adds an image of one program; the entry still has to be put into the index.
    pub fn add_program_image(&self, image: &ProgramImage, program: &Path) -> Result<Descriptor> {
        let mut archive = Archive::new();
        archive.insert_file(image.path, program, true);
        for (path, content) in &image.files {
            archive.insert(path, content.as_bytes(), false);
        }
        let layer = self.add_from(media::LAYER, |out| archive.write_tar(out))?;
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
                },
                // A layer that is not compressed is its own diff.
                rootfs: RootFs { kind: "layers".into(), diff_ids: vec![layer.digest.clone()] },
            },
        )?;
        self.add_manifest(&Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            artifact_type: None,
            config,
            layers: vec![layer],
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
    use crate::fsx;

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
