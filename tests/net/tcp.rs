use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use getty::{
    Address, Listener, TransportKind,
    net::{Keepalive, TcpConnector, TcpListener},
};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::TcpStream,
    time::{self, Instant},
};
use tower::{Service, ServiceExt};

use super::{accept, exchange, report, silent::silent};

const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// Returns a socket that is bound to `address` and its address with the assigned port.
fn bound(address: SocketAddr, reuse_address: bool) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(reuse_address)?;
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().unwrap();
    Ok((socket, address))
}

/// Returns an address that refuses every dial because its port belongs to a socket that does
/// not listen.
fn refusing() -> (Socket, SocketAddr) {
    bound(ANY_PORT.into(), false).unwrap()
}

#[tokio::test]
async fn tokio_listener_accepts_connections_with_nodelay_and_their_addresses() {
    let mut listener = tokio::net::TcpListener::bind(ANY_PORT).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(
        Listener::local_addr(&listener).unwrap(),
        Address::Ip(address)
    );

    let mut dialed = TcpConnector::new().connect(address).await.unwrap();
    let mut accepted = accept(&mut listener).await;
    assert!(accepted.transport().nodelay().unwrap());
    assert!(dialed.transport().nodelay().unwrap());

    assert_eq!(accepted.handle().transport(), TransportKind::Tcp);
    assert_eq!(dialed.handle().transport(), TransportKind::Tcp);
    assert_eq!(dialed.handle().peer_addr(), &Address::Ip(address));
    assert_eq!(accepted.handle().local_addr(), &Address::Ip(address));
    assert_eq!(accepted.handle().peer_addr(), dialed.handle().local_addr());
    exchange(&mut dialed, &mut accepted).await.unwrap();
}

#[tokio::test]
async fn listener_has_its_defaults() {
    let mut listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = SockRef::from(listener.get_ref());
    assert_eq!(socket.reuse_address().unwrap(), cfg!(unix));
    #[cfg(target_os = "linux")]
    assert!(!socket.reuse_port().unwrap());

    let _dialed = TcpConnector::new().connect(address).await.unwrap();
    let accepted = accept(&mut listener).await;
    assert!(accepted.transport().nodelay().unwrap());
    let socket = SockRef::from(accepted.transport());
    assert!(!socket.keepalive().unwrap());
}

#[cfg(any(target_os = "android", target_os = "linux"))]
#[tokio::test]
async fn kernel_accepts_128_kib_of_unsent_bytes_by_default() {
    let unsent = |stream: &TcpStream| SockRef::from(stream).tcp_notsent_lowat().unwrap();
    let listeners = [
        (TcpListener::builder(), 128 * 1024),
        (TcpListener::builder().with_unsent_limit(5_000), 5_000),
    ];
    for (builder, limit) in listeners {
        let mut listener = builder.bind(ANY_PORT).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connector = TcpConnector::new().with_unsent_limit(limit);
        let dialed = connector.connect(address).await.unwrap();
        let accepted = accept(&mut listener).await;
        assert_eq!(unsent(accepted.transport()), limit);
        assert_eq!(unsent(dialed.transport()), limit);
    }
    let mut listener = tokio::net::TcpListener::bind(ANY_PORT).await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = TcpStream::connect(address).await.unwrap();
    assert_eq!(unsent(accept(&mut listener).await.transport()), 128 * 1024);
    let connector = TcpConnector::new().with_unsent_limit(None);
    let dialed = connector.connect(address).await.unwrap();
    assert_eq!(unsent(dialed.transport()), unsent(&plain));
}

