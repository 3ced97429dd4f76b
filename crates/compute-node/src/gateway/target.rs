//! Which program a request is for: by its host, or by its path.

use http::Uri;
use http::uri::PathAndQuery;
use protocol::ProgramId;

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A program, with the path that it sees.
    Program(ProgramId, PathAndQuery),
    /// `/vm/` with something that is no program's id.
    NotAnId(String),
    /// The node itself.
    Node,
}

/// The path under which programs are reached without a host name of their own.
const PROGRAM_PATH: &str = "/vm/";

/// Reads host and path. A program's host wins over its path, because the program may have a path `/vm/` of its own, unless
/// another gateway sent the request (`forwarded`), which always names the program in the path.
pub(crate) fn target(host: Option<&str>, uri: &Uri, forwarded: bool) -> Target {
    if !forwarded && let Some(program) = host.and_then(program_of_host) {
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        return Target::Program(program, path);
    }
    match uri.path().strip_prefix(PROGRAM_PATH) {
        Some(rest) => {
            let id = rest.split('/').next().unwrap_or_default();
            match id.parse() {
                Ok(program) => Target::Program(program, path_below(uri, PROGRAM_PATH.len() + id.len())),
                Err(_) => Target::NotAnId(id.to_owned()),
            }
        }
        None => Target::Node,
    }
}

/// The program whose label the host begins with, as `<label>.example.org:8080`.
fn program_of_host(host: &str) -> Option<ProgramId> {
    let (label, _) = host.split_once('.')?;
    ProgramId::from_host_label(label).ok()
}

/// Path and query as they were sent, without their first bytes.
fn path_below(uri: &Uri, prefix: usize) -> PathAndQuery {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = &whole[prefix..];
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    rest.parse().expect("the end of a path is a path")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> ProgramId {
        ProgramId::from_bytes([9; 32])
    }

    fn by(host: Option<&str>, uri: &str, forwarded: bool) -> Target {
        target(host, &uri.parse().unwrap(), forwarded)
    }

    fn to(path: &str) -> Target {
        Target::Program(program(), path.parse().unwrap())
    }

    #[test]
    fn hosts_keep_the_path_as_it_is() {
        let host = format!("{}.localhost:4026", program().host_label());
        assert_eq!(by(Some(&host), "/a%2Fb/../c?x=%20&y", false), to("/a%2Fb/../c?x=%20&y"));
        assert_eq!(by(Some(&host), "/vm/x", false), to("/vm/x"));
        assert_eq!(by(Some(&host.to_uppercase()), "/", false), to("/"));
    }

    #[test]
    fn paths_lose_nothing_but_the_program() {
        let id = program();
        assert_eq!(by(Some("localhost"), &format!("/vm/{id}"), false), to("/"));
        assert_eq!(by(None, &format!("/vm/{id}/a%20b//c?q=1"), false), to("/a%20b//c?q=1"));
        assert_eq!(by(None, &format!("/vm/{id}?q=1"), false), to("/?q=1"));
        assert_eq!(by(None, "/vm/abc/x", false), Target::NotAnId("abc".into()));
    }

    #[test]
    fn other_gateways_name_the_program_in_the_path() {
        let host = format!("{}.localhost", ProgramId::from_bytes([1; 32]).host_label());
        assert_eq!(by(Some(&host), &format!("/vm/{}/x", program()), true), to("/x"));
    }

    #[test]
    fn everything_else_is_the_nodes() {
        for (host, path) in [("localhost", "/about/usage/system"), ("www.example.org", "/"), ("", "/vm")] {
            assert_eq!(by(Some(host), path, false), Target::Node);
        }
    }
}
