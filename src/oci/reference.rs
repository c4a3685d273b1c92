//! Image references as container runtimes understand them.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;
use super::error::Error;

/// A normalised image reference: `registry:3` is `docker.io/library/registry:3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host and repository.
    pub name: String,
    /// The tag; `latest` when neither a tag nor a digest was given.
    pub tag: Option<String>,
    /// The digest after `@`.
    pub digest: Option<Digest>,
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Reference { text: text.to_owned() };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| bad())?)),
            None => (text, None),
        };
        // A colon after the last slash starts a tag; one before it belongs to the registry's port.
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(colon) => (&rest[..slash + colon], Some(rest[slash + colon + 1..].to_owned())),
            None => (rest, None),
        };
        let legal = |part: &str| {
            !part.is_empty()
                && part != ".."
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        if !path.split('/').all(legal)
            || !host.split(':').all(legal)
            || !tag.as_deref().is_none_or(|tag| legal(tag) && tag.len() <= 128)
        {
            return Err(bad());
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag,
        };
        Ok(Self { name: format!("{host}/{path}"), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_those_of_docker() {
        let cases = [
            ("registry:3.1.2", "docker.io/library/registry:3.1.2"),
            ("fluxcd/source-controller:v1", "docker.io/fluxcd/source-controller:v1"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("localhost:5000/a:b", "localhost:5000/a:b"),
        ];
        for (text, normal) in cases {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), normal);
        }
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let digest = Digest::of("x");
        let reference: Reference = format!("quay.io/a@{digest}").parse().unwrap();
        assert_eq!((reference.tag, reference.digest), (None, Some(digest)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a b", "x/../y", "a:", "a@sha256:1", "A//b", "ghcr.io/"] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
