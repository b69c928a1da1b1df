//! Sending through a client: outcomes of messages while sessions come and go
//! (design.md: Why does a message return to its sender when the session ends?).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, Request, SendError, ServiceBuilder, SessionLayer,
    Transport,
    client::{Client, ClientSendError, NoSession, Pick},
    codec::Lines,
};
use tokio::sync::mpsc;

use crate::support::{Host, echo, idle, ignoring_client, ms, soon, without_jitter};

/// Returns a server's stack that forwards its messages to a channel.
fn forwarding_server<T: Transport + Send + 'static>(
    sender: mpsc::UnboundedSender<String>,
) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<String>| {
            let _ = sender.send(request.into_message());
            async { Ok::<Option<String>, BoxError>(None) }
        })
}

/// Returns a client and a send of `last` that must wait behind other messages, because the
/// server reads nothing. `resend` enables `with_resend`.
async fn blocked_send(
    resend: bool,
) -> (
    Host,
    Client<String>,
    getty::Connection<tokio::io::DuplexStream>,
    tokio::task::JoinHandle<Result<getty::Sent, ClientSendError<String>>>,
) {
    let host = Host::default();
    let mut listener = host.listen();
    let client =
        without_jitter()
            .with_resend(resend)
            .connect(host.connector(), (), ignoring_client);
    let session = soon(client.session()).await.unwrap();
    let accept = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
    let accepted = soon(accept).await.unwrap();
    // Fill the pipe and then the write buffer up to its high watermark.
    while session.try_send("x".repeat(8000)).is_ok() {
        idle().await;
    }
    while !matches!(session.try_send(String::new()), Err(SendError::Full(_))) {
        idle().await;
    }
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("last".to_owned()).await });
    idle().await;
    assert!(!sending.is_finished());
    (host, client, accepted, sending)
}

#[tokio::test(start_paused = true)]
async fn send_waits_for_a_session() {
    let host = Host::default();
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("hello".to_owned()).await });
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(!sending.is_finished());
    let (messages, mut received) = mpsc::unbounded_channel();
    let _server = host.serve(forwarding_server(messages));
    assert_eq!(soon(sending).await.unwrap().unwrap().bytes, 6);
    assert_eq!(soon(received.recv()).await.unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn unsent_message_is_returned_to_the_caller() {
    let (host, client, accepted, sending) = blocked_send(false).await;
    let (messages, mut received) = mpsc::unbounded_channel();
    let _server = host.serve(forwarding_server(messages));
    drop(accepted);
    let error = soon(sending).await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        ClientSendError::Session(SendError::Closed { .. })
    ));
    assert_eq!(error.into_message().as_deref(), Some("last"));
    soon(client.send("another".to_owned())).await.unwrap();
    assert_eq!(soon(received.recv()).await.unwrap(), "another");
}

#[tokio::test(start_paused = true)]
async fn unsent_message_is_resent_on_the_next_session_if_enabled() {
    let (host, client, accepted, sending) = blocked_send(true).await;
    let (messages, mut received) = mpsc::unbounded_channel();
    let server = host.serve(forwarding_server(messages));
    drop(accepted);
    soon(sending).await.unwrap().unwrap();
    assert_eq!(soon(received.recv()).await.unwrap(), "last");
    soon(client.send("another".to_owned())).await.unwrap();
    assert_eq!(
        soon(received.recv()).await.unwrap(),
        "another",
        "the first message was sent once"
    );
    drop((server, client));
    assert_eq!(soon(received.recv()).await, None);
}

