//! One test for each numbered contract.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use getty::{
    Address, AddressesFixed, BoxError, CloseReason, CodecLayer, Connection, Layer, Service,
    ServiceBuilder, SessionLayer,
    codec::Lines,
    handle,
    layers::{
        OnOpenLayer, TraceLayer,
        access::{Access, AccessList},
    },
    net::memory,
    proxy::{HeaderError, ProxyCommand, ProxyError, ProxyVersion, Untrusted},
    service_fn,
};
use proptest::{collection::vec, prelude::*};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_test::{assert_pending, task};
use tower::{ServiceExt, limit::ConcurrencyLimit};
use tracing::Level;

use super::{
    After, BLOCK, CLIENT, LINE, PROXY, Pieces, SERVER, SERVICE, binary, block_on, connection,
    connection_from, ip, layer, receive, receive_over, tlv, valid_header, with_tlvs,
};
use crate::log::sole_end;
use getty_test::Log;

proptest! {
    #[test]
    fn exactly_the_header_is_consumed_however_it_is_split_and_the_transport_stays(
        (header, addresses) in valid_header(),
        tail in vec(any::<u8>(), 0..40),
        sizes in vec(1..60_usize, 1..12),
    ) {
        let bytes = [&header[..], &tail].concat();
        let pieces = Pieces::split(&bytes, &sizes, After::End);
        let received = block_on(receive_over(layer(), connection(pieces)));
        prop_assert_eq!(received.rest.as_ref().unwrap(), &tail);
        let expected = addresses.unwrap_or((ip(PROXY), ip(SERVER)));
        prop_assert_eq!(received.addresses(), expected);
    }
}

