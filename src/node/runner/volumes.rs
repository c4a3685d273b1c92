//! Volumes: one folder each, filled from ConfigMaps, Secrets, tokens and the downward API, and kept up to date.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Volume as VolumeSpec, VolumeProjection,
};

use super::objects::{Content, SourceKind, SourceRef};
use crate::fsx;

/// One of a pod's volumes.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its name in the pod.
    pub name: String,
    /// Where it really is.
    pub real: PathBuf,
    /// What fills it.
    pub filling: Filling,
}

/// What fills a volume.
#[derive(Clone, Debug)]
pub enum Filling {
    /// Nothing: the pod's own folder.
    Empty,
    /// A path of the host.
    Host(HostPathVolumeSource),
    /// Files that we write.
    Files(Vec<Part>),
}

/// One source of a volume's files.
#[derive(Clone, Debug)]
pub enum Part {
    /// A ConfigMap or a Secret.
    Object {
        /// Which.
        source: SourceRef,
        /// The keys that are wanted; all when there are none.
        items: Vec<KeyToPath>,
        /// Whether it may be missing.
        optional: bool,
        /// Mode of the files.
        mode: u32,
    },
    /// Facts about the pod.
    Downward {
        /// Which.
        items: Vec<DownwardAPIVolumeFile>,
        /// Mode of the files.
        mode: u32,
    },
    /// A ServiceAccount token.
    Token {
        /// File's path in the volume.
        path: String,
        /// For whom it is meant; the API server when there is none.
        audience: Option<String>,
        /// How long it is valid.
        seconds: i64,
        /// Mode of the file.
        mode: u32,
    },
}

const DEFAULT_MODE: u32 = 0o644;

fn mode(item: Option<i32>, volume: Option<i32>) -> u32 {
    item.or(volume).and_then(|mode| u32::try_from(mode).ok()).map_or(DEFAULT_MODE, |mode| mode & 0o777)
}

/// The volumes of a pod below `folder`; an error names one that this node cannot provide.
pub fn plan(pod: &Pod, folder: &Path) -> Result<Vec<Volume>, String> {
    let specs = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    specs.into_iter().flatten().map(|spec| plan_one(spec, folder)).collect()
}

fn plan_one(spec: &VolumeSpec, folder: &Path) -> Result<Volume, String> {
    let real = folder.join(&spec.name);
    let volume = |filling, real| Ok(Volume { name: spec.name.clone(), real, filling });
    if spec.empty_dir.is_some() {
        volume(Filling::Empty, real)
    } else if let Some(host) = &spec.host_path {
        volume(Filling::Host(host.clone()), PathBuf::from(&host.path))
    } else if let Some(source) = &spec.config_map {
        let part =
            object(SourceKind::ConfigMap, &source.name, source.items.as_ref(), source.optional, source.default_mode);
        volume(Filling::Files(vec![part]), real)
    } else if let Some(source) = &spec.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let part = object(SourceKind::Secret, name, source.items.as_ref(), source.optional, source.default_mode);
        volume(Filling::Files(vec![part]), real)
    } else if let Some(source) = &spec.downward_api {
        let items = source.items.clone().unwrap_or_default();
        volume(Filling::Files(vec![Part::Downward { items, mode: mode(None, source.default_mode) }]), real)
    } else if let Some(source) = &spec.projected {
        let mut parts = Vec::new();
        for projection in source.sources.iter().flatten() {
            parts.push(project(projection, source.default_mode, &spec.name)?);
        }
        volume(Filling::Files(parts), real)
    } else {
        let fields = serde_json::to_value(spec).unwrap_or_default();
        let kind = fields.as_object().and_then(|map| map.keys().find(|key| *key != "name").cloned());
        Err(format!(
            "volume {:?} is of the kind {}, which a local node does not have: use emptyDir, configMap, secret, projected, downwardAPI or an allowed hostPath",
            spec.name,
            kind.unwrap_or_else(|| "unknown".into())
        ))
    }
}

fn object(
    kind: SourceKind,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    optional: Option<bool>,
    default_mode: Option<i32>,
) -> Part {
    Part::Object {
        source: SourceRef::new(kind, name),
        items: items.cloned().unwrap_or_default(),
        optional: optional.unwrap_or_default(),
        mode: mode(None, default_mode),
    }
}

fn project(projection: &VolumeProjection, default_mode: Option<i32>, volume: &str) -> Result<Part, String> {
    if let Some(source) = &projection.config_map {
        Ok(object(SourceKind::ConfigMap, &source.name, source.items.as_ref(), source.optional, default_mode))
    } else if let Some(source) = &projection.secret {
        Ok(object(SourceKind::Secret, &source.name, source.items.as_ref(), source.optional, default_mode))
    } else if let Some(source) = &projection.downward_api {
        Ok(Part::Downward { items: source.items.clone().unwrap_or_default(), mode: mode(None, default_mode) })
    } else if let Some(source) = &projection.service_account_token {
        Ok(Part::Token {
            path: source.path.clone(),
            audience: source.audience.clone(),
            seconds: source.expiration_seconds.unwrap_or(3600),
            mode: mode(None, default_mode),
        })
    } else {
        Err(format!("volume {volume:?} projects something that a local node does not have"))
    }
}

