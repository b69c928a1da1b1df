//! Helpers for single header fields.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Marks a field with credentials as sensitive so that `Debug` and logs do not show its value.
pub(in crate::ws) fn mark_sensitive(name: &HeaderName, value: &mut HeaderValue) {
    let credentials = [
        header::AUTHORIZATION,
        header::COOKIE,
        header::PROXY_AUTHORIZATION,
    ];
    if credentials.contains(name) {
        value.set_sensitive(true);
    }
}

/// Returns `true` if a comma-separated field contains `token`. The comparison ignores case.
pub(in crate::ws) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// Returns `true` if a comma-separated field contains `token` and nothing else. The comparison
/// ignores case.
pub(in crate::ws) fn is_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    let parts = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut parts = parts
        .map(<[u8]>::trim_ascii)
        .filter(|part| !part.is_empty());
    let is_token = |part: &[u8]| part.eq_ignore_ascii_case(token.as_bytes());
    parts.next().is_some_and(is_token) && parts.all(is_token)
}

/// Returns the field value for the name of a subprotocol.
///
/// # Panics
///
/// Panics if the name is not a valid token.
pub(in crate::ws) fn subprotocol(name: &str) -> HeaderValue {
    match HeaderValue::from_str(name) {
        Ok(value) if !name.is_empty() && !name.contains([',', ' ', ';', '"']) => value,
        _ => panic!("`{name}` is not a valid name of a subprotocol"),
    }
}
