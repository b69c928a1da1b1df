//! A client that is connected to one peer.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, CodecLayer, OpenError, Request, ServiceBuilder, Session, SessionLayer,
    SessionTask, TransportKind,
    net::{ConnectError, ProbePolicy, UdpConnector, UdpListener},
};
use tokio::{net::UdpSocket, sync::mpsc};

use super::{V4, V6, Whole, reporting_echo, serve, soon};

type Answers = mpsc::UnboundedReceiver<Bytes>;

async fn connect(
    connector: UdpConnector,
    address: SocketAddr,
) -> Result<(Session<Bytes>, SessionTask, Answers), OpenError> {
    let (answers, answered) = mpsc::unbounded_channel();
    let (session, task) = getty::connect(connector, address, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Whole))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<Bytes>| {
                let sent = answers.send(request.into_message());
                async move { sent.map(|()| None).map_err(BoxError::from) }
            })
    })
    .await?;
    Ok((session, task, answered))
}

#[tokio::test]
async fn client_talks_to_its_peer_in_both_families() {
    for any in [V4, V6] {
        let listener = UdpListener::bind(any).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stack, _sessions) = reporting_echo();
        let _server = serve(listener, stack);
        let (session, _task, mut answers) =
            soon(connect(UdpConnector::new(), address)).await.unwrap();
        assert_eq!(session.transport(), TransportKind::Udp);
        assert_eq!(session.peer_addr().socket_addr(), Some(address));
        assert!(
            session
                .local_addr()
                .socket_addr()
                .unwrap()
                .ip()
                .is_loopback()
        );
        for n in 0..200 {
            soon(session.feed(Bytes::from(n.to_string())))
                .await
                .unwrap();
        }
        for n in 0..200 {
            assert_eq!(soon(answers.recv()).await.unwrap(), n.to_string());
        }
        assert_eq!(session.stats().messages_out, 200);
    }
}

#[tokio::test]
async fn name_is_resolved_at_each_dial() {
    let server = UdpSocket::bind(V4).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let connection = UdpConnector::new()
        .connect(("localhost", port))
        .await
        .unwrap();
    assert_eq!(connection.handle().peer_addr().port(), Some(port));
    let error = UdpConnector::new()
        .connect("no such host:7")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no such host"));
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn refusal_closes_a_client_unless_refusals_are_ignored() {
    let server = UdpSocket::bind(V4).await.unwrap();
    let address = server.local_addr().unwrap();
    drop(server);
    let (session, task, _answers) = soon(connect(UdpConnector::new(), address)).await.unwrap();
    session.try_send(Bytes::from("anybody?")).unwrap();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Io);
    let source = closed.source.unwrap();
    let source: &std::io::Error = source.downcast_ref().unwrap();
    assert_eq!(source.kind(), ErrorKind::ConnectionRefused);

    let connector = UdpConnector::new().with_refusals_ignored(true);
    let (session, _task, mut answers) = soon(connect(connector, address)).await.unwrap();
    for _ in 0..5 {
        soon(session.send(Bytes::from("anybody?"))).await.unwrap();
    }
    let server = UdpSocket::bind(address).await.unwrap();
    soon(session.send(Bytes::from("now?"))).await.unwrap();
    let mut buf = [0; 16];
    let (_, from) = soon(server.recv_from(&mut buf)).await.unwrap();
    server.send_to(b"now", from).await.unwrap();
    assert_eq!(soon(answers.recv()).await.unwrap(), "now");
}

#[tokio::test]
async fn socket_connected_to_itself_is_refused() {
    let port = UdpSocket::bind(V4)
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let itself = SocketAddr::from(([127, 0, 0, 1], port));
    let connector = UdpConnector::new().with_local_addr(itself);
    let error = connector.connect(itself).await.unwrap_err();
    assert!(error.is_self_connect());
}

