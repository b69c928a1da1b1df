//! WebSocket: frames and handshakes against tungstenite, and permessage-deflate against another
//! implementation of deflate.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex},
};

use getty::{
    BoxError, Closed, CodecLayer, Connection, Layer, Request, ServiceBuilder, SessionLayer,
    ws::{
        Deflate, Message, MessageCodec, Messages, WsClose, WsConnectError, WsConnectLayer,
        WsHandshakeError, WsLayer, WsTransport,
    },
};
use tokio_tungstenite::tungstenite::{
    self, WebSocket,
    handshake::derive_accept_key,
    protocol::{Role, WebSocketConfig},
};
use tower::{ServiceExt, service_fn};

use crate::{
    codec::inflate_flushed,
    kit::{Input, Peer, Wire, block_on, same_for_all_pieces, send, wire},
};

/// Example of RFC 6455.
pub(crate) const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const DEFLATE_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n";
/// Stands for the answer to the key of the client in responses of the corpus.
const ACCEPT: &[u8] = b"{accept}";

pub(crate) const TEXT: u8 = 1;
const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
pub(crate) const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// Messages as a handler receives them: `true` for text.
type Received = Arc<Mutex<Vec<(bool, Vec<u8>)>>>;

/// Events that the handler of a session and its peer observe.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Events {
    messages: Vec<(bool, Vec<u8>)>,
    /// Payloads of the pongs.
    pongs: Vec<Vec<u8>>,
    /// Code with which the session has ended.
    code: u16,
}

/// Runs a session over an open connection. Its handler records messages.
async fn session<T>(connection: Connection<WsTransport<T>>, received: &Received) -> Closed
where
    WsTransport<T>: getty::Transport,
    T: Send + 'static,
{
    let record = Arc::clone(received);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(MessageCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<Message>| {
            let message = request.into_message();
            let message = (message.as_text().is_some(), message.as_bytes().to_vec());
            record.lock().expect("it does not panic").push(message);
            async { Ok::<_, BoxError>(None::<Message>) }
        });
    stack
        .oneshot(connection)
        .await
        .expect("a session has no error")
}

/// Splits off the head of the other end.
pub(crate) fn behind_head(output: &[u8]) -> &[u8] {
    let end = output.windows(4).position(|four| four == b"\r\n\r\n");
    &output[end.expect("a head was sent") + 4..]
}

/// Parses the frames that getty has sent. They must be valid and whole.
fn sent_frames(bytes: &[u8], masked: bool) -> Vec<(u8, Vec<u8>)> {
    let (frames, rest) = whole_frames(bytes, masked);
    assert!(rest.is_empty(), "a whole frame");
    frames
}

/// Parses the frames that getty has sent, up to one that is not whole. Returns the rest.
pub(crate) fn whole_frames(mut bytes: &[u8], masked: bool) -> (Vec<(u8, Vec<u8>)>, &[u8]) {
    let mut frames = Vec::new();
    while let Some((first, payload, rest)) = next_frame(bytes, masked) {
        frames.push((first, payload));
        bytes = rest;
    }
    (frames, bytes)
}

fn next_frame(bytes: &[u8], masked: bool) -> Option<(u8, Vec<u8>, &[u8])> {
    let [first, second, rest @ ..] = bytes else {
        return None;
    };
    assert_eq!(second & 0x80 != 0, masked, "only clients mask");
    let extra = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let (length, rest) = rest.split_at_checked(extra)?;
    let long = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let length = if extra == 0 {
        usize::from(second & 0x7f)
    } else {
        long
    };
    let (mask, rest) = rest.split_at_checked(if masked { 4 } else { 0 })?;
    let (payload, rest) = rest.split_at_checked(length)?;
    let mask = if masked { mask } else { &[0; 4] };
    let payload = payload.iter().zip(mask.iter().cycle());
    Some((
        *first,
        payload.map(|(byte, mask)| byte ^ mask).collect(),
        rest,
    ))
}

/// Collects the events of a session that has ended.
fn events(received: &Received, closed: &Closed, output: &[u8], masked: bool) -> Events {
    let code = WsClose::of(closed).code();
    let frames = sent_frames(output, masked);
    let mut pongs = Vec::new();
    for (at, (first, payload)) in frames.iter().enumerate() {
        match *first {
            first if first == FIN | PONG => pongs.push(payload.clone()),
            first if first == FIN | CLOSE => {
                assert_eq!(at + 1, frames.len(), "nothing follows a close frame");
                let sent = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                // A close frame without a code is answered with one.
                assert_eq!(sent.unwrap_or(WsClose::NO_CODE), code);
            }
            other => panic!("an unexpected frame {other:#x}"),
        }
    }
    let messages = received.lock().expect("it does not panic").clone();
    Events {
        messages,
        pongs,
        code,
    }
}

