//! What programs can reach: the internet, if they ask for it, and nothing else; without asking, nothing at all.
//!
//! ```text
//!  namespace "outside"                        namespace "node"
//!  198.51.100.7  10.1.2.3  …  ── router ──  uplink 203.0.113.2, 10.200.0.2 ── aleph-node up ── sandboxes 100.64.0.0/10
//! ```
//! Everything that a sandbox must not reach answers the node itself, so that only the sandbox's walls can be the reason.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aleph_tests::{Aleph, Namespace, Network, Publisher, UpOptions, eventually, folder_with, reqwest_client, runsc};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PUBLIC: &str = "198.51.100.7";
const NAME_SERVER: &str = "10.53.0.53";
/// Private networks, shared address space, cloud metadata: all of them on the other side of the router.
const NOT_THE_INTERNET: [&str; 5] = ["10.1.2.3", "172.16.5.5", "192.168.9.9", "100.127.1.1", "169.254.169.254"];
const NODE: &str = "203.0.113.2";
/// Another address of the machine that the nodes run on.
const NODE_TOO: &str = "10.200.0.2";
/// Where sandboxes listen.
const SANDBOX_PORT: u16 = 9000;

/// Tries to reach what it is asked to, and says about its own network. It listens at an address that others may try.
const PROBE: &str = r#"
import asyncio, json, os, socket
from urllib.parse import parse_qs

async def tcp(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"?")
    return (await reader.read(1000)).decode()

async def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setblocking(False)
        s.connect((host, port))
        s.send(b"?")
        return (await asyncio.get_running_loop().sock_recv(s, 1000)).decode()

async def attempt(target):
    kind, host, port = target.split("/")
    try:
        return await asyncio.wait_for({"tcp": tcp, "udp": udp}[kind](host, int(port)), 3)
    except asyncio.TimeoutError:
        return "error: timeout"
    except OSError as e:
        return f"error: {e}"

async def hello(reader, writer):
    await reader.read(1)
    writer.write(b"a sandbox")
    writer.close()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await asyncio.start_server(hello, "0.0.0.0", 9000)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    targets = parse_qs(scope["query_string"].decode()).get("to", [])
    answers = await asyncio.gather(*map(attempt, targets))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("198.51.100.7", 80))
            own = s.getsockname()[0]
        except OSError as e:
            own = f"error: {e}"
    said = {"reached": dict(zip(targets, answers)), "interfaces": [n for _, n in socket.if_nameindex()],
            "address": own, "resolv.conf": open("/etc/resolv.conf").read() if os.path.exists("/etc/resolv.conf") else ""}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})
"#;

/// The addresses at which somebody was reached.
type Reached = Arc<Mutex<BTreeSet<IpAddr>>>;

/// Sockets that stay in the namespace that they are opened in, whoever serves them.
struct Listeners {
    tcp: Vec<TcpListener>,
    udp: Option<UdpSocket>,
}

