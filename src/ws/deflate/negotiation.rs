//! Negotiation of the extension: pure functions from header fields to what is agreed.
//!
//! A server declines an offer if a parameter is unknown, occurs twice or has an invalid value.
//! It then checks the next offer. An offer never fails the handshake. A client must fail if the
//! server's answer contains such a parameter (RFC 7692, section 7).

use std::iter;

use http::HeaderValue;

/// Name of the extension.
const NAME: &[u8] = b"permessage-deflate";

/// The offer of a client. It receives without context takeover and sends without it.
/// `client_max_window_bits` lets the server limit the window of the client's compressor.
pub(super) const OFFER: &str = "permessage-deflate; server_no_context_takeover; \
    client_no_context_takeover; client_max_window_bits";

/// The offer of a client that sends with context takeover.
pub(super) const OFFER_WITH_TAKEOVER: &str =
    "permessage-deflate; server_no_context_takeover; client_max_window_bits";

/// Largest window: the base-2 logarithm of its size in bytes.
const MAX_WINDOW_BITS: u8 = 15;
/// Smallest window of the extension. No deflate implementation compresses with it.
const MIN_WINDOW_BITS: u8 = 8;

/// Compression that client and server have agreed on. It is an attribute of the connection's
/// handle, and is absent if messages are not compressed.
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Text};
/// use getty::ws::{Deflate, Messages, WsDeflate, WsLayer};
///
/// let stack = ServiceBuilder::new()
///     .layer(WsLayer::new().with_messages(Messages::Text).with_deflate(Deflate::new()))
///     .layer(CodecLayer::new(Text::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: Request<String>| async move {
///         let deflate: Option<WsDeflate> = request.session().get();
///         Ok::<_, BoxError>(format!("compressed: {}", deflate.is_some()))
///     });
/// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
/// # check(&stack);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WsDeflate {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: u8,
    client_max_window_bits: u8,
}

impl WsDeflate {
    /// Returns `true` if the server must compress each message without context of earlier ones.
    #[must_use]
    pub const fn server_no_context_takeover(&self) -> bool {
        self.server_no_context_takeover
    }

    /// Returns `true` if the client must compress each message without context of earlier ones.
    #[must_use]
    pub const fn client_no_context_takeover(&self) -> bool {
        self.client_no_context_takeover
    }

    /// Returns the maximum window of the server's compressor, from 8 to 15: the base-2 logarithm of
    /// its size in bytes.
    #[must_use]
    pub const fn server_max_window_bits(&self) -> u8 {
        self.server_max_window_bits
    }

    /// Returns the maximum window of the client's compressor, from 8 to 15: the base-2 logarithm of
    /// its size in bytes. A client with 8 sends all messages plain.
    #[must_use]
    pub const fn client_max_window_bits(&self) -> u8 {
        self.client_max_window_bits
    }
}

/// Parameters of an offer or of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// `Some(None)` is the parameter without a value, which only an offer may have.
    client_max_window_bits: Option<Option<u8>>,
}

/// Accepts the first acceptable offer. `values` are those of `Sec-WebSocket-Extensions` in the
/// request. Returns the agreement and the value for the response.
///
/// `client_no_context_takeover` is always answered, so that no session holds an inflater
/// between messages. `server_no_context_takeover` is answered only if it was offered because
/// some clients fail on it otherwise. `client_max_window_bits` is never answered because the
/// inflater accepts every window.
pub(super) fn accept(values: &mut dyn Iterator<Item = &[u8]>) -> Option<(WsDeflate, HeaderValue)> {
    let mut offers = values.flat_map(|value| split(value, b','));
    let offer = offers.find_map(|offer| {
        let offer = parse(offer)?;
        (offer.server_max_window_bits != Some(MIN_WINDOW_BITS)).then_some(offer)
    })?;
    let mut answer = String::from("permessage-deflate; client_no_context_takeover");
    if offer.server_no_context_takeover {
        answer.push_str("; server_no_context_takeover");
    }
    if let Some(bits) = offer.server_max_window_bits {
        answer.push_str("; server_max_window_bits=");
        answer.push_str(&bits.to_string());
    }
    let agreed = WsDeflate {
        server_no_context_takeover: offer.server_no_context_takeover,
        client_no_context_takeover: true,
        server_max_window_bits: offer.server_max_window_bits.unwrap_or(MAX_WINDOW_BITS),
        // A client that names its window keeps to it without an answer.
        client_max_window_bits: offer
            .client_max_window_bits
            .flatten()
            .unwrap_or(MAX_WINDOW_BITS),
    };
    let answer = HeaderValue::try_from(answer);
    Some((
        agreed,
        answer.unwrap_or_else(|_| unreachable!("the answer is visible ASCII")),
    ))
}

