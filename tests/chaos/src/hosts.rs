//! The hosts: network namespaces around a router, which is where links are hurt.
//!
//! ```text
//!   client ─┐                ┌─ scheduler 0, scheduler 1
//!   gateway ┼── the router ──┼─ PostgreSQL
//!           │  (10.99.n.1)   ├─ message node
//!           │                └─ compute node 0 …            each is 10.99.n.2, and has nothing but this link
//! ```

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;

use aleph_tests::Namespace;

/// How many schedulers there are.
pub const SCHEDULERS: usize = 2;

/// A host, by what runs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The checker and the clients.
    Client,
    /// The message node.
    MessageNode,
    /// PostgreSQL.
    Postgres,
    /// The gateway.
    Gateway,
    /// A scheduler, from 0.
    Scheduler(usize),
    /// A compute node, from 0.
    Node(usize),
}

/// What can happen to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is down: whoever sends learns so at once.
    Down,
    /// Nothing arrives, in either direction, and nobody says so.
    Silent,
    /// Nothing that the host sends arrives.
    NoOut,
    /// Nothing arrives at the host.
    NoIn,
    /// It carries 256 kbit a second each way, and queues up to three seconds.
    Slow,
    /// Three of ten packets are lost each way.
    Lossy,
}

/// All hosts and the router.
pub struct Hosts {
    router: Namespace,
    hosts: Vec<Arc<Namespace>>,
}

impl Place {
    fn number(self) -> usize {
        match self {
            Self::Client => 0,
            Self::MessageNode => 1,
            Self::Postgres => 2,
            Self::Gateway => 3,
            Self::Scheduler(number) => 4 + number,
            Self::Node(number) => 4 + SCHEDULERS + number,
        }
    }

    /// Its address.
    ///
    /// # Panics
    /// With more than 200 hosts.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, u8::try_from(self.number() + 1).expect("few hosts"), 2)
    }

    /// The URL of what listens at this port of it.
    pub fn url(self, port: u16) -> String {
        format!("http://{}:{port}", self.address())
    }

    /// The router's interface to it.
    fn interface(self) -> String {
        format!("h{}", self.number())
    }
}

impl Hosts {
    /// Makes them, with this many compute nodes. They vanish with this.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn new(nodes: usize) -> Self {
        let places = [Place::Client, Place::MessageNode, Place::Postgres, Place::Gateway]
            .into_iter()
            .chain((0..SCHEDULERS).map(Place::Scheduler))
            .chain((0..nodes).map(Place::Node));
        let router = Namespace::new();
        router.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("root may route"));
        let mut hosts = Vec::new();
        for place in places {
            let (host, interface, address) = (Namespace::new(), place.interface(), place.address());
            let gateway = Ipv4Addr::from_bits(address.to_bits() - 1);
            router.connect(&interface, &host, "uplink");
            router.ip(&format!("address add {gateway}/24 dev {interface}"));
            host.ip(&format!("address add {address}/24 dev uplink"));
            host.ip(&format!("route add default via {gateway}"));
            hosts.push(Arc::new(host));
        }
        Self { router, hosts }
    }

    /// One of them.
    pub fn at(&self, place: Place) -> &Arc<Namespace> {
        &self.hosts[place.number()]
    }

    /// Hurts a link.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn cut(&self, place: Place, cut: Cut) {
        let interface = place.interface();
        let (from, to) = (format!("iifname {interface}"), format!("oifname {interface}"));
        let lossy = "numgen random mod 100 < 30 drop";
        match cut {
            Cut::Down => self.router.ip(&format!("link set {interface} down")),
            Cut::Silent => self.filter(&format!("{from} drop; {to} drop;")),
            Cut::NoOut => self.filter(&format!("{from} drop;")),
            Cut::NoIn => self.filter(&format!("{to} drop;")),
            Cut::Lossy => self.filter(&format!("{from} {lossy}; {to} {lossy};")),
            Cut::Slow => {
                for (namespace, interface) in [(&self.router, interface.as_str()), (self.at(place), "uplink")] {
                    let queue = ["root", "tbf", "rate", "256kbit", "burst", "8kb", "latency", "3s"];
                    let arguments = [&["qdisc", "add", "dev", interface][..], &queue].concat();
                    assert!(run(namespace, "tc", &arguments), "tc refuses a slow link");
                }
            }
        }
    }

    /// Heals all that [`Self::cut`] did to a link.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn heal(&self, place: Place, cut: Cut) {
        let interface = place.interface();
        match cut {
            Cut::Down => self.router.ip(&format!("link set {interface} up")),
            Cut::Silent | Cut::NoOut | Cut::NoIn | Cut::Lossy => {
                assert!(run(&self.router, "nft", &["delete table inet faults"]), "nft refuses");
            }
            Cut::Slow => {
                for (namespace, interface) in [(&self.router, interface.as_str()), (self.at(place), "uplink")] {
                    assert!(run(namespace, "tc", &["qdisc", "delete", "dev", interface, "root"]), "tc refuses");
                }
            }
        }
    }

    fn filter(&self, rules: &str) {
        let chain = format!("chain forward {{ type filter hook forward priority 0; {rules} }}");
        assert!(run(&self.router, "nft", &[&format!("table inet faults {{\n{chain}\n}}\n")]), "nft refuses {rules}");
    }
}

fn run(namespace: &Namespace, program: &str, arguments: &[&str]) -> bool {
    let status = namespace.run(|| Command::new(program).args(arguments).status());
    status.is_ok_and(|status| status.success())
}