impl Listeners {
    fn open(tcp: impl IntoIterator<Item = (&'static str, u16)>, udp: Option<(&str, u16)>) -> Self {
        let tcp = tcp.into_iter().map(|address| TcpListener::bind(address).unwrap()).collect();
        Self { tcp, udp: udp.map(|address| UdpSocket::bind(address).unwrap()) }
    }

    /// Answers everybody.
    fn serve(self) -> Reached {
        let reached = Reached::default();
        for listener in self.tcp {
            listener.set_nonblocking(true).unwrap();
            let (listener, reached) = (tokio::net::TcpListener::from_std(listener).unwrap(), reached.clone());
            tokio::spawn(async move {
                while let Ok((mut stream, peer)) = listener.accept().await {
                    let at = stream.local_addr().unwrap().ip();
                    reached.lock().unwrap().insert(at);
                    let _ = stream.read_u8().await;
                    let _ = stream.write_all(format!("{at} saw {}", peer.ip()).as_bytes()).await;
                }
            });
        }
        if let Some(udp) = self.udp {
            udp.set_nonblocking(true).unwrap();
            let udp = tokio::net::UdpSocket::from_std(udp).unwrap();
            tokio::spawn(async move {
                while let Ok((_, peer)) = udp.recv_from(&mut [0; 16]).await {
                    let _ = udp.send_to(b"a name", peer).await;
                }
            });
        }
        reached
    }
}

/// What a connection from here gets to hear.
async fn reach(address: &str, port: u16) -> Option<String> {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect((address, port)).await.ok()?;
        stream.write_all(b"?").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.ok()?
}

/// What a program reaches of these, by its own account.
async fn reached_by(network: &Network, program: &str, targets: &[String]) -> Value {
    let query: Vec<_> = targets.iter().map(|target| format!("to={target}")).collect();
    let url = format!("{}/?{}", network.program_url(program), query.join("&"));
    let answer = reqwest_client().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", Aleph::of(network).logs(program).await);
    answer.json().await.unwrap()
}

#[test]
fn programs_reach_the_internet_if_they_ask_for_it_and_nothing_else() {
    programs_reach_the_internet(&[]);
}

#[test]
fn under_gvisor_programs_reach_the_same() {
    programs_reach_the_internet(&["--isolation", "gvisor", "--runsc", &runsc()]);
}

fn programs_reach_the_internet(options: &[&str]) {
    let (node, outside) = (Namespace::new(), Namespace::new());
    outside.connect("downlink", &node, "uplink");
    outside.ip("address add 203.0.113.1/24 dev downlink");
    for address in NOT_THE_INTERNET.iter().chain(&[PUBLIC, NAME_SERVER]) {
        outside.ip(&format!("address add {address}/32 dev lo"));
    }
    outside.ip(&format!("route add 100.64.0.0/10 via {NODE}"));
    outside.ip(&format!("route add {NODE_TOO} via {NODE}"));
    node.ip(&format!("address add {NODE}/24 dev uplink"));
    node.ip(&format!("address add {NODE_TOO}/32 dev lo"));
    node.ip("route add default via 203.0.113.1");
    let listeners = outside.run(|| Listeners::open([("0.0.0.0", 53), ("0.0.0.0", 80)], Some((NAME_SERVER, 53))));
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(inside(listeners, &outside, options));
        let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&rules.stdout), "", "no rule is left");
        let interfaces = Command::new("ip").args(["-oneline", "link"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&interfaces.stdout).lines().count(), 2, "loopback and uplink are left");
    });
}

