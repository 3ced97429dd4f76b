//! Several schedulers on one PostgreSQL database: one leads, the others follow and take over.

use std::time::{Duration, Instant};

use aleph_scheduler::{Config, Database};
use aleph_tests::Postgres;
use lease::LeaseConfig;
use protocol::ProgramId;
use protocol::api::scheduler::{AssignmentRecord, Page};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::compute_node::{FakeNode, control_url};
use crate::network::{LEASE, Network, Running, until};

/// A network with two schedulers on a database, and nodes that are connected to the leader.
struct Pair {
    network: Network,
    database: String,
    leader: Running,
    follower: Running,
    nodes: Vec<FakeNode>,
}

impl Pair {
    async fn start(database: String, memory: &[u64]) -> Self {
        // A busy machine may take a while for a beat.
        let lease = LeaseConfig { lease: Duration::from_secs(6), ..LEASE };
        Self::with(Network { lease, ..Network::new().await }, database, memory).await
    }

    async fn with(network: Network, database: String, memory: &[u64]) -> Self {
        let mut nodes: Vec<_> = (1..).zip(memory).map(|(number, memory)| FakeNode::new(number, *memory)).collect();
        for node in &nodes {
            network.messages.register(node.listed());
        }
        let leader = start(&network, &database, "one").await;
        leader.until_synced().await;
        let follower = start(&network, &database, "two").await;
        until("the other one follows", async || (status(&follower).await == "follower").then_some(())).await;
        for node in &mut nodes {
            node.connect(&leader.url).await;
        }
        Self { network, database, leader, follower, nodes }
    }

    async fn publish(&self, count: u64) -> Vec<ProgramId> {
        let programs: Vec<_> = (0..count).map(|number| self.network.publish(100 + number)).collect();
        for program in &programs {
            self.leader.until_ready(*program).await;
        }
        programs
    }
}

async fn start(network: &Network, database: &str, name: &str) -> Running {
    let config = network.config();
    let database = Database::Postgres(database.parse().unwrap());
    Running::start(Config { database, data_dir: config.data_dir.join(name), ..config }).await
}

async fn shared() -> String {
    tokio::task::spawn_blocking(|| Postgres::shared().database()).await.unwrap()
}

async fn status(scheduler: &Running) -> String {
    scheduler.client.health().await.unwrap().status
}

/// Every assignment of the program, oldest first.
async fn history(scheduler: &Running, program: ProgramId) -> Vec<AssignmentRecord> {
    let page: Page<AssignmentRecord> = scheduler.get(&format!("/api/v1/vms/{program}/history")).await;
    page.items.into_iter().rev().collect()
}

#[tokio::test]
async fn a_follower_answers_what_the_leader_answers_and_sends_nodes_away() {
    let pair = Pair::start(shared().await, &[4000]).await;
    let program = pair.publish(1).await[0];
    let (leader, follower) = (&pair.leader, &pair.follower);
    let health = follower.client.health().await.unwrap();
    assert_eq!((health.status.as_str(), health.leader.as_deref()), ("follower", Some(leader.url.as_str())));
    for path in [format!("/api/v1/vms/{program}"), "/api/v0/nodes".into(), format!("/api/v1/vms/{program}/history")] {
        let (one, two): (Value, Value) = (leader.get(&path).await, follower.get(&path).await);
        assert_eq!(without_times(one), without_times(two), "{path}");
    }
    let (status, body) = follower.error("/api/v1/nothing").await;
    assert_eq!((status, &body["code"]), (404, &"not_found".into()), "errors are the leader's, too");
    // The event stream is passed on as well.
    let mut events = follower.client.events().await.unwrap();
    let second = pair.network.publish(300);
    let event = events.next().await.unwrap().unwrap();
    assert!(format!("{event:?}").contains(&second.to_string()), "{event:?}");
    let refused = tokio_tungstenite::connect_async(control_url(&follower.url)).await.unwrap_err();
    assert!(refused.to_string().contains("503"), "{refused}");
}

fn without_times(mut value: Value) -> Value {
    if let Some(record) = value.as_object_mut() {
        record.retain(|key, _| !key.contains("seen") && !key.contains("updated"));
        record.values_mut().for_each(|inner| *inner = without_times(inner.take()));
    }
    if let Some(items) = value.as_array_mut() {
        items.iter_mut().for_each(|inner| *inner = without_times(inner.take()));
    }
    value
}

