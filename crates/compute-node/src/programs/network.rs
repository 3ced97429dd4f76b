//! The firewall of sandboxes with a network: out to the internet, translated to the machine's address, and nowhere else.
//!
//! The rules are in place before any sandbox has an interface, and match by the interfaces' common beginning, so that a new
//! sandbox needs no new rule.

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ipnet::Ipv4Net;
use sandbox::spec::NetworkSpec;

use super::slots::Slot;

/// Networks that are not the internet: this machine, private networks, link-local (cloud metadata), shared address space,
/// documentation, benchmarks, multicast, reserved (RFC 6890).
const NOT_THE_INTERNET: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, \
     192.0.0.0/24, 192.0.2.0/24, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/4, 240.0.0.0/4";

/// Networks of the sandboxes of one node.
#[derive(Debug)]
pub(crate) struct Network {
    /// What the names of all our interfaces begin with.
    prefix: String,
    addresses: Ipv4Net,
    ready: OnceLock<Result<(), String>>,
}

impl Network {
    /// The networks of the node with this number among the nodes of its machine.
    pub(crate) fn new(node: &str, addresses: Ipv4Net) -> Self {
        // 15 characters are allowed, five are left for the slot's number.
        let prefix = format!("al{}-", &node[..node.len().min(6)]);
        Self { prefix, addresses, ready: OnceLock::new() }
    }

    /// The network of the sandbox in this slot. Sets the firewall up when it is the first. Blocks.
    ///
    /// # Errors
    /// When the firewall cannot be set up; then no sandbox gets a network.
    pub(crate) fn of(&self, slot: &Slot) -> io::Result<NetworkSpec> {
        self.ready.get_or_init(|| self.set_up().map_err(|e| e.to_string())).clone().map_err(io::Error::other)?;
        let (gateway, address) = slot.addresses();
        Ok(NetworkSpec {
            interface: format!("{}{}", self.prefix, slot.number()),
            gateway,
            address,
            name_servers: name_servers(),
        })
    }

    fn set_up(&self) -> io::Result<()> {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("cannot run nft (package nftables): {e}")))?;
        nft.stdin.take().expect("it was asked for").write_all(self.rules(&name_servers()).as_bytes())?;
        let output = nft.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("nft refused the rules: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }

    /// The node's own table, replaced as a whole.
    fn rules(&self, name_servers: &[Ipv4Addr]) -> String {
        let (table, interfaces, addresses) = (self.table(), format!("\"{}*\"", self.prefix), self.addresses);
        let allow_dns: String = name_servers
            .iter()
            .map(|server| {
                format!("    iifname {interfaces} ip daddr {server} meta l4proto {{ tcp, udp }} th dport 53 accept\n")
            })
            .collect();
        format!(
            "table inet {table} {{}}\n\
             delete table inet {table}\n\
             table inet {table} {{\n\
             \x20 chain input {{\n\
             \x20   type filter hook input priority filter - 10; policy accept;\n\
             \x20   iifname {interfaces} drop\n\
             \x20 }}\n\
             \x20 chain forward {{\n\
             \x20   type filter hook forward priority filter - 10; policy accept;\n\
             \x20   oifname {interfaces} ct state established,related accept\n\
             \x20   oifname {interfaces} drop\n\
             \x20   iifname {interfaces} ip saddr != {addresses} drop\n\
             {allow_dns}\
             \x20   iifname {interfaces} ip daddr {{ {NOT_THE_INTERNET} }} drop\n\
             \x20   iifname {interfaces} meta nfproto ipv6 drop\n\
             \x20 }}\n\
             \x20 chain postrouting {{\n\
             \x20   type nat hook postrouting priority srcnat; policy accept;\n\
             \x20   ip saddr {addresses} oifname != {interfaces} masquerade\n\
             \x20 }}\n\
             }}\n"
        )
    }

    fn table(&self) -> String {
        format!("aleph_{}", self.prefix.trim_end_matches('-'))
    }

    /// Removes the firewall, when no sandbox of this node is left. An agent before this one may have set it up.
    pub(crate) fn tear_down(&self) {
        let _ = Command::new("nft").args(["delete", "table", "inet", &self.table()]).stderr(Stdio::null()).status();
    }
}

/// The name servers that the machine uses itself, without those on the machine, which no sandbox can reach.
fn name_servers() -> Vec<Ipv4Addr> {
    let read = |path| fs::read_to_string(path).map(|text| parse_name_servers(&text)).unwrap_or_default();
    let servers = read("/etc/resolv.conf");
    // systemd-resolved keeps the real ones here.
    if servers.is_empty() { read("/run/systemd/resolve/resolv.conf") } else { servers }
}

fn parse_name_servers(text: &str) -> Vec<Ipv4Addr> {
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<Ipv4Addr>().ok())
        .filter(|address| !address.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_on_the_machine_itself_are_of_no_use() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nnameserver fe80::1\nsearch a\n";
        assert_eq!(parse_name_servers(text), [Ipv4Addr::new(9, 9, 9, 9)]);
    }

    #[test]
    fn private_name_servers_are_reachable_for_names_only() {
        let rules = Network::new("abcdef0123", "100.96.0.0/16".parse().unwrap()).rules(&[Ipv4Addr::new(10, 0, 0, 2)]);
        let dns = rules.find("ip daddr 10.0.0.2 meta l4proto { tcp, udp } th dport 53 accept").unwrap();
        let private = rules.find("10.0.0.0/8").unwrap();
        assert!(dns < private, "{rules}");
        assert!(rules.contains("table inet aleph_alabcdef"));
    }
}
