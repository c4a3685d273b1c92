//! Profiles: what a program must be told so that it runs as a host process instead of in a container.
//!
//! Pods share the host's network and file system, so a program with a built-in port or path needs a flag or a
//! variable that carries another one. Profiles are data, keyed by image repository; the built-in ones are
//! `profiles.toml`, users add files of the same form, and the last profile that matches an image wins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::fsx;

const BUILT_IN: &str = include_str!("profiles.toml");

/// Profiles that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there.
    #[error(transparent)]
    File(#[from] fsx::Error),
    /// The file is not what a profile file looks like.
    #[error("failed to parse the profiles of {origin}: {reason}")]
    Parse {
        /// File's name.
        origin: String,
        /// What is wrong, and where.
        reason: String,
    },
}

impl From<Error> for crate::failure::Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::File(error) => error.into(),
            error @ Error::Parse { .. } => Self::usage(error.to_string()),
        }
    }
}

/// What one image's program must be told.
///
/// Values may hold placeholders: `{port:N}` the real port of container port N, `{path:P}` the real folder or file of
/// the container's path P (a volume's, the image's own, or a scratch folder), `{kubeconfig}`, `{folder}` the
/// container's own folder, `{namespace}`, `{pod}`, `{node}`, `{domain}`, `{home}` and `{bundle}` cluster-init's own,
/// `{docker}` a socket whose path is short enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Image repositories, without tag or digest; `*` stands for any text.
    pub images: Vec<String>,
    /// Applies only where the arguments hold this one, for images with several programs.
    #[serde(default)]
    pub argument: Option<String>,
    /// Flags that are set, in place of the pod's own.
    #[serde(default)]
    pub flags: BTreeMap<String, String>,
    /// Flags that are taken away.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Arguments that are added at the end.
    #[serde(default)]
    pub append: Vec<String>,
    /// Variables that are set, in place of the pod's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What becomes of a variable of the pod that holds exactly this text; with any other it stays.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Whether it works without the privileges that its pod asks for (which would be refused).
    #[serde(default)]
    pub without_privileges: bool,
    /// Declared container ports that the program need not be told of, because it does not listen there.
    #[serde(default)]
    pub unused_ports: Vec<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    profile: Vec<Profile>,
}

/// All profiles of a node.
#[derive(Clone, Debug)]
pub struct Profiles(Vec<Profile>);

impl Profiles {
    /// The built-in profiles and those of the given files.
    pub fn load(extra: &[PathBuf]) -> Result<Self, Error> {
        let mut profiles = parse(BUILT_IN, "profiles.toml (built in)")?;
        for path in extra {
            profiles.extend(parse(&fsx::read_text(path)?, &path.display().to_string())?);
        }
        Ok(Self(profiles))
    }

    /// The profile of an image that is started with the given arguments.
    pub fn find(&self, image: &str, args: &[String]) -> Option<&Profile> {
        let repository = repository(image);
        self.0.iter().rev().find(|profile| {
            profile.images.iter().any(|image| matches(image, repository))
                && profile.argument.as_ref().is_none_or(|wanted| args.contains(wanted))
        })
    }
}

fn parse(text: &str, origin: &str) -> Result<Vec<Profile>, Error> {
    let document: Document =
        toml::from_str(text).map_err(|e| Error::Parse { origin: origin.to_owned(), reason: e.to_string() })?;
    Ok(document.profile)
}

/// The repository of an image reference: without digest and tag.
pub fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    match name.rfind(':') {
        Some(colon) => &image[..image.len() - name.len() + colon],
        None => image,
    }
}

/// Whether `text` matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).filter(|&i| rest.is_char_boundary(i)).any(|i| matches(tail, &rest[i..]))
        }),
    }
}

/// What the placeholders of a profile stand for in one container.
pub trait Places {
    /// The real port of a container port.
    fn port(&mut self, container_port: u16) -> Result<u16, String>;
    /// The real path of a container's path.
    fn path(&self, path: &Path) -> PathBuf;
    /// Any other placeholder by its name.
    fn named(&self, name: &str) -> Option<String>;
}

