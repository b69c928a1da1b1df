//! Bytes that an attacker adds to the plain part of a connection.

use getty::{CloseReason, tls::TlsError, upgrade::BytesBeforeUpgrade};
use tokio::io::AsyncReadExt;

use super::{
    super::tls::kit::{Authority, trusting},
    Client, Server, failure, send,
};

#[tokio::test(start_paused = true)]
async fn command_in_the_segment_of_starttls_refuses_the_upgrade() {
    let authority = Authority::new();
    let mut server = Server::new(&authority);
    let (mut io, _session) = server.dial().await;
    send(&mut io, "STARTTLS\nRCPT TO:<evil>\n").await;
    let closed = server.end().await;
    let BytesBeforeUpgrade {
        messages, bytes, ..
    } = failure(&closed, &CloseReason::Decode);
    assert_eq!((messages, bytes), (0, 15));
    assert_eq!(server.heard(), ["STARTTLS"]);
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "", "there is no go-ahead");
}

#[tokio::test(start_paused = true)]
async fn command_in_the_segment_after_starttls_is_never_handled() {
    let authority = Authority::new();
    for is_complete in [true, false] {
        let mut server = Server::new(&authority);
        let (mut io, _session) = server.dial().await;
        // The second segment is there before the go-ahead has arrived.
        send(&mut io, "STARTTLS\n").await;
        send(&mut io, if is_complete { "RSET\n" } else { "RS" }).await;
        if !is_complete {
            drop(io);
        }
        let closed = server.end().await;
        let refused = [CloseReason::Decode, CloseReason::UpgradeFailed];
        assert!(refused.contains(&closed.reason), "{closed}");
        assert_eq!(server.heard(), ["STARTTLS"]);
    }
}

#[tokio::test(start_paused = true)]
async fn command_after_the_go_ahead_fails_the_handshake() {
    let authority = Authority::new();
    let mut server = Server::new(&authority);
    let (mut io, _session) = server.started().await;
    send(&mut io, "RSET\n").await;
    let error = failure(&server.end().await, &CloseReason::UpgradeFailed);
    assert!(matches!(error, TlsError::NotTls(_)), "{error}");
    assert_eq!(server.heard(), ["STARTTLS"]);
}

#[tokio::test(start_paused = true)]
async fn response_behind_the_go_ahead_refuses_the_upgrade_of_a_client() {
    let authority = Authority::new();
    let mut client = Client::new(trusting(&authority), None).await;
    send(&mut client.peer, "220 ready\n250 logged in\n").await;
    let closed = client.session.closed().await;
    let BytesBeforeUpgrade { bytes, .. } = failure(&closed, &CloseReason::Decode);
    assert_eq!(bytes, 14);
    assert!(client.heard.recv().await.is_none());
    let mut rest = String::new();
    client.peer.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "", "there is no hello");
}

#[tokio::test(start_paused = true)]
async fn response_after_the_go_ahead_fails_the_handshake_of_a_client() {
    let authority = Authority::new();
    let mut client = Client::new(trusting(&authority), None).await;
    send(&mut client.peer, "220 ready\n").await;
    assert_eq!(client.peer.read_u8().await.unwrap(), 22, "a hello");
    send(&mut client.peer, "250 logged in\n").await;
    let closed = client.session.closed().await;
    let error = failure(&closed, &CloseReason::UpgradeFailed);
    assert!(matches!(error, TlsError::NotTls(_)), "{error}");
    assert!(client.heard.recv().await.is_none());
}
