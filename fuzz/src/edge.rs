//! Bytes before a session: replies of proxies, detection, and dialogues.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Layer, NoReply, ServiceBuilder, SessionLayer,
    handle,
    net::proxy::{HttpConnectLayer, ProxyConnectError, Socks5ConnectLayer},
    tls::{Pem, ServerTls, TlsConfig, TlsError, TlsLayer, TlsOrPlainLayer, TlsOrPlainTransport},
    upgrade::{Opening, OpeningError, OpeningLayer},
    ws::{WsHandshakeError, WsLayer, WsOrRawLayer, WsOrRawTransport},
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tower::{ServiceExt, service_fn};

use crate::{
    codec::{Header, Lines},
    kit::{Input, Wire, block_on, same_for_all_pieces, send, wire},
};

pub(crate) const CHAIN: &str = include_str!("../certificates/chain.pem");
pub(crate) const KEY: &str = include_str!("../certificates/key.pem");

/// Reads to the end of the input.
async fn read_all(mut io: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut all = Vec::new();
    io.read_to_end(&mut all).await.expect("the stream ends");
    all
}

fn config() -> TlsConfig {
    static CONFIG: Mutex<Option<TlsConfig>> = Mutex::new(None);
    let mut config = CONFIG.lock().expect("loading does not panic");
    let load = || {
        let settings = ServerTls::new(Pem::inline(CHAIN), Pem::inline(KEY));
        settings.load().expect("the certificate is valid")
    };
    config.get_or_insert_with(load).clone()
}

/// A port that serves TLS and plain streams.
pub(crate) fn detect_tls(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let max_hello = 64 + 16 * usize::from(input.byte());
    let bytes = input.rest();
    let is_tls = bytes.starts_with(&[0x16, 3]) && bytes.get(2).is_some_and(|minor| *minor <= 4);
    let layer = TlsOrPlainLayer::new(TlsLayer::new(config()).with_max_hello(max_hello));
    let result = same_for_all_pieces(bytes, seed, |pieces| {
        let (io, peer) = wire();
        send(&peer, pieces);
        peer.finish();
        let inner = service_fn(
            |connection: Connection<TlsOrPlainTransport<Wire>>| async move {
                let is_tls = connection.handle().transport() == getty::TransportKind::Tls;
                let io = connection.into_parts().0;
                Ok::<_, BoxError>((is_tls, read_all(Stream(io)).await))
            },
        );
        let result = block_on(layer.layer(inner).oneshot(Connection::new(io)));
        let result = result.map_err(|error| match error.downcast_ref() {
            // Messages of rustls may contain how far it has read.
            Some(TlsError::HelloTooLong(_)) => "too long".to_owned(),
            Some(TlsError::TimedOut(_)) => panic!("the input has ended"),
            Some(_) => "failed".to_owned(),
            None => panic!("{error}"),
        });
        (result, peer.output_bytes().first().copied())
    });
    match result {
        (Ok((false, read)), answer) => {
            assert!(!is_tls && read == bytes && answer.is_none());
        }
        // No input can complete a handshake, because the server's part of it is random.
        (Ok((true, _)), _) => panic!("a handshake without a client"),
        (Err(error), answer) => {
            assert!(is_tls, "{error}");
            // an alert, or the server's part of a handshake that the client did not complete
            assert!(matches!(answer, None | Some(21 | 22)), "{answer:?}");
        }
    }
}

/// Reads a transport that is a byte stream.
struct Stream<T>(T);

impl<T: getty::Transport + Unpin> AsyncRead for Stream<T> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let mut part = bytes::BytesMut::with_capacity(buf.remaining());
        let limit = buf.remaining();
        std::task::ready!(self.0.poll_recv(cx, &mut part, limit))?;
        buf.put_slice(&part);
        std::task::Poll::Ready(Ok(()))
    }
}

