//! The gateway: takes requests for a program and finds it, wherever it runs.
//!
//! ```text
//!  request ─▶ which program? ─▶ on this node? ─▶ its socket
//!                 │                  │ no
//!                 │ on demand        ▼
//!                 ▼             another node has it ready? ─▶ that node, with the epoch
//!            a node that has         │ no: it starts or moves
//!            it, or room             ▼
//!            (on_demand.rs)     wait, but not for ever, then 503
//! ```
//! A persistent program never runs on demand as well: exactly one copy is the promise.

mod admission;
mod attempts;
mod nodes;
mod on_demand;
mod reply;
mod routes;
mod target;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use forward::{Limits, Upload};
use http::Uri;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use lease::clock;
use protocol::api::scheduler::ProgramState;
use protocol::{Epoch, ProgramId};
use tokio::time::Instant;

pub(crate) use self::admission::{admit, host_of};
use self::attempts::Attempts;
use self::nodes::Nodes;
pub(crate) use self::on_demand::{READY_PATH, readiness, waits};
use self::reply::{BROKEN, GATEWAY_ANSWER, NOT_HERE, UNREACHABLE};
pub(crate) use self::reply::{Refusal, Reply, ReplyBody};
use self::routes::Route;
pub(crate) use self::routes::Routes;
pub(crate) use self::target::{Target, target};
use crate::agent::AgentHandle;
use crate::core::whereabouts::Whereabouts;
use crate::metrics::{Metrics, Served};
use crate::programs::catalog::{Catalog, Found, Lookup, Program};
use crate::programs::endpoint::Visit;
use crate::programs::launch;

/// Set by a gateway on what it sends to another node, which then answers itself or says that it cannot.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("aleph-gateway-forwarded");
/// The epoch that a gateway believes to be the current one.
const EPOCH: HeaderName = HeaderName::from_static("aleph-program-epoch");
/// Which program answered; as upstream.
const ITEM_HASH: HeaderName = HeaderName::from_static("aleph-program-itemhash");

/// A request on its way.
pub(crate) type Request = http::Request<Upload<Incoming>>;

/// A gateway. With an agent its own node is one of those that run programs on demand.
pub(crate) struct Gateway {
    catalog: Arc<Catalog>,
    routes: Arc<Routes>,
    agent: Option<AgentHandle>,
    nodes: Nodes,
    /// Where copies on demand answered.
    whereabouts: Mutex<Whereabouts>,
    hold: Duration,
    client_idle: Duration,
    metrics: Arc<Metrics>,
}

