//! STARTTLS: sessions that begin in plain text and continue over TLS, in both roles.

mod choice;
mod injection;
mod race;
mod session;

use std::sync::Arc;

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, IntoReply, Pipeline, Reply, Request,
    Service, ServiceBuilder, Session, SessionLayer, Transport,
    codec::Lines,
    handle,
    layers::{CloseCallbackLayer, OnOpenLayer},
    net::{MemoryConnector, memory},
    service_fn,
    tls::{TlsConfig, TlsConnectLayer, TlsInfo, TlsLayer, TlsStream, rustls::ClientConfig},
    transport::ByteStream,
    upgrade::{StartTlsConnectLayer, StartTlsLayer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
};
use tower::ServiceExt;

use super::tls::kit::{Authority, NAME, settings};

/// Runs a client's handshake over `io`.
async fn secure<T: ByteStream>(io: T, config: Arc<ClientConfig>) -> Result<TlsStream<T>, BoxError> {
    let mut io = Some(io);
    let dial = move |()| {
        let connection = Connection::new(io.take().expect("dialed once"));
        async { Ok::<_, BoxError>(connection) }
    };
    let connection = ServiceBuilder::new()
        .layer(TlsConnectLayer::new(config).with_server_name(NAME.try_into().unwrap()))
        .service(service_fn(dial))
        .oneshot(())
        .await?;
    Ok(connection.into_parts().0)
}

/// Runs a server's handshake over `io`.
async fn accept<T: ByteStream>(io: T, config: TlsConfig) -> Result<TlsStream<T>, BoxError> {
    let connection = ServiceBuilder::new()
        .layer(TlsLayer::new(config))
        .service_fn(async |connection: Connection<TlsStream<T>>| Ok::<_, BoxError>(connection))
        .oneshot(Connection::new(io))
        .await?;
    Ok(connection.into_parts().0)
}

/// Reads a line byte by byte, so that nothing behind it is taken.
async fn line(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut line = Vec::new();
    loop {
        match io.read_u8().await.unwrap() {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}

async fn send(io: &mut (impl AsyncWrite + Unpin), text: &str) {
    io.write_all(text.as_bytes()).await.unwrap();
    io.flush().await.unwrap();
}

/// Server in memory. It handles `STARTTLS`, and answers `tls?` with the parameters of TLS.
struct Server {
    connector: MemoryConnector,
    sessions: mpsc::UnboundedReceiver<Session<String>>,
    ends: mpsc::UnboundedReceiver<Closed>,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Server {
    fn new(authority: &Authority) -> Self {
        Self::with_layer(StartTlsLayer::new(settings(authority).load().unwrap()))
    }

    fn with_layer(layer: StartTlsLayer) -> Self {
        let (listener, connector) = memory(64 * 1024);
        let (end, ends) = mpsc::unbounded_channel();
        let (open, sessions) = mpsc::unbounded_channel();
        let (hear, heard) = mpsc::unbounded_channel();
        let stack = ServiceBuilder::new()
            .layer(CloseCallbackLayer::new("test", "end", move |closed| {
                let _ = end.send(closed.clone());
            }))
            .layer(layer)
            .layer(CodecLayer::new(Lines::new()))
            .layer(OnOpenLayer::new(move |session: Session<String>| {
                open.send(session).unwrap();
                async { Ok::<_, BoxError>(()) }
            }))
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                hear.send(request.message().clone()).unwrap();
                async move {
                    let session = request.session();
                    let info: Option<TlsInfo> = session.get();
                    Ok::<_, BoxError>(match request.message().as_str() {
                        "STARTTLS" => Reply::one("220 ready".to_owned()).and_upgrade(),
                        "tls?" => {
                            let name = info.as_ref().and_then(TlsInfo::server_name);
                            Reply::one(format!("{} {name:?}", session.transport()))
                        }
                        line => Reply::one(line.to_owned()),
                    })
                }
            });
        tokio::spawn(async move { getty::serve(listener, stack).await });
        Self {
            connector,
            sessions,
            ends,
            heard,
        }
    }

    async fn dial(&mut self) -> (DuplexStream, Session<String>) {
        let io = self.connector.connect().await.unwrap().into_parts().0;
        (io, self.sessions.recv().await.unwrap())
    }

    /// Returns a connection whose server waits for the handshake.
    async fn started(&mut self) -> (DuplexStream, Session<String>) {
        let (mut io, session) = self.dial().await;
        send(&mut io, "STARTTLS\n").await;
        assert_eq!(line(&mut io).await, "220 ready");
        (io, session)
    }

    async fn end(&mut self) -> Closed {
        self.ends.recv().await.unwrap()
    }

    /// Returns all messages that were handled.
    fn heard(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
    }
}

/// Returns a stack that upgrades at `STARTTLS` and echoes other lines.
fn echo_app<T: ByteStream>(authority: &Authority) -> impl Pipeline<T> + Clone + use<T> {
    ServiceBuilder::new()
        .layer(StartTlsLayer::new(settings(authority).load().unwrap()))
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(async |line: String| match line.as_str() {
            "STARTTLS" => Reply::one("220 ready".to_owned()).and_upgrade(),
            _ => Reply::one(line),
        }))
}

/// Client over a pipe. It upgrades when it gets `220 ready`, and passes other lines on.
struct Client {
    session: Session<String>,
    peer: DuplexStream,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Client {
    /// `reply` is the client's last plain message.
    async fn new(config: Arc<ClientConfig>, reply: Option<&'static str>) -> Self {
        let (io, peer) = duplex(64 * 1024);
        let mut io = Some(io);
        let dial = move |()| {
            let connection = Connection::new(io.take().expect("dialed once"));
            async { Ok::<_, BoxError>(connection) }
        };
        let connector = ServiceBuilder::new()
            .layer(StartTlsConnectLayer::new(config).with_server_name(NAME.try_into().unwrap()))
            .service(service_fn(dial));
        let (session, heard) = connect(connector, (), reply).await;
        Self {
            session,
            peer,
            heard,
        }
    }
}

/// Connects a session that replies to `220 ready` with `reply` and an upgrade, and passes other
/// lines on.
async fn connect<C, A, T>(
    connector: C,
    target: A,
    reply: Option<&'static str>,
) -> (Session<String>, mpsc::UnboundedReceiver<String>)
where
    C: Service<A, Response = Connection<T>, Error: Into<BoxError>, Future: Send>,
    T: Transport + Send + 'static,
{
    let (hear, heard) = mpsc::unbounded_channel();
    let (session, _task) = getty::connect(connector, target, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(move |line: String| {
                if line == "220 ready" {
                    let reply = reply.map(ToOwned::to_owned).into_reply();
                    return reply.and_upgrade();
                }
                let _ = hear.send(line);
                Reply::none()
            }))
    })
    .await
    .unwrap();
    (session, heard)
}

/// Returns the error of a failed upgrade.
fn failure<E: Clone + std::error::Error + 'static>(closed: &Closed, reason: &CloseReason) -> E {
    assert_eq!(closed.reason, *reason, "{closed}");
    let source = closed.source.as_ref().expect("a failure has a source");
    source.downcast_ref::<E>().expect("of this type").clone()
}
