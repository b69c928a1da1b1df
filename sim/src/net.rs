//! The simulated sockets as a listener and a connector of getty, with a trace of their bytes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use getty::{Connection, Endpoints, Listener, TransportKind, net::listener_fn};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use turmoil::net::{TcpListener, TcpStream};

use crate::trace::Trace;

/// Listens on `port` of the current host.
pub async fn listen(port: u16, trace: Trace) -> io::Result<impl Listener<Io = Wire>> {
    let socket = Arc::new(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?);
    let local = socket.local_addr()?;
    Ok(listener_fn(local, move || {
        let (socket, trace) = (Arc::clone(&socket), trace.clone());
        async move {
            let (stream, _) = socket.accept().await?;
            trace.event(format_args!("accepted {}", stream.peer_addr()?));
            wire(stream, trace, Pace::default())
        }
    }))
}

/// Dials a host by its name and port.
pub async fn dial(target: (String, u16), trace: Trace, pace: Pace) -> io::Result<Connection<Wire>> {
    trace.event(format_args!("dial {}:{}", target.0, target.1));
    let stream = TcpStream::connect(target).await?;
    wire(stream, trace, pace)
}

fn wire(stream: TcpStream, trace: Trace, pace: Pace) -> io::Result<Connection<Wire>> {
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let ends = Endpoints::new(TransportKind::Tcp, local.into(), peer.into());
    let wire = Wire {
        stream,
        local,
        trace,
        pace,
        paused: None,
    };
    Ok(Connection::with_endpoints(wire, ends))
}

/// Maximum rate at which a host reads. It may change while a connection is open.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<AtomicU32>);

impl Pace {
    /// Rate of a host that reads nothing.
    pub const STOPPED: u32 = u32::MAX;

    /// Sets the rate in bytes per millisecond. 0 is no limit.
    pub fn set(&self, bytes_per_ms: u32) {
        self.0.store(bytes_per_ms, Relaxed);
    }
}

/// A simulated stream that records what is read and written.
pub struct Wire {
    stream: TcpStream,
    local: SocketAddr,
    trace: Trace,
    pace: Pace,
    /// Wait until the next read is within the rate.
    paused: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(paused) = &mut self.paused {
            ready!(paused.as_mut().poll(cx));
            self.paused = None;
        }
        if self.pace.0.load(Relaxed) == Pace::STOPPED {
            let later = Instant::now() + Duration::from_millis(50);
            let mut paused = Box::pin(sleep_until(later));
            let _ = paused.as_mut().poll(cx);
            self.paused = Some(paused);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = ready!(pin!(&mut self.stream).poll_read(cx, buf));
        let read = read.map(|()| buf.filled().len() - before);
        let rate = self.pace.0.load(Relaxed);
        if let Ok(bytes @ 1..) = read
            && rate > 0
        {
            let pause = Duration::from_micros(bytes as u64 * 1000 / u64::from(rate));
            self.paused = Some(Box::pin(sleep_until(Instant::now() + pause)));
        }
        match &read {
            Ok(bytes) => self
                .trace
                .event(format_args!("{} read {bytes}", self.local)),
            Err(error) => self
                .trace
                .event(format_args!("{} read: {}", self.local, error.kind())),
        }
        Poll::Ready(read.map(|_| ()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(pin!(&mut self.stream).poll_write(cx, bytes));
        match &written {
            Ok(bytes) => self
                .trace
                .event(format_args!("{} wrote {bytes}", self.local)),
            Err(error) => self
                .trace
                .event(format_args!("{} write: {}", self.local, error.kind())),
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(pin!(&mut self.stream).poll_shutdown(cx));
        self.trace.event(format_args!("{} shutdown", self.local));
        Poll::Ready(shut)
    }
}
