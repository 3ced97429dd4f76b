//! The shapes of the read API.

use protocol::api::scheduler::{
    Allocation, AssignmentRecord, NodeList, NodeRecord, NodeStatus, Page, Plan, Stats, VmRecord,
};
use protocol::client::http_client;

use crate::network::{Network, until};

#[tokio::test]
async fn v0_has_the_shapes_that_clients_know() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000]).await;
    let program = network.publish(500);
    scheduler.until_ready(program).await;
    let allocation: Allocation = scheduler.get(&format!("/api/v0/allocation/{program}")).await;
    assert_eq!((allocation.vm_hash, allocation.vm_type.as_str()), (program, "persistent_program"));
    assert_eq!((allocation.node.node_id, allocation.node.url.as_str()), (nodes[0].id, nodes[0].url.as_str()));
    assert_eq!(allocation.epoch.get(), 1);
    assert!(allocation.url.unwrap().contains(&program.host_label()));
    let plan: Plan = scheduler.get("/api/v0/plan").await;
    assert_eq!(plan.plan[&nodes[0].id].persistent_vms, [program]);
    let list: NodeList = scheduler.get("/api/v0/nodes").await;
    assert_eq!(list.nodes[0].node_id, nodes[0].id);
}

#[tokio::test]
async fn unknown_and_malformed_names_are_errors_with_sentences() {
    let (network, scheduler, _nodes) = Network::with_nodes(&[100]).await;
    let nothing = "ab".repeat(32);
    for path in ["/api/v0/allocation/", "/api/v1/vms/", "/api/v1/nodes/"] {
        let (status, body) = scheduler.error(&format!("{path}{nothing}")).await;
        assert_eq!((status, body["code"].as_str()), (404, Some("not_found")));
        assert!(body["message"].as_str().unwrap().contains(&nothing), "{body}");
        let (status, body) = scheduler.error(&format!("{path}xyz")).await;
        assert_eq!((status, body["code"].as_str()), (400, Some("bad_request")));
        assert!(body["message"].as_str().unwrap().contains("'xyz' is not a hash"), "{body}");
    }
    assert_eq!(scheduler.error("/nowhere").await.0, 404);
    for socket in ["/api/v1/ws", "/api/v1/control"] {
        let (status, body) = scheduler.error(socket).await;
        assert_eq!((status, body["code"].as_str()), (400, Some("bad_request")), "{body}");
    }
    assert_eq!(scheduler.error("/api/v1/vms?page=0").await.0, 400);
    let posted = http_client().post(format!("{}/api/v1/vms", scheduler.url)).send().await.unwrap();
    assert_eq!(posted.status().as_u16(), 405);
    let unplaced = network.publish(500);
    scheduler.until_unplaced(unplaced).await;
    let (status, body) = scheduler.error(&format!("/api/v0/allocation/{unplaced}")).await;
    assert_eq!(status, 404);
    assert!(body["message"].as_str().unwrap().contains("too little memory"), "{body}");
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let (network, scheduler, nodes) = Network::with_nodes(&[1000, 1500]).await;
    let programs: Vec<_> = (0..4).map(|number| network.publish(600 + number)).collect();
    for program in &programs[..3] {
        scheduler.until_ready(*program).await;
    }
    scheduler.until_unplaced(programs[3]).await;
    let page: Page<VmRecord> = scheduler.get("/api/v1/vms?page_size=3&page=2").await;
    assert_eq!((page.items.len(), page.pagination.total_items, page.pagination.total_pages), (1, 4, 2));
    let page: Page<VmRecord> = scheduler.get("/api/v1/vms?page_size=9999").await;
    assert_eq!(page.pagination.page_size, 200);
    let owner = network.owner.address();
    let prefix = programs[0].to_string()[..9].to_uppercase();
    for (query, expected) in [
        (format!("owner={owner}"), 4),
        (format!("sender={}", owner.canonical()), 4),
        ("owner=0x01".to_owned(), 0),
        (format!("vm_hash={prefix}"), 1),
        ("status=unschedulable".to_owned(), 1),
        ("status=dispatched&vm_type=persistent_program".to_owned(), 3),
        ("vm_type=instance".to_owned(), 0),
    ] {
        let page: Page<VmRecord> = scheduler.get(&format!("/api/v1/vms?{query}")).await;
        assert_eq!(page.items.len(), expected, "{query}");
    }
    assert_eq!(scheduler.client.vms(owner).await.unwrap().len(), 4);
    for (query, expected) in
        [(format!("hash={}", nodes[0].id), 1), ("status=Healthy".into(), 2), ("status=Unreachable".to_owned(), 0)]
    {
        let page: Page<NodeRecord> = scheduler.get(&format!("/api/v1/nodes?{query}")).await;
        assert_eq!(page.items.len(), expected, "{query}");
    }
    let node = scheduler.client.node(&nodes[0].id).await.unwrap().unwrap();
    assert_eq!((node.status, node.memory_mb_total), (NodeStatus::Healthy, 1000));
    assert_eq!((node.vm_count, node.software.as_deref()), (1, Some("fake/1")));
    let stats: Stats = scheduler.get("/api/v1/stats").await;
    assert_eq!((stats.total_nodes, stats.healthy_nodes, stats.total_vms), (2, 2, 4));
    assert_eq!(stats.vms_by_status["dispatched"], 3);
    assert_eq!((stats.memory_mb_total, stats.vcpus_total - stats.vcpus_available), (2500, 3));
    let history: Page<AssignmentRecord> = scheduler.get(&format!("/api/v1/nodes/{}/history", nodes[1].id)).await;
    assert_eq!(history.items.len(), 2);
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let (network, scheduler, mut nodes) = Network::with_nodes(&[2000]).await;
    let program = network.publish(500);
    scheduler.until_ready(program).await;
    let text = |lines: &'static [&'static str]| {
        let url = format!("{}/metrics", scheduler.url);
        async move {
            until("the metrics say so", async || {
                let text = http_client().get(&url).send().await.unwrap().text().await.unwrap();
                lines.iter().all(|line| text.lines().any(|l| l == *line)).then_some(text)
            })
            .await
        }
    };
    let all = text(&[
        "aleph_scheduler_assignments_total 1",
        "aleph_scheduler_reallocations_total 0",
        "aleph_scheduler_programs{state=\"ready\"} 1",
        "aleph_scheduler_nodes{status=\"healthy\"} 1",
        "aleph_scheduler_message_node_up 1",
        "aleph_scheduler_connections 1",
        "aleph_scheduler_placement_seconds_count 1",
    ])
    .await;
    assert!(all.contains("aleph_scheduler_write_seconds_bucket"), "{all}");
    nodes[0].kill().await;
    text(&["aleph_scheduler_ended_total{cause=\"node_silent\"} 1", "aleph_scheduler_connections 0"]).await;
}

#[tokio::test]
async fn browsers_of_any_site_may_read() {
    let (_network, scheduler, _) = Network::with_nodes(&[]).await;
    let url = format!("{}/api/v1/nodes", scheduler.url);
    let response = http_client().get(url).header("Origin", "http://console").send().await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
}
