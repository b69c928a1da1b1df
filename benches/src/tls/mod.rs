//! TLS without a network: a message through a session over it, and through the loop that one would write by hand.
//!
//! The client's side is not to be counted and cannot be written down beforehand, for its records are made with keys of the
//! handshake: see `script.rs` for how it cancels out.

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
use getty::{
    BoxError, CodecLayer, Pipeline, Request, ServiceBuilder, SessionLayer, codec::Frame,
    tls::TlsLayer,
};
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
    in_memory::session,
    server::{codec, tokio_loop},
};

/// How much the hand-written loop reads at once.
const READ: usize = 64 * 1024;
/// The name of the server.
pub const NAME: &str = "server.test";

/// What echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// tokio-rustls, and the loop that parses by hand.
    ByHand,
    /// `TlsLayer`, codec and session loop.
    Getty,
}

/// What protects the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128-GCM, by ring: how many instructions it takes is the processor's affair.
    Aes,
    /// None: records have their form, and room for a tag, and nothing is computed.
    None,
}

/// Echoes so many `times` a batch of so many `frames` of so many `payload` bytes. Of all runs with the same `most`, the
/// client's side takes the same.
///
/// # Panics
///
/// If the loop fails or has not echoed everything.
pub fn echo(
    (kind, cipher): (Kind, Cipher),
    runtime: &Runtime,
    (frames, payload): (usize, usize),
    times: u64,
    most: u64,
) {
    let (server, client) = configurations(cipher).expect("the certificate was made for it");
    let batch = Bytes::from(Frames::new(payload).concatenated(frames));
    let written = Arc::new(AtomicU64::new(0));
    let script = Script::new(client, NAME, &batch, times, most, Arc::clone(&written));
    let outcome = runtime.block_on(async {
        let task = match kind {
            Kind::ByHand => tokio::spawn(by_hand(script, server)),
            Kind::Getty => tokio::spawn(session(script, getty(server))),
        };
        task.await.expect("the loop does not panic")
    });
    outcome.expect("the script contains nothing that could fail");
    // each answer has left, in a record of its own, or in two where what was asked lay in two reads
    let expected = script::in_a_record(batch.len()) as u64 * times;
    let more = script::in_a_record(0) as u64 * times;
    let written = written.load(Relaxed);
    let right = (expected..=expected + more).contains(&written);
    assert!(right, "{kind:?}, {cipher:?}: {written} of {expected}");
}

/// The client hangs up without a word, and that is no error here.
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

/// `TlsLayer`, codec and session loop.
pub fn getty<T>(config: ServerConfig) -> impl Pipeline<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    ServiceBuilder::new()
        .layer(TlsLayer::new(config))
        .layer(CodecLayer::new(codec::frames()))
        .layer(SessionLayer::new())
        .service_fn(async |request: Request<Frame>| Ok::<_, BoxError>(request.into_message()))
}

/// A server's and that of a client which trusts it. Nothing is kept for a later connection.
///
/// # Errors
///
/// None at present: the certificate was made for it.
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
    // nobody comes back, and they would be counted with the answers
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    Ok((server, client))
}
