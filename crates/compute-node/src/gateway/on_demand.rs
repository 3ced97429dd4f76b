//! Requests for copies on demand: which node runs them.
//!
//! ```text
//!  request ─▶ nodes in the program's order, the one where it is warm first (core/whereabouts.rs)
//!               │
//!               ├─▶ each: has it, or room for it now ─▶ it answers
//!               │ none
//!               └─▶ the first that is there: waits for room, but not for ever
//! ```
//! A node that is asked by a gateway answers itself and asks nobody. A request that can be sent only once is not sent before the
//! node said that it has a copy.

use forward::{Limits, Upload};
use http::header::{HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use hyper::body::Incoming;
use lease::clock;
use protocol::{NodeId, ProgramId};

use super::attempts::Attempts;
use super::reply::{BROKEN, GATEWAY_ANSWER, NODE_FAULT, UNREACHABLE};
use super::{FORWARDED, Gateway, Refusal, Reply, ReplyBody, Request, base_uri, is_answered_with};
use crate::agent::AgentHandle;
use crate::metrics::Served;
use crate::programs::catalog::Program;
use crate::programs::launch;

/// What [`FORWARDED`] says when the request does not wait for room: another node may have some.
const AT_ONCE: HeaderValue = HeaderValue::from_static("at-once");

/// What it says otherwise.
const WAITS: HeaderValue = HeaderValue::from_static("1");

/// Where a node is asked to have a copy of a program ready: `POST`, with the program's id behind it.
pub(crate) const READY_PATH: &str = "/control/on-demand/";

/// A node that could run a copy.
enum Place<'a> {
    /// This one. It may not know its id yet.
    Here(&'a AgentHandle, Option<NodeId>),
    There(NodeId, String),
}

impl Place<'_> {
    fn id(&self) -> Option<NodeId> {
        match self {
            Self::Here(_, id) => *id,
            Self::There(id, _) => Some(*id),
        }
    }
}

/// What became of a try.
enum Tried {
    Answered(Result<(Reply, Served), Refusal>),
    /// It has no room now, or something else that will pass.
    Full(Result<Reply, Refusal>),
    /// It is not there.
    Gone(Refusal),
}

/// A request, and what is needed to pass it on.
struct Passed<'a> {
    program: &'a Program,
    path: PathAndQuery,
    request: Attempts<Incoming>,
    repeatable: bool,
}

/// Whether a gateway's request waits for room, as [`FORWARDED`] says.
pub(crate) fn waits(headers: &HeaderMap) -> bool {
    headers.get(FORWARDED) != Some(&AT_ONCE)
}

impl Gateway {
    /// Has this node answer, and no other.
    pub(super) async fn serve_here(
        &self,
        agent: &AgentHandle,
        program: &Program,
        path: PathAndQuery,
        request: Request,
    ) -> Result<(Reply, Served), Refusal> {
        let visit = agent.enter_on_demand(program, waits(request.headers())).await.map_err(Refusal::Failed)?;
        Ok((self.pass_on(visit, path, request).await?, self.metrics.last_start(program.id)))
    }

    /// Has some node answer: one that has a copy or room for one, if there is such a node.
    pub(super) async fn serve_somewhere(
        &self,
        program: &Program,
        path: PathAndQuery,
        request: Request,
    ) -> Result<(Reply, Served), Refusal> {
        let places = self.places(program.id).await?;
        let request = Attempts::new(request);
        let mut passed = Passed { program, path, repeatable: request.is_repeatable(), request };
        let mut last = Err(Refusal::NobodyToAsk("no compute node is connected".to_owned()));
        let mut full = None;
        // With one node there is nobody else who could have room.
        let is_only = places.len() == 1;
        for place in &places {
            match self.try_place(place, &mut passed, is_only).await {
                Tried::Answered(result) => return result,
                Tried::Gone(refusal) if full.is_none() => last = Err(refusal),
                Tried::Gone(_) => {}
                Tried::Full(answer) if full.is_none() => (full, last) = (Some(place), answer),
                Tried::Full(_) => {}
            }
        }
        if !is_only && let Some(place) = full {
            match self.try_place(place, &mut passed, true).await {
                Tried::Answered(result) => return result,
                Tried::Full(answer) => last = answer,
                Tried::Gone(refusal) => last = Err(refusal),
            }
        }
        Ok((last?, Served::Elsewhere))
    }

