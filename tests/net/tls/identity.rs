//! Identities: certificates of both sides, names, and the attributes of the handle.

use std::{error::Error, io, sync::Arc};

use getty::{
    CloseReason,
    tls::{
        ClientTls, ServerTls, TlsError,
        rustls::{
            AlertDescription, CertificateError, ClientConfig, Error as RustlsError,
            ProtocolVersion, pki_types::CertificateDer, pki_types::pem::PemObject,
        },
    },
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kit::{Authority, Issued, NAME, Server, settings, trusting};

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap()
}

fn of<'a>(error: &'a (dyn Error + 'static)) -> &'a TlsError {
    error.downcast_ref().unwrap()
}

#[tokio::test(start_paused = true)]
async fn handle_contains_the_tls_parameters() {
    let authority = Authority::new();
    let server = Server::new(settings(&authority).with_alpn(["echo/1"]).load().unwrap());
    let config = ClientTls::new()
        .with_roots(authority.root())
        .with_alpn(["other", "echo/1"]);
    let mut client = server.connect(config.load().unwrap()).await.unwrap();
    let answer = client.ask("tls?").await;
    assert!(
        answer.starts_with("tls TlsInfo { peer_certificates: 0, "),
        "{answer}"
    );
    assert!(
        answer.contains("server_name: Some(\"server.test\")"),
        "{answer}"
    );
    assert!(
        answer.contains("alpn: Some(\"echo/1\"), version: TLSv1_3"),
        "{answer}"
    );

    assert_eq!(client.info.server_name(), Some(NAME));
    assert_eq!(client.info.alpn(), Some(&b"echo/1"[..]));
    assert_eq!(client.info.version(), ProtocolVersion::TLSv1_3);
    assert!(client.info.cipher_suite().is_some());
    assert_eq!(client.info.peer_certificates().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn certificate_matches_the_requested_name() {
    let authority = Authority::new();
    let (main, api, wild) = (
        authority.issue(NAME),
        authority.issue("api.server.test"),
        authority.issue("*.wild.test"),
    );
    let config = ServerTls::new(main.chain(), main.key())
        .with_certificate_for("API.server.test", api.chain(), api.key())
        .with_certificate_for("*.wild.test", wild.chain(), wild.key())
        .load()
        .unwrap();
    let server = Server::new(config);
    for (name, expected) in [
        (NAME, &main),
        ("api.server.test", &api),
        ("API.SERVER.TEST", &api),
        ("one.wild.test", &wild),
        ("two.wild.test", &wild),
    ] {
        let client = server
            .connect_for(name, trusting(&authority))
            .await
            .unwrap();
        assert_eq!(client.info.peer_certificates(), [der(expected)], "{name}");
    }

    // The default certificate is not valid for these names.
    for name in [
        "elsewhere.test",
        "two.levels.wild.test",
        "wild.test",
        "127.0.0.1",
    ] {
        let error = server
            .connect_for(name, trusting(&authority))
            .await
            .err()
            .unwrap();
        let TlsError::PeerCertificate(RustlsError::InvalidCertificate(cause)) = of(&*error) else {
            panic!("{name}: {error:?}")
        };
        assert!(
            matches!(cause, CertificateError::NotValidForNameContext { .. }),
            "{name}: {cause:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_offers_only_other_protocols_is_refused() {
    let authority = Authority::new();
    let config = settings(&authority).with_alpn(["echo/1"]);
    let mut server = Server::new(config.load().unwrap());
    let config = ClientTls::new().with_roots(authority.root());
    let other = config.clone().with_alpn(["other"]).load().unwrap();
    let error = server.connect(other).await.err().unwrap();
    assert!(matches!(
        of(&*error),
        TlsError::RefusedByPeer(AlertDescription::NoApplicationProtocol)
    ));
    let (reason, error) = server.refusal().await;
    assert_eq!(reason, CloseReason::Refused);
    assert!(matches!(
        error,
        TlsError::Protocol(RustlsError::NoApplicationProtocol)
    ));

    // A client that offers no protocols is accepted.
    let mut client = server.connect(config.load().unwrap()).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
    assert_eq!(client.info.alpn(), None);
}

#[tokio::test(start_paused = true)]
async fn server_with_an_invalid_certificate_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let expired = authority.issue_expired(NAME);
    let unknown = stranger.issue(NAME);
    for (issued, alert) in [
        (expired, AlertDescription::CertificateExpired),
        (unknown, AlertDescription::UnknownCA),
    ] {
        let config = ServerTls::new(issued.chain(), issued.key());
        let mut server = Server::new(config.load().unwrap());
        let error = server.connect(trusting(&authority)).await.err().unwrap();
        let text = format!("{error}: {}", error.source().unwrap());
        match alert {
            AlertDescription::CertificateExpired => assert!(text.contains("expired"), "{text}"),
            _ => assert!(text.contains("UnknownIssuer"), "{text}"),
        }
        assert!(matches!(of(&*error), TlsError::PeerCertificate(_)));
        // The server receives the reason.
        let (reason, error) = server.refusal().await;
        assert_eq!(reason, CloseReason::Refused);
        assert!(
            matches!(&error, TlsError::RefusedByPeer(received) if *received == alert),
            "{error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn verification_is_disabled_only_explicitly() {
    let stranger = Authority::new();
    let mut server = Server::new(settings(&stranger).load().unwrap());
    // The system's roots do not contain this authority.
    let system = ClientTls::new().load().unwrap();
    assert!(server.connect(system).await.is_err());
    server.end().await;
    let careless = ClientTls::new().dangerous_without_verification();
    let mut client = server.connect(careless.load().unwrap()).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
}

/// Connects a client with the certificate `issued`, or without one, to a server that requires
/// certificates from `authority`.
async fn meet(
    server: &Server,
    authority: &Authority,
    issued: Option<&Issued>,
) -> Result<(), AlertDescription> {
    let mut config = ClientTls::new().with_roots(authority.root());
    if let Some(issued) = issued {
        config = config.with_certificate(issued.chain(), issued.key());
    }
    let mut client = server.connect(config.load().unwrap()).await.unwrap();
    // In TLS 1.3 the client's handshake ends before the server has received the certificate.
    client.stream.write_all(b"hello\n").await.unwrap();
    client.stream.flush().await.unwrap();
    let mut answer = [0; 6];
    match client.stream.read_exact(&mut answer).await {
        Ok(_) => {
            assert_eq!(&answer, b"hello\n");
            Ok(())
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            match error.get_ref().unwrap().downcast_ref().unwrap() {
                RustlsError::AlertReceived(alert) => Err(*alert),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn clients_must_present_a_certificate_if_client_roots_are_set() {
    let (authority, devices, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let config = settings(&authority).with_client_roots(devices.root());
    let mut server = Server::new(config.load().unwrap());
    for (issued, alert, why) in [
        (None, AlertDescription::CertificateRequired, "presented no"),
        (
            Some(stranger.issue("a")),
            AlertDescription::UnknownCA,
            "not accepted",
        ),
        (
            Some(authority.issue("b")),
            AlertDescription::UnknownCA,
            "not accepted",
        ),
        (
            Some(devices.issue_expired("c")),
            AlertDescription::CertificateExpired,
            "not accepted",
        ),
    ] {
        let met = meet(&server, &authority, issued.as_ref()).await;
        assert_eq!(met.unwrap_err(), alert);
        let (reason, error) = server.refusal().await;
        assert_eq!(reason, CloseReason::Refused);
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(error.source().is_some(), issued.is_some());
    }
    let device = devices.issue("device-7");
    meet(&server, &authority, Some(&device)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn client_certificate_is_verified_each_time_and_is_in_the_handle() {
    let (authority, devices) = (Authority::new(), Authority::new());
    let config = settings(&authority).with_client_roots(devices.root());
    let server = Server::new(config.load().unwrap());
    let device = devices.issue("device-7");
    let config: Arc<ClientConfig> = ClientTls::new()
        .with_roots(authority.root())
        .with_certificate(device.chain(), device.key())
        .load()
        .unwrap();
    for _ in 0..2 {
        let mut client = server.connect(Arc::clone(&config)).await.unwrap();
        let answer = client.ask("tls?").await;
        assert!(answer.contains("peer_certificates: 1"), "{answer}");
        let kind = client.stream.get_ref().state().handshake_kind();
        assert_eq!(format!("{kind:?}"), "Some(Full)");
    }
}

#[tokio::test(start_paused = true)]
async fn tls_sessions_are_resumed_if_clients_present_no_certificates() {
    let authority = Authority::new();
    let server = Server::new(settings(&authority).load().unwrap());
    let config = trusting(&authority);
    for expected in ["Some(Full)", "Some(Resumed)"] {
        let mut client = server.connect(Arc::clone(&config)).await.unwrap();
        assert_eq!(client.ask("hello").await, "hello");
        let kind = client.stream.get_ref().state().handshake_kind();
        assert_eq!(format!("{kind:?}"), expected);
        // The chain of the resumed session was verified before.
        assert_eq!(client.info.peer_certificates().len(), 1);
    }
}