/// Returns the events of a server that receives frames behind a request.
fn of_server(layer: &WsLayer, request: &[u8], pieces: &[&[u8]]) -> Events {
    let (io, peer) = wire();
    peer.send(request);
    send(&peer, pieces.iter().copied());
    peer.finish();
    let received = Received::default();
    let record = Arc::clone(&received);
    let inner = service_fn(move |connection: Connection<WsTransport<Wire>>| {
        let record = Arc::clone(&record);
        async move { Ok::<_, BoxError>(session(connection, &record).await) }
    });
    let layer = layer.clone().with_messages(Messages::Both);
    let closed = block_on(layer.layer(inner).oneshot(Connection::new(io)));
    let closed = closed.expect("the request is valid");
    events(&received, &closed, behind_head(&peer.output_bytes()), false)
}

/// Reads the client's request and returns its key.
async fn key_of_client(peer: &Peer) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.extend(peer.recv().await);
    }
    let request = String::from_utf8(request).expect("a head is text");
    let key = |line: &str| line.strip_prefix("sec-websocket-key: ").map(str::to_owned);
    request.lines().find_map(key)
}

/// Connects a client whose server sends `response` in pieces of these `sizes`, or at once
/// without sizes, and then `pieces`.
async fn client(
    layer: &WsConnectLayer,
    response: &[u8],
    sizes: &[usize],
    pieces: &[&[u8]],
) -> (
    Result<Connection<WsTransport<Wire>>, WsConnectError>,
    Peer,
    String,
) {
    let (io, peer) = wire();
    let io = Arc::new(Mutex::new(Some(io)));
    let connector = service_fn(move |_: (String, u16)| {
        let io = io.lock().expect("it does not panic").take();
        async move { io.map(Connection::new).ok_or("one connection") }
    });
    let layer = layer.clone().with_messages(Messages::Both);
    let open = layer.layer(connector).oneshot("ws://example.com/");
    let answer = async {
        let key = key_of_client(&peer).await.expect("the client sends a key");
        let accept = derive_accept_key(key.as_bytes());
        let response = replaced(response, ACCEPT, accept.as_bytes());
        let mut rest = &response[..];
        for size in sizes.iter().cycle().filter(|size| **size > 0) {
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            peer.send(piece);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        peer.send(rest);
        send(&peer, pieces.iter().copied());
        peer.finish();
        key
    };
    let (opened, key) = tokio::join!(open, answer);
    (opened, peer, key)
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|part| part == from) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

fn of_client(layer: &WsConnectLayer, response: &[u8], pieces: &[&[u8]]) -> Events {
    let received = Received::default();
    let (closed, output) = block_on(async {
        let (opened, peer, _) = client(layer, response, &[], pieces).await;
        let connection = opened.expect("the response is valid");
        let closed = session(connection, &received).await;
        (closed, peer.output_bytes())
    });
    events(&received, &closed, behind_head(&output), true)
}

/// Stream of tungstenite over an input.
struct Script<'a> {
    input: &'a [u8],
    output: Vec<u8>,
}

impl<'a> Script<'a> {
    const fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            output: Vec::new(),
        }
    }
}

impl Read for Script<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.input.read(buf)
    }
}

impl Write for Script<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.output.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the events of tungstenite. The pongs are the pings that it has received.
fn of_tungstenite(role: Role, frames: &[u8], max_message: usize, max_frame: usize) -> Events {
    use tungstenite::{Error, Message, error::ProtocolError};
    let config = WebSocketConfig::default()
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_frame));
    let mut socket = WebSocket::from_raw_socket(Script::new(frames), role, Some(config));
    let (mut messages, mut pongs) = (Vec::new(), Vec::new());
    let code = loop {
        match socket.read() {
            Ok(Message::Text(text)) => messages.push((true, text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => messages.push((false, bytes.to_vec())),
            Ok(Message::Ping(payload)) => pongs.push(payload.to_vec()),
            Ok(Message::Pong(_) | Message::Frame(_)) => {}
            Ok(Message::Close(None)) => break WsClose::NO_CODE,
            Ok(Message::Close(Some(close))) => break close.code.into(),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_)) => {
                break WsClose::ABNORMAL;
            }
            Err(Error::Protocol(_)) => break WsClose::PROTOCOL_ERROR,
            Err(Error::Utf8(_)) => break WsClose::INVALID_DATA,
            Err(Error::Capacity(_)) => break WsClose::TOO_BIG,
            Err(other) => panic!("{other:?}"),
        }
    };
    Events {
        messages,
        pongs,
        code,
    }
}