/// A port that serves WebSocket and byte streams.
pub(crate) fn detect_ws(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let bytes = input.rest();
    let is_request = bytes.starts_with(b"GET ");
    let layer = WsOrRawLayer::new(&WsLayer::new());
    let result = same_for_all_pieces(bytes, seed, |pieces| {
        let (io, peer) = wire();
        send(&peer, pieces);
        peer.finish();
        let inner = service_fn(
            |connection: Connection<WsOrRawTransport<Wire>>| async move {
                let io = connection.into_parts().0;
                Ok::<_, BoxError>(if io.is_ws() {
                    None
                } else {
                    Some(read_all(Stream(io)).await)
                })
            },
        );
        let result = block_on(layer.layer(inner).oneshot(Connection::new(io)));
        let result = result.map_err(|error| match error.downcast_ref() {
            Some(WsHandshakeError::Refused(refusal)) => refusal.to_string(),
            Some(WsHandshakeError::PeerClosed) => "closed".to_owned(),
            other => panic!("{other:?}"),
        });
        (result, peer.output_bytes())
    });
    match result {
        (Ok(Some(read)), answer) => assert!(!is_request && read == bytes && answer.is_empty()),
        (Ok(None), answer) => assert!(is_request && answer.starts_with(b"HTTP/1.1 101 ")),
        (Err(_), answer) => {
            assert!(is_request);
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"));
        }
    }
}

/// How a dialogue and the session behind it have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Dialogue {
    lines: Vec<Vec<u8>>,
    /// Bytes that were read without the codec.
    exact: Vec<u8>,
    frames: Vec<Vec<u8>>,
    end: String,
}

/// Maximum of undecoded bytes in a dialogue, which no message of the target reaches.
const MAX_FRAME: usize = 100_000;

/// A dialogue in lines, then a session in frames. `EXACT` reads five bytes without the codec,
/// `CARRY` begins the session, and `END` begins it if nothing was read ahead.
pub(crate) fn opening(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let lines = Lines::read(&mut input);
    let header = Header::plain(input.limit());
    let bytes = input.rest();

    let mut model = Dialogue::default();
    let mut rest = bytes;
    loop {
        match lines.next(rest) {
            None => {
                model.end = "no session".to_owned();
                break;
            }
            Some((Err(error), _)) => {
                model.end = error;
                break;
            }
            Some((Ok(line), _)) if str::from_utf8(line).is_err() => {
                model.end = "not UTF-8".to_owned();
                break;
            }
            Some((Ok(line), later)) => {
                model.lines.push(line.to_vec());
                rest = later;
                if line == b"EXACT" {
                    let Some((exact, later)) = rest.split_at_checked(5) else {
                        model.end = "closed".to_owned();
                        break;
                    };
                    model.exact.extend(exact);
                    rest = later;
                } else if line == b"CARRY" {
                    let frames = header.model(rest);
                    model.frames = frames.messages().cloned().collect();
                    let is_bad = frames.end.is_some();
                    model.end = if is_bad { "decode" } else { "peer closed" }.to_owned();
                    break;
                }
            }
        }
    }

    let ours = same_for_all_pieces(bytes, seed, |pieces| {
        let (io, peer) = wire();
        send(&peer, pieces);
        peer.finish();
        let seen = Arc::new(Mutex::new(Dialogue::default()));
        let record = Arc::clone(&seen);
        let talk = move |mut opening: Opening<Wire, getty::codec::Lines>| {
            let record = Arc::clone(&record);
            async move {
                let seen = || record.lock().expect("it does not panic");
                while let Some(line) = opening.receive().await? {
                    seen().lines.push(line.clone().into_bytes());
                    if line == "EXACT" {
                        let mut exact = [0; 5];
                        opening.read_exact(&mut exact).await?;
                        seen().exact.extend(exact);
                    } else if line == "CARRY" {
                        return Ok(opening.carry()?);
                    }
                }
                Err("no session".into())
            }
        };
        let record = Arc::clone(&seen);
        let read = move |frame: Bytes| {
            let mut seen = record.lock().expect("it does not panic");
            seen.frames.push(frame.to_vec());
            NoReply
        };
        let stack = ServiceBuilder::new()
            .layer(OpeningLayer::new(lines.codec(), talk).with_max_frame(MAX_FRAME))
            .layer(CodecLayer::new(header.codec()))
            .layer(SessionLayer::new())
            .service(handle(read));
        let result = block_on(stack.oneshot(Connection::new(io)));
        let mut seen = seen.lock().expect("it does not panic").clone();
        seen.end = match result {
            Ok(closed) => match closed.reason {
                CloseReason::Decode => "decode".to_owned(),
                CloseReason::PeerClosed => "peer closed".to_owned(),
                other => panic!("{other}"),
            },
            Err(error) => match error.downcast_ref() {
                Some(OpeningError::PeerClosed) => "closed".to_owned(),
                Some(OpeningError::Decode(source)) => {
                    match crate::codec::class_of_line(source.as_ref()) {
                        Some(class) => class,
                        None => panic!("{source}"),
                    }
                }
                Some(other) => panic!("{other:?}"),
                None => error.to_string(),
            },
        };
        seen
    });
    assert!(ours == model, "\n    ours: {ours:?}\nexpected: {model:?}");
}

