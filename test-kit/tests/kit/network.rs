//! The listener for servers and the connector for clients.

use std::{io, time::Duration};

use getty::{
    Client, CodecLayer, NoReply, ServiceBuilder, SessionLayer, client::Backoff, codec::Lines,
    handle, serve,
};
use getty_test::{advance, connector, listener, settle};

#[tokio::test(start_paused = true)]
async fn client_pauses_between_refused_dials() {
    let (connector, acceptor) = connector();
    acceptor.refuse(true);
    let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(4)).with_jitter(0.0);
    let client = Client::builder()
        .with_backoff(backoff)
        .connect(connector, (), |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service(handle(async |_: String| NoReply))
        });
    advance(Duration::from_secs(8)).await;
    let dials = acceptor.dials();
    let pauses = dials.windows(2).map(|pair| (pair[1] - pair[0]).as_secs());
    assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4]);

    acceptor.refuse(false);
    let server = acceptor.accept().await;
    client.send("hello".to_owned()).await.unwrap();
    assert_eq!(server.line().await, "hello");
    client.stop();
    server.ended().await;
}

#[tokio::test(start_paused = true)]
async fn server_survives_a_failed_accept() {
    let (listener, dialer) = listener();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(async |line: String| line));
    let server = tokio::spawn(async move { serve(listener, stack).await });
    dialer.fail(io::ErrorKind::ConnectionAborted);
    let peer = dialer.dial();
    peer.send("hello\n");
    assert_eq!(peer.line().await, "hello");
    assert_eq!(dialer.backlog(), 0);
    assert!(dialer.polls() > 1);

    server.abort();
    settle().await;
    assert!(dialer.is_gone());
}
