//! An image as the archive that `docker load` takes.

use std::io::{Read, Write};

use serde_json::json;
use tar::{EntryType, Header};

use super::error::{Error, Result};
use super::image::Image;
use crate::fsx;

impl Image {
    /// Writes the image as an archive for `docker load`, under a name.
    pub fn write_docker_archive(&self, reference: &str, out: impl Write) -> Result<()> {
        let manifest = self.manifest();
        let file = |digest: &super::Digest| format!("{}.blob", digest.hex());
        let layers: Vec<String> = manifest.layers.iter().map(|layer| file(&layer.digest)).collect();
        let what = "the list of an archive for docker".to_owned();
        let list = json!([{"Config": file(&manifest.config.digest), "RepoTags": [reference], "Layers": layers}]);
        let list = serde_json::to_vec(&list).map_err(|source| Error::Json { what, source })?;
        let mut builder = tar::Builder::new(out);
        let mut add = |name: &str, size: u64, content: &mut dyn Read| {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(size);
            builder.append_data(&mut header, name, content).map_err(Error::archive(format!("archive {reference}")))
        };
        add("manifest.json", list.len() as u64, &mut list.as_slice())?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            // Docker compares the digests itself.
            let mut content = fsx::open(&self.layout().blob_path(&blob.digest))?;
            add(&file(&blob.digest), blob.size, &mut content)?;
        }
        let done = builder.into_inner().and_then(|mut out| out.flush());
        done.map_err(Error::archive(format!("archive {reference}")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, ProgramImage};
    use super::*;

    #[test]
    fn the_archive_names_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fsx::write(&program, "#!/bin/sh\n").unwrap();
        let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let image = ProgramImage {
            path: "bin/tool",
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            user: "0",
            files: std::collections::BTreeMap::new(),
            architecture: "amd64",
            annotations: std::collections::BTreeMap::new(),
        };
        let entry = layout.add_program_image(&image, &program).unwrap();
        let mut bytes = Vec::new();
        layout.image(&entry).unwrap().write_docker_archive("tool:1", &mut bytes).unwrap();
        let mut names = Vec::new();
        let mut list = serde_json::Value::Null;
        for file in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut file = file.unwrap();
            names.push(file.path().unwrap().display().to_string());
            if names.len() == 1 {
                list = serde_json::from_reader(&mut file).unwrap();
            }
        }
        assert_eq!(list[0]["RepoTags"][0], "tool:1");
        assert_eq!(
            names,
            ["manifest.json", list[0]["Config"].as_str().unwrap(), list[0]["Layers"][0].as_str().unwrap()]
        );
    }
}