/// Frames of a client or a server, against tungstenite.
pub(crate) fn ws_frames(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let is_server = input.byte() & 1 == 0;
    let max_message = input.limit().max(1);
    // The limit of tungstenite also applies to control frames, that of getty does not.
    let max_frame = input.limit().max(125);
    let frames = input.rest();
    let server = WsLayer::new()
        .with_max_message(max_message)
        .with_max_frame(max_frame);
    let client = WsConnectLayer::new()
        .with_max_message(max_message)
        .with_max_frame(max_frame);
    let receive = |pieces: &[&[u8]]| {
        if is_server {
            of_server(&server, REQUEST, pieces)
        } else {
            of_client(&client, RESPONSE, pieces)
        }
    };
    let role = if is_server {
        Role::Server
    } else {
        Role::Client
    };
    let mut ours = same_events(frames, seed, |pieces| receive(&pieces));
    let permitted = permitted_codes(frames, is_server, max_message, max_frame);
    assert!(
        permitted.contains(&ours.code),
        "{ours:?}, permitted {permitted:?}"
    );
    let expected = of_tungstenite(role, frames, max_message, max_frame);
    if ours.code == WsClose::ABNORMAL && is_error(expected.code) {
        // The header of the last frame is not complete, but shows a violation already.
        ours.code = receive(&[frames, &[0; 14]]).code;
        assert!(is_error(ours.code), "{ours:?}, expected {expected:?}");
    }
    compare(&ours, &expected);
}

/// Codes with which a session may end that has received these frames, by RFC 6455 alone. There
/// are several if one frame breaks several rules, or is not whole.
fn permitted_codes(
    frames: &[u8],
    is_server: bool,
    max_message: usize,
    max_frame: usize,
) -> Vec<u16> {
    let mut rest = frames;
    // the message that has begun: its kind and its payload
    let mut open: Option<(bool, Vec<u8>)> = None;
    loop {
        let before = open.as_ref().map_or(0, |(_, payload)| payload.len());
        let header = match Header::parse(rest, is_server, open.is_some()) {
            Ok(header) => header,
            Err(mut broken) => {
                broken.push(WsClose::ABNORMAL);
                return broken;
            }
        };
        let mut broken = header.broken;
        if header.length > max_frame as u64 {
            broken.push(WsClose::TOO_BIG);
        }
        if !header.is_control && header.length > max_message.saturating_sub(before) as u64 {
            broken.push(WsClose::TOO_BIG);
        }
        if !broken.is_empty() {
            return broken;
        }
        let length = usize::try_from(header.length).expect("it is within the limit");
        let whole = header.rest.len() >= length;
        let (payload, later) = header.rest.split_at(length.min(header.rest.len()));
        let mask = header.mask.iter().cycle();
        let payload: Vec<u8> = payload.iter().zip(mask).map(|(a, b)| a ^ b).collect();
        rest = later;
        if header.is_control {
            match header.opcode {
                _ if !whole => return vec![WsClose::ABNORMAL],
                CLOSE => return codes_of_close(&payload),
                _ => continue,
            }
        }
        let (is_text, message) = open.get_or_insert((header.opcode == TEXT, Vec::new()));
        message.extend(payload);
        let ends = whole && header.is_final;
        let is_bad = *is_text
            && str::from_utf8(message).is_err_and(|error| ends || error.error_len().is_some());
        match (is_bad, whole) {
            (true, true) => return vec![WsClose::INVALID_DATA],
            // text may be checked before its frame is whole
            (true, false) => return vec![WsClose::INVALID_DATA, WsClose::ABNORMAL],
            (false, false) => return vec![WsClose::ABNORMAL],
            (false, true) => {}
        }
        if ends {
            open = None;
        }
    }
}