#[tokio::test]
async fn probe_is_answered_or_ignored_and_drops_no_other_datagram() {
    let probing = UdpConnector::new().with_probe(Duration::from_millis(200));
    // This server recognizes the probe and answers it.
    let listener = UdpListener::builder()
        .with_probes(ProbePolicy::Answer)
        .bind(V4)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let (stack, _sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let patient = UdpConnector::new().with_probe(Duration::from_secs(3600));
    let patient = patient.with_connect_timeout(Duration::from_secs(3600));
    let (session, _task, mut answers) = soon(connect(patient, address)).await.unwrap();
    assert_eq!(monitor.stats().probes, 1);
    soon(session.send(Bytes::from("hello"))).await.unwrap();
    assert_eq!(soon(answers.recv()).await.unwrap(), "hello");

    // This server discards the ping. Servers of the Go library do so.
    let silent = UdpSocket::bind(V4).await.unwrap();
    let address = silent.local_addr().unwrap();
    let (_session, _task, _answers) = soon(connect(probing.clone(), address)).await.unwrap();
    let mut buf = [0; 64];
    let (len, _) = soon(silent.recv_from(&mut buf)).await.unwrap();
    assert_eq!(&buf[..len], b"connect-ping");

    // Another answer must be delivered to the session.
    let talkative = UdpSocket::bind(V4).await.unwrap();
    let address = talkative.local_addr().unwrap();
    let (dialed, ()) = tokio::join!(soon(connect(probing, address)), async {
        let (_, from) = soon(talkative.recv_from(&mut buf)).await.unwrap();
        talkative.send_to(b"welcome", from).await.unwrap();
    });
    let (_session, _task, mut answers) = dialed.unwrap();
    assert_eq!(soon(answers.recv()).await.unwrap(), "welcome");
}

#[tokio::test]
async fn answer_to_a_probe_is_not_a_message_but_later_empty_datagrams_are() {
    let server = UdpSocket::bind(V4).await.unwrap();
    let address = server.local_addr().unwrap();
    let probing = UdpConnector::new()
        .with_probe(Duration::from_secs(3600))
        .with_connect_timeout(Duration::from_secs(3600))
        .with_empty_datagrams(true);
    let mut buf = [0; 64];
    let (dialed, from) = tokio::join!(soon(connect(probing, address)), async {
        let (_, from) = soon(server.recv_from(&mut buf)).await.unwrap();
        server.send_to(b"", from).await.unwrap();
        from
    });
    let (_session, _task, mut answers) = dialed.unwrap();
    server.send_to(b"first", from).await.unwrap();
    server.send_to(b"", from).await.unwrap();
    assert_eq!(soon(answers.recv()).await.unwrap(), "first");
    assert_eq!(soon(answers.recv()).await.unwrap(), "");
}

#[tokio::test]
async fn datagrams_are_exchanged_with_fragments_off() {
    let listener = UdpListener::builder()
        .with_fragments(false)
        .bind(V4)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let (stack, _sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let connector = UdpConnector::new().with_fragments(false);
    let (session, _task, mut answers) = soon(connect(connector, address)).await.unwrap();
    for length in [1, 1400, 9000] {
        let message = Bytes::from(vec![b'x'; length]);
        soon(session.send(message.clone())).await.unwrap();
        assert_eq!(soon(answers.recv()).await.unwrap(), message);
    }
    assert_eq!(monitor.stats().unsent, 0);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn refused_probe_fails_the_dial() {
    let address = UdpSocket::bind(V4).await.unwrap().local_addr().unwrap();
    let probing = UdpConnector::new().with_probe(Duration::from_secs(60));
    let Err(OpenError::Connect(error)) = soon(connect(probing, address)).await else {
        panic!("no server listens there");
    };
    let error: &ConnectError = error.downcast_ref().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn failed_dial_reports_each_address_that_it_tried() {
    // No other process can bind these ports meanwhile. No socket listens at these addresses.
    let taken = [UdpSocket::bind(V4).await, UdpSocket::bind(V4).await];
    let refusing = taken.each_ref().map(|taken| {
        let port = taken.as_ref().unwrap().local_addr().unwrap().port();
        SocketAddr::from(([127, 0, 0, 2], port))
    });
    let other_family: SocketAddr = V6.parse().unwrap();
    let connector = UdpConnector::new()
        .with_local_addr(V4.parse().unwrap())
        .with_probe(Duration::from_secs(60));
    let targets = [other_family, refusing[0], refusing[1]];
    let error = soon(connector.connect(&targets[..])).await.unwrap_err();
    let attempts: Vec<_> = error
        .attempts()
        .iter()
        .map(|(address, error)| (*address, error.kind()))
        .collect();
    let refused = |address| (address, ErrorKind::ConnectionRefused);
    assert_eq!(attempts, [refused(refusing[0]), refused(refusing[1])]);

    let error = soon(connector.connect(other_family)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(error.attempts().is_empty());
}

#[tokio::test]
async fn client_counts_dropped_datagrams() {
    let server = UdpSocket::bind(V4).await.unwrap();
    let address = server.local_addr().unwrap();
    let connector = UdpConnector::new().with_max_datagram(10);
    let (session, _task, mut answers) = soon(connect(connector, address)).await.unwrap();
    let client = session.local_addr().socket_addr().unwrap();
    for message in [&b"much too long"[..], b"", b"bad", b"good"] {
        server.send_to(message, client).await.unwrap();
    }
    assert_eq!(soon(answers.recv()).await.unwrap(), "good");
    assert_eq!(session.stats().skipped, 2);
    assert!(
        soon(session.send(Bytes::from("much too long")))
            .await
            .is_err()
    );
}