    /// The nodes that could run a copy, in the order in which they are asked. A gateway that runs programs is one of them, also
    /// when nobody says which there are.
    async fn places(&self, program: ProgramId) -> Result<Vec<Place<'_>>, Refusal> {
        let nodes = self.routes.healthy_nodes().await;
        let mut here = self.agent.as_ref().map(|agent| Place::Here(agent, agent.node()));
        let mut known = match nodes {
            Ok(nodes) => nodes.to_vec(),
            Err(_) if here.is_some() => Vec::new(),
            Err(error) => return Err(Refusal::NobodyToAsk(error.to_string())),
        };
        let mut places = Vec::with_capacity(known.len() + 1);
        self.whereabouts().order(clock::now(), program, &mut known, |(node, _)| *node);
        for (node, url) in known {
            match here.take_if(|here| here.id() == Some(node)) {
                Some(here) => places.push(here),
                None => places.push(Place::There(node, url)),
            }
        }
        // It is not heard of by the scheduler, or drained: others first.
        places.extend(here);
        Ok(places)
    }

    async fn try_place(&self, place: &Place<'_>, passed: &mut Passed<'_>, waits: bool) -> Tried {
        let program = passed.program.id;
        let tried = match place {
            Place::Here(agent, _) => self.try_here(agent, passed, waits).await,
            Place::There(node, url) => self.try_there(*node, url, passed, waits).await,
        };
        if let Some(node) = place.id() {
            let mut whereabouts = self.whereabouts();
            match &tried {
                Tried::Answered(Ok((reply, _))) if !reply.headers().contains_key(GATEWAY_ANSWER) => {
                    whereabouts.answered(clock::now(), program, node);
                }
                _ => whereabouts.did_not(program, node),
            }
        }
        tried
    }

    async fn try_here(&self, agent: &AgentHandle, passed: &mut Passed<'_>, waits: bool) -> Tried {
        let visit = match agent.enter_on_demand(passed.program, waits).await {
            Ok(visit) => visit,
            Err(failure) if failure.kind.is_fault_of_node() => return Tried::Full(Err(Refusal::Failed(failure))),
            Err(failure) => return Tried::Answered(Err(Refusal::Failed(failure))),
        };
        let Some(request) = passed.request.next() else { return Tried::Answered(Err(sent_already())) };
        let reply = self.pass_on(visit, passed.path.clone(), request).await;
        Tried::Answered(reply.map(|reply| (reply, self.metrics.last_start(passed.program.id))))
    }

    async fn try_there(&self, node: NodeId, url: &str, passed: &mut Passed<'_>, waits: bool) -> Tried {
        let program = passed.program;
        // A start may come before the answer.
        let limit = launch::request_limit(&program.content) + self.hold;
        let limits = Limits { head: limit, whole: Some(limit), client: self.client_idle };
        if !passed.repeatable && !self.whereabouts().is_certain(clock::now(), program.id, node) {
            match self.have_ready(url, program.id, waits).await {
                Err(refusal) => return Tried::Gone(refusal),
                Ok(response) if is_answered_with(&response, NODE_FAULT) => return Tried::Full(Ok(response)),
                // The request will be answered so, too; or it is a node that cannot be asked this.
                Ok(_) => {}
            }
        }
        let Some(mut request) = passed.request.next() else { return Tried::Answered(Err(sent_already())) };
        // One that is gone when it is sent had better wait.
        let waits = waits || !passed.repeatable;
        request.headers_mut().insert(FORWARDED, if waits { WAITS } else { AT_ONCE });
        let result = self.send_to_node(url, program.id, &passed.path, request, None, limits).await;
        let again = passed.request.may_repeat();
        match result {
            Ok(response) if is_answered_with(&response, NODE_FAULT) => Tried::Full(Ok(response)),
            // Its copy just died.
            Ok(response) if is_answered_with(&response, UNREACHABLE) && passed.repeatable => Tried::Full(Ok(response)),
            Ok(response) if is_answered_with(&response, BROKEN) && again => Tried::Full(Ok(response)),
            Err(refusal @ Refusal::Unreachable(_)) if passed.repeatable => Tried::Gone(refusal),
            Err(refusal @ Refusal::Broken(_)) if again => Tried::Gone(refusal),
            result => Tried::Answered(result.map(|reply| (reply, Served::Elsewhere))),
        }
    }

    /// Asks a node to have a copy ready.
    async fn have_ready(&self, url: &str, program: ProgramId, waits: bool) -> Result<Reply, Refusal> {
        let base = base_uri(url)?;
        let path = format!("{}{READY_PATH}{program}", base.path().trim_end_matches('/'));
        let path = path.parse().expect("a path below a path is a path");
        let mut request = http::Request::new(Upload::empty());
        *request.method_mut() = Method::POST;
        let host = base.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        request.headers_mut().insert(HOST, host.unwrap_or(HeaderValue::from_static("node")));
        request.headers_mut().insert(FORWARDED, if waits { WAITS } else { AT_ONCE });
        let limits = Limits { head: START_WITHIN, whole: Some(START_WITHIN), client: self.client_idle };
        let response = forward::forward(&self.nodes.pool(&base), request, path, limits, ()).await?;
        Ok(response.map(ReplyBody::Node))
    }
}

/// How long a node may take to have a copy ready. It says no before, usually.
const START_WITHIN: std::time::Duration = std::time::Duration::from_secs(120);

fn sent_already() -> Refusal {
    Refusal::Broken("the node that it was sent to did not take it".to_owned())
}

/// What a node answers that was asked to have a copy ready: nothing, or why it has not.
pub(crate) fn readiness(refusal: Option<&Refusal>) -> Reply {
    refusal.map_or_else(
        || {
            let mut response = http::Response::new(ReplyBody::Own(axum::body::Body::empty()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        },
        Refusal::respond,
    )
}

#[cfg(test)]
#[path = "on_demand_tests.rs"]
mod tests;