/// What happens in the node's namespace.
async fn inside(listeners: Listeners, outside: &Namespace, options: &[&str]) {
    let outside_reached = listeners.serve();
    // The name server that sandboxes are told of is a private one, as in most networks.
    let prepare =
        format!("echo nameserver {NAME_SERVER} >$ROOT/resolv.conf; mount --bind $ROOT/resolv.conf /etc/resolv.conf");
    let mut network = Network::up(UpOptions { prepare: Some(prepare), ..UpOptions::new(2, options) }).await;
    let aleph = Aleph::of(&network);

    // The machine listens at all its addresses, and at the ports of the network's parts as if they were there, too.
    let parts = (network.port()..network.port() + 5).flat_map(|port| [(NODE, port), (NODE_TOO, port)]);
    let machine: Vec<_> = parts.chain([(NODE, 80), (NODE_TOO, 80)]).collect();
    let machine_reached = Listeners::open(machine.clone().into_iter().chain([("0.0.0.0", 81)]), None).serve();

    // Two sandboxes on one node, one on the other, and one that did not ask for a network.
    let folder = folder_with("main.py", PROBE);
    let upload = async |options: &[&str]| {
        aleph.upload(folder.path(), "main:app", &[&["--persistent", "--timeout-seconds", "60"], options].concat()).await
    };
    let [asking, neighbour, without] =
        [upload(&["--internet"]).await, upload(&["--internet"]).await, upload(&[]).await];
    let at = aleph.find(&asking).await["node_url"].clone();
    assert_eq!(aleph.find(&neighbour).await["node_url"], at, "nodes are filled up one after the other");
    let other_node = network.compute_nodes.iter().find(|node| at != node.url.as_str()).unwrap();
    let publisher = Publisher::of(&network);
    let (code, runtime) = (publisher.file(PROBE).await, network.runtime("python3").await);
    let far = json!({
        "on": { "persistent": true }, "environment": { "internet": true },
        "requirements": { "node": { "node_hash": other_node.id } },
    });
    let far = publisher.program(&code, &runtime, far).await;
    let mut sandboxes = Vec::new();
    for program in [&asking, &neighbour, &far] {
        let said = reached_by(&network, program, &[]).await;
        assert_eq!(said["resolv.conf"], format!("nameserver {NAME_SERVER}\n"));
        let address = said["address"].as_str().unwrap().to_owned();
        // There is somebody to be reached.
        let own = format!("tcp/{address}/{SANDBOX_PORT}");
        assert_eq!(reached_by(&network, program, std::slice::from_ref(&own)).await["reached"][&own], "a sandbox");
        sandboxes.push(address);
    }
    let network_of = |number: usize| sandboxes[number][..7].to_owned();
    assert!(network_of(0) == network_of(1) && network_of(0) != network_of(2), "each node has its own: {sandboxes:?}");

    // The node itself reaches all of it, and the machine is reached from outside.
    for address in NOT_THE_INTERNET.iter().chain(&[PUBLIC, NAME_SERVER]) {
        assert_eq!(reach(address, 80).await.unwrap(), format!("{address} saw {NODE}"));
    }
    let from_outside = |address: &str, port: u16| {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        outside.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
    };
    assert!(from_outside(NODE, 80) && from_outside(NODE_TOO, 80));
    let at =
        |addresses: &[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
    eventually("the machine was reached", async || {
        (*machine_reached.lock().unwrap() == at(&[NODE, NODE_TOO])).then_some(())
    })
    .await;
    outside_reached.lock().unwrap().clear();
    machine_reached.lock().unwrap().clear();

    // The public internet, and names.
    let open = [format!("tcp/{PUBLIC}/80"), format!("tcp/{NAME_SERVER}/53"), format!("udp/{NAME_SERVER}/53")];
    // The machine, by each of its addresses; its ports; what is not the internet; the name server's other ports; others.
    let own_gateway = sandboxes[0].parse::<Ipv4Addr>().unwrap().to_bits() - 1;
    let own_gateway = Ipv4Addr::from_bits(own_gateway).to_string();
    let walls = (NOT_THE_INTERNET.iter().map(|address| ((*address).to_owned(), 80)))
        .chain(machine.iter().map(|(address, port)| ((*address).to_owned(), *port)))
        .chain([NODE, NODE_TOO, &own_gateway, "127.0.0.1"].map(|address| (address.to_owned(), 81)))
        .chain([(NAME_SERVER.to_owned(), 80)])
        .chain(sandboxes[1..].iter().map(|address| (address.clone(), SANDBOX_PORT)))
        .map(|(address, port)| format!("tcp/{address}/{port}"));
    let walls: Vec<_> = walls.collect();
    let said = reached_by(&network, &asking, &[&open[..], &walls[..]].concat()).await;
    assert_eq!(said["interfaces"], json!(["lo", "eth0"]));
    assert_eq!(said["reached"][&open[0]], format!("{PUBLIC} saw {NODE}"), "the machine's address is what others see");
    assert_eq!(said["reached"][&open[1]], format!("{NAME_SERVER} saw {NODE}"));
    assert_eq!(said["reached"][&open[2]], "a name");
    for target in &walls {
        let answer = said["reached"][target].as_str().unwrap();
        assert!(answer.starts_with("error: "), "{target} was reached: {answer}");
    }
    // Those who must not be reached saw nothing either.
    assert_eq!(*outside_reached.lock().unwrap(), at(&[PUBLIC, NAME_SERVER]));
    assert_eq!(*machine_reached.lock().unwrap(), at(&[]));
    // Nobody outside reaches a sandbox, whatever it listens at.
    assert!(!from_outside(&sandboxes[0], SANDBOX_PORT));

    // Without a network there is nobody to reach, not even the machine.
    let said = reached_by(&network, &without, &[&open[..], &walls[..]].concat()).await;
    assert_eq!((&said["interfaces"], &said["resolv.conf"]), (&json!(["lo"]), &json!("")));
    for (target, answer) in said["reached"].as_object().unwrap() {
        let expected = if target.contains("127.0.0.1") { "refused" } else { "unreachable" };
        assert!(answer.as_str().unwrap().contains(expected), "{target}: {answer}");
    }
    assert_eq!(network.interrupt().await, Some(0));
}
