//! TLS without a network: a message through a session and through a hand-written loop.
//!
//! The work of the client must not be counted. Its records depend on keys of the handshake, so
//! they cannot be prepared. `script.rs` describes how they cancel out.

mod no_cipher;
mod script;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use getty::{BoxError, Layer, Pipeline, tls::TlsLayer};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Runtime,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        client::Resumption,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer},
        version::TLS13,
    },
};

use self::script::Script;
use crate::{
    frames::Frames,
    server::{getty as stacks, tokio_loop},
    workload::session,
};

/// Size of a read of the hand-written loop, in bytes.
const READ: usize = 64 * 1024;
/// Name of the server in its certificate.
pub const NAME: &str = "server.test";

/// An echo server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hand-written: tokio-rustls and the loop that parses frames in place.
    ByHand,
    /// getty: `TlsLayer`, codec and session loop.
    Getty,
}

/// Protection of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128-GCM of ring. Its instruction count depends on the processor.
    Aes,
    /// No encryption. Records have their usual form and size, but nothing is computed.
    None,
}

/// Echoes `times` batches, each with `frames` frames of `payload` bytes.
///
/// The client will do the same work in all runs with the same `encrypted`.
///
/// # Panics
///
/// If the loop fails or does not echo everything.
pub fn echo(
    (kind, cipher): (Kind, Cipher),
    runtime: &Runtime,
    (frames, payload): (usize, usize),
    times: u64,
    encrypted: u64,
) {
    let (server, client) = configurations(cipher).expect("the certificate is valid");
    let batch = Bytes::from(Frames::new(payload).concatenated(frames));
    let written = Arc::new(AtomicU64::new(0));
    let script = Script::new(client, NAME, &batch, times, encrypted, Arc::clone(&written));
    let outcome = runtime.block_on(async {
        let task = match kind {
            Kind::ByHand => tokio::spawn(by_hand(script, server)),
            Kind::Getty => tokio::spawn(session(script, getty(server))),
        };
        task.await.expect("the loop does not panic")
    });
    outcome.expect("the script is valid");
    // An answer leaves in one record or in two if its request arrived in two reads.
    let expected = script::in_a_record(batch.len()) as u64 * times;
    let more = script::in_a_record(0) as u64 * times;
    let written = written.load(Relaxed);
    let right = (expected..=expected + more).contains(&written);
    assert!(right, "{kind:?}, {cipher:?}: {written} of {expected}");
}

/// Serves one connection. The client may close without `close_notify`, which is not an error
/// here.
async fn by_hand<T>(transport: T, config: ServerConfig) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let stream = acceptor.accept(transport).await?;
    match tokio_loop::by_hand(stream, READ).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        outcome => outcome,
    }
}

/// Creates a stack with `TlsLayer`, codec and session loop.
pub fn getty<T>(config: ServerConfig) -> impl Pipeline<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    TlsLayer::new(config).layer(stacks::bare())
}

/// Returns the configurations of a server and of a client that trusts it. Sessions cannot be
/// resumed.
///
/// # Errors
///
/// If the certificate cannot be created.
pub fn configurations(cipher: Cipher) -> Result<(ServerConfig, ClientConfig), BoxError> {
    let suite = match cipher {
        Cipher::Aes => ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        Cipher::None => no_cipher::suite(),
    };
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        ..ring::default_provider()
    });
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = CertificateDer::from(cert);
    let key = PrivateKeyDer::try_from(signing_key.serialize_der())?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    // A client never resumes a session and tickets would be counted with the answers.
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    Ok((server, client))
}