/// Header of a frame, by RFC 6455, section 5.2.
struct Header<'a> {
    opcode: u8,
    is_final: bool,
    is_control: bool,
    length: u64,
    mask: [u8; 4],
    rest: &'a [u8],
    /// Codes of the rules that it breaks.
    broken: Vec<u16>,
}

impl<'a> Header<'a> {
    /// Parses a header. Without the whole header it returns the codes of the rules that are
    /// broken already.
    fn parse(bytes: &'a [u8], is_server: bool, in_message: bool) -> Result<Self, Vec<u16>> {
        let mut broken = Vec::new();
        let mut require = |holds: bool| {
            if !holds {
                broken.push(WsClose::PROTOCOL_ERROR);
            }
        };
        let Some((first, rest)) = bytes.split_first() else {
            return Err(broken);
        };
        let (opcode, is_final) = (first & 0x0f, first & FIN != 0);
        let is_control = opcode >= 8;
        require(first & 0x70 == 0);
        require(matches!(opcode, 0..=2 | 8..=10));
        require(is_final || !is_control);
        require(is_control || (opcode == 0) == in_message);
        let Some((second, rest)) = rest.split_first() else {
            return Err(broken);
        };
        let (masked, length) = (second & 0x80 != 0, second & 0x7f);
        require(masked == is_server);
        require(length <= 125 || !is_control);
        let extra = match length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((long, rest)) = rest.split_at_checked(extra) else {
            return Err(broken);
        };
        let long = long.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let length = if extra == 0 { length.into() } else { long };
        require(length >> 63 == 0);
        let (mask, rest) = match rest.split_first_chunk() {
            _ if !masked => ([0; 4], rest),
            Some((mask, rest)) => (*mask, rest),
            None => return Err(broken),
        };
        Ok(Self {
            opcode,
            is_final,
            is_control,
            length,
            mask,
            rest,
            broken,
        })
    }
}

/// Codes for a whole close frame: RFC 6455, sections 5.5.1 and 7.4, and the registry of IANA.
fn codes_of_close(payload: &[u8]) -> Vec<u16> {
    let Some((code, text)) = payload.split_first_chunk() else {
        return match payload {
            [] => vec![WsClose::NO_CODE],
            _ => vec![WsClose::PROTOCOL_ERROR],
        };
    };
    let code = u16::from_be_bytes(*code);
    let is_valid = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    match (is_valid, str::from_utf8(text).is_ok()) {
        (true, true) => vec![code],
        (true, false) => vec![WsClose::INVALID_DATA],
        (false, true) => vec![WsClose::PROTOCOL_ERROR],
        (false, false) => vec![WsClose::PROTOCOL_ERROR, WsClose::INVALID_DATA],
    }
}

const fn is_error(code: u16) -> bool {
    matches!(
        code,
        WsClose::PROTOCOL_ERROR | WsClose::INVALID_DATA | WsClose::TOO_BIG
    )
}

/// Runs `check` for all pieces. The number of pongs may differ: a session answers the last of
/// several pings that wait (RFC 6455, section 5.5.3).
fn same_events(bytes: &[u8], seed: u8, mut check: impl FnMut(Vec<&[u8]>) -> Events) -> Events {
    let mut all = Vec::new();
    let mut same = same_for_all_pieces(bytes, seed, |pieces| {
        let mut events = check(pieces);
        all.push(std::mem::take(&mut events.pongs));
        events
    });
    // Byte by byte every ping is answered before the next one.
    same.pongs = all
        .iter()
        .max_by_key(|pongs| pongs.len())
        .cloned()
        .unwrap_or_default();
    for pongs in all {
        assert!(
            is_part(&pongs, &same.pongs),
            "{pongs:?} of {:?}",
            same.pongs
        );
    }
    same
}

/// Returns `true` if `part` is `all` without some of its elements.
fn is_part<T: PartialEq>(part: &[T], all: &[T]) -> bool {
    let mut all = all.iter();
    part.iter().all(|one| all.any(|other| other == one))
}

/// Compares the events with those of tungstenite.
fn compare(ours: &Events, expected: &Events) {
    let both = || format!("\n    ours: {ours:?}\nexpected: {expected:?}");
    assert!(is_part(&ours.pongs, &expected.pongs), "pongs{}", both());
    let same_code = ours.code == expected.code
        // tungstenite does not know a code of the registry.
        || ours.code == 1014 && expected.code == WsClose::PROTOCOL_ERROR
        // A frame may break several rules, and one may be found before the frame is complete.
        || is_error(ours.code) && (is_error(expected.code) || expected.code == WsClose::ABNORMAL);
    assert!(same_code, "codes{}", both());
    assert!(ours.messages == expected.messages, "messages{}", both());
}

