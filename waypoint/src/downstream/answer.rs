//! Answers of the waypoint itself. All of them say why, in `x-ambit-reason`.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::deadline::Deadline;
use super::response::ResponseBody;
use crate::http::headers::{OVERLOADED, REASON};
use crate::observe::Flag;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a request is not passed on, or its answer not back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) status: StatusCode,
    pub(crate) flag: Flag,
    pub(crate) reason: String,
}

impl Rejection {
    pub(crate) fn new(status: StatusCode, flag: Flag, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { status, flag, reason }
    }

    /// The waypoint has as much to do as it takes on, or the caller more of it than its share.
    pub(crate) fn overloaded() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Flag::Overloaded, OVERLOADED)
    }

    /// There is no response at its deadline.
    pub(super) fn late(deadline: &Deadline) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, Flag::Timeout, deadline.reason())
    }

    /// Malformed: nothing that is passed on.
    pub(crate) fn bad_request(reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Flag::BadRequest, reason.to_string())
    }

    /// The answer: for a call of gRPC trailers alone, else a line of text.
    pub(crate) fn answer(&self, grpc: bool) -> Response<ResponseBody> {
        let reason = header_value(&self.reason);
        let mut response = if grpc {
            let mut response = Response::new(ResponseBody::empty());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(self.status)));
            headers.insert(GRPC_MESSAGE, grpc_message(&self.reason));
            response
        } else {
            let text = Bytes::from(format!("{}\n", self.reason));
            let mut response = Response::new(ResponseBody::text(text));
            *response.status_mut() = self.status;
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, plain);
            response
        };
        response.headers_mut().insert(REASON, reason);
        response
    }
}

/// As gRPC maps HTTP's: PERMISSION_DENIED, DEADLINE_EXCEEDED, INTERNAL for what is malformed, UNIMPLEMENTED for what no route matches, else UNAVAILABLE.
fn grpc_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => "7",
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => "4",
        StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED => "13",
        StatusCode::NOT_FOUND => "12",
        _ => "14",
    }
}

/// Percent-encoded where gRPC's specification asks for it.
fn grpc_message(reason: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(reason.len());
    for byte in reason.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    header_value(&encoded)
}

/// Whatever a field cannot have becomes `?`.
fn header_value(text: &str) -> HeaderValue {
    let visible: Vec<u8> = text
        .bytes()
        .map(|byte| if matches!(byte, b' '..=b'~') { byte } else { b'?' })
        .collect();
    HeaderValue::from_bytes(&visible).unwrap_or(HeaderValue::from_static("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_in_text_and_header() {
        let rejection = Rejection::new(
            StatusCode::FORBIDDEN,
            Flag::Denied,
            "denied by shop/orders/\u{e4}",
        );
        let answer = rejection.answer(false);
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert_eq!(answer.headers()[REASON], "denied by shop/orders/??");
    }

    #[test]
    fn grpc_is_answered_with_trailers_alone() {
        for (status, code) in [
            (StatusCode::FORBIDDEN, "7"),
            (StatusCode::SERVICE_UNAVAILABLE, "14"),
            (StatusCode::GATEWAY_TIMEOUT, "4"),
        ] {
            let answer = Rejection::new(status, Flag::None, "100% \u{e4}").answer(true);
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["grpc-status"], code);
            assert_eq!(answer.headers()["grpc-message"], "100%25 %C3%A4");
            assert!(http_body::Body::is_end_stream(answer.body()));
        }
    }
}
