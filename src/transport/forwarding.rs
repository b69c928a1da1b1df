//! Transports that wrap others must forward every method of the trait.
//!
//! A method that is not forwarded has its default, which fails nowhere and is often slower or
//! wrong.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    future::{BoxFuture, ready},
    task::noop_waker_ref,
};
use getty_core::{CloseReason, Connection, ConnectionHandle, driver::CodecId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BoxTransport, CloseCause, Framing, Prefixed, Received, SharedForm, Transport};
use crate::upgrade::{Upgradable, Upgrade, UpgradeError};

/// Names of the methods that were called.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn add(&self, method: &'static str) {
        self.0.lock().unwrap().push(method);
    }

    fn take(&self) -> Vec<&'static str> {
        mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Transport that logs its calls. None of its results is the default of the method.
struct Probe(Log);

impl Transport for Probe {
    fn framing(&self) -> Framing {
        self.0.add("framing");
        Framing::Stream
    }

    fn poll_recv(
        &mut self,
        _: &mut Context<'_>,
        _: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        self.0.add("poll_recv");
        Poll::Ready(Ok(Received::Control(limit)))
    }

    fn poll_send(&mut self, _: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.add("poll_send");
        Poll::Ready(Ok(bufs.len()))
    }

    fn shared_form(&self) -> Option<SharedForm> {
        self.0.add("shared_form");
        static ID: LazyLock<CodecId> = LazyLock::new(CodecId::unique);
        Some(SharedForm::new(*ID, 7))
    }

    fn prepare(&mut self, message: &[u8]) -> Bytes {
        self.0.add("prepare");
        Bytes::copy_from_slice(message)
    }

