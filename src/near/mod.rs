//! Hosts that no proxy of a site knows the way to: this one, and those of a network that it is part of (containers of the local Docker,
//! machines in the same room).

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use http::uri::Authority;

use crate::fsx;

/// The kernel's routes.
const ROUTES: &str = "/proc/net/route";

/// Whether `HOST` or `HOST:PORT` is asked directly, whatever the environment says of proxies.
pub fn is_at_hand(host: &str) -> bool {
    // Without routes no host but this one is near.
    is_near(host, || fsx::read_text_if_present(Path::new(ROUTES)).ok().flatten().unwrap_or_default())
}

fn is_near(host: &str, routes: impl FnOnce() -> String) -> bool {
    let parsed: Result<Authority, _> = host.parse();
    let name = parsed.as_ref().map_or(host, Authority::host);
    match name.trim_matches(['[', ']']).parse() {
        Ok(address) if IpAddr::is_loopback(&address) => true,
        Ok(IpAddr::V4(address)) => is_direct(address, &routes()),
        Ok(IpAddr::V6(_)) => false,
        Err(_) => name == "localhost",
    }
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
        let near = ["172.18.0.3", "192.168.1.200", "172.18.0.3:5000"];
        assert!(near.iter().all(|host| is_near(host, || routes.clone())));
        let far = ["172.18.9.3", "10.0.0.1:5000", "192.168.2.1", "api.example.org", "[fd00::1]"];
        assert!(!far.iter().any(|host| is_near(host, || routes.clone())));
        // A tunnel that takes everything is no network of its own.
        assert!(!is_near("10.0.0.1", || line("0.0.0.0", "0.0.0.0", "0.0.0.0")));
    }

    #[test]
    fn loopback_is_known_by_its_names() {
        let near = ["localhost", "localhost:5000", "127.0.0.1", "127.0.0.1:32810", "127.9.9.9:1", "[::1]:5000", "::1"];
        assert!(near.into_iter().all(|host| is_near(host, String::new)));
        let far = ["docker:5000", "docker.io", "10.0.0.1:5000", "localhost.example.org", "[fe80::1]:5000", ""];
        assert!(!far.into_iter().any(|host| is_near(host, String::new)));
    }
}
