//! The way out: directly, or through the user's own proxy.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::view::{range, within};
use crate::near::is_at_hand;
use crate::node::config::UpstreamProxy;

/// How long a connection may take to come about.
pub const CONNECT: Duration = Duration::from_secs(10);

/// Longest answer of a proxy to CONNECT.
const LONGEST_HEAD: usize = 16 << 10;

/// A proxy's address and credentials, from its URL.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    /// `host:port`.
    pub address: String,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

impl ProxyAddress {
    /// Reads `[http://][user:password@]host[:port]`.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(format!("a proxy of scheme {scheme} is not supported, only http")),
            None => url,
        };
        let rest = rest.trim_end_matches('/');
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, rest),
        };
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { host.to_owned() } else { format!("{host}:80") };
        let authorization = user
            .map(|user| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(percent_decode(user))));
        Ok(Self { address, authorization })
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

impl UpstreamProxy {
    /// The proxy for a request to `host`; `None` when it is reached directly.
    pub fn for_host(&self, host: &str, port: u16, tunnel: bool) -> Option<&str> {
        let proxy = if tunnel { self.https.as_deref() } else { self.http.as_deref() }?;
        if self.bypassed(host, port) { None } else { Some(proxy) }
    }

    fn bypassed(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if is_at_hand(&host) {
            return true;
        }
        let address: Option<IpAddr> = host.parse().ok();
        let entries =
            self.no.as_deref().unwrap_or_default().split(',').map(str::trim).filter(|entry| !entry.is_empty());
        for entry in entries {
            if entry == "*" {
                return true;
            }
            if let (Some(IpAddr::V4(address)), Some(range)) = (address, range(entry)) {
                if within(address, range) {
                    return true;
                }
                continue;
            }
            let (name, only) = match entry.rsplit_once(':') {
                Some((name, only)) if only.parse::<u16>().is_ok() => (name, only.parse::<u16>().ok()),
                _ => (entry, None),
            };
            let name = name.trim_start_matches('*').to_ascii_lowercase();
            let bare = name.trim_start_matches('.');
            let matches = host == bare || host.strip_suffix(bare).is_some_and(|rest| rest.ends_with('.'));
            if matches && only.is_none_or(|only| only == port) {
                return true;
            }
        }
        false
    }
}

/// Connects, within the limit.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(stream) => {
            let stream = stream?;
            // Requests and answers are small and wait for each other.
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {}s", CONNECT.as_secs()))),
    }
}

/// Opens a tunnel to `host:port` through a proxy.
pub async fn tunnel(proxy: &ProxyAddress, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut stream = connect(&proxy.address).await?;
    let authorization =
        proxy.authorization.as_deref().map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
    let ask = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
    let talk = async {
        stream.write_all(ask.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= LONGEST_HEAD {
                return Err(io::Error::other("the proxy's answer has no end"));
            }
            // One byte at a time: what follows the head belongs to the tunnel.
            head.push(stream.read_u8().await?);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    };
    let head = tokio::time::timeout(CONNECT, talk)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the proxy does not answer"))??;
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) == Some("200") {
        Ok(stream)
    } else {
        Err(io::Error::other(format!("the proxy {} answers {status:?}", proxy.address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_addresses_are_read() {
        let cases = [
            ("http://proxy.corp:3128", "proxy.corp:3128", None),
            ("proxy.corp", "proxy.corp:80", None),
            ("http://a:b%40c@proxy:8080/", "proxy:8080", Some("Basic YTpiQGM=")),
        ];
        for (url, address, authorization) in cases {
            let parsed = ProxyAddress::parse(url).unwrap();
            assert_eq!(parsed.address, address, "{url}");
            assert_eq!(parsed.authorization.as_deref(), authorization, "{url}");
        }
        assert!(ProxyAddress::parse("socks5://x").is_err());
    }

    #[test]
    fn no_proxy_is_honoured() {
        let proxy = UpstreamProxy {
            http: Some("http://p".into()),
            https: Some("http://q".into()),
            no: Some("corp.example, .intra,10.0.0.0/8,exact.host:8080".into()),
        };
        let through = |host: &str, port| proxy.for_host(host, port, true).is_some();
        assert!(through("example.com", 443));
        assert!(!through("corp.example", 443));
        assert!(!through("git.corp.example.", 443));
        assert!(!through("a.intra", 80));
        assert!(!through("10.1.2.3", 80));
        assert!(through("11.1.2.3", 80));
        assert!(!through("exact.host", 8080));
        assert!(through("exact.host", 80));
        assert!(through("notcorp.example", 443));
        assert!(!through("127.0.0.1", 5000));
        assert!(!through("localhost", 5000));
        assert_eq!(proxy.for_host("example.com", 80, false), Some("http://p"));
    }
}
