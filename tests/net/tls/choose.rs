//! Configurations by the client's first message, and the rate of handshakes.

use std::{sync::Arc, time::Duration};

use getty::{
    BoxError, CloseReason, Rate, ServiceBuilder,
    tls::{
        ClientTls, ServerTls, TlsConfig, TlsError, TlsLayer, TlsOrPlainLayer, TlsRefusal,
        rustls::{
            AlertDescription, ClientConfig, ClientConnection, HandshakeKind, ServerConfig,
            client::Resumption, crypto::ring, pki_types::ServerName, version::TLS12,
        },
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep},
};

use super::kit::{Authority, Client, NAME, Server, app, settings, trusting};

const SECOND: Duration = Duration::from_secs(1);
const ADMIN: &str = "admin.test";
const OTHER: &str = "other.test";

fn config_for(authority: &Authority, name: &str) -> TlsConfig {
    let issued = authority.issue(name);
    let settings = ServerTls::new(issued.chain(), issued.key());
    settings.load().unwrap()
}

/// Returns a layer with one configuration for each of two names.
fn by_name(authority: &Authority) -> TlsLayer {
    let (main, admin) = (config_for(authority, NAME), config_for(authority, ADMIN));
    TlsLayer::choose(move |hello| match hello.server_name() {
        Some(NAME) => Ok(main.clone()),
        Some(ADMIN) => Ok(admin.clone()),
        _ => Err(TlsRefusal::unrecognized_name()),
    })
}

/// Returns the first message of a client.
pub(super) fn hello(name: &'static str, config: Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).unwrap();
    }
    hello
}

async fn refused_with(result: Result<Client, BoxError>) -> AlertDescription {
    let error = result.err().expect("the server refuses the client");
    match error.downcast_ref() {
        Some(TlsError::RefusedByPeer(alert)) => *alert,
        _ => panic!("no alert: {error:?}"),
    }
}

/// Reads until the server closes.
async fn received(peer: &mut DuplexStream) -> Vec<u8> {
    let mut received = Vec::new();
    peer.read_to_end(&mut received).await.unwrap();
    received
}

// Contract 1.
#[tokio::test(start_paused = true)]
async fn one_deadline_from_accept_applies_to_the_hello_the_wait_and_the_handshake() {
    let authority = Authority::new();
    let tls = by_name(&authority).with_handshake_rate(Rate::new(1, 8 * SECOND));
    let mut server = Server::with_stack(
        ServiceBuilder::new()
            .layer(TlsOrPlainLayer::new(tls).with_detect_timeout(20 * SECOND))
            .service(app()),
    );
    let started = Instant::now();
    let _first = server.connect(trusting(&authority)).await.unwrap();
    let mut peer = server.dial().await;
    sleep(4 * SECOND).await;
    let hello = hello(NAME, trusting(&authority));
    peer.write_all(&hello[..2]).await.unwrap();
    sleep(SECOND).await;
    peer.write_all(&hello[2..]).await.unwrap();
    // The rate allows it after 8 s. The peer then never completes its handshake.
    let mut byte = [0];
    peer.read_exact(&mut byte).await.unwrap();
    assert_eq!((byte, started.elapsed().as_secs()), ([0x16], 8));
    let (reason, error) = server.refusal().await;
    assert_eq!(started.elapsed(), 10 * SECOND);
    assert_eq!(reason, CloseReason::HandshakeTimeout);
    assert!(matches!(error, TlsError::TimedOut(_)), "{error:?}");
}