#[tokio::test(start_paused = true)]
async fn partly_sent_message_is_never_resent() {
    let host = Host::default();
    let mut listener = host.listen();
    let client = without_jitter()
        .with_resend(true)
        .connect(host.connector(), (), ignoring_client);
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("x".repeat(8000)).await });
    let accept = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
    let accepted = soon(accept).await.unwrap();
    idle().await;
    let (messages, mut received) = mpsc::unbounded_channel();
    let server = host.serve(forwarding_server(messages));
    // The pipe has taken 1024 bytes of the message.
    drop(accepted);
    let error = soon(sending).await.unwrap().unwrap_err();
    assert!(error.into_message().is_none());
    soon(client.send("another".to_owned())).await.unwrap();
    assert_eq!(soon(received.recv()).await.unwrap(), "another");
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn message_is_returned_when_the_client_stops() {
    let host = Host::default();
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("hello".to_owned()).await });
    idle().await;
    client.stop();
    match soon(sending).await.unwrap() {
        Err(ClientSendError::NoSession {
            message,
            source: NoSession::Stopped,
        }) => assert_eq!(message, "hello"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_restarts_under_load_lose_no_message_silently_and_send_none_twice() {
    let host = Host::default();
    let client = without_jitter().with_sessions(3).with_resend(true).connect(
        host.connector(),
        (),
        ignoring_client,
    );
    let confirmed: Arc<Mutex<HashSet<String>>> = Arc::default();
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let (client, confirmed) = (client.clone(), Arc::clone(&confirmed));
            tokio::spawn(async move {
                let mut unknown = 0;
                for n in 0.. {
                    let message = format!("{sender}-{n}");
                    match client.send(message.clone()).await {
                        Ok(_) => assert!(confirmed.lock().unwrap().insert(message)),
                        // The message may or may not have been sent.
                        Err(ClientSendError::Session(SendError::Io(_))) => unknown += 1,
                        Err(ClientSendError::Session(SendError::Closed {
                            message: None, ..
                        })) => unknown += 1,
                        Err(ClientSendError::NoSession {
                            message: returned, ..
                        }) => {
                            assert_eq!(returned, message);
                            return (n, unknown);
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                    tokio::time::sleep(ms(25)).await;
                }
                unreachable!("the client is stopped")
            })
        })
        .collect();

    let (messages, mut received) = mpsc::unbounded_channel();
    for restart in 0..50 {
        let server = host.serve(forwarding_server(messages.clone()));
        tokio::time::sleep(ms(6000 + 7 * restart)).await;
        drop(server);
        tokio::time::sleep(ms(100)).await;
    }
    client.stop();
    soon(client.stopped()).await;
    drop(messages);
    let (mut sent, mut unknown) = (0, 0);
    for sender in senders {
        let (n, unknown_of_sender) = soon(sender).await.unwrap();
        sent += n;
        unknown += unknown_of_sender;
    }
    let mut delivered = HashSet::new();
    while let Some(message) = soon(received.recv()).await {
        assert!(delivered.insert(message), "received twice");
    }
    assert!(sent > 50_000, "{sent}");
    let confirmed = confirmed.lock().unwrap();
    assert_eq!(confirmed.len() + unknown, sent, "each send has an outcome");
    assert!(delivered.len() <= sent);
    // A message that was delivered but not confirmed must have an unknown outcome.
    assert!(delivered.difference(&confirmed).count() <= unknown);
}

#[tokio::test(start_paused = true)]
async fn wait_for_a_session_can_be_cancelled() {
    let host = Host::default();
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    for _ in 0..100 {
        let waited = tokio::time::timeout(ms(10), client.session()).await;
        assert!(waited.is_err());
    }
    let _server = host.serve(echo());
    let session = soon(client.session()).await.unwrap();
    session.close_with(CloseReason::Local);
    assert!(client.pick().is_none(), "a closing session is not picked");
    assert_ne!(
        soon(client.session()).await.unwrap().id(),
        session.id(),
        "a closing session is not returned"
    );
}

#[tokio::test(start_paused = true)]
async fn message_for_a_finishing_session_waits_for_the_next_session() {
    let host = Host::default();
    let mut listener = host.listen();
    let picks = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&picks);
    let pick = Pick::least(move |_| {
        let picks = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        assert!(picks < 1000, "the session is picked in an endless loop");
        0
    });
    let client = without_jitter().with_resend(true).with_pick(pick).connect(
        host.connector(),
        (),
        ignoring_client,
    );
    let session = soon(client.session()).await.unwrap();
    let accept = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
    let accepted = soon(accept).await.unwrap();
    // The peer reads nothing, so `finish` must wait behind this message.
    session.try_send("x".repeat(8000)).unwrap();
    let finishing = session.clone();
    let finishing = tokio::spawn(async move { finishing.finish().await });
    idle().await;
    assert!(!finishing.is_finished());
    let sender = client.clone();
    let sending = tokio::spawn(async move { sender.send("last".to_owned()).await });
    idle().await;
    assert!(!sending.is_finished(), "{:?}", sending.await);

    let (messages, mut received) = mpsc::unbounded_channel();
    let _server = host.serve(forwarding_server(messages));
    drop(accepted);
    soon(sending).await.unwrap().unwrap();
    assert_eq!(soon(received.recv()).await.unwrap(), "last");
    assert!(soon(finishing).await.unwrap().is_err());
}
