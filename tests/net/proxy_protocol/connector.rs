//! Client side with the server's layer or plain bytes at the other end.

use std::time::Duration;

use getty::{
    Address, BoxError, CloseReason, CodecLayer, Connection, NoReply, ServiceBuilder, Session,
    SessionLayer,
    codec::Lines,
    handle,
    layers::access::AccessList,
    net::{MemoryConnector, TcpConnector, TcpListener, memory},
    proxy::{
        ProxiedTarget, ProxyError, ProxyFor, ProxyHeader, ProxyInfo, ProxyProtocolConnectLayer,
        ProxyProtocolLayer,
    },
    service_fn,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tower::{Layer, ServiceExt};

use super::{CLIENT, LINE, SERVICE, ip};

/// Returns a server that describes each connection to itself.
fn server() -> MemoryConnector {
    let (listener, connector) = memory(4096);
    let app = ServiceBuilder::new()
        .layer(ProxyProtocolLayer::from_sources(AccessList::allow_all()))
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|_: String, session: Session<String>| {
            let info: ProxyInfo = session.get().expect("a header was received");
            let tlvs: Vec<_> = info.tlvs().collect();
            let own = session.peer_addr() == session.socket_peer_addr();
            format!(
                "{:?} own={own} {} {} {tlvs:?}",
                info.command(),
                session.peer_addr(),
                session.local_addr()
            )
        }));
    tokio::spawn(async move { getty::serve(listener, app).await });
    connector
}

async fn ask(connection: Connection<DuplexStream>) -> String {
    let mut io = BufReader::new(connection.into_parts().0);
    io.write_all(b"?\n").await.unwrap();
    let mut answer = String::new();
    io.read_line(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn relayed_client_reaches_the_server_and_a_plain_target_is_local() {
    let connector = server();
    for (layer, local, tlvs) in [
        (ProxyProtocolConnectLayer::v1(), "Proxy", "[]"),
        (ProxyProtocolConnectLayer::v2(), "Local", "[(224, [120])]"),
    ] {
        let connector = layer.layer(connector.clone());
        let target = ProxyFor::new((), ip(CLIENT), ip(SERVICE)).with_tlv(0xE0, "x");
        let answer = ask(connector.clone().oneshot(target).await.unwrap()).await;
        assert_eq!(
            answer,
            format!("Proxy own=false {CLIENT} {SERVICE} {tlvs}\n")
        );
        let answer = ask(connector.oneshot(()).await.unwrap()).await;
        assert!(
            answer.starts_with(&format!("{local} own=true memory-")),
            "{answer}"
        );
    }
    let checked = ProxyProtocolConnectLayer::v2()
        .with_checksum()
        .layer(connector);
    let target = ProxyFor::new((), ip(CLIENT), ip(SERVICE));
    let answer = ask(checked.oneshot(target).await.unwrap()).await;
    assert!(answer.starts_with("Proxy own=false"), "{answer}");
}

#[tokio::test]
async fn client_of_another_connection_is_relayed_with_its_real_address() {
    let incoming = Connection::new(());
    incoming
        .handle()
        .set_real_addrs(ip(SERVICE), ip(CLIENT))
        .unwrap();
    let target = ProxyFor::client((), incoming.handle());
    assert_eq!(target, ProxyFor::new((), ip(CLIENT), ip(SERVICE)));
    let connector = ProxyProtocolConnectLayer::v2().layer(server());
    let answer = ask(connector.oneshot(target).await.unwrap()).await;
    assert!(answer.starts_with(&format!("Proxy own=false {CLIENT} {SERVICE}")));
}

#[tokio::test]
async fn header_comes_before_all_other_bytes_over_a_socket() {
    use getty::Listener;
    let mut listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Listener::local_addr(&listener)
        .unwrap()
        .socket_addr()
        .unwrap();
    let connector = ProxyProtocolConnectLayer::v1().layer(TcpConnector::new());
    let target = ProxyFor::new(address.to_string(), ip(CLIENT), ip(SERVICE));
    let (session, _task) = getty::connect(connector, target, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(|_: String| NoReply))
    })
    .await
    .unwrap();
    session.send("hello".to_owned()).await.unwrap();
    session.close();
    assert_eq!(
        session.peer_addr(),
        &Address::Ip(address),
        "the client's own view"
    );
    let mut accepted = crate::accept(&mut listener).await;
    let mut bytes = Vec::new();
    accepted
        .transport_mut()
        .read_to_end(&mut bytes)
        .await
        .unwrap();
    assert_eq!(bytes, [LINE, b"hello\n"].concat());
}