impl Gateway {
    /// `hold` is how long a request waits for a program that starts or moves, `client_idle` how long a client may send
    /// nothing of a body.
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        routes: Arc<Routes>,
        agent: Option<AgentHandle>,
        (hold, client_idle): (Duration, Duration),
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (nodes, whereabouts) = (Nodes::default(), Mutex::default());
        Arc::new(Self { catalog, routes, agent, nodes, whereabouts, hold, client_idle, metrics })
    }

    /// Answers a request for a program.
    pub(crate) async fn answer(&self, target: Target, request: Request) -> Reply {
        let began = Instant::now();
        let (program, path) = match target {
            Target::Program(program, path) => (program, path),
            Target::NotAnId(text) => return self.refuse(&Refusal::NotAnId(text)),
            Target::Node => unreachable!("requests for the node do not come here"),
        };
        match self.serve(program, path, request).await {
            Ok((reply, served)) => {
                self.metrics.answered(program, reply.status().as_u16(), served, began.elapsed());
                reply
            }
            Err(refusal) => {
                let reply = self.refuse(&refusal);
                if refusal.is_about_a_program_in_force() {
                    self.metrics.not_answered(program, reply.status().as_u16(), began.elapsed());
                }
                reply
            }
        }
    }

    /// Says no.
    pub(crate) fn refuse(&self, refusal: &Refusal) -> Reply {
        self.metrics.refused(refusal.code());
        refusal.respond()
    }

    async fn serve(&self, id: ProgramId, path: PathAndQuery, request: Request) -> Result<(Reply, Served), Refusal> {
        // The quick way: it answers on this node. Its message was checked when it started.
        if let Some(visit) = self.enter(id).await {
            let served = if visit.was_frozen() { Served::Frozen } else { Served::Warm };
            return Ok((self.pass_on(visit, path, request).await?, served));
        }
        let forwarded = request.headers().contains_key(FORWARDED);
        let program = self.program(id).await?;
        if program.content.is_persistent() {
            return self.serve_persistent(&program, path, request, forwarded).await;
        }
        if !program.content.on.http {
            return Err(Refusal::NotOnRequests(id));
        }
        match &self.agent {
            Some(agent) if forwarded => self.serve_here(agent, &program, path, request).await,
            _ => self.serve_somewhere(&program, path, request).await,
        }
    }

    fn whereabouts(&self) -> MutexGuard<'_, Whereabouts> {
        self.whereabouts.lock().expect("no code panics while it holds this lock")
    }

    async fn enter(&self, program: ProgramId) -> Option<Visit> {
        self.agent.as_ref()?.enter(program).await
    }

    async fn program(&self, id: ProgramId) -> Result<Arc<Program>, Refusal> {
        found(id, self.catalog.lookup(id).await)
    }

    /// Sends the request to the node that has the program, and waits for one while it starts or moves.
    async fn serve_persistent(
        &self,
        program: &Program,
        path: PathAndQuery,
        request: Request,
        forwarded: bool,
    ) -> Result<(Reply, Served), Refusal> {
        if forwarded {
            return Err(Refusal::NotHere);
        }
        let give_up = Instant::now() + self.hold;
        let mut request = Attempts::new(request);
        loop {
            if let Some(visit) = self.enter(program.id).await {
                let moved = || Refusal::NotRunning("it moved while the request was sent".to_owned());
                let reply = self.pass_on(visit, path, request.next().ok_or_else(moved)?).await?;
                return Ok((reply, self.metrics.last_start(program.id)));
            }
            let route = self.routes.find(program.id).await;
            let why = match route {
                Ok(Some(route)) => match self.try_route(program, &path, &mut request, &route).await {
                    Tried::Answered(response) => return Ok((response?, Served::Elsewhere)),
                    Tried::NotNow(why) => why,
                    Tried::NotSoon(why) => return Err(Refusal::NotRunning(why)),
                },
                Ok(None) => "it has not been placed yet".to_owned(),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= give_up {
                return Err(Refusal::NotRunning(why));
            }
            tokio::select! {
                refusal = self.is_over(program.id) => return Err(refusal),
                _ = tokio::time::timeout_at(give_up, self.routes.change()) => {}
            }
        }
    }

    /// Ends if nobody runs the program because it is over: what is remembered of it can be older than that.
    async fn is_over(&self, id: ProgramId) -> Refusal {
        match found(id, self.catalog.lookup_again(id).await) {
            Err(refusal) => refusal,
            Ok(_) => std::future::pending().await,
        }
    }

    async fn try_route(
        &self,
        program: &Program,
        path: &PathAndQuery,
        request: &mut Attempts<Incoming>,
        route: &Route,
    ) -> Tried {
        let reason = || route.reason.clone().unwrap_or_else(|| format!("it is {}", route.state.as_str()));
        match (route.state, &route.node_url) {
            (ProgramState::Ready, Some(url)) => {
                let Some(attempt) = request.next() else {
                    return Tried::NotSoon("it moved while the request was sent".to_owned());
                };
                let limits = self.limits(launch::request_limit(&program.content), Some(route.epoch));
                let result = self.send_to_node(url, program.id, path, attempt, Some(route.epoch), limits).await;
                match &result {
                    // The route is old, or the node just died: somebody knows better soon.
                    Ok(response) if is_answered_with(response, NOT_HERE) => {}
                    Ok(response) if is_answered_with(response, UNREACHABLE) => {}
                    Err(Refusal::Unreachable(_)) => {}
                    // It just died, but what the request asks for may have been done.
                    Ok(response) if is_answered_with(response, BROKEN) && request.may_repeat() => {}
                    Err(Refusal::Broken(_)) if request.may_repeat() => {}
                    _ => return Tried::Answered(result),
                }
                self.routes.doubt(program.id, route);
                Tried::NotNow("its node does not answer".to_owned())
            }
            (ProgramState::Failing, _) if !route.is_fault_of_node => Tried::NotSoon(reason()),
            (ProgramState::Unplaced, _) if route.reason.as_deref().is_some_and(will_not_fit_soon) => {
                Tried::NotSoon(reason())
            }
            _ => Tried::NotNow(reason()),
        }
    }

    /// Passes an owner's request about a program (`/control/machine/…`) to the node that has it.
    pub(crate) async fn pass_to_its_node(&self, id: ProgramId, request: Request) -> Reply {
        let result = async {
            let program = self.program(id).await?;
            let url = if program.content.is_persistent() {
                let route = self.routes.find(id).await.map_err(|e| Refusal::NobodyToAsk(e.to_string()))?;
                route
                    .and_then(|route| route.node_url)
                    .ok_or_else(|| Refusal::NotRunning("it has no node now".to_owned()))?
            } else {
                let nodes = self.routes.healthy_nodes().await.map_err(|e| Refusal::NobodyToAsk(e.to_string()))?;
                let mut nodes = nodes.to_vec();
                self.whereabouts().order(clock::now(), id, &mut nodes, |(node, _)| *node);
                let first = nodes.into_iter().next();
                first.ok_or_else(|| Refusal::NobodyToAsk("no compute node is connected".to_owned()))?.1
            };
            let base = base_uri(&url)?;
            let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
            let limits = Limits { head: self.hold, whole: None, client: self.client_idle };
            let response = forward::forward(&self.nodes.pool(&base), request, path, limits, ()).await?;
            Ok(response.map(ReplyBody::Node))
        };
        result.await.unwrap_or_else(|refusal: Refusal| refusal.respond())
    }

    async fn send_to_node(
        &self,
        url: &str,
        program: ProgramId,
        path: &PathAndQuery,
        mut request: Request,
        epoch: Option<Epoch>,
        limits: Limits,
    ) -> Result<Reply, Refusal> {
        let base = base_uri(url)?;
        let prefix = base.path().trim_end_matches('/').to_owned();
        let path = format!("{prefix}/vm/{program}{path}").parse().expect("a path below a path is a path");
        let headers = request.headers_mut();
        headers.entry(FORWARDED).or_insert(HeaderValue::from_static("1"));
        if let Some(epoch) = epoch {
            headers.insert(EPOCH, HeaderValue::from(epoch.get()));
        }
        let response = forward::forward(&self.nodes.pool(&base), request, path, limits, ()).await?;
        Ok(response.map(ReplyBody::Node))
    }

    /// Sends a request into a sandbox of this node.
    async fn pass_on(&self, visit: Visit, path: PathAndQuery, mut request: Request) -> Result<Reply, Refusal> {
        let endpoint = visit.endpoint().clone();
        // Whoever believes in another epoch has an old or a newer map than this node.
        let believed = request.headers_mut().remove(EPOCH).and_then(|value| value.to_str().ok()?.parse().ok());
        if believed.is_some_and(|believed: u64| endpoint.epoch != Some(Epoch::new(believed))) {
            return Err(Refusal::NotHere);
        }
        request.headers_mut().remove(FORWARDED);
        let limits = self.limits(endpoint.request_limit, endpoint.epoch);
        let mut response = forward::forward(&endpoint.pool, request, path, limits, visit).await?;
        // Gateways act upon it, and it is not the program's to say.
        response.headers_mut().remove(GATEWAY_ANSWER);
        response.headers_mut().insert(ITEM_HASH, endpoint.item_hash.clone());
        Ok(response.map(ReplyBody::Program))
    }

    /// Answers of persistent programs may go on for ever once they began; those of copies on demand may not.
    fn limits(&self, request_limit: Duration, epoch: Option<Epoch>) -> Limits {
        let whole = epoch.is_none().then_some(request_limit);
        Limits { head: request_limit, whole, client: self.client_idle }
    }
}

