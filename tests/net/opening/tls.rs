//! TLS in the middle of a dialogue. Bytes injected before it must be refused.

use std::{io, process::Stdio, time::Duration};

use getty::{
    BoxError, CloseReason, Connection, Layer, Pipeline,
    codec::{Buf, Bytes, BytesMut, Decoder, Encoder, Frames, Lines},
    net::{MemoryConnector, TcpListener, memory},
    tls::{TlsConnectLayer, TlsError, TlsInfo, TlsLayer, TlsStream},
    transport::ByteStream,
    upgrade::{Opening, OpeningConnectLayer, OpeningError, OpeningLayer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    process::Command,
    sync::watch,
};
use tower::ServiceExt;

use super::{Server, ask, lines, open_lines, rest};
use crate::tls::kit::{Authority, NAME, settings, trusting};

fn server_tls(authority: &Authority) -> TlsLayer {
    TlsLayer::new(settings(authority).load().unwrap())
}

fn client_tls(authority: &Authority) -> TlsConnectLayer {
    TlsConnectLayer::new(trusting(authority)).with_server_name(NAME.try_into().unwrap())
}

/// A server that accepts `STARTTLS` and requires it.
fn starttls<T: ByteStream>(tls: TlsLayer) -> impl Pipeline<T> + Clone {
    OpeningLayer::new(Lines::new(), move |mut dialogue: Opening<_, Lines>| {
        let tls = tls.clone();
        async move {
            let Some("STARTTLS") = dialogue.receive().await?.as_deref() else {
                return Err(dialogue.refuse("ERR", "no TLS").await);
            };
            dialogue.send("OK").await?;
            let mut dialogue = dialogue.start_tls(&tls).await?;
            // A dialogue may go on over TLS.
            dialogue.send("secured").await?;
            Ok(dialogue.into_connection()?)
        }
    })
    .layer(lines())
}

/// A client of such a server.
fn starttls_client(
    tls: TlsConnectLayer,
    connector: MemoryConnector,
) -> impl tower::Service<
    (),
    Response = Connection<TlsStream<DuplexStream>>,
    Error = BoxError,
    Future: Send,
> {
    OpeningConnectLayer::new(Lines::new(), move |mut dialogue: Opening<_, Lines>| {
        let tls = tls.clone();
        async move {
            dialogue.send("STARTTLS").await?;
            let Some("OK") = dialogue.receive().await?.as_deref() else {
                return Err("the server has no TLS".into());
            };
            let mut dialogue = dialogue.start_tls(&tls).await?;
            dialogue.receive().await?.ok_or("no greeting")?;
            Ok(dialogue.into_connection()?)
        }
    })
    .layer(connector)
}

#[tokio::test(start_paused = true)]
async fn both_roles_start_tls_and_the_session_is_encrypted() {
    let authority = Authority::new();
    let server = Server::new(starttls(server_tls(&authority)));
    let connector = starttls_client(client_tls(&authority), server.connector.clone());
    let (session, _task, mut received) = open_lines(connector).await.unwrap();
    session.send("hi".to_owned()).await.unwrap();
    assert_eq!(received.recv().await.unwrap(), "HI");
    assert_eq!(session.transport().to_string(), "tls");
    let info: TlsInfo = session.get().unwrap();
    assert_eq!(info.server_name(), Some(NAME));
}

#[tokio::test(start_paused = true)]
async fn postgres_ssl_request_is_answered_with_one_byte_before_tls() {
    /// Length and code of an `SSLRequest`.
    const REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

    let authority = Authority::new();
    let tls = server_tls(&authority);
    let opening = OpeningLayer::new(Lines::new(), move |mut dialogue: Opening<_, Lines>| {
        let tls = tls.clone();
        async move {
            let mut request = [0; 8];
            dialogue.read_exact(&mut request).await?;
            if request != REQUEST {
                return Err("no SSLRequest".into());
            }
            dialogue.write_all(b"S").await?;
            Ok(dialogue.start_tls(&tls).await?.carry()?)
        }
    });
    let server = Server::new(opening.layer(lines()));
    let tls = client_tls(&authority);
    let client = OpeningConnectLayer::new(Lines::new(), move |mut dialogue: Opening<_, Lines>| {
        let tls = tls.clone();
        async move {
            dialogue.write_all(&REQUEST).await?;
            let mut answer = [0];
            dialogue.read_exact(&mut answer).await?;
            match &answer {
                b"S" => Ok(dialogue.start_tls(&tls).await?.carry()?),
                _ => Err("the server has no TLS".into()),
            }
        }
    });
    let connector = client.layer(server.connector.clone());
    let (session, _task, mut received) = open_lines(connector).await.unwrap();
    session.send("hi".to_owned()).await.unwrap();
    assert_eq!(received.recv().await.unwrap(), "HI");
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_the_request_in_one_segment_are_refused() {
    let authority = Authority::new();
    let mut server = Server::new(starttls(server_tls(&authority)));
    for injected in [&b"QUIT\n"[..], b"\x16\x03\x01"] {
        let mut peer = server.dial().await;
        let sent = [b"STARTTLS\n", injected].concat();
        peer.write_all(&sent).await.unwrap();
        let (closed, error) = server.refusal().await;
        assert_eq!(closed.reason, CloseReason::Refused);
        assert!(matches!(error, OpeningError::ReadAhead(n) if n == injected.len()));
        assert_eq!(rest(&mut peer).await, "OK\n");
    }
}

/// Returns the TLS error with which the connection ended.
async fn tls_error(server: &mut Server) -> TlsError {
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    closed
        .source
        .unwrap()
        .downcast_ref::<TlsError>()
        .unwrap()
        .clone()
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_the_request_in_a_second_segment_are_refused() {
    let authority = Authority::new();
    let tls = server_tls(&authority);
    let (go, waits) = watch::channel(false);
    let opening = OpeningLayer::new(Lines::new(), move |mut dialogue: Opening<_, Lines>| {
        let (tls, mut waits) = (tls.clone(), waits.clone());
        async move {
            dialogue.receive().await?.ok_or("no request")?;
            // The second segment is here before the reply.
            waits.wait_for(|go| *go).await?;
            dialogue.send("OK").await?;
            Ok(dialogue.start_tls(&tls).await?.carry()?)
        }
    });
    let mut server = Server::new(opening.layer(lines()));
    let mut peer = server.dial().await;
    peer.write_all(b"STARTTLS\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    peer.write_all(b"QUIT\nQUIT\n").await.unwrap();
    go.send(true).unwrap();
    assert!(matches!(tls_error(&mut server).await, TlsError::NotTls(_)));
}

#[tokio::test(start_paused = true)]
async fn bytes_after_the_reply_are_refused() {
    let authority = Authority::new();
    let mut server = Server::new(starttls(server_tls(&authority)));
    let mut peer = server.dial().await;
    assert_eq!(&ask(&mut peer, b"STARTTLS\n").await, b"OK\n");
    peer.write_all(b"QUIT\nQUIT\n").await.unwrap();
    assert!(matches!(tls_error(&mut server).await, TlsError::NotTls(_)));
}

#[tokio::test(start_paused = true)]
async fn message_that_a_codec_has_taken_ahead_is_refused_before_tls() {
    let authority = Authority::new();
    let tls = server_tls(&authority);
    let opening = OpeningLayer::new(
        Frames::default(),
        move |mut dialogue: Opening<_, Frames>| {
            let tls = tls.clone();
            async move {
                dialogue.receive().await?.ok_or("no request")?;
                let mut dialogue = dialogue.start_tls(&tls).await?;
                // With an injected frame this would return it.
                dialogue.receive().await?.ok_or("no request")?;
                Ok(dialogue.carry()?)
            }
        },
    );
    let mut server = Server::new(opening.layer(lines()));
    let mut peer = server.dial().await;
    peer.write_all(b"\0\0\0\x01a\0\0\0\x01b").await.unwrap();
    let (_, error) = server.refusal().await;
    assert!(matches!(error, OpeningError::ReadAhead(5)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn client_refuses_bytes_before_tls() {
    let authority = Authority::new();
    // The bytes may arrive in one segment with the reply or later.
    for (parts, is_read_ahead) in [
        (&["OK\nsecured\n"][..], true),
        (&["OK\n", "secured\nsecured\n"], false),
        (&["O", "K\n", "", "secured\nsecured\n"], false),
    ] {
        let (mut listener, connector) = memory(1024);
        let client = starttls_client(client_tls(&authority), connector);
        let attempt = tokio::spawn(client.oneshot(()));
        let mut server = crate::accept(&mut listener).await.into_parts().0;
        let mut request = [0; 9];
        server.read_exact(&mut request).await.unwrap();
        for part in parts {
            server.write_all(part.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let error = attempt.await.unwrap().unwrap_err();
        match error.downcast_ref().unwrap() {
            OpeningError::ReadAhead(8) => assert!(is_read_ahead),
            OpeningError::Tls(TlsError::NotTls(_)) => assert!(!is_read_ahead),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn client_without_a_name_does_not_start_tls() {
    let authority = Authority::new();
    let server = Server::new(starttls(server_tls(&authority)));
    let tls = TlsConnectLayer::new(trusting(&authority));
    let client = starttls_client(tls, server.connector.clone());
    let error = client.oneshot(()).await.unwrap_err();
    let error = error.downcast_ref();
    assert!(matches!(
        error,
        Some(OpeningError::Tls(TlsError::NoServerName))
    ));
}

#[tokio::test(start_paused = true)]
async fn deadline_of_the_dialogue_includes_its_handshake() {
    let authority = Authority::new();
    let tls = server_tls(&authority);
    let opening = OpeningLayer::new(Lines::new(), move |mut dialogue: Opening<_, Lines>| {
        let tls = tls.clone();
        async move {
            dialogue.receive().await?.ok_or("no request")?;
            Ok(dialogue.start_tls(&tls).await?.carry()?)
        }
    });
    let second = Duration::from_secs(1);
    let opening = opening.with_handshake_timeout(3 * second);
    let mut server = Server::new(opening.layer(lines()));
    let started = tokio::time::Instant::now();
    let mut peer = server.dial().await;
    peer.write_all(b"STARTTLS\n").await.unwrap();
    let (closed, error) = server.refusal().await;
    assert_eq!(started.elapsed(), 3 * second);
    assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
    assert!(matches!(error, OpeningError::TimedOut(time) if time == 3 * second));
}

#[tokio::test(start_paused = true)]
async fn dialogue_over_tls_precedes_the_session() {
    let authority = Authority::new();
    let opening = OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
        dialogue.receive().await?.ok_or("no login")?;
        Ok(dialogue.carry()?)
    });
    let server = Server::new(server_tls(&authority).layer(opening.layer(lines())));
    let client = client_tls(&authority).layer(server.connector.clone());
    let mut peer = client.oneshot(()).await.unwrap().into_parts().0;
    assert_eq!(&ask(&mut peer, b"login\nhi\n").await, b"HI\n");
}

/// Messages of LDAP in BER: a sequence with a definite length of at most 127 bytes.
#[derive(Clone)]
struct Ldap;

impl Decoder for Ldap {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        match src[..] {
            [0x30, length @ ..0x80, ref content @ ..] if content.len() >= length.into() => {
                src.advance(2);
                Ok(Some(src.split_to(length.into()).freeze()))
            }
            [] | [0x30] | [0x30, ..0x80, ..] => Ok(None),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Encoder<&[u8]> for Ldap {
    type Error = io::Error;

    fn encode(&mut self, content: &[u8], dst: &mut BytesMut) -> io::Result<()> {
        let length = u8::try_from(content.len()).map_err(io::Error::other)?;
        dst.extend_from_slice(&[0x30, length]);
        dst.extend_from_slice(content);
        Ok(())
    }
}

/// Serves lines after the extended operation `StartTLS` of LDAP.
fn ldap<T: ByteStream>(tls: TlsLayer) -> impl Pipeline<T> + Clone {
    OpeningLayer::new(Ldap, move |mut dialogue: Opening<_, Ldap>| {
        let tls = tls.clone();
        async move {
            let request = dialogue.receive().await?.ok_or("no request")?;
            // An INTEGER with the id of the message precedes the request with its name.
            let [0x02, 1, id, 0x77, _, 0x80, 22, ref operation @ ..] = request[..] else {
                return Err("no extended request".into());
            };
            if operation != b"1.3.6.1.4.1.1466.20037" {
                return Err("another operation".into());
            }
            // The result 0 without a name and a text.
            let success = [0x02, 1, id, 0x78, 7, 0x0a, 1, 0, 0x04, 0, 0x04, 0];
            dialogue.send(&success[..]).await?;
            Ok(dialogue.start_tls(&tls).await?.carry()?)
        }
    })
    .layer(lines())
}

#[tokio::test(start_paused = true)]
async fn extended_request_of_ldap_starts_tls() {
    let authority = Authority::new();
    let server = Server::new(ldap(server_tls(&authority)));
    let tls = client_tls(&authority);
    let client = OpeningConnectLayer::new(Ldap, move |mut dialogue: Opening<_, Ldap>| {
        let tls = tls.clone();
        async move {
            let name = b"1.3.6.1.4.1.1466.20037";
            let request = [&[0x02, 1, 1, 0x77, 24, 0x80, 22][..], name].concat();
            dialogue.send(&request[..]).await?;
            dialogue.receive().await?.ok_or("no answer")?;
            Ok(dialogue.start_tls(&tls).await?.carry()?)
        }
    });
    let connector = client.layer(server.connector.clone());
    let (session, _task, mut received) = open_lines(connector).await.unwrap();
    session.send("hi".to_owned()).await.unwrap();
    assert_eq!(received.recv().await.unwrap(), "HI");
}

/// `.ci/edge/opening` runs it because it needs `openssl`.
#[tokio::test]
#[ignore = "needs the program `openssl`"]
async fn openssl_starts_tls_as_a_client_of_ldap() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = ldap(server_tls(&authority));
    tokio::spawn(async move { getty::serve(listener, app).await });
    let mut openssl = Command::new("openssl")
        .args([
            "s_client",
            "-starttls",
            "ldap",
            "-quiet",
            "-connect",
            &address,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (
        openssl.stdin.take().unwrap(),
        openssl.stdout.take().unwrap(),
    );
    stdin.write_all(b"over tls\n").await.unwrap();
    let mut answer = [0; 9];
    let read = stdout.read_exact(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("no answer")
        .unwrap();
    assert_eq!(&answer, b"OVER TLS\n");
}
