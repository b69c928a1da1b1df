//! Replies of proxies: split at any byte, cut off, or of another protocol.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use getty::{
    CloseReason, Connection,
    net::proxy::{ProxyConnectError, ProxyKind},
    service_fn,
};
use proptest::{collection::vec, prelude::*};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tower::ServiceExt;

use super::kit::{
    Dialogue, HTTP_REQUEST, KINDS, SOCKS_REQUEST, TARGET, cut_off, dial, over, success,
};

/// Reply that names the address by a name.
const SOCKS_NAME: &[u8] = b"\x05\x00\x00\x03\x0bexample.com\x1b\x58";

/// Returns the whole of a proxy's replies in a success.
fn replies(kind: ProxyKind) -> Vec<u8> {
    let replies = success(kind).iter().map(|(_, reply)| *reply);
    replies.collect::<Vec<_>>().concat()
}

/// Transport that takes every write and returns the given pieces, one a read, then the end.
#[derive(Debug)]
struct Pieces(std::vec::IntoIter<Vec<u8>>, Vec<u8>);

impl Pieces {
    fn new(pieces: Vec<Vec<u8>>) -> Self {
        Self(pieces.into_iter(), Vec::new())
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.1.is_empty() {
            self.1 = self.0.find(|piece| !piece.is_empty()).unwrap_or_default();
        }
        let n = self.1.len().min(buf.remaining());
        buf.put_slice(&self.1[..n]);
        self.1.drain(..n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Dials over a transport that returns `pieces`. Returns what is left to read after a success.
fn run(kind: ProxyKind, pieces: Vec<Vec<u8>>) -> Result<Vec<u8>, ProxyConnectError> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().unwrap();
    let inner = service_fn(|pieces: Vec<Vec<u8>>| async {
        Ok::<_, io::Error>(Connection::new(Pieces::new(pieces)))
    });
    runtime.block_on(async {
        let connection = over(kind, pieces, inner).oneshot(TARGET).await?;
        let mut rest = Vec::new();
        let (mut io, _guard) = connection.into_parts();
        io.read_to_end(&mut rest).await.unwrap();
        Ok(rest)
    })
}

/// Splits `bytes` at the given positions.
fn split(bytes: &[u8], at: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut at: Vec<_> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for to in at.into_iter().chain([bytes.len()]) {
        pieces.push(bytes[from..to].to_vec());
        from = to;
    }
    pieces
}

fn kind() -> impl Strategy<Value = ProxyKind> {
    prop::sample::select(&KINDS[..])
}

/// A head of a success.
fn head() -> impl Strategy<Value = Vec<u8>> {
    let newline = prop::sample::select(vec!["\r\n", "\n"]);
    let field = "[A-Za-z-]{1,12}: [ -~]{0,20}";
    (
        "HTTP/1\\.[01] 2[0-9]{2}( [ -~]{0,20})?",
        vec((newline.clone(), field), 0..4),
        newline.clone(),
        newline,
    )
        .prop_map(|(mut head, fields, last, end)| {
            for (newline, field) in fields {
                head = head + newline + &field;
            }
            (head + last + end).into_bytes()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn split_replies_succeed_and_leave_the_greeting(
        kind in kind(),
        head in head(),
        greeting in vec(any::<u8>(), 0..40),
        at in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut bytes = match kind {
            ProxyKind::Http => head,
            _ => replies(kind),
        };
        bytes.extend_from_slice(&greeting);
        prop_assert_eq!(run(kind, split(&bytes, &at)).unwrap(), greeting);
    }

    #[test]
    fn arbitrary_bytes_are_a_typed_error_or_a_success(
        kind in kind(),
        start in any::<prop::sample::Index>(),
        bytes in vec(any::<u8>(), 0..600),
        at in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        // A valid start reaches the later states.
        let valid = replies(kind);
        let bytes = [&valid[..start.index(valid.len())], &bytes].concat();
        if let Ok(rest) = run(kind, split(&bytes, &at)) {
            prop_assert!(bytes.ends_with(&rest));
        }
    }
}

#[tokio::test]
async fn proxy_that_closes_at_any_byte_is_a_typed_error() {
    let heads = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\n\n";
    let interim: Dialogue<'_> = &[(HTTP_REQUEST, heads)];
    let name: Dialogue<'_> = &[(b"\x05\x01\x00", b"\x05\x00"), (SOCKS_REQUEST, SOCKS_NAME)];
    for (kind, dialogue) in [
        (ProxyKind::Socks5, success(ProxyKind::Socks5)),
        (ProxyKind::Socks5, name),
        (ProxyKind::Http, success(ProxyKind::Http)),
        (ProxyKind::Http, interim),
    ] {
        let whole: usize = dialogue.iter().map(|(_, reply)| reply.len()).sum();
        for sent in 0..whole {
            let error = cut_off(kind, dialogue, sent).await;
            assert!(
                matches!(error, ProxyConnectError::PeerClosed),
                "{sent}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn replies_of_another_protocol_fail_at_their_first_byte() {
    for (kind, reply) in [
        (ProxyKind::Socks5, &b"\x04\x5a"[..]),
        (ProxyKind::Socks5, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        (ProxyKind::Socks5, b"\x05\x00\x04\x00"),
        (ProxyKind::Socks5, b"\x05\x00\x05\x00\x00\x02"),
        (ProxyKind::Http, b"\x05"),
        (ProxyKind::Http, b"\x15\x03\x01"),
        (ProxyKind::Http, b"SSH-2.0-OpenSSH_9.2\r\n"),
        (ProxyKind::Http, b"http/1.1"),
        (ProxyKind::Http, b"HTTP/2"),
        (ProxyKind::Http, b"HTTP/1.x"),
        (ProxyKind::Http, b"HTTP/1.1  "),
        (ProxyKind::Http, b"HTTP/1.1 0"),
        (ProxyKind::Http, b"HTTP/1.1 20x"),
        (ProxyKind::Http, b"HTTP/1.1 2000"),
        (ProxyKind::Http, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
    ] {
        let (dialed, peer) = dial(|inner| over(kind, (), inner), TARGET, &[(b"", reply)]).await;
        let error = dialed.map(drop).unwrap_err();
        assert!(
            matches!(error, ProxyConnectError::InvalidReply(_)),
            "{error:?}"
        );
        assert!(
            peer.is_some(),
            "the failure waits for nothing: {}",
            reply.escape_ascii()
        );
    }
}

#[tokio::test]
async fn failed_dialogue_closes_its_connection_with_the_error_as_source() {
    let (mut ended, mut ends) = (Vec::new(), Vec::new());
    for kind in KINDS {
        let (sender, receiver) = std::sync::mpsc::channel();
        let inner = service_fn(move |()| {
            let connection = Connection::new(Pieces::new(vec![b"garbage".to_vec()]));
            let sender = sender.clone();
            connection
                .handle()
                .add_close_callback("test", "end", move |closed| {
                    sender.send(closed.clone()).unwrap();
                });
            async { Ok::<_, io::Error>(connection) }
        });
        ended.push(
            over(kind, (), inner)
                .oneshot(TARGET)
                .await
                .unwrap_err()
                .to_string(),
        );
        let closed = receiver.try_recv().unwrap();
        assert_eq!(closed.reason, CloseReason::Refused);
        let source = closed.source.unwrap();
        ends.push(
            source
                .downcast_ref::<ProxyConnectError>()
                .unwrap()
                .to_string(),
        );
    }
    assert_eq!(ended, ends);
}

#[tokio::test]
async fn connection_closed_by_its_handle_ends_the_dialogue() {
    for kind in KINDS {
        let (handles, handle) = std::sync::mpsc::channel();
        let (_keep, io) = tokio::io::duplex(64);
        let io = std::sync::Arc::new(std::sync::Mutex::new(Some(io)));
        let inner = service_fn(move |()| {
            let connection = Connection::new(io.lock().unwrap().take().unwrap());
            handles.send(connection.handle().clone()).unwrap();
            async { Ok::<_, io::Error>(connection) }
        });
        let dial = tokio::spawn(over(kind, (), inner).oneshot(TARGET));
        let handle = loop {
            tokio::task::yield_now().await;
            if let Ok(handle) = handle.try_recv() {
                break handle;
            }
        };
        handle.close();
        let error = dial.await.unwrap().map(drop).unwrap_err();
        assert!(matches!(error, ProxyConnectError::Cancelled));
        assert_eq!(handle.reason(), Some(CloseReason::Local));
    }
}

#[tokio::test]
async fn requests_name_addresses_in_their_own_form() {
    let socks = |request: &'static [u8]| {
        [
            (&b"\x05\x01\x00"[..], &b"\x05\x00"[..]),
            (request, success(ProxyKind::Socks5)[1].1),
        ]
    };
    let connect = |inner| over(ProxyKind::Socks5, (), inner);
    let v4 = socks(b"\x05\x01\x00\x01\x7f\x00\x00\x01\x1b\x58");
    assert!(dial(connect, "127.0.0.1:7000", &v4).await.0.is_ok());
    let v6 = socks(b"\x05\x01\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1b\x58");
    assert!(dial(connect, "[::1]:7000", &v6).await.0.is_ok());
    let name = socks(SOCKS_REQUEST);
    assert!(dial(connect, ("example.com", 7000), &name).await.0.is_ok());

    let connect = |inner| over(ProxyKind::Http, (), inner);
    let ok = b"HTTP/1.1 200 OK\r\n\r\n";
    let v6 = b"CONNECT [::1]:7000 HTTP/1.1\r\nHost: [::1]:7000\r\n\r\n";
    for target in ["[::1]:7000", "[0::1]:7000"] {
        assert!(dial(connect, target, &[(v6, ok)]).await.0.is_ok());
    }
    assert!(dial(connect, ("::1", 7000), &[(v6, ok)]).await.0.is_ok());
    let address: std::net::SocketAddr = "[::1]:7000".parse().unwrap();
    assert!(dial(connect, address, &[(v6, ok)]).await.0.is_ok());
    assert!(
        dial(connect, TARGET.to_owned(), &[(HTTP_REQUEST, ok)])
            .await
            .0
            .is_ok()
    );
}
