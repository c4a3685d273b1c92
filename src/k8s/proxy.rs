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

/// Leaves out a proxy of the environment where it is not for this cluster. One that the kubeconfig names stays.
pub fn choose(config: &mut kube::Config) {
    let Some(proxy) = &config.proxy_url else { return };
    let named = |name: &&str| std::env::var(*name).is_ok_and(|text| text.parse::<Uri>().is_ok_and(|uri| uri == *proxy));
    if !["HTTPS_PROXY", "https_proxy"].iter().any(named) {
        return;
    }
    let routes = fsx::read_text_if_present(Path::new(ROUTES)).ok().flatten().unwrap_or_default();
    let host = config.cluster_url.host().unwrap_or_default();
    if is_near(host, &routes) || Matcher::from_env().intercept(&config.cluster_url).is_none() {
        config.proxy_url = None;
    }
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
