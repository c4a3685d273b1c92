//! What a site is like for pulls: its authorities, and the mirrors that are asked before upstream.

use std::collections::BTreeMap;
use std::str::FromStr;

use tokio::sync::Mutex;

use super::error::Result;
use super::push::place;
use crate::event::Events;
use crate::oci::{self, Access, Address, Reference, Registry};

/// A registry or server that is asked before another one, written `HOST=ADDRESS`.
#[derive(Clone, Debug)]
pub struct Mirror {
    of: String,
    at: Address,
}

impl FromStr for Mirror {
    type Err = oci::Error;

    fn from_str(text: &str) -> oci::Result<Self> {
        let reason = "a mirror is written HOST=MIRROR: docker.io=https://mirror.example.org";
        let no = |text: &str| oci::Error::Address { text: text.to_owned(), reason };
        let (of, at) = text.split_once('=').filter(|(of, _)| !of.is_empty() && !of.contains(['/', '@'])).ok_or_else(
            // What comes before an @ may be a password.
            || no(text.rsplit('@').next().unwrap_or_default()),
        )?;
        Ok(Self { of: of.to_owned(), at: at.parse()? })
    }
}

/// How the world looks from a site.
#[derive(Debug)]
pub struct Site {
    access: Access,
    mirrors: Vec<Mirror>,
    events: Events,
    http: reqwest::Client,
    registries: Mutex<BTreeMap<Address, Registry>>,
}

impl Site {
    /// A site with mirrors, in the order in which they are asked.
    pub fn new(access: Access, mirrors: Vec<Mirror>, events: &Events) -> Result<Self> {
        let http = access.http()?;
        Ok(Self { access, mirrors, events: events.clone(), http, registries: Mutex::default() })
    }

    /// The client for what is in no registry.
    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Who is told of connections that were cut.
    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    fn mirrors_of(&self, host: &str) -> impl Iterator<Item = &Address> {
        self.mirrors.iter().filter(move |mirror| mirror.of == host || mirror.of == "*").map(|mirror| &mirror.at)
    }

    /// The registries that may have what is in one: its mirrors, and itself.
    pub(super) async fn registries(&self, address: &Address) -> Result<Vec<Registry>> {
        let mut all = Vec::new();
        for address in self.mirrors_of(&address.host).chain([address]) {
            all.push(self.registry(address).await?);
        }
        Ok(all)
    }

    async fn registry(&self, address: &Address) -> Result<Registry> {
        // Held while docker is asked for the password, so that it is asked once.
        let mut registries = self.registries.lock().await;
        if let Some(registry) = registries.get(address) {
            return Ok(registry.clone());
        }
        let registry = Registry::at(address.clone(), &self.access)?.telling(&self.events);
        let registry = registry.with_credentials_of_docker().await?;
        registries.insert(address.clone(), registry.clone());
        Ok(registry)
    }

    /// The registries that may have an upstream image, and what it is called there.
    pub(super) async fn upstream(&self, image: &Reference) -> Result<(Vec<Registry>, String, String)> {
        let host = image.name.split('/').next().unwrap_or_default();
        let address = Address { host: host.to_owned(), path: String::new(), plain_http: false };
        let (repository, tag) = place(image);
        Ok((self.registries(&address).await?, repository, tag))
    }

    /// The URLs that may have what is at one: those of its host's mirrors, and itself.
    pub(super) fn urls(&self, url: &str) -> Vec<String> {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let scheme = |at: &Address| if at.plain_http { "http" } else { "https" };
        let mirrored = self.mirrors_of(host).map(|at| format!("{}://{at}/{path}", scheme(at)));
        mirrored.chain([url.to_owned()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mirrors = ["github.com=http://127.0.0.1:80/gh", "quay.io=x", "*=https://all.example.org"];
        let mirrors = mirrors.map(|text| text.parse().unwrap()).to_vec();
        let site = Site::new(Access::default(), mirrors, &Events::silent()).unwrap();
        let url = "https://github.com/a/b.yaml";
        let all = ["http://127.0.0.1:80/gh/a/b.yaml", "https://all.example.org/a/b.yaml", url];
        assert_eq!(site.urls(url), all);
    }

    #[test]
    fn a_mirror_names_two_places_and_no_password() {
        for text in ["docker.io", "=x", "https://docker.io=x", "docker.io=u:p@x"] {
            let error = text.parse::<Mirror>().unwrap_err().to_string();
            assert!(!error.contains("u:p"), "{error}");
        }
    }
}
