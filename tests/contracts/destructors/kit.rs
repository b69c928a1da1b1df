//! Values whose destructors panic and count their drops.

use std::{
    hash::{Hash, Hasher},
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use bytes::BytesMut;
use getty::{
    Address, BoxError, Connection, Reply, Request, Service, hooks::Contained, net::Listener,
};
use getty_test::{Stream, TestListener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};
use tokio_util::codec::{Decoder, Encoder};

/// Number of bombs.
#[derive(Debug, Default)]
pub(crate) struct Bombs {
    made: AtomicUsize,
    dropped: AtomicUsize,
}

impl Bombs {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn bomb(self: &Arc<Self>) -> Bomb {
        self.made.fetch_add(1, SeqCst);
        Bomb(Arc::clone(self))
    }

    pub(crate) fn arm<T>(self: &Arc<Self>, value: T) -> Armed<T> {
        Armed {
            value,
            bomb: self.bomb(),
        }
    }

    /// Asserts that each of at least `least` bombs was dropped.
    #[track_caller]
    pub(crate) fn assert_dropped(&self, least: usize) {
        let (made, dropped) = (self.made.load(SeqCst), self.dropped.load(SeqCst));
        assert_eq!(dropped, made, "every destructor runs");
        assert!(made >= least, "{made} bombs");
    }
}

/// Panics when it is dropped. A destructor may do so if it unwraps a poisoned lock.
#[derive(Debug)]
pub(crate) struct Bomb(Arc<Bombs>);

impl Bomb {
    pub(crate) fn disarm(self) {
        self.0.dropped.fetch_add(1, SeqCst);
        std::mem::forget(self);
    }
}

impl Clone for Bomb {
    fn clone(&self) -> Self {
        self.0.bomb()
    }
}

impl PartialEq for Bomb {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Bomb {}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, SeqCst);
        panic!("a bad destructor");
    }
}

/// A value with a bomb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Armed<T> {
    pub(crate) value: T,
    pub(crate) bomb: Bomb,
}

impl<T: Hash> Hash for Armed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl<F: Future + Unpin> Future for Armed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut self.value).poll(cx)
    }
}

impl AsyncRead for Armed<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.value).poll_read(cx, buf)
    }
}

impl AsyncWrite for Armed<Stream> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.value).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.value).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.value).poll_shutdown(cx)
    }
}

impl Listener for Armed<TestListener> {
    type Io = Armed<Stream>;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        let accepted = self.value.poll_accept(cx);
        let bombs = &self.bomb.0;
        accepted.map_ok(|connection| connection.map_transport(|stream| bombs.arm(stream)))
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.value.local_addr()
    }
}

/// A line that may have a bomb.
#[derive(Debug)]
pub(crate) struct Parcel {
    text: String,
    bomb: Option<Bomb>,
}

impl Parcel {
    pub(crate) fn plain(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            bomb: None,
        }
    }

    pub(crate) fn armed(bombs: &Arc<Bombs>) -> Self {
        Self {
            text: "armed".to_owned(),
            bomb: Some(bombs.bomb()),
        }
    }
}

/// Lines with a bomb in the codec and in each message that is received as `armed`.
#[derive(Clone, Debug)]
pub(crate) struct Parcels(pub(crate) Bomb);

impl Decoder for Parcels {
    type Item = Parcel;
    type Error = io::Error;

    fn decode(&mut self, buf: &mut BytesMut) -> io::Result<Option<Parcel>> {
        let Some(end) = buf.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = buf.split_to(end + 1);
        let text = String::from_utf8_lossy(&line[..end]).into_owned();
        let bomb = (text == "armed").then(|| self.0.0.bomb());
        Ok(Some(Parcel { text, bomb }))
    }
}

impl Encoder<Parcel> for Parcels {
    type Error = io::Error;

    fn encode(&mut self, parcel: Parcel, buf: &mut BytesMut) -> io::Result<()> {
        buf.extend_from_slice(parcel.text.as_bytes());
        buf.extend_from_slice(b"\n");
        parcel.bomb.into_iter().for_each(Bomb::disarm);
        Ok(())
    }
}

/// Gate at which handlers wait.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    pub(crate) unready: AtomicBool,
    pub(crate) reply: Notify,
}

/// Hangs, replies twice at the gate, or panics, as the message asks.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) gates: Arc<Gates>,
    pub(crate) bomb: Bomb,
}

impl Service<Request<Parcel>> for Worker {
    type Response = Reply<Parcel>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply<Parcel>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.gates.unready.load(SeqCst) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Parcel>) -> Self::Future {
        let (gates, bombs) = (Arc::clone(&self.gates), Arc::clone(&self.bomb.0));
        Box::pin(async move {
            match request.into_message().text.as_str() {
                "hang" => {
                    let _bomb = bombs.bomb();
                    std::future::pending().await
                }
                "reply" => {
                    gates.reply.notified().await;
                    Ok(Reply::many(vec![
                        Parcel::armed(&bombs),
                        Parcel::armed(&bombs),
                    ]))
                }
                other => panic!("the message requests a panic: {other}"),
            }
        })
    }
}

/// A future that panics from `outside` once that is set.
pub(crate) struct Outer<F> {
    pub(crate) inner: Pin<Box<Contained<F>>>,
    pub(crate) outside: Arc<AtomicBool>,
}

impl<F: Future> Future for Outer<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        assert!(!self.outside.load(SeqCst), "an outer layer");
        self.inner.as_mut().poll(cx)
    }
}
