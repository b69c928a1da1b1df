use std::{
    cell::Cell,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use getty::{Address, Connection, Endpoints, Listener, TransportKind, net::listener_fn};
use tokio::{
    io::DuplexStream,
    sync::{Mutex, mpsc},
};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use super::{accept, exchange};

/// Creates a listener over a channel of pipes or errors, and counts the calls of its function.
fn pipes() -> (
    impl Listener<Io = DuplexStream>,
    mpsc::UnboundedSender<io::Result<DuplexStream>>,
    Arc<AtomicUsize>,
) {
    let (dialed, incoming) = mpsc::unbounded_channel();
    let incoming = Arc::new(Mutex::new(incoming));
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let listener = listener_fn(SocketAddr::from(([192, 0, 2, 1], 7)), move || {
        count.fetch_add(1, SeqCst);
        let incoming = Arc::clone(&incoming);
        async move {
            let io: io::Result<_> = incoming.lock().await.recv().await.unwrap();
            let kind = TransportKind::Other("pipe");
            let ends = Endpoints::new(kind, Address::Unknown, Address::Unknown);
            Ok(Connection::with_endpoints(io?, ends))
        }
    });
    (listener, dialed, calls)
}

#[tokio::test]
async fn listener_of_a_function_accepts_and_reports_its_address() {
    let (mut listener, dialed, _) = pipes();
    let address = SocketAddr::from(([192, 0, 2, 1], 7));
    assert_eq!(listener.local_addr().unwrap(), Address::Ip(address));
    for _ in 0..3 {
        let (local, remote) = tokio::io::duplex(64);
        dialed.send(Ok(remote)).unwrap();
        let mut accepted = accept(&mut listener).await;
        assert_eq!(accepted.handle().transport().as_str(), "pipe");
        exchange(&mut Connection::new(local), &mut accepted)
            .await
            .unwrap();
    }
}

#[test]
fn listener_of_a_function_continues_after_an_error_with_one_accept_at_a_time() {
    let (mut listener, dialed, calls) = pipes();
    let mut polled = task::spawn(());
    let mut poll = || polled.enter(|cx, _| listener.poll_accept(cx));

    assert_pending!(poll());
    assert_pending!(poll());
    assert_eq!(calls.load(SeqCst), 1);
    dialed.send(Err(ErrorKind::ConnectionReset.into())).unwrap();
    assert_eq!(assert_ready_err!(poll()).kind(), ErrorKind::ConnectionReset);
    assert_pending!(poll());
    dialed.send(Ok(tokio::io::duplex(64).0)).unwrap();
    assert_ready_ok!(poll());
    assert_eq!(calls.load(SeqCst), 2);
}

thread_local! {
    static DROPPED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

struct Drops(&'static str);

impl Drop for Drops {
    fn drop(&mut self) {
        DROPPED.set(Some(self.0));
    }
}

#[test]
fn dropped_listener_drops_the_accept_before_the_function() {
    let function = Drops("function");
    let mut listener = listener_fn(Address::Unknown, move || {
        let _function = &function;
        let accept = Drops("accept");
        async move {
            let _accept = accept;
            std::future::pending::<io::Result<Connection<DuplexStream>>>().await
        }
    });
    assert_pending!(task::spawn(()).enter(|cx, _| listener.poll_accept(cx)));
    assert_eq!(DROPPED.take(), None);
    drop(listener);
    assert_eq!(DROPPED.take(), Some("function"));
}