/// Result of the handshake of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Handshake {
    head: Vec<u8>,
    /// `Ok` with the bytes that the session receives as a stream, or the class of the error.
    result: Result<(), String>,
}

/// Requests to a server. It may only accept those that tungstenite does.
pub(crate) fn ws_request(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let bits = input.byte();
    let head = 64 + 16 * usize::from(input.byte());
    let bytes = input.rest();
    let mut layer = WsLayer::new().with_max_head(head, 16);
    if bits & 1 != 0 {
        layer = layer.with_protocols(["chat", "v2"]);
    }
    if bits & 2 != 0 {
        layer = layer.with_path("/chat");
    }
    if bits & 4 != 0 {
        layer = layer.with_deflate(Deflate::new());
    }
    if bits & 8 != 0 {
        layer = layer.with_any_origin();
    }
    let ours = same_for_all_pieces(bytes, seed, |pieces| {
        let (io, peer) = wire();
        send(&peer, pieces);
        peer.finish();
        let inner = service_fn(|_: Connection<WsTransport<Wire>>| async { Ok::<_, BoxError>(()) });
        let result = block_on(layer.layer(inner).oneshot(Connection::new(io)));
        let result = result.map_err(|error| match error.downcast_ref() {
            Some(WsHandshakeError::Refused(refusal)) => refusal.to_string(),
            Some(WsHandshakeError::PeerClosed) => "closed".to_owned(),
            other => panic!("{other:?}"),
        });
        Handshake {
            head: peer.output_bytes(),
            result,
        }
    });
    let text = String::from_utf8_lossy(&ours.head);
    match &ours.result {
        Ok(()) => {
            assert!(
                text.starts_with("HTTP/1.1 101 ") && text.ends_with("\r\n\r\n"),
                "{text}"
            );
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            let request = &bytes[..end.expect("a whole head") + 4];
            assert!(request.len() <= head);
            // tungstenite wants ASCII, one field of each name without other values, and a key
            // whose last character has no bits that are left out.
            let asked = String::from_utf8_lossy(request).to_ascii_lowercase();
            let fields = |name: &str| -> Vec<String> {
                let value =
                    |line: &str| line.strip_prefix(name).map(|value| value.trim().to_owned());
                asked.lines().filter_map(value).collect()
            };
            let is_plain = fields("upgrade:") == ["websocket"] && fields("connection:").len() == 1;
            // The 22nd character of a key with the usual end.
            let is_odd = request
                .windows(24)
                .any(|key| key.ends_with(b"==") && !b"AQgw".contains(&key[21]));
            if !request.is_ascii() || !is_plain || is_odd {
                return;
            }
            let script = tungstenite::accept(Script::new(request));
            let script = script.expect("tungstenite accepts the request");
            let accept = |head: &str| {
                let head = head.to_ascii_lowercase();
                let value = |line: &str| {
                    line.strip_prefix("sec-websocket-accept: ")
                        .map(str::to_owned)
                };
                head.lines().find_map(value)
            };
            let theirs = String::from_utf8_lossy(&script.get_ref().output).into_owned();
            assert_eq!(accept(&text), accept(&theirs));
            let extensions = text
                .lines()
                .filter(|line| line.starts_with("sec-websocket-extensions"));
            assert!(extensions.count() <= usize::from(bits >> 2 & 1), "{text}");
        }
        Err(error) if error == "closed" => assert!(text.is_empty(), "{text}"),
        Err(error) => {
            let status = text
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse::<u16>().ok());
            assert!(
                status.is_some_and(|status| (400..600).contains(&status)),
                "{error}: {text}"
            );
            let (head, body) = text.split_once("\r\n\r\n").expect("a whole response");
            let length = format!("content-length: {}", body.len());
            assert!(head.contains(&length) && !head.contains('\0'), "{text}");
        }
    }
}