// Contract 2.
#[tokio::test(start_paused = true)]
async fn handshake_without_a_choice_or_a_rate_does_not_change() {
    let authority = Authority::new();
    let names = |layer: TlsLayer, config: TlsConfig| {
        let (authority, other) = (&authority, Authority::new());
        async move {
            let server = Server::with_layer(layer);
            let mut peer = server.dial().await;
            sleep(SECOND).await;
            // A configuration that shares no version with the client.
            let issued = other.issue(NAME);
            config.replace(only_tls12(&issued));
            let hello = hello(NAME, trusting_tls13(authority));
            peer.write_all(&hello).await.unwrap();
            peer.read_u8().await.unwrap()
        }
    };
    // The configuration was taken at accept: the server answers.
    let config = settings(&authority).load().unwrap();
    assert_eq!(names(TlsLayer::new(config.clone()), config).await, 0x16);
    // The configuration is taken at the hello: the server refuses.
    let config = settings(&authority).load().unwrap();
    let limited = TlsLayer::new(config.clone()).with_handshake_rate(Rate::per_second(9));
    assert_eq!(names(limited, config).await, 0x15);
    let config = settings(&authority).load().unwrap();
    let chosen = config.clone();
    let chosen = TlsLayer::choose(move |_| Ok(chosen.clone()));
    assert_eq!(names(chosen, config).await, 0x15);
}

fn only_tls12(issued: &super::kit::Issued) -> ServerConfig {
    use getty::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let chain = CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap()
}

