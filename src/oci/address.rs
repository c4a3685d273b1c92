//! Where a registry is, as users write it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::Uri;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::error::{Error, Result};
use crate::fsx;

/// A registry, or a folder of one: `[https://|http://]HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// `HOST[:PORT]`.
    pub host: String,
    /// What comes before every repository's name; empty for nothing.
    pub path: String,
    /// Whether it speaks HTTP without TLS.
    pub plain_http: bool,
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (plain_http, rest) = match text.split_once("://") {
            Some(("http", rest)) => (true, rest),
            Some(("https", rest)) => (false, rest),
            Some((scheme, _)) => return Err(wrong(scheme, "it begins with https:// or http://, or with its host")),
            None => (false, text),
        };
        // What comes before an @ may be a password: it is never repeated.
        if let Some((_, rest)) = rest.rsplit_once('@') {
            return Err(wrong(rest, "user and password do not belong here (docker login keeps them)"));
        }
        let (host, path) = rest.trim_end_matches('/').split_once('/').unwrap_or((rest.trim_end_matches('/'), ""));
        let (name, port) = host.split_once(':').unwrap_or((host, "443"));
        let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
        if name.is_empty() || !is_name(name) || port.parse::<u16>().is_err() {
            return Err(wrong(rest, "it is HOST[:PORT][/PATH]"));
        }
        let legal = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !path.is_empty() && !path.split('/').all(legal) {
            return Err(wrong(rest, "its path consists of lower-case letters, digits, dots, dashes and slashes"));
        }
        Ok(Self { host: host.to_owned(), path: path.to_owned(), plain_http })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

fn wrong(text: &str, reason: &'static str) -> Error {
    Error::Address { text: text.to_owned(), reason }
}

/// How servers are reached.
#[derive(Clone, Default)]
pub struct Access {
    /// An HTTP proxy, with `USER:PASSWORD@` in it when it asks for them; without one, that of the environment.
    pub proxy: Option<Uri>,
    /// Certificates of authorities that are trusted beside those of the host, in DER.
    pub authorities: Vec<Vec<u8>>,
}

impl fmt::Debug for Access {
    // A proxy's address may hold its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({} authorities)", self.authorities.len())
    }
}

impl Access {
    /// Trusts the authorities whose certificates are in a file, too.
    pub fn trusting(ca_file: Option<&Path>) -> Result<Self> {
        let Some(path) = ca_file else { return Ok(Self::default()) };
        let none = |reason: String| Error::Certificates { path: PathBuf::from(path), reason };
        let content = match fsx::read(path) {
            Err(error) if error.not_found() => return Err(none(": there is no such file".into())),
            result => result?,
        };
        let certificates = CertificateDer::pem_slice_iter(&content)
            .map(|certificate| certificate.map(|der| der.to_vec()).map_err(|error| none(format!(": {error}"))));
        let authorities = certificates.collect::<Result<Vec<_>>>()?;
        if authorities.is_empty() {
            return Err(none(String::new()));
        }
        Ok(Self { authorities, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_with_or_without_scheme_and_path() {
        let parse = |text: &str| text.parse::<Address>().map(|a| (a.host, a.path, a.plain_http));
        let is = |host: &str, path: &str, plain| (host.to_owned(), path.to_owned(), plain);
        assert_eq!(parse("registry.example.org").unwrap(), is("registry.example.org", "", false));
        assert_eq!(parse("http://127.0.0.1:5000/").unwrap(), is("127.0.0.1:5000", "", true));
        assert_eq!(parse("https://harbor.x/team/a").unwrap(), is("harbor.x", "team/a", false));
    }

    #[test]
    fn nonsense_is_refused_and_passwords_are_not_repeated() {
        for text in ["", "ftp://x", "a b", "x:99999", "x/Team", "x//y", "x?y", "https://"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let error = "https://user:se@cret@host/x".parse::<Address>().unwrap_err().to_string();
        assert_eq!(error, "\"host/x\" is no registry: user and password do not belong here (docker login keeps them)");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fsx::write(file.path(), "no certificate").unwrap();
        let error = Access::trusting(Some(file.path())).unwrap_err().to_string();
        assert_eq!(error, format!("{} holds no certificate in PEM", file.path().display()));
    }
}
