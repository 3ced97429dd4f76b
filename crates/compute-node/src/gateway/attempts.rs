//! A request that may have to be sent to several nodes.

use forward::{Source, Upload};
use http::Request;

/// A request that can be sent more than once, if it has no body. One with a body is sent once: its bytes are gone then.
pub(super) struct Attempts<B> {
    request: Option<Request<Upload<B>>>,
    repeatable: bool,
}

impl<B: Source> Attempts<B> {
    pub(super) fn new(request: Request<Upload<B>>) -> Self {
        let upgrade = request.headers().contains_key(http::header::UPGRADE);
        let repeatable = request.body().is_empty() && !upgrade;
        Self { request: Some(request), repeatable }
    }

    /// The request, if it can be sent once more.
    pub(super) fn next(&mut self) -> Option<Request<Upload<B>>> {
        if !self.repeatable {
            return self.request.take();
        }
        self.request.as_ref().map(forward::without_body)
    }

    /// Whether it can be sent more than once.
    pub(super) fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// Whether it can be sent once more, although somebody may have acted upon it.
    pub(super) fn may_repeat(&self) -> bool {
        self.request.as_ref().is_some_and(forward::may_repeat)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn requests_without_a_body_can_be_sent_again() {
        let request = Request::get("/x").header("a", "b").body(Upload::new(Body::empty())).unwrap();
        let mut request = Attempts::new(request);
        for _ in 0..3 {
            assert_eq!(request.next().unwrap().headers()["a"], "b");
            assert!(request.may_repeat() && request.is_repeatable());
        }
        let mut request = Attempts::new(Request::post("/x").body(Upload::new(Body::from("data"))).unwrap());
        assert!(request.next().is_some() && !request.is_repeatable());
        assert!(request.next().is_none());
    }

    #[test]
    fn what_may_have_been_done_is_not_done_twice() {
        let mut request = Attempts::new(Request::post("/x").body(Upload::new(Body::empty())).unwrap());
        assert!(request.next().is_some());
        assert!(!request.may_repeat());
        // It can be, if it is certain that nothing was done.
        assert!(request.next().is_some());
    }
}
