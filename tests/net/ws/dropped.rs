use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use getty::{
    BoxError, Connection, Layer, Service, Transport, service_fn,
    ws::{WsLayer, WsOrRawLayer},
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

/// Stream that records its drop.
struct Recorded {
    io: DuplexStream,
    is_dropped: Arc<AtomicBool>,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.is_dropped.store(true, Relaxed);
    }
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn inner<T>() -> impl Service<Connection<T>, Response = getty::Closed, Error = BoxError> + Clone
where
    T: Transport + Send + 'static,
{
    service_fn(|_: Connection<T>| async { Err::<getty::Closed, BoxError>("not reached".into()) })
}

/// Drops the future of a handshake that waits for the peer.
fn drop_handshake<S>(mut service: S)
where
    S: Service<Connection<Recorded>>,
{
    let (io, _peer) = duplex(64);
    let is_dropped = Arc::new(AtomicBool::new(false));
    let connection = Connection::new(Recorded {
        io,
        is_dropped: Arc::clone(&is_dropped),
    });
    let handle = connection.handle().clone();
    let (seen, at_close) = (Arc::new(AtomicBool::new(false)), Arc::clone(&is_dropped));
    let saw = Arc::clone(&seen);
    handle.add_close_callback("test", 1, move |_| {
        saw.store(at_close.load(Relaxed), Relaxed);
    });
    {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let call = pin!(service.call(connection));
        assert!(call.poll(&mut cx).is_pending());
    }
    assert!(handle.is_closed());
    assert!(
        seen.load(Relaxed),
        "the callback ran before the transport was dropped"
    );
}

#[tokio::test]
async fn handshake_that_is_dropped_drops_its_transport_before_callbacks_run() {
    drop_handshake(WsLayer::new().layer(inner()));
    drop_handshake(WsOrRawLayer::new(&WsLayer::new()).layer(inner()));
}