/// Replies of a SOCKS 5 proxy.
pub(crate) fn socks5_reply(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let with_login = input.byte() & 1 != 0;
    let bytes = input.rest();
    let mut layer = Socks5ConnectLayer::new(());
    if with_login {
        layer = layer.with_login("user", "secret");
    }
    let (ours, output) = same_for_all_pieces(bytes, seed, |pieces| {
        dial(&pieces, |connector| {
            layer.layer(connector).oneshot("example.com:7000")
        })
    });
    let expected = socks5_model(bytes, with_login);
    assert_eq!(ours, expected);
    assert!(output.starts_with(if with_login {
        b"\x05\x02\0\x02"
    } else {
        b"\x05\x01\0"
    }));
}

/// Returns the bytes behind the replies of a success, or the class of the error.
fn socks5_model(bytes: &[u8], with_login: bool) -> Result<Vec<u8>, String> {
    let closed = || "closed".to_owned();
    let take = |bytes: &mut &[u8], n: usize| {
        let (taken, rest) = bytes.split_at_checked(n).ok_or_else(closed)?;
        *bytes = rest;
        Ok::<Vec<u8>, String>(taken.to_vec())
    };
    let bytes = &mut &*bytes;
    let method = take(bytes, 2)?;
    match (&method[..], with_login) {
        ([5, 0], _) => {}
        ([5, 2], true) => {
            if take(bytes, 2)?[1] != 0 {
                return Err("rejected".to_owned());
            }
        }
        ([5, 0xff], true) => return Err("rejected".to_owned()),
        ([5, 0xff], false) => return Err("login required".to_owned()),
        _ => return Err("invalid".to_owned()),
    }
    let reply = take(bytes, 2)?;
    match reply[..] {
        [5, 0] => {}
        [5, code @ 3..=6] => return Err(format!("unreachable {code}")),
        [5, code] => return Err(format!("refused {code}")),
        _ => return Err("invalid".to_owned()),
    }
    let length = match take(bytes, 2)?[1] {
        1 => 4,
        3 => usize::from(take(bytes, 1)?[0]),
        4 => 16,
        _ => return Err("invalid".to_owned()),
    };
    take(bytes, length + 2)?;
    Ok(bytes.to_vec())
}

type Dialed = Result<Connection<Wire>, ProxyConnectError>;

/// Dials through a proxy that sends `pieces`. Returns what the session can read, or the class
/// of the error, and the request.
fn dial<F: Future<Output = Dialed>>(
    pieces: &[&[u8]],
    connect: impl FnOnce(Dialer) -> F,
) -> (Result<Vec<u8>, String>, Vec<u8>) {
    let (io, peer) = wire();
    send(&peer, pieces.iter().copied());
    peer.finish();
    let result = block_on(async {
        match connect(Dialer(Arc::new(Mutex::new(Some(io))))).await {
            Ok(connection) => Ok(read_all(connection.into_parts().0).await),
            Err(error) => Err(match error {
                ProxyConnectError::PeerClosed => "closed".to_owned(),
                ProxyConnectError::InvalidReply(_) => "invalid".to_owned(),
                ProxyConnectError::HeadTooLong(_) => "too long".to_owned(),
                ProxyConnectError::AuthRequired => "login required".to_owned(),
                ProxyConnectError::LoginRejected => "rejected".to_owned(),
                ProxyConnectError::Unreachable { code } => format!("unreachable {code}"),
                ProxyConnectError::Refused { code } => format!("refused {code}"),
                other => panic!("{other:?}"),
            }),
        }
    });
    let request = peer.output_bytes();
    (result, request)
}

/// Connector of one connection.
#[derive(Clone)]
struct Dialer(Arc<Mutex<Option<Wire>>>);

impl getty::Service<()> for Dialer {
    type Response = Connection<Wire>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Connection<Wire>, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let io = self.0.lock().expect("it does not panic").take();
        std::future::ready(io.map(Connection::new).ok_or("one connection".into()))
    }
}

