//! Layers become files, and never anywhere but below the folder that was given.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::EntryType;

use super::digest::Hashing;
use super::error::{Error, Result};
use super::layout::Layout;
use super::spec::Descriptor;
use crate::fsx;

/// Links that one path may lead through.
const MOST_LINKS: usize = 40;

/// Unpacks one layer over what lower layers left in `root`, and compares its digest.
pub(super) fn layer(layout: &Layout, layer: &Descriptor, root: &Path) -> Result<()> {
    let mut blob = BufReader::with_capacity(1 << 20, Hashing::new(layout.open_blob(&layer.digest)?));
    let result = match layer.media_type.rsplit(['+', '.']).next() {
        Some("gzip") => entries(MultiGzDecoder::new(&mut blob), layer, root),
        Some("tar") => entries(&mut blob, layer, root),
        _ => Err(Error::Layer { media_type: layer.media_type.clone() }),
    };
    if let Err(error @ (Error::Traversal { .. } | Error::Layer { .. } | Error::File(_))) = result {
        return Err(error);
    }
    // What follows the archive's end belongs to the blob, too.
    io::copy(&mut blob, &mut io::sink()).map_err(Error::archive(format!("read blob {}", layer.digest)))?;
    let (_, actual, _) = blob.into_inner().finish();
    // A wrong digest explains a broken archive; the other way round it does not.
    layout.compare(&layer.digest, actual)?;
    result
}

fn entries(reader: impl Read, layer: &Descriptor, root: &Path) -> Result<()> {
    let failed = || Error::archive(format!("unpack layer {}", layer.digest));
    let mut archive = tar::Archive::new(reader);
    let mut own = BTreeSet::new();
    for entry in archive.entries().map_err(failed())? {
        let mut entry = entry.map_err(failed())?;
        let name = entry.path().map_err(failed())?.into_owned();
        let refused =
            |path: &Path| Error::Traversal { entry: path.display().to_string(), digest: layer.digest.clone() };
        let inner = plain(&name).ok_or_else(|| refused(&name))?;
        let Some(file) = inner.file_name().map(|file| file.to_string_lossy().into_owned()) else {
            // The root itself.
            continue;
        };
        let parent = inside(root, inner.parent().unwrap_or(Path::new(""))).ok_or_else(|| refused(&name))?;
        fsx::create_dir(&parent)?;
        if file == ".wh..wh..opq" {
            for lower in fsx::list(&parent)? {
                if !own.contains(&parent.join(&lower)) {
                    remove(&parent.join(lower))?;
                }
            }
            continue;
        }
        if let Some(hidden) = file.strip_prefix(".wh.") {
            if plain(Path::new(hidden)).is_none_or(|path| path.components().count() != 1) {
                return Err(refused(&name));
            }
            remove(&parent.join(hidden))?;
            continue;
        }
        let target = parent.join(&file);
        let mode = entry.header().mode().map_err(failed())? & 0o777;
        match entry.header().entry_type() {
            EntryType::Directory => {
                if !target.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                    remove(&target)?;
                    fsx::create_dir(&target)?;
                }
                fsx::set_mode(&target, mode | 0o700)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(&target)?;
                let mut file = fsx::create(&target)?;
                io::copy(&mut entry, &mut file).map_err(failed())?;
                fsx::set_mode(&target, mode | 0o400)?;
            }
            EntryType::Symlink => {
                let link = entry.link_name().map_err(failed())?.ok_or_else(|| refused(&name))?.into_owned();
                remove(&target)?;
                fsx::symlink(&link, &target)?;
            }
            EntryType::Link => {
                let link = entry.link_name().map_err(failed())?.ok_or_else(|| refused(&name))?.into_owned();
                let source = plain(&link).and_then(|link| inside(root, &link)).ok_or_else(|| refused(&link))?;
                // A hard link to a symbolic link would be followed by nobody; a copy of a file is what is meant.
                if source.symlink_metadata().is_ok_and(|meta| meta.is_file()) && source != target {
                    remove(&target)?;
                    fsx::hard_link(&source, &target)?;
                }
            }
            // Devices and pipes have no meaning for a process of an ordinary user.
            _ => continue,
        }
        own.insert(target);
    }
    Ok(())
}

/// A path without `.`; `None` for one that climbs.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// Where `path` lies when `root` is taken as the root of the file system and the links in it are followed; `None` when
/// there are too many of them, or when they climb above the root.
fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut done = PathBuf::new();
    let mut todo: Vec<PathBuf> = path.components().rev().map(|c| PathBuf::from(c.as_os_str())).collect();
    let mut links = 0;
    while let Some(next) = todo.pop() {
        match next.components().next()? {
            Component::CurDir => {}
            Component::RootDir => done = PathBuf::new(),
            Component::ParentDir => {
                if !done.pop() {
                    return None;
                }
            }
            Component::Prefix(_) => return None,
            Component::Normal(name) => {
                done.push(name);
                if let Ok(target) = root.join(&done).read_link() {
                    links += 1;
                    if links > MOST_LINKS {
                        return None;
                    }
                    done.pop();
                    todo.extend(target.components().rev().map(|c| PathBuf::from(c.as_os_str())));
                }
            }
        }
    }
    Some(root.join(done))
}