#[derive(Clone)]
struct Shard(u16);

impl ProxiedTarget for Shard {
    type Target = ();

    fn into_parts(self) -> ((), Option<ProxyHeader>) {
        let source = Address::Ip(([192, 0, 2, 1], self.0).into());
        ((), Some(ProxyHeader::new(source, ip(SERVICE))))
    }
}

#[tokio::test]
async fn targets_of_the_application_may_name_their_client() {
    let connector = ProxyProtocolConnectLayer::v2().layer(server());
    let answer = ask(connector.oneshot(Shard(7)).await.unwrap()).await;
    assert!(
        answer.starts_with("Proxy own=false 192.0.2.1:7 "),
        "{answer}"
    );
}

#[tokio::test(start_paused = true)]
async fn header_that_is_not_taken_in_time_fails_the_dial() {
    // a pipe of ten bytes without a reader
    let (listener, connector) = memory(10);
    let layer = ProxyProtocolConnectLayer::v2().with_handshake_timeout(Duration::from_secs(2));
    let error = layer.layer(connector).oneshot(()).await.unwrap_err();
    let error = error.downcast::<ProxyError>().unwrap();
    assert!(matches!(*error, ProxyError::TimedOut(time) if time == Duration::from_secs(2)));
    drop(listener);
}

#[tokio::test]
async fn errors_of_the_connector_and_of_the_header_are_returned() {
    let refusing = service_fn(async |()| Err::<Connection<DuplexStream>, BoxError>("down".into()));
    let error = ProxyProtocolConnectLayer::v2()
        .layer(refusing)
        .oneshot(())
        .await;
    assert_eq!(error.unwrap_err().to_string(), "down");

    let dialed = service_fn(async |()| -> Result<Connection<DuplexStream>, BoxError> {
        panic!("a header that cannot be encoded is not worth a dial")
    });
    let target = ProxyFor::new((), ip(CLIENT), ip(SERVICE)).with_tlv(0xE0, vec![0; 70_000]);
    let error = ProxyProtocolConnectLayer::v2()
        .layer(dialed)
        .oneshot(target)
        .await
        .unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(ProxyError::TooLarge)));

    let (io, peer) = tokio::io::duplex(1024);
    drop(peer);
    let connection = Connection::new(io);
    let handle = connection.handle().clone();
    let connection = std::sync::Mutex::new(Some(connection));
    let connector = service_fn(move |()| {
        let connection = connection.lock().unwrap().take().unwrap();
        async { Ok::<_, BoxError>(connection) }
    });
    let error = ProxyProtocolConnectLayer::v2()
        .layer(connector)
        .oneshot(())
        .await
        .unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(ProxyError::Io(_))));
    assert_eq!(handle.reason(), Some(CloseReason::Refused));
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_runs_inside_the_header_and_verifies_the_name_of_the_inner_target() {
    use crate::tls::kit::{Authority, NAME, settings};
    use getty::tls::{ClientTls, TlsConnectLayer, TlsInfo, TlsLayer};

    let authority = Authority::new();
    let (listener, connector) = memory(16 * 1024);
    let app = ServiceBuilder::new()
        .layer(ProxyProtocolLayer::from_sources(AccessList::allow_all()))
        .layer(TlsLayer::new(settings(&authority).load().unwrap()))
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|_: String, session: Session<String>| {
            let tls: TlsInfo = session.get().unwrap();
            format!("{} {}", session.peer_addr(), tls.server_name().unwrap())
        }));
    tokio::spawn(async move { getty::serve(listener, app).await });

    let tls = ClientTls::new()
        .with_roots(authority.root())
        .load()
        .unwrap();
    let by_name = service_fn(move |_: (&'static str, u16)| {
        let connector = connector.clone();
        async move { connector.connect().await }
    });
    let connector = ServiceBuilder::new()
        .layer(TlsConnectLayer::new(tls))
        .layer(ProxyProtocolConnectLayer::v2())
        .service(by_name);
    let target = ProxyFor::new((NAME, 7000), ip(CLIENT), ip(SERVICE));
    let connection = connector.oneshot(target).await.unwrap();
    let mut io = BufReader::new(connection.into_parts().0);
    io.write_all(b"?\n").await.unwrap();
    io.flush().await.unwrap();
    let mut answer = String::new();
    io.read_line(&mut answer).await.unwrap();
    assert_eq!(answer, format!("{CLIENT} {NAME}\n"));
}
