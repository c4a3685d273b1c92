//! The outside: hosts that are not of the cluster, reached directly or through the user's own proxy.

use base64::Engine as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How hosts outside the cluster are reached, as HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the daemon say.
#[derive(Debug, Default)]
pub struct Outside {
    http: Option<Via>,
    https: Option<Via>,
    direct: Vec<String>,
}

/// The user's proxy.
#[derive(Clone)]
pub struct Via {
    /// Host of the proxy.
    pub host: String,
    /// Port of the proxy.
    pub port: u16,
    /// Value of Proxy-Authorization, when the URL holds a user.
    pub authorization: Option<String>,
}

impl std::fmt::Debug for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Via({}:{})", self.host, self.port)
    }
}

fn variable(name: &str) -> Option<String> {
    let lower = std::env::var(name.to_lowercase()).ok();
    lower.or_else(|| std::env::var(name).ok()).filter(|value| !value.is_empty())
}

impl Via {
    fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri =
            if url.contains("://") { url.parse().ok()? } else { format!("http://{url}").parse().ok()? };
        let user = uri.authority()?.as_str().rsplit_once('@').map(|(user, _)| user.to_owned());
        let authorization =
            user.map(|user| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user)));
        Some(Self { host: uri.host()?.to_owned(), port: uri.port_u16().unwrap_or(80), authorization })
    }
}

impl Outside {
    /// Reads the daemon's environment.
    pub fn from_env() -> Self {
        let direct = variable("NO_PROXY").unwrap_or_default();
        Self {
            http: variable("HTTP_PROXY").and_then(|url| Via::parse(&url)),
            https: variable("HTTPS_PROXY").and_then(|url| Via::parse(&url)),
            direct: direct
                .split(',')
                .map(|part| part.trim().trim_start_matches('.').to_owned())
                .filter(|p| !p.is_empty())
                .collect(),
        }
    }

    /// The proxy for a host, if any.
    pub fn via(&self, host: &str, tls: bool) -> Option<&Via> {
        let exempt = self.direct.iter().any(|part| part == "*" || host == part || host.ends_with(&format!(".{part}")));
        let via = if tls { &self.https } else { &self.http };
        via.as_ref().filter(|_| !exempt)
    }

    /// Opens a connection to a host, through the user's proxy by CONNECT when there is one.
    pub async fn connect(&self, host: &str, port: u16) -> std::io::Result<TcpStream> {
        let Some(via) = self.via(host, true) else {
            return TcpStream::connect((host, port)).await;
        };
        let mut stream = TcpStream::connect((via.host.as_str(), via.port)).await?;
        let authorization =
            via.authorization.as_ref().map(|a| format!("Proxy-Authorization: {a}\r\n")).unwrap_or_default();
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") && answer.len() < 8192 {
            answer.push(stream.read_u8().await?);
        }
        let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
        if line.split_whitespace().nth(1) == Some("200") {
            Ok(stream)
        } else {
            Err(std::io::Error::other(format!("the proxy {}:{} answered {line}", via.host, via.port)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exemptions_and_credentials_are_understood() {
        let via = Via::parse("http://me:secret@proxy.corp:3128").unwrap();
        assert_eq!((via.host.as_str(), via.port), ("proxy.corp", 3128));
        assert_eq!(via.authorization.as_deref(), Some("Basic bWU6c2VjcmV0"));
        assert!(!format!("{via:?}").contains("secret"));
        let outside = Outside { http: Some(via.clone()), https: Some(via), direct: vec!["corp".into()] };
        assert!(outside.via("git.corp", true).is_none());
        assert!(outside.via("example.org", true).is_some());
    }
}