/// Checks the answer to [`OFFER`], or to [`OFFER_WITH_TAKEOVER`] if `takes_over` is `true`.
/// `values` are those of `Sec-WebSocket-Extensions` in the response.
///
/// # Errors
///
/// Returns the reason why the answer is invalid. The client must fail the handshake.
pub(super) fn confirm(
    values: &mut dyn Iterator<Item = &[u8]>,
    takes_over: bool,
) -> Result<Option<WsDeflate>, &'static str> {
    let mut answers = values.flat_map(|value| split(value, b','));
    let Some(answer) = answers.next() else {
        return Ok(None);
    };
    if answers.next().is_some() {
        return Err("it selects several extensions");
    }
    if split(answer, b';').next().map(<[u8]>::trim_ascii) != Some(NAME) {
        return Err("it selects an extension that was not offered");
    }
    let answer = parse(answer).filter(|answer| answer.client_max_window_bits != Some(None));
    let answer = answer.ok_or("its parameters of permessage-deflate are invalid")?;
    if !answer.server_no_context_takeover {
        return Err("it ignores server_no_context_takeover");
    }
    Ok(Some(WsDeflate {
        server_no_context_takeover: true,
        // A client keeps to what it offered even if the answer omits it.
        client_no_context_takeover: !takes_over || answer.client_no_context_takeover,
        server_max_window_bits: answer.server_max_window_bits.unwrap_or(MAX_WINDOW_BITS),
        client_max_window_bits: answer
            .client_max_window_bits
            .flatten()
            .unwrap_or(MAX_WINDOW_BITS),
    }))
}

/// Parses an extension with its parameters. Returns `None` if it is another extension or if a
/// parameter is unknown, occurs twice or has an invalid value.
fn parse(element: &[u8]) -> Option<Parameters> {
    let mut parts = split(element, b';').map(<[u8]>::trim_ascii);
    if parts.next() != Some(NAME) {
        return None;
    }
    let mut parsed = Parameters::default();
    for part in parts {
        let (name, value) = match part.iter().position(|byte| *byte == b'=') {
            Some(at) => (part[..at].trim_ascii(), Some(part[at + 1..].trim_ascii())),
            None => (part, None),
        };
        let is_new = match name {
            b"server_no_context_takeover" => {
                value.is_none() && !std::mem::replace(&mut parsed.server_no_context_takeover, true)
            }
            b"client_no_context_takeover" => {
                value.is_none() && !std::mem::replace(&mut parsed.client_no_context_takeover, true)
            }
            b"server_max_window_bits" => {
                let bits = window_bits(value?)?;
                parsed.server_max_window_bits.replace(bits).is_none()
            }
            b"client_max_window_bits" => {
                let bits = match value {
                    Some(value) => Some(window_bits(value)?),
                    None => None,
                };
                parsed.client_max_window_bits.replace(bits).is_none()
            }
            _ => false,
        };
        if !is_new {
            return None;
        }
    }
    Some(parsed)
}