/// Replaces the placeholders of a profile's value.
pub fn fill(template: &str, places: &mut impl Places) -> Result<String, String> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let (placeholder, tail) =
            after.split_once('}').ok_or_else(|| format!("the profile's value {template:?} has a {{ without a }}"))?;
        match placeholder.split_once(':') {
            Some(("port", number)) => {
                let number =
                    number.parse().map_err(|_| format!("{{{placeholder}}} in the profile names no port number"))?;
                out.push_str(&places.port(number)?.to_string());
            }
            Some(("path", path)) => out.push_str(&places.path(Path::new(path)).to_string_lossy()),
            _ => out.push_str(
                &places
                    .named(placeholder)
                    .ok_or_else(|| format!("the profile's placeholder {{{placeholder}}} is not known"))?,
            ),
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// Takes a flag away, in its forms `--flag=value`, `--flag value` and `--flag`.
pub fn remove_flag(args: &mut Vec<String>, flag: &str) {
    let mut kept = Vec::with_capacity(args.len());
    let mut rest = std::mem::take(args).into_iter().peekable();
    while let Some(arg) = rest.next() {
        if arg == flag {
            // The next word is the flag's value unless it is a flag itself.
            rest.next_if(|next| !next.starts_with('-'));
        } else if !arg.strip_prefix(flag).is_some_and(|tail| tail.starts_with('=')) {
            kept.push(arg);
        }
    }
    *args = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    struct Fixed;
    impl Places for Fixed {
        fn port(&mut self, container_port: u16) -> Result<u16, String> {
            Ok(container_port + 10_000)
        }
        fn path(&self, path: &Path) -> PathBuf {
            Path::new("/real").join(path.strip_prefix("/").unwrap_or(path))
        }
        fn named(&self, name: &str) -> Option<String> {
            (name == "kubeconfig").then(|| "/pod/kubeconfig".to_owned())
        }
    }

    #[test]
    fn repositories_lose_tag_and_digest() {
        assert_eq!(repository("registry:3.1.2"), "registry");
        assert_eq!(repository("localhost:5000/a/b"), "localhost:5000/a/b");
        assert_eq!(repository("localhost:5000/a/b:v1@sha256:00"), "localhost:5000/a/b");
    }

    #[test]
    fn patterns_match_whole_names() {
        assert!(matches("*/registry", "docker.io/library/registry"));
        assert!(matches("*registry", "registry"));
        assert!(!matches("registry", "my-registry"));
        assert!(matches("quay.io/jetstack/cert-manager-*", "quay.io/jetstack/cert-manager-webhook"));
    }

    #[test]
    fn flags_go_in_all_their_forms() {
        let mut args = words("serve --addr=:80 --verbose --addr :81 --addr-x=1 last");
        remove_flag(&mut args, "--addr");
        assert_eq!(args, words("serve --verbose --addr-x=1 last"));
        let mut args = words("--a --b");
        remove_flag(&mut args, "--a");
        assert_eq!(args, words("--b"));
    }

    #[test]
    fn placeholders_are_filled() {
        let text = fill("127.0.0.1:{port:9443},{path:/certs},{kubeconfig}", &mut Fixed).unwrap();
        assert_eq!(text, "127.0.0.1:19443,/real/certs,/pod/kubeconfig");
        assert!(fill("{nonsense}", &mut Fixed).unwrap_err().contains("nonsense"));
    }

    #[test]
    fn the_built_in_profiles_parse_and_users_win() {
        let profiles = Profiles::load(&[]).unwrap();
        assert!(profiles.find("ghcr.io/fluxcd/source-controller:v1.9.1", &[]).is_some());
        assert!(profiles.find("example.org/none:v1", &[]).is_none());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        fsx::write(&path, "[[profile]]\nimages = [\"ghcr.io/fluxcd/*\"]\nremove = [\"--mine\"]\n").unwrap();
        let profiles = Profiles::load(&[path]).unwrap();
        let found = profiles.find("ghcr.io/fluxcd/source-controller:v1.9.1", &[]).unwrap();
        assert_eq!(found.remove, ["--mine"]);
    }

    #[test]
    fn a_wrong_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        fsx::write(&path, "[[profile]]\nimages = [\"a\"]\nflag = 3\n").unwrap();
        let error = Profiles::load(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains("mine.toml") && error.contains("flag"), "{error}");
    }
}
