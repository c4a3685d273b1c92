//! Whether a cluster is reached through the proxy that the environment names.
//!
//! It is what kubectl does, with NO_PROXY as Go's programs read it, and one thing more: hosts that are at hand are asked directly.

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use crate::near::is_at_hand;

/// Decides for a client that is about to be made. A proxy that the kubeconfig names stays; the client's own choice of one from the
/// environment does not, for it compares NO_PROXY with the proxy.
pub fn choose(config: &mut kube::Config) {
    let variable = |name: &&str| std::env::var(*name).ok().filter(|text| !text.is_empty());
    let named = ["HTTPS_PROXY", "https_proxy"].iter().find_map(variable).unwrap_or_default();
    if config.proxy_url.as_ref().is_some_and(|proxy| named.parse::<Uri>().ok().as_ref() != Some(proxy)) {
        return;
    }
    config.proxy_url = proxy(&config.cluster_url, &named, &Matcher::from_env());
}

/// The proxy for a cluster's address, out of the environment's.
fn proxy(cluster: &Uri, named: &str, matcher: &Matcher) -> Option<Uri> {
    if is_at_hand(cluster.host().unwrap_or_default()) || matcher.intercept(cluster).is_none() {
        return None;
    }
    // Without a scheme it speaks HTTP, as to other programs.
    let url = if named.contains("://") { named.to_owned() } else { format!("http://{named}") };
    url.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_for_hosts_that_no_proxy_does_not_name() {
        // The proxy itself is of a domain that needs none.
        let matcher = Matcher::builder().https("http://proxy.example.org:3128").no(".example.org,10.0.0.0/8").build();
        let of = |url: &str, named: &str| proxy(&url.parse().unwrap(), named, &matcher).map(|proxy| proxy.to_string());
        let named = "http://user:secret@proxy.example.org:3128";
        assert_eq!(of("https://203.0.113.5:6443", named), Some(format!("{named}/")));
        let short = of("https://api.example.com", "proxy.example.org:3128");
        assert_eq!(short.as_deref(), Some("http://proxy.example.org:3128/"));
        for direct in ["https://10.1.2.3:6443", "https://api.example.org:6443", "https://127.0.0.1:6443"] {
            assert_eq!(of(direct, named), None, "{direct}");
        }
    }
}
