//! Faults around a socket: its file is removed, its port is taken, its peer vanishes without a
//! connection that would end, and the certificate of an open session expires.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    CloseReason, Layer, OpenError, ServiceBuilder, Session,
    layers::IdleTimeoutLayer,
    net::{TcpConnector, TcpListener, UdpConnector, UdpListener},
    serve,
    tls::{
        ServerTls, TlsConnectLayer, TlsError, TlsLayer,
        rustls::{
            ClientConfig,
            client::Resumption,
            pki_types::{ServerName, UnixTime},
            time_provider::TimeProvider,
        },
    },
};
use tokio::net::UdpSocket;

use crate::app::{NAME, Side, soon};

#[tokio::test]
async fn sessions_outlive_the_file_of_their_unix_socket_and_the_path_can_be_bound_again() {
    use getty::net::{UnixConnector, UnixListener};

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let (server, client) = (Side::new(), Side::new());
    let stack = server.outside(server.server());
    let listener = UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move { serve(listener, stack).await });
    let dial = async || {
        let build = |link| client.outside(client.client(link));
        getty::connect(UnixConnector::new(), path.clone(), build).await
    };
    let (session, _task) = dial().await.unwrap();
    std::fs::remove_file(&path).unwrap();
    session.send("?still here".to_owned()).await.unwrap();
    while client.hear().await != "!still here" {}
    let Err(OpenError::Connect(error)) = dial().await else {
        panic!("nothing listens at the path");
    };
    assert!(error.to_string().contains("socket"), "{error}");

    let other = Side::new();
    let stack = other.outside(other.server());
    let listener = UnixListener::bind(&path).unwrap();
    let second = tokio::spawn(async move { serve(listener, stack).await });
    let (again, _task) = dial().await.unwrap();
    // The first listener leaves the file of the second one.
    served.abort();
    soon(session.closed()).await;
    server.settle(&"removed").await;
    let (third, _task) = dial().await.unwrap();
    again.close();
    third.close();
    soon(again.closed()).await;
    soon(third.closed()).await;
    second.abort();
    client.settle(&"removed").await;
    other.settle(&"removed").await;
}

#[tokio::test]
async fn bind_of_a_taken_port_names_it_over_tcp_and_udp() {
    fn check(error: &io::Error, address: impl fmt::Display) {
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    check(&TcpListener::bind(address).await.unwrap_err(), address);
    let udp = UdpListener::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    check(&UdpListener::bind(address).await.unwrap_err(), address);
}

/// A phase of a session over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    Opening,
    Idle,
    InFlight,
    Draining,
}

const PHASES: [Phase; 4] = [
    Phase::Opening,
    Phase::Idle,
    Phase::InFlight,
    Phase::Draining,
];

/// No datagram shows that a peer is gone. Its session ends at the idle timeout at the latest,
/// or when the peer's machine reports that its port is closed.
#[tokio::test]
async fn session_of_a_udp_peer_that_vanishes_in_any_phase_ends_alone() {
    for phase in PHASES {
        let side = Side::new();
        let idle = IdleTimeoutLayer::any_traffic(Duration::from_millis(300));
        let stack = ServiceBuilder::new().layer(idle).service(side.server());
        let stack = side.outside(stack);
        let listener = UdpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move { serve(listener, stack).await });
        side.close_gates(phase == Phase::Opening, phase >= Phase::InFlight);
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.send_to(b"?work\n", address).await.unwrap();
        match phase {
            Phase::Opening => side.until(|side| side.opening.load(SeqCst) == 1).await,
            Phase::Idle => {
                let mut buffer = [0; 100];
                while !buffer.starts_with(b"!work") {
                    soon(peer.recv_from(&mut buffer)).await.unwrap();
                }
            }
            Phase::InFlight | Phase::Draining => {
                side.until(|side| side.working.load(SeqCst) == 1).await;
            }
        }
        if phase == Phase::Draining {
            side.sessions.all().pop().unwrap().close();
        }
        drop(peer);
        tokio::task::yield_now().await;
        side.open_gates();
        side.settle(&phase).await;
        let reasons = side.reasons();
        match phase {
            Phase::Draining => assert_eq!(reasons, [CloseReason::Local]),
            _ => assert_eq!(reasons, [CloseReason::IdleTimeout], "{phase:?}"),
        }
        // The listener serves the next peer.
        let next = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        next.send_to(b"?hello\n", address).await.unwrap();
        let mut buffer = [0; 100];
        while !buffer.starts_with(b"!hello") {
            soon(next.recv_from(&mut buffer)).await.unwrap();
        }
        served.abort();
        side.settle(&phase).await;
    }
}