/// Parses the size of a window: a number from 8 to 15 without leading zeros, which may be
/// quoted.
fn window_bits(value: &[u8]) -> Option<u8> {
    let unquoted = match value {
        [b'"', quoted @ .., b'"'] => quoted,
        bare => bare,
    };
    match unquoted {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// Splits `bytes` at each `separator` outside of quotes.
fn split(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    iter::from_fn(move || {
        let bytes = rest?;
        let (mut is_quoted, mut is_escaped) = (false, false);
        let end = bytes.iter().position(|byte| {
            if std::mem::take(&mut is_escaped) {
                return false;
            }
            match byte {
                b'\\' => is_escaped = is_quoted,
                b'"' => is_quoted = !is_quoted,
                _ => return *byte == separator && !is_quoted,
            }
            false
        });
        let part = match end {
            Some(end) => {
                rest = Some(&bytes[end + 1..]);
                &bytes[..end]
            }
            None => {
                rest = None;
                bytes
            }
        };
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn client_with_takeover_keeps_to_what_the_server_answers() {
        for (answer, without) in [
            ("permessage-deflate; server_no_context_takeover", false),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                true,
            ),
        ] {
            let confirm = |takes_over| {
                let agreed = confirm(&mut iter::once(answer.as_bytes()), takes_over);
                agreed.unwrap().unwrap().client_no_context_takeover()
            };
            assert_eq!((confirm(true), confirm(false)), (without, true));
        }
        let (agreed, answer) = accept(&mut iter::once(OFFER_WITH_TAKEOVER.as_bytes())).unwrap();
        assert!(agreed.client_no_context_takeover());
        assert!(
            answer
                .to_str()
                .unwrap()
                .contains("client_no_context_takeover")
        );
    }

    /// Returns the answer to offers, one in each field.
    fn answer(offers: &[&str]) -> Option<String> {
        let (agreed, answer) = accept(&mut offers.iter().map(|offer| offer.as_bytes()))?;
        assert!(agreed.client_no_context_takeover());
        Some(answer.to_str().unwrap().to_owned())
    }

    fn confirmed(answers: &[&str]) -> Result<Option<WsDeflate>, &'static str> {
        confirm(&mut answers.iter().map(|answer| answer.as_bytes()), false)
    }

    const PLAIN: &str = "permessage-deflate; client_no_context_takeover";

    #[test]
    fn the_first_acceptable_offer_wins_and_others_are_declined_without_an_error() {
        let accepted = |more: &str| Some(format!("{PLAIN}{more}"));
        for (offers, expected) in [
            (&["permessage-deflate"][..], accepted("")),
            (
                &["permessage-deflate; client_max_window_bits"],
                accepted(""),
            ),
            (
                &["permessage-deflate;client_max_window_bits=10"],
                accepted(""),
            ),
            (
                &["permessage-deflate; server_no_context_takeover"],
                accepted("; server_no_context_takeover"),
            ),
            (
                &[" permessage-deflate ; server_max_window_bits = \"9\" "],
                accepted("; server_max_window_bits=9"),
            ),
            // The order of offers counts, in one field and over several.
            (
                &["permessage-deflate; server_max_window_bits=10, permessage-deflate"],
                accepted("; server_max_window_bits=10"),
            ),
            (
                &[
                    "x-webkit-deflate-frame, bbf; x=\"a,b;c\"",
                    "permessage-deflate",
                ],
                accepted(""),
            ),
            // deflate cannot compress with a window of 8 bits
            (
                &["permessage-deflate; server_max_window_bits=8, permessage-deflate"],
                accepted(""),
            ),
            (&["permessage-deflate; server_max_window_bits=8"], None),
            (&["permessage-deflate; server_max_window_bits=16"], None),
            (&["permessage-deflate; server_max_window_bits=08"], None),
            (&["permessage-deflate; server_max_window_bits=010"], None),
            (&["permessage-deflate; server_max_window_bits=-9"], None),
            (&["permessage-deflate; server_max_window_bits="], None),
            (&["permessage-deflate; server_max_window_bits"], None),
            (&["permessage-deflate; client_max_window_bits=7"], None),
            (
                &["permessage-deflate; client_max_window_bits=99999999999"],
                None,
            ),
            (&["permessage-deflate; server_no_context_takeover=1"], None),
            (&["permessage-deflate; client_no_context_takeover="], None),
            (
                &["permessage-deflate; client_no_context_takeover; client_no_context_takeover"],
                None,
            ),
            (
                &["permessage-deflate; server_max_window_bits=9; server_max_window_bits=9"],
                None,
            ),
            (
                &["permessage-deflate; client_max_window_bits; client_max_window_bits=9"],
                None,
            ),
            (&["permessage-deflate; level=9"], None),
            (&["permessage-deflate;"], None),
            (&["permessage-deflate2"], None),
            (&["\"permessage-deflate\""], None),
            (
                &["permessage-deflate; x=\"unended, permessage-deflate"],
                None,
            ),
            (&["", ",,;,="], None),
            (&[], None),
        ] {
            assert_eq!(answer(offers), expected, "{offers:?}");
        }
    }

    #[test]
    fn what_the_client_announces_for_its_own_window_is_kept() {
        let window = |offer: &str| accept(&mut [offer.as_bytes()].into_iter()).unwrap().0;
        let agreed = window("permessage-deflate; client_max_window_bits=10");
        assert_eq!(agreed.client_max_window_bits(), 10);
        assert_eq!(agreed.server_max_window_bits(), 15);
        let agreed = window("permessage-deflate; server_max_window_bits=9");
        assert_eq!(agreed.client_max_window_bits(), 15);
        assert_eq!(agreed.server_max_window_bits(), 9);
    }

    #[test]
    fn a_client_accepts_only_answers_that_fit_its_offer() {
        let good = "permessage-deflate; server_no_context_takeover";
        let agreed = confirmed(&[good]).unwrap().unwrap();
        assert!(agreed.client_no_context_takeover(), "it was offered");
        assert_eq!(agreed.client_max_window_bits(), 15);
        let smaller = format!("{good}; client_max_window_bits=8; server_max_window_bits=12");
        let agreed = confirmed(&[&smaller]).unwrap().unwrap();
        assert_eq!(agreed.client_max_window_bits(), 8);
        assert_eq!(agreed.server_max_window_bits(), 12);
        assert_eq!(confirmed(&[]), Ok(None));
        for (answer, error) in [
            ("permessage-deflate", "server_no_context_takeover"),
            ("x-webkit-deflate-frame", "not offered"),
            (&*format!("{good}, {good}"), "several"),
            (&format!("{good}; client_max_window_bits"), "invalid"),
            (&format!("{good}; server_max_window_bits=16"), "invalid"),
            (&format!("{good}; server_no_context_takeover"), "invalid"),
            (&format!("{good}; extra"), "invalid"),
            ("", "not offered"),
        ] {
            let refused = confirmed(&[answer]).unwrap_err();
            assert!(refused.contains(error), "{answer}: {refused}");
        }
        let (one, other) = (good, "x");
        assert!(confirmed(&[one, other]).unwrap_err().contains("several"));
    }

    /// A parameter with its text, and whether an offer with it is acceptable.
    fn parameter() -> impl Strategy<Value = (String, bool)> {
        let names = prop_oneof![
            Just("server_no_context_takeover"),
            Just("client_no_context_takeover"),
            Just("server_max_window_bits"),
            Just("client_max_window_bits"),
            Just("unknown"),
        ];
        (names, prop::option::of(0..20_u8)).prop_map(|(name, value)| {
            let fits = match (name, value) {
                ("server_max_window_bits", Some(bits)) => (9..=15).contains(&bits),
                ("client_max_window_bits", Some(bits)) => (8..=15).contains(&bits),
                ("client_max_window_bits", None) => true,
                (_, Some(_)) | ("server_max_window_bits" | "unknown", None) => false,
                _ => true,
            };
            let text = match value {
                Some(value) => format!("{name}={value}"),
                None => name.to_owned(),
            };
            (text, fits)
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_offer_or_none(values in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let _ = accept(&mut values.iter().map(|value| &value[..]));
            let _ = confirm(&mut values.iter().map(|value| &value[..]), false);
        }

        #[test]
        fn an_offer_is_accepted_if_each_parameter_is_known_valid_and_single(
            offers in prop::collection::vec(prop::collection::vec(parameter(), 0..4), 0..4),
            one_field in any::<bool>(),
        ) {
            let texts: Vec<String> = offers
                .iter()
                .map(|parameters| {
                    let texts = parameters.iter().map(|(text, _)| format!("; {text}"));
                    format!("permessage-deflate{}", texts.collect::<String>())
                })
                .collect();
            let first = offers.iter().find(|parameters| {
                let mut names: Vec<_> =
                    parameters.iter().map(|(text, _)| text.split('=').next()).collect();
                names.sort_unstable();
                names.windows(2).all(|pair| pair[0] != pair[1])
                    && parameters.iter().all(|(_, fits)| *fits)
            });
            let expected = first.map(|parameters| {
                let mut expected = PLAIN.to_owned();
                let find = |name: &str| parameters.iter().find(|(text, _)| text.starts_with(name));
                for name in ["server_no", "server_max"] {
                    if let Some((text, _)) = find(name) {
                        expected = format!("{expected}; {text}");
                    }
                }
                expected
            });
            let joined = [texts.join(", ")];
            let values = if one_field { &joined[..] } else { &texts[..] };
            let accepted = accept(&mut values.iter().map(String::as_bytes));
            prop_assert_eq!(accepted.map(|(_, answer)| answer.to_str().unwrap().to_owned()), expected);
        }
    }
}