/// The files of a ConfigMap or Secret in a volume: all of its keys, or the chosen ones.
pub fn object_files(
    source: &SourceRef,
    content: &Content,
    items: &[KeyToPath],
    optional: bool,
    mode: u32,
) -> Result<BTreeMap<PathBuf, (Vec<u8>, u32)>, String> {
    if items.is_empty() {
        return Ok(content.iter().map(|(key, value)| (PathBuf::from(key), (value.clone(), mode))).collect());
    }
    let mut files = BTreeMap::new();
    for item in items {
        match content.get(&item.key) {
            Some(value) => {
                files.insert(inner(&item.path)?, (value.clone(), self::mode(item.mode, i32::try_from(mode).ok())));
            }
            None if optional => {}
            None => return Err(format!("{} {:?} has no key {:?}", source.kind, source.name, item.key)),
        }
    }
    Ok(files)
}

/// A path that stays inside its volume.
pub fn inner(path: &str) -> Result<PathBuf, String> {
    let path = Path::new(path);
    if path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        Ok(path.components().filter(|c| matches!(c, Component::Normal(_))).collect())
    } else {
        Err(format!("path {} leads out of its volume", path.display()))
    }
}

/// Whether the host's path may be mounted, and is what the volume says it is (made when the volume says so).
pub fn check_host_path(source: &HostPathVolumeSource, allowed: &[PathBuf]) -> Result<(), String> {
    let path = Path::new(&source.path);
    let real = path.ancestors().find_map(|p| p.canonicalize().ok()).unwrap_or_default();
    let climbs = path.components().any(|c| c == Component::ParentDir);
    let within = |allowed: &PathBuf| {
        path.starts_with(allowed) && (real.starts_with(allowed.canonicalize().unwrap_or_default()) || !path.exists())
    };
    if climbs || !path.is_absolute() || !allowed.iter().any(within) {
        return Err(format!(
            "hostPath {} is not among the folders of the host that pods may mount; allow it in bootstrap.toml",
            source.path
        ));
    }
    let is = |ok: bool, what: &str| if ok { Ok(()) } else { Err(format!("hostPath {} is no {what}", source.path)) };
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => fsx::create_dir(path).map_err(|e| e.to_string()),
        "Directory" => is(path.is_dir(), "folder"),
        "FileOrCreate" if !path.exists() => fsx::write(path, "").map_err(|e| e.to_string()),
        "File" | "FileOrCreate" => is(path.is_file(), "file"),
        "Socket" => is(path.metadata().is_ok_and(|meta| meta.file_type().is_socket()), "socket"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan_of(volume: &serde_json::Value) -> Result<Vec<Volume>, String> {
        let pod = json!({"metadata": {}, "spec": {"containers": [], "volumes": [volume]}});
        plan(&serde_json::from_value(pod).unwrap(), Path::new("/p/volumes"))
    }

    #[test]
    fn the_usual_projected_volume_has_three_parts() {
        let volumes = plan_of(&json!({"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}}))
        .unwrap();
        assert_eq!(volumes[0].real, Path::new("/p/volumes/kube-api-access"));
        let Filling::Files(parts) = &volumes[0].filling else { panic!("files expected") };
        assert!(matches!(&parts[0], Part::Token { seconds: 3607, mode: 0o644, .. }));
        assert!(matches!(&parts[1], Part::Object { source, .. } if source.name == "kube-root-ca.crt"));
        assert!(matches!(&parts[2], Part::Downward { .. }));
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let error = plan_of(&json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})).unwrap_err();
        assert!(error.starts_with("volume \"v\" is of the kind persistentVolumeClaim"), "{error}");
    }

    #[test]
    fn items_choose_keys_and_paths() {
        let source = SourceRef::new(SourceKind::Secret, "s");
        let content = Content::from([("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())]);
        let item = |key: &str, path: &str| KeyToPath { key: key.into(), path: path.into(), mode: Some(0o600) };
        let files = object_files(&source, &content, &[item("a", "x/y")], false, 0o644).unwrap();
        assert_eq!(files[Path::new("x/y")], (b"1".to_vec(), 0o600));
        assert_eq!(object_files(&source, &content, &[], false, 0o644).unwrap().len(), 2);
        let error = object_files(&source, &content, &[item("c", "c")], false, 0o644).unwrap_err();
        assert_eq!(error, "secret \"s\" has no key \"c\"");
        assert!(object_files(&source, &content, &[item("a", "../x")], false, 0o644).is_err());
    }

    #[test]
    fn host_paths_are_refused_unless_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let allowed = [root.join("ok")];
        let source = |path: PathBuf, type_: &str| HostPathVolumeSource {
            path: path.to_string_lossy().into_owned(),
            type_: Some(type_.into()),
        };
        check_host_path(&source(root.join("ok/sub"), "DirectoryOrCreate"), &allowed).unwrap();
        assert!(root.join("ok/sub").is_dir());
        assert!(check_host_path(&source(root.join("ok/none"), "Directory"), &allowed).is_err());
        assert!(check_host_path(&source(root.join("other"), ""), &allowed).unwrap_err().contains("bootstrap.toml"));
        assert!(check_host_path(&source(root.join("ok/../other"), ""), &allowed).is_err());
        fsx::symlink(&root, &root.join("ok/link")).unwrap();
        assert!(check_host_path(&source(root.join("ok/link"), ""), &allowed).is_err());
    }
}
