//! Reload of a configuration while sessions are open.

use std::{fs, time::Duration};

use getty::tls::{
    ClientTls, ServerTls, TlsConfig, TlsConfigError,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio::time::advance;

use super::kit::{Authority, Client, Directory, NAME, Server, trusting};

fn shown(client: &Client) -> CertificateDer<'static> {
    client.info.peer_certificates()[0].clone()
}

#[tokio::test(start_paused = true)]
async fn reload_applies_to_new_handshakes_and_keeps_sessions() {
    let (authority, directory) = (Authority::new(), Directory::new());
    authority.issue(NAME).write(&directory);
    let config = ServerTls::new(directory.chain(), directory.key())
        .load()
        .unwrap();
    let server = Server::new(config.clone());
    let mut before = server.connect(trusting(&authority)).await.unwrap();

    authority.issue(NAME).write(&directory);
    config.reload().unwrap();
    let after = server.connect(trusting(&authority)).await.unwrap();
    assert_ne!(shown(&before), shown(&after));
    assert_eq!(before.ask("still here").await, "still here");
}

#[tokio::test(start_paused = true)]
async fn unusable_files_keep_the_old_configuration() {
    let (authority, directory) = (Authority::new(), Directory::new());
    authority.issue(NAME).write(&directory);
    let config = ServerTls::new(directory.chain(), directory.key())
        .load()
        .unwrap();
    let server = Server::new(config.clone());
    let before = server.connect(trusting(&authority)).await.unwrap();

    // Half of a change: a new chain with the old key.
    let new = authority.issue(NAME);
    fs::write(directory.chain(), &new.chain).unwrap();
    let error = config.reload_if_changed().unwrap_err();
    assert!(matches!(error, TlsConfigError::WrongKey { .. }));
    let during = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(shown(&before), shown(&during));
    assert!(
        !config.reload_if_changed().unwrap(),
        "the files were refused before"
    );

    new.write(&directory);
    assert!(config.reload_if_changed().unwrap());
    let after = server.connect(trusting(&authority)).await.unwrap();
    assert_ne!(shown(&before), shown(&after));
}

#[test]
fn unreadable_files_are_read_again_without_a_change() {
    let (authority, directory) = (Authority::new(), Directory::new());
    authority.issue(NAME).write(&directory);
    let config = ServerTls::new(directory.chain(), directory.key())
        .load()
        .unwrap();
    fs::remove_file(directory.key()).unwrap();
    // A process without free descriptors cannot read the files either. Their contents stay
    // unknown.
    for _ in 0..2 {
        let error = config.reload_if_changed().unwrap_err();
        assert!(matches!(error, TlsConfigError::Read { .. }), "{error}");
    }
    authority.issue(NAME).write(&directory);
    assert!(config.reload_if_changed().unwrap());
    assert!(!config.reload_if_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn client_roots_are_reloaded_and_resumption_does_not_bypass_them() {
    let (authority, directory) = (Authority::new(), Directory::new());
    authority.issue(NAME).write(&directory);
    let roots = directory.path().join("roots.pem");
    let (old, new) = (Authority::new(), Authority::new());
    fs::write(&roots, old.pem()).unwrap();
    let config = ServerTls::new(directory.chain(), directory.key())
        .with_client_roots(&roots)
        .load()
        .unwrap();
    let mut server = Server::new(config.clone());
    let device = old.issue("device");
    let client = ClientTls::new()
        .with_roots(authority.root())
        .with_certificate(device.chain(), device.key())
        .load()
        .unwrap();
    let mut before = server.connect(client.clone()).await.unwrap();
    assert_eq!(before.ask("hello").await, "hello");

    fs::write(&roots, new.pem()).unwrap();
    assert!(config.reload_if_changed().unwrap());
    let mut after = server.connect(client).await.unwrap();
    after.send("hello\n").await;
    after.rest().await.unwrap_err();
    assert!(
        server
            .refusal()
            .await
            .1
            .to_string()
            .contains("not accepted")
    );
    assert_eq!(before.ask("hello").await, "hello");
}

#[tokio::test(start_paused = true)]
async fn first_connection_after_the_period_detects_changed_files() {
    let (authority, directory) = (Authority::new(), Directory::new());
    authority.issue(NAME).write(&directory);
    let config = ServerTls::new(directory.chain(), directory.key())
        .with_automatic_reload(Duration::from_secs(60))
        .load()
        .unwrap();
    let server = Server::new(config);
    let first = server.connect(trusting(&authority)).await.unwrap();
    authority.issue(NAME).write(&directory);
    let second = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(shown(&first), shown(&second), "the period has not passed");
    advance(Duration::from_secs(60)).await;
    let third = server.connect(trusting(&authority)).await.unwrap();
    assert_ne!(shown(&first), shown(&third));
}

#[tokio::test(start_paused = true)]
async fn configuration_without_files_can_be_replaced_but_not_reloaded() {
    let authority = Authority::new();
    let ready = |authority: &Authority| {
        let issued = authority.issue(NAME);
        let chain = CertificateDer::from_pem_slice(issued.chain.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes());
        ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain.unwrap()], key.unwrap())
            .unwrap()
    };
    let config = TlsConfig::from(ready(&authority));
    assert!(matches!(config.reload(), Err(TlsConfigError::NoFiles)));
    let server = Server::new(config.clone());
    let before = server.connect(trusting(&authority)).await.unwrap();
    config.replace(ready(&authority));
    let after = server.connect(trusting(&authority)).await.unwrap();
    assert_ne!(shown(&before), shown(&after));
}