fn trusting_tls13(authority: &Authority) -> Arc<ClientConfig> {
    use getty::tls::rustls::{
        RootCertStore,
        pki_types::{CertificateDer, pem::PemObject},
    };
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

// Contract 3.
#[tokio::test(start_paused = true)]
async fn rate_is_charged_when_the_hello_is_complete_and_excess_waits_in_order_or_is_refused() {
    let authority = Authority::new();
    let layer = by_name(&authority).with_handshake_rate(Rate::per_second(1).with_burst(2));
    let mut server = Server::with_layer(layer.clone());
    let started = Instant::now();
    // Silent peers, incomplete hellos and refused names do not use the rate.
    let hello = hello(NAME, trusting(&authority));
    let mut silent = Vec::new();
    for n in 0..100 {
        let mut peer = server.dial().await;
        peer.write_all(&hello[..n]).await.unwrap();
        silent.push(peer);
        let refused = server.connect_for(OTHER, trusting(&authority)).await;
        assert_eq!(
            refused_with(refused).await,
            AlertDescription::UnrecognisedName
        );
    }
    assert_eq!(started.elapsed(), Duration::ZERO);

    let mut times = Vec::new();
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..6 {
        let connected = connect(&server, NAME, trusting(&authority));
        clients.spawn(async move {
            let client = connected.await.unwrap();
            (n, started.elapsed(), client)
        });
        tokio::task::yield_now().await;
    }
    while let Some(client) = clients.join_next().await {
        let (n, time, _client) = client.unwrap();
        times.push((n, time.as_secs()));
    }
    times.sort_unstable();
    assert_eq!(times, [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]);

    drop(silent);
    while server.ends.try_recv().is_ok() {}
    // Without a wait an excess is refused at once, and uses nothing.
    let mut server = Server::with_layer(layer.with_max_rate_wait(Duration::ZERO));
    sleep(60 * SECOND).await;
    let started = Instant::now();
    for _ in 0..2 {
        server.connect(trusting(&authority)).await.unwrap();
        server.end().await;
    }
    for _ in 0..10 {
        let refused = server.connect(trusting(&authority)).await;
        assert_eq!(refused_with(refused).await, AlertDescription::InternalError);
        let (reason, error) = server.refusal().await;
        assert_eq!(reason, CloseReason::Refused);
        assert!(matches!(error, TlsError::TooManyHandshakes), "{error:?}");
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    sleep(SECOND).await;
    server.connect(trusting(&authority)).await.unwrap();
}

/// Like [`Server::connect_for`], in a future without the server's lifetime.
fn connect(
    server: &Server,
    name: &'static str,
    config: Arc<ClientConfig>,
) -> impl Future<Output = Result<Client, BoxError>> + Send + use<> {
    let connector = server.connector.clone();
    async move {
        use tower::ServiceExt;
        let name = ServerName::try_from(name).unwrap();
        let layer = getty::tls::TlsConnectLayer::new(config).with_server_name(name);
        let connection = ServiceBuilder::new()
            .layer(layer)
            .service(connector)
            .oneshot(())
            .await?;
        Ok(Client::new(connection))
    }
}

#[tokio::test(start_paused = true)]
async fn handshake_that_would_wait_beyond_its_deadline_is_refused_at_once() {
    let authority = Authority::new();
    let layer = by_name(&authority)
        .with_handshake_timeout(3 * SECOND)
        .with_handshake_rate(Rate::new(1, 2 * SECOND));
    let mut server = Server::with_layer(layer);
    let _first = server.connect(trusting(&authority)).await.unwrap();
    let waits = tokio::spawn(connect(&server, NAME, trusting(&authority)));
    tokio::task::yield_now().await;
    let started = Instant::now();
    let refused = server.connect(trusting(&authority)).await;
    assert_eq!(refused_with(refused).await, AlertDescription::InternalError);
    let (reason, error) = server.refusal().await;
    assert!(matches!(error, TlsError::TooManyHandshakes), "{error:?}");
    assert_eq!(reason, CloseReason::Refused);
    assert_eq!(started.elapsed(), Duration::ZERO);
    waits.await.unwrap().unwrap();
    assert_eq!(started.elapsed().as_secs(), 2);
}

// Contract 7.
#[tokio::test(start_paused = true)]
async fn refusal_sends_its_alert_before_the_close() {
    let authority = Authority::new();
    let refusals: [(TlsRefusal, u8, AlertDescription); 5] = [
        (
            TlsRefusal::unrecognized_name(),
            112,
            AlertDescription::UnrecognisedName,
        ),
        (
            TlsRefusal::no_application_protocol(),
            120,
            AlertDescription::NoApplicationProtocol,
        ),
        (
            TlsRefusal::access_denied(),
            49,
            AlertDescription::AccessDenied,
        ),
        (
            TlsRefusal::handshake_failure(),
            40,
            AlertDescription::HandshakeFailure,
        ),
        (
            TlsRefusal::new(AlertDescription::InsufficientSecurity).with_source("too old"),
            71,
            AlertDescription::InsufficientSecurity,
        ),
    ];
    for (refusal, code, alert) in refusals {
        let refuses = refusal.clone();
        let layer = TlsLayer::choose(move |_| Err(refuses.clone()));
        let mut server = Server::with_layer(layer);
        let refused = server.connect(trusting(&authority)).await;
        assert_eq!(refused_with(refused).await, alert);
        let (reason, error) = server.refusal().await;
        assert_eq!(reason, CloseReason::Refused);
        let TlsError::Refused(recorded) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(recorded.alert(), alert);
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.is_some(), code == 71);

        let mut peer = server.dial().await;
        let hello = hello(NAME, trusting(&authority));
        peer.write_all(&hello).await.unwrap();
        assert_eq!(received(&mut peer).await, [21, 3, 3, 0, 2, 2, code]);
    }
}

#[tokio::test(start_paused = true)]
async fn certificate_and_protocols_belong_to_the_chosen_configuration() {
    let authority = Authority::new();
    let load = |name, protocol: &str| {
        let issued = authority.issue(name);
        let settings = ServerTls::new(issued.chain(), issued.key());
        settings.with_alpn([protocol]).load().unwrap()
    };
    let (chat, files) = (load(NAME, "chat/1"), load(NAME, "files/1"));
    let admin = load(ADMIN, "admin/1");
    let layer = TlsLayer::choose(move |hello| match hello.server_name() {
        Some(NAME) if hello.offers("chat/1") => Ok(chat.clone()),
        Some(NAME) if hello.alpn().any(|offered| offered == b"files/1") => Ok(files.clone()),
        Some(ADMIN) => Ok(admin.clone()),
        Some(NAME) => Err(TlsRefusal::no_application_protocol()),
        _ => Err(TlsRefusal::unrecognized_name()),
    });
    let server = Server::with_layer(layer);
    let client = |protocol: &'static str| {
        let config = ClientTls::new().with_roots(authority.root());
        config.with_alpn(["other", protocol]).load().unwrap()
    };
    // A client verifies the name, so it has received the certificate of its configuration.
    for (name, protocol) in [
        (NAME, "chat/1"),
        (NAME, "files/1"),
        (ADMIN, "admin/1"),
        ("ADMIN.test", "admin/1"),
    ] {
        let mut connected = server.connect_for(name, client(protocol)).await.unwrap();
        assert_eq!(connected.info.alpn(), Some(protocol.as_bytes()));
        let answer = connected.ask("tls?").await;
        let (name, alpn) = (name.to_ascii_lowercase(), Some(protocol));
        assert!(
            answer.contains(&format!("server_name: Some({name:?})")),
            "{answer}"
        );
        assert!(answer.contains(&format!("alpn: {alpn:?}")), "{answer}");
    }
    for (name, protocol, alert) in [
        (NAME, "admin/1", AlertDescription::NoApplicationProtocol),
        (ADMIN, "chat/1", AlertDescription::NoApplicationProtocol),
        (OTHER, "chat/1", AlertDescription::UnrecognisedName),
    ] {
        let refused = server.connect_for(name, client(protocol)).await;
        assert_eq!(refused_with(refused).await, alert);
    }
}

