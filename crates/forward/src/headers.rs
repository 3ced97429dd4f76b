//! What of a message's headers concerns one connection, and what the next one needs instead.

use http::Version;
use http::header::{CONNECTION, COOKIE, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};

/// Headers that concern one connection only (RFC 9110, 7.6.1). `Trailer` is not among them: it tells which trailers come.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// HTTP/2 without TLS, asked for by an upgrade: nobody does it any more but who wants to get past a proxy (RFC 9113, 3.1).
const H2C: &str = "h2c";

/// The protocol that a request wants to switch to.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let protocols = protocol.to_str().ok()?.split(',');
    let is_h2c = protocols.map(str::trim).any(|name| name.eq_ignore_ascii_case(H2C));
    (!is_h2c && has_token(headers, &CONNECTION, "upgrade")).then(|| protocol.clone())
}

/// Makes the headers of a request those of the connection to whoever answers it.
pub(crate) fn pass_request(headers: &mut HeaderMap, version: Version, upgrade: Option<HeaderValue>) {
    let takes_trailers = headers.contains_key(TE) && has_token(headers, &TE, "trailers");
    strip_hop_by_hop(headers);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    if version == Version::HTTP_2 {
        join_cookies(headers);
    }
}

pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named = named.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
        // They say nothing about one connection, whatever a client writes: without them the message would be another, or nobody
        // would know who sent it.
        let named: Vec<HeaderName> = named.filter(|name| !is_of_the_message(name)).collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn is_of_the_message(name: &HeaderName) -> bool {
    // Gateways have written the latter two before this, for the program and for each other.
    let written_by_gateways = ["x-forwarded-", "aleph-"].iter().any(|prefix| name.as_str().starts_with(prefix));
    name == http::header::HOST || name == http::header::CONTENT_LENGTH || written_by_gateways
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| {
        // A token may have parameters: `trailers;q=0.5`.
        value.split(';').next().is_some_and(|value| value.trim().eq_ignore_ascii_case(token))
    })
}

/// HTTP/2 lets clients send each cookie by itself, HTTP/1.1 does not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut all = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (all.next(), all.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(all) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(value.as_bytes());
    }
    let joined = HeaderValue::from_bytes(&joined).expect("values of headers with '; ' between them are one");
    headers.insert(COOKIE, joined);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    fn passed(version: Version, lines: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = headers(lines);
        let upgrade = upgrade_of(&headers);
        pass_request(&mut headers, version, upgrade);
        let lines = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        in_order(lines)
    }

    fn pairs(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        in_order(lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn in_order(lines: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    }

    #[test]
    fn headers_of_one_connection_stay_there() {
        let lines = [("connection", "close, X-Mine"), ("x-mine", "1"), ("keep-alive", "5"), ("x-other", "2")];
        assert_eq!(passed(Version::HTTP_11, &lines), pairs(&[("x-other", "2")]));
    }

    #[test]
    fn nobody_strips_what_the_message_is() {
        let lines = [("connection", "host, content-length"), ("host", "a"), ("content-length", "3")];
        assert_eq!(passed(Version::HTTP_11, &lines), pairs(&[("host", "a"), ("content-length", "3")]));
        let lines = [
            ("connection", "X-Forwarded-For, aleph-program-epoch, aleph-gateway-forwarded"),
            ("x-forwarded-for", "10.0.0.1"),
            ("aleph-program-epoch", "3"),
            ("aleph-gateway-forwarded", "1"),
        ];
        assert_eq!(passed(Version::HTTP_11, &lines), pairs(&lines[1..]));
    }

    #[test]
    fn who_takes_trailers_says_so_on_the_next_connection_too() {
        let lines = [("te", "gzip, trailers;q=0.5"), ("trailer", "x-sum")];
        let expected = pairs(&[("trailer", "x-sum"), ("te", "trailers"), ("connection", "te")]);
        assert_eq!(passed(Version::HTTP_11, &lines), expected);
    }

    #[test]
    fn upgrades_need_both_headers_and_are_none_to_http2() {
        assert_eq!(upgrade_of(&headers(&[("upgrade", "websocket")])), None);
        let websocket = headers(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]);
        assert_eq!(upgrade_of(&websocket).unwrap(), "websocket");
        let h2c = [("upgrade", "H2C"), ("connection", "upgrade, http2-settings"), ("http2-settings", "AAM")];
        assert_eq!(upgrade_of(&headers(&h2c)), None);
        assert_eq!(passed(Version::HTTP_11, &h2c), []);
    }

    #[test]
    fn cookies_of_http2_become_one_line() {
        let lines = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
        assert_eq!(passed(Version::HTTP_2, &lines), pairs(&[("cookie", "a=1; b=2; c=3")]));
        assert_eq!(passed(Version::HTTP_2, &lines[..1]), pairs(&[("cookie", "a=1")]));
    }
}