#[tokio::test]
async fn options_of_a_listener_apply_to_its_connections() {
    let keepalive = Keepalive::new(Duration::from_secs(61))
        .with_interval(Duration::from_secs(7))
        .with_retries(4);
    let builder = TcpListener::builder()
        .with_nodelay(false)
        .with_keepalive(keepalive)
        .with_send_buffer_size(20_000)
        .with_recv_buffer_size(30_000)
        .with_reuse_address(false);
    let mut listener = builder.bind(ANY_PORT).await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = SockRef::from(listener.get_ref());
    assert!(!socket.reuse_address().unwrap());

    let _dialed = TcpConnector::new().connect(address).await.unwrap();
    let accepted = accept(&mut listener).await;
    assert_settings(&SockRef::from(accepted.transport()));
}

#[tokio::test]
async fn options_of_a_connector_apply_to_its_connections() {
    let listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let keepalive = Keepalive::new(Duration::from_secs(61))
        .with_interval(Duration::from_secs(7))
        .with_retries(4);
    let dialed = TcpConnector::new()
        .with_nodelay(false)
        .with_keepalive(keepalive)
        .with_send_buffer_size(20_000)
        .with_recv_buffer_size(30_000)
        .connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    assert_settings(&SockRef::from(dialed.transport()));
}