#[tokio::test]
async fn udp_client_learns_that_its_server_is_gone_in_any_phase() {
    for phase in PHASES {
        let side = Side::new();
        side.close_gates(phase == Phase::Opening, phase >= Phase::InFlight);
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let builder = side.clone();
        let dialled = tokio::spawn(async move {
            let build = |link| builder.outside(builder.client(link));
            getty::connect(UdpConnector::new(), target, build).await
        });
        let mut buffer = [0; 100];
        let (_, client) = soon(server.recv_from(&mut buffer)).await.unwrap();
        if phase >= Phase::InFlight {
            server.send_to(b"?work\n", client).await.unwrap();
            side.until(|side| side.working.load(SeqCst) == 1).await;
        }
        let session: Session<String> = side.sessions.all().pop().unwrap();
        if phase == Phase::Draining {
            session.close();
        }
        drop(server);
        // The next datagram is refused by the machine of the server. It is the same machine, so
        // the refusal is there once the datagram is sent.
        let _ = soon(session.send("?anyone".to_owned())).await;
        if matches!(phase, Phase::Idle | Phase::InFlight) {
            soon(session.closing()).await;
        }
        side.open_gates();
        side.settle(&phase).await;
        let reasons = side.reasons();
        match phase {
            Phase::Draining => assert_eq!(reasons, [CloseReason::Local]),
            Phase::Opening => assert!(
                matches!(reasons[..], [CloseReason::Io | CloseReason::Refused]),
                "{reasons:?}"
            ),
            _ => assert_eq!(reasons, [CloseReason::Io], "{phase:?}"),
        }
        let _ = soon(dialled).await.unwrap();
    }
}

/// A clock for certificates.
#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_secs(self.0.load(SeqCst));
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// A certificate is verified in the handshake alone: a session continues beyond its end, and
/// the next dial fails.
#[tokio::test]
async fn session_outlives_its_certificate_and_the_next_dial_does_not() {
    const DAY: u64 = 24 * 60 * 60;

    let mut params = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2030, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 3);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let pem = getty::tls::Pem::inline(cert.pem());
    let config = ServerTls::new(pem.clone(), getty::tls::Pem::inline(key.serialize_pem()))
        .load()
        .unwrap();
    // 2 January 2030
    let clock = Arc::new(Clock(AtomicU64::new(21_915 * DAY + DAY)));
    let trusts = getty::tls::ClientTls::new().with_roots(pem).load().unwrap();
    let mut trusts = ClientConfig::clone(&trusts);
    trusts.time_provider = Arc::clone(&clock) as _;
    trusts.resumption = Resumption::disabled();
    let connector = TlsConnectLayer::new(Arc::new(trusts))
        .with_server_name(ServerName::try_from(NAME).unwrap())
        .layer(TcpConnector::new());

    let (server, client) = (Side::new(), Side::new());
    let stack = server.outside(TlsLayer::new(config.clone()).layer(server.server()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move { serve(listener, stack).await });
    let dial = async || {
        let build = |link| client.outside(client.client(link));
        getty::connect(connector.clone(), address, build).await
    };
    let (session, _task) = dial().await.unwrap();
    clock.0.fetch_add(2 * DAY, SeqCst);
    session.send("?expired".to_owned()).await.unwrap();
    while client.hear().await != "!expired" {}
    let Err(OpenError::Connect(error)) = dial().await else {
        panic!("the certificate has expired");
    };
    assert!(error.downcast_ref::<TlsError>().is_some(), "{error}");
    assert!(!session.is_closed());
    server.until(|side| side.connections.len() == 1).await;

    session.close();
    soon(session.closed()).await;
    client.settle(&"expired").await;
    served.abort();
    server.settle(&"expired").await;
}
