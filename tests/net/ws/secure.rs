//! WebSocket over TLS: the shutdown of a server as a client sees it.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use getty::{
    Layer,
    tls::{TlsConnectLayer, TlsLayer},
};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_tungstenite::{client_async, tungstenite};
use tower::ServiceExt;

use super::*;
use crate::tls::kit::{Authority, NAME, settings, trusting};

#[tokio::test]
async fn graceful_shutdown_replies_then_closes_websocket_and_tls() {
    const CLIENTS: usize = 3;

    let authority = Authority::new();
    let config = settings(&authority).load().unwrap();
    let (called, go_on) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let gates = (Arc::clone(&called), Arc::clone(&go_on));
    let stack = ServiceBuilder::new()
        .layer(TlsLayer::new(config))
        .layer(WsLayer::new().with_messages(Messages::Both))
        .layer(CodecLayer::new(MessageCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<Message>| {
            let (called, go_on) = gates.clone();
            async move {
                called.notify_one();
                go_on.acquire().await?.forget();
                Ok::<_, BoxError>(request.into_message())
            }
        });
    let (listener, connector) = memory(64 * 1024);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = getty::serve(listener, stack).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let server = tokio::spawn(async move { server.await.unwrap() });

    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let name = NAME.try_into().unwrap();
        let tls = TlsConnectLayer::new(trusting(&authority)).with_server_name(name);
        let connection = soon(tls.layer(connector.clone()).oneshot(()))
            .await
            .unwrap();
        let io = connection.into_parts().0;
        let (mut ws, _) = soon(client_async(format!("wss://{NAME}/"), io))
            .await
            .unwrap();
        ws.send(tungstenite::Message::text("last words"))
            .await
            .unwrap();
        soon(called.notified()).await;
        clients.push(ws);
    }
    // All clients wait for a reply.
    stop.send(()).unwrap();
    go_on.add_permits(CLIENTS);
    for mut ws in clients {
        let answer = soon(ws.next()).await.unwrap().unwrap();
        assert_eq!(answer.into_text().unwrap(), "last words");
        let close = soon(ws.next()).await.unwrap().unwrap();
        let tungstenite::Message::Close(Some(close)) = close else {
            panic!("{close:?}");
        };
        assert_eq!(u16::from(close.code), 1001);
        // The next poll sends the client's answer. Nothing more can be read.
        assert!(soon(ws.next()).await.is_none());
        // Without a `close_notify` the read would fail.
        let mut rest = Vec::new();
        soon(ws.get_mut().read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, b"");
    }
    let drained = soon(server).await.unwrap();
    assert_eq!((drained.finished, drained.aborted), (CLIENTS, 0));
}
