//! Volumes whose files change while programs read them: a reader sees all old files or all new ones.
//!
//! The kubelet's layout, which programs know how to watch: the files are links to `..data/NAME`, `..data` is a link to a
//! folder of its own for each version, and an update replaces that one link.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{clock, fsx};

/// The files of a volume: relative path, content, mode.
pub type Files = BTreeMap<PathBuf, (Vec<u8>, u32)>;

/// Makes a folder hold exactly the given files; returns whether anything changed.
pub fn write(folder: &Path, files: &Files) -> fsx::Result<bool> {
    fsx::create_private_dir(folder)?;
    let data = folder.join("..data");
    if data.exists() && holds(&data, files)? {
        return Ok(false);
    }
    let version = format!("..{}", clock::now().as_nanosecond());
    let fresh = folder.join(&version);
    fsx::create_private_dir(&fresh)?;
    for (path, (content, mode)) in files {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fsx::create_private_dir(parent)?;
        }
        // Not synced to disk: a version is made anew after a crash, and a pod waits for this.
        let mut file = fsx::create(&path)?;
        file.write_all(content).map_err(|source| fsx::Error { action: "write", path: path.clone(), source })?;
        fsx::set_mode(&path, *mode)?;
    }
    let link = folder.join("..data_tmp");
    fsx::symlink(Path::new(&version), &link)?;
    fsx::rename(&link, &data)?;
    let tops: Vec<PathBuf> = files.keys().filter_map(|path| path.iter().next().map(PathBuf::from)).collect();
    for top in &tops {
        let link = folder.join(top);
        if !link.is_symlink() {
            fsx::symlink(&Path::new("..data").join(top), &link)?;
        }
    }
    for name in fsx::list(folder)? {
        let path = folder.join(&name);
        if name.starts_with("..") {
            if name != version && name != "..data" {
                fsx::remove_dir(&path)?;
            }
        } else if path.is_symlink() && !tops.iter().any(|top| top == Path::new(&name)) {
            fsx::remove_file(&path)?;
        }
    }
    Ok(true)
}

/// Whether a version holds exactly the given files.
fn holds(version: &Path, files: &Files) -> fsx::Result<bool> {
    let mut count = 0;
    let mut folders = vec![version.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for name in fsx::list(&folder)? {
            let path = folder.join(name);
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            count += 1;
            let relative = path.strip_prefix(version).unwrap_or(&path);
            match files.get(relative) {
                Some((content, _)) if *content == fsx::read(&path)? => {}
                _ => return Ok(false),
            }
        }
    }
    Ok(count == files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        entries.iter().map(|(path, text)| (PathBuf::from(path), (text.as_bytes().to_vec(), 0o644))).collect()
    }

    #[test]
    fn an_update_replaces_all_files_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("v");
        assert!(write(&root, &files(&[("a", "1"), ("sub/b", "2")])).unwrap());
        assert_eq!(fsx::read_text(&root.join("a")).unwrap(), "1");
        assert_eq!(fsx::read_text(&root.join("sub/b")).unwrap(), "2");
        assert!(!write(&root, &files(&[("a", "1"), ("sub/b", "2")])).unwrap(), "nothing changed");
        assert!(write(&root, &files(&[("a", "3")])).unwrap());
        assert_eq!(fsx::read_text(&root.join("a")).unwrap(), "3");
        assert!(!root.join("sub").exists());
        // One version, its link, and the file's link.
        assert_eq!(fsx::list(&root).unwrap().len(), 3);
    }

    #[test]
    fn an_empty_volume_is_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("v");
        assert!(write(&root, &Files::new()).unwrap());
        assert!(root.is_dir());
    }
}
