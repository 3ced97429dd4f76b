//! What of requests has to be certain before they are passed on: whom they are for. Two that read a request differently are what
//! smuggling is made of.

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Version};

use super::reply::Refusal;

/// The host that a request of HTTP/1.0 without one gets.
const NO_HOST: HeaderValue = HeaderValue::from_static("localhost");

/// Checks a request and makes its `Host` the one that it is for, whichever way it says that (RFC 9112, 3.2; RFC 9113, 8.3.1).
///
/// # Errors
/// When it cannot be told for certain, or is not for a gateway at all.
pub(crate) fn admit<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::NoTunnels);
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return Err(Refusal::UnknownCoding);
    }
    let path = request.uri().path();
    if !(path.starts_with('/') || path == "*" && request.method() == Method::OPTIONS) {
        return bad("the path of a request begins with '/'");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return bad("a request has one Host header");
    }
    if host.is_some_and(|host| !host.as_bytes().iter().all(|byte| belongs_to_a_host(*byte))) {
        return bad("the Host header is no host");
    }
    let host = match (request.uri().authority(), host) {
        (None, Some(_)) => return Ok(()),
        (None, None) if request.version() == Version::HTTP_10 => NO_HOST,
        (None, None) => return bad("a request needs a Host header"),
        (Some(authority), _) if authority.as_str().contains('@') => {
            return bad("the address of a request has no user name");
        }
        (Some(authority), Some(host))
            if request.version() == Version::HTTP_2
                && !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return bad("Host and :authority differ");
        }
        (Some(authority), _) => match HeaderValue::from_str(authority.as_str()) {
            Ok(host) => host,
            Err(_) => return bad("the address of a request names no host"),
        },
    };
    request.headers_mut().insert(HOST, host);
    Ok(())
}

fn bad(why: &'static str) -> Result<(), Refusal> {
    Err(Refusal::BadRequest(why.to_owned()))
}

/// Letters of host names, addresses and ports (RFC 3986, 3.2.2), without `@`.
fn belongs_to_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(&byte)
}

/// The host that an admitted request is for.
pub(crate) fn host_of<B>(request: &Request<B>) -> Option<&str> {
    request.headers().get(HOST).and_then(|host| host.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host of an admitted request, or the status of the refusal.
    fn admitted(method: &str, version: Version, uri: &str, hosts: &[&str]) -> Result<String, u16> {
        let mut request = Request::builder().method(method).version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(()).unwrap();
        admit(&mut request).map_err(|refusal| refusal.respond().status().as_u16())?;
        Ok(host_of(&request).unwrap().to_owned())
    }

    #[test]
    fn a_request_is_for_one_host() {
        let http11 = |uri, hosts: &[&str]| admitted("GET", Version::HTTP_11, uri, hosts);
        assert_eq!(http11("/", &["a.example:80"]), Ok("a.example:80".to_owned()));
        assert_eq!(http11("/", &["[::1]:80"]), Ok("[::1]:80".to_owned()));
        assert_eq!(http11("/", &[]), Err(400));
        assert_eq!(http11("/", &["a", "a"]), Err(400));
        for host in ["a b", "a@b", "a/b", "a\tb"] {
            assert_eq!(http11("/", &[host]), Err(400), "{host}");
        }
        assert_eq!(admitted("GET", Version::HTTP_10, "/", &[]), Ok("localhost".to_owned()));
    }

    #[test]
    fn the_address_counts_more_than_the_header() {
        assert_eq!(admitted("GET", Version::HTTP_11, "http://a:80/x", &["b"]), Ok("a:80".to_owned()));
        assert_eq!(admitted("GET", Version::HTTP_11, "http://u@a/x", &["a"]), Err(400));
        assert_eq!(admitted("GET", Version::HTTP_2, "http://a/x", &[]), Ok("a".to_owned()));
        assert_eq!(admitted("GET", Version::HTTP_2, "http://a/x", &["A"]), Ok("a".to_owned()));
        assert_eq!(admitted("GET", Version::HTTP_2, "http://a/x", &["b"]), Err(400));
    }

    #[test]
    fn a_gateway_is_no_tunnel() {
        assert_eq!(admitted("CONNECT", Version::HTTP_11, "a:80", &["a:80"]), Err(405));
        assert_eq!(admitted("OPTIONS", Version::HTTP_11, "*", &["a"]), Ok("a".to_owned()));
        assert_eq!(admitted("GET", Version::HTTP_11, "*", &["a"]), Err(400));
    }
}
