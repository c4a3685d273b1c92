//! Whether a cluster is reached through the proxy that the environment names.
//!
//! It is what kubectl does, with NO_PROXY as Go's programs read it, and one thing more: hosts of a network that this one is part of
//! (containers of the local Docker, machines in the same room) are asked directly, for no proxy of a site knows the way there.

use std::net::Ipv4Addr;
use std::path::Path;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use crate::fsx;

/// The kernel's routes.
const ROUTES: &str = "/proc/net/route";

/// Decides for a client that is about to be made. A proxy that the kubeconfig names stays; the client's own choice of one from the
/// environment does not, for it compares NO_PROXY with the proxy.
pub fn choose(config: &mut kube::Config) {
    let variable = |name: &&str| std::env::var(*name).ok().filter(|text| !text.is_empty());
    let named = ["HTTPS_PROXY", "https_proxy"].iter().find_map(variable).unwrap_or_default();
    if config.proxy_url.as_ref().is_some_and(|proxy| named.parse::<Uri>().ok().as_ref() != Some(proxy)) {
        return;
    }
    config.proxy_url = proxy(&config.cluster_url, &named, &Matcher::from_env(), &routes());
}

/// Whether a host needs no proxy: this one, and those of a network that it is part of.
pub fn is_at_hand(host: &str) -> bool {
    is_near(host, &routes())
}

fn routes() -> String {
    // Without them no host but this one is near.
    fsx::read_text_if_present(Path::new(ROUTES)).ok().flatten().unwrap_or_default()
}

/// The proxy for a cluster's address, out of the environment's.
fn proxy(cluster: &Uri, named: &str, matcher: &Matcher, routes: &str) -> Option<Uri> {
    if is_near(cluster.host().unwrap_or_default(), routes) || matcher.intercept(cluster).is_none() {
        return None;
    }
    // Without a scheme it speaks HTTP, as to other programs.
    let url = if named.contains("://") { named.to_owned() } else { format!("http://{named}") };
    url.parse().ok()
}

/// Whether a host is this one, or one of a network of its own.
fn is_near(host: &str, routes: &str) -> bool {
    let Ok(address) = host.parse::<Ipv4Addr>() else { return host == "localhost" || host == "[::1]" };
    address.is_loopback() || is_direct(address, routes)
}

/// Whether the best route to an address needs no gateway.
fn is_direct(address: Ipv4Addr, routes: &str) -> bool {
    // Iface Destination Gateway Flags RefCnt Use Metric Mask ...: addresses are numbers in the order of this machine's bytes.
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        Some((number(1)?, number(2)?, number(7)?))
    };
    let address = u32::from_ne_bytes(address.octets());
    let matching = routes.lines().filter_map(route).filter(|(destination, _, mask)| address & mask == *destination);
    matching.max_by_key(|(.., mask)| mask.count_ones()).is_some_and(|(_, gateway, mask)| gateway == 0 && mask != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_for_hosts_that_no_proxy_does_not_name() {
        // The proxy itself is of a domain that needs none.
        let matcher = Matcher::builder().https("http://proxy.example.org:3128").no(".example.org,10.0.0.0/8").build();
        let of =
            |url: &str, named: &str| proxy(&url.parse().unwrap(), named, &matcher, "").map(|proxy| proxy.to_string());
        let named = "http://user:secret@proxy.example.org:3128";
        assert_eq!(of("https://203.0.113.5:6443", named), Some(format!("{named}/")));
        let short = of("https://api.example.com", "proxy.example.org:3128");
        assert_eq!(short.as_deref(), Some("http://proxy.example.org:3128/"));
        for direct in ["https://10.1.2.3:6443", "https://api.example.org:6443", "https://127.0.0.1:6443"] {
            assert_eq!(of(direct, named), None, "{direct}");
        }
    }

    #[test]
    fn hosts_of_an_own_network_are_near() {
        let hex = |text: &str| format!("{:08X}", u32::from_ne_bytes(text.parse::<Ipv4Addr>().unwrap().octets()));
        let line = |destination: &str, gateway: &str, mask: &str| {
            format!("eth0\t{}\t{}\t0003\t0\t0\t100\t{}\t0\t0\t0\n", hex(destination), hex(gateway), hex(mask))
        };
        let routes = [
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n".to_owned(),
            line("0.0.0.0", "192.168.1.1", "0.0.0.0"),
            line("192.168.1.0", "0.0.0.0", "255.255.255.0"),
            line("172.18.0.0", "0.0.0.0", "255.255.0.0"),
            line("172.18.9.0", "192.168.1.7", "255.255.255.0"),
        ]
        .concat();
        let near = ["127.0.0.1", "localhost", "[::1]", "172.18.0.3", "192.168.1.200"];
        assert!(near.iter().all(|host| is_near(host, &routes)));
        let far = ["172.18.9.3", "10.0.0.1", "192.168.2.1", "api.example.org", "[fd00::1]"];
        assert!(!far.iter().any(|host| is_near(host, &routes)));
        // A tunnel that takes everything is no network of its own.
        assert!(!is_near("10.0.0.1", &line("0.0.0.0", "0.0.0.0", "0.0.0.0")));
    }
}