#[tokio::test]
async fn header_of_version_2_costs_three_reads_and_one_of_version_1_some_tens() {
    for (header, most) in [
        (&with_tlvs(&tlv(0xE0, &[0; 500]))[..], 3),
        (&binary(0x20, 0, &[]), 2),
        (b"PROXY UNKNOWN\r\n", 1),
        (LINE, 25),
        (
            b"PROXY TCP6 2001:db8:1:2:3:4:5:6 2001:db8:1:2:3:4:5:7 50000 65535\r\n",
            60,
        ),
    ] {
        let pieces = Pieces::split(header, &[usize::MAX], After::End);
        let reads = Arc::clone(&pieces.reads);
        assert_eq!(receive_over(layer(), connection(pieces)).await.calls, 1);
        // the inner service must read once to find the end
        let reads = reads.load(SeqCst) - 1;
        assert!(reads <= most, "{reads} reads of {}", header.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn trusted_source_sends_a_valid_header_or_nothing_inside_is_called() {
    for (bytes, after, reason) in [
        (
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            After::End,
            CloseReason::Refused,
        ),
        (b"\x16", After::Silence, CloseReason::Refused),
        (
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n",
            After::Silence,
            CloseReason::Refused,
        ),
        (
            &binary(0x22, 0x11, &BLOCK),
            After::End,
            CloseReason::Refused,
        ),
        (&LINE[..20], After::End, CloseReason::Refused),
        (&LINE[..20], After::Reset, CloseReason::Refused),
        (&LINE[..20], After::Silence, CloseReason::HandshakeTimeout),
        (&[], After::Silence, CloseReason::HandshakeTimeout),
    ] {
        let pieces = Pieces::split(bytes, &[7], after);
        let received = receive_over(layer(), connection(pieces)).await;
        assert_eq!(received.calls, 0);
        assert!(received.rest.is_err());
        assert!(received.handle.is_closed());
        assert_eq!(received.handle.reason(), Some(reason));
        let source = received.handle.source().expect("the cause is recorded");
        assert!(source.is::<ProxyError>());
    }
    let received = receive(LINE).await;
    assert_eq!(
        (received.calls, received.handle.peer_addr()),
        (1, &ip(CLIENT))
    );
}

#[tokio::test(start_paused = true)]
async fn time_counts_from_the_accept_and_a_close_ends_the_wait() {
    let silent = || connection(Pieces::new([], After::Silence));
    let waiting = silent();
    let start = Instant::now();
    sleep(Duration::from_secs(3)).await;
    let received = receive_over(layer(), waiting).await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    let late = received.rest.unwrap_err();
    assert!(matches!(late, ProxyError::TimedOut(time) if time == Duration::from_secs(5)));

    let layer = layer().with_handshake_timeout(Duration::MAX);
    let connection = silent();
    let handle = connection.handle().clone();
    let close = async {
        sleep(Duration::from_secs(100)).await;
        handle.close();
    };
    let (received, ()) = tokio::join!(receive_over(layer, connection), close);
    assert!(matches!(received.rest, Err(ProxyError::Cancelled)));
    assert_eq!(handle.reason(), Some(CloseReason::Local));
}

#[tokio::test(start_paused = true)]
async fn other_sources_are_refused_by_default_and_direct_parses_nothing() {
    let other = || connection_from("192.0.2.99:1", Pieces::split(LINE, &[9], After::End));
    let received = receive_over(layer(), other()).await;
    assert_eq!(
        (received.calls, received.handle.reason()),
        (0, Some(CloseReason::Refused))
    );
    match received.rest {
        Err(ProxyError::Untrusted(denied)) => {
            assert_eq!(denied.to_string(), "no rule allows 192.0.2.99");
        }
        other => panic!("{other:?}"),
    }

    let direct = layer().with_untrusted(Untrusted::Direct);
    let received = receive_over(direct.clone(), other()).await;
    assert_eq!(
        received.rest.as_ref().unwrap(),
        LINE,
        "a header is data there"
    );
    assert_eq!(received.handle.peer_addr(), &ip("192.0.2.99:1"));
    assert_eq!(received.info, None);

    // a trusted source is never direct
    let silent = connection(Pieces::new([], After::Silence));
    let received = receive_over(direct, silent).await;
    assert!(matches!(received.rest, Err(ProxyError::TimedOut(_))));
}

#[tokio::test]
async fn sources_without_an_address_follow_the_list_or_the_setting() {
    let unnamed = || Connection::new(Pieces::split(LINE, &[9], After::End));
    let received = receive_over(layer(), unnamed()).await;
    assert!(matches!(received.rest, Err(ProxyError::Untrusted(_))));
    let allowing = layer().with_unaddressed(Access::Allow);
    assert_eq!(
        receive_over(allowing, unnamed()).await.handle.peer_addr(),
        &ip(CLIENT)
    );
    let list = AccessList::allow_all();
    let denying = getty::proxy::ProxyProtocolLayer::from_sources(list);
    let received = receive_over(denying.clone(), unnamed()).await;
    assert_eq!(received.calls, 1);
    let denying = denying.with_unaddressed(Access::Deny);
    let received = receive_over(denying, unnamed()).await;
    assert!(matches!(received.rest, Err(ProxyError::Untrusted(_))));
}

#[tokio::test]
async fn local_unknown_and_unspecified_headers_are_skipped_with_tlvs_and_the_addresses_stay() {
    let tlvs = tlv(5, b"id");
    for (header, command) in [
        (binary(0x20, 0x00, &[]), ProxyCommand::Local),
        (binary(0x20, 0x00, &tlvs), ProxyCommand::Local),
        (
            binary(0x20, 0x11, &[&BLOCK[..], &tlvs].concat()),
            ProxyCommand::Local,
        ),
        (binary(0x20, 0xFF, &[0xFF; 300]), ProxyCommand::Local),
        (binary(0x21, 0x00, &tlvs), ProxyCommand::Proxy),
        (binary(0x21, 0x00, &[0xFF; 300]), ProxyCommand::Proxy),
        (
            binary(0x21, 0x10, &[&BLOCK[..], &tlvs].concat()),
            ProxyCommand::Proxy,
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), ProxyCommand::Proxy),
        (
            b"PROXY UNKNOWN 192.0.2.7 198.51.100.1 50000 443\r\n".to_vec(),
            ProxyCommand::Proxy,
        ),
    ] {
        let received = receive(&[&header[..], b"data"].concat()).await;
        assert_eq!(received.rest.as_deref().unwrap(), b"data");
        assert_eq!(received.addresses(), (ip(PROXY), ip(SERVER)));
        assert_eq!(received.info.unwrap().command(), command);
    }
}

#[tokio::test]
async fn addresses_are_set_once_before_the_inner_call_and_a_second_header_or_late_set_fails() {
    let inner = service_fn(|connection: Connection<Pieces>| async move {
        let handle = connection.handle().clone();
        assert_eq!(handle.peer_addr(), &ip(CLIENT));
        assert_eq!(handle.local_addr(), &ip(SERVICE));
        assert_eq!(handle.socket_peer_addr(), &ip(PROXY));
        assert_eq!(handle.socket_local_addr(), &ip(SERVER));
        let again = handle.set_real_addrs(ip(SERVER), ip(PROXY));
        assert_eq!(again, Err(AddressesFixed::AlreadySet));
        Ok::<_, BoxError>(())
    });
    let twice = [LINE, &with_tlvs(&[])].concat();
    let pieces = || Pieces::split(&twice, &[100], After::End);
    layer()
        .layer(inner)
        .oneshot(connection(pieces()))
        .await
        .unwrap();

    let two = layer().layer(layer().layer(inner));
    let local = [&binary(0x20, 0, &[])[..], LINE].concat();
    let local = connection(Pieces::split(&local, &[100], After::End));
    let error = two.clone().oneshot(local).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(ProxyError::Fixed(_))));
    let connection = connection(pieces());
    let handle = connection.handle().clone();
    let error = two.oneshot(connection).await.unwrap_err();
    let error = error.downcast_ref::<ProxyError>();
    assert!(matches!(
        error,
        Some(ProxyError::Fixed(AddressesFixed::AlreadySet))
    ));
    assert_eq!(handle.reason(), Some(CloseReason::Refused));
    assert_eq!(handle.peer_addr(), &ip(CLIENT), "the first header is kept");

    // an open session
    let (listener, connector) = memory(1024);
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(getty::handle(
            |_: String, session: getty::Session<String>| {
                format!(
                    "{:?}",
                    session.set_real_addrs(Address::Unknown, Address::Unknown)
                )
            },
        ));
    let server = tokio::spawn(async move { getty::serve(listener, app).await });
    let mut client = BufReader::new(connector.connect().await.unwrap().into_parts().0);
    client.write_all(b"set\n").await.unwrap();
    let mut answer = String::new();
    client.read_line(&mut answer).await.unwrap();
    assert_eq!(answer, "Err(Opened)\n");
    server.abort();
}