#[tokio::test(start_paused = true)]
async fn client_without_a_name_is_refused_or_served_as_the_function_decides() {
    let authority = Authority::new();
    let mut config = ClientConfig::clone(&trusting(&authority));
    config.enable_sni = false;
    let config = Arc::new(config);
    let server = Server::with_layer(by_name(&authority));
    let refused = server.connect(Arc::clone(&config)).await;
    assert_eq!(
        refused_with(refused).await,
        AlertDescription::UnrecognisedName
    );

    let main = config_for(&authority, NAME);
    let layer = TlsLayer::choose(move |hello| match hello.server_name() {
        None => Ok(main.clone()),
        Some(_) => Err(TlsRefusal::unrecognized_name()),
    });
    let server = Server::with_layer(layer);
    let mut client = server.connect(config).await.unwrap();
    assert!(client.ask("tls?").await.contains("server_name: None"));
}

#[tokio::test(start_paused = true)]
async fn client_certificates_belong_to_the_chosen_configuration() {
    let authority = Authority::new();
    let devices = Authority::new();
    let public = config_for(&authority, NAME);
    let issued = authority.issue(ADMIN);
    let admin = ServerTls::new(issued.chain(), issued.key())
        .with_client_roots(devices.root())
        .load()
        .unwrap();
    let layer = TlsLayer::choose(move |hello| match hello.server_name() {
        Some(NAME) => Ok(public.clone()),
        _ => Ok(admin.clone()),
    });
    let mut server = Server::with_layer(layer);
    let device = devices.issue("device 1");
    let anonymous = trusting(&authority);
    let known = ClientTls::new()
        .with_roots(authority.root())
        .with_certificate(device.chain(), device.key())
        .load()
        .unwrap();

    let mut client = server.connect(Arc::clone(&anonymous)).await.unwrap();
    assert!(client.ask("tls?").await.contains("peer_certificates: 0"));
    let mut client = server.connect_for(ADMIN, known).await.unwrap();
    assert!(client.ask("tls?").await.contains("peer_certificates: 1"));
    drop(client);
    while server.end().await.reason == CloseReason::Refused {}

    // A session with the public name does not lead to the other.
    for name in [NAME, ADMIN] {
        let refused = server.connect_for(ADMIN, Arc::clone(&anonymous)).await;
        if let Ok(mut client) = refused {
            // With TLS 1.3 the client learns of the refusal when it reads.
            client.stream.read_u8().await.unwrap_err();
        }
        let (_, error) = server.refusal().await;
        assert!(
            matches!(error, TlsError::NoPeerCertificate),
            "{name}: {error:?}"
        );
    }
}