/// Replies of an HTTP proxy.
pub(crate) fn connect_reply(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let with_login = input.byte() & 1 != 0;
    // The maximum of the heads is reached with fewer bytes of input.
    let filler = input.byte();
    let mut bytes = input.rest().to_vec();
    if let Some(at) = bytes.iter().position(|byte| *byte == 0xff) {
        bytes.splice(at..=at, vec![b'x'; 33 * usize::from(filler)]);
    }
    let mut layer = HttpConnectLayer::new(());
    if with_login {
        layer = layer.with_login("user", "secret");
    }
    let (ours, output) = same_for_all_pieces(&bytes, seed, |pieces| {
        dial(&pieces, |connector| {
            layer.layer(connector).oneshot("example.com:7000")
        })
    });
    let expected = connect_model(&bytes, with_login);
    assert_eq!(ours, expected);
    assert!(output.starts_with(b"CONNECT example.com:7000 HTTP/1.1\r\nHost: example.com:7000\r\n"));
    assert!(output.ends_with(b"\r\n\r\n"));
}

/// Maximum of all heads.
const MAX_HEADS: usize = 8192;

fn connect_model(bytes: &[u8], with_login: bool) -> Result<Vec<u8>, String> {
    let mut rest = bytes;
    loop {
        let used = bytes.len() - rest.len();
        if used + 13 > MAX_HEADS {
            return Err("too long".to_owned());
        }
        // The start of the status line, as far as it has arrived.
        for (at, byte) in rest.iter().take(13).enumerate() {
            let fits = match at {
                0..=6 => *byte == b"HTTP/1."[at],
                7 | 10 | 11 => byte.is_ascii_digit(),
                8 => *byte == b' ',
                9 => matches!(byte, b'1'..=b'9'),
                _ => matches!(byte, b' ' | b'\r' | b'\n'),
            };
            if !fits {
                return Err("invalid".to_owned());
            }
        }
        let Some(status) = rest.get(9..12).filter(|_| rest.len() >= 13) else {
            return Err("closed".to_owned());
        };
        let status: u16 = str::from_utf8(status)
            .expect("digits")
            .parse()
            .expect("digits");
        match status {
            100..300 => {}
            401 | 407 if with_login => return Err("rejected".to_owned()),
            401 | 407 => return Err("login required".to_owned()),
            502..=504 => return Err(format!("unreachable {status}")),
            _ => return Err(format!("refused {status}")),
        }
        // The head ends with an empty line behind the status line.
        let mut end = None;
        let mut line = 0;
        for (at, byte) in rest.iter().enumerate() {
            if *byte == b'\n' {
                if at > 12 && matches!(&rest[line..at], b"" | b"\r") && line > 0 {
                    end = Some(at + 1);
                    break;
                }
                line = at + 1;
            }
        }
        let Some(end) = end else {
            return Err(too_long_or_closed(bytes.len()));
        };
        if used + end > MAX_HEADS {
            return Err("too long".to_owned());
        }
        if status == 101 {
            return Err("invalid".to_owned());
        }
        rest = &rest[end..];
        if status >= 200 {
            return Ok(rest.to_vec());
        }
    }
}

fn too_long_or_closed(length: usize) -> String {
    // Two bytes may be missing to the end of a head, and are not read beyond the maximum.
    if length >= MAX_HEADS - 1 {
        "too long".to_owned()
    } else {
        "closed".to_owned()
    }
}

/// Targets of proxies: what is accepted has one form, which is accepted again.
pub(crate) fn proxy_target(data: &[u8]) {
    use getty::net::proxy::ProxyTarget;
    let text = String::from_utf8_lossy(data);
    let Ok(target) = ProxyTarget::try_from(&*text) else {
        return;
    };
    let form = target.to_string();
    let is_clean = |c: char| !c.is_whitespace() && !c.is_control();
    assert!(form.chars().all(is_clean), "{form:?} would break a line");
    assert!(target.host().len() <= 255 && !target.host().is_empty());
    if let Some(ip) = target.ip() {
        let host: IpAddr = target
            .host()
            .trim_matches(['[', ']'])
            .parse()
            .expect("an address");
        assert_eq!(host, ip);
    }
    let again = ProxyTarget::try_from(&*form).expect("its form is a target");
    assert_eq!((again.host(), again.port()), (target.host(), target.port()));
}
