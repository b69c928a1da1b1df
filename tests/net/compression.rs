//! Compressed streams and compressed frames over TCP and TLS.

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use getty::{
    BoxError, CloseReason, CodecLayer, Group, Request, ServiceBuilder, Session, SessionLayer,
    codec::{
        Bytes, BytesMut, Decoder, Deflated, DeflatedError, Encoder, LengthDelimited,
        LengthDelimitedError, Lines,
    },
    compress::{CompressionConnectLayer, CompressionLayer, CompressionStats, Level},
    layers::OnOpenLayer,
    net::{TcpConnector, TcpListener, memory},
    tls::{TlsConnectLayer, TlsLayer},
};
use tokio::{io::AsyncReadExt, sync::mpsc};

use crate::tls::kit::{Authority, NAME, settings, trusting};

type Layers = (CompressionLayer, CompressionConnectLayer);

fn layers() -> Vec<Layers> {
    vec![
        (
            CompressionLayer::deflate(Level::FAST),
            CompressionConnectLayer::deflate(Level::BEST),
        ),
        (
            CompressionLayer::zlib(Level::NONE),
            CompressionConnectLayer::zlib(Level::FAST),
        ),
        (
            CompressionLayer::snappy(),
            CompressionConnectLayer::snappy(),
        ),
        #[cfg(feature = "zstd")]
        (CompressionLayer::zstd(1), CompressionConnectLayer::zstd(9)),
    ]
}

/// Serves lines with their own lengths in front, over a connector of either kind.
macro_rules! exchange {
    ($listener:expr, $server:expr, $connector:expr) => {{
        let app = ServiceBuilder::new()
            .layer($server)
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new().with_in_flight(8))
            .service_fn(|request: Request<String>| async move {
                tokio::task::yield_now().await;
                let line = request.into_message();
                Ok::<_, BoxError>(format!("{} {line}", line.len()))
            });
        let server = tokio::spawn(getty::serve($listener, app).into_future());
        let (sender, mut replies) = mpsc::unbounded_channel();
        let (session, task) = getty::connect($connector, "server".to_owned(), |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(move |request: Request<String>| {
                    let sent = sender.send(request.into_message());
                    ready(sent.map(|()| None::<String>).map_err(BoxError::from))
                })
        })
        .await
        .unwrap();
        let lines: Vec<_> = (0..200).map(|n| "some words, ".repeat(n)).collect();
        for (n, line) in lines.iter().enumerate() {
            if n % 7 == 0 {
                session.send(line.clone()).await.unwrap();
            } else {
                session.feed(line.clone()).await.unwrap();
            }
        }
        // The end of the session drops its attributes, and may come with the last reply.
        let wire: CompressionStats = session.get().unwrap();
        session.finish().await.unwrap();
        for line in &lines {
            assert_eq!(
                replies.recv().await.unwrap(),
                format!("{} {line}", line.len())
            );
        }
        let closed = task.await.unwrap();
        assert_eq!(closed.reason, CloseReason::PeerClosed);
        server.abort();
        (closed.stats, wire)
    }};
}

#[tokio::test]
async fn lines_return_over_tcp_and_tls_and_a_half_close_is_clean() {
    let authority = Authority::new();
    for (server, client) in layers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = getty::Listener::local_addr(&listener).unwrap().to_string();
        let tcp = ServiceBuilder::new()
            .layer(client.clone())
            .map_request(move |_: String| address.clone())
            .service(TcpConnector::new());
        let (_, wire) = exchange!(listener, server.clone(), tcp);
        assert!(wire.wire_bytes_in() > 0 && wire.wire_bytes_out() > 0);

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = getty::Listener::local_addr(&listener).unwrap().to_string();
        let tls = ServiceBuilder::new()
            .layer(client)
            .layer(
                TlsConnectLayer::new(trusting(&authority))
                    .with_server_name(NAME.try_into().unwrap()),
            )
            .map_request(move |_: String| address.clone())
            .service(TcpConnector::new());
        let config = settings(&authority).load().unwrap();
        let server = ServiceBuilder::new()
            .layer(TlsLayer::new(config))
            .layer(server)
            .into_inner();
        let (stats, wire) = exchange!(listener, server, tls);
        assert!(stats.bytes_out > wire.wire_bytes_out());
    }
}

/// Counts the messages that are compressed for all sessions of a layer.
#[derive(Clone)]
struct Counted(Deflated<LengthDelimited>, Arc<AtomicUsize>);

impl Decoder for Counted {
    type Item = Bytes;
    type Error = DeflatedError<LengthDelimitedError>;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, Self::Error> {
        self.0.decode(src)
    }
}

impl Encoder<Bytes> for Counted {
    type Error = DeflatedError<LengthDelimitedError>;

    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> Result<(), Self::Error> {
        self.1.fetch_add(1, Relaxed);
        self.0.encode(message, dst)
    }
}

#[tokio::test]
async fn a_group_compresses_a_message_once_with_compressed_frames() {
    const MEMBERS: usize = 20;
    let (group, compressed) = (Group::new(), Arc::new(AtomicUsize::new(0)));
    let (listener, connector) = memory(64 * 1024);
    let codec = Counted(
        Deflated::new(LengthDelimited::new()),
        Arc::clone(&compressed),
    );
    let members = group.clone();
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(codec))
        .layer(OnOpenLayer::new(move |session: Session<Bytes>| {
            members.join(&session);
            ready(Ok::<_, BoxError>(()))
        }))
        .layer(SessionLayer::new())
        .service_fn(|_: Request<Bytes>| async { Ok::<_, BoxError>(None::<Bytes>) });
    let server = tokio::spawn(getty::serve(listener, app).into_future());
    let mut peers = Vec::new();
    for _ in 0..MEMBERS {
        peers.push(connector.connect().await.unwrap());
    }
    while group.len() < MEMBERS {
        tokio::task::yield_now().await;
    }
    let message = Bytes::from("broadcast ".repeat(1_000));
    group.broadcast(message.clone());
    for peer in &mut peers {
        let mut received = BytesMut::new();
        let mut codec = Deflated::new(LengthDelimited::new());
        loop {
            peer.transport_mut().read_buf(&mut received).await.unwrap();
            if let Some(decoded) = codec.decode(&mut received).unwrap() {
                assert_eq!(decoded, message);
                break;
            }
        }
    }
    assert_eq!(compressed.load(Relaxed), 1);
    server.abort();
}