/// Session storage of a client that ignores names, as an attacker would.
#[derive(Debug, Default)]
struct OneName(std::sync::Mutex<Vec<rustls::client::Tls13ClientSessionValue>>);

impl rustls::client::ClientSessionStore for OneName {
    fn set_kx_hint(&self, _: ServerName<'static>, _: rustls::NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }
    fn set_tls12_session(
        &self,
        _: ServerName<'static>,
        _: rustls::client::Tls12ClientSessionValue,
    ) {
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(
        &self,
        _: ServerName<'static>,
        value: rustls::client::Tls13ClientSessionValue,
    ) {
        self.0.lock().unwrap().push(value);
    }
    fn take_tls13_ticket(
        &self,
        _: &ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.lock().unwrap().pop()
    }
}

#[tokio::test(start_paused = true)]
async fn session_is_resumed_with_its_own_name_and_with_no_other() {
    let authority = Authority::new();
    let server = Server::with_layer(by_name(&authority));
    let mut config = ClientConfig::clone(&trusting(&authority));
    config.resumption = Resumption::store(Arc::new(OneName::default()));
    let config = Arc::new(config);
    let kind = async |name| {
        let mut client = server.connect_for(name, Arc::clone(&config)).await.unwrap();
        // The reply comes after the tickets.
        assert_eq!(client.ask("hello").await, "hello");
        client.stream.get_ref().state().handshake_kind()
    };
    assert_eq!(kind(NAME).await, Some(HandshakeKind::Full));
    assert_eq!(kind(NAME).await, Some(HandshakeKind::Resumed));
    assert_eq!(kind(ADMIN).await, Some(HandshakeKind::Full));
    assert_eq!(kind(ADMIN).await, Some(HandshakeKind::Resumed));
    assert_eq!(kind(NAME).await, Some(HandshakeKind::Full));
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_function_ends_only_its_connection() {
    let authority = Authority::new();
    let main = config_for(&authority, NAME);
    let layer = TlsLayer::choose(move |hello| match hello.server_name() {
        Some(NAME) => Ok(main.clone()),
        _ => panic!("on purpose"),
    });
    let mut server = Server::with_layer(layer);
    let mut good = server.connect(trusting(&authority)).await.unwrap();
    assert!(
        server
            .connect_for(OTHER, trusting(&authority))
            .await
            .is_err()
    );
    assert_eq!(server.end().await.reason, CloseReason::Panicked);
    assert_eq!(good.ask("hello").await, "hello");
}

#[tokio::test(start_paused = true)]
async fn chosen_configuration_can_be_reloaded() {
    let (authority, next) = (Authority::new(), Authority::new());
    let config = config_for(&authority, NAME);
    let chosen = config.clone();
    let server = Server::with_layer(TlsLayer::choose(move |_| Ok(chosen.clone())));
    server.connect(trusting(&authority)).await.unwrap();
    config.replace(only_tls12(&next.issue(NAME)));
    server.connect(trusting(&next)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn hello_has_the_handle_and_the_parameters_of_the_client() {
    let authority = Authority::new();
    let main = config_for(&authority, NAME);
    let layer = TlsLayer::choose(move |hello| {
        let debug = format!("{hello:?}");
        let complete = !hello.cipher_suites().is_empty()
            && !hello.signature_schemes().is_empty()
            && !hello.named_groups().is_empty()
            && hello.handle().transport() == getty::TransportKind::Memory
            && debug == r#"Hello { server_name: Some("server.test"), alpn: ["a", "b"], .. }"#;
        complete
            .then(|| main.clone())
            .ok_or_else(TlsRefusal::access_denied)
    });
    let server = Server::with_layer(layer);
    let config = ClientTls::new().with_roots(authority.root());
    let config = config.with_alpn(["a", "b"]).load().unwrap();
    server.connect(config).await.unwrap();
}