/// Responses to a client. It may only accept those that tungstenite does.
pub(crate) fn ws_response(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let bits = input.byte();
    let head = 64 + 16 * usize::from(input.byte());
    let bytes = input.rest();
    let mut layer = WsConnectLayer::new().with_max_head(head, 16);
    if bits & 1 != 0 {
        layer = layer.with_protocols(["chat", "v2"]);
    }
    if bits & 2 != 0 {
        layer = layer.with_deflate(Deflate::new());
    }
    let mut accepted = None;
    let is_ok = same_for_all_pieces(bytes, seed, |pieces| {
        block_on(async {
            // The answer to the key makes the response longer, so the sizes are repeated.
            let sizes: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
            let sizes = if pieces.len() == 1 { &[] } else { &sizes[..] };
            let (opened, _peer, key) = client(&layer, bytes, sizes, &[]).await;
            match opened {
                Ok(_) => {
                    accepted = Some(key);
                    "ok".to_owned()
                }
                Err(error) => error.to_string(),
            }
        })
    });
    if is_ok != "ok" {
        return;
    }
    let key = accepted.expect("it was accepted");
    let accept = derive_accept_key(key.as_bytes());
    let response = replaced(bytes, ACCEPT, accept.as_bytes());
    let end = response.windows(4).position(|four| four == b"\r\n\r\n");
    let response = &response[..end.expect("a whole head") + 4];
    let text = String::from_utf8_lossy(response).to_ascii_lowercase();
    // tungstenite wants one field with one name, and getty takes a list without other names.
    let upgrades: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("upgrade:"))
        .collect();
    if upgrades.iter().map(|value| value.trim()).ne(["websocket"]) {
        let upgrades = upgrades.join(",");
        let mut names = upgrades
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        assert!(names.all(|name| name == "websocket"), "{text}");
        return;
    }
    let connections = text.lines().filter(|line| line.starts_with("connection:"));
    // It also wants HTTP/1.1, which getty requires of requests alone.
    let is_http_11 = text.starts_with("http/1.1");
    if !response.is_ascii() || connections.count() != 1 || !is_http_11 {
        return;
    }
    let mut request = http::Request::builder()
        .uri("ws://example.com/")
        .header("Host", "example.com")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Key", &key)
        .header("Sec-WebSocket-Version", "13");
    // tungstenite checks subprotocols, but has no extensions.
    if bits & 1 != 0 && text.contains("\nsec-websocket-protocol") {
        request = request.header("Sec-WebSocket-Protocol", "chat, v2");
    }
    let request = request.body(()).expect("a valid request");
    let client = tungstenite::client(request, Script::new(response));
    assert!(client.is_ok(), "tungstenite refuses: {:?}", client.err());
}

/// An offer, as the grammar of RFC 7692 has it: names with values.
type Offer = Vec<(String, Option<String>)>;

/// Splits a field into elements with parameters, character by character.
fn offers(field: &str) -> Vec<Offer> {
    let (mut offers, mut offer, mut part) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut escaped) = (false, false);
    let pair = |part: &str| {
        let trim = |text: &str| {
            text.trim_matches(|c: char| c.is_ascii_whitespace())
                .to_owned()
        };
        match part.split_once('=') {
            Some((name, value)) => (trim(name), Some(trim(value))),
            None => (trim(part), None),
        }
    };
    for character in field.chars().map(Some).chain([None]) {
        let separates = !quoted && matches!(character, Some(',' | ';'));
        if separates || character.is_none() {
            offer.push(pair(&part));
            part.clear();
            if character != Some(';') {
                offers.push(std::mem::take(&mut offer));
            }
            continue;
        }
        let Some(character) = character else { break };
        part.push(character);
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
    }
    offers
}

