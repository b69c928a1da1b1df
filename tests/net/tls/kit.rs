//! Test certificates, and a server in memory whose clients are TLS streams.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, Pipeline, Request, ServiceBuilder,
    SessionLayer, Transport,
    codec::Lines,
    layers::CloseCallbackLayer,
    net::{MemoryConnector, memory},
    tls::{
        ClientTls, Pem, ServerTls, TlsConfig, TlsConnectLayer, TlsError, TlsInfo, TlsLayer,
        TlsStream,
        rustls::{ClientConfig, pki_types::ServerName},
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use tempfile::TempDir;
use tokio::{
    io::{
        AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
        DuplexStream,
    },
    sync::mpsc,
};
use tower::ServiceExt;

/// Name of all test servers.
pub(crate) const NAME: &str = "server.test";

/// Certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Certificate and its key in PEM.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With equal names a foreign issuer would be a wrong signature instead of an unknown
        // issuer.
        let name = format!("authority {}", COUNT.fetch_add(1, Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn root(&self) -> Pem {
        Pem::inline(self.0.pem())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(super) fn issue(&self, name: &str) -> Issued {
        self.issue_with(name, |_| ())
    }

    pub(super) fn issue_expired(&self, name: &str) -> Issued {
        self.issue_with(name, |params| params.not_after = date_time_ymd(2001, 2, 3))
    }

    fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued {
            chain: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Issued {
    pub(super) fn chain(&self) -> Pem {
        Pem::inline(self.chain.clone())
    }

    pub(super) fn key(&self) -> Pem {
        Pem::inline(self.key.clone())
    }

    /// Writes both to a directory and replaces existing files.
    pub(super) fn write(&self, directory: &Directory) {
        fs::write(directory.chain(), &self.chain).unwrap();
        fs::write(directory.key(), &self.key).unwrap();
    }
}

/// Directory with a chain and a key.
pub(super) struct Directory(TempDir);

impl Directory {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn chain(&self) -> PathBuf {
        self.path().join("chain.pem")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.path().join("key.pem")
    }
}

/// Returns the settings of a server with a certificate from `authority`.
pub(crate) fn settings(authority: &Authority) -> ServerTls {
    let issued = authority.issue(NAME);
    ServerTls::new(issued.chain(), issued.key())
}

/// Returns a client's configuration that trusts only `authority`.
pub(crate) fn trusting(authority: &Authority) -> Arc<ClientConfig> {
    ClientTls::new()
        .with_roots(authority.root())
        .load()
        .unwrap()
}

/// Returns a stack that echoes lines. It answers `tls?` with the session's TLS parameters. The
/// answer to `wait` takes a minute.
pub(crate) fn app<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new().with_max_length(1024 * 1024)))
        .layer(SessionLayer::new())
        .service_fn(async |request: Request<String>| {
            Ok::<_, BoxError>(match request.message().as_str() {
                "tls?" => {
                    let info: TlsInfo = request.session().get().ok_or("not secured")?;
                    format!("{} {info:?}", request.session().transport())
                }
                "wait" => {
                    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
                    "waited".to_owned()
                }
                _ => request.into_message(),
            })
        })
}

/// Server in memory.
pub(super) struct Server {
    pub(super) connector: MemoryConnector,
    /// Close records of its connections.
    pub(super) ends: mpsc::UnboundedReceiver<Closed>,
}

impl Server {
    /// Serves [`app`] over TLS.
    pub(super) fn new(config: impl Into<TlsConfig>) -> Self {
        Self::with_layer(TlsLayer::new(config))
    }

    pub(super) fn with_layer(layer: TlsLayer) -> Self {
        Self::with_stack(ServiceBuilder::new().layer(layer).service(app()))
    }

    pub(super) fn with_stack(stack: impl Pipeline<DuplexStream> + Clone) -> Self {
        let (listener, connector) = memory(64 * 1024);
        let (end, ends) = mpsc::unbounded_channel();
        let stack = ServiceBuilder::new()
            .layer(CloseCallbackLayer::new("test", "end", move |closed| {
                let _ = end.send(closed.clone());
            }))
            .service(stack);
        tokio::spawn(async move { getty::serve(listener, stack).await });
        Self { connector, ends }
    }

    /// Connects a client that requests [`NAME`].
    pub(super) async fn connect(&self, config: Arc<ClientConfig>) -> Result<Client, BoxError> {
        self.connect_for(NAME, config).await
    }

    pub(super) async fn connect_for(
        &self,
        name: &'static str,
        config: Arc<ClientConfig>,
    ) -> Result<Client, BoxError> {
        let name = ServerName::try_from(name).unwrap();
        let connection = ServiceBuilder::new()
            .layer(TlsConnectLayer::new(config).with_server_name(name))
            .service(self.connector.clone())
            .oneshot(())
            .await?;
        Ok(Client::new(connection))
    }

    /// Returns a connection without TLS.
    pub(super) async fn dial(&self) -> DuplexStream {
        self.connector.connect().await.unwrap().into_parts().0
    }

    pub(super) async fn end(&mut self) -> Closed {
        self.ends.recv().await.unwrap()
    }

    /// Returns the close reason and the TLS error of the next connection that fails.
    pub(super) async fn refusal(&mut self) -> (CloseReason, TlsError) {
        let Closed { reason, source, .. } = self.end().await;
        let source = source.expect("a refusal has a source");
        (reason, TlsError::clone(source.downcast_ref().unwrap()))
    }
}

/// TLS stream of a client, read in lines.
pub(super) struct Client<T = DuplexStream> {
    pub(super) stream: BufReader<TlsStream<T>>,
    pub(super) info: TlsInfo,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(super) fn new(connection: Connection<TlsStream<T>>) -> Self {
        let info = connection.handle().get().unwrap();
        Self {
            stream: BufReader::new(connection.into_parts().0),
            info,
        }
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(super) async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// Sends `text` and returns the answer.
    pub(super) async fn ask(&mut self, text: &str) -> String {
        self.send(&format!("{text}\n")).await;
        self.line().await
    }

    /// Returns all remaining bytes until the server's `close_notify`.
    pub(super) async fn rest(&mut self) -> std::io::Result<String> {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).await?;
        Ok(rest)
    }
}