#[tokio::test]
async fn end_before_the_first_byte_is_a_probe_logged_at_debug_as_peer_closed() {
    for after in [After::End, After::Reset] {
        for traced in [false, true] {
            let log = Log::capture();
            let pieces = Pieces::new([], after);
            let connection = connection(pieces);
            let handle = connection.handle().clone();
            let inner = layer().layer(service_fn(async |_: Connection<Pieces>| {
                Err::<(), BoxError>("called".into())
            }));
            let result = if traced {
                TraceLayer::new().layer(inner).oneshot(connection).await
            } else {
                inner.oneshot(connection).await
            };
            let error = result.unwrap_err();
            assert!(matches!(error.downcast_ref(), Some(ProxyError::Probe)));
            assert_eq!(handle.reason(), Some(CloseReason::PeerClosed));
            let line = sole_end(&log);
            assert_eq!(line.level, Level::DEBUG);
            assert_eq!(line.field("reason"), "peer_closed");
            assert_eq!(
                line.field("error"),
                "a trusted proxy connected and sent nothing"
            );
        }
    }
}

#[tokio::test]
async fn tlv_lengths_are_checked_the_checksum_is_verified_and_unknown_tlvs_are_kept() {
    let kinds = [0x01, 0x02, 0x05, 0x30, 0x99, 0xEA, 0xFF];
    let value = [0, 1, 0xFF, 0xC3];
    let mut tlvs: Vec<u8> = kinds.iter().flat_map(|kind| tlv(*kind, &value)).collect();
    tlvs.extend(tlv(0xE0, &[]));
    let received = receive(&with_tlvs(&tlvs)).await;
    let info = received.info.unwrap();
    assert_eq!(info.version(), ProxyVersion::V2);
    let mut expected: Vec<_> = kinds.iter().map(|kind| (*kind, &value[..])).collect();
    expected.push((0xE0, &[]));
    assert_eq!(info.tlvs().collect::<Vec<_>>(), expected);
    assert_eq!((info.alpn(), info.authority()), (Some(&value[..]), None));

    for (tlvs, kind) in [
        (&[5, 0][..], 5),
        (&[5, 0, 2, 1], 5),
        (&[4, 0, 0, 7, 0, 9], 7),
    ] {
        let received = receive(&with_tlvs(tlvs)).await;
        assert_eq!(received.defect(), HeaderError::Tlv(kind));
        assert_eq!(received.calls, 0);
    }

    // the checksum of an independent implementation over this header
    let header = with_tlvs(&[&tlv(3, &[0; 4])[..], &tlv(5, b"abc")].concat());
    let sum = castagnoli(&header).to_be_bytes();
    let at = header.len() - 10;
    let mut checked = header.clone();
    checked[at..at + 4].copy_from_slice(&sum);
    assert_eq!(receive(&checked).await.calls, 1);
    assert_eq!(receive(&header).await.defect(), HeaderError::Checksum);
    checked[20] ^= 1; // an address
    assert_eq!(receive(&checked).await.defect(), HeaderError::Checksum);
}