fn assert_settings(socket: &SockRef<'_>) {
    assert!(!socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(
        socket.tcp_keepalive_time().unwrap(),
        Duration::from_secs(61)
    );
    assert_eq!(
        socket.tcp_keepalive_interval().unwrap(),
        Duration::from_secs(7)
    );
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
    // Linux reports twice the requested size.
    let asked = |bytes| [bytes, 2 * bytes];
    assert!(asked(20_000).contains(&socket.send_buffer_size().unwrap()));
    assert!(asked(30_000).contains(&socket.recv_buffer_size().unwrap()));
}

#[tokio::test]
async fn unsupported_option_fails_the_bind_and_the_dial() {
    let never = Keepalive::new(Duration::ZERO);
    let error = TcpListener::builder()
        .with_keepalive(never)
        .bind(ANY_PORT)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    let listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let error = TcpConnector::new()
        .with_keepalive(never)
        .connect(listener.local_addr().unwrap())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn listener_converted_from_the_standard_library_accepts() {
    let listener = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let mut listener = TcpListener::try_from(listener).unwrap();
    let address = listener.local_addr().unwrap();
    let mut dialed = TcpConnector::new().connect(address).await.unwrap();
    let mut accepted = accept(&mut listener).await;
    assert!(accepted.transport().nodelay().unwrap());
    exchange(&mut dialed, &mut accepted).await.unwrap();

    let mut listener = TcpListener::from(listener.into_inner());
    let _dialed = TcpConnector::new().connect(address).await.unwrap();
    assert!(accept(&mut listener).await.transport().nodelay().unwrap());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn listeners_share_a_port_only_if_both_allow_it() {
    let sharing = TcpListener::builder().with_reuse_port(true);
    let mut one = sharing.bind(ANY_PORT).await.unwrap();
    let address = one.local_addr().unwrap();
    let mut other = sharing.bind(address).await.unwrap();
    assert_eq!(other.local_addr().unwrap(), address);

    let error = TcpListener::bind(address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);

    let dialed = TcpConnector::new().connect(address).await.unwrap();
    let accepted = tokio::select! {
        accepted = accept(&mut one) => accepted,
        accepted = accept(&mut other) => accepted,
    };
    assert_eq!(accepted.handle().peer_addr(), dialed.handle().local_addr());
}

#[tokio::test]
async fn bind_error_names_the_address() {
    let taken = TcpListener::bind(ANY_PORT).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = TcpListener::bind(address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(
        report(&error).starts_with(&format!("cannot listen on {address}\n")),
        "{}",
        report(&error)
    );
}

#[tokio::test]
async fn bind_uses_the_first_available_address() {
    let taken = TcpListener::bind(ANY_PORT).await.unwrap();
    let addresses = [taken.local_addr().unwrap(), ANY_PORT.into()];
    let listener = TcpListener::bind(&addresses[..]).await.unwrap();
    assert_ne!(listener.local_addr().unwrap(), addresses[0]);

    let none: &[SocketAddr] = &[];
    let error = TcpListener::bind(none).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn listener_with_only_v6_excludes_v4() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // a machine without IPv6
    }
    for only_v6 in [true, false] {
        let builder = TcpListener::builder().with_only_v6(only_v6);
        let mut listener = builder.bind("[::]:0").await.unwrap();
        let socket = SockRef::from(listener.get_ref());
        assert_eq!(socket.only_v6().unwrap(), only_v6);

        let port = listener.local_addr().unwrap().port();
        let v6 = TcpConnector::new().connect(("::1", port)).await.unwrap();
        let accepted = accept(&mut listener).await;
        assert_eq!(accepted.handle().peer_addr(), v6.handle().local_addr());
        let v4 = TcpConnector::new().connect(("127.0.0.1", port)).await;
        assert_eq!(v4.is_err(), only_v6);
    }
}

#[tokio::test]
async fn only_v6_has_no_effect_on_a_v4_address() {
    let builder = TcpListener::builder().with_only_v6(true);
    builder.bind(ANY_PORT).await.unwrap();
}

#[tokio::test]
async fn connector_accepts_targets_of_many_types() {
    let mut listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connector = TcpConnector::new();

    // Dial with the connector as a service.
    let text: &'static str = address.to_string().leak();
    let mut dialed = vec![
        connector.clone().oneshot(address).await.unwrap(),
        connector.clone().oneshot(text).await.unwrap(),
        connector.clone().oneshot(text.to_owned()).await.unwrap(),
        connector
            .clone()
            .oneshot(("localhost", address.port()))
            .await
            .unwrap(),
        connector
            .clone()
            .oneshot(("localhost".to_owned(), address.port()))
            .await
            .unwrap(),
    ];
    // Dial with borrowed targets.
    let borrowed = address.to_string();
    dialed.push(connector.connect(borrowed.as_str()).await.unwrap());
    dialed.push(connector.connect(&[address][..]).await.unwrap());

    for dialed in dialed {
        let accepted = accept(&mut listener).await;
        assert_eq!(accepted.handle().peer_addr(), dialed.handle().local_addr());
    }
}

#[tokio::test]
async fn refused_dial_names_the_target() {
    let (_taken, address) = refusing();
    let error = TcpConnector::new().connect(address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(!error.is_timeout() && !error.is_self_connect());
    assert_eq!(error.target(), address.to_string());
    assert!(report(&error).starts_with(&format!("cannot connect to {address}\n")));

    // The service must report the same failure.
    let mut connector = TcpConnector::new();
    let error = connector.call(address.to_string()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot connect to \"{address}\"")
    );
}

#[tokio::test]
async fn dial_continues_with_the_next_address() {
    let (_taken, refusing) = refusing();
    let listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let live = listener.local_addr().unwrap();
    for limit in [Duration::from_secs(60), Duration::MAX] {
        let connector = TcpConnector::new().with_connect_timeout(limit);
        let dialed = connector.connect(&[refusing, live][..]).await.unwrap();
        assert_eq!(dialed.handle().peer_addr(), &Address::Ip(live));
    }
}

#[tokio::test(start_paused = true)]
async fn dial_without_an_answer_ends_at_the_connect_timeout() {
    let (_listener, _waiting, address) = silent().await;
    for (connector, limit) in [
        (TcpConnector::new(), Duration::from_secs(3)),
        (
            TcpConnector::new().with_connect_timeout(Duration::from_secs(20)),
            Duration::from_secs(20),
        ),
    ] {
        let started = Instant::now();
        let error = connector
            .connect(&[address, address, address][..])
            .await
            .unwrap_err();
        assert!(error.is_timeout(), "{}", report(&error));
        // Each address has a timer, and tokio's timers may be late by a millisecond.
        let late = started.elapsed() - limit;
        assert!(late <= Duration::from_millis(3), "{late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silent_address_is_overtaken_by_the_next() {
    let (_full, _waiting, silent) = silent().await;
    let listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let live = listener.local_addr().unwrap();
    let started = Instant::now();
    let dial = tokio::spawn(async move {
        let connector = TcpConnector::new().with_connect_timeout(Duration::from_secs(60));
        connector.connect(&[silent, silent, live][..]).await
    });

    // The delays of two addresses have passed. The third is dialed in real time because it
    // answers.
    time::sleep(Duration::from_millis(500)).await;
    time::resume();
    let dialed = dial.await.unwrap().unwrap();
    assert_eq!(dialed.handle().peer_addr(), &Address::Ip(live));
    // This is long before the connect timeout.
    assert!(started.elapsed() < Duration::from_secs(50));
}

#[tokio::test(start_paused = true)]
async fn next_address_is_dialed_after_the_attempt_delay() {
    let (_listener, _waiting, silent) = silent().await;
    let (_taken, refusing) = refusing();
    let second = Duration::from_secs(1);
    for (delay, dials_both) in [(second, true), (2 * second, true), (4 * second, false)] {
        let error = TcpConnector::new()
            .with_attempt_delay(delay)
            .with_connect_timeout(3 * second)
            .connect(&[silent, refusing][..])
            .await
            .unwrap_err();
        let refused = error
            .attempts()
            .iter()
            .any(|(_, error)| error.kind() == ErrorKind::ConnectionRefused);
        assert_eq!(refused, dials_both, "{delay:?}: {}", report(&error));
    }
}

#[tokio::test(start_paused = true)]
async fn failed_dial_reports_each_address() {
    let (_full, _waiting, silent) = silent().await;
    let (_taken, refusing) = refusing();
    let error = TcpConnector::new()
        .connect(&[silent, refusing][..])
        .await
        .unwrap_err();
    let attempts: Vec<_> = error
        .attempts()
        .iter()
        .map(|(address, error)| (*address, error.kind()))
        .collect();
    assert_eq!(
        attempts,
        [
            (refusing, ErrorKind::ConnectionRefused),
            (silent, ErrorKind::TimedOut)
        ]
    );
    assert!(error.is_timeout());
    let report = report(&error);
    assert!(
        report.contains(&format!("{refusing}: Connection refused")),
        "{report}"
    );
    assert!(
        report.contains(&format!("{silent}: no answer within")),
        "{report}"
    );
}

#[tokio::test]
async fn unresolved_name_fails_the_dial() {
    let error = TcpConnector::new()
        .connect(("nobody.invalid", 7000))
        .await
        .unwrap_err();
    assert!(error.attempts().is_empty());
    assert_eq!(error.target(), "(\"nobody.invalid\", 7000)");
    assert!(std::error::Error::source(&error).is_some());
}

#[cfg(target_os = "linux")] // where all of 127.0.0.0/8 is there
#[tokio::test]
async fn dial_uses_the_local_address() {
    let mut listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let target = listener.local_addr().unwrap();
    let local = SocketAddr::from(([127, 0, 0, 2], 0));
    let connector = TcpConnector::new().with_local_addr(local);
    let dialed = connector.connect(target).await.unwrap();
    assert_eq!(dialed.handle().local_addr().ip(), Some(local.ip()));
    let accepted = accept(&mut listener).await;
    assert_eq!(accepted.handle().peer_addr(), dialed.handle().local_addr());

    let error = connector.connect(("::1", target.port())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn self_connected_socket_is_refused_and_reset() {
    // No other test uses this address. The socket keeps the port and shares it with the connector.
    let any = SocketAddr::from(([127, 0, 0, 3], 0));
    let (kept, address) = bound(any, true).unwrap();
    let connector = TcpConnector::new().with_local_addr(address);
    let error = connector.connect(address).await.unwrap_err();
    assert!(error.is_self_connect(), "{}", report(&error));
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(report(&error).contains("connected to itself"));

    // An orderly close would keep the port occupied for a minute.
    drop(kept);
    bound(address, false).unwrap();
}
