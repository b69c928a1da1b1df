//! Connectors inside tower's middleware.

use std::{
    future::{Ready, ready},
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    Address, Connection,
    net::{ConnectError, TcpConnector, TcpListener, memory},
};
use socket2::{Domain, Socket, Type};
use tower::{Service, ServiceBuilder, ServiceExt, retry::Policy, timeout::error::Elapsed};

use super::accept;

/// Retries this number of times.
#[derive(Clone)]
struct Times(u32);

impl<A: Clone, T> Policy<A, Connection<T>, ConnectError> for Times {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut A,
        result: &mut Result<Connection<T>, ConnectError>,
    ) -> Option<Ready<()>> {
        if result.is_ok() || self.0 == 0 {
            return None;
        }
        self.0 -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, target: &A) -> Option<A> {
        Some(target.clone())
    }
}

#[tokio::test]
async fn map_request_sets_the_target_of_a_tcp_connector() {
    let mut listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dialed = ServiceBuilder::new()
        .map_request(move |service: &'static str| -> SocketAddr {
            assert_eq!(service, "chat");
            address
        })
        .service(TcpConnector::new())
        .oneshot("chat")
        .await
        .unwrap();
    let accepted = accept(&mut listener).await;
    assert_eq!(accepted.handle().peer_addr(), dialed.handle().local_addr());
}

#[tokio::test]
async fn retry_dials_again_until_a_server_listens() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let (socket, dials) = (Arc::new(socket), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&dials);
    let connector = ServiceBuilder::new()
        .retry(Times(5))
        .map_request(move |target: SocketAddr| {
            if counted.fetch_add(1, SeqCst) == 2 {
                socket.listen(1).unwrap();
            }
            target
        })
        .service(TcpConnector::new());
    let dialed = connector.oneshot(address).await.unwrap();
    assert_eq!(dialed.handle().peer_addr(), &Address::Ip(address));
    assert_eq!(dials.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn timeout_ends_a_dial_before_the_connectors_own() {
    let (listener, connector) = memory(1);
    // Its queue is full because no task accepts.
    let mut waiting = Vec::new();
    for _ in 0..1024 {
        waiting.push(connector.connect().await.unwrap());
    }
    let error = ServiceBuilder::new()
        .timeout(Duration::from_secs(1))
        .service(connector.clone())
        .oneshot(())
        .await
        .unwrap_err();
    assert!(error.is::<Elapsed>(), "{error}");

    let error = connector.connect().await.unwrap_err();
    assert!(error.is_timeout());

    drop(listener);
    let mut retried = ServiceBuilder::new().retry(Times(3)).service(connector);
    let error = retried.ready().await.unwrap().call(()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[cfg(unix)]
#[tokio::test]
async fn unix_connector_takes_the_same_layers() {
    let directory = tempfile::tempdir().unwrap();
    let mut listener = getty::net::UnixListener::bind(directory.path().join("socket")).unwrap();
    let root = directory.path().to_owned();
    let dialed = ServiceBuilder::new()
        .timeout(Duration::from_secs(60))
        .retry(Times(1))
        .map_request(move |name: &'static str| root.join(name))
        .service(getty::net::UnixConnector::new())
        .oneshot("socket")
        .await
        .unwrap();
    accept(&mut listener).await;
    assert!(!dialed.handle().is_closing());
}