/// Returns the CRC-32C bit by bit.
fn castagnoli(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0x82F6_3B78
            } else {
                crc >> 1
            }
        })
    })
}

#[tokio::test(start_paused = true)]
async fn header_bytes_are_neither_statistics_nor_activity() {
    let (opened, mut sessions) = tokio::sync::mpsc::unbounded_channel();
    let app = ServiceBuilder::new()
        .layer(layer())
        .layer(CodecLayer::new(Lines::new()))
        .layer(OnOpenLayer::new(move |session: getty::Session<String>| {
            drop(opened.send(session));
            async { Ok::<_, BoxError>(()) }
        }))
        .layer(SessionLayer::new())
        .service(handle(|line: String| line));
    let (io, mut client) = tokio::io::duplex(1024);
    let served = tokio::spawn(app.oneshot(connection(io)));
    sleep(Duration::from_secs(2)).await;
    client.write_all(LINE).await.unwrap();
    let session = sessions.recv().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(session.peer_addr(), &ip(CLIENT));
    assert_eq!(
        (session.stats().bytes_in, session.stats().messages_in),
        (0, 0)
    );
    assert_eq!(session.last_read(), session.opened_at());
    assert_eq!(session.last_active(), session.opened_at());

    client.write_all(b"hi\n").await.unwrap();
    client.read_exact(&mut [0; 3]).await.unwrap();
    client.shutdown().await.unwrap();
    let closed = served.await.unwrap().unwrap();
    assert_eq!((closed.stats.bytes_in, closed.stats.messages_in), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn ready_inner_is_carried_across_the_reads_and_a_refusal_returns_its_permit() {
    // it panics if it is called without the permit that its poll_ready has acquired
    let permits = Arc::new(Semaphore::new(1));
    let inner = service_fn(|_: Connection<Pieces>| async { Ok::<_, BoxError>(()) });
    let inner = ConcurrencyLimit::with_semaphore(inner, Arc::clone(&permits));
    let mut service = layer().layer(inner);
    poll_ready(&mut service).await;
    let silent = Pieces::new([], After::Silence);
    let mut waiting = task::spawn(service.call(connection(silent)));
    assert_pending!(waiting.poll());
    assert_eq!(
        permits.available_permits(),
        0,
        "held while the header is read"
    );

    drop(waiting);
    for bytes in [&b"x"[..], LINE] {
        poll_ready(&mut service).await;
        let called = service.call(connection(Pieces::split(bytes, &[1], After::End)));
        assert_eq!(permits.available_permits(), 0);
        assert_eq!(called.await.is_ok(), bytes == LINE);
        assert_eq!(permits.available_permits(), 1, "given back");
    }
}

async fn poll_ready(service: &mut impl Service<Connection<Pieces>, Error = BoxError>) {
    std::future::poll_fn(|cx| service.poll_ready(cx))
        .await
        .unwrap();
}