/// Returns the answer to an offer, or `None` if it is declined.
fn answer(offer: &Offer) -> Option<String> {
    let (name, parameters) = offer.split_first()?;
    let mut names: Vec<&str> = parameters.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    names.dedup();
    if *name != ("permessage-deflate".to_owned(), None) || names.len() != parameters.len() {
        return None;
    }
    let mut server_without = false;
    let mut server_bits = None;
    for (name, value) in parameters {
        let bits = value.as_deref().map(|value| {
            let bare = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'));
            let number = bare.unwrap_or(value);
            (8..=15).find(|bits: &u8| bits.to_string() == number)
        });
        match (&**name, bits) {
            ("server_no_context_takeover", None) => server_without = true,
            ("client_no_context_takeover" | "client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(Some(_))) => {}
            ("server_max_window_bits", Some(Some(bits))) if bits > 8 => server_bits = Some(bits),
            _ => return None,
        }
    }
    let mut answer = "permessage-deflate; client_no_context_takeover".to_owned();
    if server_without {
        answer += "; server_no_context_takeover";
    }
    if let Some(bits) = server_bits {
        answer += &format!("; server_max_window_bits={bits}");
    }
    Some(answer)
}

/// Offers of permessage-deflate, one field in each line of the input.
pub(crate) fn ws_deflate_offers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let visible = |line: &str| -> String {
        let fits = |c: &char| (' '..='~').contains(c) || *c == '\t';
        line.chars()
            .filter(fits)
            .collect::<String>()
            .trim()
            .to_owned()
    };
    let fields: Vec<String> = text.lines().map(visible).take(8).collect();
    let mut request = String::from_utf8_lossy(&REQUEST[..REQUEST.len() - 2]).into_owned();
    for field in &fields {
        request += &format!("Sec-WebSocket-Extensions: {field}\r\n");
    }
    request += "\r\n";
    let (io, peer) = wire();
    peer.send(request.as_bytes());
    let layer = WsLayer::new()
        .with_max_head(1 << 20, 64)
        .with_deflate(Deflate::new());
    let inner = service_fn(|_: Connection<WsTransport<Wire>>| async { Ok::<_, BoxError>(()) });
    let opened = block_on(layer.layer(inner).oneshot(Connection::new(io)));
    opened.expect("no offer fails the handshake");
    let head = String::from_utf8_lossy(&peer.output_bytes()).into_owned();
    let answered = head
        .lines()
        .find_map(|line| line.strip_prefix("sec-websocket-extensions: "));
    let expected = fields
        .iter()
        .flat_map(|field| offers(field))
        .find_map(|offer| answer(&offer));
    assert_eq!(answered, expected.as_deref(), "{fields:?}");
}

/// Returns a masked frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).expect("it fits")),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend(
                u16::try_from(length)
                    .expect("payloads are short")
                    .to_be_bytes(),
            );
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    bytes
}

/// Compressed messages in fragments, against another implementation.
pub(crate) fn ws_inflate(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let max = input.limit().max(1);
    let mut wire = Vec::new();
    let mut expected = Vec::new();
    // Codes that are possible if the next message is bad.
    let mut bad: Option<u16> = None;
    for _ in 0..4 {
        if input.is_empty() || bad.is_some() {
            break;
        }
        let bits = input.byte();
        let fragment = 1 + usize::from(input.byte());
        let mut payload = input.part().to_vec();
        let is_text = bits & 1 != 0;
        let compressed = bits & 2 != 0;
        if bits & 4 != 0 {
            payload = payload.repeat(1 + usize::from(bits >> 4) * 3);
        }
        if compressed && bits & 8 != 0 {
            payload = crate::codec::deflate_flushed(&payload);
        }
        let kind = if is_text { TEXT } else { BINARY };
        let mut parts: Vec<&[u8]> = payload.chunks(fragment).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        for (at, part) in parts.iter().enumerate() {
            let mut first = if at == 0 { kind } else { 0 };
            if at == 0 && compressed {
                first |= RSV1;
            }
            if at == last {
                first |= FIN;
            }
            wire.extend(frame(first, part));
        }
        let message = if compressed {
            inflate_flushed(&payload, max)
        } else {
            Some(payload.clone())
        };
        // Noise becomes slightly longer.
        let most = if compressed { max + max / 8 + 64 } else { max };
        let long = payload.len() > most;
        match message {
            Some(message) if message.len() > max || long => {
                bad = Some(WsClose::TOO_BIG);
            }
            Some(message) if is_text && str::from_utf8(&message).is_err() => {
                bad = Some(WsClose::INVALID_DATA);
            }
            Some(message) => expected.push((is_text, message)),
            None => bad = Some(WsClose::INVALID_DATA),
        }
    }
    let layer = WsLayer::new()
        .with_max_message(max)
        .with_deflate(Deflate::new());
    let ours = same_for_all_pieces(&wire, seed, |pieces| {
        let mut events = of_server(&layer, DEFLATE_REQUEST, &pieces);
        // A message may be too long and bad, and either may be found first.
        if events.code == WsClose::TOO_BIG {
            events.code = WsClose::INVALID_DATA;
        }
        events
    });
    let is_bad = ours.code == WsClose::INVALID_DATA;
    assert_eq!(
        is_bad,
        bad.is_some(),
        "{ours:?}, expected {bad:?} behind {expected:?}"
    );
    assert_eq!(ours.messages, expected);
}
