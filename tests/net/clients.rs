//! `Client` over every transport with one stack: sessions that echo, and reconnects.

use std::{
    error::Error,
    future::{Future, ready},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, BoxPipeline, Client, CodecLayer, Connection, LinkLayer, Pipeline, Request, Service,
    ServiceBuilder, SessionLayer, TransportKind,
    client::{Backoff, ClientBuilder, Ended, Failure, NoSession},
    codec::Lines,
    net::{TcpConnector, TcpListener, UdpConnector, UdpListener},
    tls::{TlsConnectLayer, TlsError, TlsLayer},
    ws::{WsConnectLayer, WsLayer, WsUrlConnectLayer},
};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tower::Layer;

use crate::tls::kit::{Authority, NAME, app, settings, trusting};

/// Returns the output of `future`. It must resolve within a minute.
async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(60), future)
        .await
        .expect("timed out")
}

/// Serves `stack` over TCP.
async fn serve(stack: impl Pipeline<TcpStream>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { getty::serve(listener, stack).await });
    address
}

/// Dials this machine for any name.
fn connector()
-> impl Service<(String, u16), Response = Connection<TcpStream>, Error: Into<BoxError>, Future: Send>
+ Clone
+ Send
+ 'static {
    ServiceBuilder::new()
        .map_request(|(host, port): (String, u16)| {
            assert_eq!(host, NAME);
            SocketAddr::from(([127, 0, 0, 1], port))
        })
        .service(TcpConnector::new())
}

fn tls() -> (TlsLayer, TlsConnectLayer) {
    let authority = Authority::new();
    let server = TlsLayer::new(settings(&authority).load().unwrap());
    (server, TlsConnectLayer::new(trusting(&authority)))
}

fn client() -> ClientBuilder<String> {
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(2));
    Client::builder().with_backoff(backoff)
}

/// A client's stack for any transport, with a channel that receives its messages.
fn listening() -> (
    impl Fn(LinkLayer<String>) -> BoxPipeline + Send + Sync + 'static,
    mpsc::UnboundedReceiver<String>,
) {
    let (sender, messages) = mpsc::unbounded_channel();
    let build = move |link| {
        let sender = sender.clone();
        BoxPipeline::new(
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(move |request: Request<String>| {
                    ready(sender.send(request.into_message()).map(|()| None::<String>))
                }),
        )
    };
    (build, messages)
}

/// Sends over one session after another. The peer echoes.
async fn assert_echoes<C, A, T>(connector: C, target: A, kind: TransportKind)
where
    C: Service<A, Response = Connection<T>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    A: Clone + Send + 'static,
    T: getty::Transport + Send + 'static,
{
    let (build, mut messages) = listening();
    let client = client().connect(connector, target, build);
    let mut last = None;
    for message in ["one", "two", "three"] {
        let session = soon(client.session()).await.unwrap();
        assert_eq!(session.transport(), kind);
        assert_ne!(last.replace(session.id()), Some(session.id()));
        soon(session.send(message.to_owned())).await.unwrap();
        assert_eq!(soon(messages.recv()).await.unwrap(), message);
        session.close();
        soon(session.closed()).await;
    }
    client.stop();
    soon(client.stopped()).await;
}

#[tokio::test]
async fn client_reconnects_over_tls() {
    let (server, client) = tls();
    let address = serve(server.layer(app())).await;
    let target = (NAME.to_owned(), address.port());
    assert_echoes(client.layer(connector()), target, TransportKind::Tls).await;
}

#[tokio::test]
async fn client_reconnects_over_websocket() {
    let address = serve(WsLayer::new().layer(app())).await;
    let url = format!("ws://{NAME}:{}/", address.port());
    let connector = WsConnectLayer::new().layer(connector());
    assert_echoes(connector, url, TransportKind::WebSocket).await;
}

#[tokio::test]
async fn client_reconnects_over_websocket_and_tls() {
    let (server, client) = tls();
    let address = serve(server.layer(WsLayer::new().layer(app()))).await;
    let url = format!("wss://{NAME}:{}/", address.port());
    let connector = WsConnectLayer::new().layer(client.layer(connector()));
    assert_echoes(connector, url, TransportKind::SecureWebSocket).await;
}

#[tokio::test]
async fn url_selects_the_transport_of_its_client() {
    let (server, client) = tls();
    let plain = serve(WsLayer::new().layer(app())).await;
    let secure = serve(server.layer(WsLayer::new().layer(app()))).await;
    let connector = WsUrlConnectLayer::new(WsConnectLayer::new(), client).layer(connector());
    for scheme in ["ws", "WS"] {
        let url = format!("{scheme}://{NAME}:{}/", plain.port());
        assert_echoes(connector.clone(), url, TransportKind::WebSocket).await;
    }
    for scheme in ["wss", "WsS"] {
        let url = format!("{scheme}://{NAME}:{}/", secure.port());
        assert_echoes(connector.clone(), url, TransportKind::SecureWebSocket).await;
    }
}

#[tokio::test]
async fn client_reconnects_over_udp() {
    let listener = UdpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { getty::serve(listener, app()).await });
    assert_echoes(UdpConnector::new(), address, TransportKind::Udp).await;
}

#[tokio::test]
async fn secure_url_rejects_an_untrusted_certificate() {
    let (server, _) = tls();
    let (_, stranger) = tls();
    let address = serve(server.layer(WsLayer::new().layer(app()))).await;
    let connector = WsUrlConnectLayer::new(WsConnectLayer::new(), stranger).layer(connector());
    let url = format!("wss://{NAME}:{}/", address.port());
    let (build, _hears) = listening();
    let client = client().with_max_attempts(2).connect(connector, url, build);
    let Err(NoSession::Failed(Failure::Attempts { attempts: 2, last })) =
        soon(client.session()).await
    else {
        panic!("the server must not be trusted");
    };
    let Ended::Open(error) = &*last else {
        panic!("{last}");
    };
    let causes = std::iter::successors(Some(error as &dyn Error), |&error| error.source());
    assert_eq!(causes.filter(|cause| cause.is::<TlsError>()).count(), 1);
}

#[tokio::test]
async fn changed_address_of_a_name_is_used_at_the_next_dial() {
    let (old, new) = (serve(app()).await, serve(app()).await);
    let names = Arc::new(Mutex::new(old));
    let resolved = Arc::clone(&names);
    let connector = ServiceBuilder::new()
        .map_request(move |name: &'static str| {
            assert_eq!(name, NAME);
            *resolved.lock().unwrap()
        })
        .service(TcpConnector::new());
    let (build, _hears) = listening();
    let client = client().connect(connector, NAME, build);
    let session = soon(client.session()).await.unwrap();
    assert_eq!(session.peer_addr().port(), Some(old.port()));
    *names.lock().unwrap() = new;
    session.close();
    let session = soon(client.session()).await.unwrap();
    assert_eq!(session.peer_addr().port(), Some(new.port()));
}