fn remove(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fsx::remove_dir(path)?,
        Ok(_) => fsx::remove_file(path)?,
        Err(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::super::digest::Digest;
    use super::super::spec::media;
    use super::*;

    enum Item<'a> {
        File(&'a str, &'a str),
        Link(&'a str, &'a str),
        Hard(&'a str, &'a str),
        Folder(&'a str),
    }
    use Item::{File, Folder, Hard, Link};

    /// An archive whose names are written as they are, also where the tar crate would refuse them.
    fn tar_of(items: &[Item]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for item in items {
            let (name, kind, link, content) = match item {
                File(name, content) => (name, EntryType::Regular, "", *content),
                Link(name, to) => (name, EntryType::Symlink, *to, ""),
                Hard(name, to) => (name, EntryType::Link, *to, ""),
                Folder(name) => (name, EntryType::Directory, "", ""),
            };
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            let gnu = header.as_gnu_mut().unwrap();
            gnu.name[..name.len()].copy_from_slice(name.as_bytes());
            gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpack(layers: &[&[Item]]) -> (tempfile::TempDir, Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&folder.path().join("layout")).unwrap();
        let root = folder.path().join("root");
        fsx::create_dir(&root).unwrap();
        for items in layers {
            let blob = layout.add(media::LAYER, &tar_of(items)).unwrap();
            let result = layer(&layout, &blob, &root);
            if result.is_err() {
                return (folder, result);
            }
        }
        (folder, Ok(()))
    }

    #[test]
    fn entries_that_climb_are_refused() {
        for items in [
            &[File("../evil", "x")][..],
            &[File("a/../../evil", "x")],
            &[Link("out", "../.."), File("out/evil", "x")],
            &[Link("a", "a/b"), File("a/evil", "x")],
            &[Hard("evil", "../../etc/passwd")],
            &[File("a/.wh...", "")],
        ] {
            let (folder, result) = unpack(&[items]);
            assert!(matches!(result.unwrap_err(), Error::Traversal { .. }));
            assert!(!folder.path().join("evil").exists());
        }
    }

    #[test]
    fn absolute_links_stay_inside() {
        let (folder, result) =
            unpack(&[&[Folder("usr/bin"), Link("bin", "/usr/bin"), File("bin/sh", "x"), File("/etc/motd", "y")]]);
        result.unwrap();
        let root = folder.path().join("root");
        assert_eq!(fsx::read_text(&root.join("usr/bin/sh")).unwrap(), "x");
        assert_eq!(fsx::read_text(&root.join("etc/motd")).unwrap(), "y");
        assert_eq!(root.join("usr/bin/sh").metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn whiteouts_hide_lower_layers_only() {
        let lower = [File("a/one", "1"), File("a/two", "2"), File("b/one", "1"), Hard("c", "a/one")];
        let upper = [File("a/.wh.one", ""), File("b/new", "n"), File("b/.wh..wh..opq", "")];
        let (folder, result) = unpack(&[&lower, &upper]);
        result.unwrap();
        let root = folder.path().join("root");
        assert_eq!(fsx::list(&root.join("a")).unwrap(), ["two"]);
        assert_eq!(fsx::list(&root.join("b")).unwrap(), ["new"]);
        assert_eq!(fsx::read_text(&root.join("c")).unwrap(), "1");
    }

    #[test]
    fn a_file_takes_the_place_of_a_link() {
        let (folder, result) = unpack(&[&[Link("f", "/etc/passwd")], &[File("f", "mine")]]);
        result.unwrap();
        let path = folder.path().join("root/f");
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(fsx::read_text(&path).unwrap(), "mine");
    }

    #[test]
    fn compressed_layers_are_read_and_compared() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(folder.path()).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar_of(&[File("x", "y")])).unwrap();
        let blob = layout.add("application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish().unwrap()).unwrap();
        let root = folder.path().join("root");
        layer(&layout, &blob, &root).unwrap();
        assert_eq!(fsx::read_text(&root.join("x")).unwrap(), "y");

        let wrong = Digest::of("something else");
        fsx::rename(&layout.blob_path(&blob.digest), &layout.blob_path(&wrong)).unwrap();
        let wrong = Descriptor { digest: wrong, annotations: BTreeMap::new(), ..blob };
        assert!(matches!(layer(&layout, &wrong, &root).unwrap_err(), Error::Corrupt { .. }));
    }

    #[test]
    fn an_unknown_compression_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(folder.path()).unwrap();
        let blob = layout.add("application/vnd.oci.image.layer.v1.tar+zstd", b"x").unwrap();
        let error = layer(&layout, &blob, folder.path()).unwrap_err().to_string();
        assert_eq!(error, "layers of the type application/vnd.oci.image.layer.v1.tar+zstd are not supported");
    }
}