    fn poll_send_prepared(
        &mut self,
        _: &mut Context<'_>,
        _: &[IoSlice<'_>],
        prepared: &Bytes,
    ) -> Poll<io::Result<usize>> {
        self.0.add("poll_send_prepared");
        Poll::Ready(Ok(prepared.len()))
    }

    fn bytes_flushed(&self) -> u64 {
        self.0.add("bytes_flushed");
        7
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.add("poll_flush");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn max_message(&self) -> usize {
        self.0.add("max_message");
        7
    }

    fn has_more(&self) -> bool {
        self.0.add("has_more");
        true
    }

    fn needs_flush(&self) -> bool {
        self.0.add("needs_flush");
        true
    }

    fn is_incomplete(&self) -> bool {
        self.0.add("is_incomplete");
        true
    }

    fn take_close_reason(&mut self) -> Option<CloseCause> {
        self.0.add("take_close_reason");
        Some(UpgradeError::Finished.into())
    }

    fn has_ping(&self) -> bool {
        self.0.add("has_ping");
        true
    }

    fn poll_ping(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.add("poll_ping");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn can_finish(&self) -> bool {
        self.0.add("can_finish");
        true
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.add("poll_finish");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn check_upgrade(&self, _: &[u8]) -> Result<(), CloseCause> {
        self.0.add("check_upgrade");
        Ok(())
    }

    fn poll_upgrade(
        &mut self,
        _: &mut Context<'_>,
        _: &ConnectionHandle,
        _: &mut BytesMut,
    ) -> Poll<Result<(), CloseCause>> {
        self.0.add("poll_upgrade");
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &CloseReason) -> Poll<io::Result<()>> {
        self.0.add("poll_close");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Calls every method once, in the order of the trait. Returns the results.
fn call_all(io: &mut impl Transport) -> Vec<String> {
    let cx = &mut Context::from_waker(noop_waker_ref());
    let handle = Connection::new(()).handle().clone();
    let (bufs, buf) = (
        [IoSlice::new(b"ab"), IoSlice::new(b"c")],
        &mut BytesMut::new(),
    );
    // Without the wrappers of `check_upgrade` and `poll_upgrade`, which answer by themselves.
    vec![
        format!("{:?}", io.framing()),
        format!("{:?}", io.poll_recv(cx, buf, 3)),
        format!("{:?}", io.poll_send(cx, &bufs)),
        format!("{:?}", io.shared_form()),
        format!("{:?}", io.prepare(b"abcd")),
        format!(
            "{:?}",
            io.poll_send_prepared(cx, &bufs, &Bytes::from_static(b"abcde"))
        ),
        format!("{:?}", io.bytes_flushed()),
        format!("{:?}", io.poll_flush(cx)),
        format!("{:?}", io.max_message()),
        format!("{:?}", io.has_more()),
        format!("{:?}", io.needs_flush()),
        format!("{:?}", io.is_incomplete()),
        format!("{:?}", io.take_close_reason()),
        format!("{:?}", io.has_ping()),
        format!("{:?}", io.poll_ping(cx)),
        format!("{:?}", io.can_finish()),
        format!("{:?}", io.poll_finish(cx)),
        format!("{:?}", io.check_upgrade(b"")),
        format!("{:?}", io.poll_upgrade(cx, &handle, buf)),
        format!("{:?}", io.poll_close(cx, &CloseReason::Local)),
    ]
}

/// Returns the names of all methods of the trait, from its source.
fn methods() -> Vec<&'static str> {
    let source = include_str!("mod.rs");
    let (_, body) = source.split_once("\npub trait Transport {\n").unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let functions = body.lines().filter_map(|line| line.strip_prefix("    fn "));
    functions
        .filter_map(|line| Some(line.split_once('(')?.0))
        .collect()
}

#[test]
fn probe_and_its_caller_know_every_method() {
    let log = Log::default();
    let results = call_all(&mut Probe(log.clone()));
    assert_eq!(log.take(), methods());
    assert_eq!(results.len(), methods().len());
}

#[test]
fn boxed_transport_forwards_every_method() {
    let log = Log::default();
    let expected = call_all(&mut Probe(log.clone()));
    log.take();
    let results = call_all(&mut BoxTransport::new(Probe(log.clone())));
    assert_eq!((log.take(), results), (methods(), expected));
}

/// Upgrade to another probe.
struct ToProbe(Log);

impl<T> Upgrade<T, Probe> for ToProbe {
    fn carries(&self) -> bool {
        false
    }

    fn start(
        &self,
        _: T,
        _: Bytes,
        _: ConnectionHandle,
    ) -> BoxFuture<'static, Result<Probe, CloseCause>> {
        Box::pin(ready(Ok(Probe(self.0.clone()))))
    }
}

#[test]
fn upgradable_transport_forwards_every_method_but_its_own_before_and_after() {
    let own = |method: &&str| matches!(*method, "check_upgrade" | "poll_upgrade");
    let (before, after) = (Log::default(), Log::default());
    let expected = call_all(&mut Probe(before.clone()));
    before.take();
    let mut io =
        Upgradable::<_, Probe>::new(Probe(before.clone()), Arc::new(ToProbe(after.clone())));
    // The call of `poll_upgrade` upgrades it, and `poll_close` is the last.
    let results = call_all(&mut io);
    let mut called = before.take();
    // `check_upgrade` asks for the framing, and so does the end of the upgrade.
    assert_eq!(called.pop(), Some("framing"));
    let mut forwarded: Vec<_> = methods();
    forwarded.retain(|method| !own(method) && *method != "poll_close");
    assert_eq!(called, forwarded);
    assert_eq!(after.take(), ["framing", "poll_close"]);
    assert_eq!(results, expected);

    let results = call_all(&mut io);
    let mut called = after.take();
    called.retain(|method| !own(method));
    forwarded.push("poll_close");
    assert_eq!(called, forwarded);
    let refused = |(result, expected): (&String, &String)| result != expected;
    let differing = results.iter().zip(&expected).filter(|pair| refused(*pair));
    assert_eq!(differing.count(), 2, "a second upgrade is refused");
}

/// Byte stream that logs its calls.
struct ByteProbe(Log);

impl AsyncRead for ByteProbe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.add("poll_read");
        buf.put_slice(b"x");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteProbe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.add("poll_write");
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.add("poll_write_vectored");
        Poll::Ready(Ok(bufs.len()))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.add("is_write_vectored");
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.add("poll_flush");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.add("poll_shutdown");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Asserts that the wrapper of a byte stream is the same transport.
fn assert_same_transport<W: Transport>(wrap: impl FnOnce(Prefixed<ByteProbe>) -> W) {
    let log = Log::default();
    let expected = call_all(&mut ByteProbe(log.clone()));
    let called = log.take();
    assert!(called.contains(&"poll_write_vectored"));
    let mut wrapped = wrap(Prefixed::new(ByteProbe(log.clone()), Bytes::new()));
    assert_eq!((call_all(&mut wrapped), log.take()), (expected, called));
}

/// Asserts that the wrapper of a byte stream forwards the methods of byte streams.
fn assert_same_stream<W: AsyncRead + AsyncWrite + Unpin>(wrap: impl Fn(Prefixed<ByteProbe>) -> W) {
    let log = Log::default();
    let mut io = wrap(Prefixed::new(ByteProbe(log.clone()), Bytes::new()));
    let cx = &mut Context::from_waker(noop_waker_ref());
    let mut io = Pin::new(&mut io);
    let mut block = [0; 4];
    let _ = io.as_mut().poll_read(cx, &mut ReadBuf::new(&mut block));
    let _ = io.as_mut().poll_write(cx, b"a");
    let bufs = [IoSlice::new(b"a"), IoSlice::new(b"b")];
    let _ = io.as_mut().poll_write_vectored(cx, &bufs);
    assert!(io.is_write_vectored());
    let _ = io.as_mut().poll_flush(cx);
    let _ = io.as_mut().poll_shutdown(cx);
    let all = [
        "poll_read",
        "poll_write",
        "poll_write_vectored",
        "is_write_vectored",
        "poll_flush",
        "poll_shutdown",
    ];
    assert_eq!(log.take(), all);
    assert_same_transport(wrap);
}

#[test]
fn prefixed_stream_forwards_every_method() {
    assert_same_stream(|io| io);
}

#[cfg(feature = "tls")]
#[test]
fn plain_side_of_tls_or_plain_forwards_every_method() {
    assert_same_stream(crate::tls::TlsOrPlainTransport::plain);
}

#[cfg(feature = "ws")]
#[test]
fn raw_side_of_websocket_or_raw_forwards_every_method() {
    assert_same_transport(crate::ws::WsOrRawTransport::raw);
}

// A variant that keeps the default of a new method would pass on the raw side, whose default
// is the same. Such a method is missing in the source of the wrapper.
#[test]
fn wrappers_of_message_transports_name_every_method() {
    let wrappers = [
        ("WsOrRawTransport", include_str!("../ws/detect.rs")),
        (
            "Upgradable",
            include_str!("../upgrade/session/upgradable.rs"),
        ),
        ("BoxTransport", include_str!("boxed.rs")),
    ];
    for (name, source) in wrappers {
        for method in methods() {
            let is_named = source.contains(&format!("    fn {method}("));
            assert!(is_named, "{name} does not forward `{method}`");
        }
    }
}