/// The program, if it is in force.
pub(crate) fn found(id: ProgramId, lookup: Found) -> Result<Arc<Program>, Refusal> {
    match lookup {
        Ok(Lookup::Found(program)) => Ok(program),
        Ok(Lookup::Unknown) => Err(Refusal::Unknown(id)),
        Ok(Lookup::Pending) => Err(Refusal::NotRunning("its message is not processed yet".to_owned())),
        Ok(Lookup::Over(status)) => Err(Refusal::Over(id, status)),
        Ok(Lookup::Invalid(why)) => Err(Refusal::Invalid(why)),
        Err(error) => Err(Refusal::NobodyToAsk(error.to_string())),
    }
}

/// A node's registered address.
fn base_uri(url: &str) -> Result<Uri, Refusal> {
    let base: Option<Uri> = url.parse().ok();
    base.filter(|base| base.authority().is_some() && base.scheme().is_some())
        .ok_or_else(|| Refusal::Broken(format!("the node is registered with the address '{url}', which is no URL")))
}

/// Whether the scheduler's reason is one that does not pass by itself, as nodes do that are not heard of for a moment.
fn will_not_fit_soon(reason: &str) -> bool {
    reason.starts_with("no node fits") && !reason.contains("not heard of")
}

/// What became of a try.
enum Tried {
    Answered(Result<Reply, Refusal>),
    /// It may work in a moment.
    NotNow(String),
    /// It will not work soon.
    NotSoon(String),
}

/// Whether a gateway answered with this code itself.
fn is_answered_with(response: &Reply, code: &str) -> bool {
    response.headers().get(GATEWAY_ANSWER).is_some_and(|answered| answered == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_wait_for_nodes_that_are_silent_and_not_for_bigger_ones() {
        assert!(will_not_fit_soon(
            "no node fits: 2 nodes, 2 with too little memory (needs 4096 MiB, most free 1024 MiB)"
        ));
        assert!(!will_not_fit_soon("no node fits: 2 nodes, 1 not heard of, 1 draining"));
        assert!(!will_not_fit_soon("it is being placed"));
    }
}