#[tokio::test]
async fn when_the_leader_dies_another_leads_and_nothing_moves() {
    let mut pair = Pair::start(shared().await, &[4000, 4000]).await;
    let programs = pair.publish(20).await;
    let mut places = Vec::new();
    for program in &programs {
        places.push(pair.leader.until_ready(*program).await);
    }
    let url = pair.leader.url.clone();
    pair.leader.crash().await;
    let died = Instant::now();
    for node in &mut pair.nodes {
        node.kill().await;
        node.connect_to_leader(&[&url, &pair.follower.url]).await;
    }
    // The nodes found it before any lease was over.
    let usable = pair.network.lease.lease - LEASE.grace - LEASE.kill_allowance;
    for node in &pair.nodes {
        until("the node's leases are renewed", async || {
            node.memory(|memory| memory.renewed.filter(|at| *at > died)).map(drop)
        })
        .await;
    }
    let took = died.elapsed();
    assert!(took < usable, "renewed again after {took:?}");
    for (program, place) in programs.iter().zip(places) {
        assert_eq!(pair.follower.until_ready(*program).await, place);
        assert_eq!(history(&pair.follower, *program).await.len(), 1);
    }
    // And it decides: what is new gets a node, and the epochs go on.
    let more = pair.network.publish(100);
    assert_eq!(pair.follower.until_ready(more).await.1, 1);
}

#[tokio::test]
async fn a_leader_that_stops_in_order_is_followed_at_once() {
    let mut pair = Pair::start(shared().await, &[4000]).await;
    let program = pair.publish(1).await[0];
    pair.leader.stop().await;
    pair.nodes[0].kill().await;
    pair.nodes[0].connect_to_leader(&[&pair.follower.url]).await;
    assert_eq!(pair.follower.until_ready(program).await, (pair.nodes[0].id, 1));
    // It can come back, and follows then.
    let back = start(&pair.network, &pair.database, "one").await;
    until("it follows", async || (status(&back).await == "follower").then_some(())).await;
}

#[tokio::test]
async fn a_deposed_leader_steps_back_and_its_nodes_find_the_new_one() {
    let mut pair = Pair::start(shared().await, &[4000]).await;
    let program = pair.publish(1).await[0];
    // As if another scheduler had taken over, which then dies.
    let mut db = PgConnection::connect(&pair.database).await.unwrap();
    sqlx::raw_sql("UPDATE leader SET leader_epoch = leader_epoch + 1, url = 'http://nobody.invalid'")
        .execute(&mut db)
        .await
        .unwrap();
    until("the deposed one follows", async || (status(&pair.leader).await == "follower").then_some(())).await;
    pair.nodes[0].kill().await;
    pair.nodes[0].connect_to_leader(&[&pair.leader.url, &pair.follower.url]).await;
    for scheduler in [&pair.leader, &pair.follower] {
        until("it knows who leads now", async || {
            let health = scheduler.client.health().await.unwrap();
            health.leader.is_none_or(|leader| !leader.contains("nobody")).then_some(())
        })
        .await;
        assert_eq!(scheduler.until_ready(program).await, (pair.nodes[0].id, 1), "asked through either");
    }
}

#[tokio::test]
async fn programs_outlive_a_restart_of_the_database() {
    let mut server = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    // However long the database needs to come back on a busy machine, a lease is longer.
    let network = Network { lease: LeaseConfig { lease: Duration::from_secs(30), ..LEASE }, ..Network::new().await };
    let mut pair = Pair::with(network, server.database(), &[4000, 4000]).await;
    let programs = pair.publish(5).await;
    server.kill();
    // What is asked for now is placed when the database is back.
    let late = pair.network.publish(100);
    until("the scheduler sees that the database is gone", async || {
        let health = pair.leader.client.health().await.ok()?;
        (health.database.as_deref() != Some("ok")).then_some(())
    })
    .await;
    let server = tokio::task::spawn_blocking(move || {
        server.resume();
        server
    });
    let server = server.await.unwrap();
    for node in &mut pair.nodes {
        node.kill().await;
        node.connect_to_leader(&[&pair.leader.url, &pair.follower.url]).await;
    }
    pair.leader.until_ready(late).await;
    for program in programs {
        assert_eq!(pair.leader.until_ready(program).await.1, 1);
        assert_eq!(history(&pair.leader, program).await.len(), 1, "nothing moved");
    }
    drop(pair);
    drop(server);
}

#[tokio::test]
async fn a_password_that_is_wrong_is_a_clear_error_that_does_not_show_it() {
    let network = Network::new().await;
    let url = shared().await.replace("postgres@", "nobody:secret@");
    let database = Database::Postgres(url.parse().unwrap());
    let error = aleph_scheduler::run(Config { database, ..network.config() }, |_| (), Default::default()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("nobody") && !error.contains("secret"), "{error}");
}
